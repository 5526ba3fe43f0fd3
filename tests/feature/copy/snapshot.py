#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlays that take the place of disks in use: snapshots, transactions, and
the switch of 2011 with the stream after it.

A guest writes all the time. What it wrote is always there, and each image holds
what the disk held when it was left (N1).
"""
import os
import random
import time

import rig
from chains import Chain, SIZE, check_disk, make_chain
from rig import Guest, Ledger, MIB, Stage, assert_same
from seed import SEED
from waiting import until


def read_disk(s, name='virtio0'):
    h = s.client(name)
    return b''.join(bytes(h.pread(MIB, at))
                    for at in range(0, h.get_size(), MIB))


def image(d, name, data=None):
    path = os.path.join(d, name)
    rig.make_file(path + '.base', data or random.Random(SEED).randbytes(4 *
                                                                       MIB))
    return rig.make_overlay(path, path + '.base')


def some_writes(ledger):
    was = ledger.requests
    until(lambda: ledger.requests > was + 50, 'the guest')


def overlay_names(s):
    return [n['node-name'] for n in s.qmp.cmd('query-named-block-nodes')]


def test_snapshot_of_a_device(d):
    """Again and again, and the whole chain is what the guest wrote."""
    top = image(d, 'top')
    with Stage(d, top) as s:
        ledger = Ledger(rig.read_image(top))
        guest = Guest(s, ledger, seed=SEED)
        for i in range(4):
            some_writes(ledger)
            s.qmp.cmd('blockdev-snapshot-sync', {
                'device': 'virtio0', 'format': rig.FORMAT,
                'snapshot-file': os.path.join(d, 'o%d' % i)})
        some_writes(ledger)
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
        ro = [n['ro'] for n in s.qmp.cmd('query-named-block-nodes')
              if n['drv'] == rig.FORMAT]
        assert sorted(ro) == [False] + [True] * 4, ro
        s.client().flush()
    check_disk(os.path.join(d, 'o3'), got, os.path.join(d, 'o2'))
    check_disk_opens(d, 'o0')


def check_disk_opens(d, name):
    rig.check_image(os.path.join(d, name))


def test_old_image_is_as_it_was(d):
    """Nothing that comes later reaches it, and all that was acknowledged has."""
    top = image(d, 'top')
    with Stage(d, top) as s:
        h = s.client()
        h.pwrite(b'a' * 65536, 0)
        s.qmp.cmd('blockdev-snapshot-sync', device='virtio0',
                  snapshot_file=os.path.join(d, 'o'), format=rig.FORMAT)
        h.pwrite(b'b' * 512, 4096)
        assert bytes(h.pread(512, 4096)) == b'b' * 512
        assert bytes(h.pread(512, 0)) == b'a' * 512
        s.daemon.kill()
    assert rig.read_image(top)[:65536] == b'a' * 65536
    assert rig.image_info(os.path.join(d, 'o'))['backing-filename'] == top


def test_blockdev_snapshot(d):
    paths, disks = make_chain(d, random.Random(SEED))
    over = os.path.join(d, 'over')
    rig.make_overlay(over, paths['top'], rig.FORMAT)
    with Chain(d, paths) as s:
        q = s.qmp
        assert q.error('blockdev-snapshot', node='x', overlay='n-c') == \
            "Cannot find device='x' nor node-name='x'"
        assert q.error('blockdev-snapshot', node='n-top', overlay='n-c') == \
            'The overlay is already in use'
        q.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'r',
            'file': {'driver': 'null-co', 'size': SIZE}})
        assert q.error('blockdev-snapshot', node='n-top', overlay='r') == \
            'The overlay does not support backing images'
        node = {'driver': rig.FORMAT, 'node-name': 'over', 'backing': None,
                'file': {'driver': 'file', 'filename': over}}
        q.cmd('blockdev-add', node)
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        q.cmd('blockdev-snapshot', node='n-top', overlay='over')
        some_writes(ledger)
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
        exports = q.cmd('query-block-exports')
        assert exports[0]['node-name'] == 'over', exports
        s.client().flush()
        # It can be merged down again.
        q.cmd('block-commit', {'device': 'over', 'job-id': 'j',
                               'base-node': 'n-top'})
        q.wait_event('BLOCK_JOB_READY', device='j')
        q.cmd('block-job-complete', device='j')
        s.wait_completed(job='j')
    check_disk(paths['top'], got, paths['c'])


def test_transaction(d):
    """Two disks at one point in time: a guest writes to both in turn, so what
    is in the old images is never one write further in the second."""
    tops = [image(d, 'one', bytes(4 * MIB)), image(d, 'two', bytes(4 * MIB))]
    with Stage(d, tops[0]) as s:
        q = s.qmp
        q.cmd('blockdev-add', {
            'driver': rig.FORMAT, 'node-name': 'two',
            'file': {'driver': 'file', 'filename': tops[1]}})
        q.cmd('block-export-add', {'type': 'nbd', 'id': 'e2', 'name': 'two',
                                   'node-name': 'two', 'writable': True})
        clients = [s.client(), s.client('two')]
        halt = []

        def write():
            n = 0
            while not halt:
                n += 1
                for c in clients:
                    c.pwrite(n.to_bytes(8, 'big') * 64, 0)

        thread = rig.threading.Thread(target=write)
        thread.start()
        for i in range(10):
            q.cmd('transaction', actions=[
                {'type': 'blockdev-snapshot-sync', 'data': {
                    'device': 'virtio0', 'format': rig.FORMAT,
                    'snapshot-file': os.path.join(d, 'one%d' % i)}},
                {'type': 'blockdev-snapshot-sync', 'data': {
                    'node-name': 'two' if i == 0 else 'two%d' % (i - 1),
                    'format': rig.FORMAT, 'snapshot-node-name': 'two%d' % i,
                    'snapshot-file': os.path.join(d, 'two%d' % i)}}])
        halt.append(True)
        thread.join()
    for one, two in zip([tops[0]] + [os.path.join(d, 'one%d' % i)
                                     for i in range(9)],
                        [tops[1]] + [os.path.join(d, 'two%d' % i)
                                     for i in range(9)]):
        n = [int.from_bytes(rig.read_image(p)[:8], 'big') for p in (one, two)]
        assert n[0] - n[1] in (0, 1), n


def test_all_or_none(d):
    top = image(d, 'top')
    with Stage(d, top) as s:
        q = s.qmp
        before = overlay_names(s)
        snap = {'type': 'blockdev-snapshot-sync', 'data': {
            'device': 'virtio0', 'format': rig.FORMAT,
            'snapshot-file': os.path.join(d, 'o')}}
        assert q.error('transaction', actions=[
            snap, {'type': 'abort', 'data': {}}]) == \
            'Transaction aborted using Abort action'
        assert q.error('transaction', actions=[snap, dict(
            snap, data=dict(snap['data'], device='x'))]) == \
            "Cannot find device='x' nor node-name=''"
        assert 'use node' in q.error('transaction', actions=[snap, dict(
            snap, data=dict(snap['data'], **{
                'snapshot-file': os.path.join(d, 'p')}))])
        assert "Parameter 'zork' is unexpected" in q.error(
            'transaction', actions=[dict(
                snap, data=dict(snap['data'], zork=1))])
        assert overlay_names(s) == before
        assert not {'o', 'p'} & set(os.listdir(d)), os.listdir(d)
        q.cmd('transaction', actions=[snap])


def test_refused_while_a_job_runs(d):
    top = image(d, 'top')
    with Stage(d, top) as s:
        s.stream(speed=1)
        text = s.qmp.error('blockdev-snapshot-sync', {
            'device': 'virtio0', 'format': rig.FORMAT,
            'snapshot-file': os.path.join(d, 'o')})
        assert 'is busy: block device is in use by block job: stream' in text
        assert not os.path.exists(os.path.join(d, 'o'))


def test_existing(d):
    top = image(d, 'top')
    over = rig.make_overlay(os.path.join(d, 'over'), top, rig.FORMAT)
    with Stage(d, top) as s:
        s.qmp.cmd('blockdev-snapshot-sync', {
            'device': 'virtio0', 'format': rig.FORMAT, 'mode': 'existing',
            'snapshot-file': over})
        s.client().pwrite(b'x' * 512, 0)
        got = read_disk(s)
    check_disk(over, got, top)


def live_copy(d, base):
    """The three steps of 2011: make the destination on the current image,
    switch, stream."""
    top = image(d, 'top')
    dest = rig.make_overlay(os.path.join(d, 'dest'), top, rig.FORMAT)
    other = rig.make_overlay(os.path.join(d, 'other'), top + '.base')
    with Stage(d, top) as s:
        ledger = Ledger(rig.read_image(top))
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        text = s.qmp.error('block_switch', device='virtio0', image=other)
        assert "does not have '%s', the image in use" % top in text, text
        s.qmp.cmd('block_switch', device='virtio0', image=dest)
        some_writes(ledger)
        s.qmp.cmd('block_stream', dict({'device': 'virtio0'}, **(
            {'base': top + '.base'} if base else {})))
        s.wait_completed()
        os.unlink(top)
        if not base:
            os.unlink(top + '.base')
        some_writes(ledger)
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
        s.client().flush()
    check_disk(dest, got, top + '.base' if base else None)


def test_live_copy_of_2011(d):
    live_copy(d, False)


def test_live_copy_that_keeps_the_base(d):
    live_copy(d, True)


def test_by_hand(d):
    top = image(d, 'top')
    with Stage(d, top) as s:
        over = os.path.join(d, 'over')
        assert s.qmp.hmp('snapshot_blkdev virtio0 %s %s'
                         % (over, rig.FORMAT)) == ''
        assert over in s.qmp.hmp('info block')
        dest = os.path.join(d, 'dest')
        rig.qemu_img('create', '-q', '-u', '-f', rig.FORMAT, '-b', over, '-F',
                     rig.FORMAT, dest, str(4 * MIB))
        assert s.qmp.hmp('block_switch virtio0 %s' % dest) == ''
        assert dest in s.qmp.hmp('info block')


def test_what_guests_wait_for(d):
    """What was written before is published before the disk is held."""
    top = image(d, 'top')
    with Stage(d, top, '-T', 'drain_begin', '-T', rig.FORMAT + '_publish') as s:
        s.client().pwrite(b'a' * 65536, 0)
        before = len(s.daemon.errors())
        s.qmp.cmd('blockdev-snapshot-sync', {
            'device': 'virtio0', 'format': rig.FORMAT,
            'snapshot-file': os.path.join(d, 'o')})
        events = [line.split()[1]
                  for line in s.daemon.errors()[before:].splitlines()
                  if '_publish ' in line or ' drain_begin ' in line]
    assert events[0].endswith('_publish'), events
    assert events.count(events[0]) == 1, events


def test_guests_hardly_notice(d):
    """Longest pause of a guest that writes 4 KiB at a time; printed."""
    top = image(d, 'top')
    with Stage(d, top) as s:
        h = s.client()
        halt, slowest = [], []

        def write():
            n = 0
            while not halt:
                n += 1
                began = time.monotonic()
                h.pwrite(b'w' * 4096, n % 1000 * 4096)
                slowest.append(time.monotonic() - began)

        thread = rig.threading.Thread(target=write)
        thread.start()
        for i in range(10):
            s.qmp.cmd('blockdev-snapshot-sync', {
                'device': 'virtio0', 'format': rig.FORMAT,
                'snapshot-file': os.path.join(d, 'o%d' % i)})
        halt.append(True)
        thread.join()
    slowest.sort()
    rig.note('writes during 10 snapshots: slowest %.1f ms, p99 %.1f ms'
             % (1000 * slowest[-1],
                1000 * slowest[len(slowest) * 99 // 100]))


if __name__ == '__main__':
    rig.run(globals())
