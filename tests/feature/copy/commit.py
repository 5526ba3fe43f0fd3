#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""block-commit of images below the active layer, while a guest writes.

What is left is looked at with qemu-img: the bytes of each image that stays,
and the backing name in the header of the image above those that go.
"""
import os
import random

import rig
from chains import Chain, NAMES, SIZE, check_disk, make_chain
from rig import Guest, KIB, Ledger, MIB, assert_same
from seed import SEED


def commit(s, job='j', error=None, **args):
    args = {k.replace('_', '-'): v for k, v in args.items()}
    s.qmp.cmd('block-commit', dict({'device': 'n-top', 'job-id': job}, **args))
    data = s.wait_completed(job=job, error=error)
    s.qmp.wait_event('JOB_STATUS_CHANGE', id=job, status='null')
    assert data['type'] == 'commit', data
    return data


def read_disk(s):
    h = s.client()
    return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))


def merge(d, upper, lower, backing=None, **args):
    """Commit @upper into @lower under a guest; the chain is what it is to
    be."""
    paths, disks = make_chain(d, random.Random(SEED))
    names = {k: paths[v[1:]] if v[0] == '/' else v for k, v in args.items()}
    with Chain(d, paths) as s:
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED)
        commit(s, **names)
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
    above = NAMES[NAMES.index(upper) + 1]
    for n in NAMES[NAMES.index(lower) + 1:NAMES.index(upper) + 1]:
        os.unlink(paths[n])
    check_disk(paths['top'], got, paths['c'] if above != 'top'
               else backing or paths[lower])
    fmt = 'raw' if lower == 'base' else rig.FORMAT
    assert_same(rig.read_image(paths[lower], fmt), disks[upper], lower)
    if above != 'top':
        check_disk(paths[above], disks[above], paths[lower])


def test_middle_into_its_base(d):
    merge(d, 'b', 'a', top_node='n-b', base_node='n-a')


def test_two_images(d):
    merge(d, 'b', 'base', top='/b', base='/base')


def test_below_the_active_layer(d):
    merge(d, 'c', 'a', top_node='n-c', base='/a')


def test_down_to_the_lowest(d):
    merge(d, 'c', 'base', top='/c')


def test_backing_file(d):
    """The string goes into the header as it is."""
    merge(d, 'c', 'a', backing='a', top_node='n-c', base_node='n-a',
          backing_file='a')


def test_rates_and_events(d):
    paths, _ = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        s.qmp.cmd('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'top-node': 'n-b',
            'base-node': 'n-base', 'speed': 64 * KIB, 'auto-finalize': False,
            'auto-dismiss': False, 'filter-node-name': 'filter'})
        job, = s.qmp.cmd('query-block-jobs')
        assert (job['type'], job['speed'], job['len']) == \
            ('commit', 64 * KIB, SIZE), job
        node, = [n for n in s.qmp.cmd('query-named-block-nodes')
                 if n['node-name'] == 'filter']
        assert node['drv'] == 'commit_top', node
        s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        s.qmp.wait_event('BLOCK_JOB_PENDING', id='j')
        assert rig.image_info(paths['c'])['backing-filename'] == paths['b']
        s.qmp.cmd('job-finalize', id='j')
        s.wait_completed(job='j')
        s.qmp.cmd('job-dismiss', id='j')
        assert s.qmp.job_states('j') == [
            'created', 'running', 'waiting', 'pending', 'concluded', 'null']
        assert 'filter' not in [n['node-name'] for n in
                                s.qmp.cmd('query-named-block-nodes')]
        # Read-only again: nobody needs to write to them.
        ro = {n['node-name']: n['ro']
              for n in s.qmp.cmd('query-named-block-nodes')}
        assert ro['n-base'] and ro['n-c'] and not ro['n-top'], ro


def test_cancel_leaves_the_chain(d):
    paths, disks = make_chain(d, random.Random(SEED))
    with Chain(d, paths) as s:
        s.qmp.cmd('block-commit', {'device': 'n-top', 'job-id': 'j', 'speed': 1,
                                   'top-node': 'n-c'})
        s.qmp.cmd('block-job-cancel', device='j')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
        assert_same(read_disk(s), disks['top'])
        commit(s, top_node='n-c')
        assert_same(read_disk(s), disks['top'])
    check_disk(paths['top'], disks['top'], paths['base'])


def test_smaller_base(d):
    """The base grows; past its old end the images that go are the disk."""
    rnd = random.Random(SEED)
    paths = {n: os.path.join(d, n) for n in ('base', 'mid', 'top')}
    rig.make_file(paths['base'], rnd.randbytes(MIB + 777))
    rig.make_overlay(paths['mid'], paths['base'], size=4 * MIB)
    rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P 7 3M 64k', '-c',
                 'write -z 0 64k', paths['mid'])
    rig.make_overlay(paths['top'], paths['mid'], rig.FORMAT)
    want = rig.read_image(paths['top'])
    with rig.Stage(d, paths['top']) as s:
        s.qmp.cmd('block-commit', {'device': 'virtio0', 'top': paths['mid']})
        s.wait_completed()
    os.unlink(paths['mid'])
    check_disk(paths['top'], want, paths['base'])
    assert os.path.getsize(paths['base']) == 4 * MIB
    # Zeroes stay zeroes, and what nobody wrote takes no space.
    assert os.stat(paths['base']).st_blocks * 512 < 2 * MIB


def test_smaller_image_in_between(d):
    """Behind its end the disk is zero, whatever the base has there (C6)."""
    rnd = random.Random(SEED)
    paths = {n: os.path.join(d, n) for n in ('base', 'mid', 'top')}
    base = rnd.randbytes(4 * MIB)
    rig.make_file(paths['base'], base)
    rig.make_overlay(paths['mid'], paths['base'], size=2 * MIB)
    rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P 7 1M 64k',
                 paths['mid'])
    rig.make_overlay(paths['top'], paths['mid'], rig.FORMAT, size=3 * MIB)
    rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P 8 2500k 4k',
                 paths['top'])
    want = rig.read_image(paths['top'])
    with rig.Stage(d, paths['top']) as s:
        s.qmp.cmd('block-commit', {'device': 'virtio0', 'top': paths['mid']})
        data = s.wait_completed()
        assert data['offset'] == data['len'], data
    os.unlink(paths['mid'])
    check_disk(paths['top'], want, paths['base'])
    # What the disk cannot show is left alone.
    assert_same(rig.read_image(paths['base'], 'raw')[3 * MIB:], base[3 * MIB:])


def test_refusals(d):
    paths, disks = make_chain(d, random.Random(SEED))
    busy = 'is busy: block device is in use by block job: commit'
    with Chain(d, paths) as s:
        q = s.qmp

        def error(**args):
            args = {k.replace('_', '-'): v for k, v in args.items()}
            return q.error('block-commit',
                           dict({'device': 'n-top', 'job-id': 'k'}, **args))

        assert q.execute('block-commit', {'device': 'x'})['error'] == {
            'class': 'DeviceNotFound', 'desc': "Device 'x' not found"}
        assert error(top='x') == 'Top image file x not found'
        assert error(base='x', top_node='n-c') == \
            "Can't find 'x' in the backing chain"
        assert error(top_node='f-a') == \
            "'f-a' is not in this backing file chain"
        assert error(top_node='n-a', base_node='n-b') == \
            "'n-b' is not in this backing file chain"
        assert error(top_node='n-a', base_node='n-a') == \
            'cannot commit an image into itself'
        assert error(top_node='n-a', top='a') == \
            "'top-node' and 'top' are mutually exclusive"
        assert error(base_node='n-a', base='a') == \
            "'base-node' and 'base' are mutually exclusive"
        assert 'There is no backing image' in error(top_node='n-base')
        assert 'non-negative' in error(top_node='n-c', speed=-1)
        q.cmd('block-commit', {'device': 'n-top', 'job-id': 'j', 'speed': 1,
                               'top-node': 'n-b', 'base-node': 'n-a'})
        for top, base in (('n-c', 'n-b'), ('n-a', 'n-base'), ('n-b', 'n-a')):
            assert busy in error(top_node=top, base_node=base), (top, base)
        assert busy in q.error('block-stream', {'device': 'n-top',
                                                'job-id': 'k'})
        # Somebody reads an image that goes.
        text = q.error('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'n-b'})
        assert "permissions 'consistent read' are both required by" in text, \
            text
        assert "unshared by commit job 'j'" in text, text
        # The base may be read, it is as it always was where they do not hide
        # it.
        q.cmd('block-export-add', {'type': 'nbd', 'id': 'e',
                                   'node-name': 'n-base'})
        q.cmd('block-export-del', {'id': 'e'})
        q.cmd('block-job-cancel', device='j')
        q.wait_event('BLOCK_JOB_CANCELLED', device='j')
        # Beside it, above: disjoint parts of the chain.
        q.cmd('block-commit', {'device': 'n-top', 'job-id': 'j', 'speed': 1,
                               'top-node': 'n-a', 'base-node': 'n-base'})
        q.cmd('block-stream', {'device': 'n-top', 'job-id': 'k',
                               'base-node': 'n-b'})
        s.wait_completed(job='k')
        q.cmd('block-job-set-speed', device='j', speed=0)
        s.wait_completed(job='j')
        assert_same(read_disk(s), disks['top'])
    check_disk(paths['top'], disks['top'], paths['b'])
    check_disk(paths['b'], disks['b'], paths['base'])


BACKING = "Node '%s' is busy: node is used as backing hd of '%s'"


def overlay(path, base):
    return {'driver': rig.FORMAT, 'node-name': 'other', 'backing': base,
            'file': {'driver': 'file', 'filename': path}}


def add_overlay(s, path, base):
    s.qmp.cmd('blockdev-add', overlay(path, base))


def test_second_overlay_of_the_base(d):
    """Another image stands on the base: it would read something else (C3)."""
    paths, disks = make_chain(d, random.Random(SEED))
    other = rig.make_overlay(os.path.join(d, 'other'), paths['base'])
    with Chain(d, paths) as s:
        add_overlay(s, other, 'n-base')
        text = s.qmp.error('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'top-node': 'n-b'})
        assert text == BACKING % ('n-base', 'other'), text
        text = s.qmp.error('block_resize', {'node-name': 'n-base',
                                            'size': MIB})
        assert text == BACKING % ('n-base', 'n-a'), text
        assert s.qmp.cmd('query-block-jobs') == []
        commit(s, top_node='n-c', base_node='n-a')
        assert_same(read_disk(s), disks['top'])


def test_second_overlay_of_an_image_that_goes(d):
    """It would read what was merged into the base of that image."""
    paths, disks = make_chain(d, random.Random(SEED))
    other = rig.make_overlay(os.path.join(d, 'other'), paths['b'], rig.FORMAT)
    with Chain(d, paths) as s:
        add_overlay(s, other, 'n-b')
        text = s.qmp.error('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'top-node': 'n-c',
            'base-node': 'n-a'})
        assert text == BACKING % ('n-b', 'other'), text
        s.qmp.cmd('blockdev-del', {'node-name': 'other'})
        commit(s, top_node='n-c', base_node='n-a')
        assert_same(read_disk(s), disks['top'])


def test_overlay_while_it_runs(d):
    """Nobody puts an image on what the job changes."""
    paths, disks = make_chain(d, random.Random(SEED))
    other = rig.make_overlay(os.path.join(d, 'other'), paths['base'])
    with Chain(d, paths) as s:
        s.qmp.cmd('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'top-node': 'n-b', 'speed': 1})
        for node in 'n-base', 'n-a', 'n-b':
            assert s.qmp.error('blockdev-add', overlay(other, node)) == \
                "Node '%s' is busy: block device is in use by block job: " \
                'commit' % node
        s.qmp.cmd('block-job-set-speed', {'device': 'j', 'speed': 0})
        s.wait_completed(job='j')
        add_overlay(s, other, 'n-base')
        assert_same(read_disk(s), disks['top'])


def failing_base(d, policy, errno='ENOSPC'):
    """A base on a server that takes no writes while base.error_file exists, a
    stage that runs a commit into it; paths, disk."""
    paths = {n: os.path.join(d, n) for n in ('base', 'mid', 'top')}
    rig.make_file(paths['base'], random.Random(SEED).randbytes(4 * MIB))
    base = rig.Base(d, paths['base'], 'error,error-pwrite=%s,'
                    'error-pwrite-rate=100%%' % errno, writable=True)
    base.errors(True)
    rig.make_overlay(paths['mid'], base.uri)
    rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P 7 1M 2M',
                 paths['mid'])
    rig.make_overlay(paths['top'], paths['mid'], rig.FORMAT)
    want = rig.read_image(paths['top'])
    s = rig.Stage(d, paths['top'])
    s.qmp.cmd('block-commit', {'device': 'virtio0', 'top': paths['mid'],
                               'on-error': policy})
    return base, s, paths, want


def test_error_is_reported(d):
    base, s, paths, want = failing_base(d, 'report')
    with base:
        with s:
            s.wait_completed(error='No space left on device')
            event = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
            assert event == {'device': 'virtio0', 'operation': 'write',
                             'action': 'report'}, event
        check_disk(paths['top'], want, paths['mid'])


def test_error_stops_the_job(d):
    base, s, paths, want = failing_base(d, 'enospc')
    with base:
        with s:
            s.qmp.wait_event('JOB_STATUS_CHANGE', status='paused')
            job, = s.qmp.cmd('query-block-jobs')
            assert job['io-status'] == 'nospace', job
            base.errors(False)
            s.qmp.cmd('block-job-resume', device='virtio0')
            s.wait_completed()
        os.unlink(paths['mid'])
        check_disk(paths['top'], want, base.uri.replace(':///', '://'))


def test_error_is_ignored(d):
    """The rest is copied; what has the lost part stays (S7)."""
    base, s, paths, want = failing_base(d, 'ignore', 'EIO')
    with base:
        with s:
            data = s.wait_completed(error='Input/output error')
            assert data['offset'] == data['len'], data
        check_disk(paths['top'], want, paths['mid'])


def test_snapshots_are_not_changed(d):
    """An internal snapshot of an image that goes shows the base (S10)."""
    if rig.FORMAT != 'qcow2':
        raise rig.Skip('of qcow2 alone')
    paths, disks = make_chain(d, random.Random(SEED))
    rig.qemu_img('snapshot', '-c', 'snap', paths['b'])
    with Chain(d, paths) as s:
        text = s.qmp.error('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'top-node': 'n-c',
            'base-node': 'n-a'})
        assert "cannot be committed: its internal snapshots 'snap' show" \
            in text, text
        assert_same(read_disk(s), disks['top'])
    check_disk(paths['top'], disks['top'], paths['c'])


if __name__ == '__main__':
    rig.run(globals())
