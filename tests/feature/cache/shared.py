#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many overlays stream one base that is 10 ms away: it is fetched once.  With
the argument test_hundred there are a hundred of them."""
import sys

from rig import (MIB, Web, cache_node, completed, daemon, overlay_node, same,
                 start_stream)
from sluiced import run


def stream_all(d, overlays, size):
    with Web(d, delay='0.01') as web:
        path = web.base(size)
        nodes = [cache_node(d)]
        nodes += [overlay_node(d, size, i) for i in range(overlays)]
        with daemon(d, web, *nodes) as s:
            for i in range(overlays):
                start_stream(s, i)
            for i in range(overlays):
                completed(s, i)
        assert web.fetched() <= size * 1.05, web.fetched()
        for i in range(overlays):
            same(d, path, i)


def test_many(d):
    stream_all(d, 8, 8 * MIB)


if 'test_hundred' in sys.argv:
    def test_hundred(d):
        stream_all(d, 100, 16 * MIB)


if __name__ == '__main__':
    run(globals())
