#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""blockdev-mirror: a disk moves to other storage under a guest that writes all
the time, or a consistent copy of it is left behind."""
import os
import random

import chains
import rig
from rig import Guest, KIB, Ledger, MIB, Stage, assert_same
from seed import SEED
from sluiced import Sluiced
from waiting import until

SIZE = 6 * MIB


class Move(Stage):
    """A disk over a base, and a target of format @fmt."""

    def __init__(self, d, fmt='raw', size=SIZE, target=None, backing=None):
        self.base = rig.make_file(os.path.join(d, 'base'),
                                  random.Random(SEED).randbytes(SIZE - MIB))
        top = rig.make_overlay(os.path.join(d, 'top'), self.base, size=SIZE)
        self.fmt = fmt
        self.path = os.path.join(d, 'target')
        rig.qemu_img('create', '-q', '-f', fmt,
                     *(['-b', self.base, '-F', 'raw'] if backing else []),
                     self.path, str(size))
        super().__init__(d, top)
        node = {'driver': fmt, 'node-name': 'target',
                'file': target or {'driver': 'file', 'filename': self.path}}
        if backing:
            node['backing'] = {'driver': 'raw', 'file': {
                'driver': 'file', 'filename': self.base}}
        self.qmp.cmd('blockdev-add', node)
        self.before = rig.read_image(top)

    def mirror(self, **args):
        args = {k.replace('_', '-'): v for k, v in args.items()}
        self.qmp.cmd('blockdev-mirror', dict(
            {'device': 'virtio0', 'target': 'target', 'sync': 'full'}, **args))

    def ready(self):
        data = self.qmp.wait_event('BLOCK_JOB_READY')['data']
        assert data['type'] == 'mirror', data

    def read(self):
        h = self.client()
        return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))

    def used(self):
        return self.qmp.cmd('query-block-exports')[0]['node-name']


def some_writes(ledger):
    was = ledger.requests
    until(lambda: ledger.requests > was + 50, 'the guest')


def move(d, fmt='raw', backing=None, pause=0.0005, **args):
    with Move(d, fmt, backing=backing) as s:
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED, pause=pause)
        s.mirror(**args)
        s.ready()
        some_writes(ledger)
        s.qmp.cmd('block-job-complete', device='virtio0')
        s.wait_completed()
        some_writes(ledger)
        guest.stop()
        got = s.read()
        ledger.check_all(got)
        s.client().flush()
    os.unlink(os.path.join(d, 'top'))
    if not backing:
        os.unlink(s.base)
    if fmt != 'raw':
        rig.run_tool(rig.sluiced.SLUICE, 'check', '-q', '-f', fmt, s.path)
    assert_same(rig.read_image(s.path, fmt), got, 'the target')


def test_to_raw(d):
    move(d)


def test_to_an_image(d):
    move(d, 'qcow2', target_is_zero=True)


def test_keeping_the_base(d):
    move(d, rig.FORMAT, backing=True, sync='top')


def test_write_blocking(d):
    """It gets ready under a guest that writes as fast as it can."""
    move(d, copy_mode='write-blocking', pause=0)


def test_small_granules(d):
    move(d, granularity=512, buf_size=MIB)


def test_large_granules(d):
    move(d, 'qcow2', granularity=4 * MIB, copy_mode='write-blocking')


def test_copy(d):
    """Softly cancelled: the target is what the disk was at that moment."""
    with Move(d) as s:
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        s.mirror(auto_dismiss=False)
        s.ready()
        some_writes(ledger)
        guest.stop()
        want = s.read()
        s.qmp.cmd('block-job-cancel', device='virtio0')
        s.wait_completed()
        s.qmp.cmd('job-dismiss', id='virtio0')
        s.client().pwrite(b'later' * 1024, 0)
        s.qmp.cmd('blockdev-del', {'node-name': 'target'})
        with open(s.path, 'rb') as f:
            assert_same(f.read(), want, 'the copy')


def test_only_what_is_new(d):
    with Move(d) as s:
        s.mirror(sync='none')
        s.ready()
        s.client().pwrite(b'n' * 512, 3 * MIB + 512)
        s.qmp.cmd('block-job-cancel', device='virtio0')
        s.wait_completed()
        s.qmp.cmd('blockdev-del', {'node-name': 'target'})
        with open(s.path, 'rb') as f:
            got = f.read()
        assert got[3 * MIB + 512:3 * MIB + 1024] == b'n' * 512
        assert got[:3 * MIB] == bytes(3 * MIB)


def test_target_stays_sparse(d):
    with Move(d) as s:
        h = s.client()
        h.zero(4 * MIB, 0)
        s.mirror()
        s.ready()
        s.qmp.cmd('block-job-complete', device='virtio0')
        s.wait_completed()
        assert os.stat(s.path).st_blocks * 512 < 2 * MIB


def test_cancel(d):
    with Move(d) as s:
        s.mirror(speed=64 * KIB)
        s.qmp.cmd('block-job-cancel', device='virtio0')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')
        s.mirror()
        s.ready()
        s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')
        assert s.used() != 'target'
        assert_same(s.read(), s.before)


def test_beside_a_stream_of_the_chain(d):
    """Below the disk a stream pivots, and holds guests and chunks for it."""
    paths, disks = chains.make_chain(d, random.Random(SEED))
    target = os.path.join(d, 'target')
    rig.make_file(target, bytes(chains.SIZE))
    with chains.Chain(d, paths) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'target',
            'file': {'driver': 'file', 'filename': target}})
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED, pause=0)
        s.qmp.cmd('blockdev-mirror', {
            'device': 'n-top', 'job-id': 'm', 'target': 'target',
            'sync': 'full', 'copy-mode': 'write-blocking', 'speed': MIB})
        for job, base in (('one', 'n-b'), ('two', 'n-a'), ('three', 'n-base')):
            s.run(device='n-c', base_node=base, job=job)
        s.qmp.cmd('block-job-set-speed', device='m', speed=0)
        s.qmp.wait_event('BLOCK_JOB_READY', device='m')
        s.qmp.cmd('block-job-complete', device='m')
        s.wait_completed(job='m')
        guest.stop()
        h = s.client()
        got = b''.join(bytes(h.pread(MIB, at))
                       for at in range(0, chains.SIZE, MIB))
        ledger.check_all(got)
        h.flush()
    with open(target, 'rb') as f:
        assert_same(f.read(), got, 'the target')


def test_daemon_ends_while_it_follows(d):
    """The disk is what it was, whatever the target holds."""
    with Move(d) as s:
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        s.mirror(copy_mode='write-blocking')
        s.ready()
        some_writes(ledger)
        guest.flush_all()
        guest.cut = True
        s.qmp.cmd('quit')
        guest.halt = True
        guest.join()
        s.daemon.wait()
    ledger.check(rig.read_image(os.path.join(d, 'top')), float('inf'))
    rig.check_image(os.path.join(d, 'top'))


def test_refusals(d):
    with Move(d) as s:
        q = s.qmp

        def error(**args):
            args = {k.replace('_', '-'): v for k, v in args.items()}
            return q.error('blockdev-mirror', dict({
                'device': 'virtio0', 'target': 'target', 'sync': 'full',
                'job-id': 'k'}, **args))

        assert error(device='x') == \
            "Cannot find device='x' nor node-name='x'", error(device='x')
        assert error(target='virtio0') == "Can't mirror node into itself"
        assert error(granularity=100) == \
            "Parameter 'granularity' expects a value in range [512B, 64MB]"
        assert error(granularity=1000) == \
            "Parameter 'granularity' expects a power of 2"
        assert 'non-negative' in error(speed=-1)
        assert 'non-negative' in error(buf_size=-1)
        assert error(replaces='x') == \
            "Failed to find node with node-name='x'"
        over = rig.make_overlay(os.path.join(d, 'over'), s.path)
        q.cmd('blockdev-add', {
            'driver': rig.FORMAT, 'node-name': 'over', 'backing': 'target',
            'file': {'driver': 'file', 'filename': over}})
        assert error() == \
            "Node 'target' is busy: node is used as backing hd of 'over'"
        q.cmd('blockdev-del', {'node-name': 'over'})
        s.mirror(speed=1)
        busy = 'is busy: block device is in use by block job: mirror'
        assert busy in error()
        assert busy in q.error('block-stream', device='virtio0', job_id='k')
        assert busy in q.error('blockdev-del', {'node-name': 'target'})
        text = q.error('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'target',
            'writable': True})
        assert 'Permission conflict' in text, text
        q.cmd('block-job-cancel', device='virtio0')
        q.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')


def test_sizes_differ(d):
    with Move(d, size=SIZE + MIB) as s:
        s.mirror()
        s.wait_completed('Source and target image have different sizes')


def test_status_that_cannot_be_told_once(d):
    """The error is ignored: all of what was passed over is copied later, also
    when a cluster of the target is more than the engine's chunk."""
    data = random.Random(SEED).randbytes(16 * MIB)
    source = rig.make_file(os.path.join(d, 'source'), data)
    target = os.path.join(d, 'target')
    rig.qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', target,
                 str(len(data)))
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'source', 'file': {
                'driver': 'blkdebug',
                'image': {'driver': 'file', 'filename': source},
                'inject-error': [{'event': 'none', 'iotype': 'block-status',
                                  'errno': 5, 'once': True}]}})
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'target',
            'file': {'driver': 'file', 'filename': target}})
        s.qmp.cmd('blockdev-mirror', {
            'job-id': 'j', 'device': 'source', 'target': 'target',
            'sync': 'full', 'on-source-error': 'ignore'})
        s.qmp.wait_event('BLOCK_JOB_ERROR')
        s.qmp.wait_event('BLOCK_JOB_READY')
        s.qmp.cmd('block-job-cancel', {'device': 'j'})
        s.qmp.wait_event('BLOCK_JOB_COMPLETED')
    assert_same(rig.read_image(target, 'qcow2'), data)


