#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice pull, jobs and job: progress, ends, and what is said about them."""
import json
import os
import re
import signal
import subprocess

from sluiced import SLUICE, Sluiced, make_chain, run
from terminal import CTRL_C, Terminal
from waiting import until

MIB = 1 << 20
SIZE = 8 * MIB
SLOW = 64 << 10     # bytes per second: no such job ends by itself here


def node(top, name='disk0', more=''):
    return ('driver=qed,node-name=%s,file.driver=file,file.filename=%s%s'
            % (name, top, more))


def bad_base(base, sector):
    """Options of a backing node whose reads of @sector fail, until the rule is
    taken away with its node."""
    return (',backing.driver=raw,backing.node-name=base,'
            'backing.file.driver=blkdebug,'
            'backing.file.image.driver=file,'
            'backing.file.image.filename=%s,'
            'backing.file.inject-error.0.event=none,'
            'backing.file.inject-error.0.iotype=read,'
            'backing.file.inject-error.0.errno=5,'
            'backing.file.inject-error.0.sector=%d,'
            'backing.file.inject-error.0.once=off' % (base, sector))


def sluice(s, *args):
    return subprocess.run([SLUICE, args[0], '-s', s.socket] + list(args[1:]),
                          text=True, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_wait_for_several(d):
    """Those that run and those that are over; each is told."""
    args = []
    for name in 'abc':
        os.mkdir(d + '/' + name)
        top = make_chain(d + '/' + name, SIZE)[1]
        args += ['--blockdev', node(top, name)]
    with Sluiced(d, *args) as s:
        q = s.qmp
        q.cmd('block-stream', device='a', job_id='a')
        q.wait_event('BLOCK_JOB_COMPLETED', device='a')
        q.cmd('block-stream', device='b', job_id='b', speed=SLOW)
        q.cmd('block-stream', device='c', job_id='c', speed=SLOW)
        wait = subprocess.Popen([SLUICE, 'job', '-s', s.socket, 'wait', 'a',
                                 'b', 'c'], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE)
        assert wait.stdout.readline() == "job 'a' completed\n"
        assert wait.poll() is None
        q.cmd('block-job-set-speed', device='b', speed=0)
        assert wait.stdout.readline() == "job 'b' completed\n"
        q.cmd('block-job-cancel', device='c')
        out, err = wait.communicate()
        assert out == "job 'c' was cancelled\n", out
        assert 'sluice pull' in err, err
        assert wait.returncode == 3
        # All are over now, and the answer is the same.
        p = sluice(s, 'job', 'wait', 'c', 'b', 'a')
        assert p.returncode == 3, p
        assert p.stdout == ("job 'c' was cancelled\njob 'b' completed\n"
                            "job 'a' completed\n"), p
        p = sluice(s, 'job', 'wait', 'a', 'b')
        assert p.returncode == 0, p
        results = q.cmd('query-job-results')
        assert [(r['id'], r['outcome']) for r in results] == [
            ('a', 'completed'), ('b', 'completed'), ('c', 'cancelled')], results
        p = sluice(s, 'jobs', '--all')
        assert re.search(r'^a +stream +completed', p.stdout, re.M), p
        assert re.search(r'^c +stream +cancelled', p.stdout, re.M), p
        p = sluice(s, 'jobs', '--all', '--output', 'json')
        assert json.loads(p.stdout) == results, p


def test_results_are_limited(d):
    top = make_chain(d, MIB)[1]
    with Sluiced(d, '--blockdev', node(top)) as s:
        for i in range(70):
            s.qmp.cmd('block-stream', device='disk0', job_id='j%d' % i)
            s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j%d' % i)
            s.qmp.wait_event('JOB_STATUS_CHANGE', status='null')
        ids = [r['id'] for r in s.qmp.cmd('query-job-results')]
        assert ids == ['j%d' % i for i in range(6, 70)], ids


def test_events_as_json(d):
    """Each pull prints how it ended, however fast it was, and nothing else."""
    top = make_chain(d, MIB)[1]
    with Sluiced(d, '--blockdev', node(top)) as s:
        for _ in range(10):
            p = sluice(s, 'pull', '--output', 'json', 'disk0')
            assert p.returncode == 0, p
            events = [json.loads(l)['event'] for l in p.stdout.splitlines()]
            assert events == ['BLOCK_JOB_COMPLETED'], p


def test_failed_job_names_the_place(d):
    base, top = make_chain(d, SIZE)
    sector = 3 * MIB // 512
    with Sluiced(d, '--blockdev', node(top, more=bad_base(base, sector))) as s:
        p = sluice(s, 'pull', 'disk0')
        assert p.returncode == 1, p
        m = re.search(r"job 'disk0' failed: could not read node 'base' "
                      r"\((.*)\) at offset (\d+): Input/output error", p.stderr)
        assert m and m.group(1).endswith('base.raw'), p
        offset = int(m.group(2))
        assert offset <= 3 * MIB < offset + MIB, p
        assert 'sluice pull' in p.stderr, p
        result, = s.qmp.cmd('query-job-results')
        assert set(result) == {'id', 'type', 'outcome', 'offset', 'len',
                               'error', 'fault', 'ended'}, result
        assert result['error'] == 'Input/output error'
        assert result['fault']['operation'] == 'read'
        assert result['fault']['offset'] == offset
        # Asked afterwards it says the same.
        p = sluice(s, 'job', 'wait', 'disk0')
        assert p.returncode == 1 and m.group(0) in p.stderr, p
        assert m.group(0).split(': ', 1)[1] in sluice(s, 'jobs',
                                                      '--all').stdout


def test_failed_write_names_the_overlay(d):
    _, top = make_chain(d, SIZE)
    overlay = ('driver=qed,node-name=disk0,file.driver=blkdebug,'
               'file.image.driver=file,file.image.filename=%s,'
               'file.inject-error.0.event=none,file.inject-error.0.errno=28,'
               'file.inject-error.0.iotype=write,'
               'file.inject-error.0.once=off' % top)
    with Sluiced(d, '--blockdev', overlay) as s:
        p = sluice(s, 'pull', 'disk0')
        assert p.returncode == 1, p
        assert re.search(r"could not write node 'disk0' \(.*top.qed.*\) at "
                         r'offset 0: No space left on device', p.stderr), p


def test_stopped_job(d):
    """An error with on-error=stop: what has stopped it is told, by the one who
    waits and by the list; resume and cancel are offered."""
    base, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top, more=bad_base(base, 8))) as s:
        with Terminal(SLUICE, 'pull', '-s', s.socket, '--on-error', 'stop',
                      'disk0', cwd=d) as t:
            t.expect(r"(^|\n)sluice: job 'disk0' is stopped: could not read node "
                     r"'base' \(.*base.raw.*\) at offset 0: "
                     r'Input/output error\r\n')
            t.expect(r"sluice job -s \S+ resume disk0")
            t.expect(r'stopped by an error')
            p = sluice(s, 'jobs')
            assert re.search(r'stopped .*could not read', p.stdout), p
            stopped, = s.qmp.cmd('query-job-results')
            assert stopped['outcome'] == 'stopped', stopped
            p = sluice(s, 'job', 'cancel', 'disk0')
            assert p.returncode == 1 and '--force' in p.stderr, p
            p = sluice(s, 'job', '--force', 'cancel', 'disk0')
            assert p.returncode == 0, p
            assert "job 'disk0' was cancelled" in p.stdout, p
            t.expect(r"\nsluice: job 'disk0' was cancelled\r\n")
            assert t.wait() == 3
        assert [r['outcome'] for r in s.qmp.cmd('query-job-results')] == [
            'cancelled']


