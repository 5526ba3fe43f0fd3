#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""With extended L2 entries a guest's small write into an overlay copies nothing
from the base: it succeeds over a base of which nothing can be read.  Without
them, or with less than a subcluster, it does not."""
import os

from sluiced import SLUICE, Sluiced, run, run_tool

KIB, MIB = 1 << 10, 1 << 20


def write(d, options, off, length):
    """Does the write go through, and is it right with the base back?"""
    base, top = os.path.join(d, 'base'), os.path.join(d, 'top')
    with open(base, 'wb') as f:
        f.write(b'b' * MIB)
    run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', '-o', options, '-b', base,
             '-F', 'raw', top)
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top',
            'file': {'driver': 'file', 'filename': top},
            'backing': {'driver': 'raw', 'read-only': True, 'file': {
                'driver': 'blkdebug',
                'inject-error': [{'event': 'none', 'iotype': 'read',
                                  'errno': 5}],
                'image': {'driver': 'file', 'filename': base}}}})
        out = s.qmp.hmp('qemu-io top "write -P 0x67 %d %d"' % (off, length))
    went = 'failed' not in out
    assert went or 'Input/output error' in out, out
    want = bytearray(b'b' * MIB)
    if went:
        want[off:off + length] = b'g' * length
    run_tool(SLUICE, 'check', '-q', top)
    run_tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', top,
             top + '.raw')
    with open(top + '.raw', 'rb') as f:
        assert f.read() == want
    return went


def test_whole_subclusters(d):
    assert write(d, 'extended_l2=on', 100 * KIB, 4 * KIB)
    assert write(d, 'extended_l2=on', 62 * KIB, 4 * KIB)
    assert write(d, 'extended_l2=on,cluster_size=128k', 4 * KIB, 4 * KIB)


def test_less_than_one(d):
    assert not write(d, 'extended_l2=on', 100 * KIB, 1 * KIB)


def test_without(d):
    assert not write(d, 'extended_l2=off', 100 * KIB, 4 * KIB)
    assert write(d, 'extended_l2=off', 64 * KIB, 64 * KIB)


if __name__ == '__main__':
    run(globals())
