# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rows about copies of a disk that is in use: how fast mirror and commit are,
and how long a guest waits when its disk changes its images."""
import os
import random
import threading
import time

from harness import (KIB, MIB, TIB, Missing, Sample, far_target_options,
                     file_options, overlay_options, raw_options, remove, run,
                     target_options)
from rows import Case, both, row, stream_sample


def finish_mirror(d, job='j'):
    d.qmp.cmd('block-job-complete', device=job)
    d.wait_job(job)


def mirror_once(ctx, who, size, fmt, far=False):
    """Mirror all of a raw base; seconds until both are equal."""
    base = ctx.base(size)
    target = ctx.path('target')
    run('qemu-img', 'create', '-q', '-f', fmt, target, str(size))
    os.sync()

    def measure(options):
        with ctx.daemon(who, *raw_options(base), *options) as d:
            start = time.monotonic()
            d.qmp.cmd('blockdev-mirror', device='base', target='target',
                      job_id='j', sync='full')
            d.qmp.wait_event('BLOCK_JOB_READY', 600, device='j')
            sample = stream_sample(d, size, time.monotonic() - start)
            d.qmp.cmd('block-job-cancel', device='j')
            return sample

    try:
        if not far:
            return measure(target_options(target, fmt, direct=True))
        with ctx.far(target, 10, writable=True) as there:
            return measure(far_target_options(there.socket))
    finally:
        remove(target)


def full_overlay(ctx, base, size):
    """A qcow2 image over @base that holds all of @size itself."""
    top = ctx.overlay(base, size, fmt='qcow2')
    run('qemu-io', '-f', 'qcow2', '-t', 'none', '-c',
        'write -P 7 0 %d' % size, top)
    os.sync()
    return top


def commit_once(ctx, who, size):
    """Commit an overlay that holds all into a raw base."""
    base = ctx.path('commit-base')
    with open(base, 'wb') as f:
        f.truncate(size)
    top = full_overlay(ctx, base, size)
    try:
        with ctx.daemon(who, *raw_options(base, direct=True, read_only=False),
                        *overlay_options(top, 'base', direct=True,
                                         fmt='qcow2')) as d:
            start = time.monotonic()
            d.qmp.cmd('block-commit', device='top', job_id='j')
            d.qmp.wait_event('BLOCK_JOB_READY', 600, device='j')
            sample = stream_sample(d, size, time.monotonic() - start)
            finish_mirror(d)
            return sample
    finally:
        remove(top, base)


@row('mirror', 'mirror a disk until both are equal, here and 10 ms away')
def mirror(ctx):
    size = (256 if ctx.quick else 1024) * MIB
    for fmt in ('raw', 'qcow2'):
        yield Case('to %s with direct I/O' % fmt, 'MiB/s',
                   both(lambda who, f=fmt: mirror_once(ctx, who, size, f)),
                   goal=1.5)
    small = (64 if ctx.quick else 256) * MIB
    yield Case('10 ms away', 'MiB/s',
               both(lambda who: mirror_once(ctx, who, small, 'raw', far=True)),
               goal=1.5)


@row('commit', 'commit an overlay that holds all into its base')
def commit(ctx):
    size = (256 if ctx.quick else 1024) * MIB
    yield Case('qcow2 into raw with direct I/O', 'MiB/s',
               both(lambda who: commit_once(ctx, who, size)), goal=1.5)


# --- pauses ---

class Guest(threading.Thread):
    """Writes 4 KiB at random, one after the other, and notes when and how long."""

    def __init__(self, uri, size):
        super().__init__()
        try:
            import nbd
        except ImportError:
            raise Missing('libnbd for Python is not installed') from None
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
        self.size = size
        self.took = []
        self.ends = False
        self.fault = None

    def run(self):
        try:
            self.write_on()
        except Exception as e:  # pylint: disable=broad-except
            self.fault = e

    def write_on(self):
        rng = random.Random(7)
        data = rng.randbytes(4 * KIB)
        while not self.ends:
            start = time.monotonic()
            self.h.pwrite(data, rng.randrange(self.size // (4 * KIB)) * 4 * KIB)
            self.took.append((start, time.monotonic()))

    def wait_past(self, moment):
        """Until a request that began later has ended."""
        while not self.took or self.took[-1][0] <= moment:
            if self.fault:
                raise self.fault
            time.sleep(0.001)

    def longest(self, since, until):
        """Of the requests that were under way in that time, ms."""
        self.wait_past(until)
        return max(b - a for a, b in self.took
                   if b >= since and a <= until) * 1000

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *why):
        self.ends = True
        self.join()
        if self.fault:
            raise self.fault
        self.h.shutdown()


def pauses(d, node, size, rounds, step):
    """step(i) @rounds times beside a guest on @node, returning when its change
    began: p99 of the longest waits; of few rounds their longest."""
    longest = []
    with Guest(d.serve(node), size) as g:
        for i in range(rounds):
            g.wait_past(time.monotonic())
            begin = step(i)
            longest.append(g.longest(begin, time.monotonic()))
    longest.sort()
    return Sample(longest[len(longest) * 99 // 100])


def chain_pauses(ctx, who, size, rounds, step):
    """The same on a qcow2 image whose place new ones take one after the other:
    step(d, i, old, path) puts node n<i> of file @path where node @old is."""
    top = ctx.overlay(None, size, fmt='qcow2')
    files = [ctx.path('after%d' % i) for i in range(rounds)]

    def one(i):
        return step(d, i, 'n%d' % (i - 1) if i else 'top', files[i])

    try:
        with ctx.daemon(who, *target_options(top, 'qcow2', 'top',
                                             direct=True)) as d:
            return pauses(d, 'top', size, rounds, one)
    finally:
        remove(top, *files)


def take_snapshot(d, i, old, path):
    begin = time.monotonic()
    d.qmp.cmd('blockdev-snapshot-sync', node_name=old, snapshot_file=path,
              format='qcow2', snapshot_node_name='n%d' % i)
    return begin


def mirror_and_pivot(size):
    def step(d, i, old, path):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', path, str(size))
        d.qmp.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'n%d' % i,
                                   'file': file_options(path, True)})
        d.qmp.cmd('blockdev-mirror', device=old, target='n%d' % i,
                  job_id='j%d' % i, sync='full', copy_mode='write-blocking')
        d.qmp.wait_event('BLOCK_JOB_READY', 600, device='j%d' % i)
        begin = time.monotonic()
        finish_mirror(d, 'j%d' % i)
        return begin
    return step


def switch_pause(ctx, size, rounds):
    """The three steps of 2011 begin so: an overlay that is there takes the place
    of a device's image. QEMU has no such command."""
    files = [ctx.path('switched%d' % i) for i in range(rounds + 1)]
    run('qemu-img', 'create', '-q', '-f', 'qcow2', files[0], str(size))
    os.sync()

    def step(i):
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', files[i], '-F',
            'qcow2', files[i + 1], str(size))
        begin = time.monotonic()
        d.qmp.cmd('block_switch', device='disk', image=files[i + 1])
        return begin

    try:
        with ctx.daemon('sluiced', '--drive',
                        'id=disk,file=%s,format=qcow2,cache=none'
                        % files[0]) as d:
            return pauses(d, 'disk', size, rounds, step)
    finally:
        remove(*files)


