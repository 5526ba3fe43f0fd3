#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest beside a stream whose base is 100 ms away, on NBD, HTTP and S3: what
it reads and is here comes as if nothing was going on, what is there comes in
two round trips at most, though the stream fills the line.

The line has a bandwidth and a short queue (far-link.c), TCP is the kernel's.
Times are those of a machine that nobody else keeps busy (waiting.rest)."""
import json
import os
import random
import shutil
import subprocess
import sys

from farnet import Far
from nginx import Nginx, free_ports
from seed import SEED
from sluiced import Sluiced, Skip, qemu_img, run
from waiting import rest, until

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

KIB, MIB = 1 << 10, 1 << 20
RATE = 20 * MIB         # of the line, bytes/s
DELAY = 0.05            # one way
SIZE = 1024 * MIB       # of the disk
HERE = 16 * MIB         # of it is here already
READ = 4 * KIB


class NbdBase:
    def __init__(self, _d, far, path):
        if not shutil.which('nbdkit'):
            raise Skip('nbdkit is not installed')
        self.port, = free_ports(1)
        # pylint: disable=consider-using-with
        self.proc = subprocess.Popen(
            ['nbdkit', '-f', '-r', '-t', '64', '-i', far.here, '-p',
             str(self.port), 'file', path])
        self.node = {'driver': 'nbd', 'server': {
            'type': 'inet', 'host': far.here, 'port': str(self.port)}}

    def stop(self):
        self.proc.kill()
        self.proc.wait()


class WebBase:
    """nginx; what has signed a request does not matter to it."""

    def __init__(self, d, far, path, s3=False):
        self.web = Nginx(d, host=far.here)
        os.mkdir(self.web.path('master'))
        os.link(path, self.web.path('master/base'))
        if s3:
            self.node = {'driver': 's3', 'bucket': 'master', 'key': 'base',
                         'endpoint': self.web.url('').rstrip('/'),
                         'key-id': 'ID', 'key-secret': 'key'}
        else:
            self.node = {'driver': 'http', 'url': self.web.url('master/base')}

    def stop(self):
        self.web.stop()


class Guest:
    """Reads one after the other, at random."""

    def __init__(self, d):
        self.nbd = nbd.NBD()
        self.nbd.set_export_name('top')
        self.nbd.connect_unix(d + '/nbd')
        self.rnd = random.Random(SEED)
        # Never the same twice, and never in sequence.
        self.places = list(range(SIZE // 2, SIZE, MIB))
        self.rnd.shuffle(self.places)

    def read(self, at):
        begin = rest()
        self.nbd.pread(READ, at)
        return rest() - begin

    def local(self):
        return self.read(self.rnd.randrange(HERE // READ) * READ)

    def remote(self):
        """Of data that is not here yet."""
        return self.read(self.places.pop() + self.rnd.randrange(255) * READ)


def daemon(d, far, base, **options):
    qemu_img('create', '-q', '-f', 'qcow2', d + '/top.qcow2', str(SIZE))
    node = dict(base.node, **{'node-name': 'far', 'read-only': True}, **options)
    return Sluiced(
        d, '--object', 'secret,id=key,data=x', '--blockdev', json.dumps(node),
        '--blockdev', json.dumps(
            {'driver': 'qcow2', 'node-name': 'top',
             'file': {'driver': 'file', 'filename': d + '/top.qcow2'},
             'backing': {'driver': 'raw', 'node-name': 'base',
                         'read-only': True, 'file': 'far'}}),
        '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d,
        '--export', 'nbd,id=e,node-name=top,name=top,writable=on',
        prefix=far.prefix)


def spread(what, times):
    times = sorted(times)
    got = [times[len(times) * n // 100] * 1e3 for n in (50, 90, 99)]
    print('# %-16s median %.2f, p90 %.2f, p99 %.2f ms' % (what, *got),
          flush=True)
    return got


def reads_beside(s, g):
    """Idle, and while the stream runs: local and remote."""
    for at in range(0, HERE, MIB):
        g.nbd.pwrite(bytes([at // MIB + 1]) * MIB, at)
    g.nbd.flush()
    idle = spread('local, idle', [g.local() for _ in range(2000)])
    spread('remote, idle', [g.remote() for _ in range(20)])
    s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
    until(lambda: s.qmp.cmd('query-block-jobs')[0]['offset'] > HERE + 8 * MIB,
          'a stream that runs')
    local, remote = [], []
    for _ in range(60):
        remote.append(g.remote())
        local += [g.local() for _ in range(40)]
    job, = s.qmp.cmd('query-block-jobs')
    assert job['status'] == 'running' and job['offset'] < SIZE // 2, job
    s.qmp.cmd('block-job-cancel', device='j')
    return idle, spread('local', local), spread('remote', remote)


def measure(d, kind):
    path = d + '/base'
    with open(path, 'wb') as f:
        block = random.Random(SEED).randbytes(MIB)
        for n in range(SIZE // MIB):
            f.write(n.to_bytes(8, 'big') + block[8:])
    with Far(DELAY, RATE) as far:
        base = kind(d, far, path)
        try:
            with daemon(d, far, base) as s:
                g = Guest(d)
                idle, local, remote = reads_beside(s, g)
                g.nbd.shutdown()
        finally:
            base.stop()
    trip = far.round_trip * 1e3
    assert local[0] <= 2 * idle[0] + 0.5, (idle, local)
    # One for the way, and a part of one for what is before it in the queue.
    assert remote[0] <= 1.7 * trip, remote


def test_nbd(d):
    measure(d, NbdBase)


def test_http(d):
    measure(d, WebBase)


def test_s3(d):
    measure(d, lambda d, far, path: WebBase(d, far, path, True))


if __name__ == '__main__':
    run(globals())
