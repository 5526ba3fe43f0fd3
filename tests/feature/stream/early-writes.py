#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes that do not wait for a base that is far (E1 to E5).

A write of a part of an absent cluster is answered before the base is asked:
here its server is stopped, so there is no other way to get an answer.  What was
written is read back at once, the rest waits; flush, FUA and a write that ends
inside a sector wait; to discard or to overwrite the cluster ends the waiting;
errors of the base are those of the flush.
"""
import importlib
import os
import random
import signal
import time

import nbd

import rig
from rig import Guest, KIB, Ledger, MIB, Stage, until
from sluiced import Skip, run

hang = importlib.import_module('base-hang')
Request, Server = hang.Request, hang.Server

CLUSTER = 64 * KIB
OLD = hang.data()
NOW = 4 * KIB
AT = 8 * MIB
# Clusters that may wait at once: an eighth of --memory, half of that for what is
# read.
BOUND = 256 * MIB // 8 // 2 // CLUSTER
# Rounds that kill the daemon.
ROUNDS = int(os.environ.get('ROUNDS', '4'))
# What M9 says, the way to the base, and time for the disk.
GRACE = 4


def with_write(*writes, size=CLUSTER):
    """The cluster at AT as it is after @writes: (offset in it, bytes)."""
    want = bytearray(OLD[AT:AT + size])
    for off, data in writes:
        want[off:off + len(data)] = data
    return bytes(want)


class Place:
    """A daemon over a server that is stopped, and a client."""

    def __init__(self, d, **options):
        self.d = d
        self.server = Server(d, OLD)
        self.daemon = hang.daemon(d, self.server, **options)
        self.h = hang.client(d)
        self.h.pread(512, 0)        # the base is known and connected

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.server.go_on()
        self.daemon.__exit__(kind, value, trace)
        self.server.stop(signal.SIGKILL)

    def whole(self, want, at=AT):
        rig.assert_same(bytes(self.h.pread(len(want), at)), want, 'the cluster')

    def restart(self):
        """What a flush said is durable is there without the daemon."""
        self.daemon.kill()
        self.daemon = hang.daemon(self.d, self.server)
        self.h = hang.client(self.d)


def test_no_wait(d):
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        assert p.h.pread(NOW, AT) == b'\x11' * NOW
        # Into the same cluster, over it and beside it.
        p.h.pwrite(b'\x22' * NOW, AT + NOW // 2)
        p.h.pwrite(b'\x33' * 512, AT + 9 * NOW)
        first = b'\x11' * (NOW // 2) + b'\x22' * NOW
        assert p.h.pread(len(first), AT) == first
        # It ends with what is absent, or begins in what is data.
        p.h.pwrite(b'\x44' * CLUSTER, AT + CLUSTER)
        assert p.h.pread(512, AT + 9 * NOW) == b'\x33' * 512
        other = hang.client(d)
        rest = Request(other.pread, CLUSTER, AT)
        flush = Request(hang.client(d).flush)
        assert p.h.pread(NOW // 2, AT) == b'\x11' * (NOW // 2)
        assert not rest.result and not rest.error
        assert flush.is_alive()
        p.server.go_on()
        want = with_write((0, first), (9 * NOW, b'\x33' * 512))
        rig.assert_same(rest.end(), want, 'the read that waited')
        flush.end()
        assert not flush.error, flush.error
        p.whole(want)
        p.restart()
        p.whole(want)
        p.whole(b'\x44' * CLUSTER, AT + CLUSTER)


def test_status_says_data(d):
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        h = nbd.NBD()
        h.add_meta_context('base:allocation')
        h.set_export_name('disk')
        h.connect_unix(os.path.join(d, 'nbd'))
        seen = []
        h.block_status(CLUSTER, AT, lambda *a: seen.append(list(a[2])) and 0)
        assert seen[0][1] == 0, seen      # data, no hole, no zeroes
        p.server.go_on()


def waits(d, request):
    """@request of @p waits until the server goes on; then all is durable."""
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        r = Request(request, hang.client(d))
        # Requests of one more client have gone all the way meanwhile.
        for _ in range(20):
            assert p.h.pread(NOW, AT) == b'\x11' * NOW
        assert r.is_alive()
        p.server.go_on()
        r.end()
        assert not r.error, r.error
        return p.h.pread(CLUSTER, AT), p.h.flush()


def test_fua_waits(d):
    got, _ = waits(d, lambda h: h.pwrite(b'\x22' * NOW, AT + NOW,
                                         nbd.CMD_FLAG_FUA))
    rig.assert_same(bytes(got), with_write((0, b'\x11' * NOW),
                                           (NOW, b'\x22' * NOW)))


def test_part_of_a_sector_waits(d):
    got, _ = waits(d, lambda h: h.pwrite(b'\x22' * 700, AT + NOW + 100))
    rig.assert_same(bytes(got), with_write((0, b'\x11' * NOW),
                                           (NOW + 100, b'\x22' * 700)))


def test_flush_waits(d):
    waits(d, lambda h: h.flush())


def ends_the_wait(d, change, want):
    """After @change nothing of the cluster has to come from the base."""
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT + NOW)
        change(p.h)
        p.whole(want)
        p.h.flush()
        p.server.go_on()
        p.whole(want)
        p.restart()
        p.whole(want)


def test_overwrite(d):
    ends_the_wait(d, lambda h: h.pwrite(b'\x77' * CLUSTER, AT),
                  b'\x77' * CLUSTER)


def test_overwrite_of_several(d):
    ends_the_wait(d, lambda h: h.pwrite(b'\x77' * 3 * CLUSTER, AT - CLUSTER),
                  b'\x77' * CLUSTER)


def test_zero(d):
    ends_the_wait(d, lambda h: h.zero(CLUSTER, AT), bytes(CLUSTER))


def test_trim(d):
    ends_the_wait(d, lambda h: h.trim(CLUSTER, AT), bytes(CLUSTER))


def test_over_several(d):
    """Neither end of a write over several clusters waits."""
    with Place(d) as p:
        p.server.hang()
        data = b'\x66' * (2 * CLUSTER)
        p.h.pwrite(data, AT + CLUSTER // 2)
        assert p.h.pread(len(data), AT + CLUSTER // 2) == data
        p.server.go_on()
        p.h.flush()
        want = with_write((CLUSTER // 2, data), size=3 * CLUSTER)
        p.whole(want)
        p.restart()
        p.whole(want)


def test_format_knows_parts(d):
    """With extended L2 entries nobody waits, nor does a flush."""
    if rig.FORMAT != 'qcow2':
        raise Skip('it needs qcow2')
    rig.qemu_img('create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on',
                 os.path.join(d, 'top'), str(hang.SIZE))
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT + NOW, nbd.CMD_FLAG_FUA)
        p.h.pwrite(b'\x22' * NOW, AT + 8 * NOW)
        p.h.flush()
        assert p.h.pread(NOW, AT + NOW) == b'\x11' * NOW
        p.server.go_on()
        want = with_write((NOW, b'\x11' * NOW), (8 * NOW, b'\x22' * NOW))
        p.whole(want)
        p.restart()
        p.whole(want)


def test_bounded(d):
    """When all room is taken a write waits."""
    size = (BOUND + 8) * CLUSTER
    with Server(d, b'\x5a' * size) as server:
        rig.qemu_img('create', '-q', '-f', rig.FORMAT, os.path.join(d, 'top'),
                     str(size))
        with hang.daemon(d, server) as s:
            h = hang.client(d)
            h.pread(512, 0)
            server.hang()
            for i in range(BOUND):
                h.pwrite(b'\x11' * 512, i * CLUSTER + 512)
            late = Request(hang.client(d).pwrite, b'\x11' * 512,
                           BOUND * CLUSTER)
            h.pwrite(b'\x22' * 512, 1024)          # where there is room
            assert late.is_alive()
            server.go_on()
            late.end()
            assert not late.error, late.error
            h.flush()
            for i in (0, 1, BOUND - 1):
                got = h.pread(2048, i * CLUSTER)
                assert got[512:1024] == b'\x11' * 512, i
                assert got[1536:] == b'\x5a' * 512, i
            assert s.errors() == ''


def fails(fn, *args):
    try:
        fn(*args)
    except nbd.Error as e:
        return str(e)
    raise AssertionError('it succeeded')


def test_error_of_the_base(d):
    """Every flush fails until it can be read; what was written is there."""
    with Place(d, **{'reconnect-delay': 0}) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        p.server.stop(signal.SIGKILL)
        for _ in range(3):
            fails(p.h.flush)
        assert p.h.pread(NOW, AT) == b'\x11' * NOW
        fails(p.h.pread, CLUSTER, AT)
        # More of what is kept is taken; new clusters wait, and fail themselves.
        p.h.pwrite(b'\x22' * NOW, AT + NOW)
        fails(p.h.pwrite, b'\x33' * NOW, AT + CLUSTER)
        fails(p.h.flush)
        # A whole one needs no base.
        p.h.pwrite(b'\x44' * CLUSTER, AT + 2 * CLUSTER, nbd.CMD_FLAG_FUA)
        p.server.start()
        until(lambda: p.h.pread(CLUSTER, 0) if try_read(p.h) else None,
              'the base')
        p.h.flush()
        want = with_write((0, b'\x11' * NOW), (NOW, b'\x22' * NOW))
        p.whole(want)
        p.restart()
        p.whole(want)
        p.whole(OLD[:CLUSTER], AT + CLUSTER)


def try_read(h):
    try:
        return h.pread(512, 0)
    except nbd.Error:
        return None


def test_snapshot(d):
    """What cannot be made durable is no part of an image that others rely on."""
    with Place(d, **{'reconnect-delay': 0}) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        p.server.stop(signal.SIGKILL)
        fails(p.h.flush)
        over = os.path.join(d, 'over')
        rig.qemu_img('create', '-q', '-f', rig.FORMAT, over, str(hang.SIZE))
        p.daemon.qmp.cmd('blockdev-add', {
            'driver': rig.FORMAT, 'node-name': 'over', 'backing': None,
            'file': {'driver': 'file', 'filename': over}})
        snap = {'node': 'top', 'overlay': 'over'}
        error = p.daemon.qmp.error('blockdev-snapshot', **snap)
        assert "Could not flush node 'top'" in error, error
        assert 'Could not flush' in p.daemon.qmp.error(
            'block_resize', **{'node-name': 'top', 'size': hang.SIZE // 2})
        p.server.start()
        until(lambda: try_read(p.h), 'the base')
        p.daemon.qmp.cmd('blockdev-snapshot', snap)
        want = with_write((0, b'\x11' * NOW))
        p.whole(want)
        p.h.pwrite(b'\x22' * NOW, AT + NOW)
        p.whole(with_write((0, b'\x11' * NOW), (NOW, b'\x22' * NOW)))


def test_drain_waits_for_nobody(d):
    """Not for a server that hangs; afterwards the fill goes on by itself."""
    with Place(d, **{'hang-timeout': 1}) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        p.daemon.qmp.error('block_resize', **{'node-name': 'top',
                                              'size': 2 * hang.SIZE})
        assert p.h.pread(NOW, AT) == b'\x11' * NOW
        p.server.go_on()
        p.whole(with_write((0, b'\x11' * NOW)))
        p.h.flush()
        p.daemon.qmp.cmd('block_resize', {'node-name': 'top',
                                          'size': 2 * hang.SIZE})
        p.whole(with_write((0, b'\x11' * NOW)))


def test_end_tells_what_is_lost(d):
    with Place(d, **{'reconnect-delay': 0}) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        p.server.stop(signal.SIGKILL)
        fails(p.h.flush)
        p.daemon.stop()
        assert '1 clusters that were written since the last flush are lost' in \
            p.daemon.errors(), p.daemon.errors()
        p.server.start()
    rig.check_no_corruption(os.path.join(d, 'top'))


def test_end_fills(d):
    with Place(d) as p:
        p.server.hang()
        p.h.pwrite(b'\x11' * NOW, AT)
        p.server.go_on()
        p.daemon.stop()
        p.daemon = hang.daemon(d, p.server)
        p.h = hang.client(d)
        p.whole(with_write((0, b'\x11' * NOW)))


def test_end_waits_for_a_slow_base(d):
    """No request to it ends as soon as drains let go of storage (LET_GO_NS)."""
    with open(os.path.join(d, 'base'), 'wb') as f:
        f.write(OLD)
    base = rig.Base(d, os.path.join(d, 'base'), 'delay,rdelay=500ms')
    top = rig.make_overlay(os.path.join(d, 'top'), base.uri, size=hang.SIZE)
    with Stage(d, top) as s:
        h = s.client()
        for i in range(8):
            h.pwrite(b'\x11' * NOW, AT + i * CLUSTER)
        s.daemon.stop()
        assert 'are lost' not in s.daemon.errors(), s.daemon.errors()
    got = rig.read_image(top)
    for i in range(8):
        at = AT + i * CLUSTER
        rig.assert_same(got[at:at + CLUSTER], with_write((0, b'\x11' * NOW)))
    base.stop()


def test_random_and_kill(d):
    """Requests of several guests over a base 50 ms away; then SIGKILL."""
    rnd = random.Random(rig.SEED)
    for number in range(ROUNDS):
        folder = os.path.join(d, str(number))
        os.mkdir(folder)
        one_kill(folder, rnd, number % 2 == 1)


def one_kill(d, rnd, to_the_end):
    size = 24 * MIB
    data = rnd.randbytes(size)
    base = rig.make_file(os.path.join(d, 'base'), data)
    nbdkit = rig.Base(d, base, 'delay,rdelay=50ms')
    top = os.path.join(d, 'top')
    rig.make_overlay(top, nbdkit.uri, size=size)
    ledger = Ledger(data)
    with Stage(d, top) as s:
        guest = Guest(s, ledger, threads=4, seed=rnd.getrandbits(30),
                      flush=0.01, pause=0.001)
        moment = time.monotonic() + rnd.uniform(0.3, 2.5)
        until(lambda: time.monotonic() >= moment, 'the time to kill')
        if to_the_end:
            guest.stop()
            ledger.check_all(bytes(guest.handles[0].pread(size, 0)))
            s.daemon.stop()
        else:
            guest.cut = True
            killed = time.monotonic()
            s.daemon.kill()
            guest.join()
    rig.check_no_corruption(top)
    got = rig.read_image(top)
    if to_the_end:
        ledger.check_all(got)
    else:
        ledger.check(got, killed, GRACE)
    rig.note('%d requests' % ledger.requests)
    nbdkit.stop()


if __name__ == '__main__':
    rig.announce()
    run(globals())
