#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Internal snapshots, made, applied and deleted by sluice and qemu-img in turn.

After each step both checks must find nothing, not even a leak; in the end the
disk and every snapshot hold what the model says, by both readers.
"""
import os
import random
import subprocess
import time

from sluiced import SLUICE, qemu_img, run, run_tool

SEED = int(os.environ.get('SEED', '0')) or int(time.time())
SECONDS = float(os.environ.get('SECONDS', '12'))
OPTIONS = ['cluster_size=512', 'cluster_size=4k', 'cluster_size=64k',
           'cluster_size=16k,extended_l2=on', 'compat=0.10,cluster_size=4k',
           'cluster_size=4k,lazy_refcounts=on',
           'cluster_size=512,refcount_bits=64',
           'cluster_size=512,refcount_bits=4']


class Image:
    def __init__(self, d, rnd, options):
        self.rnd, self.options = rnd, options
        self.path = os.path.join(d, 'i.qcow2')
        self.out = os.path.join(d, 'out')
        self.size = rnd.choice([1 << 20, 3 << 20, (1 << 20) + 512])
        qemu_img('create', '-q', '-f', 'qcow2', '-o', options, self.path,
                 str(self.size))
        self.disk = bytearray(self.size)
        self.snapshots = {}
        self.made = 0

    def write(self):
        words = []
        for _ in range(self.rnd.randint(1, 6)):
            off = self.rnd.randrange(0, self.size, 512)
            n = min(self.size - off,
                    self.rnd.choice([512, 4096, 65536, 300 << 10]))
            value = self.rnd.choice([0, self.rnd.randint(1, 255)])
            words += ['-c', f'write -P {value} {off} {n}' if value else
                      f'write -z {off} {n}']
            self.disk[off:off + n] = bytes([value]) * n
        run_tool('qemu-io', '-f', 'qcow2', *words, self.path)

    def act(self):
        tool = self.rnd.choice([SLUICE, SLUICE, 'qemu-img'])
        what = self.rnd.choice('ccdda')
        names = list(self.snapshots)
        if what == 'c' and len(names) < 12:
            name = f's{self.made}'
            self.made += 1
            self.snapshots[name] = bytes(self.disk)
        elif names:
            what = 'a' if what == 'a' else 'd'
            name = self.rnd.choice(names)
            if what == 'a':
                self.disk = bytearray(self.snapshots[name])
            else:
                del self.snapshots[name]
        else:
            return
        run_tool(tool, 'snapshot', '-' + what, name, self.path)
        for check in ('qemu-img', SLUICE):
            p = subprocess.run([check, 'check', self.path],
                               capture_output=True, text=True, timeout=60,
                               check=False)
            assert p.returncode == 0, (tool, what, name, p.stdout, p.stderr)

    def compare(self, *words):
        for tool in ('qemu-img', SLUICE):
            run_tool(tool, 'convert', *words, '-O', 'raw', self.path, self.out)
            with open(self.out, 'rb') as f:
                yield f.read()

    def verify(self):
        for data in self.compare():
            assert data == self.disk, 'the disk'
        for name, want in self.snapshots.items():
            for data in self.compare('-l', name):
                assert data == want, name


def one_seed(d, seed):
    rnd = random.Random(seed)
    image = Image(d, rnd, OPTIONS[seed % len(OPTIONS)])
    for _ in range(20):
        if rnd.random() < 0.4:
            image.write()
        else:
            image.act()
    image.verify()
    os.unlink(image.path)


def test_by_turns(d):
    """Both write what both read; one seed again: SEED=N SECONDS=0."""
    seed, end = SEED, time.monotonic() + SECONDS
    while True:
        try:
            one_seed(d, seed)
        except BaseException:
            print(f'# seed {seed} ({OPTIONS[seed % len(OPTIONS)]})')
            raise
        seed += 1
        if time.monotonic() > end:
            break


def test_names(d):
    """A name that is the id of another; many of one name."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    for name in ('2', 'x', 'x'):
        run_tool(SLUICE, 'snapshot', '-c', name, path)
    run_tool(SLUICE, 'snapshot', '-d', '2', path)
    run_tool(SLUICE, 'snapshot', '-d', 'x', path)
    left = run_tool('qemu-img', 'snapshot', '-l', path).splitlines()[2:]
    assert [line.split()[:2] for line in left] == [['3', 'x']], left


def test_too_many_references(d):
    """Refcounts of one bit share nothing: refused, and nothing has changed."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=1', path,
             '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 200k', path)
    p = subprocess.run([SLUICE, 'snapshot', '-c', 'x', path], text=True,
                       capture_output=True, timeout=60, check=False)
    assert p.returncode == 1 and 'Invalid argument' in p.stderr, p
    run_tool('qemu-img', 'check', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 200k', path)


def test_twin_tables(d):
    """Two L1 entries lead to one table: refused, or the work would not end."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path,
             '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1k', path)
    with open(path, 'r+b') as f:
        f.seek(40)
        l1 = int.from_bytes(f.read(8), 'big')
        f.seek(l1)
        entry = f.read(8)
        f.write(entry)
    p = subprocess.run([SLUICE, 'snapshot', '-c', 'x', path], text=True,
                       capture_output=True, timeout=60, check=False)
    assert p.returncode == 1 and 'Invalid argument' in p.stderr, p
    assert not run_tool('qemu-img', 'snapshot', '-l', path)


if __name__ == '__main__':
    run(globals())
