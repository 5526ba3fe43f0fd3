#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""How a job meets guests: latency-target, floor, finish-by; what a query tells
of it, and the event of a time that cannot be kept."""
import json
import os
import subprocess
import time

from sluiced import SLUICE, Sluiced, make_chain, qemu_img, run
from waiting import until

MIB = 1 << 20
SIZE = 8 * MIB
FAR = int(time.time()) + 100000


def node(top):
    return ('driver=qed,node-name=top,file.driver=file,file.filename=%s' % top)


def job(s):
    info, = s.qmp.cmd('query-block-jobs')
    return info


def limits(s):
    info = job(s)
    return [info.get(k) for k in ('latency-target', 'floor', 'finish-by')]


def finish_job(s):
    s.qmp.cmd('block-job-set-speed', device='j', speed=0)
    s.qmp.wait_event('BLOCK_JOB_COMPLETED')


def test_defaults_and_changes(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        q.cmd('block-stream', device='top', job_id='j', speed=MIB)
        assert limits(s) == ['2x', 4 * MIB, None]
        q.cmd('block-job-set-limits', device='j', latency_target='0.8ms')
        assert limits(s) == ['0.8ms', 4 * MIB, None]
        q.cmd('block-job-set-limits', device='j', latency_target='3',
              floor=MIB, finish_by=FAR)
        assert limits(s) == ['3ms', MIB, FAR]
        q.cmd('block-job-set-limits', device='j', finish_by=0)
        assert limits(s) == ['3ms', MIB, None]
        q.cmd('block-job-set-limits', device='j', latency_target='off', floor=0)
        assert limits(s) == ['off', 0, None]
        finish_job(s)


def test_refused(d):
    _, top = make_chain(d, SIZE)
    text = ("Parameter 'latency-target' expects a time from 10us to 60s "
            "('5ms'), a multiple from 1.1x to 1000x of the undisturbed latency "
            "('2x'), or 'off'")
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        for bad in ('', 'x', '0', '1x', '2y', '-5ms', 'nan', '1e9x', '61s',
                    '9us', 'inf', '2xx'):
            assert q.error('block-stream', device='top', job_id='j',
                           latency_target=bad) == text, bad
        for name in ('floor', 'finish-by'):
            assert q.error('block-stream', device='top', job_id='j',
                           **{name.replace('-', '_'): -1}) == (
                "Parameter '%s' expects a non-negative value" % name)
        assert q.cmd('query-block-jobs') == []
        assert q.error('block-job-set-limits', device='j') == \
            "Block job 'j' not found"
        q.cmd('block-stream', device='top', job_id='j', speed=MIB,
              latency_target='7ms')
        assert q.error('block-job-set-limits', device='j', floor=MIB,
                       latency_target='soon') == text
        assert limits(s) == ['7ms', 4 * MIB, None]
        finish_job(s)


def test_what_holds_it_and_how_long(d):
    _, top = make_chain(d, 64 * MIB)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        q.cmd('block-stream', device='top', job_id='j', speed=2 * MIB)
        until(lambda: job(s)['held-by'] == 'limit', 'the speed holds it back')
        eta = until(lambda: job(s).get('eta'), 'how long')
        assert 10 <= eta['expected'] <= 60, eta
        assert eta['earliest'] <= eta['expected'] <= eta['latest'], eta
        q.cmd('block-job-pause', device='j')
        until(lambda: job(s)['status'] == 'paused', 'the pause')
        assert 'eta' not in job(s) and 'held-by' not in job(s)
        q.cmd('block-job-resume', device='j')
        finish_job(s)


def test_time_that_cannot_be_kept(d):
    _, top = make_chain(d, 64 * MIB)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        # Its speed alone says so.
        until_then = int(time.time()) + 600
        q.cmd('block-stream', device='top', job_id='j', speed=64 << 10,
              finish_by=until_then)
        missed = q.wait_event('BLOCK_JOB_DEADLINE_MISSED')['data']
        assert (missed['device'], missed['type'], missed['finish-by'],
                missed['len']) == ('j', 'stream', until_then, 64 * MIB), missed
        # Told once; another time is another promise.
        q.cmd('block-job-set-limits', device='j', finish_by=1000)
        missed = q.wait_event('BLOCK_JOB_DEADLINE_MISSED')['data']
        assert missed['finish-by'] == 1000, missed
        q.cmd('block-job-set-limits', device='j', finish_by=FAR)
        finish_job(s)
        assert not [e for e in q.take_events()
                    if e['event'] == 'BLOCK_JOB_DEADLINE_MISSED']


def test_kept_over_a_restart(d):
    base, top = make_chain(d, SIZE)
    state = os.path.join(d, 'state')
    os.mkdir(state)
    args = ('--blockdev', node(top), '--state-dir', state)
    with Sluiced(d, *args) as s:
        s.qmp.cmd('block-stream', device='top', job_id='j', speed=MIB,
                  latency_target='5ms', finish_by=FAR)
        s.qmp.cmd('block-job-set-limits', device='j', floor=MIB)
        s.qmp.cmd('block-job-set-limits', device='j', latency_target='4x')
    with open(os.path.join(state, 'jobs.json'), encoding='utf-8') as f:
        kept = json.load(f)['jobs']['j']['arguments']
    assert (kept['latency-target'], kept['floor'], kept['finish-by']) == (
        '4x', MIB, FAR), kept
    with Sluiced(d, *args) as s:
        assert limits(s) == ['4x', MIB, FAR]
        finish_job(s)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def sluice(s, *args):
    p = subprocess.run([SLUICE, args[0], '-s', s.socket, *args[1:]], text=True,
                       capture_output=True, check=False)
    return p.returncode, p.stdout, p.stderr


def test_command_line(d):
    _, top = make_chain(d, 64 * MIB)
    with Sluiced(d, '--blockdev', node(top)) as s:
        status, _, err = sluice(
            s, 'pull', '--no-wait', '--job-id', 'j', '--speed', '2M',
            '--latency-target', '5ms', '--floor', '1M', '--finish-by', '+2h',
            'top')
        assert status == 0, err
        target, floor, finish = limits(s)
        assert (target, floor) == ('5ms', MIB)
        assert abs(finish - time.time() - 7200) < 600, finish
        until(lambda: 'held back by limit' in sluice(s, 'jobs')[1], 'the list')
        until(lambda: ' left (' in sluice(s, 'jobs')[1], 'the time left')
        assert sluice(s, 'job', 'limits', '--latency-target', '3x',
                      '--finish-by', '2099-01-02T03:04', 'j')[0] == 0
        then = time.mktime(time.strptime('2099-01-02 03:04', '%Y-%m-%d %H:%M'))
        assert limits(s) == ['3x', MIB, int(then)]
        assert sluice(s, 'job', 'limits', '--finish-by', '0', 'j')[0] == 0
        assert limits(s) == ['3x', MIB, None]
        for args in (('limits', 'j'), ('pause', '--floor', '1', 'j'),
                     ('limits', '--floor', 'x', 'j')):
            assert sluice(s, 'job', *args)[0] == 1, args
        for bad in ('tomorrow', '+2', '+', '25:00', '-5', '2099-01-02T'):
            status, _, err = sluice(s, 'pull', '--finish-by=' + bad, 'top')
            assert status == 1 and '--finish-by expects' in err, (bad, err)
        finish_job(s)


def test_serve(d):
    _, top = make_chain(d, MIB)
    p = subprocess.run(
        [SLUICE, 'serve', '--dry-run', '--stream', '--latency-target', '4x',
         '--floor', '2M', '--finish-by', '0', top], text=True,
        capture_output=True, check=True)
    assert 'stream=on,latency-target=4x,floor=2097152,finish-by=0' in \
        p.stdout, p.stdout
    p = subprocess.run([SLUICE, 'serve', '--dry-run', '--floor', '2M', top],
                       text=True, capture_output=True, check=False)
    assert p.returncode == 1 and 'go with --stream' in p.stderr, p.stderr


def test_drive(d):
    _, top = make_chain(d, 64 * MIB)
    drive = 'id=j,file=%s,format=qed,' % top
    with Sluiced(d, '--drive', drive + 'stream=on,latency-target=800us,'
                 'floor=3M,finish-by=%d' % FAR) as s:
        until(lambda: not s.qmp.cmd('query-block-jobs'), 'the stream')


if __name__ == '__main__':
    run(globals())
