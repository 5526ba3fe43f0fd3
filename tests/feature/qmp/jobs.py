#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Streaming and jobs by QMP: life cycles, verbs, errors, the old forms."""
from sluiced import Sluiced, make_chain, qemu_img, run
from waiting import until

MIB = 1 << 20
SIZE = 8 * MIB


def node(top, name='top'):
    return ('driver=qed,node-name=%s,file.driver=file,file.filename=%s'
            % (name, top))


def test_stream_completes(d):
    base, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        assert q.cmd('block-stream', device='top', job_id='j') == {}
        done = q.wait_event('BLOCK_JOB_COMPLETED')
        assert list(done['data'].items()) == [
            ('device', 'j'), ('len', SIZE), ('offset', SIZE), ('speed', 0),
            ('type', 'stream')], done
        q.wait_event('JOB_STATUS_CHANGE', status='null')
        assert q.job_states('j') == ['created', 'running', 'waiting',
                                     'pending', 'concluded']
        assert q.cmd('query-block-jobs') == q.cmd('query-jobs') == []
        top_info = [n for n in q.cmd('query-named-block-nodes')
                    if n['node-name'] == 'top'][0]
        assert 'backing_file' not in top_info, top_info
    assert 'backing file' not in qemu_img('info', top)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_manual_job(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        q.cmd('block-stream', device='top', job_id='j', auto_finalize=False,
              auto_dismiss=False)
        q.wait_event('BLOCK_JOB_PENDING', id='j', type='stream')
        assert q.error('job-dismiss', id='j') == (
            "Job 'j' in state 'pending' cannot accept command verb 'dismiss'")
        assert 'backing file' in qemu_img('info', '-U', top)
        q.cmd('job-finalize', id='j')
        q.wait_event('JOB_STATUS_CHANGE', status='concluded')
        info, = q.cmd('query-jobs')
        assert list(info.items()) == [
            ('current-progress', SIZE), ('status', 'concluded'),
            ('total-progress', SIZE), ('type', 'stream'), ('id', 'j')], info
        q.cmd('job-dismiss', id='j')
        q.wait_event('JOB_STATUS_CHANGE', status='null')


def test_pause_speed_cancel(d):
    _, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        q.cmd('block-stream', device='top', job_id='j', speed=MIB)
        info, = q.cmd('query-block-jobs')
        ours = {'latency-target', 'floor', 'held-by'}
        assert ours <= set(info), info
        assert [m for m in info if m not in ours][:12] == [
            'auto-finalize', 'io-status', 'device', 'auto-dismiss', 'busy',
            'len', 'offset', 'status', 'paused', 'speed', 'ready', 'type'], info
        assert (info['len'], info['speed']) == (SIZE, MIB), info
        q.cmd('block-job-set-speed', device='j', speed=2 * MIB)
        assert q.error('block_job_set_speed', device='j', speed=-1) == \
            "Parameter 'speed' expects a non-negative value"
        q.cmd('job-pause', id='j')
        assert q.error('block-job-pause', device='j') == \
            'Job is already paused'
        assert q.error('block-job-cancel', device='j') == \
            "The block job for device 'j' is currently paused"
        q.cmd('job-resume', id='j')
        assert q.error('job-resume', id='j') == \
            "Can't resume a job that was not paused"
        assert q.error('block-job-complete', device='j').endswith(
            "cannot accept command verb 'complete'")
        q.cmd('block_job_cancel', device='j')
        end = q.wait_event('BLOCK_JOB_CANCELLED')
        assert list(end['data']) == ['device', 'len', 'offset', 'speed',
                                     'type'], end
        q.wait_event('JOB_STATUS_CHANGE', status='null')


def test_errors(d):
    base, top = make_chain(d, SIZE)
    with Sluiced(d, '--blockdev', node(top)) as s:
        q = s.qmp
        for a, b in (('base', 'base-node'), ('base', 'bottom'),
                     ('bottom', 'base-node')):
            assert q.error('block-stream', {a: 'x', b: 'y'}, device='top') == (
                "'%s' and '%s' cannot be specified at the same time" % (a, b))
        assert q.error('block-stream', device='x') == \
            "Cannot find device='x' nor node-name='x'"
        assert q.error('block-stream', device='top', job_id='j', base='x') == \
            "Can't find 'x' in the backing chain"
        assert q.error('block-stream', device='top', job_id='j',
                       base_node='x') == \
            "Cannot find device='' nor node-name='x'"
        assert q.error('block-stream', device='top', job_id='j',
                       base_node='top') == \
            "Node 'top' is not a backing image of 'top'"
        assert q.error('block-stream', device='top', job_id='j',
                       backing_file='x') == \
            'backing file specified, but streaming the entire chain'
        assert q.error('block-stream', device='top') == "Invalid job ID ''"
        assert q.error('block-stream', device='top', job_id='1x') == \
            "Invalid job ID '1x'"
        for verb in ('set-speed', 'cancel', 'pause', 'resume', 'complete'):
            args = {'speed': 1} if verb == 'set-speed' else {}
            err = q.execute('block-job-' + verb,
                            dict(args, device='x'))['error']
            assert err == {'class': 'DeviceNotActive',
                           'desc': "Block job 'x' not found"}, err
        for verb in ('cancel', 'pause', 'resume', 'complete', 'finalize',
                     'dismiss'):
            err = q.execute('job-' + verb, {'id': 'x'})['error']
            assert err == {'class': 'GenericError',
                           'desc': 'Job not found'}, err
        q.cmd('block-stream', device='top', job_id='j', speed=65536)
        assert q.error('block-stream', device='top', job_id='k') == (
            "Node 'top' is busy: block device is in use by block job: stream")
        assert 'busy' in q.error('blockdev-del', node_name='top')
        assert 'busy' in q.error('block_resize', node_name='top',
                                 size=2 * SIZE)
        q.cmd('block_stream', device='j', stop=True)
        q.wait_event('BLOCK_JOB_CANCELLED')
    assert base in qemu_img('info', top)


def test_increments_of_2011(d):
    base, top = make_chain(d, SIZE)
    drive = 'id=virtio0,file=%s,format=qed' % top
    with Sluiced(d, '--drive', drive) as s:
        q = s.qmp
        last = 0
        for _ in range(10000):
            ret = q.cmd('block_stream', device='virtio0', all=False)
            assert list(ret) == ['device', 'len', 'offset'], ret
            assert ret['device'] == 'virtio0' and ret['len'] == SIZE, ret
            assert last < ret['offset'] <= SIZE, (last, ret)
            last = ret['offset']
            if last == SIZE:
                break
        q.wait_event('BLOCK_JOB_COMPLETED', device='virtio0', len=SIZE,
                     offset=SIZE, type='stream')
        assert q.cmd('query-block-stream') == []
    assert 'backing file' not in qemu_img('info', top)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_whole_stream_of_2011(d):
    base, top = make_chain(d, SIZE)
    drive = 'id=virtio0,file=%s,format=qed' % top
    with Sluiced(d, '--drive', drive) as s:
        q = s.qmp
        assert q.cmd('block_stream', device='virtio0', all=True,
                     speed=MIB) == {}
        st, = q.cmd('query-block-stream')
        assert list(st) == ['device', 'len', 'offset'], st
        assert st['device'] == 'virtio0' and st['len'] == SIZE, st
        q.cmd('block_job_set_speed', device='virtio0', speed=0)
        q.wait_event('BLOCK_JOB_COMPLETED', device='virtio0')
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_drive_stream_on(d):
    base, top = make_chain(d, SIZE)
    for name in ('file=blkstream:' + top, 'file=%s,stream=on' % top):
        with Sluiced(d, '--drive',
                     'id=virtio0,format=qed,copy-on-read=on,' + name) as s:
            q = s.qmp
            until(lambda: 'backing_file' not in q.cmd('query-block')[0][
                'inserted'] and not q.cmd('query-jobs'), 'the stream')
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


if __name__ == '__main__':
    run(globals())
