#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A repair of a qcow2 image never changes what a guest can read.

Images of random content over a backing file are damaged at random: entries of
L1 and L2 tables, subcluster bits, compressed clusters, refcounts.  What could
be read before, of the disk and of its snapshots, reads the same after
`check -r all`, by sluice and by qemu-img; what could not be read never shows the
backing file.  SEED=N ROUNDS=1 runs one seed again.
"""
import itertools
import os
import random
import subprocess

import nbd

from seed import SEED
from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = int(os.environ.get('ROUNDS', '40'))
SIZE = MIB
COPIED, COMPRESSED, ZERO = 1 << 63, 1 << 62, 1
OFFSET = 0x00fffffffffffe00
BASE = 0xba
OPTIONS = ['cluster_size=4k', 'cluster_size=64k',
           'cluster_size=16k,extended_l2=on', 'cluster_size=64k,extended_l2=on',
           'compat=0.10,cluster_size=4k', 'compat=0.10,cluster_size=512',
           'cluster_size=512', 'cluster_size=4k,refcount_bits=64',
           'cluster_size=64k,compression_type=zstd',
           'compat=0.10,cluster_size=64k']


class Image:
    """The file, read and written by fields; big-endian."""

    def __init__(self, path, rng):
        self.f = open(path, 'r+b')
        self.rng = rng
        self.version = self.get(4, 4)
        self.bits = self.get(20, 4)
        self.cluster = 1 << self.bits
        self.extended = self.version > 2 and bool(self.get(72) & 16)
        self.words = 16 if self.extended else 8
        self.n_l1, self.l1 = self.get(36, 4), self.get(40)
        self.table = self.get(48)
        self.order = self.get(96, 4) if self.version > 2 else 4

    def get(self, off, n=8):
        self.f.seek(off)
        return int.from_bytes(self.f.read(n), 'big')

    def put(self, off, value, n=8):
        self.f.seek(off)
        self.f.write(value.to_bytes(n, 'big'))
        self.f.flush()

    def end(self):
        self.f.seek(0, os.SEEK_END)
        return -(-self.f.tell() // self.cluster) * self.cluster

    def tables(self):
        """Places of L1 entries that lead to a table."""
        return [self.l1 + 8 * i for i in range(self.n_l1)
                if self.get(self.l1 + 8 * i) & OFFSET]

    def entries(self, want):
        """Places of L2 entries that are so."""
        res = []
        for at in self.tables():
            host = self.get(at) & OFFSET
            if host % self.cluster or host >= self.end():
                continue
            res += [p for p in range(host, host + self.cluster, self.words)
                    if want(self.get(p))]
        return res

    def choose(self, want):
        found = self.entries(want)
        return self.rng.choice(found) if found else None

    def data(self):
        return self.choose(lambda e: e & OFFSET and not e & COMPRESSED)


# Each damages @im, or does nothing where there is nothing of the kind.

def past_the_end(im):
    at = im.data()
    if at:
        im.put(at, COPIED | im.end() + (im.rng.randrange(100) << im.bits))


def not_aligned(im):
    at = im.data()
    if at and im.cluster > 512:
        im.put(at, im.get(at) + 512)


def reserved(im):
    at = im.data()
    if at:
        im.put(at, im.get(at) | 1 << im.rng.choice([4, 58, 61]))


def zero_flag(im):
    at = im.data()
    if at and not im.extended:
        im.put(at, im.get(at) | ZERO)


def copied(im):
    at = im.data()
    if at:
        im.put(at, im.get(at) ^ COPIED)


def twice(im):
    a, b = im.data(), im.data()
    if a and b:
        im.put(a, im.get(b))
        if im.extended:
            im.put(a + 8, im.get(b + 8))


def both_bits(im):
    """A subcluster that is data and zero."""
    at = im.data()
    if at and im.extended:
        k = im.rng.randrange(32)
        im.put(at + 8, im.get(at + 8) | 1 << k | 1 << k + 32)


def random_bits(im):
    at = im.data()
    if at and im.extended:
        im.put(at + 8, im.rng.getrandbits(64))


def bits_without_place(im):
    at = im.choose(lambda e: e == 0)
    if at and im.extended:
        im.put(at + 8, im.rng.getrandbits(64))


def packed(im):
    return im.choose(lambda e: e & COMPRESSED)


def packed_copied(im):
    at = packed(im)
    if at:
        im.put(at, im.get(at) | COPIED)


def packed_too_long(im):
    """It claims as many sectors as can be said."""
    at = packed(im)
    if at:
        x = 62 - (im.bits - 8)
        im.put(at, im.get(at) | COMPRESSED - 1 & ~((1 << x) - 1))


def last_packed_too_long(im):
    x = 62 - (im.bits - 8)
    found = im.entries(lambda e: e & COMPRESSED)
    if found:
        at = max(found, key=lambda p: im.get(p) & (1 << x) - 1)
        im.put(at, im.get(at) | COMPRESSED - 1 & ~((1 << x) - 1))


def packed_astray(im):
    at = packed(im)
    if at:
        x = 62 - (im.bits - 8)
        im.put(at, im.get(at) & ~((1 << x) - 1) | im.end() + 70000)


def packed_bits(im):
    at = packed(im)
    if at and im.extended:
        im.put(at + 8, im.rng.getrandbits(64))


def l1_past_the_end(im):
    im.put(im.rng.choice(im.tables()), COPIED | im.end() + im.cluster)


def l1_not_aligned(im):
    at = im.rng.choice(im.tables())
    if im.cluster > 512:
        im.put(at, im.get(at) + 512)


def l1_flags(im):
    at = im.rng.choice(im.tables())
    im.put(at, im.get(at) ^ im.rng.choice([COPIED, 1 << 60, 1 << 3]))


def l1_twice(im):
    """One table for two ranges of the disk."""
    im.put(im.rng.choice(im.tables()), im.get(im.rng.choice(im.tables())))


def l1_onto_data(im):
    """A table that lies where the guest's data are."""
    at = im.data()
    if at:
        im.put(im.rng.choice(im.tables()), im.get(at) & (COPIED | OFFSET))


