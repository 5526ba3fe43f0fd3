# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two hosts for a disk to move between: a daemon each, and a link whose
delay and breaks a test decides.

    with Source(d) as a, Target(d) as b, a.link(delay=0.01) as link:
        move = Move(a, b, link)
        move.start()
        ...
        assert move.wait() == 0
"""
import os
import socket
import subprocess
import sys

import rig
import sluiced
from proxy import Link
from sluiced import Sluiced
from waiting import Patience, until

MIB = 1 << 20
DEVICE = 'vda'


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Host:
    """A daemon in a folder of its own; it can be killed and started again."""

    def __init__(self, d, name, *args, host='127.0.0.1', server='', before=(),
                 prefix=()):
        self.dir = os.path.join(d, name)
        os.mkdir(self.dir)
        self.host, self.port = host, free_port()
        self.prefix = prefix
        self.args = [*before, '--nbd-server', 'addr.type=inet,addr.host=%s,'
                     'addr.port=%d%s' % (host, self.port, server), *args]
        self.start()

    def start(self):
        self.daemon = Sluiced(self.dir, *self.args, prefix=self.prefix)
        self.qmp = self.daemon.qmp

    def link(self, **how):
        return Link((self.host, self.port), **how)

    def client(self, name=DEVICE):
        h = rig.nbd.NBD()
        h.set_export_name(name)
        h.connect_tcp(self.host, str(self.port))
        return h

    def exports(self):
        return {e['id'] for e in self.qmp.cmd('query-block-exports')}

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.daemon.__exit__(*why)


class Source(Host):
    def __init__(self, d, size=16 * MIB, **how):
        path = os.path.join(d, 'source.raw')
        sluiced.write_pattern(path, size)
        with open(path, 'rb') as f:
            self.content = f.read()
        super().__init__(
            d, 'source', '--blockdev', 'raw,node-name=%s,file.driver=file,'
            'file.filename=%s' % (DEVICE, path), '--export',
            'nbd,id=%s,node-name=%s,name=%s,writable=on'
            % (DEVICE, DEVICE, DEVICE), **how)


class Target(Host):
    def __init__(self, d, *args, **how):
        super().__init__(d, 'target', *args, **how)
        self.path = os.path.join(self.dir, 'disk.qcow2')


class Move:
    """A run of sluice migrate."""

    def __init__(self, a, b, link, *args):
        self.cmd = [sluiced.SLUICE, 'migrate', '-s', a.daemon.socket, '--to',
                    b.daemon.socket, '--target', b.path, '--address',
                    link.name, *args, DEVICE]
        self.proc = None
        self.out = self.err = ''

    def start(self):
        self.proc = subprocess.Popen(self.cmd, stdout=subprocess.PIPE,
                                     stderr=subprocess.PIPE, text=True)
        return self

    def wait(self):
        """The exit status."""
        patience = Patience()
        while True:
            try:
                self.out, self.err = self.proc.communicate(
                    timeout=patience.left())
                return self.proc.returncode
            except subprocess.TimeoutExpired:
                if patience.over():
                    self.proc.kill()
                    self.proc.wait()
                    raise AssertionError('sluice migrate does not end') \
                        from None

    def run(self):
        status = self.start().wait()
        sys.stdout.write(''.join('# %s\n' % s for s in (
            self.out + self.err).splitlines()))
        return status

    def kill(self):
        self.proc.kill()
        self.proc.communicate()


def wait_served(host, name=DEVICE):
    until(lambda: name in host.exports(), 'the export')


def progress(host):
    jobs = host.qmp.cmd('query-block-jobs')
    return jobs[0]['offset'] if jobs else None


def check_alone(path):
    """It is whole without anything else."""
    info = rig.image_info(path)
    assert 'backing-filename' not in info, info
    rig.check_no_corruption(path)
