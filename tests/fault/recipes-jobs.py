#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes that make a stream meet a broken base, by both programs: the events
and states that a manager sees, with each policy and for a broken disk and one
that says it is full, once and for good."""
import itertools
import os
import shutil
import time

from qemu_tools import Qsd
from qmp import QmpError
from sluiced import Sluiced, qemu_img, run
from waiting import Patience

MIB = 1 << 20
STATES = """\
[inject-error]
event = "read_aio"
errno = "%d"
state = "1"
sector = "%d"

[set-state]
event = "read_aio"
state = "1"
new_state = "2"

[set-state]
event = "read_aio"
state = "2"
new_state = "1"
"""
ERRORS = {5: 'Input/output error', 28: 'No space left on device'}


def nodes(d, fmt, errno, once):
    """A base that breaks in the middle, and an overlay. @once may be a config
    file of the qemu_tools's test of streams, whose states go to and fro."""
    rule = {'event': 'read_aio', 'errno': errno, 'sector': MIB // 2 // 512,
            'once': once is True}
    rules = {'inject-error': [rule]}
    if once == 'states':
        with open(d + '/conf', 'w', encoding='ascii') as f:
            f.write(STATES % (errno, MIB // 2 // 512))
        rules = {'config': d + '/conf'}
    return [{'driver': 'raw', 'node-name': 'base', 'file': dict(
                rules, driver='blkdebug',
                image={'driver': 'file', 'filename': d + '/base'})},
            {'driver': fmt, 'node-name': 'top', 'backing': 'base',
             'file': {'driver': 'file', 'filename': d + '/top'}}]


def make(d, fmt):
    with open(d + '/base', 'wb') as f:
        f.write(b'\x33' * MIB)
    if os.path.exists(d + '/top'):
        os.unlink(d + '/top')
    qemu_img('create', '-q', '-f', fmt, '-b', d + '/base', '-F', 'raw',
             d + '/top')


def job_of(q):
    return {j['id']: j['status'] for j in q.cmd('query-jobs')}.get('j')


def play(cls, d, fmt, policy, errno, once):
    """(errors reported, was it paused, how it ended, is the base still named)"""
    make(d, fmt)
    errors, paused = set(), False
    with cls(d) as s:
        for node in nodes(d, fmt, errno, once):
            s.qmp.cmd('blockdev-add', node)
        s.qmp.cmd('block-stream', {'device': 'top', 'job-id': 'j',
                                   'on-error': policy, 'auto-dismiss': False})
        patience = Patience()
        resumed = 0
        while job_of(s.qmp) != 'concluded':
            assert not patience.over(), (cls, policy)
            if job_of(s.qmp) == 'paused':
                paused = True
                shown = s.qmp.cmd('query-block-jobs')[0]['io-status']
                assert shown == ('nospace' if errno == 28 else 'failed'), shown
                if resumed < 2:
                    resumed += 1
                    s.qmp.cmd('block-job-resume', device='j')
                else:
                    s.qmp.cmd('block-job-cancel', device='j', force=True)
            time.sleep(0.02)
        end = s.qmp.cmd('query-jobs')[0].get('error')
        s.qmp.cmd('job-dismiss', id='j')
        for e in s.qmp.take_events():
            if e['event'] == 'BLOCK_JOB_ERROR':
                data = e['data']
                errors.add((data['operation'], data['action'], data['device']))
        try:
            backing = s.qmp.cmd('query-named-block-nodes')
            backing = [n.get('backing_file') for n in backing
                       if n['node-name'] == 'top'][0]
        except QmpError:
            backing = None
        if cls is Qsd:
            s.kill()
    qemu_img('check', '-q', '-f', fmt, d + '/top')
    return errors, paused, end, bool(backing)


def both(d, *args):
    ours, qemu_tools = play(Sluiced, d, *args), play(Qsd, d, *args)
    assert ours == qemu_tools, (args, ours, qemu_tools)
    return ours


def test_policies(d):
    for fmt, policy, (errno, text), how in itertools.product(
            ('qcow2', 'qed'), ('report', 'ignore', 'stop', 'enospc'),
            ERRORS.items(), (False, 'states')):
        errors, paused, end, based = both(d, fmt, policy, errno, how)
        stops = policy == 'stop' or (policy == 'enospc' and errno == 28)
        assert errors and paused == stops, (policy, errno, errors)
        assert end == ('Operation canceled' if stops else text), end
        # Whatever was ignored, the base is not let go.
        assert based, (policy, errno)


def test_an_error_that_comes_once(d):
    """It is told, and the policy is at work, as in QEMU: a small chunk of a local
    base is not read again by itself."""
    for fmt, policy in itertools.product(('qcow2', 'qed'), ('report', 'stop')):
        errors, paused, end, based = both(d, fmt, policy, 5, True)
        assert errors and paused == (policy == 'stop'), (policy, errors)
        assert based == (policy == 'report') == bool(end), (policy, end)


if __name__ == '__main__':
    if shutil.which('qemu-storage-daemon') is None:
        print('1..0 # SKIP qemu-storage-daemon is not installed')
        raise SystemExit(77)
    run(globals())