def refcount(im):
    width = 1 << im.order
    block = im.get(im.table)
    i = im.rng.randrange(im.end() >> im.bits)
    # An earlier damage may have changed what leads to it.
    if 0 < block < im.end() and block % im.cluster == 0 and \
            i < im.cluster * 8 // width:
        im.put(block + i * width // 8, im.rng.choice([0, 1, 2, 7]), width // 8)


def refcounts_gone(im):
    im.put(im.table, im.rng.choice([0, 1, 1 << 45]))


DAMAGES = [past_the_end, not_aligned, reserved, zero_flag, copied, twice,
           both_bits, random_bits, bits_without_place, packed_copied,
           packed_too_long, last_packed_too_long, packed_astray, packed_bits,
           l1_past_the_end, l1_not_aligned, l1_flags, l1_twice, l1_onto_data,
           refcount, refcounts_gone]
# What lies where something else is may keep what it says.
MAY_STAY = {l1_onto_data}
# After these an entry says that what it leads to is the backing file's, or leads
# to a cluster with bytes that were copied from there.
SAYS_BASE = {both_bits, random_bits, bits_without_place, packed_bits, twice,
             l1_twice}


def make(d, rng, options):
    base, path = d + '/base.raw', d + '/i.qcow2'
    with open(base, 'wb') as f:
        f.write(bytes([BASE]) * SIZE)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, '-b', base, '-F',
             'raw', path, str(SIZE))
    # QEMU compresses only into clusters that have nothing.
    words = []
    for off in rng.sample(range(0, SIZE, 64 * KIB), rng.randrange(5)):
        words += ['-c', 'write -c -P %d %d 64k' % (rng.randrange(1, 180), off)]
    run_tool('qemu-io', '-f', 'qcow2', *words, path)
    for round_ in range(rng.choice([1, 2])):
        words, kinds = [], ['write -P %d'] * 3 + ['discard']
        if 'compat=0.10' not in options:
            kinds += ['write -z'] * 2
        for _ in range(30):
            kind = rng.choice(kinds)
            if '%d' in kind:
                kind = kind % rng.randrange(1, 180)
            unit = 64 * KIB if kind == 'discard' else 2 * KIB
            n = rng.choice([1, 1, 2, 8]) * unit
            off = rng.randrange(0, SIZE - n + 1, unit)
            words += ['-c', '%s %d %d' % (kind, off, n)]
        run_tool('qemu-io', '-f', 'qcow2', '-d', 'unmap', *words, path)
        if round_ == 0 and rng.random() < 0.5:
            qemu_img('snapshot', '-c', 'one', path)
    return path


