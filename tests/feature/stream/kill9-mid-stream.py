#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""SIGKILL at any moment of a stream, with guests writing (G1, G2, M9, S4, S5).

What was flushed is there; what was acknowledged longer ago than the age at
which pointers are published (1 s) is there too, flushed or not; nothing else
than what was written at a place ever shows there.  Then a daemon goes on with
the same image, and the stream ends with the right bytes.
"""
import json
import os
import random
import time

import rig
from rig import Guest, KIB, Ledger, MIB, SECTOR, Stage

SIZE = 24 * MIB
# M9 says one second; the rest is for the disk. Seconds of rig.PACE.
GRACE = 2.5
ROUNDS = int(os.environ.get('ROUNDS', '20'))


def make_images(d, rnd, cluster):
    base = rig.make_file(os.path.join(d, 'base'), rnd.randbytes(SIZE))
    with open(base, 'rb') as f:
        disk = f.read()
    return base, disk, rig.make_overlay(os.path.join(d, 'top'), base,
                                        cluster=cluster)


def cut(s, ledger, guest, delay):
    """Let it work for @delay, kill it; the time of the kill."""
    moment = time.monotonic() + delay
    rig.until(lambda: time.monotonic() >= moment, 'the time to kill')
    guest.cut = True
    killed = time.monotonic()
    s.daemon.kill()
    guest.join()
    return killed


def finish(s, ledger, rnd):
    """Stream to the end while guests work."""
    guest = Guest(s, ledger, seed=rnd.getrandbits(30))
    s.stream()
    s.wait_completed()
    guest.stop()
    guest.flush_all()


def settle(top, ledger, killed):
    """After the kill: nothing lost, nothing corrupt."""
    rig.check_no_corruption(top)
    return ledger.check(rig.read_image(top), killed, GRACE)


def one_round(d, number, rnd):
    cluster = rnd.choice((4 * KIB, 64 * KIB, 64 * KIB, MIB))
    cache = rnd.choice(('none', 'writeback'))
    # Every fourth round is long, and without any flush of the guest.
    patient = number % 4 == 3
    delay = 4.0 if patient else rnd.uniform(0.02, 0.7)
    base, disk, top = make_images(d, rnd, cluster)
    ledger = Ledger(disk)
    with Stage(d, top, cache=cache) as s:
        guest = Guest(s, ledger, seed=rnd.getrandbits(30),
                      flush=0 if patient else 0.05,
                      pause=0.02 if patient else 0.004)
        s.stream(speed=(2 if patient else 30) * MIB)
        killed = cut(s, ledger, guest, delay)
    requests = ledger.requests
    lost = settle(top, ledger, killed)
    local = os.stat(top).st_blocks * SECTOR
    with Stage(d, top, cache=cache) as s:
        finish(s, ledger, rnd)
    os.unlink(base)
    ledger.check_all(rig.read_image(top))
    rig.check_no_corruption(top)
    rig.note('round %d: cluster %dk, %s, killed after %.2f s, %d requests, %d '
             'sectors lost, %d KiB were local' % (number, cluster // KIB, cache,
                                                  delay, requests, lost,
                                                  local // KIB))


def test_kill_mid_stream(d):
    rnd = random.Random(rig.SEED)
    for number in range(ROUNDS):
        folder = os.path.join(d, str(number))
        os.mkdir(folder)
        one_round(folder, number, rnd)


def test_progress_survives(d):
    """What was copied longer ago than a second is not copied again."""
    rnd = random.Random(rig.SEED + 1)
    _, disk, top = make_images(d, rnd, 64 * KIB)
    with Stage(d, top) as s:
        s.stream(speed=4 * MIB)
        rig.until(lambda: s.progress() > 5 * MIB, '5 MiB')
        # It must not end before the rest of this has happened.
        s.qmp.cmd('block-job-set-speed', device='virtio0', speed=64 * KIB)
        done, then = s.progress(), time.monotonic()
        rig.until(lambda: rig.PACE.before(time.monotonic(), GRACE) > then,
                  'the age at which pointers are published')
        s.daemon.kill()
    extents = json.loads(rig.qemu_img('map', '--output=json', '-f', rig.FORMAT,
                                          top))
    missing = [e['start'] for e in extents if e['depth'] > 0]
    assert min(missing) >= done - MIB, (done, min(missing))
    rig.note('reported %d, local up to %d' % (done, min(missing)))
    rig.assert_same(rig.read_image(top), disk)


def one_resume(d, rnd):
    os.mkdir(os.path.join(d, 'state'))
    base, disk, top = make_images(d, rnd, 64 * KIB)
    ledger = Ledger(disk)
    state = '--state-dir', os.path.join(d, 'state')
    with Stage(d, top, *state) as s:
        guest = Guest(s, ledger, seed=rnd.getrandbits(30), pause=0.02)
        s.stream(**{'job-id': 'populate', 'speed': 2 * MIB, 'auto-dismiss': False})
        killed = cut(s, ledger, guest, rnd.uniform(0.01, 0.8))
    settle(top, ledger, killed)
    with Stage(d, top, *state) as s:
        guest = Guest(s, ledger, seed=rnd.getrandbits(30), pause=0.02)
        assert s.qmp.cmd('query-block-jobs')[0]['speed'] == 2 * MIB
        s.qmp.cmd('block-job-set-speed', device='populate', speed=0)
        s.wait_completed(job='populate')
        guest.stop()
        guest.flush_all()
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='populate', status='concluded')
        s.qmp.cmd('job-dismiss', id='populate')
        assert s.qmp.cmd('query-job-journal') == []
    os.unlink(base)
    ledger.check_all(rig.read_image(top))
    rig.check_no_corruption(top)


def test_journal_resumes(d):
    """With a state folder the next daemon goes on by itself."""
    rnd = random.Random(rig.SEED + 2)
    for number in range(6):
        folder = os.path.join(d, str(number))
        os.mkdir(folder)
        one_resume(folder, rnd)


if __name__ == '__main__':
    rig.run(globals())
