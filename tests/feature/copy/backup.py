#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""blockdev-backup: what a disk is at one point in time, under a guest that
writes all the time; incremental ones by bitmaps, several disks together."""
import os
import random
import threading

import rig
from rig import Guest, KIB, Ledger, MIB, Stage, assert_same
from seed import SEED
from sluiced import Sluiced, Skip
from waiting import until

SIZE = 6 * MIB


def raw(name, path):
    return {'driver': 'raw', 'node-name': name,
            'file': {'driver': 'file', 'filename': path}}


def some_writes(ledger):
    was = ledger.requests
    until(lambda: ledger.requests > was + 50, 'the guest')


class Vm(Stage):
    """A disk over a base, node "disk", and a guest's export of it."""

    def __init__(self, d, name='top', **more):
        self.base = rig.make_file(os.path.join(d, 'base'),
                                  random.Random(SEED).randbytes(SIZE - MIB))
        top = rig.make_overlay(os.path.join(d, name), self.base, size=SIZE)
        self.before = rig.read_image(top)
        super().__init__(d, top, **more)
        self.n = 0

    def disk(self):
        return self.qmp.cmd('query-block')[0]['inserted']['node-name']

    def target(self, name='target', fmt='raw', size=SIZE, backing=None):
        path = os.path.join(self.dir, name)
        rig.qemu_img('create', '-q', '-f', fmt, path, str(size),
                     *(['-b', backing, '-F', 'raw'] if backing else []))
        node = raw(name, path)
        node['driver'] = fmt
        if backing:
            node['backing'] = raw(name + '-base', backing)
        self.qmp.cmd('blockdev-add', node)
        return path

    def backup(self, target='target', sync='full', **args):
        args = {k.replace('_', '-'): v for k, v in args.items()}
        self.qmp.cmd('blockdev-backup', dict(
            {'device': 'virtio0', 'target': target, 'sync': sync}, **args))

    def content(self):
        h = self.client()
        data = b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))
        h.shutdown()
        return data

    def drop(self, *names):
        for name in names:
            self.qmp.cmd('blockdev-del', {'node-name': name})

    def bitmap(self, what, name='b', **more):
        self.qmp.cmd('block-dirty-bitmap-' + what, dict(
            {'node': 'virtio0', 'name': name}, **more))

    def marks(self, name='b'):
        info = self.qmp.cmd('query-block')[0]['inserted']
        return {b['name']: b for b in info.get('dirty-bitmaps', [])}[name]


def point_in_time(d, fmt='raw', **args):
    """No write of the guest is acknowledged while the job begins, so its copy
    is the ledger of that moment."""
    with Vm(d) as s:
        path = s.target(fmt=fmt)
        ledger = Ledger(s.before)
        first = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        first.stop()
        want = s.content()
        s.backup(speed=MIB, **args)
        guest = Guest(s, ledger, seed=SEED + 1, pause=0)
        some_writes(ledger)
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        s.wait_completed()
        some_writes(ledger)
        guest.stop()
        ledger.check_all(s.content())
        s.client().flush()
        s.drop('target')
        assert s.disk() == s.qmp.cmd('query-block')[0]['inserted']['node-name']
    assert_same(rig.read_image(path, fmt), want, 'the copy')
    if fmt != 'raw':
        rig.run_tool(rig.sluiced.SLUICE, 'check', '-q', '-f', fmt, path)
    return path


def test_full(d):
    point_in_time(d)


def test_to_an_image(d):
    point_in_time(d, 'qcow2')


def test_compressed(d):
    point_in_time(d, 'qcow2', compress=True)


def test_small_chunks(d):
    point_in_time(d, **{'x_perf': {'max-workers': 1, 'max-chunk': 65536}})


