#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cluster that is 100 ms away (far-link.c): opening it, a stream that keeps
many requests under way, and a guest's reads beside it.  What that takes is only
told: it is the machine's, and the cluster's, as much as ours."""
import os

from ceph import Ceph
from farnet import Far
from rig import MIB, daemon, node, raw, same
from sluiced import qemu_img, run
from waiting import rest

SIZE = 96 * MIB
READS = 10
PIECE = 4 * MIB     # an object


def stream_beside(d, far, ceph, path):
    with daemon(d, ceph, node('base@gold'), size=SIZE,
                prefix=far.prefix) as s:
        def read(at):
            start = rest()
            out = s.qmp.hmp('qemu-io top "read -q %d 4k"' % at)
            assert out == '', out
            return rest() - start
        # From behind, each in an object of its own.
        at = list(range(SIZE - PIECE, SIZE - 2 * READS * PIECE, -PIECE))
        idle = sorted(read(n) for n in at[:READS])
        start = rest()
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
        busy = sorted(read(n) for n in at[READS:2 * READS])
        data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
        took = rest() - start
        assert 'error' not in data, data
    top = d + '/top.qcow2'
    assert 'backing file' not in qemu_img('info', top)
    same(ceph, path, top, 'raw', 'qcow2')
    serial = SIZE / MIB * far.round_trip
    print('# stream %.2f s, one by one %.2f s; reads in idle %.3f, beside it '
          '%.3f s' % (took, serial, idle[READS // 2], busy[READS // 2]),
          flush=True)


def test_stream(d):
    with Far(delay=0.05, rate=40 * MIB) as far:
        path = raw(d + '/base.raw', SIZE, (0, SIZE, 1))
        with Ceph(d, pool='rbd', host=far.here) as ceph:
            ceph.run('rbd', 'import', path, 'base')
            ceph.run('rbd', 'snap', 'create', 'base@gold')
            stream_beside(d, far, ceph, path)
    os.unlink(path)


if __name__ == '__main__':
    run(globals())
