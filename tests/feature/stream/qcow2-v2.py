#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Version 2 of qcow2 has no mark for a cluster of zeroes.

Zeroes that an overlay must hold over its base become clusters whose bytes are
holes in the file: they read right, whatever the base says, and the file does
not swell.  When the whole chain goes, what it lacks may stay absent.
"""
import os
import random

import rig
from rig import KIB, MIB, Stage

SIZE = 16 * MIB


def used(path):
    return os.stat(path).st_blocks * 512


def overlay(path, base, fmt='raw'):
    rig.qemu_img('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', '-b', base,
                 '-F', fmt, path)
    return path


def check(path):
    rig.run_tool('qemu-img', 'check', '-q', path)


def test_zeroes_that_a_base_stores(d):
    """All of the base is allocated, nearly all of it zeroes."""
    disk = bytearray(SIZE)
    disk[5 * MIB:5 * MIB + 70 * KIB] = b'x' * (70 * KIB)
    base = rig.make_file(os.path.join(d, 'base'), disk)
    assert used(base) >= SIZE
    top = overlay(os.path.join(d, 'top'), base)
    with Stage(d, top) as s:
        s.stream()
        s.wait_completed()
    os.unlink(base)
    rig.assert_same(rig.read_image(top, 'qcow2'), bytes(disk))
    assert used(top) < 2 * MIB, used(top)
    check(top)


def test_holes_of_the_chain_stay_absent(d):
    base = os.path.join(d, 'base')
    with open(base, 'wb') as f:
        f.truncate(1 << 40)
        f.seek(1 << 39)
        f.write(b'far away')
    top = overlay(os.path.join(d, 'top'), base)
    with Stage(d, top) as s:
        s.stream()
        s.wait_completed()
        h = s.client()
        assert h.pread(8, 1 << 39) == b'far away'
        assert h.pread(4096, 0) == bytes(4096)
        h.shutdown()
    assert os.path.getsize(top) < 2 * MIB
    check(top)


def test_zeroes_over_a_base_that_stays(d):
    """base (all data) <- mid (zeroed in parts) <- top: stream down to base."""
    rnd = random.Random(rig.SEED)
    disk = bytearray(rnd.randbytes(SIZE))
    base = rig.make_file(os.path.join(d, 'base'), disk)
    mid = os.path.join(d, 'mid')
    rig.qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', mid)
    rig.run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -z 1M 9M',
                 '-c', 'write -P 7 3M 64k', '-c', 'write -z 15M 1000', mid)
    disk[MIB:10 * MIB] = bytes(9 * MIB)
    disk[3 * MIB:3 * MIB + 64 * KIB] = b'\7' * (64 * KIB)
    disk[15 * MIB:15 * MIB + 1000] = bytes(1000)
    top = overlay(os.path.join(d, 'top'), mid, 'qcow2')
    with Stage(d, top) as s:
        s.stream(base=base)
        s.wait_completed()
    os.unlink(mid)
    assert rig.image_info(top)['backing-filename'] == base
    rig.assert_same(rig.read_image(top, 'qcow2'), bytes(disk))
    assert used(top) < 3 * MIB, used(top)
    check(top)


def test_guest_zeroes_and_trims(d):
    """G8: the base never shows again; freed space is given back."""
    disk = random.Random(rig.SEED).randbytes(SIZE)
    base = rig.make_file(os.path.join(d, 'base'), disk)
    top = overlay(os.path.join(d, 'top'), base)
    with Stage(d, top) as s:
        h = s.client()
        h.zero(8 * MIB, 0)                      # never written before
        h.pwrite(b'w' * MIB, 9 * MIB)
        h.zero(512 * KIB + 512, 9 * MIB - 256)  # written, and not, and ragged
        h.trim(MIB, 14 * MIB)                   # the base's: stays
        h.trim(128 * KIB, 9 * MIB + 640 * KIB)
        h.flush()
        want = bytearray(disk)
        want[:8 * MIB] = bytes(8 * MIB)
        want[9 * MIB:10 * MIB] = b'w' * MIB
        want[9 * MIB - 256:9 * MIB + 512 * KIB + 256] = bytes(512 * KIB + 512)
        want[9 * MIB + 640 * KIB:9 * MIB + 768 * KIB] = bytes(128 * KIB)
        got = b''.join(bytes(h.pread(MIB, off)) for off in range(0, SIZE, MIB))
        rig.assert_same(got, bytes(want))
        h.shutdown()
    rig.assert_same(rig.read_image(top, 'qcow2'), bytes(want))
    assert used(top) < 2 * MIB, used(top)
    check(top)


if __name__ == '__main__':
    rig.run(globals())
