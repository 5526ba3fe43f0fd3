#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check and repair of qcow2 images: the verdict and the counts are those of
qemu-img check, and what we have repaired both find sound."""
import json
import os
import random
import struct
import subprocess

from seed import SEED
from sluiced import SLUICE, qemu_img, run, run_tool

MIB = 1 << 20
SIZE = 6 * MIB
COUNTS = ('corruptions', 'leaks', 'total-clusters', 'allocated-clusters',
          'fragmented-clusters', 'compressed-clusters', 'image-end-offset',
          'check-errors')


def check(tool, path, *args):
    """Exit status and result."""
    p = subprocess.run([tool, 'check', '-f', 'qcow2', '--output=json', *args,
                        path], capture_output=True, text=True, check=False)
    assert p.returncode in (0, 2, 3), (tool, p.returncode, p.stdout, p.stderr)
    return p.returncode, json.loads(p.stdout), p.stderr


def same(name, path):
    ours, theirs = check(SLUICE, path), check('qemu-img', path)
    assert ours[0] == theirs[0], (name, ours, theirs)
    for key in COUNTS:
        assert ours[1].get(key, 0) == theirs[1].get(key, 0), (
            name, key, ours, theirs)
    return ours


def repair(name, path, data=None):
    status = check(SLUICE, path, '-r', 'all')
    assert status[0] == 0, (name, status)
    assert same(name + ' repaired', path)[0] == 0, name
    if data is not None:
        raw = path + '.raw'
        qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
        with open(raw, 'rb') as f:
            assert f.read() == data, name


class Image:
    """Where the structures of an image are."""
    def __init__(self, path):
        self.path = path
        with open(path, 'rb') as f:
            h = f.read(104)
        self.bits, = struct.unpack_from('>I', h, 20)
        self.l1_size, self.l1, self.reftable = struct.unpack_from(
            '>IQQ', h, 36)
        self.order, = struct.unpack_from('>I', h, 96)
        self.block = self.u64(self.reftable)
        self.l2 = [self.u64(self.l1 + i * 8) & ((1 << 56) - 1)
                   for i in range(self.l1_size)]
        self.l2 = [a for a in self.l2 if a]

    def u64(self, at):
        with open(self.path, 'rb') as f:
            f.seek(at)
            return struct.unpack('>Q', f.read(8).ljust(8, b'\0'))[0]

    def put(self, at, data):
        with open(self.path, 'r+b') as f:
            f.seek(at)
            f.write(data)


def make(path, rng, options, compressed=False):
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, str(SIZE))
    words = ['qemu-io', '-f', 'qcow2', '-d', 'unmap']
    for _ in range(30):
        off = rng.randrange(0, SIZE - 200000) // 512 * 512
        kind = rng.choice(['write -P %d' % rng.randrange(1, 255)] * 3 +
                          ['write -z', 'discard'])
        words += ['-c', '%s %d %d' % (kind, off, rng.choice(
            [512, 65536, 196608]))]
    run_tool(*words, path)
    if compressed:
        compressed = path + '.compressed'
        qemu_img('convert', '-c', '-f', 'qcow2', '-O', 'qcow2', '-o', options,
                 path, compressed)
        os.rename(compressed, path)
    raw = path + '.raw'
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        return f.read()


KINDS = ['cluster_size=64k', 'cluster_size=4k', 'cluster_size=512',
         'cluster_size=2M', 'cluster_size=64k,extended_l2=on',
         'cluster_size=4k,refcount_bits=1', 'cluster_size=4k,refcount_bits=8',
         'cluster_size=4k,refcount_bits=64', 'compat=0.10']


def test_sound(d):
    """Images without a fault: the same statistics; with snapshots, too."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i.qcow2')
    for kind in KINDS:
        for compressed in (True, False):
            make(path, rng, kind, compressed)
            assert same(kind, path)[0] == 0
        if 'refcount_bits=1' not in kind:
            qemu_img('snapshot', '-c', 'one', path)
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 100000', path)
            qemu_img('snapshot', '-c', 'two', path)
            assert same(kind + ' snapshots', path)[0] == 0


