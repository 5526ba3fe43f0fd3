#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs that go on after the daemon's end, orderly or not."""
import json
import os

from sluiced import SLUICED, Sluiced, make_chain, qemu_img, run

MIB = 1 << 20
SIZE = 32 * MIB


def start(d, top, *more):
    os.makedirs(d + '/state', exist_ok=True)
    return Sluiced(d, '--state-dir', d + '/state', '--blockdev',
                   'qed,node-name=top,file.driver=file,file.filename=' + top,
                   *more)


def entries(d):
    with open(d + '/state/jobs.json', encoding='utf-8') as f:
        return json.load(f)['jobs']


def begin(s):
    s.qmp.cmd('block-stream', device='top', job_id='j', speed=4 * MIB)
    while s.qmp.cmd('query-block-jobs')[0]['offset'] == 0:
        pass


def finish(s):
    s.qmp.cmd('block-job-set-speed', device='j', speed=0)
    s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j', offset=SIZE)


def check(base, top):
    assert 'backing file' not in qemu_img('info', top)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_resume_after_quit_and_kill(d):
    base, top = make_chain(d, SIZE)
    with start(d, top) as s:
        begin(s)
        entry, = s.qmp.cmd('query-job-journal')
        assert (entry['id'], entry['state']) == ('j', 'active'), entry
    assert list(entries(d)) == ['j']
    with start(d, top) as s:
        assert len(s.qmp.cmd('query-jobs')) == 1
        s.qmp.cmd('block-job-set-speed', device='j', speed=2 * MIB)
        s.kill()
    assert list(entries(d)) == ['j']
    with start(d, top) as s:
        assert s.qmp.cmd('query-block-jobs')[0]['speed'] == 2 * MIB
        finish(s)
        # Erased before the event was sent.
        assert entries(d) == {}
        assert s.qmp.cmd('query-job-journal') == []
    check(base, top)


def test_resume_when_the_node_comes(d):
    base, top = make_chain(d, SIZE)
    with start(d, top) as s:
        begin(s)
    with Sluiced(d, '--state-dir', d + '/state') as s:
        entry, = s.qmp.cmd('query-job-journal')
        assert entry['state'] == 'waiting', entry
        s.qmp.cmd('blockdev-add', driver='qed', node_name='top',
                  file={'driver': 'file', 'filename': top})
        finish(s)
    check(base, top)


def test_resume_off_and_forget(d):
    base, top = make_chain(d, SIZE)
    with start(d, top) as s:
        begin(s)
    with start(d, top, '--resume-jobs', 'off') as s:
        q = s.qmp
        assert q.cmd('query-jobs') == []
        assert q.cmd('query-job-journal')[0]['state'] == 'waiting'
        assert q.error('job-journal-forget', id='x') == 'Job not found'
        q.cmd('job-journal-forget', id='j')
        assert q.cmd('query-job-journal') == []
    assert entries(d) == {}
    assert base in qemu_img('info', top)


def test_cancelled_jobs_are_forgotten(d):
    _, top = make_chain(d, SIZE)
    with start(d, top) as s:
        begin(s)
        s.qmp.cmd('block-job-cancel', device='j')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')
        assert s.qmp.error('block-stream', device='top', job_id='k',
                           base='x').startswith("Can't find")
    assert entries(d) == {}


def test_one_daemon_only(d):
    _, top = make_chain(d, MIB)
    with start(d, top):
        import subprocess
        p = subprocess.run([SLUICED, '--state-dir', d + '/state'], cwd=d,
                           capture_output=True, text=True, timeout=30,
                           check=False)
        assert p.returncode == 1 and 'in use' in p.stderr, p.stderr


def test_bad_journal(d):
    os.mkdir(d + '/state')
    with open(d + '/state/jobs.json', 'w', encoding='utf-8') as f:
        f.write('{"version": 1, "jobs": {"j"')
    import subprocess
    p = subprocess.run([SLUICED, '--state-dir', d + '/state'], cwd=d,
                       capture_output=True, text=True, timeout=30, check=False)
    assert p.returncode == 1 and 'jobs.json' in p.stderr, p.stderr


if __name__ == '__main__':
    run(globals())