def test_top(d):
    """The target has the same base, and gets what the overlay holds."""
    with Vm(d) as s:
        path = s.target(fmt='qcow2', backing=s.base)
        s.client().pwrite(b'y' * 70000, 100000)
        want = s.content()
        s.backup(sync='top')
        s.client().pwrite(b'z' * 70000, 100000)
        s.wait_completed()
        s.drop('target')
        used = rig.image_info(path)['actual-size']
        assert used < 2 * MIB, used
        assert_same(rig.read_image(path, 'qcow2'), want)


def test_target_stays_sparse(d):
    with Vm(d) as s:
        path = s.target()
        s.client().zero(4 * MIB, 0)
        s.backup()
        s.wait_completed()
        assert os.stat(path).st_blocks * 512 < 2 * MIB


# --- bitmaps ---

def make_incremental(d, fmt):
    """Full, then two incremental backups under a guest: each is the disk of its
    moment."""
    with Vm(d) as s:
        path = s.target(fmt=fmt)
        s.qmp.cmd('transaction', actions=[
            {'type': 'block-dirty-bitmap-add', 'data': {
                'node': 'virtio0', 'name': 'b',
                'persistent': rig.FORMAT == 'qcow2'}},
            {'type': 'blockdev-backup', 'data': {
                'device': 'virtio0', 'target': 'target', 'sync': 'full'}}])
        ledger = Ledger(s.before)
        s.wait_completed()
        assert_same(rig.read_image(path, fmt), s.before, 'full')
        for _ in range(2):
            guest = Guest(s, ledger, seed=SEED)
            some_writes(ledger)
            guest.stop()
            want = s.content()
            assert s.marks()['count'] > 0
            s.backup(sync='incremental', bitmap='b', speed=MIB)
            guest = Guest(s, ledger, seed=SEED + 1)
            some_writes(ledger)
            assert s.marks()['busy']
            s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
            data = s.wait_completed()
            assert data['len'] <= SIZE
            guest.stop()
            assert_same(rig.read_image(path, fmt), want, 'incremental')
        assert not s.marks()['busy'] and s.marks()['recording']


def test_incremental(d):
    make_incremental(d, 'raw')


def test_incremental_to_an_image(d):
    make_incremental(d, 'qcow2')


def marked(d, sync, mode, cancel):
    """How much is marked after a job, of which a guest has changed one place
    meanwhile."""
    with Vm(d) as s:
        s.target()
        s.bitmap('add', granularity=65536)
        h = s.client()
        for at in range(0, 4 * MIB, MIB):
            h.pwrite(b'a' * 512, at)
        s.backup(sync=sync, bitmap='b', bitmap_mode=mode, speed=1,
                 auto_finalize=False)
        h.pwrite(b'b' * 512, 5 * MIB)
        if cancel:
            s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
            s.qmp.wait_event('BLOCK_JOB_CANCELLED')
        else:
            s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
            s.qmp.wait_event('BLOCK_JOB_PENDING')
            s.qmp.cmd('job-finalize', id='virtio0')
            s.wait_completed()
        h.shutdown()
        return s.marks()['count'] // 65536


def test_marks_afterwards(d):
    for i, (sync, mode, cancel, want) in enumerate((
            ('bitmap', 'on-success', False, {1}),
            ('bitmap', 'on-success', True, {5}),
            ('bitmap', 'never', False, {5}),
            ('bitmap', 'never', True, {5}),
            ('bitmap', 'always', False, {1}),
            ('bitmap', 'always', True, {2, 3, 4, 5}),
            ('full', 'on-success', False, {1}),
            ('full', 'always', False, {1}),
            ('full', 'always', True, set(range(80, 97))),
            ('top', 'on-success', True, {5}))):
        where = os.path.join(d, str(i))
        os.mkdir(where)
        got = marked(where, sync, mode, cancel)
        assert got in want, (sync, mode, cancel, got)


def test_disabled_bitmap(d):
    """One that does not record ends with nothing marked."""
    with Vm(d) as s:
        path = s.target()
        s.bitmap('add')
        s.client().pwrite(b'a' * 512, 0)
        s.bitmap('disable')
        s.backup(sync='incremental', bitmap='b')
        s.client().pwrite(b'b' * 512, MIB)
        s.wait_completed()
        assert s.marks()['count'] == 0
        with open(path, 'rb') as f:
            data = f.read()
        assert data[:512] == b'a' * 512 and not any(data[65536:])


