#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries that lead far behind the end of a QED image: what is written goes
where QEMU's goes, and the file never grows as far as they lead."""
import os
import shutil
import struct
import subprocess

from sluiced import SLUICE, run

KIB, GIB = 1 << 10, 1 << 30


def call(d, *args, ok=True):
    p = subprocess.run(args, cwd=d, capture_output=True, check=False)
    assert not ok or p.returncode == 0, (args, p.stderr)
    return p.returncode


def make(d):
    for name in ('b.raw', 'b2.raw'):
        call(d, 'qemu-img', 'create', '-q', '-f', 'raw', name, '64M')
    call(d, 'qemu-io', '-f', 'raw', '-c', 'write -P 5 0 8M', 'b.raw')
    call(d, 'qemu-img', 'create', '-q', '-f', 'qed', '-b', 'b.raw', '-F', 'raw',
         'good.qed')
    call(d, 'qemu-io', '-f', 'qed', '-c', 'write -P 3 64k 128k', 'good.qed')
    with open(d + '/good.qed', 'rb') as f:
        head = f.read(64)
        l1 = struct.unpack_from('<Q', head, 40)[0]
        f.seek(l1)
        return l1, struct.unpack('<Q', f.read(8))[0]


def test_growth(d):
    l1, l2 = make(d)
    # An unused entry of the L1 table; entries of an L2 table: one, and more
    # than are remembered one by one.
    for first, n in ((l1 + 8, 1), (l2 + 16, 1), (l2 + 40, 1), (l2 + 40, 200)):
        sizes = []
        for tool in (SLUICE, 'qemu-img'):
            shutil.copy(d + '/good.qed', d + '/t.qed')
            with open(d + '/t.qed', 'r+b') as f:
                for i in range(n):
                    f.seek(first + 8 * i)
                    f.write(struct.pack('<Q', 90 * GIB + i * 128 * KIB))
            call(d, tool, 'rebase', '-b', 'b2.raw', '-F', 'raw', 't.qed',
                 ok=False)
            sizes.append(os.path.getsize(d + '/t.qed'))
            assert call(d, SLUICE, 'check', 't.qed', ok=False) == 2, (first, n)
        assert sizes[0] == sizes[1], (first, n, sizes)


if __name__ == '__main__':
    run(globals())
