#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The forms in which streaming was first proposed.

block_stream with all, stop and one increment at a time; query-block-stream;
stream=on with the drive; and copy-on-read alone, without any job.
"""
import json
import os
import random

import rig
from rig import Guest, KIB, Ledger, MIB, Stage

SIZE = 8 * MIB


def make_images(d, base_size=SIZE, size=None, cluster=64 * KIB):
    data = random.Random(rig.SEED).randbytes(base_size)
    base = rig.make_file(os.path.join(d, 'base'), data)
    top = os.path.join(d, 'top')
    rig.qemu_img('create', '-q', '-f', 'qed', '-o',
                 'cluster_size=%d' % cluster, '-b', base, '-F', 'raw', top,
                 *([str(size)] if size else []))
    return base, top, data + bytes((size or base_size) - base_size)


def check_alone(top, base, data):
    os.unlink(base)
    rig.check_image(top)
    assert 'backing-filename' not in rig.image_info(top)
    rig.assert_same(rig.read_image(top), data)


def completed(s, size=SIZE):
    e = s.qmp.wait_event('BLOCK_JOB_COMPLETED')
    assert list(e['data'].items()) == [
        ('device', 'virtio0'), ('len', size), ('offset', size), ('speed', 0),
        ('type', 'stream')], e


def increments(s, between=lambda: None):
    """Call block_stream with all: false until it is done: the steps."""
    steps, last = 0, None
    while True:
        r = s.qmp.cmd('block_stream', {'device': 'virtio0', 'all': False})
        assert list(r) == ['device', 'len', 'offset'], r
        assert r['device'] == 'virtio0', r
        steps += 1
        assert steps < 20000, 'no end'
        if r['offset'] == r['len']:
            return steps
        assert r['offset'] != last, r
        last = r['offset']
        between()


def test_bare_starts_all(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        assert s.qmp.cmd('block_stream', {'device': 'virtio0'}) == {}
        completed(s)
    check_alone(top, base, data)


def test_all(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        s.qmp.cmd('block_stream', {'device': 'virtio0', 'all': True,
                                   'speed': 2 * MIB})
        info, = s.qmp.cmd('query-block-stream')
        assert list(info) == ['device', 'len', 'offset'], info
        assert (info['device'], info['len']) == ('virtio0', SIZE), info
        job, = s.qmp.cmd('query-block-jobs')
        assert (job['device'], job['speed']) == ('virtio0', 2 * MIB), job
        s.qmp.cmd('block_job_set_speed', device='virtio0', speed=0)
        completed(s)
        assert s.qmp.cmd('query-block-stream') == []
    check_alone(top, base, data)


def test_stop(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        q = s.qmp
        r = q.execute('block_stream', {'device': 'virtio0', 'stop': True})
        assert r['error'] == {'class': 'DeviceNotActive',
                              'desc': "Block job 'virtio0' not found"}, r
        q.cmd('block_stream', {'device': 'virtio0', 'all': True,
                               'speed': MIB})
        q.cmd('block_stream', {'device': 'virtio0', 'stop': True})
        q.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')
        assert rig.image_info(top)['backing-filename'] == base
        # What the job has begun the increments may end.
        increments(s)
        completed(s)
    check_alone(top, base, data)


def test_increments(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        steps = increments(s)
        completed(s)
        rig.note('%d steps' % steps)
        assert steps > 4
        # Again: nothing is left to do, and nothing is announced twice.
        r = s.qmp.cmd('block_stream', {'device': 'virtio0', 'all': False})
        assert r['offset'] == r['len'] == SIZE, r
        assert s.qmp.take_events() == []
    check_alone(top, base, data)


def test_increments_with_a_guest(d):
    base, top, data = make_images(d, cluster=4 * KIB)
    with Stage(d, top) as s:
        ledger = Ledger(data)
        guest = Guest(s, ledger, seed=rig.SEED % 1000, pause=0.002)
        increments(s)
        completed(s)
        guest.stop()
    os.unlink(base)
    rig.check_image(top)
    ledger.check_all(rig.read_image(top))


def test_increments_and_kill(d):
    """The event means the same: the base may go at once."""
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        increments(s)
        s.daemon.kill()
    check_alone(top, base, data)


def test_increments_over_two_runs(d):
    """The mapping is the checkpoint, not the daemon's memory."""
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        for _ in range(5):
            r = s.qmp.cmd('block_stream', {'device': 'virtio0', 'all': False})
    with Stage(d, top) as s:
        again = s.qmp.cmd('block_stream', {'device': 'virtio0', 'all': False})
        assert again['offset'] > r['offset'], (again, r)
        increments(s)
        completed(s)
    check_alone(top, base, data)


def test_increments_smaller_base(d):
    base, top, data = make_images(d, 3 * MIB + 777, 6 * MIB)
    with Stage(d, top) as s:
        increments(s)
        completed(s, 6 * MIB)
    check_alone(top, base, data)


def test_stream_on(d):
    base, top, data = make_images(d)
    with Stage(d, top, drive=',stream=on') as s:
        # It may be over before anybody could look.
        rig.until(lambda: not s.qmp.cmd('query-block-jobs'), 'the stream')
        s.daemon.kill()
    check_alone(top, base, data)


def test_blkstream_name(d):
    base, top, data = make_images(d)
    with rig.Sluiced(d, '--io-engine', rig.ENGINE, '--drive',
                     'id=virtio0,file=blkstream:%s,format=qed' % top) as s:
        rig.until(lambda: not s.qmp.cmd('query-block-jobs'), 'the stream')
    check_alone(top, base, data)


def local(top):
    """Bytes of the disk that the overlay itself holds."""
    extents = json.loads(rig.qemu_img('map', '--output=json', '-f', 'qed',
                                          top))
    return sum(e['length'] for e in extents if e['depth'] == 0)


def test_copy_on_read_only(d):
    """What was read stays, whole clusters of it; nothing else is copied."""
    base, top, data = make_images(d)
    with Stage(d, top, drive=',copy-on-read=on') as s:
        h = s.client()
        rig.assert_same(bytes(h.pread(512, 3 * MIB)), data[3 * MIB:][:512])
        rig.assert_same(bytes(h.pread(MIB, 5 * MIB)), data[5 * MIB:6 * MIB])
        assert s.qmp.cmd('query-block-jobs') == []
    assert local(top) == MIB + 64 * KIB, local(top)
    assert rig.image_info(top)['backing-filename'] == base
    # All of it read: the base could be dropped by hand.
    with Stage(d, top, drive=',copy-on-read=on') as s:
        h = s.client()
        for off in range(0, SIZE, MIB):
            rig.assert_same(bytes(h.pread(MIB, off)), data[off:off + MIB])
    assert local(top) == SIZE
    rig.qemu_img('rebase', '-u', '-f', 'qed', '-b', '', top)
    check_alone(top, base, data)


def test_no_copy_without_it(d):
    _, top, data = make_images(d)
    with Stage(d, top) as s:
        rig.assert_same(bytes(s.client().pread(MIB, 0)), data[:MIB])
    assert local(top) == 0


if __name__ == '__main__':
    rig.run(globals())
