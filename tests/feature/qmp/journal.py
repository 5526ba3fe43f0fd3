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


def test_refused_start_leaves_a_waiting_job(d):
    """A command that fails with the id of a job that waits changes nothing."""
    base, top = make_chain(d, SIZE)
    with start(d, top) as s:
        begin(s)
    before = entries(d)
    with start(d, top, '--resume-jobs', 'off') as s:
        q = s.qmp
        for args in ({'device': 'nothing'}, {'device': 'top', 'base': 'x'},
                     {'device': 'top', 'speed': -1}):
            q.error('block-stream', job_id='j', **args)
            entry, = q.cmd('query-job-journal')
            assert entry['state'] == 'waiting', entry
            assert entries(d) == before
    with start(d, top, '--resume-jobs', 'off') as s:
        # One that starts takes its place.
        s.qmp.cmd('block-stream', device='top', job_id='j', speed=2 * MIB)
        entry, = s.qmp.cmd('query-job-journal')
        assert entry['state'] == 'active', entry
        assert entries(d)['j']['arguments']['speed'] == 2 * MIB
    with start(d, top) as s:
        assert s.qmp.cmd('query-block-jobs')[0]['speed'] == 2 * MIB
        finish(s)
    assert entries(d) == {}
    check(base, top)


def test_one_id_for_two(d):
    """Of two starts with one id at once one is recorded, and stays so."""
    _, top = make_chain(d, SIZE)
    with start(d, top) as s:
        other = s.connect()
        for q in (s.qmp, other):
            q.send_raw(json.dumps({
                'execute': 'block-stream', 'id': 'a', 'arguments': {
                    'device': 'top', 'job-id': 'j', 'speed': MIB}}) + '\n')
        answers = [q.answer() for q in (s.qmp, other)]
        assert sorted('error' in a for a in answers) == [False, True], answers
        assert list(entries(d)) == ['j']
        assert [e['state'] for e in s.qmp.cmd('query-job-journal')] == [
            'active']
        other.close()


def test_nodes_come_over_many_monitors(d):
    """Every job goes on whose node is added, however many are at once."""
    many = 8
    names = ['n%d' % i for i in range(many)]
    nodes = []
    for name in names:
        os.mkdir(os.path.join(d, name))
        nodes.append({'driver': 'qed', 'node-name': name, 'file': {
            'driver': 'file',
            'filename': make_chain(os.path.join(d, name), SIZE)[1]}})
    os.mkdir(d + '/state')
    with Sluiced(d, '--state-dir', d + '/state') as s:
        for node in nodes:
            s.qmp.cmd('blockdev-add', node)
            s.qmp.cmd('block-stream', device=node['node-name'],
                      job_id=node['node-name'], speed=MIB)
    assert sorted(entries(d)) == names
    with Sluiced(d, '--state-dir', d + '/state') as s:
        monitors = [s.connect() for _ in names]
        for q, node in zip(monitors, nodes):
            q.send_raw(json.dumps({'execute': 'blockdev-add',
                                   'arguments': node}) + '\n')
        for q in monitors:
            assert 'error' not in q.answer()
        assert sorted(j['id'] for j in s.qmp.cmd('query-jobs')) == names
        assert {e['state'] for e in s.qmp.cmd('query-job-journal')} == {
            'active'}
        for q in monitors:
            q.close()


def test_one_daemon_only(d):
    _, top = make_chain(d, MIB)
    with start(d, top):
        import subprocess
        p = subprocess.run([SLUICED, '--state-dir', d + '/state'], cwd=d,
                           capture_output=True, text=True, check=False)
        assert p.returncode == 1 and 'in use' in p.stderr, p.stderr


def test_messages_have_their_hints_on_a_line(d):
    os.mkdir(d + '/state')
    with open(d + '/state/jobs.json', 'w', encoding='utf-8') as f:
        json.dump({'version': 1, 'jobs': {'j': {
            'command': 'block-stream',
            'arguments': {'device': 'top', 'spede': 1}}}}, f)
    with Sluiced(d, '--state-dir', d + '/state') as s:
        assert s.qmp.cmd('query-job-journal') == []
        text = s.errors()
    assert "job 'j' of the journal is skipped: Parameter 'spede' is " \
        "unexpected\nDid you mean 'speed'?\n" in text, repr(text)
    assert '\x1f' not in text


def test_bad_journal(d):
    os.mkdir(d + '/state')
    with open(d + '/state/jobs.json', 'w', encoding='utf-8') as f:
        f.write('{"version": 1, "jobs": {"j"')
    import subprocess
    p = subprocess.run([SLUICED, '--state-dir', d + '/state'], cwd=d,
                       capture_output=True, text=True, check=False)
    assert p.returncode == 1 and 'jobs.json' in p.stderr, p.stderr


if __name__ == '__main__':
    run(globals())