def read_all(d, path):
    """Piece -> bytes, or None where there is an error."""
    res = {}
    with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                 '--drive', 'id=v,format=qcow2,file=%s,readonly=on' % path,
                 '--export', 'nbd,id=e,node-name=v,name=v'):
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
        for off in range(0, SIZE, 512):
            try:
                res[off] = bytes(h.pread(512, off))
            except nbd.Error:
                res[off] = None
        h.shutdown()
    return res


def read_snapshot(d, path):
    p = subprocess.run([SLUICE, 'convert', '-l', 'one', '-O', 'raw', path,
                        d + '/snap'], capture_output=True, text=True,
                       check=False)
    if p.returncode:
        return None
    with open(d + '/snap', 'rb') as f:
        return f.read()


def read_sound(d, path):
    """Of an image that is whole, the disk and the snapshot, or None."""
    res = []
    for words in [], ['-l', 'one']:
        p = subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', *words,
                            '-O', 'raw', path, d + '/sound'],
                           capture_output=True, check=False)
        if p.returncode:
            return res + [None]
        with open(d + '/sound', 'rb') as f:
            res.append(f.read())
    return res


def never_older(sound, before, after, what):
    """Where @before could not be read @after shows no backing file that was
    hidden."""
    base = bytes([BASE]) * 512
    for off in range(0, SIZE, 512):
        assert (before and before[off] is not None) or not after or \
            after[off] != base or sound[off:off + 512] == base, \
            '%s shows the backing file at %d' % (what, off)


def check(tool, path, *words):
    p = subprocess.run([tool, 'check', '-f', 'qcow2', *words, path],
                       capture_output=True, text=True, check=False)
    return p.returncode, p.stdout + p.stderr


def compare(before, after, may_stay):
    for off, data in before.items():
        if data is not None:
            assert after[off] == data, 'offset %d was %r, is %r' % (
                off, data[:4], after[off] and after[off][:4])
        elif not may_stay:
            assert after[off] is not None, 'offset %d cannot be read' % off


def one_seed(d, seed):
    rng = random.Random(seed)
    options = OPTIONS[seed % len(OPTIONS)]
    path = make(d, rng, options)
    one_image(d, seed, rng, path, options, [
        rng.choice(DAMAGES) for _ in range(rng.choice([1, 1, 2, 5]))])


def one_image(d, seed, rng, path, options, damages):
    sound = read_sound(d, path)
    im = Image(path, rng)
    for damage in damages:
        damage(im)
    names = ' '.join(x.__name__ for x in damages)
    print('# seed %d: %s: %s' % (seed, options, names))
    may_stay = bool(MAY_STAY & set(damages))
    before, snapshot = read_all(d, path), read_snapshot(d, path)
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0 or may_stay and status in (2, 3), text
    after, shown = read_all(d, path), read_snapshot(d, path)
    compare(before, after, may_stay)
    if snapshot is not None:
        assert shown == snapshot, 'the snapshot'
    if not SAYS_BASE & set(damages):
        never_older(sound[0], before, after, 'the disk')
        never_older(sound[1], None, snapshot is None and shown and {
            o: shown[o:o + 512] for o in before}, 'the snapshot')
    if status == 0:
        status, text = check('qemu-img', path)
        assert status == 0, text
        qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, d + '/raw')
        with open(d + '/raw', 'rb') as f:
            data = f.read()
        compare(before, {o: data[o:o + 512] for o in before}, may_stay)


