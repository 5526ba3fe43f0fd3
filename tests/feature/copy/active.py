#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""block-commit of the active layer: it follows a guest that writes, and when it
is completed the guest goes on on the base."""
import os
import random

import rig
from chains import Chain, NAMES, SIZE, check_disk, make_chain
from rig import Guest, KIB, Ledger, MIB, assert_same
from seed import SEED
from waiting import until


def start(s, job='j', **args):
    args = {k.replace('_', '-'): v for k, v in args.items()}
    s.qmp.cmd('block-commit', dict({'device': 'n-top', 'job-id': job}, **args))


def read_disk(s):
    h = s.client()
    return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))


def check_base(paths, lower, want):
    """The images above it go; it has all that the disk held."""
    for n in NAMES[NAMES.index(lower) + 1:]:
        os.unlink(paths[n])
    assert_same(rig.read_image(paths[lower], 'raw' if lower == 'base'
                               else rig.FORMAT), want, lower)
    if lower != 'base':
        rig.check_image(paths[lower])


def merge(d, lower, **args):
    """Commit everything into @lower, under a guest all the time."""
    paths, disks = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED)
        start(s, **args)
        data = s.qmp.wait_event('BLOCK_JOB_READY', device='j')['data']
        assert data['type'] == 'commit' and data['offset'] <= data['len'], data
        job, = s.qmp.cmd('query-block-jobs')
        assert job['ready'] and job['status'] == 'ready', job
        writes = ledger.requests
        until(lambda: ledger.requests > writes + 100, 'the guest')
        s.qmp.cmd('block-job-complete', device='j')
        s.wait_completed(job='j')
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        writes = ledger.requests
        until(lambda: ledger.requests > writes + 100, 'the guest')
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
        exports = s.qmp.cmd('query-block-exports')
        assert exports[0]['node-name'] == 'n-' + lower, exports
    check_base(paths, lower, got)


def test_into_the_next_one(d):
    merge(d, 'c', base_node='n-c')


def test_into_the_lowest(d):
    merge(d, 'base')


def test_into_one_between(d):
    merge(d, 'a', base_node='n-a')


def test_states(d):
    paths, _ = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        start(s, auto_finalize=False, auto_dismiss=False,
              filter_node_name='filter')
        s.qmp.wait_event('BLOCK_JOB_READY', device='j')
        node, = [n for n in s.qmp.cmd('query-named-block-nodes')
                 if n['node-name'] == 'filter']
        assert node['drv'] == 'mirror_top', node
        s.qmp.cmd('block-job-pause', device='j')
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='j', status='standby')
        s.qmp.cmd('block-job-resume', device='j')
        s.qmp.cmd('block-job-complete', device='j')
        s.qmp.wait_event('BLOCK_JOB_PENDING', id='j')
        # Guests write until it is finalized, and nothing of that is lost.
        s.client().pwrite(b'late' * 128, 4096)
        s.qmp.cmd('job-finalize', id='j')
        s.wait_completed(job='j')
        assert bytes(s.client().pread(512, 4096)) == b'late' * 128
        s.qmp.cmd('job-dismiss', id='j')
        states = s.qmp.job_states('j')
        assert [x for x in states if x not in ('standby',)] == [
            'created', 'running', 'ready', 'ready', 'waiting', 'pending',
            'concluded', 'null'], states


def test_cancel_when_ready_leaves_a_copy(d):
    """Softly: no switch, the base holds what the disk held."""
    paths, disks = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED)
        start(s)
        s.qmp.wait_event('BLOCK_JOB_READY', device='j')
        guest.stop()
        s.qmp.cmd('block-job-cancel', device='j')
        s.wait_completed(job='j')
        got = read_disk(s)
        ledger.check_all(got)
        exports = s.qmp.cmd('query-block-exports')
        assert exports[0]['node-name'] == 'n-top', exports
        s.client().pwrite(b'x' * 512, 0)
        want = b'x' * 512 + got[512:]
        s.client().flush()
    check_disk(paths['top'], want, paths['c'])
    check_base(paths, 'base', got)


def test_cancel_by_force(d):
    paths, disks = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        for ready in (False, True):
            start(s, speed=0 if ready else 1)
            if ready:
                s.qmp.wait_event('BLOCK_JOB_READY', device='j')
            s.qmp.cmd('block-job-cancel', device='j', force=ready)
            s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
            s.qmp.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
            assert_same(read_disk(s), disks['top'])
            exports = s.qmp.cmd('query-block-exports')
            assert exports[0]['node-name'] == 'n-top', exports
    check_disk(paths['top'], disks['top'], paths['c'])


def test_smaller_base(d):
    paths = {n: os.path.join(d, n) for n in ('base', 'top')}
    rig.make_file(paths['base'], random.Random(SEED).randbytes(MIB + 777))
    rig.make_overlay(paths['top'], paths['base'], size=4 * MIB)
    with rig.Stage(d, paths['top']) as s:
        s.client().pwrite(b'e' * 512, 4 * MIB - 512)
        want = bytes(s.client().pread(4 * MIB, 0))
        s.qmp.cmd('block-commit', {'device': 'virtio0'})
        s.qmp.wait_event('BLOCK_JOB_READY', device='virtio0')
        s.qmp.cmd('block-job-complete', device='virtio0')
        s.wait_completed()
        s.client().pwrite(b'f' * 512, 2 * MIB)
    want = want[:2 * MIB] + b'f' * 512 + want[2 * MIB + 512:]
    os.unlink(paths['top'])
    with open(paths['base'], 'rb') as f:
        assert_same(f.read(), want)


def test_refusals(d):
    paths, disks = make_chain(d, random.Random(SEED))
    busy = 'is busy: block device is in use by block job: commit'
    with Chain(d, paths) as s:
        q = s.qmp
        assert q.error('block-commit', {
            'device': 'n-top', 'job-id': 'k', 'backing-file': 'x'}) == \
            "'backing-file' specified, but 'top' is the active layer"
        start(s, speed=1)
        for cmd, more in (('block-commit', {}), ('block-stream', {}),
                          ('block-commit', {'top-node': 'n-b'}),
                          ('block-stream', {'base-node': 'n-b'})):
            text = q.error(cmd, dict({'device': 'n-top', 'job-id': 'k'},
                                     **more))
            assert busy in text, text
        assert 'in use' in q.error('block_resize', {'node-name': 'n-top',
                                                    'size': 2 * SIZE})
        # Past the filter nobody writes.
        text = q.error('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'n-top', 'name': 'e',
            'writable': True})
        assert "permissions 'write' are both required by" in text, text
        text = q.error('block-job-complete', {'device': 'j'})
        assert text == "Job 'j' in state 'running' cannot accept command " \
            "verb 'complete'", text
        q.cmd('block-job-cancel', device='j')
        q.wait_event('BLOCK_JOB_CANCELLED', device='j')
        assert_same(read_disk(s), disks['top'])


def test_second_overlay(d):
    """Another image reads what the disk would be merged into."""
    paths, _ = make_chain(d, random.Random(SEED))
    other = rig.make_overlay(os.path.join(d, 'other'), paths['b'], rig.FORMAT)
    with Chain(d, paths) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': rig.FORMAT, 'node-name': 'other', 'backing': 'n-b',
            'file': {'driver': 'file', 'filename': other}})
        for base in 'n-b', 'n-a':
            text = s.qmp.error('block-commit', {
                'device': 'n-top', 'job-id': 'j', 'base-node': base})
            assert text == "Node 'n-b' is busy: node is used as backing hd " \
                "of 'other'", text
        start(s, base_node='n-c')
        s.qmp.wait_event('BLOCK_JOB_READY', device='j')
        s.qmp.cmd('block-job-complete', device='j')
        s.wait_completed(job='j')


def test_by_hand(d):
    """The human monitor: commit, then block_job_complete."""
    base, top = os.path.join(d, 'base'), os.path.join(d, 'top')
    rig.make_file(base, random.Random(SEED).randbytes(MIB))
    rig.make_overlay(top, base)
    with rig.Stage(d, top) as s:
        s.client().pwrite(b'x' * 512, 0)
        assert s.qmp.hmp('commit virtio0') == ''
        s.qmp.wait_event('BLOCK_JOB_READY', device='virtio0')
        assert s.qmp.hmp('info block-jobs').startswith(
            'Type commit, device virtio0: Completed ')
        assert s.qmp.hmp('block_job_complete virtio0') == ''
        s.wait_completed()
        assert top not in s.qmp.hmp('info block')
    with open(base, 'rb') as f:
        assert f.read(512) == b'x' * 512


def test_by_hand_one_image_down(d):
    """Without a base the image goes into the next one, as in QEMU: the base
    may be other disks', too."""
    paths = {n: os.path.join(d, n) for n in ('base', 'mid', 'top')}
    rig.make_file(paths['base'], bytes(MIB))
    rig.make_overlay(paths['mid'], paths['base'])
    rig.make_overlay(paths['top'], paths['mid'], rig.FORMAT)
    with rig.Stage(d, paths['top']) as s:
        s.client().pwrite(b'x' * 512, 0)
        assert 'not found' in s.qmp.hmp('commit nothing')
        assert s.qmp.hmp('commit virtio0') == ''
        s.qmp.wait_event('BLOCK_JOB_READY', device='virtio0')
        assert s.qmp.hmp('block_job_complete virtio0') == ''
        s.wait_completed()
        assert paths['mid'] in s.qmp.hmp('info block')
    assert rig.read_image(paths['mid'])[:512] == b'x' * 512
    with open(paths['base'], 'rb') as f:
        assert f.read() == bytes(MIB)


def test_snapshots_are_not_changed(d):
    """Guests may write wherever a snapshot shows the base (S10)."""
    if rig.FORMAT != 'qcow2':
        raise rig.Skip('of qcow2 alone')
    paths, disks = make_chain(d, random.Random(SEED))
    rig.qemu_img('snapshot', '-c', 'snap', paths['top'])
    with Chain(d, paths) as s:
        text = s.qmp.error('block-commit', {'device': 'n-top', 'job-id': 'j'})
        assert "cannot be committed: its internal snapshots 'snap' show" \
            in text, text
        assert s.qmp.cmd('query-block-jobs') == []
        assert_same(read_disk(s), disks['top'])


if __name__ == '__main__':
    rig.run(globals())
