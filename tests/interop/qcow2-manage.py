#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A qcow2 chain that qemu-img and sluice manage by turns.

Random commands, each by one of the two at random: guest writes, resize,
internal snapshots, rebase, commit, convert, bitmaps.  A model of bytes goes
along; after every command both programs read what it says, and qemu-img check
finds nothing, leaks neither.
"""
import json
import os
import random
import re
import subprocess

from seed import SEED
from sluiced import (SLUICE, Skip, Sluiced, qemu_img, run, run_tool)

try:
    import nbd
except ImportError:
    nbd = None

KIB, MIB = 1 << 10, 1 << 20
STEPS = int(os.environ.get('STEPS', '14'))
ONLY = os.environ.get('ONLY', '')
VERBOSE = 'VERBOSE' in os.environ

KINDS = [
    ('plain', ''), ('small', 'cluster_size=512'), ('c4k', 'cluster_size=4k'),
    ('large', 'cluster_size=2M'), ('v2', 'compat=0.10'),
    ('extended', 'extended_l2=on'),
    ('extended-16k', 'extended_l2=on,cluster_size=16k'),
    ('lazy', 'lazy_refcounts=on'), ('refcount-64', 'refcount_bits=64'),
    ('refcount-4', 'refcount_bits=4'), ('zstd', 'compression_type=zstd'),
]


def tool(program, *words, may_fail=False):
    """Run a command of either program; its status when it may fail."""
    cmd = [program] + list(words)
    p = subprocess.run(cmd, capture_output=True, text=True, check=False)
    assert may_fail or p.returncode == 0, '%s: %d %s%s' % (
        ' '.join(cmd), p.returncode, p.stdout, p.stderr)
    return p.returncode


def supports(d):
    """What the program can do with qcow2: each asked of a small image."""
    found = set()
    path = os.path.join(d, 'probe.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    for name, words in (('check', ['check', '-q', path]),
                        ('snapshot', ['snapshot', '-c', 'x', path]),
                        ('bitmap', ['bitmap', '--add', path, 'x']),
                        ('shrink', ['resize', '-q', '--shrink', path, '512k'])):
        if tool(SLUICE, *words, may_fail=True) == 0:
            found.add(name)
    raw = os.path.join(d, 'base.raw')
    with open(raw, 'wb') as f:
        f.write(b'x' * MIB)
    if tool(SLUICE, 'convert', '-c', '-O', 'qcow2', raw, path,
            may_fail=True) == 0:
        found.add('compress')
    os.unlink(path)
    return found


class Chain:
    """base.raw <- mid.qcow2 <- top.qcow2; the model of each."""

    def __init__(self, d, s, rng, options, able):
        self.d, self.s, self.rng, self.able = d, s, rng, able
        self.options, self.counter = options, 0
        self.snapshots = {}                # name -> bytes
        self.bitmaps = 0
        self.shrunk = False
        self.base = bytearray(rng.randbytes(3 * MIB + 1024))
        with open(self.path('base.raw'), 'wb') as f:
            f.write(self.base)
        qemu_img('create', '-q', '-f', 'raw', self.path('other.raw'), '5M')
        run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 200 1M 2M',
                 self.path('other.raw'))
        self.mid = bytearray(self.base[:2 * MIB])
        self.create('mid.qcow2', 'base.raw', 'raw', len(self.mid))
        self.top = self.mid + bytes(2 * MIB - 1536)
        self.create('top.qcow2', 'mid.qcow2', 'qcow2', len(self.top))
        self.below = 'mid.qcow2'           # backing file of top, or None

    def path(self, name):
        return os.path.join(self.d, name)

    def either(self):
        return self.rng.choice(('qemu-img', SLUICE))

    def create(self, name, backing, fmt, size):
        words = ['-o', self.options] if self.options else []
        tool(self.either(), 'create', '-q', '-f', 'qcow2', *words, '-b',
             backing, '-F', fmt, self.path(name), str(size))

    # --- what can happen to it; each returns what to call it ---

    def ranges(self, size):
        for _ in range(self.rng.randrange(2, 9)):
            off = self.rng.randrange(0, size) // 512 * 512
            n = self.rng.choice((512, 4 * KIB, 64 * KIB, 300 * KIB))
            yield off, min(n, size - off)

    def write(self):
        theirs = self.rng.random() < 0.4
        words, h = [], None
        if not theirs:
            h = self.open()
        for off, n in self.ranges(len(self.top)):
            v = self.rng.choice((0, 1, 2, 3, self.rng.randrange(256)))
            self.top[off:off + n] = bytes([v]) * n
            if theirs:
                words += ['-c', 'write %s %d %d' % (
                    '-P %d' % v if v else '-z -u', off, n)]
            elif v:
                h.pwrite(bytes([v]) * n, off)
            else:
                h.zero(n, off)
        if theirs:
            run_tool('qemu-io', '-f', 'qcow2', *words, self.path('top.qcow2'))
        else:
            self.close(h)
        return 'write by ' + ('qemu-io' if theirs else 'sluiced')

    def open(self):
        self.s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap',
            'file': {'driver': 'file', 'filename': self.path('top.qcow2'),
                     'discard': 'unmap'}})
        self.s.qmp.cmd('nbd-server-add', {'device': 'n', 'writable': True})
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///n?socket=' + self.path('nbd.sock'))
        return h

    def close(self, h):
        h.shutdown()
        self.s.qmp.cmd('nbd-server-remove', {'name': 'n', 'mode': 'hard'})
        self.s.qmp.cmd('blockdev-del', {'node-name': 'n'})

    def cannot_grow(self, old, new, below):
        """QEMU does not grow an image of version 2 over a longer backing file:
        what is new would have to be zero."""
        if 'compat' not in self.options or new <= old or not below:
            return False
        longest = {'base.raw': len(self.base), 'other.raw': 5 * MIB,
                   'mid.qcow2': len(self.mid)}
        return longest[below] > old

    def resize(self):
        if self.snapshots and 'compat' in self.options:
            return None                    # neither program does that
        size = self.rng.randrange(2 * MIB, 6 * MIB) // 512 * 512
        # QEMU 7.2 lets old bytes of a last cluster reappear when it grows.
        who = SLUICE if self.shrunk or self.cannot_grow(
            len(self.top), size, self.below) else self.either()
        words = []
        if size < len(self.top):
            self.shrunk = True
            words = ['--shrink']
            who = who if 'shrink' in self.able else 'qemu-img'
        tool(who, 'resize', '-q', *words, '-f', 'qcow2',
             self.path('top.qcow2'), str(size))
        self.top = (self.top + bytes(max(0, size - len(self.top))))[:size]
        return 'resize to %d by %s' % (size, who)

    def snapshot(self):
        who = self.either() if 'snapshot' in self.able else 'qemu-img'
        self.counter += 1
        name = 's%d' % self.counter
        tool(who, 'snapshot', '-c', name, self.path('top.qcow2'))
        self.snapshots[name] = bytes(self.top)
        return 'snapshot -c by ' + who

    def revert(self):
        if not self.snapshots or self.bitmaps:
            return None
        who = self.either() if 'snapshot' in self.able else 'qemu-img'
        name = self.rng.choice(sorted(self.snapshots))
        tool(who, 'snapshot', '-a', name, self.path('top.qcow2'))
        self.top = bytearray(self.snapshots[name])
        return 'snapshot -a %s by %s' % (name, who)

    def forget(self):
        if not self.snapshots:
            return None
        who = self.either() if 'snapshot' in self.able else 'qemu-img'
        name = self.rng.choice(sorted(self.snapshots))
        tool(who, 'snapshot', '-d', name, self.path('top.qcow2'))
        del self.snapshots[name]
        return 'snapshot -d %s by %s' % (name, who)

    def rebase(self):
        # What a snapshot lacks would be read from the new base.
        if self.snapshots:
            return None
        # QEMU 7.2 cannot keep the zeroes of an image of version 2.
        who = SLUICE if not self.below and 'compat' in self.options \
            else self.either()
        name, fmt = self.rng.choice((('base.raw', 'raw'), ('other.raw', 'raw'),
                                     ('mid.qcow2', 'qcow2'), ('', '')))
        tool(who, 'rebase', '-f', 'qcow2', '-b', name,
             *(['-F', fmt] if fmt else []), self.path('top.qcow2'))
        self.below = name or None
        return 'rebase to %s by %s' % (name or 'nothing', who)

    def commit(self):
        if self.snapshots or self.bitmaps or self.below != 'mid.qcow2':
            return None
        who = SLUICE if self.cannot_grow(
            len(self.mid), len(self.top), 'base.raw') else self.either()
        words = self.rng.choice(([], ['-d']))
        size = max(len(self.mid), len(self.top))
        tool(who, 'commit', '-q', '-f', 'qcow2', *words,
             self.path('top.qcow2'))
        self.mid = self.top + self.mid[len(self.top):]
        assert len(self.mid) == size
        return 'commit %s by %s' % (' '.join(words), who)

    def convert(self):
        if self.snapshots or self.bitmaps:
            return None
        who = self.either()
        words = ['-o', self.options] if self.options else []
        if self.below and self.rng.random() < 0.5:
            words += ['-B', self.below, '-F',
                      'raw' if self.below.endswith('raw') else 'qcow2']
        elif self.rng.random() < 0.3:
            words += ['-c']
            who = who if 'compress' in self.able else 'qemu-img'
        kept = [w for w in words if w == '-B']
        tool(who, 'convert', '-f', 'qcow2', '-O', 'qcow2', *words,
             self.path('top.qcow2'), self.path('new.qcow2'))
        os.rename(self.path('new.qcow2'), self.path('top.qcow2'))
        self.below = self.below if kept else None
        self.shrunk = False
        return 'convert %s by %s' % (' '.join(words), who)

    def bitmap(self):
        if 'compat' in self.options or self.bitmaps > 2:
            return None
        if 'bitmap' not in self.able:
            return None                    # a writer without them loses them
        who = self.either()
        self.bitmaps += 1
        tool(who, 'bitmap', '--add', self.path('top.qcow2'),
             'b%d' % self.bitmaps)
        return 'bitmap --add by ' + who

    # --- is it what it must be? ---

    def see(self, who):
        raw = self.path('view.raw')
        tool(who, 'convert', '-f', 'qcow2', '-O', 'raw',
             self.path('top.qcow2'), raw)
        with open(raw, 'rb') as f:
            got = f.read()
        assert len(got) == len(self.top), (who, len(got), len(self.top))
        if got != self.top:
            at = next(i for i in range(0, len(got), 512)
                      if got[i:i + 512] != self.top[i:i + 512])
            raise AssertionError('%s reads %s at %#x, not %s' % (
                who, got[at:at + 4].hex(), at, self.top[at:at + 4].hex()))

    def verify(self):
        for name in ('top.qcow2', 'mid.qcow2'):
            run_tool('qemu-img', 'check', '-f', 'qcow2', self.path(name))
            if 'check' in self.able:
                run_tool(SLUICE, 'check', '-f', 'qcow2', self.path(name))
        self.see('qemu-img')
        self.see(SLUICE)
        theirs, ours = self.facts('qemu-img'), self.facts(SLUICE)
        assert theirs == ours, (theirs, ours)

    def facts(self, who):
        p = subprocess.run([who, 'info', '--output=json', '-f', 'qcow2',
                            self.path('top.qcow2')], capture_output=True,
                           text=True, check=True)
        # Blocks on disk may still change after the last write.
        facts = json.loads(re.sub('"actual-size": [0-9]+', '"actual-size": 0',
                                  p.stdout))
        if 'snapshot' not in self.able:
            facts.pop('snapshots', None)
        if 'bitmap' not in self.able:
            facts['format-specific']['data'].pop('bitmaps', None)
        return facts

    def step(self):
        acts = ([self.write] * 4 + [self.resize] * 2 + [self.snapshot] +
                [self.revert] + [self.forget] * 2 + [self.rebase] * 2 +
                [self.commit] * 2 + [self.convert, self.bitmap])
        what = None
        while not what:
            what = self.rng.choice(acts)()
        if VERBOSE:
            print('#   ' + what)
        return what


def one_kind(d, name, options):
    if nbd is None:
        raise Skip('python3-libnbd is not installed')
    rng = random.Random('%d %s' % (SEED, name))
    with Sluiced(d) as s:
        s.qmp.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': os.path.join(d, 'nbd.sock')}}})
        chain = Chain(d, s, rng, options, supports(d))
        done = []
        try:
            for _ in range(STEPS):
                done.append(chain.step())
                chain.verify()
        except AssertionError as e:
            raise AssertionError('%s, after: %s' % (e, '; '.join(done))) from e


for kind, text in KINDS:
    def one(d, kind=kind, text=text):
        one_kind(d, kind, text)
    if ONLY in kind:
        globals()['test_' + kind.replace('-', '_')] = one


if __name__ == '__main__':
    run(globals())
