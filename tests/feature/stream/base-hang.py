#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A base whose server does not answer, goes away, or comes back as another.

Cancelling a job does not wait for it, nor does the end of the daemon; guests'
requests for what only the base has wait or fail by on-base-hang, others go on;
a server that comes back is found at once.
"""
import json
import os
import signal
import subprocess
import threading

import rig
from qmp import QmpError
from rig import MIB, need, until
from sluiced import Sluiced, qemu_img, run

SIZE = 16 * MIB
# Of a job that must not be over before the test says so, bytes/s.
SLOW = 65536


class Server:
    """qemu-nbd over a file, on a Unix socket."""

    def __init__(self, d, data, *args, name='base'):
        need('qemu-nbd')
        self.path = os.path.join(d, 'nbd-' + name)
        self.args, self.proc = args, None
        self.file = rig.make_file(os.path.join(d, name + '.raw'), data)
        self.start()

    def start(self, *args):
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.proc = subprocess.Popen(
            ['qemu-nbd', '-t', '-r', '-e', '8', '-f', 'raw', '-k', self.path,
             *(args or self.args), self.file], stderr=subprocess.DEVNULL)
        until(lambda: os.path.exists(self.path), 'the server')

    def stop(self, how=signal.SIGTERM):
        self.proc.send_signal(how)
        self.proc.wait()

    def hang(self):
        self.proc.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.proc.send_signal(signal.SIGCONT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop(signal.SIGKILL)


def data():
    return b'\x5a' * SIZE


def daemon(d, server, **options):
    top = os.path.join(d, 'top')
    if not os.path.exists(top):
        qemu_img('create', '-q', '-f', rig.FORMAT, top, str(SIZE))
    base = dict({'driver': 'nbd', 'node-name': 'nbd', 'read-only': True,
                 'server': {'type': 'unix', 'path': server.path}}, **options)
    return Sluiced(
        d, '--blockdev', json.dumps(base),
        '--blockdev', json.dumps({'driver': 'raw', 'node-name': 'base',
                                  'read-only': True, 'file': 'nbd'}),
        '--blockdev', json.dumps(
            {'driver': rig.FORMAT, 'node-name': 'top', 'backing': 'base',
             'file': {'driver': 'file', 'filename': top}}),
        '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d,
        '--export', 'nbd,id=e,node-name=top,name=disk,writable=on')


def client(d):
    return rig.connect(os.path.join(d, 'nbd'), 'disk')


class Request(threading.Thread):
    """A request that may wait long: its result or its exception."""

    def __init__(self, fn, *args):
        super().__init__(daemon=True)
        self.fn, self.args, self.result, self.error = fn, args, None, None
        self.start()

    def run(self):
        try:
            self.result = self.fn(*self.args)
        except Exception as e:      # pylint: disable=broad-except
            self.error = e

    def end(self):
        self.join()
        return self.result


def hang_reads(s, server, d, off=8 * MIB):
    """A guest's read that waits for the server; returns when it does."""
    server.hang()
    r = Request(client(d).pread, 65536, off)
    ev = s.qmp.wait_event('BLOCK_NODE_HANG', node_name='nbd', hanging=True)
    assert ev['data']['requests'] >= 1, ev
    return r


def cancel(d, command, args, guest):
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW})
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > 0,
              'some progress')
        if guest:
            r = hang_reads(s, server, d)
        else:
            server.hang()
            s.qmp.cmd('block-job-set-speed', device='j', speed=0)
            s.qmp.wait_event('BLOCK_NODE_HANG', node_name='nbd', hanging=True)
        s.qmp.cmd(command, args)
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
        assert s.qmp.cmd('query-jobs') == []
        # The device goes on where the base is not needed.
        h = client(d)
        h.pwrite(b'\x11' * 65536, 0)
        assert h.pread(65536, 0) == b'\x11' * 65536
        h.flush()
        server.go_on()
        if guest:
            assert r.end() == b'\x5a' * 65536
        assert h.pread(65536, 12 * MIB) == b'\x5a' * 65536
        # It can be started again.
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j', offset=SIZE)


def test_cancel(d):
    cancel(d, 'block-job-cancel', {'device': 'j'}, False)


def test_cancel_by_force_with_guest(d):
    cancel(d, 'block-job-cancel', {'device': 'j', 'force': True}, True)


def test_job_cancel_with_guest(d):
    cancel(d, 'job-cancel', {'id': 'j'}, True)


def test_guests_wait(d):
    """By default they do, with events when it begins and ends."""
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        r = hang_reads(s, server, d)
        h = client(d)
        h.pwrite(b'\x22' * 65536, 0)          # whole clusters: no base
        assert h.pread(65536, 0) == b'\x22' * 65536
        server.go_on()
        assert r.end() == b'\x5a' * 65536
        ev = s.qmp.wait_event('BLOCK_NODE_HANG', node_name='nbd',
                              hanging=False)
        assert ev['data']['action'] == 'wait', ev


def test_guests_fail(d):
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1,
                                 'on-base-hang': 'error'}) as s:
        r = hang_reads(s, server, d)
        assert r.end() is None and 'Input/output error' in str(r.error), r.error
        h = client(d)
        h.pwrite(b'\x22' * 65536, 0)
        server.go_on()
        assert h.pread(65536, 8 * MIB) == b'\x5a' * 65536
        # A job by its policy.
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW, 'on-error': 'stop'})
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > 0,
              'some progress')
        server.hang()
        s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        s.qmp.wait_event('BLOCK_JOB_ERROR', device='j', action='stop')
        server.go_on()
        s.qmp.cmd('block-job-resume', device='j')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j', offset=SIZE)


