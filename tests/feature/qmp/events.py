#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events that say that something is wrong with a disk, as QEMU sends them."""
import os
import struct
import subprocess

from qemu_tools import Qsd
from sluiced import Sluiced, make_chain, qemu_img, run

MIB = 1 << 20


def open_qcow2(q, path, node='n', **options):
    q.cmd('blockdev-add', {'driver': 'file', 'node-name': node + '-file',
                           'filename': path, **options})
    q.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': node,
                           'file': node + '-file', **options})


def serve(q, directory, node, writable=True):
    """Export it; its address."""
    path = os.path.join(directory, 'nbd.sock')
    q.cmd('nbd-server-start', addr={'type': 'unix', 'data': {'path': path}})
    q.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': node,
                               'name': 'e', 'writable': writable})
    return 'nbd+unix:///e?socket=' + path


def client(uri, *commands):
    """What qemu-io says."""
    args = [x for c in commands for x in ('-c', c)]
    if all(c.startswith('read') for c in commands):
        args.append('-r')
    return subprocess.run(['qemu-io', '-f', 'raw', *args, uri], check=False,
                          capture_output=True, text=True).stdout


def threshold(q, node):
    nodes = q.cmd('query-named-block-nodes')
    return [n['write_threshold'] for n in nodes if n['node-name'] == node][0]


def drive_threshold(daemon, directory):
    """Set one, write up to it and beyond it; what is told."""
    path = os.path.join(directory, 'disk.raw')
    with open(path, 'wb') as f:
        f.truncate(MIB)
    with daemon as s:
        q = s.qmp
        q.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f',
                               'filename': path})
        told = [q.error('block-set-write-threshold', {
            'node-name': 'none', 'write-threshold': 1})]
        q.cmd('block-set-write-threshold', {'node-name': 'f',
                                            'write-threshold': 65536})
        told.append(threshold(q, 'f'))
        uri = serve(q, directory, 'f')
        client(uri, 'write 0 64k')
        told.append(threshold(q, 'f'))
        client(uri, 'write 60k 12k')
        event = q.wait_event('BLOCK_WRITE_THRESHOLD')
        told.append(event['data'])
        told.append(threshold(q, 'f'))
        client(uri, 'write 128k 4k')
        q.cmd('block-set-write-threshold', {'node-name': 'f',
                                            'write-threshold': 4096})
        q.cmd('block-set-write-threshold', {'node-name': 'f',
                                            'write-threshold': 0})
        client(uri, 'write 0 64k')
        told.append([e['event'] for e in q.take_events()])
    return told


def test_write_threshold(d):
    ours = drive_threshold(Sluiced(d), d)
    assert ours == [
        "Device 'none' not found", 65536, 65536,
        {'node-name': 'f', 'amount-exceeded': 8192, 'write-threshold': 65536},
        0, []], ours
    os.unlink(d + '/nbd.sock') if os.path.exists(d + '/nbd.sock') else None
    assert ours == drive_threshold(Qsd(d), d)


def test_threshold_below_a_format(d):
    """A format's file grows: what oVirt looks at."""
    path = d + '/disk.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', path, '16M')
    with Sluiced(d) as s:
        open_qcow2(s.qmp, path)
        s.qmp.cmd('block-set-write-threshold', {
            'node-name': 'n-file', 'write-threshold': MIB})
        s.qmp.hmp('qemu-io n "write 0 512k"')
        assert threshold(s.qmp, 'n-file') == MIB
        s.qmp.hmp('qemu-io n "write 4M 1M"')
        event = s.qmp.wait_event('BLOCK_WRITE_THRESHOLD')
        assert event['data']['node-name'] == 'n-file', event
        assert threshold(s.qmp, 'n-file') == 0


def break_entry(path):
    """Let the first guest cluster be where no cluster can be."""
    with open(path, 'r+b') as f:
        f.seek(40)
        l1 = struct.unpack('>Q', f.read(8))[0]
        f.seek(l1)
        l2 = struct.unpack('>Q', f.read(8))[0] & 0x00fffffffffffe00
        f.seek(l2)
        f.write(struct.pack('>Q', 1 << 63 | 0x52600))