def internal_pause(ctx, who, size, rounds):
    """An image of @size with all clusters allocated, their data never written."""
    disk = ctx.path('internal')
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-o',
        'preallocation=metadata', disk, str(size))
    os.sync()

    def step(i):
        begin = time.monotonic()
        d.qmp.cmd('blockdev-snapshot-internal-sync', device='top',
                  name='s%d' % i)
        return begin

    try:
        with ctx.daemon(who, *target_options(disk, 'qcow2', 'top',
                                             direct=True)) as d:
            return pauses(d, 'top', 64 * MIB, rounds, step)
    finally:
        remove(disk)


@row('pause', 'the longest wait of a guest when its images change')
def pause(ctx):
    size = 64 * MIB
    rounds = 20 if ctx.quick else 100
    yield Case('snapshot', 'ms', both(
        lambda who: chain_pauses(ctx, who, size, rounds, take_snapshot)),
        better='low', limit=10)
    yield Case('block_switch', 'ms', {
        'sluiced': lambda: switch_pause(ctx, size, rounds)}, better='low',
        limit=10)
    yield Case('pivot of a mirror', 'ms', both(
        lambda who: chain_pauses(ctx, who, size, rounds // 5,
                                 mirror_and_pivot(size))), better='low',
        limit=10)
    allocated = TIB // (64 if ctx.quick else 1)
    yield Case('internal snapshot, %d GiB allocated' % (allocated >> 30), 'ms',
               both(lambda who: internal_pause(ctx, who, allocated, 3)),
               better='low', limit=10)
