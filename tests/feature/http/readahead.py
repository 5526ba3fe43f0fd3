#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a web server is asked for when a guest reads in small pieces: in
sequence, blocks that are read ahead; elsewhere, no more than the guest
wants."""
import json
import os
import random
import sys

from httpliar import Liar
from rig import MIB, node
from seed import SEED
from sluiced import Sluiced, run

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

SIZE = 16 * MIB
DATA = b''.join(n.to_bytes(8, 'big') for n in range(SIZE // 8))


class Guest:
    """A daemon that serves a web node over NBD, and its client."""

    def __init__(self, d, server, **options):
        sock = os.path.join(d, 'nbd')
        self.server = server
        self.daemon = Sluiced(
            d, '--blockdev', json.dumps(node(server.url(), **options)),
            '--nbd-server', 'addr.type=unix,addr.path=' + sock,
            '--export', 'nbd,id=e,node-name=web,name=web')
        self.nbd = nbd.NBD()
        self.nbd.set_export_name('web')
        self.nbd.connect_unix(sock)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        if args[0] is None:
            self.nbd.shutdown()
        self.daemon.__exit__(*args)

    def read(self, offsets, length=4096):
        """Read right bytes; the ranges (first, last) that were asked for."""
        start = len(self.server.requests)
        for off in offsets:
            assert self.nbd.pread(length, off) == DATA[off:off + length], off
        return [tuple(map(int, r['range'][len('bytes='):].split('-')))
                for r in self.server.requests[start:]]


def test_elsewhere(d):
    with Liar(DATA) as server, Guest(d, server) as g:
        offsets = list(range(15 * MIB, 2 * MIB, -1234567))
        assert g.read(offsets) == [(o, o + 4095) for o in offsets]


def test_in_sequence(d):
    with Liar(DATA) as server, Guest(d, server) as g:
        ranges = g.read(range(MIB, 4 * MIB, 4096))
        # Two reads until it is known, then blocks of 256 KiB, some ahead.
        assert len(ranges) < 32, ranges
        assert all(b - a + 1 in (4096, 256 << 10) for a, b in ranges), ranges
        # Nothing twice.
        ranges.sort()
        assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:])), ranges


def test_to_the_end(d):
    with Liar(DATA) as server, Guest(d, server) as g:
        ranges = g.read(range(SIZE - 700 * 1024, SIZE, 4096))
        assert max(b for _, b in ranges) == SIZE - 1, ranges


def test_unaligned(d):
    """Pieces that lie across blocks."""
    with Liar(DATA) as server, Guest(d, server, readahead=65536) as g:
        ranges = g.read(range(MIB, MIB + 50 * 6000, 6000), 6000)
        assert len(ranges) < 25, ranges


def test_off(d):
    with Liar(DATA) as server, Guest(d, server, readahead=0) as g:
        offsets = list(range(MIB, MIB + 32 * 4096, 4096))
        assert g.read(offsets) == [(o, o + 4095) for o in offsets]


def test_all_at_once(d):
    """Several sequences, steps back and reads elsewhere, 16 in flight."""
    rnd = random.Random(SEED)
    with Liar(DATA) as server, Guest(d, server, readahead=65536) as g:
        places = [rnd.randrange(SIZE) for _ in range(5)]
        reads = []
        for _ in range(3000):
            i = rnd.randrange(len(places))
            if rnd.random() < 0.05:
                places[i] = rnd.randrange(SIZE)
            elif rnd.random() < 0.05:
                places[i] = max(0, places[i] - 100000)
            length = min(rnd.choice((512, 4096, 5000, 30000, 100000)),
                         SIZE - places[i])
            if length:
                buf = nbd.Buffer(length)
                reads.append((places[i], buf,
                              g.nbd.aio_pread(buf, places[i])))
            places[i] += length
            while g.nbd.aio_in_flight() >= 16:
                g.nbd.poll(-1)
        for off, buf, cookie in reads:
            while not g.nbd.aio_command_completed(cookie):
                g.nbd.poll(-1)
            data = buf.to_bytearray()
            assert data == DATA[off:off + len(data)], (off, len(data))


def test_server_fails(d):
    """What is read ahead in vain is asked for again when it is wanted."""
    with Liar(DATA) as server:
        with Guest(d, server, **{'reconnect-delay': 0}) as g:
            def lie(a):
                if a.first >= 2 * MIB:
                    a.status = '500 x'
            server.lie = lie
            g.read(range(MIB, 2 * MIB - 4096, 4096))
            server.lie = None
            g.read(range(2 * MIB - 4096, 3 * MIB, 4096))


if __name__ == '__main__':
    run(globals())