def make_broken(d):
    path = d + '/disk.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', path, '16M')
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write 0 1M', path],
                   check=True, stdout=subprocess.DEVNULL)
    break_entry(path)
    return path


def corruptions(q, directory, node, writable, *commands):
    uri = serve(q, directory, node, writable)
    for c in commands:
        client(uri, c)
    q.cmd('query-block')
    return [e['data'] for e in q.take_events()
            if e['event'] == 'BLOCK_IMAGE_CORRUPTED']


def test_corruption_is_fatal(d):
    """The image is marked, and it is told once."""
    path = make_broken(d)
    with Sluiced(d, '--drive', 'id=disk,format=qcow2,file=' + path) as s:
        told = corruptions(s.qmp, d, 'disk', True, 'write 0 4k', 'write 0 4k',
                           'read 0 4k')
        assert len(told) == 1, told
        assert told[0]['device'] == 'disk' and told[0]['fatal'], told
        assert told[0]['node-name'] and 'L2 entry' in told[0]['msg'], told
    with open(path, 'rb') as f:
        f.seek(72)
        assert struct.unpack('>Q', f.read(8))[0] & 2, 'not marked'
    path = make_broken(d)
    with Qsd(d) as s:
        open_qcow2(s.qmp, path)
        theirs = corruptions(s.qmp, d, 'n', True, 'write 0 4k', 'write 0 4k')
        assert len(theirs) == 1 and theirs[0]['fatal'], theirs
        assert set(theirs[0]) <= set(told[0]), (theirs, told)


def test_corruption_that_is_only_read(d):
    path = make_broken(d)
    with open(path, 'rb') as f:
        before = f.read()
    with Sluiced(d) as s:
        open_qcow2(s.qmp, path, **{'read-only': True})
        told = corruptions(s.qmp, d, 'n', False, 'read 0 4k', 'read 0 4k')
        assert len(told) == 1, told
        assert told[0]['device'] == '' and not told[0]['fatal'], told
    with open(path, 'rb') as f:
        assert f.read() == before
    with Qsd(d) as s:
        open_qcow2(s.qmp, path, **{'read-only': True})
        theirs = corruptions(s.qmp, d, 'n', False, 'read 0 4k', 'read 0 4k')
        assert len(theirs) == 1 and not theirs[0]['fatal'], theirs


def failing(path, event, **rule):
    return {'driver': 'raw', 'node-name': 'n', 'file': {
        'driver': 'blkdebug', 'image': {'driver': 'file', 'filename': path},
        'inject-error': [{'event': event, **rule}]}}


def test_io_error(d):
    path = d + '/disk.raw'
    with open(path, 'wb') as f:
        f.truncate(MIB)
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'n', 'file': {
                'driver': 'blkdebug',
                'image': {'driver': 'file', 'filename': path},
                'inject-error': [
                    {'event': 'none', 'iotype': 'read', 'sector': 8},
                    {'event': 'none', 'iotype': 'write', 'sector': 16,
                     'errno': 28},
                    {'event': 'none', 'iotype': 'write', 'sector': 24}]}})
        uri = serve(s.qmp, d, 'n')
        text = client(uri, 'read 4k 4k')
        assert 'Input/output error' in text, text
        event = s.qmp.wait_event('BLOCK_IO_ERROR')
        assert event['data'] == {
            'device': '', 'node-name': 'n', 'operation': 'read',
            'action': 'report', 'nospace': False,
            'reason': 'Input/output error'}, event
        client(uri, 'write 8k 4k')
        event = s.qmp.wait_event('BLOCK_IO_ERROR', operation='write')
        assert event['data']['nospace'], event
        assert event['data']['reason'] == 'No space left on device', event
        client(uri, 'write 12k 4k')
        event = s.qmp.wait_event('BLOCK_IO_ERROR', operation='write')
        assert not event['data']['nospace'], event
        # What the client asks wrongly is no error of the disk.
        client(uri, 'read 0 4k', 'read 2M 4k')
        s.qmp.cmd('query-block')
        assert not [e for e in s.qmp.take_events()
                    if e['event'] == 'BLOCK_IO_ERROR'
                    and e['data']['operation'] == 'read']


