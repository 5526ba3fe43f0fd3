#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A qcow2 image goes between read-only and writable.  When its tables cannot be
written for want of space it stays writable, and nothing is lost."""
import os
import sys

from sluiced import Sluiced, qemu_img, run, run_tool

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

MIB = 1 << 20


def options(path, read_only, failures=0):
    """The first @failures writes of table entries find no space."""
    states = range(1, failures + 1)
    return {'driver': 'qcow2', 'node-name': 'n', 'read-only': read_only,
            'file': {'driver': 'blkdebug', 'node-name': 'b',
                     'inject-error': [{'event': 'l2_update', 'errno': 28,
                                       'once': True, 'state': i}
                                      for i in states],
                     'set-state': [{'event': 'l2_update', 'state': i,
                                    'new_state': i + 1} for i in states],
                     'image': {'driver': 'file', 'node-name': 'f',
                               'filename': path}}}


def reopen(s, path, read_only):
    new = options(path, read_only)
    new['file'] = 'b'
    return s.qmp.execute('blockdev-reopen', {'options': [new]})


def client(s, d):
    h = nbd.NBD()
    h.connect_uri('nbd+unix:///n?socket=%s/s' % d)
    return h


def export(s, d, writable):
    s.qmp.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'n',
                                   'writable': writable})
    return client(s, d)


def unexport(s, h):
    h.shutdown()
    s.qmp.cmd('block-export-del', {'id': 'e'})
    s.qmp.wait_event('BLOCK_EXPORT_DELETED')


def start(d, failures=0):
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '8M')
    s = Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/s' % d)
    s.qmp.cmd('blockdev-add', options(path, False, failures))
    return s, path


def test_back_and_forth(d):
    s, path = start(d)
    with s:
        for i in range(1, 6):
            h = export(s, d, True)
            h.pwrite(bytes([i]) * MIB, i * MIB)
            unexport(s, h)
            assert 'error' not in reopen(s, path, True)
            # What was written is in the file, and whole, while we have it open.
            text = run_tool('qemu-io', '-U', '-r', '-f', 'qcow2', '-c',
                            'read -P %d %dM 1M' % (i, i), path)
            assert 'verification failed' not in text, text
            qemu_img('check', '-q', '-U', path)
            assert 'error' not in reopen(s, path, False)
    qemu_img('check', '-q', path)


def write(h, i):
    """An error that waits may meet the guest's own write: it tries again."""
    for _ in range(10):
        try:
            h.pwrite(bytes([i]) * MIB, i * MIB)
            return
        except nbd.Error as e:
            assert e.errno == 'ENOSPC', e
    raise AssertionError('still no space')


def test_no_space(d):
    s, path = start(d, 8)
    refused = 0
    with s:
        for i in range(1, 7):
            h = export(s, d, True)   # writable still
            write(h, i)
            unexport(s, h)
            answer = reopen(s, path, True)
            if 'error' in answer:
                assert 'Could not flush' in answer['error']['desc'], answer
                refused += 1
            else:
                assert 'error' not in reopen(s, path, False)
    assert refused >= 1
    for i in range(1, 7):
        text = run_tool('qemu-io', '-r', '-f', 'qcow2', '-c',
                        'read -P %d %dM 1M' % (i, i), path)
        assert 'verification failed' not in text, (i, text)
    qemu_img('check', '-q', path)


if __name__ == '__main__':
    run(globals())