# --- transactions ---

def two_disks(s, d):
    """Another disk, node "other", with targets for both."""
    for name in ('other', 'target', 'target2'):
        path = os.path.join(d, name)
        rig.make_file(path, bytes(SIZE))
        s.qmp.cmd('blockdev-add', raw(name, path))


def both(s, mode, **second):
    s.qmp.cmd('transaction', {
        'actions': [
            {'type': 'blockdev-backup', 'data': {
                'device': 'virtio0', 'target': 'target', 'sync': 'full',
                'job-id': 'one'}},
            {'type': 'blockdev-backup', 'data': dict({
                'device': 'other', 'target': 'target2', 'sync': 'full',
                'job-id': 'two'}, **second)}],
        'properties': {'completion-mode': mode}})


def test_individual(d):
    with Vm(d) as s:
        two_disks(s, d)
        both(s, 'individual', speed=1)
        s.wait_completed(job='one')
        s.qmp.cmd('block-job-cancel', device='two')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='two')


def test_grouped(d):
    """The quick one waits for the slow one; a cancel ends both."""
    with Vm(d) as s:
        two_disks(s, d)
        both(s, 'grouped', speed=1)
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='one', status='waiting')
        s.qmp.cmd('block-job-cancel', device='two')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='one')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='two')
        both(s, 'grouped', speed=1)
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='one', status='waiting')
        s.qmp.cmd('block-job-set-speed', device='two', speed=0)
        s.wait_completed(job='one')
        s.wait_completed(job='two')
        assert s.qmp.cmd('query-jobs') == []


def test_grouped_bitmaps(d):
    """When one fails the other's bitmap keeps its marks."""
    with Vm(d) as s:
        two_disks(s, d)
        s.bitmap('add', granularity=65536)
        s.client().pwrite(b'a' * 512, 0)
        s.qmp.cmd('transaction', {
            'actions': [
                {'type': 'blockdev-backup', 'data': {
                    'device': 'virtio0', 'target': 'target', 'bitmap': 'b',
                    'sync': 'incremental', 'job-id': 'one'}},
                {'type': 'blockdev-backup', 'data': {
                    'device': 'other', 'target': 'target2', 'sync': 'full',
                    'job-id': 'two', 'speed': 1}}],
            'properties': {'completion-mode': 'grouped'}})
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='one', status='waiting')
        s.qmp.cmd('block-job-cancel', device='two', force=True)
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='one')
        assert s.marks()['count'] == 65536


def test_grouped_finalize(d):
    with Vm(d) as s:
        two_disks(s, d)
        actions = [
            {'type': 'blockdev-backup', 'data': {
                'device': device, 'target': target, 'sync': 'full',
                'job-id': job, 'auto-finalize': False}}
            for device, target, job in (('virtio0', 'target', 'one'),
                                        ('other', 'target2', 'two'))]
        s.qmp.cmd('transaction', {'actions': actions, 'properties': {
            'completion-mode': 'grouped'}})
        s.qmp.wait_event('BLOCK_JOB_PENDING', id='one')
        s.qmp.wait_event('BLOCK_JOB_PENDING', id='two')
        s.qmp.cmd('job-finalize', id='two')
        s.wait_completed(job='one')
        s.wait_completed(job='two')


def test_transaction_that_fails(d):
    """Nothing is left: no job, no filter, no bitmap, and no busy one."""
    with Vm(d) as s:
        s.target()
        s.bitmap('add', 'old')
        disk = s.disk()
        nodes = len(s.qmp.cmd('query-named-block-nodes'))
        text = s.qmp.error('transaction', actions=[
            {'type': 'block-dirty-bitmap-add', 'data': {
                'node': 'virtio0', 'name': 'new'}},
            {'type': 'blockdev-backup', 'data': {
                'device': 'virtio0', 'target': 'target',
                'sync': 'incremental', 'bitmap': 'old'}},
            {'type': 'abort', 'data': {}}])
        assert text == 'Transaction aborted using Abort action', text
        assert s.qmp.cmd('query-jobs') == []
        assert s.disk() == disk
        assert len(s.qmp.cmd('query-named-block-nodes')) == nodes
        assert not s.marks('old')['busy']
        assert s.qmp.error('block-dirty-bitmap-remove', node='virtio0',
                           name='new')
        s.drop('target')


