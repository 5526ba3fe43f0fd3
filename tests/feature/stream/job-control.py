#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be done to a stream while it runs, and what it does about errors.

Speed is measured, sequences of events are compared as a whole, errors come
from a real server (nbdkit) and a real full file system.
"""
import json
import os
import random
import subprocess
import time

import rig
from rig import Base, KIB, MIB, Skip, Stage
from waiting import Patience, let_pass, rest

SIZE = 16 * MIB
STARTED = ['created', 'running']
SUCCEEDED = STARTED + ['waiting', 'pending', 'BLOCK_JOB_COMPLETED',
                       'concluded', 'null']
CANCELLED = ['aborting', 'BLOCK_JOB_CANCELLED', 'concluded', 'null']
FAILED = ['aborting', 'BLOCK_JOB_COMPLETED', 'concluded', 'null']


def make_images(d, size=SIZE, cluster=64 * KIB, top_dir=None):
    rnd = random.Random(rig.SEED)
    data = rnd.randbytes(size)
    base = rig.make_file(os.path.join(d, 'base'), data)
    top = rig.make_overlay(os.path.join(top_dir or d, 'top'), base,
                           cluster=cluster)
    return base, top, data


def behind(d, *filters, size=SIZE):
    """The base behind nbdkit: server, overlay, bytes."""
    data = random.Random(rig.SEED).randbytes(size)
    path = rig.make_file(os.path.join(d, 'base'), data)
    base = Base(d, path, *filters)
    return base, rig.make_overlay(os.path.join(d, 'top'), base.uri), data


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def story(s, job='virtio0'):
    """All events up to the end of the job, in order; states by themselves."""
    s.qmp.wait_event('JOB_STATUS_CHANGE', id=job, status='null')
    res = []
    for e in s.qmp.take_events():
        data = e['data']
        assert job in (data.get('device'), data.get('id')), e
        res.append(data['status'] if e['event'] == 'JOB_STATUS_CHANGE'
                   else e['event'])
    return res + ['null']


def job(s):
    info, = s.qmp.cmd('query-block-jobs')
    return info


def local_bytes(top):
    """What the overlay holds itself."""
    extents = json.loads(rig.qemu_img('map', '-U', '--output=json', '-f',
                                      rig.FORMAT, top))
    return sum(e['length'] for e in extents if e['depth'] == 0)


def wait_status(s, status):
    return rig.until(lambda: job(s)['status'] == status, status)


def check_result(top, data, backing=None):
    rig.check_image(top)
    rig.assert_same(rig.read_image(top), data)
    assert rig.image_info(top).get('backing-filename') == backing


# --- speed ---

def rate(s, seconds):
    """Bytes per second that the job makes: by the clock, which is also that of
    the job, and by seconds of rest. Under load the first falls, and the second
    rises."""
    t0, o0, r0 = time.monotonic(), job(s)['offset'], rest()
    time.sleep(seconds)
    r1, o1, t1 = rest(), job(s)['offset'], time.monotonic()
    return (o1 - o0) / (t1 - t0), (o1 - o0) / (r1 - r0)


def measured(d, speed, seconds, size, cluster=64 * KIB):
    _, top, data = make_images(d, size, cluster)
    with Stage(d, top) as s:
        s.stream(speed=speed)
        assert job(s)['speed'] == speed
        rig.until(lambda: job(s)['offset'] > 0, 'the first bytes')
        got, at_rest = rate(s, seconds)
        rig.note('asked for %.2f MiB/s, got %.2f' % (speed / MIB, got / MIB))
        assert got < 1.15 * speed and at_rest > 0.85 * speed, \
            (got, at_rest, speed)
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        s.wait_completed()
    check_result(top, data)


def test_speed(d):
    measured(d, 6 * MIB, 2.5, 48 * MIB)


def test_low_speed(d):
    """Far less than a chunk a second is still an even flow."""
    measured(d, 512 * KIB, 3, 4 * MIB)


def test_high_speed(d):
    measured(d, 30 * MIB, 2.2, 160 * MIB)


def test_set_speed_takes_effect_at_once(d):
    _, top, data = make_images(d, 48 * MIB)
    with Stage(d, top) as s:
        s.stream(speed=64 * KIB)             # would take 12 minutes
        rig.until(lambda: job(s)['offset'] > 0, 'the first bytes')
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=8 * MIB)
        before = job(s)['offset']
        rig.until(lambda: job(s)['offset'] > before + 4 * MIB, 'speed')
        s.qmp.cmd('block_job_set_speed', device='virtio0', speed=MIB)
        before, began = job(s)['offset'], time.monotonic()
        time.sleep(1)
        done = job(s)['offset'] - before
        assert done < (3 + time.monotonic() - began) * MIB, done
        assert job(s)['status'] == 'running'
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        began = time.monotonic()
        done = s.wait_completed()
        assert done['speed'] == 0, done
        rig.note('the rest took %.2f s' % (time.monotonic() - began))
        assert story(s) == [e for e in SUCCEEDED
                            if e != 'BLOCK_JOB_COMPLETED']
    check_result(top, data)


# --- pause, cancel, finalize, dismiss ---

def test_success(d):
    _, top, data = make_images(d)
    with Stage(d, top) as s:
        s.stream()
        assert story(s) == SUCCEEDED
    check_result(top, data)


def test_pause_and_resume(d):
    _, top, data = make_images(d)
    with Stage(d, top) as s:
        s.stream(speed=MIB)
        rig.until(lambda: job(s)['offset'] > MIB // 2, 'half a MiB')
        s.qmp.cmd('block-job-pause', device='virtio0')
        wait_status(s, 'paused')
        offset = job(s)['offset']
        h = s.client()                       # guests do not notice
        h.pwrite(b'x' * 512, SIZE - 512)
        h.flush()
        rig.assert_same(bytes(h.pread(MIB // 2, 0)), data[:MIB // 2])
        copied = local_bytes(top)
        let_pass(0.4)
        info = job(s)
        assert (info['offset'], info['paused'], info['busy']) == \
            (offset, True, False), (offset, info)
        assert local_bytes(top) == copied, 'it copies on'
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        s.qmp.cmd('block-job-resume', device='virtio0')
        assert story(s) == STARTED + ['paused', 'running'] + SUCCEEDED[2:]
    check_result(top, data[:-512] + b'x' * 512)


def test_cancel_and_restart(d):
    """What is local is not read again."""
    log = os.path.join(d, 'log')
    base, top, data = behind(d, 'log,logfile=' + log)
    with base, Stage(d, top) as s:
        s.stream(speed=2 * MIB)
        rig.until(lambda: job(s)['offset'] > 4 * MIB, '4 MiB')
        s.qmp.cmd('block-job-cancel', device='virtio0')
        assert story(s) == STARTED + CANCELLED
        assert rig.image_info(top)['backing-filename'] == base.uri
        h = s.client()
        rig.assert_same(bytes(h.pread(MIB, 8 * MIB)), data[8 * MIB:9 * MIB])
        s.stream(speed=0)
        assert story(s) == (SUCCEEDED[:-3] + ['BLOCK_BASE_RELEASED'] +
                            SUCCEEDED[-3:])
        base.stop()
        counts = [int(w.split('=')[1], 16) for line in open(log)
                  if ' Read ' in line and '...Read' not in line
                  for w in line.split() if w.startswith('count=')]
        rig.note('%d KiB read for %d' % (sum(counts) // KIB, SIZE // KIB))
        # 1 MiB was read by the guest; a little was in flight at the cancel.
        assert SIZE <= sum(counts) < SIZE + 3 * MIB, sum(counts)
        h.shutdown()
    check_result(top, data)


def test_cancel_while_paused(d):
    _, top, data = make_images(d)
    with Stage(d, top) as s:
        s.stream(speed=MIB)
        s.qmp.cmd('job-pause', id='virtio0')
        wait_status(s, 'paused')
        assert 'currently paused' in s.qmp.error('block-job-cancel',
                                                 device='virtio0')
        s.qmp.cmd('block-job-cancel', device='virtio0', force=True)
        got = story(s)
        assert got[:3] == STARTED + ['paused'] and got[-4:] == CANCELLED, got
        # The filter is gone; it can be streamed again.
        s.stream()
        s.wait_completed()
    check_result(top, data)


def test_cancel_over_a_hanging_base(d):
    """A base that answers after 2 s holds up the cancel, not the guest."""
    log = os.path.join(d, 'log')
    base, top, data = behind(d, 'log,logfile=' + log, 'delay,rdelay=2')
    with base, Stage(d, top) as s:
        s.stream()
        rig.until(lambda: ' Read ' in read(log), 'a read of the base')
        h = s.client()
        s.qmp.cmd('block-job-cancel', device='virtio0')
        began = rest()
        h.pwrite(b'y' * 65536, 0)
        took = rest() - began
        rig.note('write during the cancel: %.1f ms' % (1000 * took))
        assert took < 1, took
        assert story(s)[-4:] == CANCELLED
        h.shutdown()


def test_finalize_and_dismiss_by_hand(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        s.stream(**{'auto-finalize': False, 'auto-dismiss': False,
                    'job-id': 'job0'})
        s.qmp.wait_event('BLOCK_JOB_PENDING', id='job0', type='stream')
        info = job(s)
        assert (info['status'], info['offset']) == ('pending', SIZE), info
        assert rig.image_info(top)['backing-filename'] == base
        h = s.client()
        h.pwrite(b'z' * 512, 0)              # guests go on
        s.qmp.cmd('job-finalize', id='job0')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='job0')
        rig.until(lambda: job(s)['status'] == 'concluded', 'concluded')
        os.unlink(base)
        s.qmp.cmd('job-dismiss', id='job0')
        assert s.qmp.cmd('query-jobs') == []
        got = story(s, 'job0')
        assert got == STARTED + ['waiting', 'pending', 'concluded', 'null'], \
            got
    check_result(top, b'z' * 512 + data[512:])


def test_cancel_when_pending(d):
    base, top, data = make_images(d)
    with Stage(d, top) as s:
        s.stream(**{'auto-finalize': False})
        s.qmp.wait_event('BLOCK_JOB_PENDING')
        s.qmp.cmd('job-cancel', id='virtio0')
        assert story(s) == STARTED + ['waiting', 'pending'] + CANCELLED
        s.stream()
        assert story(s) == SUCCEEDED
    check_result(top, data)


def test_filter_node_name(d):
    _, top, data = make_images(d)

    def names(s):
        return {n['node-name']: n['drv']
                for n in s.qmp.cmd('query-named-block-nodes')}

    with Stage(d, top) as s:
        s.stream(**{'filter-node-name': 'cor', 'speed': 256 * KIB})
        assert names(s).get('cor') == 'copy-on-read', names(s)
        assert 'in use' in s.qmp.error('block-stream', {
            'device': 'virtio0', 'job-id': 'k'})
        # Reads through it stay.
        s.client().pread(4096, SIZE - 65536)
        s.client().flush()
        extents = json.loads(rig.qemu_img('map', '-U', '--output=json', '-f',
                                          rig.FORMAT, top))
        last = extents[-1]
        assert (last['depth'], last['start'] + last['length']) == (0, SIZE), \
            extents
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        s.wait_completed()
        s.qmp.wait_event('JOB_STATUS_CHANGE', status='null')
        assert 'cor' not in names(s), names(s)
    check_result(top, data)


# --- errors of the base ---

ERRORS = 'error,error=EIO,error-pread-rate=100%'


def run_into_errors(s, base, **args):
    """Start it slowly, make the base fail after a MiB, then full speed."""
    s.stream(speed=2 * MIB, **args)
    rig.until(lambda: job(s)['offset'] >= MIB, 'a MiB')
    base.errors(True)


def test_on_error_report(d):
    base, top, data = behind(d, ERRORS)
    with base, Stage(d, top) as s:
        run_into_errors(s, base)
        e = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
        assert e == {'device': 'virtio0', 'operation': 'read',
                     'action': 'report'}, e
        done = s.wait_completed('Input/output error')
        assert MIB <= done['offset'] < SIZE, done
        assert story(s) == STARTED + [w for w in FAILED
                                      if w != 'BLOCK_JOB_COMPLETED']
        # The failed read is that read's alone, and the base stays.
        assert rig.image_info(top)['backing-filename'] == base.uri
        base.errors(False)
        s.stream()
        s.wait_completed()
    check_result(top, data)


def test_on_error_stop(d):
    base, top, data = behind(d, ERRORS)
    with base, Stage(d, top) as s:
        run_into_errors(s, base, **{'on-error': 'stop'})
        e = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
        assert e == {'device': 'virtio0', 'operation': 'read',
                     'action': 'stop'}, e
        wait_status(s, 'paused')
        info = job(s)
        assert (info['io-status'], info['paused']) == ('failed', True), info
        # Still broken: it stops again.
        s.qmp.cmd('block-job-resume', device='virtio0')
        s.qmp.wait_event('BLOCK_JOB_ERROR', action='stop')
        wait_status(s, 'paused')
        h = s.client()                       # what is local can be used
        rig.assert_same(bytes(h.pread(65536, 0)), data[:65536])
        h.pwrite(b'w' * 65536, 8 * MIB)
        base.errors(False)
        s.qmp.cmd('block-job-resume', device='virtio0')
        rig.until(lambda: not s.qmp.cmd('query-block-jobs') or
                  job(s)['io-status'] == 'ok', 'io-status')
        s.wait_completed()
    check_result(top, data[:8 * MIB] + b'w' * 65536 + data[8 * MIB + 65536:])


def test_on_error_ignore(d):
    """It goes on to the end, and the base is not let go of (S7)."""
    base, top, data = behind(d, ERRORS)
    with base, Stage(d, top) as s:
        run_into_errors(s, base, **{'on-error': 'ignore'})
        e = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
        assert e['action'] == 'ignore', e
        base.errors(False)
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
        done = s.wait_completed('Input/output error')
        assert done['offset'] == done['len'] == SIZE, done
        assert rig.image_info(top)['backing-filename'] == base.uri
        s.stream()
        s.wait_completed()
    check_result(top, data)


def test_on_error_enospc_reports_others(d):
    base, top, data = behind(d, ERRORS)
    with base, Stage(d, top) as s:
        run_into_errors(s, base, **{'on-error': 'enospc'})
        s.qmp.wait_event('BLOCK_JOB_ERROR', action='report')
        s.wait_completed('Input/output error')


def test_sporadic_errors(d):
    """A base that fails now and then, and is asked again each time."""
    base, top, data = behind(d, 'error,error=EIO,error-pread-rate=40%')
    with base, Stage(d, top) as s:
        base.errors(True)
        s.stream(**{'on-error': 'stop', 'auto-dismiss': False})
        stops = 0
        patience = Patience()
        while job(s)['status'] != 'concluded':
            assert not patience.over(), job(s)
            if job(s)['status'] == 'paused':
                stops += 1
                if stops == 30:
                    base.errors(False)
                s.qmp.execute('block-job-resume', {'device': 'virtio0'})
        assert 'error' not in job(s), job(s)
        rig.note('%d stops' % stops)
    check_result(top, data)


# --- a full disk ---

class Small:
    """A file system of @size, which needs root."""

    def __init__(self, d, size):
        if os.geteuid():
            raise Skip('not root: cannot mount a small file system')
        self.path = os.path.join(d, 'small')
        os.mkdir(self.path)
        p = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=%d' % size,
                            'tmpfs', self.path], capture_output=True,
                           text=True, check=False)
        if p.returncode:
            raise Skip('cannot mount a tmpfs: ' + p.stderr.strip())

    def grow(self, size):
        subprocess.run(['mount', '-o', 'remount,size=%d' % size, self.path],
                       check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(['umount', '-l', self.path], check=True)


def full(d, **args):
    """Stream into a full file system with @args."""
    small = Small(d, 6 * MIB)
    base, top, data = make_images(d, top_dir=small.path)
    s = Stage(d, top)
    s.stream(**args)
    return small, s, base, top, data


def check_populated(top, data):
    """Writes that found no space may leave clusters that nothing uses."""
    rig.check_no_corruption(top)
    rig.assert_same(rig.read_image(top), data)
    assert 'backing-filename' not in rig.image_info(top)


def test_enospc_stops_by_policy(d):
    small, s, _, top, data = full(d, **{'on-error': 'enospc'})
    with small:
        with s:
            e = s.qmp.wait_event('BLOCK_JOB_ERROR')['data']
            assert e == {'device': 'virtio0', 'operation': 'write',
                         'action': 'stop'}, e
            wait_status(s, 'paused')
            assert job(s)['io-status'] == 'nospace', job(s)
            # The guest reads on, from the base too.
            h = s.client()
            rig.assert_same(bytes(h.pread(MIB, SIZE - MIB)), data[-MIB:])
            small.grow(64 * MIB)
            s.qmp.cmd('block-job-resume', device='virtio0')
            s.wait_completed()
        check_populated(top, data)


def test_enospc_reported(d):
    small, s, base, top, data = full(d)
    with small:
        with s:
            s.qmp.wait_event('BLOCK_JOB_ERROR', action='report')
            s.wait_completed('No space left on device')
            small.grow(64 * MIB)
            s.stream()
            s.wait_completed()
        check_populated(top, data)


if __name__ == '__main__':
    rig.run(globals())
