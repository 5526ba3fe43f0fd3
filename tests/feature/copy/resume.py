#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mirrors and commits of a daemon that was killed go on in the next one, and what
was durable is not copied again."""
import os
import random
import time

import rig
from rig import Guest, Ledger, MIB, Stage, assert_same
from seed import SEED
from waiting import until

SIZE = 24 * MIB
ROUNDS = int(os.environ.get('ROUNDS', '4'))
# More than the grace of M9.
GRACE = 3


class Disk:
    """top over middle over base, and what guests did to it, over the lives of
    several daemons."""

    def __init__(self, d):
        self.d = d
        rnd = random.Random(SEED)
        self.base = rig.make_file(os.path.join(d, 'base'),
                                  rnd.randbytes(SIZE))
        self.middle = rig.make_overlay(os.path.join(d, 'middle'), self.base)
        self.top = rig.make_overlay(os.path.join(d, 'top'), self.middle,
                                    fmt=rig.FORMAT)
        self.target = os.path.join(d, 'target')
        self.state = os.path.join(d, 'state')
        os.mkdir(self.state)
        self.ledger = Ledger(rig.read_image(self.top))
        self.stage = None

    def start(self, top=None):
        self.stage = Stage(self.d, top or self.top, '--state-dir', self.state)
        self.qmp = self.stage.qmp

    def kill(self, guest=None):
        if guest:
            guest.cut = True
        killed = time.monotonic()
        self.stage.daemon.kill()
        if guest:
            guest.join()
        self.stage.__exit__(None, None, None)
        return killed

    def end(self):
        self.stage.__exit__(None, None, None)

    def read(self):
        h = self.stage.client()
        return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))

    def mirror(self, **args):
        self.qmp.cmd('drive-mirror', dict(
            {'device': 'virtio0', 'target': self.target, 'sync': 'full',
             'format': 'raw', 'latency-target': 'off'},
            **{k.replace('_', '-'): v for k, v in args.items()}))

    def job(self):
        jobs = self.qmp.cmd('query-block-jobs')
        return jobs[0] if jobs else None

    def beats(self, n):
        """Wait until the job has looked at its checkpoint @n times."""
        path = os.path.join(self.state, 'virtio0.checkpoint')
        for _ in range(n):
            was = os.stat(path).st_mtime_ns
            until(lambda: os.stat(path).st_mtime_ns != was, 'the job')

    def kept(self):
        """Bytes that need not be copied again, by the file of the job."""
        with open(os.path.join(self.state, 'virtio0.checkpoint'), 'rb') as f:
            bits = f.read()[4096:]
        return sum(not bits[u // 8] >> u % 8 & 1
                   for u in range(SIZE // MIB)) * MIB


def test_no_byte_is_copied_twice(d):
    """At one byte a second the new job is at once as far as the old one was."""
    disk = Disk(d)
    disk.start()
    disk.mirror(speed=4 * MIB)
    until(lambda: disk.kept() >= 6 * MIB, 'the mirror')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=1)
    kept = disk.kept()
    disk.kill()
    disk.start()
    until(lambda: disk.job()['offset'] >= kept, 'the new mirror')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
    until(lambda: disk.job()['ready'], 'the new mirror')
    disk.qmp.cmd('block-job-complete', device='virtio0')
    disk.stage.wait_completed()
    assert disk.qmp.cmd('query-job-journal') == []
    assert os.listdir(disk.state) == ['lock', 'jobs.json'] or \
        sorted(os.listdir(disk.state)) == ['jobs.json', 'lock'], \
        os.listdir(disk.state)
    got = disk.read()
    disk.end()
    assert_same(got, disk.ledger.settled)
    with open(disk.target, 'rb') as f:
        assert_same(f.read(), got, 'the target')


def test_an_orderly_end(d):
    """What has been copied by then is kept, and is not copied again."""
    disk = Disk(d)
    disk.start()
    disk.mirror()
    until(lambda: disk.job()['ready'], 'the mirror')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=1)
    disk.qmp.cmd('quit')
    disk.stage.daemon.wait()
    disk.end()
    assert disk.kept() == SIZE
    disk.start()
    until(lambda: disk.job()['ready'], 'the new mirror')
    disk.end()


def test_an_orderly_end_on_the_way(d):
    """What had not been copied by then is, later."""
    disk = Disk(d)
    disk.start()
    want = disk.read()
    disk.mirror(speed=4 * MIB)
    until(lambda: disk.kept() >= 4 * MIB, 'the mirror')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=1)
    disk.qmp.cmd('quit')
    disk.stage.daemon.wait()
    disk.end()
    assert 4 * MIB <= disk.kept() < SIZE, disk.kept()
    disk.start()
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
    until(lambda: disk.job()['ready'], 'the new mirror')
    disk.qmp.cmd('block-job-complete', device='virtio0')
    until(lambda: not disk.job(), 'the end of the mirror')
    disk.end()
    with open(disk.target, 'rb') as f:
        assert_same(f.read(), want, 'the target')


def changed_meanwhile(d, change):
    """The copy begins anew, for an image is not what it was."""
    disk = Disk(d)
    disk.start()
    disk.mirror()
    until(lambda: disk.kept() == SIZE, 'the mirror')
    disk.kill()
    # The file's time is later than what a dead daemon could have caused.
    change(disk)
    disk.start()
    until(lambda: disk.job()['ready'], 'the new mirror')
    want = disk.read()
    disk.qmp.cmd('block-job-complete', device='virtio0')
    disk.stage.wait_completed()
    assert_same(disk.read(), want)
    disk.end()
    with open(disk.target, 'rb') as f:
        assert_same(f.read(), want, 'the target')
    return want


def later(path):
    at = time.time() + 60
    os.utime(path, (at, at))


def test_somebody_wrote_to_the_disk(d):
    def change(disk):
        rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c', 'write -P 7 5M 1M',
                     disk.top)
        later(disk.top)
    want = changed_meanwhile(d, change)
    assert want[5 * MIB:6 * MIB] == b'\7' * MIB


def test_somebody_wrote_to_the_target(d):
    def change(disk):
        with open(disk.target, 'r+b') as f:
            f.seek(5 * MIB)
            f.write(b'x' * MIB)
        later(disk.target)
    changed_meanwhile(d, change)


def test_a_torn_checkpoint(d):
    def change(disk):
        path = os.path.join(disk.state, 'virtio0.checkpoint')
        with open(path, 'r+b') as f:
            f.seek(4096)
            f.write(bytes(100))
            f.seek(8191)
            f.write(b'!')
    changed_meanwhile(d, change)


def lives(d, begin, finish):
    """Daemons are killed under a guest at any time, until one may finish the
    job."""
    rnd = random.Random(SEED)
    disk = Disk(d)
    disk.start()
    begin(disk, rnd)
    for i in range(ROUNDS):
        guest = Guest(disk.stage, disk.ledger, seed=SEED + i)
        was = disk.ledger.requests
        until(lambda: disk.ledger.requests > was + 30, 'the guest')
        disk.beats(rnd.choice((0, 1, 2, 3)))
        killed = disk.kill(guest)
        disk.start()
        disk.ledger.check(disk.read(), killed, grace=GRACE)
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
    until(lambda: disk.job()['ready'], 'the job')
    guest = Guest(disk.stage, disk.ledger, seed=SEED + ROUNDS)
    was = disk.ledger.requests
    until(lambda: disk.ledger.requests > was + 30, 'the guest')
    disk.qmp.cmd('block-job-complete', device='virtio0')
    disk.stage.wait_completed()
    guest.stop()
    got = disk.read()
    disk.ledger.check_all(got)
    disk.stage.client().flush()
    disk.end()
    finish(disk, got)


def test_mirrors_that_are_killed(d):
    for mode in 'background', 'write-blocking':
        def begin(disk, rnd):
            disk.mirror(copy_mode=mode, speed=rnd.choice((2 * MIB, 20 * MIB)))

        def finish(disk, got):
            with open(disk.target, 'rb') as f:
                assert_same(f.read(), got, 'the target')

        folder = os.path.join(d, mode)
        os.mkdir(folder)
        lives(folder, begin, finish)


def test_mirrors_over_the_same_base_that_are_killed(d):
    def begin(disk, rnd):
        disk.mirror(sync='top', format=rig.FORMAT, speed=MIB,
                    copy_mode='write-blocking')

    def finish(disk, got):
        assert_same(rig.read_image(disk.target), got, 'the target')
        assert rig.image_info(disk.target)['full-backing-filename'] == \
            disk.middle

    lives(d, begin, finish)


def test_active_commits_that_are_killed(d):
    def begin(disk, rnd):
        disk.qmp.cmd('block-commit', device='virtio0', speed=4 * MIB,
                     latency_target='off')

    def finish(disk, got):
        with open(disk.base, 'rb') as f:
            assert_same(f.read(), got, 'the base')

    lives(d, begin, finish)


def test_a_commit_that_is_killed(d):
    """Of images that no guest writes to: what was durable is not copied
    again."""
    disk = Disk(d)
    rig.run_tool('qemu-io', '-f', rig.FORMAT, '-c',
                 'write -P 7 0 %d' % SIZE, disk.middle)
    disk.start()
    disk.qmp.cmd('block-commit', {
        'device': 'virtio0', 'top': disk.middle, 'speed': 4 * MIB,
        'latency-target': 'off'})
    until(lambda: disk.kept() >= 6 * MIB, 'the commit')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=1)
    kept = disk.kept()
    disk.kill()
    disk.start()
    until(lambda: disk.job()['offset'] >= kept, 'the new commit')
    disk.qmp.cmd('block-job-set-speed', device='virtio0', speed=0)
    disk.stage.wait_completed()
    assert_same(disk.read(), b'\7' * SIZE)
    disk.end()
    os.unlink(disk.middle)
    assert_same(rig.read_image(disk.top), b'\7' * SIZE)


def test_killed_after_the_switch(d):
    """Guests have gone on on the target: the old image is not the disk any more,
    and no job goes on from it."""
    disk = Disk(d)
    disk.start()
    disk.mirror()
    until(lambda: disk.job()['ready'], 'the mirror')
    path = os.path.join(disk.state, 'jobs.json')
    with open(path, 'rb') as f:
        before = f.read()
    disk.kill()
    # As the journal is between the switch and the end of the job.
    with open(path, 'wb') as f:
        f.write(before.replace(b'"command"', b'"switched": true, "command"'))
    disk.start()
    assert disk.job() is None
    entry, = disk.qmp.cmd('query-job-journal')
    assert entry['state'] == 'switched' and \
        entry['arguments']['target'] == disk.target, entry
    disk.qmp.cmd('job-journal-forget', id='virtio0')
    assert disk.qmp.cmd('query-job-journal') == []
    disk.end()


if __name__ == '__main__':
    rig.run(globals())