# --- drive-backup ---

def test_drive_backup(d):
    """A new image with all of the disk, in its format, closed afterwards."""
    with Vm(d) as s:
        path = os.path.join(d, 'new')
        nodes = len(s.qmp.cmd('query-named-block-nodes'))
        s.qmp.cmd('drive-backup', device='virtio0', target=path, sync='full')
        s.client().pwrite(b'z' * MIB, 0)
        s.wait_completed()
        assert len(s.qmp.cmd('query-named-block-nodes')) == nodes
        assert_same(rig.read_image(path), s.before)
        assert 'backing-filename' not in rig.image_info(path)


def test_drive_backup_top(d):
    """By the human monitor: the new image stands on the base of the disk."""
    with Vm(d) as s:
        path = os.path.join(d, 'new')
        s.client().pwrite(b'y' * 70000, 100000)
        want = s.content()
        out = s.qmp.hmp('drive_backup virtio0 %s qcow2' % path)
        assert out == '', out
        s.client().pwrite(b'z' * MIB, 0)
        s.wait_completed()
        assert rig.image_info(path)['full-backing-filename'] == s.base
        assert_same(rig.read_image(path, 'qcow2'), want)
        out = s.qmp.hmp('drive_backup -f -c -n virtio0 %s qcow2' % path)
        assert out == '', out
        s.wait_completed()


def test_drive_backup_none(d):
    """What guests overwrite goes to an image that stands on the disk."""
    with Vm(d) as s:
        path = os.path.join(d, 'new')
        s.qmp.cmd('drive-backup', {
            'device': 'virtio0', 'target': path, 'sync': 'none',
            'format': 'qcow2'})
        h = s.client()
        h.pwrite(b'z' * 512, MIB)
        s.qmp.cmd('block-job-cancel', device='virtio0')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')
        h.flush()
        h.shutdown()
    assert rig.image_info(path)['full-backing-filename'] == s.top
    assert_same(rig.read_image(path, 'qcow2'), s.before)


def test_drive_backups_together(d):
    """One that cannot be made leaves nothing of the others."""
    with Vm(d) as s:
        path = os.path.join(d, 'new')

        def actions(second):
            return [{'type': 'drive-backup', 'data': {
                'device': 'virtio0', 'target': path, 'sync': 'full',
                'job-id': 'one'}}, second]

        bad = {'type': 'drive-backup', 'data': {
            'device': 'virtio0', 'target': path + '2', 'sync': 'full',
            'format': 'no-such', 'job-id': 'two'}}
        assert s.qmp.error('transaction', actions=actions(bad)) == \
            "Unknown file format 'no-such'"
        assert not os.path.exists(path)
        text = s.qmp.error('transaction', actions=actions(
            {'type': 'abort', 'data': {}}))
        assert text == 'Transaction aborted using Abort action', text
        assert not os.path.exists(path)
        assert s.qmp.cmd('query-jobs') == []
        assert s.qmp.error('drive-backup', {
            'device': 'virtio0', 'target': path, 'sync': 'top',
            'format': 'raw'}) == 'The target does not support backing images'
        s.qmp.cmd('transaction', actions=actions(
            {'type': 'block-dirty-bitmap-add', 'data': {
                'node': 'virtio0', 'name': 'b'}}))
        s.wait_completed(job='one')
        assert_same(rig.read_image(path), s.before)


# --- errors ---