def test_io_errors_do_not_flood(d):
    path = d + '/disk.raw'
    with open(path, 'wb') as f:
        f.truncate(MIB)
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', failing(path, 'none', iotype='read'))
        client(serve(s.qmp, d, 'n'), *['read %dk 1k' % i for i in range(500)])
        s.qmp.cmd('query-block')
        told = [e for e in s.qmp.take_events()
                if e['event'] == 'BLOCK_IO_ERROR']
        times = [e['timestamp']['seconds'] * 10**6 +
                 e['timestamp']['microseconds'] for e in told]
        assert told
        # The clock of events may be set; that of the daemon is not.
        assert all(b - a > 900000 for a, b in zip(times, times[1:])), times


def test_policies_of_drives(d):
    """They are looked at; errors are the client's whatever they say."""
    path = d + '/disk.raw'
    with open(path, 'wb') as f:
        f.truncate(MIB)
    for opts, text in (('rerror=enospc', "'enospc' invalid read error action"),
                       ('werror=never', "'never' invalid write error action")):
        p = subprocess.run(
            [os.environ.get('SLUICED') or 'sluiced', '--drive',
             'format=raw,file=%s,%s' % (path, opts)], check=False,
            capture_output=True, text=True)
        assert p.returncode == 1 and text in p.stderr, p.stderr
    with Sluiced(d, '--drive', 'id=disk,format=raw,rerror=ignore,werror=enospc,'
                 'file.driver=blkdebug,file.image.driver=file,'
                 'file.image.filename=%s,file.inject-error.0.event=none,'
                 'file.inject-error.0.iotype=read' % path) as s:
        text = client(serve(s.qmp, d, 'disk'), 'read 0 4k')
        assert 'Input/output error' in text, text
        event = s.qmp.wait_event('BLOCK_IO_ERROR')
        assert event['data']['device'] == 'disk', event
        assert event['data']['action'] == 'report', event


def stream_error(daemon, base, top, policy):
    """A stream whose base fails one read: the errors it told, and its end."""
    with daemon as s:
        q = s.qmp
        q.cmd('blockdev-add', {
            'driver': 'raw', 'node-name': 'base', 'read-only': True,
            'file': {'driver': 'blkdebug', 'image': {
                'driver': 'file', 'filename': base},
                'inject-error': [{'event': 'none', 'iotype': 'read',
                                  'once': True, 'sector': 5000}]}})
        q.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top', 'backing': 'base',
            'file': {'driver': 'file', 'filename': top}})
        q.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                               'on-error': policy})
        if policy == 'stop':
            q.wait_event('BLOCK_JOB_ERROR')
            q.cmd('block-job-resume', device='j')
        end = q.wait_event('BLOCK_JOB_COMPLETED')
        errors = [e['data'] for e in q.take_events()
                  if e['event'] == 'BLOCK_JOB_ERROR']
        return errors, end['data'].get('error')


def test_one_error_of_a_stream(d):
    """An error that comes once is an error: the policy decides."""
    base, top = make_chain(d, 8 * MIB, 'qcow2')
    for policy in 'report', 'ignore', 'stop':
        for daemon in Sluiced, Qsd:
            qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw',
                     top)
            errors, end = stream_error(daemon(d), base, top, policy)
            if policy == 'stop':
                assert errors == [] and end is None, (daemon, errors, end)
                continue
            assert errors == [{'device': 'j', 'operation': 'read',
                               'action': policy}], (daemon, policy, errors)
            assert end == 'Input/output error', (daemon, policy, end)


if __name__ == '__main__':
    run(globals())
