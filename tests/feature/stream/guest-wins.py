#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guest requests against cold reads and streams over a slow base (S1, G7, G8).

A race is a few requests to one cluster, from two connections, at random
moments around the time that the base takes.  Hundreds run side by side, each
on its own cluster, which they find unallocated.
"""
import os
import random
import signal
import time

import nbd

import rig
from rig import Base, KIB, MIB, SECTOR, Stage
from waiting import Patience, rest

CLUSTER = 64 * KIB


class Request:
    """One request under way; done with .error set, 0 for success."""

    def __init__(self, scene, conn, kind, off, length, data=None):
        self.error = None
        self.began = rest()
        self.took = None        # seconds of rest
        h = scene.handles[conn]
        if kind == 'read':
            self.buf = nbd.Buffer(length)
            h.aio_pread(self.buf, off, completion=self.complete)
        elif kind == 'write':
            self.buf = nbd.Buffer.from_bytearray(bytearray(data))
            h.aio_pwrite(self.buf, off, completion=self.complete)
        elif kind == 'flush':
            h.aio_flush(completion=self.complete)
        elif kind == 'zero':
            h.aio_zero(length, off, completion=self.complete)
        else:
            h.aio_trim(length, off, completion=self.complete)

    def complete(self, error):
        self.error = error.value
        self.took = rest() - self.began
        return 1

    def bytes(self):
        return bytes(self.buf.to_bytearray())


class Scene:
    """Runs races: generators that yield seconds to sleep or a Request to
    wait for."""

    def __init__(self, stage, base, rnd, delay):
        self.handles = [stage.client(), stage.client()]
        self.base = base
        self.rnd = rnd
        self.delay = delay
        self.want = bytearray(base)
        self.loose = []         # (offset, length, alternatives)
        self.waiting = []

    def start(self, race):
        self.waiting.append([race, 0.0, None])

    def ready(self, entry):
        _, when, what = entry
        if isinstance(what, Request):
            return what.error is not None
        return time.monotonic() >= when

    def step(self, entry):
        race, _, what = entry
        if isinstance(what, Request):
            assert what.error == 0, 'errno %d' % what.error
        try:
            what = race.send(what)
        except StopIteration:
            return False
        entry[1] = 0.0 if isinstance(what, Request) \
            else time.monotonic() + what
        entry[2] = what
        return True

    def run(self):
        patience = Patience(120)
        while self.waiting:
            assert not patience.over(), '%d races hang' % len(self.waiting)
            for h in self.handles:
                h.poll(0)
            ready = [e for e in self.waiting if self.ready(e)]
            for e in ready:
                if not self.step(e):
                    self.waiting.remove(e)
            if not ready:
                self.handles[0].poll(1)

    # --- what races are made of ---

    def moment(self):
        return self.rnd.uniform(0, 1.5 * self.delay)

    def part(self, at, half=None):
        """A part of the cluster at @at; of one half of it."""
        n = CLUSTER // SECTOR
        lo, hi = (0, n) if half is None else \
            (0, n // 2) if half == 0 else (n // 2, n)
        first = self.rnd.randrange(lo, hi)
        count = self.rnd.randrange(1, hi - first + 1)
        return at + first * SECTOR, count * SECTOR

    def read(self, conn, off, length):
        """A read of what nobody changes meanwhile."""
        want = bytes(self.want[off:off + length])
        r = yield Request(self, conn, 'read', off, length)
        rig.assert_same(r.bytes(), want, 'read at %d' % off)

    def write(self, conn, off, length):
        data = self.rnd.randbytes(length)
        yield Request(self, conn, 'write', off, length, data)
        self.want[off:off + length] = data

    def zero(self, conn, off, length):
        yield Request(self, conn, 'zero', off, length)
        self.want[off:off + length] = bytes(length)

    def after(self, seconds, race):
        yield seconds
        yield from race

    # --- the races; each has the cluster at @at for itself ---

    def read_then_write(self, at):
        """A cold read, and a write to the same place before it returns."""
        off, length = self.part(at)
        self.start(self.after(self.moment(), self.change_and_read(at)))
        r = yield Request(self, 0, 'read', off, length)
        assert len(r.bytes()) == length

    def change_and_read(self, at):
        off, length = self.part(at)
        kind = self.rnd.choice((self.write, self.write, self.zero))
        yield from kind(1, off, length)
        # Acknowledged: every connection sees it from now on (G7).
        yield from self.read(0, at, CLUSTER)
        yield self.moment()
        yield from self.read(1, at, CLUSTER)

    def read_beside_write(self, at):
        """One half is written while the other is being read."""
        half = self.rnd.randrange(2)
        self.start(self.after(self.moment(),
                              self.write(1, *self.part(at, half))))
        yield self.moment()
        yield from self.read(0, *self.part(at, 1 - half))
        yield self.moment()
        yield from self.read(1, *self.part(at, 1 - half))

    def two_writers(self, at):
        """Both halves, two connections: both writes survive."""
        self.start(self.after(self.moment(), self.write(0, *self.part(at, 0))))
        self.start(self.after(self.moment(), self.write(1, *self.part(at, 1))))
        yield self.moment()
        r = yield Request(self, 0, 'read', at, CLUSTER)
        assert r.error == 0

    def same_sectors(self, at):
        """Overlapping writes at once: each sector is one of both (G3)."""
        parts = [self.part(at), self.part(at)]
        data = [self.rnd.randbytes(p[1]) for p in parts]
        requests = []
        for i in self.rnd.sample((0, 1), 2):
            requests.append(Request(self, i, 'write', *parts[i], data[i]))
            yield self.moment() / 4
        for r in requests:
            yield r
        for i, (off, length) in enumerate(parts):
            o_off, o_len = parts[1 - i]
            for s in range(off, off + length, SECTOR):
                mine = data[i][s - off:s - off + SECTOR]
                self.want[s:s + SECTOR] = mine
                if o_off <= s < o_off + o_len:
                    other = data[1 - i][s - o_off:s - o_off + SECTOR]
                    self.loose.append((s, mine, other))

    def one_after_another(self, at):
        """Writes in turn, each sent when the one before was acknowledged."""
        for _ in range(4):
            kind = self.rnd.choice((self.write, self.write, self.zero))
            yield from kind(self.rnd.randrange(2), *self.part(at))
            if self.rnd.random() < 0.5:
                yield self.moment() / 4
        yield from self.read(0, at, CLUSTER)

    def zero_during_read(self, at):
        """The base never shows again (G8)."""
        self.start(self.after(self.moment(), self.zero_and_look(at)))
        off, length = self.part(at)
        r = yield Request(self, 0, 'read', off, length)
        assert r.error == 0

    def zero_and_look(self, at):
        off, length = self.rnd.choice(((at, CLUSTER), self.part(at)))
        yield from self.zero(1, off, length)
        for _ in range(3):
            yield from self.read(0, off, length)
            yield self.moment()

    def trim_during_read(self, at):
        """A trim leaves old data or zeroes. Once a later read saw the zeroes,
        the base never comes back."""
        r = Request(self, 0, 'read', *self.part(at))
        yield self.moment()
        t = yield Request(self, 1, 'trim', at, CLUSTER)
        assert t.error == 0
        look = yield Request(self, 1, 'read', at, CLUSTER)
        now = look.bytes()
        for s in range(0, CLUSTER, SECTOR):
            old = self.base[at + s:at + s + SECTOR]
            assert now[s:s + SECTOR] in (old, bytes(SECTOR))
        self.want[at:at + CLUSTER] = now
        yield r
        yield self.moment()
        yield from self.read(0, at, CLUSTER)

    def whole_write(self, at):
        """Covers the cluster: does not wait for the base."""
        first = Request(self, 0, 'read', *self.part(at))
        yield self.moment()
        yield from self.write(1, at, CLUSTER)
        yield from self.read(0, at, CLUSTER)
        yield first

    ALL = (read_then_write, read_beside_write, two_writers, same_sectors,
           one_after_another, zero_during_read, trim_during_read, whole_write)

    def settle(self, got):
        """What may be one of two becomes what it is."""
        for s, one, other in self.loose:
            have = got[s:s + SECTOR]
            assert have in (one, other), 'sector at %d is neither' % s
            self.want[s:s + SECTOR] = have
        self.loose = []


def read_all(h):
    size = h.get_size()
    return b''.join(bytes(h.pread(MIB, off)) for off in range(0, size, MIB))


def race(d, delay_ms, size, stream, drive='', cluster=CLUSTER):
    rnd = random.Random(rig.SEED + delay_ms)
    data = rnd.randbytes(size)
    path = rig.make_file(os.path.join(d, 'base'), data)
    with Base(d, path, 'delay,rdelay=%dms' % delay_ms) as base:
        top = rig.make_overlay(os.path.join(d, 'top'), base.uri,
                               cluster=cluster)
        with Stage(d, top, drive=drive) as s:
            scene = Scene(s, data, rnd, delay_ms / 1000)
            clusters = list(range(0, size, CLUSTER))
            rnd.shuffle(clusters)
            for i, at in enumerate(clusters):
                r = Scene.ALL[i % len(Scene.ALL)](scene, at)
                scene.start(scene.after(rnd.uniform(0, 10 * scene.delay), r))
            if stream:
                s.stream(speed=stream)
            scene.run()
            if stream:
                s.wait_completed()
                base.stop()
            h = scene.handles[0]
            got = read_all(h)
            scene.settle(got)
            rig.assert_same(got, bytes(scene.want), 'the disk')
            h.flush()
        rig.check_image(top)
        rig.assert_same(rig.read_image(top), bytes(scene.want), 'the image')
    rig.note('%d races, base %d ms away' % (len(clusters), delay_ms))


def test_races_5ms(d):
    race(d, 5, 32 * MIB, None)


def test_races_5ms_copy_on_read(d):
    race(d, 5, 32 * MIB, None, ',copy-on-read=on')


def test_races_5ms_stream(d):
    race(d, 5, 32 * MIB, 16 * MIB)


def test_races_50ms_copy_on_read(d):
    race(d, 50, 24 * MIB, None, ',copy-on-read=on')


def test_races_50ms_stream(d):
    race(d, 50, 24 * MIB, 8 * MIB, ',copy-on-read=on')


def test_races_200ms_stream(d):
    race(d, 200, 24 * MIB, 12 * MIB)


def test_races_small_clusters(d):
    """Requests over many clusters; some of them copied already."""
    race(d, 20, 8 * MIB, 4 * MIB, cluster=4 * KIB)


def test_races_large_clusters(d):
    """Many races in one cluster."""
    race(d, 20, 32 * MIB, 16 * MIB, cluster=MIB)


def test_whole_write_does_not_wait(d):
    """Covering writes over a base 500 ms away: while it is being read by
    guests, by copy-on-read and by a stream."""
    rnd = random.Random(rig.SEED)
    data = rnd.randbytes(16 * MIB)
    path = rig.make_file(os.path.join(d, 'base'), data)
    with Base(d, path, 'delay,rdelay=500ms') as base:
        top = rig.make_overlay(os.path.join(d, 'top'), base.uri)
        with Stage(d, top, drive=',copy-on-read=on') as s:
            scene = Scene(s, data, rnd, 0.5)
            took = []

            def cover(at):
                cold = Request(scene, 0, 'read', *scene.part(at))
                yield rnd.uniform(0, 0.3)
                new = rnd.randbytes(CLUSTER)
                w = yield Request(scene, 1, 'write', at, CLUSTER, new)
                took.append(w.took)
                scene.want[at:at + CLUSTER] = new
                yield cold

            for i in range(0, 40):
                at = i * 6 * CLUSTER
                scene.start(scene.after(rnd.uniform(0, 1.0), cover(at)))
            s.stream(speed=8 * MIB)
            scene.run()
            s.wait_completed()
            rig.assert_same(read_all(scene.handles[0]), bytes(scene.want))
    rig.note('slowest of %d: %.1f ms' % (len(took), 1000 * max(took)))
    assert max(took) < 0.25, took


def test_whole_write_while_base_hangs(d):
    """The base does not answer at all. Writes that cover their clusters, zeroes
    and their flush succeed; a read waits.  A write of a part succeeds, too, and
    from then on a flush waits: the rest of that cluster is not here."""
    rnd = random.Random(rig.SEED)
    data = rnd.randbytes(4 * MIB)
    path = rig.make_file(os.path.join(d, 'base'), data)
    with Base(d, path) as base:
        top = rig.make_overlay(os.path.join(d, 'top'), base.uri)
        with Stage(d, top) as s:
            scene = Scene(s, data, rnd, 0.05)
            h = scene.handles[1]
            os.kill(base.proc.pid, signal.SIGSTOP)
            try:
                s.stream()
                cold = Request(scene, 0, 'read', 0, 8 * CLUSTER)
                for i in (0, 2, 3):
                    h.pwrite(b'%d' % i * CLUSTER, i * CLUSTER)
                    assert bytes(h.pread(512, i * CLUSTER)) == b'%d' % i * 512
                    scene.want[i * CLUSTER:(i + 1) * CLUSTER] = \
                        b'%d' % i * CLUSTER
                h.zero(2 * CLUSTER, 10 * CLUSTER)
                scene.want[10 * CLUSTER:12 * CLUSTER] = bytes(2 * CLUSTER)
                assert bytes(h.pread(2 * CLUSTER, 10 * CLUSTER)) == \
                    bytes(2 * CLUSTER)
                h.flush()
                h.pwrite(b'p' * 512, 5 * CLUSTER + 512)
                assert bytes(h.pread(512, 5 * CLUSTER + 512)) == b'p' * 512
                scene.want[5 * CLUSTER + 512:5 * CLUSTER + 1024] = b'p' * 512
                flush = Request(scene, 0, 'flush', 0, 0)
                assert bytes(h.pread(512, 0)) == b'0' * 512
                scene.handles[0].poll(0)
                assert cold.error is None and flush.error is None
            finally:
                os.kill(base.proc.pid, signal.SIGCONT)
            rig.until(lambda: scene.handles[0].poll(10) or
                      cold.error == 0 and flush.error == 0, 'the requests')
            s.wait_completed()
            rig.assert_same(read_all(h), bytes(scene.want))
    rig.check_image(top)


if __name__ == '__main__':
    rig.run(globals())