def test_policy_of_a_drive(d):
    """It reaches a base that only the header names."""
    with Server(d, data()) as server:
        top = os.path.join(d, 'top')
        qemu_img('create', '-q', '-f', rig.FORMAT, '-u', '-b',
                 'nbd:unix:' + server.path, '-F', 'raw', top, str(SIZE))
        with Sluiced(d, '--drive', 'id=v,format=%s,file=%s,on-base-hang=error,'
                     'hang-timeout=1' % (rig.FORMAT, top), '--nbd-server',
                     'addr.type=unix,addr.path=%s/nbd' % d, '--export',
                     'nbd,id=e,node-name=v,name=disk') as s:
            h = client(d)
            server.hang()
            r = Request(h.pread, 65536, 8 * MIB)
            ev = s.qmp.wait_event('BLOCK_NODE_HANG', hanging=True)
            assert ev['data']['action'] == 'error', ev
            assert r.end() is None, r.result
            server.go_on()


def test_policy_can_change(d):
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        r = hang_reads(s, server, d)
        s.qmp.cmd('blockdev-reopen', options=[{
            'driver': 'nbd', 'node-name': 'nbd', 'read-only': True,
            'hang-timeout': 1, 'on-base-hang': 'error',
            'server': {'type': 'unix', 'path': server.path}}])
        assert r.end() is None and 'Input/output error' in str(r.error), r.error


def test_yank(d):
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        one = {'type': 'block-node', 'node-name': 'nbd'}
        assert s.qmp.cmd('query-yank') == [one]
        for other in ({'type': 'block-node', 'node-name': 'top'},
                      {'type': 'chardev', 'id': 'nbd'}, {'type': 'migration'}):
            assert s.qmp.error('yank', instances=[one, other]) == \
                'Instance not found'
        r = hang_reads(s, server, d)
        s.qmp.cmd('yank', instances=[one])
        assert r.end() is None and 'Input/output error' in str(r.error), r.error
        server.go_on()
        assert client(d).pread(65536, 8 * MIB) == b'\x5a' * 65536


def test_graph_changes_go_on(d):
    """A drain does not wait for the server: the request is made again."""
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        r = hang_reads(s, server, d)
        s.qmp.cmd('block_resize', {'node-name': 'top', 'size': 2 * SIZE})
        server.go_on()
        assert r.end() == b'\x5a' * 65536


def test_exports_end(d):
    """A server that stops and an export that is deleted do not wait."""
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        r = hang_reads(s, server, d)
        s.qmp.cmd('block-export-del', id='e', mode='hard')
        s.qmp.wait_event('BLOCK_EXPORT_DELETED', id='e')
        r.end()
        assert r.error
        add = {'type': 'nbd', 'id': 'e', 'node-name': 'top', 'name': 'disk'}
        s.qmp.cmd('block-export-add', add)
        r = Request(client(d).pread, 65536, 8 * MIB)
        s.qmp.cmd('nbd-server-stop')
        r.end()
        assert r.error
        server.go_on()
        s.qmp.cmd('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': d + '/nbd'}})
        s.qmp.cmd('block-export-add', add)
        assert client(d).pread(65536, 8 * MIB) == b'\x5a' * 65536


def ends(d, how):
    with Server(d, data()) as server, \
            daemon(d, server, **{'hang-timeout': 1}) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW})
        hang_reads(s, server, d)
        s.stop(how)


def test_quit(d):
    ends(d, 'quit')


def test_sigterm(d):
    ends(d, signal.SIGTERM)


def test_resume_finds_the_server(d):
    """It has been away for long, and the pauses between attempts are long."""
    with Server(d, data()) as server, \
            daemon(d, server, **{'reconnect-delay': 0}) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW, 'on-error': 'stop'})
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > 0,
              'some progress')
        server.stop(signal.SIGKILL)
        for _ in range(6):
            s.qmp.wait_event('BLOCK_JOB_ERROR', device='j')
            s.qmp.cmd('block-job-resume', device='j')
        s.qmp.wait_event('BLOCK_JOB_ERROR', device='j')
        server.start()
        s.qmp.take_events()
        s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        s.qmp.cmd('block-job-resume', device='j')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j', offset=SIZE)
        assert not [e for e in s.qmp.take_events()
                    if e['event'] == 'BLOCK_JOB_ERROR']


def test_restart_in_good_order(d):
    """By default a request and a job outlive it."""
    with Server(d, data()) as server, daemon(d, server) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW})
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > 0,
              'some progress')
        server.stop()
        r = Request(client(d).pread, 65536, 8 * MIB)
        server.start()
        assert r.end() == b'\x5a' * 65536
        s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        ev = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        assert 'error' not in ev['data'], ev


def test_another_disk_comes_back(d):
    """Same size, other description: the job ends, the base stays."""
    with Server(d, data(), '-D', 'golden 1') as server, \
            daemon(d, server) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'speed': SLOW})
        until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > 0,
              'some progress')
        server.stop()
        server.start('-D', 'golden 2')
        try:
            s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        except QmpError:
            pass          # it has noticed already
        ev = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        assert 'description of the export changed' in ev['data']['error'], ev


if __name__ == '__main__':
    rig.announce()
    run(globals())