def test_each_damage(d):
    """Alone, in images of each kind."""
    for damage in DAMAGES:
        for options in (OPTIONS[0], OPTIONS[2], OPTIONS[4]):
            rng = random.Random(SEED)
            one_image(d, SEED, rng, make(d, rng, options), options, [damage])


def test_a_lost_table(d):
    """What it led to reads as zeroes, and is not what the backing file has
    there: of the disk, and of a snapshot."""
    for options in ('cluster_size=512', 'compat=0.10,cluster_size=512',
                    'cluster_size=16k,extended_l2=on', 'cluster_size=64k'):
        for where in ('disk', 'snapshot', 'both'):
            for damage in (l1_past_the_end, l1_not_aligned):
                one_lost_table(d, options, where, damage)


def one_lost_table(d, options, where, damage):
    path, base = d + '/i.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.write(bytes([BASE]) * SIZE)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, '-b', base, '-F',
             'raw', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 %d' % SIZE, path)
    qemu_img('snapshot', '-c', 'one', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 0 %d' % SIZE, path)
    im = Image(path, random.Random(SEED))
    tables = [im.l1, im.get(im.get(64))]
    tables = tables[:1] if where == 'disk' else tables[where == 'snapshot':]
    for l1 in tables:
        im.n_l1, im.l1 = 1, l1
        damage(im)
    im.f.close()
    if damage is l1_not_aligned and im.cluster == 512:
        return
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0, text
    assert check('qemu-img', path)[0] == 0
    lost = min(SIZE, im.cluster * im.cluster // im.words)
    for l1, words, byte in ((tables[0] if where != 'snapshot' else 0, [], 2),
                            (tables[-1] if where != 'disk' else 0,
                             ['-l', 'one'], 1)):
        got = read_by_qemu(d, path, *words)
        n = lost if l1 else 0
        assert got == bytes(n) + bytes([byte]) * (SIZE - n), \
            (options, where, damage, got[0])
    assert read_snapshot(d, path) == read_by_qemu(d, path, '-l', 'one')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 0 4k', '-c',
             'read -P 9 0 4k', path)
    assert check('qemu-img', path)[0] == 0


def test_a_table_that_is_data(d):
    """What such a table led to is not the backing file's, whatever its entries
    look like: of the disk, and of a snapshot."""
    for options in ('cluster_size=512', 'cluster_size=4k',
                    'compat=0.10,cluster_size=512',
                    'compat=0.10,cluster_size=4k',
                    'cluster_size=16k,extended_l2=on', 'extended_l2=on'):
        for where in ('disk', 'snapshot'):
            # Not aligned; past the end, with bits for data and zeroes; a zero
            # cluster, or the same; compressed.
            for byte in (0x8c, 0x80, 0x01, 0x40):
                one_table_that_is_data(d, options, where, byte)


def one_table_that_is_data(d, options, where, byte):
    path, base = d + '/i.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.write(bytes([BASE]) * SIZE)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, '-b', base, '-F',
             'raw', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P %d 0 %d' % (byte, SIZE),
             path)
    words = []
    if where == 'snapshot':
        qemu_img('snapshot', '-c', 'one', path)
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 0 %d' % SIZE, path)
        words = ['-l', 'one']
    im = Image(path, random.Random(SEED))
    at = im.get(im.get(64)) if words else im.l1
    # No other table leads to what the table itself led to.
    im.put(at, im.get(im.get(at) & OFFSET) & (OFFSET | COPIED))
    im.f.close()
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0, text
    assert check('qemu-img', path)[0] == 0
    lost = min(SIZE, im.cluster * im.cluster // im.words)
    got = read_by_qemu(d, path, *words)
    assert got == bytes(lost) + bytes([byte]) * (SIZE - lost), \
        (options, where, byte, set(got))
    if words:
        assert read_snapshot(d, path) == got
        assert read_by_qemu(d, path) == b'\2' * SIZE
    else:
        assert b''.join(read_all(d, path).values()) == got


def test_an_extended_entry_that_is_none(d):
    """Where an entry cannot be one, its bits do not say what is the backing
    file's; where it can, they do."""
    path, base = d + '/i.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.write(bytes([BASE]) * SIZE)
    far, both = COPIED | 1 << 40, 1 << 2 | 1 << 34
    for more in '', ',data_file=%s/data' % d:
        for place, bits, rest in ((512, 0, 0), (512, both, 0), (0, both, BASE),
                                  (far, both, 0), (far, 0, BASE)):
            qemu_img('create', '-q', '-f', 'qcow2', '-o',
                     'extended_l2=on' + more, '-b', base, '-F', 'raw', path)
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 4k', path)
            im = Image(path, random.Random(SEED))
            at = im.data() or im.choose(lambda e: e == COPIED)
            im.put(at, im.get(at) | place)
            im.put(at + 8, im.get(at + 8) | bits)
            im.f.close()
            status, text = check(SLUICE, path, '-r', 'all')
            assert status == 0, text
            assert check('qemu-img', path)[0] == 0
            got = read_by_qemu(d, path)
            own = 0 if place else 1
            assert got[:6 * KIB] == bytes([own]) * 4 * KIB + \
                bytes([0 if bits else rest]) * 2 * KIB, (more, place, bits)
            assert got[6 * KIB:64 * KIB] == bytes([rest]) * 58 * KIB, \
                (more, place, bits)
            assert got[64 * KIB:] == bytes([BASE]) * (SIZE - 64 * KIB)


def test_two_damages_of_one_entry(d):
    """What is wrong besides does not hide the second."""
    path = d + '/i.qcow2'
    damages = [packed_copied, packed_too_long, packed_astray, packed_bits]
    for options in ('extended_l2=on', 'cluster_size=4k'):
        for pair in itertools.permutations(damages, 2):
            qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path,
                     str(SIZE))
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -c -P 5 0 64k',
                     path)
            one_image(d, SEED, random.Random(SEED), path, options, pair)


