#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The human monitor, over QMP and on a line of its own."""
import socket
import subprocess

from sluiced import Sluiced, make_chain, run

MIB = 1 << 20


def drive(top, *more):
    return ','.join(['id=virtio0', 'file=' + top, 'format=qed'] + list(more))


def test_stream_by_hand(d):
    base, top = make_chain(d, 8 * MIB)
    with Sluiced(d, '--drive', drive(top)) as s:
        q = s.qmp
        assert q.hmp('info block-jobs') == 'No active jobs\n'
        text = q.hmp('info block')
        assert text.startswith('virtio0 ('), text
        assert '(qed)' in text and base in text, text
        assert q.hmp('block_stream virtio0 1') == ''
        text = q.hmp('info block-jobs')
        assert text.startswith('Streaming device virtio0: Completed '), text
        assert text.endswith(' of %d bytes, speed limit %d bytes/s\n'
                             % (8 * MIB, MIB)), text
        assert 'virtio0' in q.hmp('info block-stream')
        assert q.hmp('block_job_pause virtio0') == ''
        assert q.hmp('block_job_cancel virtio0') == (
            "Error: The block job for device 'virtio0' is currently paused\n")
        assert q.hmp('block_job_resume virtio0') == ''
        assert q.hmp('block_job_set_speed virtio0 0') == ''
        q.wait_event('BLOCK_JOB_COMPLETED', device='virtio0', offset=8 * MIB)
        q.wait_event('JOB_STATUS_CHANGE', status='null')
        assert base not in q.hmp('info block')


def test_old_flags(d):
    _, top = make_chain(d, 4 * MIB)
    with Sluiced(d, '--drive', drive(top)) as s:
        q = s.qmp
        assert q.hmp('block_stream -s virtio0') == \
            "Error: Block job 'virtio0' not found\n"
        assert q.hmp('block_stream -a virtio0 1k') == ''
        assert q.hmp('block_stream -s virtio0') == ''
        q.wait_event('BLOCK_JOB_CANCELLED', device='virtio0')


def test_errors_and_help(d):
    with Sluiced(d) as s:
        q = s.qmp
        assert q.hmp('zork') == "unknown command: 'zork'\n"
        assert q.hmp('block_stream') == \
            'Error: block_stream: device is missing\n'
        assert 'extraneous' in q.hmp('block_job_pause a b')
        assert 'not a size' in q.hmp('block_job_set_speed a x')
        assert 'unsupported option -q' in q.hmp('block_stream -q a')
        assert q.hmp('') == ''
        assert q.hmp("block_stream 'a") .startswith('Error: ')
        text = q.hmp('help')
        assert ('block_stream [-a] [-s] device [speed [base]] -- ') in text
        assert q.hmp('help block_resize').count('\n') == 1
        assert 'info block-jobs' in q.hmp('info')
        assert 'sluice-' in q.hmp('info version')
        assert q.hmp('info chardev') == 'qmp0: filename=unix:%s,server=on\n' \
            % s.socket


def test_drives_come_and_go(d):
    image = d + '/a.raw'
    open(image, 'wb').truncate(MIB)
    with Sluiced(d) as s:
        q = s.qmp
        assert q.hmp('drive_add 0 if=none,id=v,format=raw,file=' + image) == \
            'OK\n'
        assert 'v (' in q.hmp('info block')
        assert "already exists" in q.hmp('drive_add 0 id=v,driver=null-co')
        assert q.hmp('drive_add -n 0 driver=null-co,size=4096') == \
            "Error: 'node-name' needs to be specified\n"
        assert q.hmp('drive_add -n 0 null-co,node-name=n,size=4096') == ''
        assert 'n: ' in q.hmp('info named-block-nodes')
        assert 'zork' in q.hmp('drive_add 0 id=w,format=zork,file=' + image)
        assert q.hmp('drive_add 0 id=cd,media=cdrom') == 'OK\n'
        assert 'cd: [not inserted]' in q.hmp('info block')
        for name in 'v', 'n', 'cd':
            assert q.hmp('drive_del ' + name) == '', name
            assert q.hmp('drive_del ' + name) == \
                "Error: Device '%s' not found\n" % name
        assert q.cmd('query-named-block-nodes') == []
        assert q.cmd('query-block') == []
        # Its file is free, and its name.
        assert q.hmp('drive_add 0 id=v,format=raw,file=' + image) == 'OK\n'


def test_drive_in_use(d):
    """A job keeps its drive; an export keeps the image open."""
    _, top = make_chain(d, 8 * MIB)
    with Sluiced(d, '--drive', drive(top)) as s:
        q = s.qmp
        q.hmp('block_stream virtio0 1')
        assert q.hmp('drive_del virtio0').startswith("Error: Node '")
        q.cmd('block-job-cancel', device='virtio0')
        q.wait_event('BLOCK_JOB_CANCELLED')
        q.wait_event('JOB_STATUS_CHANGE', status='null')
        assert q.hmp('nbd_server_add virtio0') == \
            'Error: NBD server not running\n'
        assert q.hmp('nbd_server_start unix:%s/n.sock' % d) == ''
        assert q.hmp('nbd_server_add -w virtio0 disk') == ''
        uri = 'nbd+unix:///disk?socket=%s/n.sock' % d
        subprocess.run(['qemu-io', '-f', 'raw', '-c', 'write -P 7 0 64k', uri],
                       check=True, stdout=subprocess.DEVNULL)
        assert q.hmp('drive_del virtio0') == ''
        assert q.cmd('query-block') == []
        subprocess.run(['qemu-io', '-r', '-f', 'raw', '-c', 'read -P 7 0 64k',
                        uri], check=True, stdout=subprocess.DEVNULL)
        assert q.hmp('nbd_server_remove disk') == ''
        assert q.cmd('query-named-block-nodes') == []
        assert 'is not found' in q.hmp('nbd_server_remove -f disk')
        assert q.hmp('nbd_server_stop') == ''
        assert q.hmp('nbd_server_start nowhere') == (
            'Error: nbd_server_start: expects unix:PATH or HOST:PORT\n')
        assert q.hmp('nbd_server_start localhost:0') == ''
        assert '-a is not supported' in q.hmp('nbd_server_start -a unix:x')


def read_until(sock, mark):
    text = ''
    while not text.endswith(mark):
        data = sock.recv(4096)
        assert data, text
        text += data.decode()
    return text


def test_readline_monitor(d):
    with Sluiced(d, '--chardev',
                 'socket,id=h,path=%s/h.sock,server=on,wait=off' % d,
                 '--monitor', 'chardev=h,mode=readline') as s:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(d + '/h.sock')
        assert 'monitor' in read_until(sock, '(sluice) ')
        sock.sendall(b'info block-jobs\ninfo')
        assert read_until(sock, '(sluice) ') == 'No active jobs\r\n(sluice) '
        sock.sendall(b' block-stream\r\n')
        assert read_until(sock, '(sluice) ') == 'No active stream\r\n(sluice) '
        sock.sendall(b'\xff\n')
        assert 'UTF-8' in read_until(sock, '(sluice) ')
        sock.sendall(b'x' * 10000)
        assert 'too long' in read_until(sock, '\n')
        sock.sendall(b'\n')
        read_until(sock, '(sluice) ')
        sock.sendall(b'quit\n')
        assert s.wait() == 0
        sock.close()


if __name__ == '__main__':
    run(globals())