def test_refusals(d):
    with Vm(d) as s:
        q = s.qmp
        s.target()
        s.bitmap('add')
        q.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'small',
                               'size': MIB})
        q.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'ro',
                               'size': SIZE, 'read-only': True})

        def error(target='target', sync='full', **args):
            args = {k.replace('_', '-'): v for k, v in args.items()}
            return q.error('blockdev-backup', dict({
                'device': 'virtio0', 'target': target, 'sync': sync,
                'job-id': 'k'}, **args))

        lost = "Cannot find device='x' nor node-name='x'"
        must = 'must be given when providing a bitmap'
        for text, args in (
                (lost, {'device': 'x'}),
                (lost, {'target': 'x'}),
                ('Source and target cannot be the same',
                 {'target': 'virtio0'}),
                ("must provide a valid bitmap name for 'incremental' sync "
                 'mode', {'sync': 'incremental'}),
                ("must provide a valid bitmap name for 'bitmap' sync mode",
                 {'sync': 'bitmap'}),
                ('Bitmap sync mode ' + must, {'sync': 'bitmap',
                                              'bitmap': 'b'}),
                ('Bitmap sync mode ' + must, {'bitmap': 'b'}),
                ("Bitmap 'x' could not be found",
                 {'sync': 'bitmap', 'bitmap': 'x', 'bitmap_mode': 'never'}),
                ("Bitmap sync mode must be 'on-success' when using sync mode "
                 "'incremental'", {'sync': 'incremental', 'bitmap': 'b',
                                   'bitmap_mode': 'never'}),
                ("sync mode 'none' does not produce meaningful bitmap outputs",
                 {'sync': 'none', 'bitmap': 'b', 'bitmap_mode': 'never'}),
                ("Bitmap sync mode 'never' has no meaningful effect when "
                 "combined with sync mode 'full'",
                 {'bitmap': 'b', 'bitmap_mode': 'never'}),
                ('Cannot specify bitmap sync mode without a bitmap',
                 {'bitmap_mode': 'always'}),
                ('Compression is not supported for this drive target',
                 {'compress': True}),
                ("Parameter 'speed' expects a non-negative value",
                 {'speed': -1}),
                ('max-workers must be between 1 and 2147483647',
                 {'x_perf': {'max-workers': 0}}),
                ('max-chunk must be zero (which means no limit) or positive',
                 {'x_perf': {'max-chunk': -1}}),
                ('Required max-chunk (100) is less than backup cluster size '
                 '(65536)', {'x_perf': {'max-chunk': 100}}),
                ('Source and target image have different sizes',
                 {'target': 'small'}),
                ('Could not create node: Block node is read-only',
                 {'target': 'ro'}),
                ("Invalid job ID '%'", {'job_id': '%'})):
            assert error(**args) == text, (args, error(**args))
        disk = s.disk()
        s.backup(speed=1, filter_node_name='F')
        busy = 'is busy: block device is in use by block job: backup'
        assert busy in error()
        assert busy in error('target', device='small')
        assert busy in q.error('block-stream', device='virtio0', job_id='k')
        assert busy in q.error('blockdev-del', {'node-name': 'target'})
        assert busy in q.error('block_resize', device='virtio0', size=MIB)
        assert s.disk() == 'F'
        q.cmd('block-job-cancel', device='virtio0')
        q.wait_event('BLOCK_JOB_CANCELLED')
        assert s.disk() == disk
        for action in ({'type': 'block-dirty-bitmap-add', 'data': {
                'node': 'virtio0', 'name': 'n'}},):
            assert q.error('transaction', {
                'actions': [action], 'properties': {
                    'completion-mode': 'grouped'}}) == (
                        "Action '%s' does not support Transaction property "
                        'completion-mode = grouped' % action['type'])


def far(d, filters, size=SIZE):
    """A target behind a server, which can fail or be slow."""
    path = rig.make_file(os.path.join(d, 'far'), bytes(size))
    return path, rig.Base(d, path, filters, name='far', writable=True)


def far_node(base):
    return {'driver': 'nbd', 'node-name': 'target', 'server': {
        'type': 'unix', 'path': base.sock}}


