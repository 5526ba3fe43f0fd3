# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the streaming tests share.

  Stage    a directory with images, a daemon that serves one device over NBD
  Ledger   what a guest did, and what each sector may hold after a crash
  Guest    threads that write, zero, trim and flush by a Ledger
  Base     nbdkit in front of a file, with delay or errors

ENGINE in the environment chooses the I/O engine of the daemon, FORMAT
and OPTIONS the format of overlays and what they are created with.
"""
import json
import os
import random
import subprocess
import sys
import threading
import time

import sluiced
from seed import SEED  # noqa: F401
from sluiced import Sluiced, Skip, qemu_img, run_tool
from waiting import Pace, listens, until

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

KIB = 1 << 10
MIB = 1 << 20
SECTOR = 512
ENGINE = os.environ.get('ENGINE', 'auto')
FORMAT = os.environ.get('FORMAT', 'qed')
OPTIONS = os.environ.get('OPTIONS', '')
PACE = Pace()


def announce():
    print('# engine %s, %s %s' % (ENGINE, FORMAT, OPTIONS), flush=True)


def run(names):
    announce()
    sluiced.run(names)


def note(text):
    print('# ' + text, flush=True)


def need(*programs):
    """Skip unless all of these can be run."""
    for p in programs:
        if subprocess.run(['which', p], stdout=subprocess.DEVNULL,
                          check=False).returncode:
            raise Skip('%s is not installed' % p)


def make_file(path, data):
    with open(path, 'wb') as f:
        f.write(data)
    return path


def make_overlay(path, base, fmt='raw', size=None, cluster=65536):
    if 'extended' in OPTIONS:
        cluster = max(cluster, 16 * KIB)
    options = ['cluster_size=%d' % cluster] + ([OPTIONS] if OPTIONS else [])
    args = ['create', '-q', '-f', FORMAT, '-o', ','.join(options)]
    if base:
        args += ['-b', base, '-F', fmt]
    args += ['-u'] if size and base and not os.path.isabs(base) else []
    qemu_img(*args, path, *([str(size)] if size else []))
    return path


def read_image(path, fmt=FORMAT):
    """The disk of an image as qemu-img sees it, whole chain."""
    out = path + '.out'
    qemu_img('convert', '-U', '-f', fmt, '-O', 'raw', path, out)
    with open(out, 'rb') as f:
        data = f.read()
    os.unlink(out)
    return data


def image_info(path):
    return json.loads(qemu_img('info', '-U', '--output=json', path))


def check_image(path):
    """Nothing is wrong, and no cluster leaks. On leaks ours decides: the qemu_tools
    counts one in some sound images with zero clusters, also in images that it
    made alone (4 KiB clusters, all but one of 4096 with data)."""
    run_tool(sluiced.SLUICE, 'check', '-q', '-f', FORMAT, path)
    check_no_corruption(path, ['qemu-img'])


def check_no_corruption(path, tools=(sluiced.SLUICE, 'qemu-img')):
    """As after a crash: leaks are allowed, corruption is not."""
    for tool in tools:
        p = subprocess.run([tool, 'check', '-f', FORMAT, path], check=False,
                           capture_output=True, text=True)
        assert p.returncode in (0, 3), (tool, p.returncode, p.stdout, p.stderr)


def first_difference(a, b):
    for off in range(0, max(len(a), len(b)), SECTOR):
        if a[off:off + SECTOR] != b[off:off + SECTOR]:
            return off
    return None


def assert_same(got, want, what=''):
    if got != want:
        off = first_difference(got, want)
        raise AssertionError(
            '%s differs at offset %d of %d (want %d bytes): got %s want %s'
            % (what, off, len(got), len(want), got[off:off + 16].hex(),
               bytes(want[off:off + 16]).hex()))


class Stage:
    """A daemon that serves @top as device virtio0, and how to reach it."""

    def __init__(self, directory, top, *args, cache='writeback', drive='',
                 engine=None, env=None):
        self.dir = directory
        self.top = top
        self.nbd = os.path.join(directory, 'nbd.sock')
        self.args = [
            '--io-engine', engine or ENGINE,
            '--nbd-server', 'addr.type=unix,addr.path=' + self.nbd,
            '--drive', 'id=virtio0,file=%s,format=%s,cache=%s%s'
            % (top, FORMAT, cache, drive),
            '--export', 'type=nbd,id=exp0,node-name=virtio0,name=virtio0,'
            'writable=on'] + list(args)
        self.daemon = Sluiced(directory, *self.args, env=env)
        self.qmp = self.daemon.qmp

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.daemon.__exit__(kind, value, trace)

    def client(self, name='virtio0'):
        return connect(self.nbd, name)

    def stream(self, **args):
        args.setdefault('device', 'virtio0')
        return self.qmp.cmd('block-stream', args)

    def progress(self):
        jobs = self.qmp.cmd('query-block-jobs')
        return jobs[0]['offset'] if jobs else None

    def wait_completed(self, error=None, job='virtio0'):
        data = self.qmp.wait_event('BLOCK_JOB_COMPLETED', device=job)['data']
        assert data.get('error') == error, data
        if error is None:
            assert data['offset'] == data['len'], data
        return data


def connect(path, name='virtio0'):
    h = nbd.NBD()
    h.set_export_name(name)
    h.connect_unix(path)
    return h


# --- what a guest did ---

class Op:
    """One request that changes [off, off + len)."""

    def __init__(self, off, data, trim=False):
        self.off = off
        self.data = data
        self.trim = trim        # the old data may stay
        self.acked = None       # when, monotonic seconds
        self.flushed = False

    def sector(self, n):
        at = n * SECTOR - self.off
        return self.data[at:at + SECTOR]


class Ledger:
    """The changes to a disk in order, for each sector.

    After a crash a sector holds the newest change that a flush covered, or
    a later one (G1), never anything else (G2).  When only the process died
    a change acknowledged more than @grace seconds of PACE ago is there, too
    (M9).
    """

    def __init__(self, content):
        self.content = bytearray(content)   # if everything was done
        self.settled = bytes(content)       # before the first op
        self.ops = {}                       # sector -> [Op], oldest first
        self.lock = threading.Lock()
        self.requests = 0

    def begin(self, off, data, trim=False):
        op = Op(off, data, trim)
        with self.lock:
            for n in range(off // SECTOR, (off + len(data)) // SECTOR):
                self.ops.setdefault(n, []).append(op)
            self.requests += 1
        return op

    def acked(self, op):
        with self.lock:
            op.acked = time.monotonic()
            if not op.trim:
                self.content[op.off:op.off + len(op.data)] = op.data

    def flushed(self, began):
        """A flush that was sent at @began has succeeded."""
        with self.lock:
            for ops in self.ops.values():
                for op in ops:
                    if op.acked is not None and op.acked <= began:
                        op.flushed = True

    def allowed(self, n, old):
        """What sector @n may hold after a kill; what was acknowledged before
        @old is not lost."""
        res = [self.settled[n * SECTOR:(n + 1) * SECTOR]]
        for op in self.ops[n]:
            sure = op.flushed or (op.acked is not None and op.acked < old)
            if sure and not op.trim:
                res = [op.sector(n)]
            else:
                res.append(op.sector(n))
                if op.trim:
                    res.append(bytes(SECTOR))
        return res

    def check(self, got, killed=0.0, grace=None):
        """Compare with a disk read after a crash; go on from there."""
        assert len(got) == len(self.settled)
        old = float('-inf') if grace is None else PACE.before(killed, grace)
        lost = 0
        want = bytearray(self.settled)
        for n, ops in self.ops.items():
            have = got[n * SECTOR:(n + 1) * SECTOR]
            allowed = self.allowed(n, old)
            if have not in allowed:
                raise AssertionError(self.describe(n, have, killed))
            lost += have != ops[-1].sector(n)
            want[n * SECTOR:(n + 1) * SECTOR] = have
        assert_same(got, bytes(want), 'what no guest touched')
        self.settle(got)
        return lost

    def check_all(self, got):
        """Nothing crashed: exactly what was done, but for trims."""
        self.check(got, killed=float('inf'), grace=0)

    def settle(self, got):
        self.settled = bytes(got)
        self.content = bytearray(got)
        self.ops = {}

    def describe(self, n, have, killed):
        text = 'sector %d (offset %d) holds %s' % (n, n * SECTOR,
                                                   have[:16].hex())
        text += ', base %s' % self.settled[n * SECTOR:][:16].hex()
        for op in self.ops[n]:
            text += '\n  %s%s [%d, +%d) %s%s' % (
                op.sector(n)[:16].hex(), ' trim' if op.trim else '', op.off,
                len(op.data), 'not acked' if op.acked is None else
                'acked %.3f s before the kill' % (killed - op.acked),
                ', flushed' if op.flushed else '')
        return text


class Guest:
    """Threads that change the disk until told to stop or cut off.

    Each owns stripes of 2 KiB in the first half of the disk, so that they
    meet in the same clusters, and chunks of 1 MiB in the second half.
    """
    STRIPE = 2 * KIB
    CHUNK = MIB

    def __init__(self, stage, ledger, threads=2, seed=1, flush=0.05,
                 zeroes=True, pause=0.0005):
        self.ledger = ledger
        self.size = len(ledger.content)
        self.flush = flush
        self.zeroes = zeroes
        self.pause = pause
        self.threads = threads
        self.halt = False
        self.cut = False            # connection losses are expected
        self.error = None
        self.slowest = 0.0
        self.latencies = []
        self.handles = [stage.client() for _ in range(threads)]
        self.workers = [
            threading.Thread(target=self.work, args=(i, seed * 100 + i))
            for i in range(threads)]
        for w in self.workers:
            w.start()

    def place(self, i, rnd):
        """A range that thread @i owns."""
        half = self.size // 2 // self.CHUNK * self.CHUNK
        if half and rnd.random() < 0.5:
            unit = self.STRIPE
            n = half // unit
            start = 0
        else:
            unit = min(self.CHUNK, (self.size - half) // self.threads
                       // SECTOR * SECTOR)
            n = (self.size - half) // unit
            start = half
        unit_no = rnd.randrange(n // self.threads) * self.threads + i
        first = rnd.randrange(unit // SECTOR)
        count = min(rnd.choice((1, 2, 3, 8, 64, 128, 256)),
                    unit // SECTOR - first)
        if rnd.random() < 0.3 and unit >= 64 * KIB:
            first = first // 128 * 128       # whole clusters too
        return start + unit_no * unit + first * SECTOR, count * SECTOR

    def step(self, i, h, rnd):
        what = rnd.random()
        if what < self.flush:
            began = time.monotonic()
            h.flush()
            self.ledger.flushed(began)
            return
        off, length = self.place(i, rnd)
        if self.zeroes and what > 0.93:
            op = self.ledger.begin(off, bytes(length), trim=True)
            h.trim(length, off)
        elif self.zeroes and what > 0.86:
            op = self.ledger.begin(off, bytes(length))
            h.zero(length, off, rnd.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        else:
            op = self.ledger.begin(off, rnd.randbytes(length))
            fua = self.flush and rnd.random() < 0.02
            h.pwrite(op.data, off, nbd.CMD_FLAG_FUA if fua else 0)
            op.flushed = bool(fua)
        self.ledger.acked(op)

    def work(self, i, seed):
        rnd = random.Random(seed)
        h = self.handles[i]
        try:
            while not self.halt:
                began = time.monotonic()
                self.step(i, h, rnd)
                self.latencies.append((began, time.monotonic() - began))
                if self.pause:
                    time.sleep(self.pause)
        except Exception as e:  # pylint: disable=broad-except
            if not self.cut:
                self.error = e

    def stop(self):
        """Stop, everything acknowledged."""
        self.halt = True
        self.join()

    def join(self):
        for w in self.workers:
            w.join()
        assert self.error is None or self.cut, self.error
        return self

    def flush_all(self):
        began = time.monotonic()
        self.handles[0].flush()
        self.ledger.flushed(began)


class Base:
    """nbdkit before a file. The error filter is on while @error_file exists."""

    def __init__(self, directory, path, *filters, name='base',
                 writable=False):
        need('nbdkit')
        self.sock = os.path.join(directory, name + '.sock')
        self.error_file = os.path.join(directory, name + '.error')
        self.path = path
        argv = ['nbdkit', '-f', '--exit-with-parent', '-t', '32',
                '-U', self.sock] + ([] if writable else ['-r'])
        words = []
        for f in filters:
            name_, *params = f.split(',')
            argv.append('--filter=' + name_)
            words += params
            if name_ == 'error':
                words.append('error-file=' + self.error_file)
        self.proc = subprocess.Popen(argv + ['file', path] + words,
                                     stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
        until(lambda: listens(self.sock) or
              self.proc.poll() is not None, 'nbdkit')
        assert self.proc.poll() is None, argv

    @property
    def uri(self):
        return 'nbd+unix:///?socket=' + self.sock

    def errors(self, on):
        if on:
            make_file(self.error_file, b'')
        elif os.path.exists(self.error_file):
            os.unlink(self.error_file)

    def stop(self):
        self.proc.kill()
        self.proc.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
