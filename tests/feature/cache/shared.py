#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many overlays stream one base that is 10 ms away: it is fetched once.  With
the argument test_hundred there are a hundred of them."""
import json
import sys

from rig import (MIB, Web, cache_node, completed, daemon, overlay_node, same,
                 start_stream)
from sluiced import Sluiced, qemu_img, run


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


def test_base_of_headers(d):
    """Overlays whose headers name one far base share its node."""
    size, overlays = 4 * MIB, 3

    def far_nodes(s):
        return [n['node-name'] for n in s.qmp.cmd('query-named-block-nodes')
                if n['drv'] == 'http']
    with Web(d, delay='0.01') as web:
        path = web.base(size)
        words = []
        for i in range(overlays):
            top = '%s/top%d.qcow2' % (d, i)
            qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b',
                     web.url('base.raw'), '-F', 'raw', top, str(size))
            words += ['--blockdev', json.dumps(
                {'driver': 'qcow2', 'node-name': 'top%d' % i,
                 'file': {'driver': 'file', 'filename': top}})]
        with Sluiced(d, *words) as s:
            assert len(far_nodes(s)) == 1, far_nodes(s)
            s.qmp.cmd('blockdev-del', {'node-name': 'top0'})
            assert len(far_nodes(s)) == 1, far_nodes(s)
            for i in range(1, overlays):
                start_stream(s, i)
            for i in range(1, overlays):
                completed(s, i)
            # The last one that let it go closed it.
            assert not far_nodes(s), far_nodes(s)
        for i in range(1, overlays):
            same(d, path, i)
        # Options of its own: a node of its own.
        words[3] = words[3].replace('"file": {', '"backing": {"driver": '
                                    '"raw", "file": {"driver": "http", '
                                    '"url": "%s"}}, "file": {'
                                    % web.url('base.raw'))
        for i in range(2):
            qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b',
                     web.url('base.raw'), '-F', 'raw',
                     '%s/top%d.qcow2' % (d, i), str(size))
        with Sluiced(d, *words[:4]) as s:
            assert len(far_nodes(s)) == 2, far_nodes(s)


if 'test_hundred' in sys.argv:
    def test_hundred(d):
        stream_all(d, 100, 16 * MIB)


if __name__ == '__main__':
    run(globals())