def test_progress_on_a_terminal(d):
    """A pause is shown, and messages begin a line of their own."""
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        with Terminal(SLUICE, 'pull', '-s', s.socket, '--speed', '64k',
                      'disk0') as t:
            t.expect(r'\rpulling disk0 \[')
            assert sluice(s, 'job', 'pause', 'disk0').returncode == 0
            t.expect(r'%  paused')
            assert sluice(s, 'job', 'resume', 'disk0').returncode == 0
            t.expect(r'%  [\d.]+ ?\w*B?/s')
            assert sluice(s, 'job', 'speed', 'disk0', '0').returncode == 0
            t.expect(r'100\.0%[^\n]*\n$')
            assert t.wait() == 0


def test_interrupt(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        with Terminal(SLUICE, 'pull', '-s', s.socket, '--speed', '64k',
                      'disk0') as t:
            t.expect(r'\rpulling disk0 \[')
            t.type(CTRL_C)
            t.expect(r"\nsluice: interrupted; job 'disk0' goes on")
            t.expect(r"sluice job -s \S+ wait disk0")
            t.expect(r"sluice job -s \S+ cancel disk0")
            assert t.wait() == 130
        assert [j['device'] for j in s.qmp.cmd('query-block-jobs')] == ['disk0']
        # The same without a terminal.
        p = subprocess.Popen([SLUICE, 'job', '-s', s.socket, 'wait', 'disk0'],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        until(lambda: catches_interrupt(p.pid), 'its handler of SIGINT')
        p.send_signal(signal.SIGINT)
        out, err = p.communicate()
        assert p.returncode == 130 and 'goes on' in err, (out, err)
        s.qmp.cmd('block-job-cancel', device='disk0')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')


def catches_interrupt(pid):
    with open('/proc/%d/status' % pid, encoding='ascii') as f:
        mask = re.search(r'^SigCgt:\s*(\w+)', f.read(), re.M).group(1)
    return int(mask, 16) >> (signal.SIGINT - 1) & 1


def test_cancelled_by_another(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        p = subprocess.Popen([SLUICE, 'pull', '-s', s.socket, '--speed', '64k',
                              'disk0'], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        until(lambda: s.qmp.cmd('query-block-jobs'), 'the job')
        p2 = sluice(s, 'job', 'cancel', 'disk0')
        assert p2.returncode == 0, p2
        out, err = p.communicate()
        assert p.returncode == 3, (out, err)
        assert "job 'disk0' was cancelled" in err, err
        assert "'sluice pull -s %s disk0' goes on there" % s.socket in err, err
        assert sluice(s, 'pull', 'disk0').returncode == 0


def test_the_daemon_goes_away(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        s.qmp.cmd('block-stream', device='disk0', job_id='j', speed=SLOW)
        p = subprocess.Popen([SLUICE, 'job', '-s', s.socket, 'wait', 'j'],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True)
        until(lambda: catches_interrupt(p.pid), 'the waiting')
        s.kill()
        _, err = p.communicate()
        assert p.returncode == 1 and 'went away' in err, err


def test_words(d):
    """Mistyped jobs and verbs."""
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        s.qmp.cmd('block-stream', device='disk0', job_id='disk0', speed=SLOW)
        for verb in ('wait', 'pause', 'cancel'):
            p = sluice(s, 'job', verb, 'dsik0')
            assert p.returncode == 1, p
            assert "Did you mean 'disk0'?" in p.stderr, p
            assert 'sluice jobs' in p.stderr, p
        p = sluice(s, 'job', 'wiat', 'disk0')
        assert p.returncode == 1 and "did you mean 'wait'?" in p.stderr, p
        p = sluice(s, 'job', 'zork', 'disk0')
        assert p.returncode == 1 and 'pause, resume' in p.stderr, p
        p = sluice(s, 'job', '--no-wait', 'cancel', 'disk0')
        assert p.returncode == 0 and not p.stdout, p
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')


if __name__ == '__main__':
    run(globals())
