#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Streams on file systems that share extents: nothing is copied that can be
shared, everything reads as before, and what must not be shared is not.

Sharing is seen with FIEMAP, content with qemu-img convert and a hash, the
structure with qemu-img check.
"""
import array
import fcntl
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), 'lib'))
from seed import SEED  # noqa: E402
from sluiced import Skip, Sluiced, run_tool  # noqa: E402

MIB = 1 << 20
CLUSTER = 64 << 10
FS_IOC_FIEMAP = 0xc020660b
FIEMAP_FLAG_SYNC = 1
FIEMAP_EXTENT_LAST, FIEMAP_EXTENT_SHARED = 1, 0x2000
SHARING = ('xfs', 'btrfs')
MKFS = {
    'xfs': ['mkfs.xfs', '-q', '-f'],
    'btrfs': ['mkfs.btrfs', '-q', '-f'],
    'ext4': ['mkfs.ext4', '-q', '-F'],
}


def shared_bytes(path):
    """Bytes of extents that the file system marks as shared."""
    total, at, last = 0, 0, False
    with open(path, 'rb') as f:
        while not last:
            count = 256
            buf = array.array('B', struct.pack(
                '=QQLLLL', at, (1 << 63) - at, FIEMAP_FLAG_SYNC, 0, count, 0) +
                bytes(56 * count))
            fcntl.ioctl(f, FS_IOC_FIEMAP, buf)
            got = struct.unpack_from('=L', buf, 20)[0]
            last = got == 0
            for i in range(got):
                logical, _, length, _, _, flags = struct.unpack_from(
                    '=QQQQQL', buf, 32 + 56 * i)
                total += length if flags & FIEMAP_EXTENT_SHARED else 0
                last = last or flags & FIEMAP_EXTENT_LAST
                at = logical + length
    return total


def make_base(path, size, holes=()):
    """Random bytes but for @holes, (offset, length)."""
    rng = random.Random(SEED)
    with open(path, 'wb') as f:
        f.truncate(size)
        for off in range(0, size, MIB):
            if not any(a <= off < a + n for a, n in holes):
                f.seek(off)
                f.write(rng.randbytes(min(MIB, size - off)))
        f.flush()
        os.fsync(f.fileno())


def make_overlay(path, base, fmt, size=None, kind='qed', options=''):
    run_tool('qemu-img', 'create', '-q', '-f', kind, '-o',
             'cluster_size=%d%s' % (CLUSTER, options), '-b', base, '-F', fmt,
             path, *([str(size)] if size else []))


def digest(path, fmt):
    """A hash of the disk, read by another program; its chain included."""
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as d:
        raw = os.path.join(d, 'raw')
        run_tool('qemu-img', 'convert', '-U', '-f', fmt, '-O', 'raw', path, raw)
        h = hashlib.sha256()
        with open(raw, 'rb') as f:
            for block in iter(lambda: f.read(MIB), b''):
                h.update(block)
        return h.hexdigest()


def file_node(path, direct=False):
    return {'driver': 'file', 'filename': path,
            'cache': {'direct': direct, 'no-flush': False}}


def raw_node(path, **more):
    return dict({'driver': 'raw', 'node-name': 'base', 'read-only': True,
                 'file': file_node(path)}, **more)


def stream(d, top, backing, direct=False, kind='qed'):
    """Stream all of it; the overlay must need nobody afterwards."""
    before = digest(top, kind)
    node = {'driver': kind, 'node-name': 'top', 'backing': backing,
            'file': file_node(top, direct)}
    with tempfile.TemporaryDirectory(dir=d) as run_dir:
        with Sluiced(run_dir, '--object', 'throttle-group,id=g',
                     '--blockdev', json.dumps(node)) as s:
            s.qmp.cmd('block-stream', device='top', job_id='j')
            end = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
            assert 'error' not in end['data'], end
            assert end['data']['offset'] == end['data']['len'], end
    run_tool('qemu-img', 'check', '-q', '-f', kind, top)
    info = json.loads(run_tool('qemu-img', 'info', '--output=json', top))
    assert 'backing-filename' not in info, info
    assert digest(top, kind) == before
    return shared_bytes(top)


class Case:
    def __init__(self, d, sharing):
        self.d, self.sharing = d, sharing
        self.base, self.top = os.path.join(d, 'base'), os.path.join(d, 'top')

    def expect(self, shared, wanted):
        """All of @wanted is shared, where the file system can."""
        if self.sharing:
            assert shared == wanted, (shared, wanted)
        else:
            assert shared == 0, shared


def whole(c, direct=False):
    """All of a base, with holes, that ends inside a cluster."""
    size = 24 * MIB + 3 * CLUSTER + 512
    make_base(c.base, size, [(5 * MIB, 3 * MIB), (20 * MIB, MIB)])
    make_overlay(c.top, c.base, 'raw', 32 * MIB)
    shared = stream(c.d, c.top, raw_node(c.base), direct)
    # The last cluster is copied: part of it lies past the base's end.
    c.expect(shared, 20 * MIB + 3 * CLUSTER)


def whole_direct(c):
    """The same; the overlay is written past the page cache."""
    whole(c, True)


def guest_has_written(c):
    """What the overlay holds stays, in the middle of shared clusters."""
    make_base(c.base, 8 * MIB)
    make_overlay(c.top, c.base, 'raw')
    for off in (0, 3 * MIB + 4096, 8 * MIB - 512):
        run_tool('qemu-io', '-f', 'qed', '-c', 'write -P 7 %d 512' % off, c.top)
    c.expect(stream(c.d, c.top, raw_node(c.base)), 8 * MIB - 3 * CLUSTER)


def chain(c):
    """Data of an image in the middle and of the base; the nearer one counts."""
    mid = os.path.join(c.d, 'mid')
    make_base(c.base, 8 * MIB)
    make_overlay(mid, c.base, 'raw')
    run_tool('qemu-io', '-f', 'qed', '-c', 'write -P 9 2M 1M',
             '-c', 'write -z 4M 1M', mid)
    make_overlay(c.top, mid, 'qed')
    shared = stream(c.d, c.top, {
        'driver': 'qed', 'node-name': 'mid', 'read-only': True,
        'file': file_node(mid), 'backing': raw_node(c.base)})
    c.expect(shared, 7 * MIB)


def window(c):
    """A base that begins inside a file, at a block and at half of one."""
    make_base(c.base, 8 * MIB)
    make_overlay(c.top, c.base, 'raw', 4 * MIB)
    backing = raw_node(c.base, offset=MIB + 4096, size=4 * MIB)
    os.rename(c.base, c.base + '.all')
    with open(c.base + '.all', 'rb') as f, open(c.base, 'wb') as part:
        f.seek(MIB + 4096)
        part.write(f.read(4 * MIB))
    backing['file']['filename'] += '.all'
    c.expect(stream(c.d, c.top, backing), 4 * MIB)
    make_overlay(c.top, c.base, 'raw', 4 * MIB)
    backing['offset'] = MIB + 512
    with open(c.base + '.all', 'rb') as f, open(c.base, 'wb') as part:
        f.seek(MIB + 512)
        part.write(f.read(4 * MIB))
    assert stream(c.d, c.top, backing) == 0


def qcow2(c):
    """A qcow2 image over a qcow2 image over raw."""
    mid = os.path.join(c.d, 'mid')
    make_base(c.base, 8 * MIB + 4 * CLUSTER + 512, [(5 * MIB, MIB)])
    make_overlay(mid, c.base, 'raw', kind='qcow2')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 2M 1M',
             '-c', 'write -z 4M 1M', mid)
    make_overlay(c.top, mid, 'qcow2', kind='qcow2')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1000K 512', c.top)
    shared = stream(c.d, c.top, {
        'driver': 'qcow2', 'node-name': 'mid', 'read-only': True,
        'file': file_node(mid), 'backing': raw_node(c.base)}, kind='qcow2')
    c.expect(shared, 6 * MIB + 3 * CLUSTER)


def qcow2_refuses(c):
    """Compressed clusters below, and subclusters above: nothing to share."""
    mid = os.path.join(c.d, 'mid')
    make_base(c.base, 4 * MIB)
    with open(c.base, 'r+b') as f:
        f.write(b'text ' * 400000)
    run_tool('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-c', c.base,
             mid)
    make_overlay(c.top, mid, 'qcow2', kind='qcow2')
    below = {'driver': 'qcow2', 'node-name': 'mid', 'read-only': True,
             'file': file_node(mid)}
    shared = stream(c.d, c.top, below, kind='qcow2')
    # What did not shrink is stored as it is.
    assert shared < 3 * MIB, shared
    make_overlay(c.top, c.base, 'raw', kind='qcow2', options=',extended_l2=on')
    shared = stream(c.d, c.top, raw_node(c.base), kind='qcow2')
    assert shared == 0, shared


def behind_filter(c):
    """Reads that a filter wants to see are not gone around."""
    make_base(c.base, 4 * MIB)
    make_overlay(c.top, c.base, 'raw')
    backing = raw_node(c.base)
    del backing['node-name']
    shared = stream(c.d, c.top, {'driver': 'throttle', 'throttle-group': 'g',
                                 'read-only': True, 'file': backing})
    assert shared == 0, shared


CASES = (whole, whole_direct, guest_has_written, chain, window, qcow2,
         qcow2_refuses, behind_filter)


def mounted(fs, work):
    image, mnt = os.path.join(work, fs + '.img'), os.path.join(work, fs)
    os.mkdir(mnt)
    with open(image, 'wb') as f:
        f.truncate(512 * MIB)
    run_tool(*MKFS[fs], image)
    p = subprocess.run(['mount', '-o', 'loop', '-t', fs, image, mnt],
                       stderr=subprocess.PIPE, text=True, check=False)
    if p.returncode:
        raise Skip('cannot mount %s: %s' % (fs, p.stderr.strip()))
    return mnt


def main():
    if os.getuid() != 0:
        print('1..0 # SKIP mounting file systems needs root')
        return 0
    print('1..%d' % (len(MKFS) * len(CASES)))
    number, failed = 0, 0
    with tempfile.TemporaryDirectory() as work:
        for fs in MKFS:
            mnt, why = None, ''
            try:
                mnt = mounted(fs, work)
            except Skip as e:
                why = str(e)
            for case in CASES:
                number += 1
                name = '%d %s %s' % (number, fs, case.__name__)
                if not mnt:
                    print('ok %s # SKIP %s' % (name, why))
                    continue
                try:
                    with tempfile.TemporaryDirectory(dir=mnt) as d:
                        case(Case(d, fs in SHARING))
                    print('ok', name)
                except Skip as e:
                    print('ok %s # SKIP %s' % (name, e))
                except Exception as e:  # pylint: disable=broad-except
                    failed += 1
                    print('not ok %s\n# %r' % (name, e))
            if mnt:
                run_tool('umount', mnt)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
