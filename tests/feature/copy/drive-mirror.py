#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""drive-mirror makes its target; block-job-change, and what a mirror says when
guests write faster than it copies."""
import os
import random
import threading

import rig
from rig import Guest, KIB, Ledger, MIB, Stage, assert_same
from seed import SEED
from sluiced import Sluiced
from waiting import until

SIZE = 6 * MIB


class Disk(Stage):
    """A disk over a base, as device virtio0."""

    def __init__(self, d):
        self.base = rig.make_file(os.path.join(d, 'base'),
                                  random.Random(SEED).randbytes(SIZE))
        self.path = rig.make_overlay(os.path.join(d, 'top'), self.base)
        self.target = os.path.join(d, 'target')
        super().__init__(d, self.path)
        self.before = rig.read_image(self.path)

    def words(self, **args):
        return dict({'device': 'virtio0', 'target': self.target,
                     'sync': 'full'},
                    **{k.replace('_', '-'): v for k, v in args.items()})

    def mirror(self, **args):
        self.qmp.cmd('drive-mirror', self.words(**args))

    def ready(self):
        self.qmp.wait_event('BLOCK_JOB_READY')

    def complete(self):
        self.qmp.cmd('block-job-complete', device='virtio0')
        self.wait_completed()

    def read(self):
        h = self.client()
        return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))


def some_writes(ledger, n=50):
    was = ledger.requests
    until(lambda: ledger.requests > was + n, 'the guest')


def move(d, fmt=None, **args):
    """To a target under a guest; returns what the target's header names."""
    fmt = fmt or rig.FORMAT
    with Disk(d) as s:
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        s.mirror(**args)
        s.ready()
        some_writes(ledger)
        s.complete()
        some_writes(ledger)
        guest.stop()
        got = s.read()
        ledger.check_all(got)
        s.client().flush()
    assert_same(rig.read_image(s.target, fmt), got, 'the target')
    if fmt != 'raw':
        rig.check_image(s.target)
        return rig.image_info(s.target).get('full-backing-filename')
    return None


def test_full(d):
    """The format is that of the disk."""
    assert move(d) is None


def test_full_to_raw(d):
    move(d, fmt='raw', format='raw', copy_mode='write-blocking')


def test_top(d):
    for mode in 'background', 'write-blocking':
        folder = os.path.join(d, mode)
        os.mkdir(folder)
        base = move(folder, sync='top', copy_mode=mode)
        assert base == os.path.join(folder, 'base'), base


def test_none(d):
    """The old image becomes the base of the new one, and is written to no
    more."""
    for mode in 'background', 'write-blocking':
        folder = os.path.join(d, mode)
        os.mkdir(folder)
        base = move(folder, sync='none', copy_mode=mode)
        assert base == os.path.join(folder, 'top'), base


def test_none_goes_on_by_name(d):
    with Disk(d) as s:
        s.mirror(sync='none', node_name='new', copy_mode='write-blocking')
        s.ready()
        # A part of a cluster: the rest is in the old image.
        s.client().pwrite(b'n' * 512, MIB + 512)
        s.complete()
        want = bytearray(s.before)
        want[MIB + 512:MIB + 1024] = b'n' * 512
        assert_same(s.read(), bytes(want))
        nodes = {n['node-name']: n
                 for n in s.qmp.cmd('query-named-block-nodes')}
        assert nodes['new']['backing_file_depth'] == 2, nodes['new']
        old, = [n for n in nodes.values()
                if n['file'] == s.path and n['drv'] == rig.FORMAT]
        assert old['ro'], old


def existing(d, sync, base):
    with Disk(d) as s:
        rig.make_overlay(s.target, s.base if base else None, size=SIZE)
        s.client().pwrite(b'w' * 512, 3 * MIB + 512)
        s.client().zero(64 * KIB, 4 * MIB)
        s.mirror(sync=sync, mode='existing', copy_mode='write-blocking')
        s.ready()
        s.client().pwrite(b'x' * 512, 2 * MIB + 512)
        s.client().zero(512, 5 * MIB + 512)
        want = s.read()
        s.complete()
        assert_same(s.read(), want)
        s.client().flush()
    assert_same(rig.read_image(s.target), want)


def test_existing(d):
    existing(d, 'full', False)


def test_existing_top(d):
    existing(d, 'top', True)


