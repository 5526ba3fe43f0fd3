#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server that fails one flush and says yes to the next (G6): a disk on it
flushes no more until it is opened again, whatever its format.  The server is a
daemon whose blkdebug fails the flush once.
"""
import os
import subprocess

from sluiced import Sluiced, qemu_img, run

MIB = 1 << 20
EIO = 'Input/output error'


def make_image(path, fmt):
    if os.path.exists(path):
        os.unlink(path)
    qemu_img('create', '-q', '-f', fmt, path, '1M')
    # A device is as long as it is.
    with open(path, 'r+b') as f:
        f.truncate(8 * MIB)


class Pair:
    """The server, and the daemon that has the disk."""

    def __init__(self, d, path, **rule):
        self.sock = os.path.join(d, 'nbd')
        os.makedirs(d + '/far', exist_ok=True)
        self.server = Sluiced(d + '/far', '--nbd-server',
                              'addr.type=unix,addr.path=' + self.sock)
        self.near = Sluiced(d)
        self.rule, self.path = rule, path

    def __enter__(self):
        self.server.__enter__()
        self.near.__enter__()
        self.server.qmp.cmd('blockdev-add', **{
            'driver': 'blkdebug', 'node-name': 'far', 'image': {
                'driver': 'file', 'filename': self.path},
            'inject-error': [dict({'event': 'none', 'iotype': 'flush',
                                   'once': True}, **self.rule)]})
        self.server.qmp.cmd('block-export-add', **{
            'type': 'nbd', 'id': 'e', 'name': 'e', 'node-name': 'far',
            'writable': True})
        return self

    def __exit__(self, *args):
        self.near.__exit__(*args)
        self.server.__exit__(*args)

    def add(self, fmt):
        self.near.qmp.cmd('blockdev-add', **{
            'driver': fmt, 'node-name': 'disk', 'file': {
                'driver': 'nbd', 'export': 'e', 'server': {
                    'type': 'unix', 'path': self.sock}}})

    def delete(self):
        self.near.qmp.cmd('blockdev-del', **{'node-name': 'disk'})

    def io(self, line):
        return self.near.qmp.hmp('qemu-io disk "%s"' % line)

    def fails(self, line):
        text = self.io(line)
        assert EIO in text, (line, text)

    def works(self, line):
        text = self.io(line)
        assert 'failed' not in text, (line, text)


def forgets(d, fmt, first, **rule):
    path = os.path.join(d, 'far.img')
    make_image(path, fmt)
    with Pair(d, path, **rule) as p:
        p.add(fmt)
        for line in first[:-1]:
            p.works(line)
        p.fails(first[-1])
        p.fails('flush')
        p.works('write -q -P 2 64k 64k')
        p.fails('flush')
        p.delete()
        p.add(fmt)
        p.works('write -q -P 3 0 64k')
        p.works('flush')
        p.delete()
    if fmt != 'raw':
        code = subprocess.run(['qemu-img', 'check', '-q', '-f', fmt, path],
                              check=False).returncode
        assert code in (0, 3), code


def test_flush(d):
    """(QED needs storage that grows.)"""
    for fmt in ('raw', 'qcow2'):
        forgets(d, fmt, ('write -q -P 1 0 64k', 'flush'))


def test_fua(d):
    """Its flush is part of the request: of qcow2's own, or of the server's."""
    forgets(d, 'qcow2', ('write -q -f -P 1 0 64k',))
    forgets(d, 'raw', ('write -q -f -P 1 0 64k',), iotype='write')


def test_lack_of_space(d):
    """Of a flush it is kept, too; what is told later is an error."""
    path = os.path.join(d, 'far.img')
    make_image(path, 'raw')
    with Pair(d, path, errno=28) as p:
        p.add('raw')
        p.works('write -q -P 1 0 64k')
        assert 'No space left' in p.io('flush')
        p.fails('flush')


if __name__ == '__main__':
    run(globals())
