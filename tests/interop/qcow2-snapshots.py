#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Internal snapshots, made, applied and deleted by sluice and qemu-img in turn.

After each step both checks must find nothing, not even a leak; in the end the
disk and every snapshot hold what the model says, by both readers.
"""
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, qemu_img, run, run_tool

ROUNDS = int(os.environ.get('ROUNDS', '8'))
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
                               capture_output=True, text=True, check=False)
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
    """Both write what both read; one seed again: SEED=N ROUNDS=1."""
    for seed in range(SEED, SEED + ROUNDS):
        try:
            one_seed(d, seed)
        except BaseException:
            print(f'# seed {seed} ({OPTIONS[seed % len(OPTIONS)]})')
            raise


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
                       capture_output=True, check=False)
    assert p.returncode == 1 and 'Invalid argument' in p.stderr, p
    run_tool('qemu-img', 'check', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 200k', path)


def test_duplicate_l1_entries(d):
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
                       capture_output=True, check=False)
    assert p.returncode == 1 and 'Two entries of an L1 table' in p.stderr, p
    assert not run_tool('qemu-img', 'snapshot', '-l', path)


def tool(*words, status=0, name=SLUICE):
    p = subprocess.run([name, *words], capture_output=True, text=True,
                       check=False)
    assert p.returncode == status, (name, words, p.returncode, p.stdout,
                                    p.stderr)
    return p.stdout + p.stderr


def number(path, at, n=8, value=None):
    with open(path, 'r+b') as f:
        f.seek(at)
        if value is not None:
            f.write(value.to_bytes(n, 'big'))
            return value
        return int.from_bytes(f.read(n), 'big')


OFFSET = 0xfffffffffffe00


def test_leaks_of_a_lost_snapshot(d):
    """All that a snapshot shared becomes the disk's alone: so COPIED is right
    again, and nothing is left to be found."""
    path = os.path.join(d, 'i.qcow2')
    for options in OPTIONS:
        for words in (['write -P 1 0 300k'], ['write -P 1 0 300k',
                                              'write -P 2 64k 64k']):
            qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, '1M')
            run_tool('qemu-io', '-f', 'qcow2', '-c', words[0], path)
            qemu_img('snapshot', '-c', 'one', path)
            for word in words[1:]:
                run_tool('qemu-io', '-f', 'qcow2', '-c', word, path)
            want = bytes_of(d, path)
            number(path, 60, 4, 0)         # it is not in the list any more
            number(path, 64, 8, 0)
            tool('check', path, status=3)
            tool('check', '-r', 'leaks', path)
            tool('check', path)
            tool('check', path, name='qemu-img')
            assert bytes_of(d, path) == want, options


def bytes_of(d, path):
    run_tool(SLUICE, 'convert', '-O', 'raw', path, d + '/raw')
    with open(d + '/raw', 'rb') as f:
        return f.read()


def own_table(d):
    """The snapshot has an L2 table of its own: where it is."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 300k', path)
    qemu_img('snapshot', '-c', 'one', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 64k 400k', path)
    l1 = number(path, number(path, 64))
    return path, number(path, l1) & OFFSET


def failing(path, at):
    """The image by options: reads of the sector at @at fail."""
    return ['--image-opts', 'driver=qcow2,file.driver=blkdebug,file.image.'
            'driver=file,file.image.filename=%s,file.inject-error.0.event='
            'none,file.inject-error.0.iotype=read,file.inject-error.0.sector='
            '%d' % (path, at // 512)]


def test_what_cannot_be_freed_is_told(d):
    """The snapshot is gone, or applied, but what it used stays counted: that is an
    error with the words of QEMU, not silence; a check gives it back."""
    for what in ('error', 'damage'):
        path, table = own_table(d)
        want = bytes_of(d, path)
        if what == 'damage':
            number(path, table, 8, number(path, table) + 512)
            words = [path]
        else:
            words = failing(path, table)
        text = tool('snapshot', '-d', 'one', *words, status=1)
        assert 'Failed to free the cluster and L1 table' in text, text
        assert 'deleted' in text and 'check -r leaks' in text, text
        assert not tool('snapshot', '-l', path)
        tool('check', '-r', 'all' if what == 'damage' else 'leaks', path)
        tool('check', path, name='qemu-img')
        assert bytes_of(d, path) == want
    path = own_table(d)[0]
    active = number(path, number(path, 40)) & OFFSET
    text = tool('snapshot', '-a', 'one', *failing(path, active), status=1)
    assert 'Failed to free' in text and 'applied' in text, text
    tool('check', '-r', 'leaks', path)
    assert bytes_of(d, path) == b'\1' * (300 << 10) + bytes((1 << 20) -
                                                            (300 << 10))


def test_other_leaks_are_told(d):
    """A resize that cannot free what it cut off says so, once."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', path,
             '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1M', path)
    block = number(path, number(path, 48) + 8 * 4)
    text = tool('resize', '--shrink', *failing(path, block), '256k')
    assert text.count('could not be freed') == 1, text
    assert 'note: ' in text and 'check -r leaks' in text, text
    tool('check', path, status=3)
    tool('check', '-r', 'leaks', path)
    tool('check', path, name='qemu-img')


def full_overlay(d):
    """Every cluster is its own; the refcount block that counts the last ones."""
    base, path = os.path.join(d, 'b.qcow2'), os.path.join(d, 'o.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', base, '1M')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', '-b',
             base, '-F', 'qcow2', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1M', path)
    return path, number(path, number(path, 48) + 8 * 4)


def test_leaks_of_commit_and_convert_are_told(d):
    """Their work is done; what it set free stays counted, and they say so."""
    zeroes = os.path.join(d, 'zeroes')
    with open(zeroes, 'wb') as f:
        f.truncate(1 << 20)
    for what in ('commit', 'convert'):
        path, block = full_overlay(d)
        options, name = failing(path, block)
        if what == 'commit':
            text = tool('commit', options, name)
        else:
            text = tool('convert', '-n', '--target-image-opts', '-f', 'raw',
                        zeroes, name)
        assert text.count('could not be freed') == 1, text
        assert 'note: ' in text and 'check -r leaks' in text, text
        tool('check', path, status=3)
        tool('check', '-r', 'leaks', path)
        tool('check', path, name='qemu-img')
        want = b'\1' if what == 'commit' else b'\0'
        assert bytes_of(d, path) == want * (1 << 20), what


def test_state_of_the_machine(d):
    """It lies behind the disk and is applied with the snapshot; a larger disk
    shows nothing of it."""
    path = os.path.join(d, 'i.qcow2')
    for name in (SLUICE, 'qemu-img'):
        for options in OPTIONS[:1] + OPTIONS[2:5]:
            qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, '1M')
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1M', '-c',
                     'write -b -P 5 0 64k', path)
            run_tool(name, 'snapshot', '-c', 'one', path)
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 0 1M', '-c',
                     'write -b -P 6 0 128k', path)
            tool('snapshot', '-a', 'one', path)
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 1M', '-c',
                     'read -b -P 5 0 64k', '-c', 'read -b -P 0 64k 64k', path)
            tool('check', path)
            tool('check', path, name='qemu-img')
            if 'compat=0.10' in options:
                tool('snapshot', '-d', 'one', path)
            run_tool(SLUICE, 'resize', path, '1G')
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 1M', '-c',
                     'read -P 0 1M 1023M', path)
            tool('check', path)
            tool('check', path, name='qemu-img')


if __name__ == '__main__':
    run(globals())
