#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several servers of one base: the first that answers is used, another takes
over when it goes, never two at a time, and none that has another disk."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '../../lib'))
from killed import kill_and_wait  # noqa: E402
from sluiced import SLUICE, Skip, Sluiced, run, write_pattern  # noqa: E402
from tlsfiles import Authority  # noqa: E402
from waiting import until  # noqa: E402

MIB = 1 << 20


class Kit:
    """nbdkit with @path at a Unix socket, until stop()."""

    def __init__(self, d, name, path, *args):
        self.socket = os.path.join(d, name)
        self.log = self.socket + '.log'
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        try:
            self.proc = subprocess.Popen(
                ['nbdkit', '-f', '-r', '-U', self.socket, *args,
                 '--filter=log', 'file', path, 'logfile=' + self.log])
        except FileNotFoundError as e:
            raise Skip('nbdkit is not installed') from e
        until(lambda: os.path.exists(self.socket), 'nbdkit')

    def used(self):
        """Connections that chose the disk."""
        if not os.path.exists(self.log):
            return 0
        with open(self.log, encoding='utf-8') as f:
            return sum(' Connect ' in line for line in f)

    def stop(self):
        kill_and_wait(self.proc)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.stop()


def address(path):
    return {'type': 'unix', 'path': path}


def add(s, first, *others, **more):
    more.setdefault('read_only', True)
    return dict({'driver': 'nbd', 'node_name': 'n', 'server': address(first),
                 'fallback_servers': [address(o) for o in others],
                 'reconnect_delay': 60}, **more)


def read(s, at):
    """Of node n; fails unless the bytes are those of the file."""
    out = s.qmp.cmd('human-monitor-command',
                    command_line='qemu-io n "read -P %d %d 4096"'
                    % (at // MIB + 1, at))
    assert 'error' not in out.lower() and 'failed' not in out, out


def make_disk(d, name='disk', size=4):
    path = os.path.join(d, name)
    with open(path, 'wb') as f:
        for i in range(size):
            f.write(bytes([i + 1]) * MIB)
    return path


def test_the_first_that_answers(d):
    disk = make_disk(d)
    with Kit(d, 'b', disk) as b, Kit(d, 'c', disk) as c, Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', **add(s, d + '/a', b.socket, c.socket))
        read(s, 0)
        assert b.used() and not c.used()


def test_another_takes_over_and_stays(d):
    disk = make_disk(d)
    first = Kit(d, 'a', disk)
    try:
        with Kit(d, 'b', disk) as b, Sluiced(d) as s:
            s.qmp.cmd('blockdev-add', **add(s, first.socket, b.socket))
            read(s, 0)
            assert first.used() and not b.used()
            first.stop()
            read(s, MIB)
            assert b.used()
            # The first is back: nobody goes there while the other serves.
            first = Kit(d, 'a', disk)
            before = first.used()
            for i in range(4):
                read(s, i * MIB)
            assert first.used() == before
            # And over again.
            b.stop()
            read(s, 2 * MIB)
            assert first.used() > before
    finally:
        first.stop()


def test_a_stream_loses_nothing(d):
    disk = os.path.join(d, 'disk')
    write_pattern(disk, 16 * MIB)
    top = os.path.join(d, 'top.qcow2')
    subprocess.run([SLUICE, 'create', '-q', '-f', 'qcow2', top, '16M'],
                   check=True)
    kits = [Kit(d, name, disk) for name in 'abc']
    try:
        with Sluiced(d) as s:
            s.qmp.cmd('blockdev-add', **add(s, *[k.socket for k in kits],
                                            connections=4))
            s.qmp.cmd('blockdev-add', driver='qcow2', node_name='top',
                      backing='n', file={'driver': 'file', 'filename': top})
            s.qmp.cmd('block-stream', device='top', job_id='j', speed=MIB // 4)
            until(lambda: kits[0].used() > 0, 'the first server in use')
            kits[0].stop()
            until(lambda: kits[1].used() > 0, 'the second server in use')
            kits[1].stop()
            until(lambda: kits[2].used() > 0, 'the third server in use')
            s.qmp.cmd('block-job-set-speed', device='j', speed=0)
            data = s.qmp.wait_event('BLOCK_JOB_COMPLETED')['data']
            assert 'error' not in data, data
    finally:
        for k in kits:
            k.stop()
    out = os.path.join(d, 'copy')
    subprocess.run([SLUICE, 'convert', '-f', 'qcow2', '-O', 'raw', top, out],
                   check=True)
    with open(out, 'rb') as a, open(disk, 'rb') as b:
        assert a.read() == b.read()


def test_another_disk_is_refused(d):
    with Kit(d, 'b', make_disk(d, 'other', 5)) as b, Sluiced(d) as s:
        first = Kit(d, 'a', make_disk(d))
        try:
            s.qmp.cmd('blockdev-add', **add(s, first.socket, b.socket))
            read(s, 0)
        finally:
            first.stop()
        out = s.qmp.cmd('human-monitor-command',
                        command_line='qemu-io n "read 0 4096"')
        assert 'failed' in out, out


def test_bad_options(d):
    disk = make_disk(d)
    with Kit(d, 'a', disk) as a, Sluiced(d) as s:
        assert 'cannot be written to' in s.qmp.error(
            'blockdev-add', **add(s, a.socket, d + '/b', read_only=False))
        assert 'at most 7' in s.qmp.error(
            'blockdev-add', **add(s, a.socket, *['/x'] * 8))
        assert 'fallback' in s.qmp.error(
            'blockdev-add', **add(s, a.socket, fallback_servers=[{}]))
        text = s.qmp.error('blockdev-add', **add(s, d + '/x', d + '/y'))
        assert d + '/x' in text, text
        s.qmp.cmd('blockdev-add', **add(s, a.socket, d + '/b'))
        again = {k.replace('_', '-'): v
                 for k, v in add(s, a.socket, d + '/c').items()}
        assert "Cannot change the option 'server'" in s.qmp.error(
            'blockdev-reopen', options=[again])


def test_each_has_its_name(d):
    """With TLS every server needs a certificate for its own name."""
    ca = Authority(d)
    good = ca.folder('server', 'localhost', names=['DNS:localhost'])
    disk = make_disk(d)
    p = subprocess.run([SLUICE, 'info', '--object',
                        'tls-creds-x509,id=t,dir=' + ca.folder('client', 'a'),
                        '--image-opts',
                        'driver=nbd,host=localhost,port=1,tls-creds=t,'
                        'fallback-servers.0.type=unix,'
                        'fallback-servers.0.path=%s/a' % d],
                       capture_output=True, text=True, check=False)
    assert 'No hostname' in p.stderr, p.stderr
    with Kit(d, 'a', disk, '--tls=require', '--tls-certificates=' + good) as a:
        p = subprocess.run([SLUICE, 'info', '--object',
                            'tls-creds-x509,id=t,dir=%s/ca/client-1' % d,
                            '--image-opts',
                            'driver=nbd,host=localhost,port=1,tls-creds=t,'
                            'tls-hostname=localhost,'
                            'fallback-servers.0.type=unix,'
                            'fallback-servers.0.path=%s' % a.socket],
                           capture_output=True, text=True, check=False)
        assert p.returncode == 0, p.stderr


if __name__ == '__main__':
    run(globals())
