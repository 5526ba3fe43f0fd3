#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Streaming parts of a chain, and chains whose sizes do not fit.

What is left is looked at with qemu-img: the bytes through the chain, and the
backing name in the header.
"""
import json
import os
import random

import rig
from rig import KIB, MIB, Stage

SIZE = 8 * MIB
NAMES = ('base', 'a', 'b', 'c', 'top')     # base is raw, the others QED


def scribble(path, disk, rnd, size=None):
    """Write runs of 4 KiB blocks into a QED image; @disk becomes what it
    reads as by qemu-img."""
    cmds = []
    for _ in range(12):
        off = rnd.randrange(len(disk) // 4096) * 4096
        length = min(rnd.choice((4096, 64 * KIB, 200 * KIB)),
                     len(disk) - off) // 4096 * 4096
        value = rnd.randrange(1, 256)
        what = '-z' if rnd.random() < 0.2 else '-P %d' % value
        cmds += ['-c', 'write %s %d %d' % (what, off, length)]
    rig.run_tool('qemu-io', '-f', rig.FORMAT, *cmds, path)
    disk[:] = rig.read_image(path)


def make_chain(d, rnd, size=SIZE, cluster=64 * KIB):
    """base <- a <- b <- c <- top, each with data: paths, the disk of each."""
    paths = {n: os.path.join(d, n) for n in NAMES}
    disk = bytearray(rnd.randbytes(size))
    rig.make_file(paths['base'], disk)
    disks = {'base': bytes(disk)}
    below, fmt = paths['base'], 'raw'
    for n in NAMES[1:]:
        rig.make_overlay(paths[n], below, fmt, cluster=cluster)
        scribble(paths[n], disk, rnd)
        disks[n] = bytes(disk)
        below, fmt = paths[n], rig.FORMAT
    return paths, disks


def blockdev(paths, names=NAMES):
    """--blockdev with every node named: raw, a, b ... (files: f-raw ...)."""
    node = None
    for n in names:
        fmt = 'raw' if n == 'base' else rig.FORMAT
        new = {'driver': fmt, 'node-name': 'n-' + n, 'file': {
            'driver': 'file', 'node-name': 'f-' + n, 'filename': paths[n]}}
        if node:
            new['backing'] = node
        node = new
    return json.dumps(node)


class Chain(Stage):
    """The chain as named nodes, served as node n-top."""

    def __init__(self, d, paths):
        self.dir = d
        self.nbd = os.path.join(d, 'nbd.sock')
        self.daemon = rig.Sluiced(
            d, '--io-engine', rig.ENGINE,
            '--nbd-server', 'addr.type=unix,addr.path=' + self.nbd,
            '--blockdev', blockdev(paths),
            '--export', 'type=nbd,id=exp0,node-name=n-top,name=virtio0,'
            'writable=on')
        self.qmp = self.daemon.qmp

    def run(self, job='j', **args):
        args = {k.replace('_', '-'): v for k, v in args.items()}
        args.setdefault('device', 'n-top')
        args['job-id'] = job
        self.qmp.cmd('block-stream', args)
        return self.wait_completed(job=job)


def backing_of(path):
    return rig.image_info(path).get('backing-filename')


def check_disk(path, want, backing):
    rig.check_image(path)
    rig.assert_same(rig.read_image(path), want, path)
    assert backing_of(path) == backing, (backing_of(path), backing)


def partial(d, expect, **args):
    """Stream with @args: the backing becomes @expect, others go."""
    paths, disks = make_chain(d, random.Random(rig.SEED))
    args = {k: paths[v[1:]] if v[0] == '/' else v for k, v in args.items()}
    with Chain(d, paths) as s:
        s.run(**args)
        got = s.client().pread(SIZE // 2, 0)
        rig.assert_same(bytes(got), disks['top'][:SIZE // 2])
    keep = NAMES[:NAMES.index(expect) + 1] if expect else ()
    for n in NAMES[:-1]:
        if n not in keep:
            os.unlink(paths[n])
        else:
            assert rig.read_image(paths[n], 'raw' if n == 'base' else rig.FORMAT) \
                == disks[n]
    return paths, disks


def test_base(d):
    paths, disks = partial(d, 'b', base='/b')
    check_disk(paths['top'], disks['top'], paths['b'])


def test_base_node(d):
    paths, disks = partial(d, 'a', base_node='n-a')
    check_disk(paths['top'], disks['top'], paths['a'])


def test_base_is_the_raw_one(d):
    paths, disks = partial(d, 'base', base='/base')
    check_disk(paths['top'], disks['top'], paths['base'])
    assert rig.image_info(paths['top'])['backing-filename-format'] == 'raw'


def test_bottom(d):
    """bottom is the lowest that is copied."""
    paths, disks = partial(d, 'a', bottom='n-b')
    check_disk(paths['top'], disks['top'], paths['a'])


def test_whole(d):
    paths, disks = partial(d, None)
    check_disk(paths['top'], disks['top'], None)


def test_backing_file(d):
    """The string goes into the header as it is."""
    paths, disks = partial(d, 'b', base_node='n-b', backing_file='b')
    check_disk(paths['top'], disks['top'], 'b')


def test_middle_of_the_chain(d):
    """c takes over what b holds; top, which the guest uses, does not care."""
    paths, disks = make_chain(d, random.Random(rig.SEED + 1))
    with Chain(d, paths) as s:
        s.run(device='n-c', base_node='n-a')
        os.unlink(paths['b'])
        got = b''.join(bytes(s.client().pread(MIB, at))
                       for at in range(0, SIZE, MIB))
        rig.assert_same(got, disks['top'])
    check_disk(paths['c'], disks['c'], paths['a'])
    check_disk(paths['top'], disks['top'], paths['c'])


def two_streams(d, upper, lower):
    paths, disks = make_chain(d, random.Random(rig.SEED + 2))
    with Chain(d, paths) as s:
        for job, args in (('low', lower), ('up', upper)):
            s.qmp.cmd('block-stream', dict(args, **{'job-id': job,
                                                    'speed': 4 * MIB}))
        ids = {j['device'] for j in s.qmp.cmd('query-block-jobs')}
        assert ids == {'low', 'up'}, ids
        for job in ids:
            s.qmp.cmd('block-job-set-speed', device=job, speed=0)
        s.wait_completed(job='up')
        s.wait_completed(job='low')
        rig.assert_same(bytes(s.client().pread(MIB, 0)), disks['top'][:MIB])
    return paths, disks


def test_two_at_once_by_bottom(d):
    paths, disks = two_streams(d, {'device': 'n-top', 'bottom': 'n-c'},
                               {'device': 'n-b', 'base-node': 'n-base'})
    os.unlink(paths['a'])
    os.unlink(paths['c'])
    check_disk(paths['b'], disks['b'], paths['base'])
    check_disk(paths['top'], disks['top'], paths['b'])


def test_two_at_once_by_base_node(d):
    """The upper one names the lower one's top, which has a filter above."""
    paths, disks = two_streams(d, {'device': 'n-top', 'base-node': 'n-b'},
                               {'device': 'n-b'})
    for n in ('base', 'a', 'c'):
        os.unlink(paths[n])
    check_disk(paths['b'], disks['b'], None)
    check_disk(paths['top'], disks['top'], paths['b'])