def test_holes_in_every_granule(d):
    """What a guest wrote next to holes is copied once, and holes stay holes."""
    paths = [os.path.join(d, n) for n in ('source', 'target')]
    with Sluiced(d) as s:
        for path in paths:
            rig.qemu_img('create', '-q', path, '16M')
            s.qmp.cmd('blockdev-add', {
                'driver': 'raw', 'node-name': os.path.basename(path),
                'file': {'driver': 'file', 'filename': path}})
        s.qmp.cmd('blockdev-mirror', {
            'job-id': 'j', 'device': 'source', 'target': 'target',
            'sync': 'full', 'filter-node-name': 'filter'})
        s.qmp.wait_event('BLOCK_JOB_READY')
        for at in range(0, 16 * MIB, 64 * KIB):
            s.qmp.cmd('human-monitor-command', {
                'command-line': 'qemu-io filter "write -P 5 %d 4k"' % at})

        def in_step():
            job, = s.qmp.cmd('query-block-jobs')
            return job['offset'] == job['len']
        until(in_step, 'the mirror')
        s.qmp.cmd('block-job-cancel', {'device': 'j'})
        s.qmp.wait_event('BLOCK_JOB_COMPLETED')
    want = (b'\5' * 4096 + bytes(60 * KIB)) * 256
    assert_same(rig.read_image(paths[1], 'raw'), want)
    assert os.stat(paths[1]).st_blocks * 512 < 4 * MIB


