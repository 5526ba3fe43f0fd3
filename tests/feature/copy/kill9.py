#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon is killed while images are merged, disks are mirrored and backed up
and overlays take their place, under guests; and right after each of them was
over."""
import os
import random
import time

import rig
from chains import Chain, make_chain
from rig import Guest, Ledger, MIB, assert_same
from sluiced import Skip, Sluiced
from waiting import until

ROUNDS = int(os.environ.get('ROUNDS', '3'))
# More than the grace of M9.
GRACE = 3


class Round:
    """A chain of five under a guest, until the daemon is killed."""

    def __init__(self, d, rnd):
        self.paths, self.disks = make_chain(d, rnd)
        self.ledger = Ledger(self.disks['top'])
        self.stage = Chain(d, self.paths)
        self.qmp = self.stage.qmp
        self.guest = Guest(self.stage, self.ledger, seed=rnd.getrandbits(30))
        self.some_writes()

    def some_writes(self):
        was = self.ledger.requests
        until(lambda: self.ledger.requests > was + 30, 'the guest')

    def kill(self):
        self.guest.cut = True
        killed = time.monotonic()
        self.stage.daemon.kill()
        self.guest.join()
        return killed

    def check(self, killed, path, fmt=None):
        fmt = fmt or rig.FORMAT
        got = rig.read_image(path, fmt)
        self.ledger.check(got, killed, grace=GRACE)
        if fmt != 'raw':
            rig.check_no_corruption(path)


def rounds(d, play):
    rnd = random.Random(rig.SEED)
    for i in range(ROUNDS):
        folder = os.path.join(d, str(i))
        os.mkdir(folder)
        r = Round(folder, rnd)
        try:
            play(r, rnd)
        finally:
            r.stage.__exit__(None, None, None)


def test_during_commits(d):
    """Whatever has been copied, the disk is the disk."""
    def play(r, rnd):
        r.qmp.cmd('block-commit', {
            'device': 'n-top', 'job-id': 'j', 'speed': MIB,
            **({'top-node': 'n-c'} if rnd.random() < 0.5 else {})})
        until(lambda: r.stage.progress(), 'the commit')
        r.check(r.kill(), r.paths['top'])
    rounds(d, play)


def test_after_a_commit(d):
    """The images that went are not needed any more (C1)."""
    def play(r, rnd):
        r.qmp.cmd('block-commit', {'device': 'n-top', 'job-id': 'j',
                                   'top-node': 'n-c'})
        r.stage.wait_completed(job='j')
        killed = r.kill()
        for n in 'abc':
            os.unlink(r.paths[n])
        r.check(killed, r.paths['top'])
    rounds(d, play)


def test_after_an_active_commit(d):
    """The base alone has all that was flushed (C5)."""
    def play(r, rnd):
        r.qmp.cmd('block-commit', {'device': 'n-top', 'job-id': 'j'})
        r.qmp.wait_event('BLOCK_JOB_READY', device='j')
        r.some_writes()
        r.qmp.cmd('block-job-complete', device='j')
        r.stage.wait_completed(job='j')
        killed = r.kill()
        for n in ('a', 'b', 'c', 'top'):
            os.unlink(r.paths[n])
        r.check(killed, r.paths['base'], 'raw')
    rounds(d, play)


def test_while_a_mirror_follows(d):
    def play(r, rnd):
        target = r.paths['top'] + '.target'
        rig.make_file(target, bytes(len(r.disks['top'])))
        r.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'target',
            'file': {'driver': 'file', 'filename': target}})
        r.qmp.cmd('blockdev-mirror', {
            'device': 'n-top', 'job-id': 'j', 'target': 'target',
            'sync': 'full', 'copy-mode': rnd.choice(('background',
                                                     'write-blocking'))})
        r.qmp.wait_event('BLOCK_JOB_READY', device='j')
        r.some_writes()
        if rnd.random() < 0.5:
            r.check(r.kill(), r.paths['top'])
            return
        r.qmp.cmd('block-job-complete', device='j')
        r.stage.wait_completed(job='j')
        r.some_writes()
        r.check(r.kill(), target, 'raw')
    rounds(d, play)


def test_after_a_snapshot(d):
    """What was acknowledged before stands in the old image (N1)."""
    def play(r, rnd):
        over = r.paths['top'] + '.over'
        r.qmp.cmd('blockdev-snapshot-sync', {
            'node-name': 'n-top', 'snapshot-node-name': 'over',
            'format': rig.FORMAT, 'snapshot-file': over})
        if rnd.random() < 0.5:
            r.some_writes()
        r.check(r.kill(), over)
    rounds(d, play)


def begin_backup(r, rnd, **args):
    """Of what the disk is now; the guest writes on. The target, and what it
    is to hold."""
    target = rig.make_file(r.paths['top'] + '.target',
                           bytes(len(r.disks['top'])))
    r.guest.stop()
    h = r.stage.client()
    want = b''.join(bytes(h.pread(MIB, at))
                    for at in range(0, len(r.disks['top']), MIB))
    h.shutdown()
    r.qmp.cmd('blockdev-add', {
        'driver': 'raw', 'node-name': 'target',
        'file': {'driver': 'file', 'filename': target}})
    r.qmp.cmd('blockdev-backup', dict({
        'device': 'n-top', 'job-id': 'j', 'target': 'target',
        'sync': 'full'}, **args))
    r.guest = Guest(r.stage, r.ledger, seed=rnd.getrandbits(30))
    r.some_writes()
    return target, want


def test_during_backups(d):
    """Nothing of the disk waits in the target alone."""
    def play(r, rnd):
        begin_backup(r, rnd, speed=rnd.choice((MIB, 4 * MIB)))
        r.check(r.kill(), r.paths['top'])
    rounds(d, play)


def test_after_a_backup(d):
    """The target has all of the disk of the moment it began."""
    def play(r, rnd):
        target, want = begin_backup(r, rnd)
        r.stage.wait_completed(job='j')
        r.check(r.kill(), r.paths['top'])
        with open(target, 'rb') as f:
            assert_same(f.read(), want, 'the copy')
    rounds(d, play)


def test_after_an_incremental_backup(d):
    """What was copied is no longer marked, durably (B3)."""
    if rig.FORMAT != 'qcow2':
        raise Skip('only qcow2 keeps bitmaps')

    def play(r, rnd):
        r.guest.stop()
        r.qmp.cmd('block-dirty-bitmap-add', {
            'node': 'n-top', 'name': 'b', 'persistent': True})
        r.guest = Guest(r.stage, r.ledger, seed=rnd.getrandbits(30))
        r.some_writes()
        r.guest.stop()
        target = rig.make_file(r.paths['top'] + '.target',
                               bytes(len(r.disks['top'])))
        r.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'target',
            'file': {'driver': 'file', 'filename': target}})
        r.qmp.cmd('blockdev-backup', {
            'device': 'n-top', 'job-id': 'j', 'target': 'target',
            'sync': 'incremental', 'bitmap': 'b'})
        r.stage.wait_completed(job='j')
        r.check(r.kill(), r.paths['top'])
        data = rig.image_info(r.paths['top'])['format-specific']['data']
        assert data['bitmaps'][0]['flags'] == ['auto'], data
        with Sluiced(os.path.dirname(target), '--blockdev',
                     'qcow2,node-name=n,file.driver=file,file.filename='
                     + r.paths['top']) as s:
            nodes = s.qmp.cmd('query-named-block-nodes', flat=True)
            n, = [n for n in nodes if n['node-name'] == 'n']
            assert n['dirty-bitmaps'][0]['count'] == 0, n
    rounds(d, play)


if __name__ == '__main__':
    rig.run(globals())