def test_a_length_that_reaches_into_something_else(d):
    """Compressed data are recorded to go on into the L1 table of a snapshot and
    into an L2 table in which an entry is wrong.  Neither is taken for data."""
    path = d + '/i.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', path, '4M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -c -P 5 0 4k', path)
    qemu_img('snapshot', '-c', 'one', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -c -P 6 8k 4k', '-c',
             'write -P 7 2M 4k', path)
    im = Image(path, random.Random(SEED))
    for table in im.entries(lambda e: e & COMPRESSED):
        im.put(table, im.get(table) | COMPRESSED - 1 & ~((1 << 58) - 1))
    second = im.get(im.tables()[1]) & OFFSET
    im.put(second + 8, COPIED | 1 << 20)
    im.put(second, im.get(second) | 1 << 2)
    im.f.close()
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0 and 'beginning of something else' in text, text
    assert check('qemu-img', path)[0] == 0
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 5 0 4k', '-c',
             'read -P 6 8k 4k', '-c', 'read -P 7 2M 4k', '-c',
             'read -P 0 2052k 4k', path)
    assert read_by_qemu(d, path, '-l', 'one')[:4 * KIB] == b'\5' * 4 * KIB


def test_a_subcluster_that_is_both(d):
    """It reads as zeroes afterwards; the others stay what they are, those that the
    image does not have, too."""
    path, base = d + '/i.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.write(b'\7' * SIZE)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'extended_l2=on', '-b', base,
             '-F', 'raw', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 4k 2k', '-c',
             'write -z 4k 2k', '-c', 'write -P 2 8k 2k', path)
    im = Image(path, random.Random(SEED))
    at = im.data()
    im.put(at + 8, im.get(at + 8) | 1 << 2)
    assert check(SLUICE, path)[0] == 2
    assert check(SLUICE, path, '-r', 'all')[0] == 0
    assert check('qemu-img', path)[0] == 0
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 7 0 4k', '-c',
             'read -P 0 4k 2k', '-c', 'read -P 7 6k 2k', '-c',
             'read -P 2 8k 2k', '-c', 'read -P 7 10k 54k', path)