def test_target_without_room(d):
    """Its storage is a part of a file, of a fixed size: no space."""
    with Move(d, 'qcow2') as s:
        s.qmp.cmd('blockdev-del', {'node-name': 'target'})
        os.truncate(s.path, 256 * KIB)
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'target',
            'file': {'driver': 'raw', 'size': 256 * KIB,
                     'file': {'driver': 'file', 'filename': s.path}}})
        s.mirror(on_target_error='enospc')
        s.qmp.wait_event('JOB_STATUS_CHANGE', status='paused')
        job, = s.qmp.cmd('query-block-jobs')
        assert job['io-status'] == 'nospace', job
        s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')


def broken_flush(path):
    """A file whose flushes fail, but for the one before the mirror is
    ready."""
    return {'driver': 'blkdebug',
            'image': {'driver': 'file', 'filename': path},
            'set-state': [{'event': 'flush_to_disk', 'state': 1,
                           'new_state': 2}],
            'inject-error': [{'event': 'flush_to_disk', 'immediately': True,
                              'state': 2}]}


def test_flush_that_fails_at_the_end(d):
    """The policy is asked: the job stands by and keeps what it has copied
    until somebody decides."""
    for verb in ('block-job-complete', 'block-job-cancel'):
        folder = os.path.join(d, verb)
        os.mkdir(folder)
        path = os.path.join(folder, 'target')
        with Move(folder, 'qcow2', target=broken_flush(path)) as s:
            was = s.used()
            s.mirror(on_target_error='stop')
            s.ready()
            s.client().pwrite(bytes(512), 0)
            for again in (verb, 'block-job-resume'):
                s.qmp.cmd(again, device='virtio0')
                error = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
                assert error['action'] == 'stop', error
                assert error['operation'] == 'write', error
                s.qmp.wait_event('JOB_STATUS_CHANGE', status='standby')
            s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
            s.qmp.wait_event('BLOCK_JOB_CANCELLED')
            assert s.used() == was, s.used()


def test_errors_of_the_target(d):
    """Its server takes no writes for a while: stop, go on, and all is there."""
    path = rig.make_file(os.path.join(d, 'far'), bytes(SIZE))
    with rig.Base(d, path, 'error,error-pwrite=ENOSPC,error-pwrite-rate=100%',
                  name='far', writable=True) as far:
        far.errors(True)
        with Move(d, target={'driver': 'nbd', 'server': {
                'type': 'unix', 'path': far.sock}}) as s:
            s.mirror(on_target_error='enospc')
            s.qmp.wait_event('JOB_STATUS_CHANGE', status='paused')
            job, = s.qmp.cmd('query-block-jobs')
            assert job['io-status'] == 'nospace', job
            far.errors(False)
            s.qmp.cmd('block-job-resume', device='virtio0')
            s.ready()
            s.qmp.cmd('block-job-complete', device='virtio0')
            s.wait_completed()
            assert s.used() == 'target'
            assert_same(s.read(), s.before)
        with open(path, 'rb') as f:
            assert_same(f.read(), s.before)


if __name__ == '__main__':
    rig.run(globals())
