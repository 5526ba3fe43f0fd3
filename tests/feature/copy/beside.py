#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs on parts of one chain that have nothing in common run side by side under a
guest; those that have are refused, and change nothing."""
import os
import random

import chains
import rig
from rig import Guest, Ledger, MIB, assert_same
from seed import SEED
from waiting import until

# The lower job: a goes into the base, b stands on the base then.
LOWER = {'device': 'n-top', 'job-id': 'low', 'top-node': 'n-a',
         'base-node': 'n-base'}
BUSY = "Node '%s' is busy: block device is in use by block job: %s"


def start_lower(s):
    s.qmp.cmd('block-commit', dict(LOWER, speed=1))


def start_active(s):
    s.qmp.cmd('block-commit', {'device': 'n-top', 'job-id': 'up',
                               'base-node': 'n-c', 'speed': 1})


def start_mirror(s):
    s.qmp.cmd('drive-mirror', {
        'device': 'n-top', 'job-id': 'up', 'sync': 'full', 'speed': 1,
        'target': s.target, 'format': rig.FORMAT,
        'copy-mode': 'write-blocking'})


def state(s, job):
    found = [j for j in s.qmp.cmd('query-block-jobs') if j['device'] == job]
    return found[0]['status'] if found else None


def finish(s, job):
    s.qmp.cmd('block-job-set-speed', device=job, speed=0)
    until(lambda: state(s, job) in ('ready', None), 'job ' + job)
    if state(s, job) == 'ready':
        s.qmp.cmd('block-job-complete', device=job)
    s.wait_completed(job=job)


def beside(d, upper, order, target=False):
    paths, disks = chains.make_chain(d, random.Random(SEED))
    with chains.Chain(d, paths) as s:
        s.target = os.path.join(d, 'target')
        ledger = Ledger(disks['top'])
        guest = Guest(s, ledger, seed=SEED)
        start_lower(s)
        upper(s)
        until(lambda: all(state(s, j) in ('running', 'ready')
                          for j in ('low', 'up')), 'both jobs')
        for job in order:
            finish(s, job)
        guest.stop()
        h = s.client()
        got = b''.join(bytes(h.pread(MIB, at))
                       for at in range(0, chains.SIZE, MIB))
        ledger.check_all(got)
        h.flush()
    os.unlink(paths['a'])
    top = s.target if target else \
        paths['c'] if upper is start_active else paths['top']
    assert_same(rig.read_image(top), got, 'the disk')
    rig.check_image(top)


ORDERS = [('low', 'up'), ('up', 'low')]


def both(d, upper, **args):
    for order in ORDERS:
        folder = os.path.join(d, order[0])
        os.mkdir(folder)
        beside(folder, upper, order, **args)


def test_active_commit_above(d):
    both(d, start_active)


def test_mirror_above(d):
    both(d, start_mirror, target=True)


def test_refusals(d):
    """What has an image in common with a job."""
    paths, disks = chains.make_chain(d, random.Random(SEED))
    with chains.Chain(d, paths) as s:
        s.target = os.path.join(d, 'target')
        q = s.qmp
        graph = q.cmd('query-named-block-nodes')
        start_lower(s)
        before = {n['node-name'] for n in q.cmd('query-named-block-nodes')}

        def refused(command, args, name, job):
            text = q.error(command, args)
            assert text == BUSY % (name, job), text
            assert {n['node-name'] for n in q.cmd(
                'query-named-block-nodes')} == before
            assert len(q.cmd('query-block-jobs')) == 1

        refused('block-commit', {
            'device': 'n-top', 'job-id': 'x', 'top-node': 'n-c',
            'base-node': 'n-b'}, 'n-b', 'commit')
        refused('block-stream', {
            'device': 'n-top', 'job-id': 'x', 'base-node': 'n-base'}, 'n-b',
            'commit')
        refused('block-commit', dict(LOWER, **{'job-id': 'x'}), 'n-b', 'commit')
        refused('drive-mirror', {
            'device': 'n-a', 'job-id': 'x', 'target': s.target,
            'sync': 'full', 'format': 'raw'}, 'n-a', 'commit')
        assert not os.path.exists(s.target)
        q.cmd('block-job-cancel', device='low')
        q.wait_event('BLOCK_JOB_CANCELLED', device='low')
        until(lambda: {n['node-name'] for n in q.cmd(
            'query-named-block-nodes')} == {n['node-name'] for n in graph},
              'the graph as it was')
        assert_same(bytes(s.client().pread(MIB, 0)), disks['top'][:MIB])


if __name__ == '__main__':
    rig.run(globals())