def test_refcounts(d):
    """Refcounts that are wrong: leaks, and clusters in use that count as free;
    repaired in place, the data untouched."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i.qcow2')
    for kind in ('cluster_size=64k', 'cluster_size=4k', 'compat=0.10',
                 'cluster_size=64k,extended_l2=on'):
        for _ in range(3):
            data = make(path, rng, kind)
            img = Image(path)
            clusters = os.path.getsize(path) >> img.bits
            for _ in range(5):
                i = rng.randrange(0, clusters)
                img.put(img.block + i * 2, struct.pack(
                    '>H', rng.choice([0, 1, 2, 7])))
            same(kind, path)
            leaks = path + '.leaks'
            subprocess.run(['cp', path, leaks], check=True)
            check(SLUICE, leaks, '-r', 'leaks')
            assert check('qemu-img', leaks)[1].get('leaks', 0) == 0
            repair(kind, path, data)


def test_entries(d):
    """Flags and offsets of table entries that make no sense."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i.qcow2')
    for kind in ('cluster_size=64k', 'cluster_size=4k'):
        data = make(path, rng, kind)
        img = Image(path)
        for table in img.l2:          # COPIED is wrong: no data is lost
            for i in rng.sample(range((1 << img.bits) // 8), 40):
                e = img.u64(table + i * 8)
                if e & ((1 << 56) - 512):
                    img.put(table + i * 8, struct.pack('>Q', e ^ 1 << 63))
        img.put(img.l1, struct.pack('>Q', img.u64(img.l1) & ~(1 << 63)))
        same(kind + ' copied', path)
        repair(kind + ' copied', path, data)
        entries = [table + i * 8 for table in img.l2
                   for i in range((1 << img.bits) // 8)
                   if img.u64(table + i * 8) >> 63]
        for at in rng.sample(entries, 3):
            img.put(at, struct.pack('>Q', 1 << 63 | rng.choice(
                [0x10200, 1 << 40, 0x33300])))
        status = check(SLUICE, path)
        assert status[0] == 2 and status[1]['corruptions'] >= 3, status
        repair(kind + ' entries', path)


def test_rebuild(d):
    """Without refcounts that can be used: all are made anew."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i.qcow2')
    for kind in KINDS:
        data = make(path, rng, kind)
        img = Image(path)
        img.put(img.reftable, struct.pack('>Q', rng.choice(
            [0, 0, 513, 1 << 45, img.l1])))
        assert check(SLUICE, path)[0] == 2, kind
        repair(kind, path, data)
        # The new structure can be written to by both.
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 0 300000', path)
        assert same(kind + ' used', path)[0] == 0


def test_dirty(d):
    """An image that was not closed properly is repaired when it is opened for
    writing; a corrupt one is refused until it is repaired."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i.qcow2')
    data = make(path, rng, 'lazy_refcounts=on')
    img = Image(path)
    img.put(72, struct.pack('>Q', 1))
    img.put(img.block, bytes(1 << img.bits))    # as if never written
    run_tool(SLUICE, 'resize', '-f', 'qcow2', path, str(SIZE + MIB))
    img = Image(path)
    assert img.u64(72) == 0, 'still dirty'
    assert same('dirty', path)[0] == 0
    img.put(72, struct.pack('>Q', 2))
    p = subprocess.run([SLUICE, 'resize', '-f', 'qcow2', path,
                        str(SIZE + 2 * MIB)], capture_output=True, text=True,
                       check=False)
    assert p.returncode != 0 and 'corrupt' in p.stderr, p
    repair('corrupt', path, data + bytes(MIB))
    assert img.u64(72) == 0, 'still corrupt'
    run_tool(SLUICE, 'resize', '-f', 'qcow2', path, str(SIZE + 2 * MIB))


if __name__ == '__main__':
    run(globals())
