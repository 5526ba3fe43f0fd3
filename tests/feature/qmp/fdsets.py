#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that are handed in as descriptors: add-fd, remove-fd, query-fdsets."""
import json
import os
import socket

from sluiced import Sluiced, qemu_img, run
from waiting import until

MIB = 1 << 20


def add(s, fds, **args):
    """add-fd with @fds beside it; the whole answer."""
    line = json.dumps({'execute': 'add-fd', 'arguments': {
        k.replace('_', '-'): v for k, v in args.items()}}).encode() + b'\n'
    socket.send_fds(s.qmp.sock, [line], fds)
    return s.qmp.answer()


def hand_in(s, path, how=os.O_RDWR, **args):
    fd = os.open(path, how)
    try:
        return add(s, [fd], **args)['return']
    finally:
        os.close(fd)


def open_fds(s):
    return len(os.listdir('/proc/%d/fd' % s.proc.pid))


def test_sets(d):
    path = d + '/image'
    qemu_img('create', '-q', '-f', 'raw', path, '1M')
    with Sluiced(d) as s:
        q = s.qmp
        assert q.error('add-fd') == \
            'No file descriptor supplied via SCM_RIGHTS'
        assert q.cmd('query-fdsets') == []
        one = hand_in(s, path, opaque='rdwr:x')
        assert one['fdset-id'] == 0, one
        other = hand_in(s, path, os.O_RDONLY, fdset_id=0)
        five = hand_in(s, path, fdset_id=5)
        assert hand_in(s, path)['fdset-id'] == 1
        assert q.cmd('query-fdsets') == [
            {'fdset-id': 0, 'fds': [{'fd': one['fd'], 'opaque': 'rdwr:x'},
                                    {'fd': other['fd']}]},
            {'fdset-id': 1, 'fds': q.cmd('query-fdsets')[1]['fds']},
            {'fdset-id': 5, 'fds': [{'fd': five['fd']}]}]
        assert q.error('remove-fd', fdset_id=3) == \
            "File descriptor named 'fdset-id:3' not found"
        assert q.error('remove-fd', fdset_id=5, fd=999) == \
            "File descriptor named 'fdset-id:5, fd:999' not found"
        assert 'non-negative' in q.error('add-fd', fdset_id=-1)
        q.cmd('remove-fd', {'fdset-id': 0, 'fd': one['fd']})
        q.cmd('remove-fd', {'fdset-id': 1})
        q.cmd('remove-fd', {'fdset-id': 5})
        assert q.cmd('query-fdsets') == [
            {'fdset-id': 0, 'fds': [{'fd': other['fd']}]}]


def test_many_descriptors(d):
    """What nobody takes goes with its connection; more than there is room for
    are closed at once."""
    path = d + '/image'
    qemu_img('create', '-q', '-f', 'raw', path, '1M')
    fd = os.open(path, os.O_RDONLY)
    with Sluiced(d) as s:
        before = open_fds(s)
        other = s.connect()
        socket.send_fds(other.sock, [b' '], [fd] * 50)
        other.cmd('query-version')
        assert open_fds(s) <= before + 1 + 16, open_fds(s)
        other.close()
        until(lambda: open_fds(s) == before, 'the daemon')
        assert s.qmp.cmd('query-fdsets') == []
    os.close(fd)


def test_image(d):
    """A name of a set works wherever a file name does; the file need not have
    another name by then."""
    base, top = d + '/base', d + '/top'
    qemu_img('create', '-q', '-f', 'raw', base, '4M')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', top)
    with Sluiced(d) as s:
        q = s.qmp
        a = hand_in(s, base, os.O_RDONLY)['fdset-id']
        b = hand_in(s, top)['fdset-id']
        os.unlink(base)
        os.rename(top, top + '.moved')
        q.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top',
            'file': {'driver': 'file', 'filename': '/dev/fdset/%d' % b},
            'backing': {'driver': 'raw', 'node-name': 'base', 'file': {
                'driver': 'file', 'filename': '/dev/fdset/%d' % a}}})
        q.cmd('remove-fd', {'fdset-id': a})
        q.cmd('remove-fd', {'fdset-id': b})
        for c in 'write -P 7 1M 64k', 'read -P 0 2M 64k', 'flush':
            out = q.cmd('human-monitor-command', {
                'command-line': 'qemu-io top "%s"' % c})
            assert 'fail' not in out.lower() and 'rror' not in out, out
        assert 'No such file' in q.error('blockdev-add', {
            'driver': 'raw', 'node-name': 'x',
            'file': {'driver': 'file', 'filename': '/dev/fdset/7'}})
        c = hand_in(s, top + '.moved', os.O_RDONLY)['fdset-id']
        text = q.error('blockdev-add', {
            'driver': 'file', 'node-name': 'x',
            'filename': '/dev/fdset/%d' % c})
        assert 'Permission denied' in text, text


def test_target(d):
    """drive-mirror into a descriptor, and a snapshot into another."""
    disk, target, over = d + '/disk', d + '/target', d + '/over'
    qemu_img('create', '-q', '-f', 'qcow2', disk, '4M')
    with open(target, 'wb'), open(over, 'wb'):
        pass
    with Sluiced(d, '--drive', 'id=disk0,file=%s,format=qcow2' % disk) as s:
        q = s.qmp
        name = '/dev/fdset/%d' % hand_in(s, target)['fdset-id']
        q.cmd('human-monitor-command', {
            'command-line': 'qemu-io disk0 "write -P 9 1M 1M"'})
        q.cmd('drive-mirror', {'device': 'disk0', 'target': name,
                               'sync': 'full', 'format': 'raw'})
        q.wait_event('BLOCK_JOB_READY')
        q.cmd('block-job-complete', device='disk0')
        q.wait_event('BLOCK_JOB_COMPLETED')
    with open(target, 'rb') as f:
        assert f.read() == bytes(MIB) + b'\x09' * MIB + bytes(2 * MIB)


def test_not_in_headers(d):
    """What a guest may have written names no descriptor."""
    base, top = d + '/base', d + '/top'
    qemu_img('create', '-q', '-f', 'raw', base, '1M')
    for name in '/dev/fdset/0', 'file:/dev/fdset/0', \
            'json:{"driver":"raw","file":{"driver":"file",' \
            '"filename":"/dev/fdset/0"}}':
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', name, '-F', 'raw',
                 top, '1M')
        with Sluiced(d) as s:
            hand_in(s, base)
            text = s.qmp.error('blockdev-add', {
                'driver': 'qcow2', 'node-name': 'top',
                'file': {'driver': 'file', 'filename': top}})
            assert 'is refused' in text, text


if __name__ == '__main__':
    run(globals())
