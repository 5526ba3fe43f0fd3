#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cluster whose store of objects is killed and comes back: what waits goes
on, what is cancelled ends at once, and nothing that was written is lost."""
import json
import os
import signal

from ceph import Ceph
from rig import MIB, daemon, io, node, raw, same
from sluiced import Sluiced, qemu_img, run

SIZE = 16 * MIB
PIECES = ((0, 3 * MIB, 1), (8 * MIB, 5 * MIB, 2))


def completed(s):
    return s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']


def hanging(s):
    data = s.qmp.wait_event('BLOCK_NODE_HANG')['data']
    assert data['node-name'] == 'ceph' and data['hanging'], data
    return data


def stream(s):
    s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})


def goes_on(d, ceph, path):
    with daemon(d, ceph, node('base@gold', **{'hang-timeout': 1}),
                size=SIZE) as s:
        ceph.kill_osd()
        stream(s)
        assert hanging(s)['action'] == 'wait'
        ceph.start_osd()
        data = completed(s)
        assert 'error' not in data, data
    top = d + '/top.qcow2'
    assert 'backing file' not in qemu_img('info', top)
    same(ceph, path, top, 'raw', 'qcow2')


def is_cancelled(d, ceph):
    """... and ends the daemon, while nothing answers."""
    with daemon(d, ceph, node('base@gold', **{'hang-timeout': 1}),
                size=SIZE) as s:
        ceph.osd.send_signal(signal.SIGSTOP)
        try:
            stream(s)
            hanging(s)
            s.qmp.cmd('block-job-cancel', {'device': 'j'})
            s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
            stream(s)
            s.stop()
        finally:
            ceph.osd.send_signal(signal.SIGCONT)


def fails_by_policy(d, ceph):
    with daemon(d, ceph, node('base@gold', **{
            'hang-timeout': 1, 'on-base-hang': 'error'}), size=SIZE) as s:
        ceph.osd.send_signal(signal.SIGSTOP)
        try:
            stream(s)
            data = completed(s)
            assert 'timed out' in data['error'], data
        finally:
            ceph.osd.send_signal(signal.SIGCONT)
        stream(s)
        data = completed(s)
        assert 'error' not in data, data


def open_times_out(d, ceph):
    with Sluiced(d, env=ceph.env) as s:
        ceph.osd.send_signal(signal.SIGSTOP)
        try:
            text = s.qmp.error('blockdev-add', node('base@gold',
                                                    **{'open-timeout': 1}))
            assert 'did not answer within 1 seconds' in text, text
        finally:
            ceph.osd.send_signal(signal.SIGCONT)
        s.qmp.cmd('blockdev-add', node('base@gold'))


def writes_survive(d, ceph):
    """The store dies while a guest writes."""
    ceph.run('rbd', 'create', '--size', '8M', '--image-feature', 'layering',
             'disk')
    path = raw(d + '/disk.raw', 8 * MIB)
    options = {'driver': 'raw', 'node-name': 'disk',
               'file': node('disk', **{'hang-timeout': 1})}
    with Sluiced(d, '--blockdev', json.dumps(options), env=ceph.env) as s:
        assert 'wrote' in io(s, 'disk', 'write -P 1 0 1M')
        ceph.kill_osd()
        s.qmp.send_raw(json.dumps({
            'execute': 'human-monitor-command', 'arguments': {
                'command-line': 'qemu-io -d disk "write -P 2 512k 4M"'}})
            + '\n')
        hanging(s)
        ceph.start_osd()
        text = s.qmp.answer()['return']
        assert 'wrote' in text, text
        assert 'rror' not in io(s, 'disk', 'flush')
    for command in ('write -P 1 0 1M', 'write -P 2 512k 4M'):
        ceph.run('qemu-io', '-f', 'raw', '-c', command, path)
    same(ceph, path, 'rbd:rbd/disk')


def excuse_ceph(d, ceph):
    """A daemon that ends while a cluster hangs leaves its library at work."""
    with open(d + '/leaks', 'w', encoding='ascii') as f:
        f.write('leak:librbd.so\nleak:librados.so\nleak:libceph-common.so\n')
    ceph.env['LSAN_OPTIONS'] = ('suppressions=%s/leaks:print_suppressions=0'
                                % d)


def test_outage(d):
    with Ceph(d, store='bluestore', pool='rbd') as ceph:
        excuse_ceph(d, ceph)
        path = raw(d + '/base.raw', SIZE, *PIECES)
        ceph.run('rbd', 'import', '--image-feature', 'layering', path, 'base')
        ceph.run('rbd', 'snap', 'create', 'base@gold')
        for part in (is_cancelled, fails_by_policy, open_times_out, goes_on,
                     writes_survive):
            part(*((d, ceph, path) if part is goes_on else (d, ceph)))
            top = d + '/top.qcow2'
            if os.path.exists(top):
                os.unlink(top)


if __name__ == '__main__':
    run(globals())