def test_more_references_than_can_be_counted(d):
    """Nothing is repaired, and nothing is said to be."""
    path = d + '/i.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=1', path, '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 64k', path)
    im = Image(path, random.Random(SEED))
    l2 = im.get(im.l1) & OFFSET
    im.put(l2 + 8, im.get(l2))
    for words in [], ['-r', 'all']:
        p = subprocess.run([SLUICE, 'check', *words, path], text=True,
                           capture_output=True, check=False)
        assert p.returncode == 2 and 'repaired' not in p.stdout, p
        assert '2 references to cluster' in p.stderr, p
        assert '1 errors were found' in p.stdout, p


def twins(d, options, counted):
    """An image whose second L1 entry leads to the table of the first; with
    refcounts that know it, or without."""
    path = d + '/i.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, '1M')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 20k', '-c',
             'write -P 2 512k 100k', path)
    im = Image(path, random.Random(SEED))
    a = im.tables()[0]
    im.put(a + 8, im.get(a))
    im.f.close()
    if counted:
        check('qemu-img', path, '-r', 'all')
        assert check('qemu-img', path)[0] == 0
    return path


def read_by_qemu(d, path, *words):
    qemu_img('convert', *words, '-f', 'qcow2', '-O', 'raw', path, d + '/q')
    with open(d + '/q', 'rb') as f:
        return f.read()


def test_a_table_that_two_entries_lead_to(d):
    """A read refuses it, so a check reports it, whatever the refcounts say; each
    gets a table of its own, and both show what QEMU read before."""
    for options in ('cluster_size=512', 'compat=0.10,cluster_size=512',
                    'cluster_size=512,refcount_bits=16'):
        for counted in (False, True):
            path = twins(d, options, counted)
            want = read_by_qemu(d, path)
            assert want[:100] == want[32 * KIB:32 * KIB + 100] == b'\1' * 100
            assert read_all(d, path)[0] is None
            status, text = check(SLUICE, path)
            assert status == 2 and 'another L1 entry' in text, text
            status, text = check(SLUICE, path, '-r', 'all')
            assert status == 0, text
            assert b''.join(read_all(d, path).values()) == want
            assert check(SLUICE, path)[0] == 0
            assert check('qemu-img', path)[0] == 0
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 32k 1k',
                     '-c', 'read -P 1 0 20k', path)


def test_such_a_table_of_a_snapshot(d):
    path = twins(d, 'cluster_size=512', True)
    qemu_img('snapshot', '-c', 'one', path)
    want, shown = read_by_qemu(d, path), read_by_qemu(d, path, '-l', 'one')
    assert check(SLUICE, path)[0] == 2
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0, text
    assert check('qemu-img', path)[0] == 0
    assert read_by_qemu(d, path) == want == shown
    assert read_by_qemu(d, path, '-l', 'one') == shown
    assert read_snapshot(d, path) == shown


def test_an_entry_past_the_end_stays_so(d):
    """Also when a repair appends to the file before it comes to that entry."""
    path = twins(d, 'cluster_size=512', False)
    im = Image(path, random.Random(SEED))
    table = im.get(im.tables()[-1]) & OFFSET
    im.put(table, COPIED | im.end())
    im.f.close()
    status, text = check(SLUICE, path, '-r', 'all')
    assert status == 0, text
    assert not any(read_by_qemu(d, path)[608 * KIB:608 * KIB + 512])
    assert check('qemu-img', path)[0] == 0


def test_random_damage(d):
    for seed in range(SEED, SEED + ROUNDS):
        try:
            one_seed(d, seed)
        except BaseException:
            print('# seed %d failed: run again with SEED=%d ROUNDS=1' %
                  (seed, seed))
            raise


if __name__ == '__main__':
    run(globals())