def test_overlapping_streams_are_refused(d):
    paths, _ = make_chain(d, random.Random(rig.SEED + 3))
    with Chain(d, paths) as s:
        s.stream(**{'device': 'n-c', 'job-id': 'one', 'speed': MIB})
        for args in ({'device': 'n-top'}, {'device': 'n-b'},
                     {'device': 'n-c'}):
            text = s.qmp.error('block-stream', dict(args, **{'job-id': 'two'}))
            assert 'is busy: block device is in use by block job: stream' \
                in text, text
        s.qmp.cmd('block-job-cancel', device='one')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='one')


def relative(d, **args):
    """Overlays in one folder, bases in another, names relative: the disk."""
    rnd = random.Random(rig.SEED + 4)
    for sub in ('bases', 'disks'):
        os.mkdir(os.path.join(d, sub))
    disk = bytearray(rnd.randbytes(SIZE))
    rig.make_file(os.path.join(d, 'bases/base'), disk)
    size = str(SIZE)
    below, fmt = 'base', 'raw'
    for n, where in (('a', 'bases'), ('b', 'bases'), ('top', 'disks')):
        if n == 'top':
            below = '../bases/b'
        path = os.path.join(d, where, n)
        rig.qemu_img('create', '-q', '-u', '-f', rig.FORMAT, '-b', below, '-F', fmt,
                     path, size)
        scribble(path, disk, rnd)
        below, fmt = n, rig.FORMAT
    top = os.path.join(d, 'disks/top')
    with Stage(d, top) as s:
        s.stream(**args)
        s.wait_completed()
    return top, bytes(disk)


