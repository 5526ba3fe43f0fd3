#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random requests by several clients while jobs and commands come and go.

Clients write, zero, trim, read, ask for status and flush where they like, at
any multiple of 128 bytes, over each other.  Meanwhile streams start, pause,
stop and end, the disk grows, snapshots are made and deleted, nodes are
reopened and exports removed.  Each read must return what could be there at
that time; status must not call zero what cannot be; in the end, or after a
kill, a reader that shares no code finds what the model says, also in every
snapshot.

One seed again: SEED=N ROUNDS=1.
"""
import json
import os
import random
import struct
import subprocess
import sys
import threading
import time

import rig
from rig import connect, note
from sluiced import SANITIZED, SLUICE, Sluiced, qemu_img, run_tool

import nbd

GRAIN = 128
MIB = 1 << 20
GRACE = 2.0 if not SANITIZED else 20.0      # M9; seconds of rig.PACE
ROUNDS = int(os.environ.get('ROUNDS', '8'))
ROUND = float(os.environ.get('ROUND', '3'))     # seconds
FORMATS = [
    ('qcow2', 'cluster_size=64k'), ('qcow2', 'cluster_size=4k'),
    ('qcow2', 'cluster_size=64k,extended_l2=on'), ('qed', 'cluster_size=64k'),
    ('qcow2', 'cluster_size=16k,lazy_refcounts=on'), ('qed', 'cluster_size=4k'),
    ('qcow2', 'cluster_size=512'),
]


def grain_bytes(ident, n):
    """What change @ident puts into grain @n."""
    return struct.pack('<QQ', ident, n) * (GRAIN // 16) if ident \
        else bytes(GRAIN)


class Change:
    """A change of some grains. What @ident 0 leaves are zeroes; with @trim it
    may leave what was there. Times are monotonic seconds."""

    def __init__(self, ident, begun, trim=False, acked=None):
        self.ident, self.begun, self.trim = ident, begun, trim
        self.acked = acked      # None: not yet, or nobody knows
        self.fua = False


class Model:
    """For each grain the changes that it may show, oldest first."""

    def __init__(self, idents):
        self.grains = [[Change(i, -1.0, acked=-1.0)] for i in idents]
        self.lock = threading.Lock()
        self.last = max(idents, default=0)
        self.flushed = -1.0     # when the newest good flush was sent
        self.under_way = {}     # what runs now: when it began
        self.checked = 0

    def begin(self, key):
        now = time.monotonic()
        self.under_way[key] = now
        return now

    def end(self, key):
        self.under_way.pop(key, None)

    def new_ident(self):
        with self.lock:
            self.last += 1
            return self.last

    def change(self, key, first, n, ident, trim=False):
        with self.lock:
            c = Change(ident, self.begin(key), trim)
            oldest = min(self.under_way.values())
            old = rig.PACE.before(oldest, GRACE)
            for g in self.grains[first:first + n]:
                if len(g) > 4:
                    g[:] = self.needed(g, oldest, old)
                g.append(c)
        return c

    def is_durable(self, c, old):
        return c.acked is not None and (c.fua or c.acked < self.flushed or
                                        c.acked < old)

    def needed(self, changes, oldest, old):
        """Without those that nobody can see any more, a crash included."""
        sure = max((c.begun for c in changes if c.acked is not None and
                    not c.trim and c.acked < oldest and
                    self.is_durable(c, old)), default=-2.0)
        return [c for c in changes if c.acked is None or c.acked >= sure]

    def ack(self, c, fua=False):
        with self.lock:
            c.fua = fua
            c.acked = time.monotonic()

    def flush_done(self, sent):
        with self.lock:
            self.flushed = max(self.flushed, sent)

    def grow(self, grains):
        with self.lock:
            while len(self.grains) < grains:
                self.grains.append([Change(0, -1.0, acked=-1.0)])

    @staticmethod
    def visible(changes, since, crash=None):
        """Idents of a grain that a reader could see who began at @since; with
        @crash: that function tells what of it is certain."""
        sure = max((c.begun for c in changes if c.acked is not None and
                    not c.trim and c.acked < since and
                    (not crash or crash(c))), default=-2.0)
        return {c.ident for c in changes
                if c.acked is None or c.acked >= sure}

    def view(self, since):
        """What each grain may have shown at some time since then."""
        with self.lock:
            return [self.visible(g, since) for g in self.grains]

    def crash_view(self, when):
        old = rig.PACE.before(when, GRACE)
        with self.lock:
            return [self.visible(g, when, lambda c: self.is_durable(c, old))
                    for g in self.grains]

    def check(self, since, first, data, what):
        """@data from grain @first on was read by somebody since @since."""
        with self.lock:
            sets = [self.visible(g, since)
                    for g in self.grains[first:first + len(data) // GRAIN]]
        self.checked += len(sets)
        check_sets(sets, first, data, what, at_rest=False)

    def check_zero(self, since, first, n, what):
        with self.lock:
            for i in range(first, first + n):
                assert 0 in self.visible(self.grains[i], since), \
                    '%s: grain %d cannot be zero' % (what, i)

    def settle(self, data):
        """The disk is at rest and holds @data."""
        now = time.monotonic()
        for i, g in enumerate(self.grains):
            ident = struct.unpack_from('<Q', data, i * GRAIN)[0]
            g[:] = [Change(ident, now, acked=now)]
        self.under_way.clear()


def is_torn(have, idents, n):
    """Words of several changes: a read and a write of one page at the same
    time, which the system does not keep apart."""
    words = struct.unpack('<%dQ' % (GRAIN // 8), have)
    places = {n if k else 0 for k in idents}
    return len(idents) > 1 and set(words[::2]) <= idents and \
        set(words[1::2]) <= places


def check_sets(sets, first, data, what, at_rest=True):
    for i, idents in enumerate(sets):
        have = data[i * GRAIN:(i + 1) * GRAIN]
        if not any(have == grain_bytes(k, first + i) for k in idents) and (
                at_rest or not is_torn(have, idents, first + i)):
            raise AssertionError('%s: grain %d may hold %r, holds %s'
                                 % (what, first + i, sorted(idents),
                                    have.hex()))


class Client(threading.Thread):
    def __init__(self, stage, number):
        super().__init__()
        self.stage, self.model = stage, stage.model
        self.rnd = random.Random(stage.seed * 64 + number)
        self.number = number
        self.h = None
        self.error = None
        self.requests = 0

    def run(self):
        try:
            while not self.stage.halt:
                self.live()
        except Exception as e:  # pylint: disable=broad-except
            self.error = e
            self.stage.halt = True

    def live(self):
        """One connection; it may be lost, as exports come and go."""
        name = self.rnd.choice(['e1', 'e1', 'e2'])
        try:
            self.h = nbd.NBD()
            self.h.add_meta_context('base:allocation')
            self.h.set_export_name(name)
            self.h.connect_unix(self.stage.nbd)
        except nbd.Error:
            time.sleep(0.02)
            return
        size = self.h.get_size()
        self.model.grow(size // GRAIN)
        for _ in range(self.rnd.randint(20, 400)):
            if self.stage.halt:
                break
            try:
                self.step(size)
                self.requests += 1
            except nbd.Error:
                self.model.end(self.number)
                if not self.h.aio_is_ready():
                    break
        self.h = None

    def place(self, size):
        rnd = self.rnd
        most = size // GRAIN
        if rnd.random() < 0.5:      # where others are
            first = rnd.randrange(min(most, 1024))
        else:
            first = rnd.randrange(most)
        if rnd.random() < 0.4:
            first = first // 32 * 32
        n = rnd.choice([1, 3, 4, 8, 32, 33, 128, 512, 700])
        return first, min(n, most - first)

    def step(self, size):
        rnd, model, me = self.rnd, self.model, self.number
        first, n = self.place(size)
        off, length = first * GRAIN, n * GRAIN
        what = rnd.random()
        fua = rnd.random() < 0.05
        flags = nbd.CMD_FLAG_FUA if fua else 0
        if what < 0.40:
            ident = model.new_ident()
            data = b''.join(grain_bytes(ident, g)
                            for g in range(first, first + n))
            c = model.change(me, first, n, ident)
            self.h.pwrite(data, off, flags)
            model.ack(c, fua)
        elif what < 0.50:
            c = model.change(me, first, n, 0)
            self.h.zero(length, off, flags | rnd.choice(
                [0, nbd.CMD_FLAG_NO_HOLE]))
            model.ack(c, fua)
        elif what < 0.56:
            c = model.change(me, first, n, 0, trim=True)
            self.h.trim(length, off, flags)
            model.ack(c, fua)
        elif what < 0.60:
            sent = model.begin(me)
            self.h.flush()
            model.flush_done(sent)
        elif what < 0.70:
            self.status(first, n)
        else:
            since = model.begin(me)
            data = self.h.pread(length, off)
            model.check(since, first, data, 'client %d' % me)
        model.end(me)

    def status(self, first, n):
        found = []
        since = self.model.begin(self.number)

        def extents(context, offset, entries, error):
            assert context == 'base:allocation' and not error.value
            found.append((offset, entries))
        self.h.block_status(n * GRAIN, first * GRAIN, extents)
        for off, entries in found:
            end = (first + n) * GRAIN
            for length, flags in zip(entries[::2], entries[1::2]):
                stop = min(off + length, end)
                a, b = -(-off // GRAIN), stop // GRAIN
                if flags & nbd.STATE_ZERO and a < b:
                    self.model.check_zero(since, a, b - a, 'status')
                off += length


class Round:
    """One seed: images, a daemon, clients, a manager."""

    def __init__(self, d, seed):
        self.dir, self.seed = d, seed
        self.rnd = random.Random(seed)
        self.format, self.options = FORMATS[seed % len(FORMATS)]
        self.nbd = os.path.join(d, 'nbd.sock')
        self.top = os.path.join(d, 'top.img')
        self.base = os.path.join(d, 'base.img')
        self.mid = os.path.join(d, 'mid.img') if self.rnd.random() < 0.4 \
            else None
        self.halt = False
        self.snapshots = {}         # name -> (backing, what it may show)
        self.made = 0
        self.counts = {}
        self.daemon = None
        self.make_images()

    # --- images ---

    def fill(self, path, fmt, idents, first_ident):
        """Some runs of data, by somebody else."""
        out = b''
        words = []
        for k in range(6):
            n = self.rnd.choice([8, 40, 512, 3000])
            first = self.rnd.randrange(len(idents) - n)
            part = os.path.join(self.dir, 'part')
            data = b''.join(grain_bytes(first_ident + k, g)
                            for g in range(first, first + n))
            with open('%s%d' % (part, k), 'wb') as f:
                f.write(data)
            words += ['-c', 'write -s %s%d %d %d' % (part, k, first * GRAIN,
                                                     n * GRAIN)]
            idents[first:first + n] = [first_ident + k] * n
        run_tool('qemu-io', '-f', fmt, *words, path)
        return out

    def make_images(self):
        self.size = self.rnd.choice([2 * MIB, 4 * MIB, 4 * MIB + 4096])
        idents = [0] * (self.size // GRAIN)
        qemu_img('create', '-q', '-f', 'raw', self.base, str(self.size))
        self.fill(self.base, 'raw', idents, 1)
        below, below_format = self.base, 'raw'
        if self.mid:
            qemu_img('create', '-q', '-f', 'qcow2', '-b', below, '-F',
                     below_format, self.mid)
            self.fill(self.mid, 'qcow2', idents, 11)
            below, below_format = self.mid, 'qcow2'
        qemu_img('create', '-q', '-f', self.format, '-o', self.options, '-b',
                 below, '-F', below_format, self.top)
        self.model = Model(idents)
        self.model.last = 100

    def backing_options(self, path):
        def node(name, driver, path, **more):
            return dict({'driver': driver, 'node-name': name, 'file': {
                'driver': 'file', 'filename': path}}, **more)
        base = node('base', 'raw', self.base)
        if path and path == self.mid:
            return node('mid', 'qcow2', self.mid, backing=base)
        return base if path else None

    def header_backing(self):
        info = json.loads(run_tool('qemu-img', 'info', '-U', '--output=json',
                                   self.top))
        return info.get('full-backing-filename')

    # --- the daemon ---

    def chain(self):
        backing = self.header_backing()
        return {'driver': self.format, 'node-name': 'top',
                'file': {'driver': 'file', 'filename': self.top,
                         'node-name': 'file'},
                'backing': self.backing_options(backing)}

    def start(self):
        self.daemon = Sluiced(
            self.dir, '--nbd-server', 'addr.type=unix,addr.path=' + self.nbd,
            '--blockdev', json.dumps(self.chain()))
        self.qmp = self.daemon.qmp
        self.root = 'top'
        if self.rnd.random() < 0.3:
            self.qmp.cmd('blockdev-add', {
                'driver': 'copy-on-read', 'node-name': 'cor', 'file': 'top'})
            self.root = 'cor'
        self.export('e1')

    def export(self, name):
        return self.qmp.execute('block-export-add', {
            'type': 'nbd', 'id': name, 'name': name, 'node-name': self.root,
            'writable': True})

    # --- what the manager does ---

    def note_answer(self, name, answer):
        key = name + (' ok' if 'return' in answer else ' refused')
        self.counts[key] = self.counts.get(key, 0) + 1
        error = answer.get('error')
        assert not error or 'nput/output' not in error['desc'], error
        return answer

    def tell(self, command, **args):
        args = {k.replace('_', '-'): v for k, v in args.items()}
        return self.note_answer(command, self.qmp.execute(command, args))

    def stream(self):
        args = {'job-id': 'j', 'device': self.root}
        if self.rnd.random() < 0.8:
            args['speed'] = self.rnd.choice([128, 512, 2048]) << 10
        if self.mid and self.rnd.random() < 0.3:
            args['base-node'] = 'base'
        self.note_answer('block-stream', self.qmp.execute('block-stream',
                                                          args))

    def job(self):
        if not self.qmp.cmd('query-jobs'):
            self.stream()
            return
        verb = self.rnd.choice(['job-pause', 'job-resume', 'job-resume',
                                'job-cancel', 'block-job-set-speed',
                                'block-job-set-speed'])
        if verb == 'block-job-set-speed':
            self.tell(verb, device='j', speed=self.rnd.choice([0, MIB, MIB]))
        else:
            self.tell(verb, id='j')

    def resize(self):
        size = self.size + self.rnd.choice([512, 65536, 300 << 10])
        self.model.grow(size // GRAIN)
        if 'return' in self.tell('block_resize', node_name='top', size=size):
            self.size = size

    def snapshot(self):
        name = 's%d' % self.made
        self.made += 1
        key = 'manager'
        with self.model.lock:
            since = self.model.begin(key)
        answer = self.tell('blockdev-snapshot-internal-sync', device='top',
                           name=name)
        if 'return' in answer:
            self.snapshots[name] = (self.header_backing(), self.size,
                                    self.model.view(since))
        self.model.end(key)

    def forget(self):
        if self.snapshots:
            name = self.rnd.choice(list(self.snapshots))
            answer = self.tell('blockdev-snapshot-delete-internal-sync',
                               device='top', name=name)
            if 'return' in answer:
                del self.snapshots[name]
            else:
                assert 'busy' in answer['error']['desc'] or \
                    'root' in answer['error']['desc'], answer

    def reopen(self):
        self.tell('blockdev-reopen', options=[{
            'driver': self.format, 'node-name': 'top', 'file': 'file',
            'discard': self.rnd.choice(['ignore', 'unmap']),
            'detect-zeroes': self.rnd.choice(['off', 'on'])}])

    def exports(self):
        if self.rnd.random() < 0.5:
            self.note_answer('block-export-add', self.export('e2'))
        else:
            self.tell('block-export-del', id='e2',
                      mode=self.rnd.choice(['hard', 'safe']))

    def manage(self, seconds):
        acts = [self.stream] * 3 + [self.job] * 4 + [
            self.resize, self.snapshot, self.snapshot, self.forget,
            self.reopen, self.exports, self.exports]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.halt:
            self.rnd.choice(acts)()
            time.sleep(self.rnd.choice([0, 0.01, 0.1]))

    # --- the end ---

    def verify_file(self, sets, what):
        """By tools that share no code with us."""
        out = os.path.join(self.dir, 'out.raw')
        for tool in ('qemu-img', SLUICE):
            p = subprocess.run([tool, 'check', '-f', self.format, self.top],
                               capture_output=True, text=True, check=False)
            assert p.returncode in (0, 3), (what, tool, p.stdout, p.stderr)
        qemu_img('convert', '-f', self.format, '-O', 'raw', self.top, out)
        with open(out, 'rb') as f:
            data = f.read()
        check_sets(sets[:len(data) // GRAIN], 0, data, what)
        return data

    def verify_snapshots(self):
        out = os.path.join(self.dir, 'out.raw')
        for name, (backing, size, sets) in self.snapshots.items():
            options = {'driver': 'qcow2', 'file': {'driver': 'file',
                                                   'filename': self.top},
                       'backing': self.backing_options(backing)}
            for tool in ('qemu-img', SLUICE):
                run_tool(tool, 'convert', '-l', name, '-O', 'raw',
                         'json:' + json.dumps(options), out)
                with open(out, 'rb') as f:
                    data = f.read()
                # Theirs is as long as the disk is by now.
                assert len(data) == size or tool != SLUICE, name
                check_sets(sets[:size // GRAIN], 0, data,
                           '%s: snapshot %s' % (tool, name))

    def play(self, seconds):
        self.start()
        self.halt = False
        clients = [Client(self, i) for i in range(4)]
        for c in clients:
            c.start()
        try:
            self.manage(seconds)
            killed = self.rnd.random() < 0.4
            if killed:
                when = time.monotonic()
                self.daemon.kill()
        finally:
            self.halt = True
            for c in clients:
                c.join()
        for c in clients:
            if c.error:
                raise c.error
        if killed:
            sets = self.model.crash_view(when)
        else:
            self.daemon.stop()
            sets = self.model.view(time.monotonic())
        data = self.verify_file(sets, 'killed' if killed else 'stopped')
        self.verify_snapshots()
        self.size = len(data)
        self.model.grow(self.size // GRAIN)
        self.model.settle(data + bytes(len(self.model.grains) * GRAIN -
                                       len(data)))
        return sum(c.requests for c in clients)

    def run(self):
        requests = 0
        for _ in range(2):          # the second one begins where that ended
            requests += self.play(ROUND / 2)
        return requests


def test_model(d):
    """Some seeds; each has two lives of the daemon."""
    counts, requests = {}, 0
    for seed in range(rig.SEED, rig.SEED + ROUNDS):
        place = os.path.join(d, str(seed))
        os.mkdir(place)
        r = Round(place, seed)
        try:
            requests += r.run()
        except BaseException:
            note('SEED=%d ROUNDS=1 fails: %s %s%s' % (
                seed, r.format, r.options, ' over mid' if r.mid else ''))
            if r.daemon:
                r.daemon.kill()
            raise
        for k, v in r.counts.items():
            counts[k] = counts.get(k, 0) + v
        run_tool('rm', '-rf', place)
    note('%d rounds, %d requests' % (ROUNDS, requests))
    note(', '.join('%s %d' % kv for kv in sorted(counts.items())))


if __name__ == '__main__':
    rig.run(globals())
