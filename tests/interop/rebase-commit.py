#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""rebase and commit on random chains: what a guest sees never changes.

Chains are made by qemu-img and qemu-io, as one model of bytes beside them; what
is left after each command is read back by qemu-img, image and base, whole.
Killed at any moment, the command leaves a chain that reads as before.
"""
import hashlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from killed import kill_and_wait
from seed import SEED

SLUICE = os.environ['SLUICE']
ROUNDS = int(os.environ.get('ROUNDS', '6'))
KILLS = int(os.environ.get('KILLS', '12'))
KIB = 1024


def call(*argv, cwd=None, want=0):
    p = subprocess.run(argv, cwd=cwd, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    assert p.returncode == want, '%s: %d\n%s' % (' '.join(argv), p.returncode,
                                                 p.stdout)
    return p.stdout


def writes_as(fmt):
    """Can the program make images of this format?"""
    d = tempfile.mkdtemp(prefix='rebase-')
    p = subprocess.run([SLUICE, 'create', '-q', '-f', fmt, 'x', '1M'], cwd=d,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.rmtree(d)
    return p.returncode == 0


class Chain:
    """Images from the base up, each with what a reader of it sees."""

    def __init__(self, folder, rnd, fmt, base_fmt, depth, unit):
        self.folder, self.rnd = folder, rnd
        self.names, self.fmts, self.content = [], [], []
        for i in range(depth + 1):
            f = fmt if i else base_fmt
            self.add('i%d.%s' % (i, f), f, rnd.randrange(40, 160) * 16 * KIB,
                     unit)

    def add(self, name, fmt, size, unit):
        back = ['-b', self.names[-1], '-F', self.fmts[-1]] if self.names else []
        opts = ['-o', 'cluster_size=%d' % unit] if fmt != 'raw' else []
        call('qemu-img', 'create', '-q', '-f', fmt, *opts, *back, name,
             str(size), cwd=self.folder)
        old = self.content[-1] if self.content else b''
        self.content.append(bytearray((old + bytes(size))[:size]))
        self.names.append(name)
        self.fmts.append(fmt)
        self.scribble(len(self.names) - 1)

    def scribble(self, i):
        words = []
        for _ in range(self.rnd.randrange(1, 12)):
            size = len(self.content[i])
            off = self.rnd.randrange(0, size, 512)
            n = min(self.rnd.choice((512, 4096, 65536, 200 * KIB)), size - off)
            self.put(words, i, off, n, self.rnd.randrange(0, 4))
        # Last: QEMU 7.2 lets the base show where a zero cluster of QED is
        # written to in part.
        off = self.rnd.randrange(0, size, 64 * KIB)
        self.put(words, i, off, min(128 * KIB, size - off), None)
        call('qemu-io', '-f', self.fmts[i], *words, self.names[i],
             cwd=self.folder)

    def put(self, words, i, off, n, v):
        words += ['-c', 'write -z %d %d' % (off, n) if v is None else
                  'write -P %d %d %d' % (v, off, n)]
        self.content[i][off:off + n] = bytes([v or 0]) * n

    def see(self, i, what, when='after'):
        """Is image @i what the model says, and sound?"""
        raw = os.path.join(self.folder, 'see.raw')
        call('qemu-img', 'convert', '-f', self.fmts[i], '-O', 'raw',
             self.names[i], 'see.raw', cwd=self.folder)
        with open(raw, 'rb') as f:
            got = f.read()
        os.unlink(raw)
        want = bytes(what)
        assert len(got) == len(want), '%s: %s: %d bytes, want %d' % (
            self.names[i], what, len(got), len(want))
        if got != want:
            at = next(k for k in range(len(got)) if got[k] != want[k])
            raise AssertionError('%s %s: differs at %#x: %d, want %d' % (
                when, self.names[i], at, got[at], want[at]))
        if self.fmts[i] != 'raw':
            call('qemu-img', 'check', '-q', '-f', self.fmts[i], self.names[i],
                 cwd=self.folder)


def rebase_round(folder, rnd, fmt):
    """To another base, to none, to one deeper in the chain."""
    unit = rnd.choice((4 * KIB, 64 * KIB))
    chain = Chain(folder, rnd, fmt, rnd.choice(('raw', fmt)),
                  rnd.randrange(1, 4), unit)
    top, name = len(chain.names) - 1, chain.names[-1]
    how = rnd.choice(('other', 'similar', 'none', 'deeper'))
    alone = rnd.random() < 0.2
    if alone:
        # From no backing file at all.
        call('qemu-img', 'convert', '-f', fmt, '-O', fmt, '-o',
             'cluster_size=%d' % unit, name, 'alone', cwd=folder)
        os.rename(os.path.join(folder, 'alone'), os.path.join(folder, name))
    base, base_fmt = '', None
    if how in ('other', 'similar'):
        chain_fmt = chain.fmts[0]
        base, base_fmt = 'new.' + chain_fmt, chain_fmt
        size = rnd.randrange(20, 200) * 16 * KIB
        call('qemu-img', 'create', '-q', '-f', base_fmt, base, str(size),
             cwd=folder)
        if how == 'similar':
            shutil.copy(os.path.join(folder, chain.names[0]),
                        os.path.join(folder, base))
        call('qemu-io', '-f', base_fmt, '-c', 'write -P 3 64k 100k', '-c',
             'write -z 512 66k', base, cwd=folder)
    elif how == 'deeper' and top > 1:
        k = rnd.randrange(0, top - 1)
        base, base_fmt = chain.names[k], chain.fmts[k]
    want = bytes(chain.content[top])
    chain.see(top, want, 'before')
    call(SLUICE, 'rebase', '-q', '-f', fmt, '-b', base,
         *(['-F', base_fmt] if base else []), name, cwd=folder)
    # Nothing but the new base is needed now.
    for i in range(top):
        deeper = base in chain.names and i <= chain.names.index(base)
        if not deeper:
            os.unlink(os.path.join(folder, chain.names[i]))
    chain.see(top, want)
    return how


def commit_round(folder, rnd, fmt):
    unit = rnd.choice((4 * KIB, 64 * KIB))
    chain = Chain(folder, rnd, fmt, rnd.choice(('raw', fmt)),
                  rnd.randrange(1, 4), unit)
    top = len(chain.names) - 1
    into = rnd.randrange(0, top)
    words = [] if into == top - 1 and rnd.random() < 0.7 else \
        ['-b', chain.names[into]]
    if rnd.random() < 0.3:
        words.append('-d')
    want = bytes(chain.content[top])
    size = max(len(want), len(chain.content[into]))
    chain.see(top, want, 'before')
    below = want + bytes(chain.content[into][len(want):])
    call(SLUICE, 'commit', '-q', '-f', fmt, *words, chain.names[top],
         cwd=folder)
    chain.see(into, below[:size])
    # The images between are not valid any more; top alone is.
    chain.see(top, want) if into == top - 1 or words else None
    return 'into %d of %d %s' % (into, top, ' '.join(words))


def repair(folder, fmt, name):
    """By qemu-img."""
    call('qemu-img', 'check', '-q', '-r', 'leaks', '-f', fmt, name, cwd=folder)


def killed(folder, rnd, fmt, command):
    """kill -9 at random moments, then the chain reads as before."""
    chain = Chain(folder, rnd, fmt, 'raw', 2, 4 * KIB)
    top = len(chain.names) - 1
    call('qemu-img', 'create', '-q', '-f', 'raw', 'new.raw', '2M', cwd=folder)
    call('qemu-io', '-f', 'raw', '-c', 'write -P 7 0 2M', 'new.raw', cwd=folder)
    keep = {}
    for name in chain.names:
        with open(os.path.join(folder, name), 'rb') as f:
            keep[name] = f.read()
    argv = {'rebase': ['rebase', '-q', '-f', fmt, '-b', 'new.raw', '-F', 'raw'],
            'commit': ['commit', '-q', '-f', fmt]}[command]
    began = time.monotonic()
    call(SLUICE, *argv, chain.names[top], cwd=folder)
    whole = time.monotonic() - began
    alive = 0
    for k in range(KILLS):
        for name, data in keep.items():
            with open(os.path.join(folder, name), 'wb') as f:
                f.write(data)
        p = subprocess.Popen([SLUICE] + argv + [chain.names[top]], cwd=folder)
        time.sleep(rnd.random() * whole * 1.2)
        alive += p.poll() is None
        kill_and_wait(p)
        # No worse than leaks; QED is marked for a check.
        if fmt == 'qed':
            call(SLUICE, 'check', '-q', '-r', 'all', '-f', fmt,
                 chain.names[top], cwd=folder)
        else:
            repair(folder, fmt, chain.names[top])
        chain.see(top, chain.content[top])
    return '%d of %d while it ran' % (alive, KILLS)


def main():
    if not shutil.which('qemu-img') or not shutil.which('qemu-io'):
        print('skip: qemu-img and qemu-io (qemu-utils) are missing')
        return 77
    formats = [f for f in ('qed', 'qcow2') if writes_as(f)]
    tests = [(what, f, k) for f in formats for what in ('rebase', 'commit')
             for k in list(range(ROUNDS)) + ['kill']]
    print('1..%d' % len(tests))
    failed = False
    for n, (what, fmt, k) in enumerate(tests, 1):
        rnd = random.Random('%d %s %s %s' % (SEED, what, fmt, k))
        folder = tempfile.mkdtemp(prefix='rebase-')
        note = ''
        try:
            if k == 'kill':
                note = killed(folder, rnd, fmt, what)
            else:
                note = {'rebase': rebase_round,
                        'commit': commit_round}[what](folder, rnd, fmt)
            ok = True
        except (AssertionError, subprocess.TimeoutExpired) as e:
            ok = False
            failed = True
            print('\n'.join('# ' + line for line in str(e).splitlines()))
        print('%s %d %s %s %s %s' % ('ok' if ok else 'not ok', n, fmt, what, k,
                                     note))
        if not os.environ.get('KEEP'):
            shutil.rmtree(folder)
        elif not ok:
            print('# kept in', folder)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
