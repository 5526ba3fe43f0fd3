#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""x-blockdev-amend: images that a running daemon makes into another kind."""
import os
import subprocess

from qmp import QmpError
from sluiced import Sluiced, qemu_img, run
from waiting import until

MIB = 1 << 20


def finish(q, job='a'):
    """Wait for the job, dismiss it; its error or None."""
    def concluded():
        jobs = [j for j in q.cmd('query-jobs') if j['id'] == job]
        assert jobs and jobs[0]['type'] == 'amend', jobs
        return jobs[0] if jobs[0]['status'] == 'concluded' else None
    j = until(concluded, 'the end of the job')
    assert q.cmd('query-block-jobs') == []
    q.cmd('job-dismiss', id=job)
    return j.get('error')


def amend(q, **options):
    q.cmd('x-blockdev-amend', job_id='a', node_name='n',
          options=dict({'driver': 'qcow2'}, **options))
    return finish(q)


def opened(path):
    return ('--blockdev', 'qcow2,node-name=n,file.driver=file,file.filename='
            + path)


def make(d):
    path, base = d + '/disk.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.write(b'\x01' * 4 * MIB)
    qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path)
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 2 0 1M', '-c',
                    'write -z 1M 1M', '-c', 'write -z 512k 64k', path],
                   check=True, stdout=subprocess.DEVNULL)
    return path


def read(path):
    raw = path + '.raw'
    qemu_img('convert', '-U', '-f', 'qcow2', '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        return f.read()


def test_there_and_back(d):
    path = make(d)
    before = read(path)
    with Sluiced(d, *opened(path)) as s:
        assert amend(s.qmp, **{'lazy-refcounts': True}) is None
        assert amend(s.qmp, version='v2') is None
        # It goes on as one of version 2: zeroes are written.
        assert 'wrote' in s.qmp.hmp('qemu-io n "write -z 3M 64k"')
        assert amend(s.qmp, version='v3', size=8 * MIB) is None
        assert 'wrote' in s.qmp.hmp('qemu-io n "write -z 3M 128k"')
        assert 'failed' not in s.qmp.hmp('qemu-io n "read -P 0 3M 128k"')
    qemu_img('check', '-q', path)
    text = qemu_img('info', path)
    assert 'compat: 1.1' in text and '8 MiB' in text, text
    assert 'lazy refcounts: false' in text, text
    after = read(path)
    assert after[:3 * MIB] == before[:3 * MIB]
    assert after[3 * MIB:][:128 << 10] == bytes(128 << 10)


def test_under_a_guest(d):
    """A client of an export waits, and loses nothing."""
    path = make(d)
    with Sluiced(d, *opened(path), '--nbd-server',
                 'addr.type=unix,addr.path=%s/n.sock' % d, '--export',
                 'nbd,id=e,node-name=n,name=e,writable=on') as s:
        uri = 'nbd+unix:///e?socket=%s/n.sock' % d
        commands = [x for i in range(48) for x in
                    ('-c', 'write -P %d %dk 64k' % (i + 1, i * 64))]
        with subprocess.Popen(['qemu-io', '-f', 'raw', *commands, uri],
                              stdout=subprocess.DEVNULL) as guest:
            for version in 'v2', 'v3', 'v2':
                assert amend(s.qmp, version=version) is None
            assert guest.wait() == 0
        for i in range(48):
            text = s.qmp.hmp('qemu-io n "read -P %d %dk 64k"' % (i + 1, i * 64))
            assert 'verification' not in text, text
    qemu_img('check', '-q', path)
    assert 'compat: 0.10' in qemu_img('info', path)


def error_of(q, **args):
    try:
        q.cmd('x-blockdev-amend', job_id='a', **args)
    except QmpError as e:
        return e.desc
    raise AssertionError(args)


def test_refused(d):
    path = make(d)
    qemu_img('snapshot', '-c', 's', path)
    with Sluiced(d, *opened(path), '--blockdev', 'null-co,node-name=z') as s:
        q = s.qmp
        qcow2 = {'driver': 'qcow2'}
        assert error_of(q, node_name='nope', options=qcow2) == \
            "Cannot find device='nope' nor node-name='nope'"
        assert error_of(q, node_name='z', options=qcow2) == \
            "x-blockdev-amend doesn't support changing the block driver"
        assert error_of(q, node_name='z', options={'driver': 'null-co'}) == \
            'Driver does not support x-blockdev-amend'
        assert 'unexpected' in error_of(
            q, node_name='n', options=dict(qcow2, zork=1))
        for options, words in ((dict(version='v2'), 'snapshots prevent'),
                               ({'data-file-raw': True}, 'cannot be set'),
                               (dict(size=4096), 'only be amended to grow')):
            error = amend(q, **options)
            assert error and words in error, (options, error)
    assert 'compat: 1.1' in qemu_img('info', path)
    with Sluiced(d, '--blockdev', 'qcow2,node-name=n,read-only=on,'
                 'file.driver=file,file.filename=' + path) as s:
        assert amend(s.qmp, version='v2') == 'Block node is read-only'


def test_other_jobs(d):
    """A node that a job has is not amended."""
    path = make(d)
    with Sluiced(d, *opened(path)) as s:
        s.qmp.cmd('block-stream', job_id='j', device='n', speed=65536)
        error = error_of(s.qmp, node_name='n', options={
            'driver': 'qcow2', 'version': 'v2'})
        assert 'block device is in use by block job: stream' in error, error
        s.qmp.cmd('block-job-cancel', device='j', force=True)
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')
    assert os.path.exists(path)


if __name__ == '__main__':
    run(globals())