def test_relative_name_stays_relative(d):
    top, disk = relative(d, base=os.path.join(d, 'bases/a'))
    os.unlink(os.path.join(d, 'bases/b'))
    check_disk(top, disk, '../bases/a')
    # The whole tree may move.
    os.mkdir(os.path.join(d, 'moved'))
    for sub in ('bases', 'disks'):
        os.rename(os.path.join(d, sub), os.path.join(d, 'moved', sub))
    rig.assert_same(rig.read_image(os.path.join(d, 'moved/disks/top')), disk)


def test_relative_base_argument(d):
    """base= as it stands in the header of the image above it."""
    top, disk = relative(d, base='base')
    check_disk(top, disk, '../bases/base')


def sizes(d, base_size, top_size, cluster=64 * KIB, keep=False):
    """A base and an overlay of different sizes, with data in both."""
    rnd = random.Random(rig.SEED + base_size)
    data = rnd.randbytes(base_size)
    base = rig.make_file(os.path.join(d, 'base'), data)
    rig.run_tool('qemu-img', 'create', '-q', '-f', rig.FORMAT, '-u', '-b', base,
                 '-F', 'raw', '-o', 'cluster_size=%d' % cluster,
                 os.path.join(d, 'top'), str(top_size))
    padded = data + bytes(-len(data) % 512)
    want = bytearray((padded + bytes(top_size))[:top_size])
    top = os.path.join(d, 'top')
    with Stage(d, top) as s:
        h = s.client()
        assert h.get_size() == top_size
        # A write into the cluster in which the base ends: the rest of it is
        # zeroes (M8).
        at = min(base_size, top_size - 512) // 512 * 512
        at = max(0, at // cluster * cluster + (512 if cluster > 512 else 0))
        if at + 512 <= top_size:
            h.pwrite(b'w' * 512, at)
            want[at:at + 512] = b'w' * 512
        s.stream()
        s.wait_completed()
        rig.assert_same(b''.join(bytes(h.pread(min(MIB, top_size - off), off))
                                 for off in range(0, top_size, MIB)), want)
    os.unlink(base)
    check_disk(top, bytes(want), None)


def test_smaller_base(d):
    sizes(d, 3 * MIB, 5 * MIB)


def test_much_smaller_base(d):
    sizes(d, 100 * KIB, 40 * MIB)


def test_larger_base(d):
    sizes(d, 5 * MIB, 3 * MIB)


def test_base_ends_inside_a_cluster(d):
    sizes(d, 3 * MIB + 5 * 512, 5 * MIB)


def test_base_ends_inside_a_sector(d):
    sizes(d, 3 * MIB + 777, 5 * MIB)


def test_base_of_a_few_bytes(d):
    sizes(d, 7, MIB)


def test_empty_base(d):
    sizes(d, 0, MIB)


def test_top_ends_inside_a_cluster(d):
    sizes(d, 5 * MIB, 3 * MIB + 5 * 512)


def test_odd_sizes_large_clusters(d):
    sizes(d, 3 * MIB + 777, 5 * MIB + 3 * 512, cluster=MIB)


def test_odd_sizes_small_clusters(d):
    sizes(d, 3 * MIB + 777, 5 * MIB + 3 * 512, cluster=4 * KIB)


def test_shorter_middle(d):
    """base 4 MiB <- mid 2 MiB <- top 4 MiB: the base does not show through
    beyond the end of mid."""
    rnd = random.Random(rig.SEED)
    base = rig.make_file(os.path.join(d, 'base'), rnd.randbytes(4 * MIB))
    mid, top = os.path.join(d, 'mid'), os.path.join(d, 'top')
    for path, below, fmt, size in ((mid, base, 'raw', 2 * MIB),
                                   (top, mid, rig.FORMAT, 4 * MIB)):
        rig.qemu_img('create', '-q', '-f', rig.FORMAT, '-u', '-b', below, '-F', fmt,
                     path, str(size))
    want = open(base, 'rb').read()[:2 * MIB] + bytes(2 * MIB)
    with Stage(d, top) as s:
        h = s.client()
        rig.assert_same(b''.join(bytes(h.pread(MIB, i * MIB))
                                 for i in range(4)), want, 'before')
        s.stream(base=base)
        s.wait_completed()
        rig.assert_same(b''.join(bytes(h.pread(MIB, i * MIB))
                                 for i in range(4)), want, 'after')
    check_disk(top, want, base)


if __name__ == '__main__':
    rig.run(globals())