def lazily(d, sync, header):
    """The target gets its backing file when it is ready, as libvirt does it:
    until then whole clusters are written."""
    with Disk(d) as s:
        rig.make_overlay(s.target, s.base if header else None, size=SIZE,
                         cluster=128 * KIB)
        h = s.client()
        h.pwrite(b'w' * 512, 3 * MIB + 512)
        h.zero(64 * KIB, 4 * MIB)
        s.qmp.cmd('blockdev-add', {
            'driver': rig.FORMAT, 'node-name': 'target', 'backing': None,
            'file': {'driver': 'file', 'filename': s.target}})
        s.qmp.cmd('blockdev-mirror', {
            'device': 'virtio0', 'target': 'target', 'sync': sync,
            'job-id': 'j', 'copy-mode': 'write-blocking'})
        s.ready()
        h.pwrite(b'x' * 512, 2 * MIB + 512)
        h.zero(64 * KIB, 5 * MIB)
        want = s.read()
        h.flush()
        s.qmp.cmd('block-job-cancel', device='j')
        s.wait_completed(job='j')
        s.qmp.cmd('blockdev-del', {'node-name': 'target'})
    if not header:
        rig.qemu_img('rebase', '-u', '-f', rig.FORMAT, '-b', s.base, '-F',
                     'raw', s.target)
    if sync == 'none':
        got = rig.read_image(s.target)
        assert_same(got[2 * MIB:2 * MIB + 128 * KIB],
                    want[2 * MIB:2 * MIB + 128 * KIB])
        assert_same(got[5 * MIB:5 * MIB + 64 * KIB], bytes(64 * KIB))
    else:
        assert_same(rig.read_image(s.target), want)


def test_backing_file_that_comes_later(d):
    for sync in 'top', 'none':
        for header in False, True:
            folder = os.path.join(d, '%s-%s' % (sync, header))
            os.mkdir(folder)
            lazily(folder, sync, header)


def test_unmap_off(d):
    """Zeroes take up space in the target."""
    with Disk(d) as s:
        s.client().zero(SIZE, 0)
        s.client().flush()
        rig.make_file(s.target, b'old' * MIB)
        os.truncate(s.target, SIZE)
        s.mirror(format='raw', mode='existing', unmap=False)
        s.ready()
        s.complete()
        assert os.stat(s.target).st_blocks * 512 >= SIZE
    with open(s.target, 'rb') as f:
        assert_same(f.read(), bytes(SIZE))


def test_replaces(d):
    with Disk(d) as s:
        q = s.qmp
        top = q.cmd('query-block')[0]['inserted']['node-name']
        assert q.error('drive-mirror', s.words(replaces=top)) == \
            'a node-name must be provided when replacing a named node of ' \
            'the graph'
        q.cmd('blockdev-add', {
            'driver': 'null-co', 'node-name': 'other', 'size': SIZE})
        text = q.error('drive-mirror', s.words(replaces='other',
                                              node_name='new'))
        assert text.startswith("Cannot replace 'other' by a node mirrored from "
                               "'virtio0', because"), text
        assert not os.path.exists(s.target)
        s.mirror(replaces=top, node_name='new')
        s.ready()
        s.complete()
        assert q.cmd('query-block')[0]['inserted']['node-name'] == 'new'
        assert_same(s.read(), s.before)


def test_hmp(d):
    with Disk(d) as s:
        def hmp(line):
            text = s.qmp.cmd('human-monitor-command',
                             {'command-line': line})
            assert not text, text
        hmp('drive_mirror virtio0 %s' % s.target)
        s.ready()
        hmp('block_job_cancel virtio0')
        s.wait_completed()
        assert rig.image_info(s.target)['full-backing-filename'] == s.base
        hmp('drive_mirror -n -f virtio0 %s %s' % (s.target, rig.FORMAT))
        s.ready()
        hmp('block_job_complete virtio0')
        s.wait_completed()
        assert_same(s.read(), s.before)
        over = s.target + '.over'
        rig.make_overlay(over, s.target, fmt=rig.FORMAT)
        hmp('snapshot_blkdev -n virtio0 %s %s' % (over, rig.FORMAT))
        assert s.qmp.cmd('query-block')[0]['inserted']['file'] == over


