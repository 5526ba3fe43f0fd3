#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""64 images of 16 TiB one above the other, each with a little data: opening,
asking what is where, reading and streaming cost what the data costs, not what
the disk could hold."""
import os
import random

import rig
from rig import MIB, Stage
from sluiced import SANITIZED
from waiting import rest

LAYERS = 64
SIZE = 16 << 40
STEP = SIZE // LAYERS
# Measured on two busy cores: 25 MiB, 50 ms, 0.1 s, 0.3 s.
RSS_MAX = 100 * MIB
OPEN_MAX, STATUS_MAX, STREAM_MAX = 10, 20, 60


def resident(pid):
    with open('/proc/%d/status' % pid, encoding='ascii') as f:
        for line in f:
            if line.startswith('VmRSS'):
                return int(line.split()[1]) * 1024
    return 0


def make(d):
    below = None
    for i in range(LAYERS):
        path = os.path.join(d, 'l%d' % i)
        base = ['-b', below, '-F', rig.FORMAT] if below else []
        rig.qemu_img('create', '-q', '-u', '-f', rig.FORMAT,
                     *(['-o', rig.OPTIONS] if rig.OPTIONS else []), *base, path,
                     str(SIZE))
        if i % 8 == 0:
            rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P %d %d 64k'
                         % (i + 1, i * STEP), path)
        below = path
    return below


def check_data(h):
    for i in range(0, LAYERS, 8):
        assert h.pread(65536, i * STEP) == bytes([i + 1]) * 65536, i
    rnd = random.Random(rig.SEED)
    for _ in range(200):
        off = rnd.randrange(SIZE // 4096) * 4096
        if off % STEP >= 65536:
            assert h.pread(4096, off) == bytes(4096), off


def walk(h):
    """Ask for all of the disk; bytes of data."""
    pos = data = 0
    while pos < SIZE:
        got = []
        h.block_status(min(SIZE - pos, (1 << 32) - 65536), pos,
                       lambda c, o, entries, err: got.extend(entries))
        for length, flags in zip(got[::2], got[1::2]):
            data += 0 if flags & 2 else length
            pos += length
    return data


def test_64_images_of_16_tib(d):
    top = make(d)
    start = rest()
    with Stage(d, top) as s:
        h = rig.nbd.NBD()
        h.add_meta_context('base:allocation')
        h.connect_uri('nbd+unix:///virtio0?socket=' + s.nbd)
        opened = rest()
        assert walk(h) == LAYERS // 8 * 65536
        walked = rest()
        check_data(h)
        before = rest()
        s.stream()
        s.wait_completed()
        streamed = rest()
        rss = resident(s.daemon.proc.pid)
        check_data(h)
        h.shutdown()
    assert 'backing-filename' not in rig.image_info(top)
    rig.check_no_corruption(top, ['qemu-img'])
    assert os.stat(top).st_blocks * 512 < 16 * MIB
    rig.note('open %.3f s, status %.3f s, stream %.3f s, %d MiB'
             % (opened - start, walked - opened, streamed - before, rss // MIB))
    assert opened - start < OPEN_MAX
    assert walked - opened < STATUS_MAX
    assert streamed - before < STREAM_MAX
    assert SANITIZED or rss < RSS_MAX, rss


if __name__ == '__main__':
    rig.run(globals())
