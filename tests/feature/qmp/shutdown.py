#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of the daemon: by command, by signal, with clients that hang."""
import os
import shutil
import signal
import socket
import subprocess

from sluiced import Skip, Sluiced, make_chain, qemu_img, run
from waiting import let_pass, listens, rest, until

MIB = 1 << 20


def test_signals(d):
    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with Sluiced(d, '--blockdev', 'null-co,node-name=n') as s:
            s.qmp.cmd('query-jobs')
            s.proc.send_signal(sig)
            ev = s.qmp.wait_event('SHUTDOWN')
            assert ev['data'] == {'guest': False, 'reason': 'host-signal'}, ev
            assert s.wait() == 0
        assert not os.path.exists(s.socket)


def test_quit_is_answered(d):
    """After the event that it causes, as by QEMU."""
    with Sluiced(d) as s:
        s.qmp.send_raw('{"execute": "quit", "id": 1}\n')
        assert '"event": "SHUTDOWN"' in s.qmp.read_line()
        assert s.qmp.read_line() == '{"return": {}, "id": 1}'
        assert s.wait() == 0


def test_running_job_is_cancelled(d):
    base, top = make_chain(d, 8 * MIB)
    with Sluiced(d, '--drive', 'id=v,format=qed,file=' + top) as s:
        s.qmp.cmd('block-stream', device='v', speed=64 << 10)
        s.qmp.cmd('quit')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='v')
        assert s.wait() == 0
    assert base in qemu_img('info', top)
    qemu_img('check', top)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_paused_job(d):
    base, top = make_chain(d, 8 * MIB)
    with Sluiced(d, '--drive', 'id=v,format=qed,file=' + top) as s:
        s.qmp.cmd('block-stream', device='v', speed=64 << 10)
        s.qmp.cmd('job-pause', id='v')
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='v', status='paused')
        job, = s.qmp.cmd('query-block-jobs')
        assert job['paused'] and not job['busy'], job
        s.qmp.cmd('quit')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='v')
        assert s.wait() == 0
    assert base in qemu_img('info', top)
    qemu_img('check', top)
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_clients_that_hang(d):
    """Connections that neither read nor close do not hold up the end."""
    with Sluiced(d, '--blockdev', 'null-co,node-name=n,size=1M',
                 '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d,
                 '--export', 'nbd,id=e,node-name=n') as s:
        silent = s.connect(negotiate=False)
        deaf = s.connect()
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(100):
            deaf.send_raw('{"execute": "query-qmp-schema"}')
        half = socket.socket(socket.AF_UNIX)
        half.connect(d + '/nbd')
        half.sendall(b'\0\0\0')
        assert half.recv(18)[:8] == b'NBDMAGIC'     # it has been let in
        start = rest()
        s.stop()
        assert rest() - start < 15
        for x in (silent.sock, deaf.sock, half):
            x.close()


def test_base_that_hangs(d):
    """A server that does not answer: cancel ends the job, and the end comes."""
    if shutil.which('nbdkit') is None:
        raise Skip('nbdkit is not installed')
    kit = subprocess.Popen(['nbdkit', '-f', '-U', d + '/base', 'pattern',
                            '64M'])
    try:
        until(lambda: listens(d + '/base'), 'the server')
        qemu_img('create', '-q', '-f', 'qed', '-u', '-b',
                 'nbd:unix:%s/base' % d, '-F', 'raw', d + '/top', '64M')
        with Sluiced(d, '--drive', 'id=v,format=qed,file=%s/top' % d) as s:
            s.qmp.cmd('block-stream', device='v', speed=4 * MIB)
            until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > MIB,
                  'a MiB')
            kit.send_signal(signal.SIGSTOP)
            # At full speed it asks for more at once, and gets no answer.
            s.qmp.cmd('block-job-set-speed', device='v', speed=0)
            let_pass(0.6)
            s.qmp.cmd('block-job-cancel', device='v')
            s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='v')
            s.qmp.cmd('block-stream', device='v')
            s.proc.send_signal(signal.SIGTERM)
            start = rest()
            s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='v')
            assert s.wait() == 0
            assert rest() - start < 30
        # Without its base: the server may have died of its clients' going.
        qemu_img('check', 'json:{"driver": "qed", "backing": null, "file": '
                 '{"driver": "file", "filename": "%s/top"}}' % d)
    finally:
        kit.kill()      # stopped or not
        kit.wait()


def test_signal_while_waiting_for_a_client(d):
    with Sluiced(d, '--chardev', 'socket,id=w,path=%s/w,server=on' % d,
                 '--monitor', 'w', connect=False) as s:
        until(lambda: os.path.exists(d + '/w'), 'the socket')
        s.stop(signal.SIGTERM)


if __name__ == '__main__':
    run(globals())