def test_refusals(d):
    """Nothing is left of a target that was made for a job that did not
    begin."""
    with Disk(d) as s:
        q = s.qmp

        def error(**args):
            text = q.error('drive-mirror', s.words(**args))
            assert not os.path.exists(s.target), text
            return text

        assert error(device='x') == \
            "Cannot find device='x' nor node-name='x'", error(device='x')
        assert error(format='raw', sync='top') == \
            'The target does not support backing images'
        assert error(format='x') == "Unknown file format 'x'"
        assert 'Invalid job ID' in error(job_id='-')
        assert 'power of 2' in error(granularity=1000)
        assert 'No such file' in error(mode='existing')
        s.mirror(speed=1)
        busy = 'is busy: block device is in use by block job: mirror'
        assert busy in q.error('drive-mirror', s.words(target=s.target + '2'))
        assert not os.path.exists(s.target + '2')
        q.cmd('block-job-cancel', device='virtio0')
        q.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')


class Writer(threading.Thread):
    """A guest that writes all of the disk again and again."""

    def __init__(self, stage):
        super().__init__()
        self.h = stage.client()
        self.halt = False
        self.data = None
        self.start()

    def run(self):
        rnd = random.Random(SEED)
        while not self.halt:
            data = rnd.randbytes(MIB)
            for at in range(0, SIZE, MIB):
                self.h.pwrite(data, at)
            self.data = data

    def stop(self):
        self.halt = True
        self.join()


def test_change_of_the_mode(d):
    """A guest that writes faster than the mirror copies: the mirror says so, and
    converges once changes go to both sides."""
    with Disk(d) as s:
        q = s.qmp
        writer = Writer(s)
        s.mirror(speed=2 * MIB, latency_target='off')
        event = q.wait_event('BLOCK_JOB_FALLS_BEHIND')['data']
        assert event['device'] == 'virtio0' and event['remaining'] > 0, event
        job, = q.cmd('query-block-jobs')
        assert job['copy-mode'] == 'background' and job['falls-behind'] and \
            not job['ready'] and not job['actively-synced'], job
        assert q.error('block-job-change', {
            'id': 'x', 'type': 'mirror', 'copy-mode': 'background'}) == \
            "Block job 'x' not found"
        for mode in 'background', 'write-blocking':
            q.cmd('block-job-change', {'id': 'virtio0', 'type': 'mirror',
                                       'copy-mode': mode})
        s.ready()
        assert q.error('block-job-change', {
            'id': 'virtio0', 'type': 'mirror', 'copy-mode': 'background'}) == \
            "Change to copy mode 'background' is not implemented"
        until(lambda: q.cmd('query-block-jobs')[0]['actively-synced'],
              'the mirror')
        job, = q.cmd('query-block-jobs')
        assert job['copy-mode'] == 'write-blocking' and \
            not job['falls-behind'], job
        s.complete()
        writer.stop()
        assert_same(s.read(), writer.data * (SIZE // MIB))


def test_blkmirror(d):
    """The open form of 2011, with a colon in a name."""
    odd = os.path.join(d, 'a:b')
    target = os.path.join(d, 'target')
    top = rig.make_overlay(os.path.join(d, 'top'), rig.make_file(
        os.path.join(d, 'base'), random.Random(SEED).randbytes(SIZE)))
    rig.make_overlay(target, None, size=SIZE)
    want = rig.read_image(top)
    os.rename(top, odd)
    name = 'blkmirror:%s:%s' % (odd.replace(':', '\\:'), target)
    with Stage(d, name) as s:
        assert s.qmp.cmd('query-block')[0]['inserted']['file'] == odd
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['ready'], 'the mirror')
        s.qmp.cmd('block-job-complete', device='virtio0')
        s.wait_completed()
        assert s.qmp.cmd('query-block')[0]['inserted']['file'] == target
    assert_same(rig.read_image(target), want)
    with Sluiced(d) as s:
        assert 'expects two names' in s.qmp.hmp(
            'drive_add "" file=blkmirror:%s,format=%s' % (target, rig.FORMAT))


def test_change_of_other_jobs(d):
    with Disk(d) as s:
        s.stream(speed=1)
        assert s.qmp.error('block-job-change', {
            'id': 'virtio0', 'type': 'stream', 'copy-mode': 'background'}) == \
            'Job type does not support change'


if __name__ == '__main__':
    rig.run(globals())
