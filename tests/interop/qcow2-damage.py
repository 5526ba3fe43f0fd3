#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged qcow2 images: both checks give the same verdict, and what either
repairs the other finds good.

Each row changes a few bytes of a sound image: leaks, refcounts too small,
pointers astray, flags that lie.  Verdicts are compared by class (good, leaks,
corrupt, cannot be opened); where ours is stricter the row says so.  After our
repair qemu-img finds nothing, and what was not damaged reads as before.
"""
import os
import random
import shutil
import subprocess

from seed import SEED
from sluiced import SLUICE, Skip, qemu_img, run, run_tool

KIB, MIB = 1 << 10, 1 << 20
COPIED = 1 << 63
OFFSET = 0x00fffffffffffe00
SIZE = 4 * MIB


class Image:
    """The file, read and written by fields; big-endian."""

    def __init__(self, path, extended=False):
        self.f = open(path, 'r+b')
        self.words = 2 if extended else 1
        self.cluster = 1 << self.get(20, 4)
        self.l1, self.table = self.get(40), self.get(48)

    def get(self, off, n=8):
        self.f.seek(off)
        return int.from_bytes(self.f.read(n), 'big')

    def put(self, off, value, n=8):
        self.f.seek(off)
        self.f.write(value.to_bytes(n, 'big'))

    def end(self):
        self.f.seek(0, os.SEEK_END)
        return self.f.tell()

    def extend(self, clusters=1):
        """Where new clusters are, all zero and of refcount 0."""
        end = -(-self.end() // self.cluster) * self.cluster
        self.f.truncate(end + clusters * self.cluster)
        return end

    def refcount_at(self, host):
        return self.get(self.table) + 2 * (host // self.cluster)

    def l2(self):
        return self.get(self.l1) & OFFSET

    def entry_at(self, i):
        return self.l2() + 8 * self.words * i

    def data(self, i):
        return self.get(self.entry_at(i)) & OFFSET


# What each does to the image, and the cluster of the guest that it spoils.

def leak_one(im):
    im.put(im.refcount_at(im.extend()), 1, 2)


def leak_many(im):
    first = im.extend(5)
    for i in range(5):
        im.put(im.refcount_at(first + i * im.cluster), 3, 2)


def too_many_references(im):
    im.put(im.refcount_at(im.data(1)), 2, 2)


def data_refcount_zero(im):
    im.put(im.refcount_at(im.data(2)), 0, 2)


def l2_refcount_zero(im):
    im.put(im.refcount_at(im.l2()), 0, 2)


def l1_refcount_zero(im):
    im.put(im.refcount_at(im.l1), 0, 2)


def header_refcount_zero(im):
    im.put(im.refcount_at(0), 0, 2)


def copied_missing(im):
    im.put(im.entry_at(1), im.get(im.entry_at(1)) & ~COPIED)


def copied_missing_l1(im):
    im.put(im.l1, im.get(im.l1) & ~COPIED)


def shared_twice(im):
    im.put(im.entry_at(3), im.get(im.entry_at(1)))
    return 3


def past_the_end(im):
    im.put(im.entry_at(1), COPIED | (1 << 40))
    return 1


def not_aligned(im):
    im.put(im.entry_at(1), im.get(im.entry_at(1)) + 512)
    return 1


def into_metadata(im):
    im.put(im.entry_at(1), COPIED | im.l1)
    return 1


def reserved_bits(im):
    im.put(im.entry_at(1), im.get(im.entry_at(1)) | 1 << 58)


def l1_past_the_end(im):
    im.put(im.l1, COPIED | (1 << 40))
    return -1


def l1_not_aligned(im):
    im.put(im.l1, im.get(im.l1) + 512)
    return -1


def table_entry_astray(im):
    im.put(im.table, 1 << 40)


def table_entry_gone(im):
    im.put(im.table, 0)


def table_entry_reserved(im):
    im.put(im.table, im.get(im.table) | 1)


def marked_corrupt(im):
    im.put(72, im.get(72) | 2)


def marked_dirty(im):
    im.put(72, im.get(72) | 1)


DAMAGES = [leak_one, leak_many, too_many_references, data_refcount_zero,
           l2_refcount_zero, l1_refcount_zero, header_refcount_zero,
           copied_missing, copied_missing_l1, shared_twice, past_the_end,
           not_aligned, into_metadata, reserved_bits, l1_past_the_end,
           l1_not_aligned, table_entry_astray, table_entry_gone,
           table_entry_reserved,
           marked_corrupt, marked_dirty]
CLASSES = {0: 'good', 1: 'failed', 2: 'corrupt', 3: 'leaks', 63: 'no check'}


def verdict(program, path, *words):
    p = subprocess.run([program, 'check', '-f', 'qcow2', *words, path],
                       capture_output=True, text=True, check=False)
    assert p.returncode in CLASSES, (program, p.returncode, p.stderr)
    return CLASSES[p.returncode], p.stdout + p.stderr


def make(path, options):
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, str(SIZE))
    run_tool('qemu-io', '-f', 'qcow2', *sum((
        ['-c', 'write -P %d %d 64k' % (i + 1, i * 64 * KIB)]
        for i in range(8)), []), path)


def content(path, d):
    raw = os.path.join(d, 'view.raw')
    p = subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', path,
                        raw], capture_output=True, text=True, check=False)
    assert p.returncode == 0, p.stderr
    with open(raw, 'rb') as f:
        return f.read()


def same_elsewhere(data, spoilt, cluster):
    """Everything but the spoilt cluster as it was written."""
    for i in range(8):
        at = i * 64 * KIB
        if spoilt == -1 or (spoilt is not None and
                            at // cluster == spoilt):
            continue
        assert data[at:at + 64 * KIB] == bytes([i + 1]) * (64 * KIB), i


def one(d, options, damage, good):
    path, theirs = (os.path.join(d, n) for n in ('o.qcow2', 't.qcow2'))
    shutil.copy(good, path)
    spoilt = damage(Image(path, 'extended' in options))
    shutil.copy(path, theirs)
    ours, ours_text = verdict(SLUICE, path)
    their, their_text = verdict('qemu-img', theirs)
    assert ours == their, '%s: %s, qemu-img says %s\n%s\n%s' % (
        damage.__name__, ours, their, ours_text, their_text)
    # Looking changes nothing.
    with open(path, 'rb') as a, open(theirs, 'rb') as b:
        assert a.read() == b.read() or damage is marked_dirty
    ours, ours_text = verdict(SLUICE, path, '-r', 'all')
    their, their_text = verdict('qemu-img', theirs, '-r', 'all')
    if ours == 'failed':
        assert their == 'failed', (damage.__name__, ours_text, their_text)
        return 'both give up'
    assert ours == 'good', (damage.__name__, ours, ours_text)
    after, text = verdict('qemu-img', path)
    assert after == 'good', (damage.__name__, 'after our repair', text)
    same_elsewhere(content(path, d), spoilt, 64 * KIB)
    if their == 'good':
        after, text = verdict(SLUICE, theirs)
        assert after == 'good', (damage.__name__, 'after their repair', text)
    return 'repaired'


def all_damages(d, options):
    good = os.path.join(d, 'good.qcow2')
    make(good, options)
    if verdict(SLUICE, good)[0] == 'no check':
        raise Skip('qcow2 images cannot be checked')
    wrong = []
    for damage in DAMAGES:
        try:
            what = one(d, options, damage, good)
            print('#   %s: %s' % (damage.__name__, what))
        except AssertionError as e:
            wrong.append(str(e))
    assert not wrong, '\n'.join(wrong)


def test_version_3(d):
    all_damages(d, 'compat=1.1')


def test_version_2(d):
    global DAMAGES
    marks, DAMAGES = DAMAGES, [x for x in DAMAGES if 'marked' not in x.__name__]
    try:
        all_damages(d, 'compat=0.10')
    finally:
        DAMAGES = marks


def test_extended(d):
    all_damages(d, 'extended_l2=on')


def test_random_bytes(d):
    """Bytes changed anywhere in the metadata: nobody crashes, and where one
    finds an image good the other finds no more than leaks."""
    rng = random.Random(SEED)
    good, path = (os.path.join(d, n) for n in ('good.qcow2', 'o.qcow2'))
    make(good, 'cluster_size=64k')
    if verdict(SLUICE, good)[0] == 'no check':
        raise Skip('qcow2 images cannot be checked')
    im = Image(good)
    places = [(104, 8), (im.table, 8), (im.get(im.table), 32),
              (im.l1, 8), (im.l2(), 64), (8, 56), (72, 32)]
    for k in range(120):
        shutil.copy(good, path)
        base, n = rng.choice(places)
        at = base + rng.randrange(n)
        with open(path, 'r+b') as f:
            f.seek(at)
            old = f.read(1)[0]
            f.seek(at)
            f.write(bytes([old ^ (1 << rng.randrange(8))]))
        ours, our_text = verdict(SLUICE, path)
        theirs, their_text = verdict('qemu-img', path)
        # What the header may say when it says nothing is a matter of taste.
        if at >= 104 and ours != theirs and 'good' in (ours, theirs):
            assert {ours, theirs} <= {'good', 'leaks'}, \
                'byte %d, %02x: %s, qemu-img says %s\n%s\n%s' % (
                    at, old, ours, theirs, our_text, their_text)


if __name__ == '__main__':
    run(globals())
