#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGKILL the moment BLOCK_JOB_COMPLETED arrives, and delete the base (P2).

The event promises that everything is on disk.  Each round streams with other
parameters, most of them with guests writing; afterwards the overlay alone has
the right bytes and both checkers find it sound.
"""
import os
import random
import time

import rig
from rig import Guest, KIB, Ledger, MIB, Stage

SIZE = 24 * MIB


def make_images(d, rnd, cluster, whole):
    """base <- [mid <-] top, every layer with data: top, its disk's bytes."""
    base = rig.make_file(os.path.join(d, 'base'), rnd.randbytes(SIZE))
    under, fmt = base, 'raw'
    disk = bytearray(open(base, 'rb').read())
    if not whole:
        under, fmt = os.path.join(d, 'mid'), rig.FORMAT
        rig.make_overlay(under, base, cluster=cluster)
        patch_image(under, disk, rnd)
    top = rig.make_overlay(os.path.join(d, 'top'), under, fmt, cluster=cluster)
    return top, under, base, bytes(disk)


def patch_image(path, disk, rnd):
    """Write runs of random bytes into an image, and into @disk."""
    cmds = []
    for _ in range(40):
        off = rnd.randrange(SIZE // 4096) * 4096
        n = min(rnd.choice((4096, 65536, 300 * KIB)), SIZE - off) // 4096 * 4096
        value = rnd.randrange(1, 256)
        cmds += ['-c', 'write -P %d %d %d' % (value, off, n)]
        disk[off:off + n] = bytes([value]) * n
    rig.run_tool('qemu-io', '-f', rig.FORMAT, *cmds, path)


def one_round(d, number, rnd):
    cluster = rnd.choice((4 * KIB, 64 * KIB, 64 * KIB, MIB))
    whole = rnd.random() < 0.7
    guests = rnd.random() < 0.7
    cache = rnd.choice(('none', 'writeback'))
    engine = rnd.choice(('io_uring', 'threads')) if rig.ENGINE == 'auto' \
        else rig.ENGINE
    top, mid, base, disk = make_images(d, rnd, cluster, whole)
    ledger = Ledger(disk)
    start = time.monotonic()
    with Stage(d, top, cache=cache, engine=engine) as s:
        guest = Guest(s, ledger, seed=rnd.getrandbits(30)) if guests else None
        s.stream(**({} if whole else {'base': base}),
                 speed=rnd.choice((0, 30 * MIB)))
        s.wait_completed()
        if guest:
            guest.cut = True
        killed = time.monotonic()
        s.daemon.kill()
        os.unlink(mid)
        if guest:
            guest.join()
    got = rig.read_image(top)
    # More than the grace of M9: of the guest's last second part may be lost.
    lost = ledger.check(got, killed, grace=3)
    info = rig.image_info(top)
    assert info.get('backing-filename') == (None if whole else base), info
    rig.check_no_corruption(top)
    rig.note('round %d: cluster %dk, %s, %s, %s, guests %s: %.2f s, %d '
             'requests, %d sectors of the last second lost'
             % (number, cluster // KIB, 'whole' if whole else 'partial', cache,
                engine, guests, killed - start, ledger.requests, lost))


def test_kill_after_completed(d):
    rnd = random.Random(rig.SEED)
    for number in range(int(os.environ.get('ROUNDS', '20'))):
        folder = os.path.join(d, str(number))
        os.mkdir(folder)
        one_round(folder, number, rnd)


if __name__ == '__main__':
    rig.run(globals())