def test_errors_of_the_target(d):
    """Its server takes no writes for a while: stop, go on, and all is there."""
    path, server = far(d, 'error,error-pwrite=ENOSPC,error-pwrite-rate=100%')
    with server:
        server.errors(True)
        with Vm(d) as s:
            s.qmp.cmd('blockdev-add', far_node(server))
            s.backup(on_target_error='enospc')
            s.qmp.wait_event('JOB_STATUS_CHANGE', status='paused')
            job, = s.qmp.cmd('query-block-jobs')
            assert job['io-status'] == 'nospace', job
            server.errors(False)
            s.qmp.cmd('block-job-resume', device='virtio0')
            s.wait_completed()
            with open(path, 'rb') as f:
                assert_same(f.read(), s.before)
            server.errors(True)
            s.bitmap('add')
            s.client().pwrite(b'a', 0)
            s.backup(sync='incremental', bitmap='b')
            s.wait_completed('No space left on device')
            assert s.marks()['count'] > 0
            s.backup(sync='incremental', bitmap='b', on_target_error='ignore')
            s.qmp.wait_event('BLOCK_JOB_ERROR')
            server.errors(False)
            s.wait_completed()
            assert s.marks()['count'] == 0


def slow_target(d, seconds, **args):
    """How long a guest's write takes where the target takes @seconds, with
    @args; what it and the job say."""
    _, server = far(d, 'delay,delay-write=%d,delay-zero=%d'
                    % (seconds, seconds))
    with server, Vm(d) as s:
        s.qmp.cmd('blockdev-add', far_node(server))
        s.backup(sync='none', cbw_timeout=1, **args)
        h = s.client()
        took = []

        def write():
            began = rig.time.monotonic()
            try:
                h.pwrite(b'a' * 512, 0)
                took.append('done')
            except rig.nbd.Error:
                took.append('failed')
            took.append(rig.time.monotonic() - began)

        t = threading.Thread(target=write)
        t.start()
        t.join()
        if took[0] == 'done':
            s.qmp.wait_event('BLOCK_JOB_COMPLETED')
        else:
            s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
            s.qmp.wait_event('BLOCK_JOB_CANCELLED')
        assert bytes(h.pread(512, 0)) == (
            b'a' * 512 if took[0] == 'done' else s.before[:512])
        h.pwrite(b'b' * 512, 512)
        return took


def test_slow_target_breaks_the_copy(d):
    """The guest goes on when its time is over, long before the target has
    answered, and the job says that the copy is no good."""
    result, _ = slow_target(d, 4, on_cbw_error='break-snapshot')
    assert result == 'done'


def test_slow_target_breaks_the_write(d):
    result, _ = slow_target(d, 4)
    assert result == 'failed'


def test_daemon_is_killed(d):
    """kill -9 while a guest writes and an incremental backup runs: the disk is
    what the guest was told, and the bitmap is not taken for true."""
    if rig.FORMAT != 'qcow2':
        raise Skip('only qcow2 keeps bitmaps')
    with Vm(d) as s:
        s.target()
        s.bitmap('add', persistent=True)
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        s.backup(sync='incremental', bitmap='b', speed=64 * KIB)
        some_writes(ledger)
        guest.cut = True
        s.daemon.kill()
        guest.halt = True
        guest.join()
        top = s.top
    rig.check_no_corruption(top)
    ledger.check(rig.read_image(top), float('inf'))
    data = rig.image_info(top)['format-specific']['data']
    assert data['bitmaps'][0]['flags'] == ['in-use', 'auto'], data
    with Sluiced(d, '--blockdev', 'qcow2,node-name=n,file.driver=file,'
                 'file.filename=' + top) as s:
        node = [n for n in s.qmp.cmd('query-named-block-nodes', flat=True)
                if n['node-name'] == 'n'][0]
        assert node['dirty-bitmaps'][0]['inconsistent']


if __name__ == '__main__':
    rig.run(globals())
