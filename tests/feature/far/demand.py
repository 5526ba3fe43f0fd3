#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest waits for does not wait behind a stream, on NBD, HTTP and S3.

The servers never answer what the stream asks for, nor anything that is asked for
on the same connection later: as if its data was still on its way.  A guest's
read is answered all the same, by one request of its own.  No clock is looked
at."""
import json
import os
import random
import sys
import threading

import httpliar
import nbdliar
import nbdraw
from seed import SEED
from sluiced import Sluiced, qemu_img, run, run_tool
from waiting import until

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

KIB, MIB = 1 << 10, 1 << 20
SIZE = 32 * MIB
LARGE = 128 * KIB       # what only a stream asks for
DATA = random.Random(SEED).randbytes(SIZE)


class Held:
    """Requests that are not answered before they are let go."""

    def __init__(self):
        self.go = threading.Event()
        self.lock = threading.Lock()
        self.count = 0
        self.small = []         # offsets of the others

    def see(self, off, length):
        with self.lock:
            if length < LARGE:
                self.small.append(off)
                return
            self.count += 1
        self.go.wait()


class NbdServer(nbdliar.Liar):
    """Answers the requests of a connection in order, and several connections.
    It tells no extents."""

    def __init__(self, d, held):
        super().__init__(
            DATA, d + '/base.sock', structured=False,
            flags=nbdraw.HAS_FLAGS | nbdraw.READ_ONLY | nbdraw.MULTI_CONN,
            before_read=lambda r: held.see(r.off, r.length))
        self.node = {'driver': 'nbd', 'connections': 4,
                     'server': self.address()}


class WebServer(httpliar.Liar):
    def __init__(self, _d, held, s3=False):
        super().__init__(DATA)

        def lie(a):
            held.see(a.first, len(a.body))
        self.lie = lie
        self.node = {'driver': 'http', 'url': self.url(), 'readahead': 0}
        if s3:
            self.node = {'driver': 's3', 'endpoint': self.url('').rstrip('/'),
                         'bucket': 'master', 'key': 'base', 'readahead': 0,
                         'key-id': 'ID', 'key-secret': 'key'}


class Guest:
    def __init__(self, d):
        self.nbd = nbd.NBD()
        self.nbd.set_export_name('top')
        self.nbd.connect_unix(d + '/nbd')

    def read(self, offsets):
        """All at once."""
        reads = []
        for off in offsets:
            buf = nbd.Buffer(4096)
            reads.append((off, buf, self.nbd.aio_pread(buf, off)))
        for off, buf, cookie in reads:
            until(lambda c=cookie: self.nbd.poll(100) >= 0 and
                  self.nbd.aio_command_completed(c), 'a read at %d' % off)
            assert buf.to_bytearray() == DATA[off:off + 4096], off


def beside_a_stream(d, make):
    held = Held()
    server = make(d, held)
    qemu_img('create', '-q', '-f', 'qcow2', d + '/top.qcow2', str(SIZE))
    rnd = random.Random(SEED)
    # From behind: the stream does not get there.
    places = [SIZE // 2 + n * 64 * KIB + 4096 * rnd.randrange(16)
              for n in range(SIZE // 2 // (64 * KIB))]
    rnd.shuffle(places)
    with Sluiced(
            d, '--object', 'secret,id=key,data=x', '--blockdev', json.dumps(
                {'driver': 'qcow2', 'node-name': 'top',
                 'file': {'driver': 'file', 'filename': d + '/top.qcow2'},
                 'backing': {'driver': 'raw', 'read-only': True, 'file': dict(
                     server.node, **{'read-only': True})}}),
            '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d,
            '--export', 'nbd,id=e,node-name=top,name=top') as s:
        g = Guest(d)
        # Several connections come into being with several requests.
        while getattr(server, 'opened', 4) < 4:
            g.read([places.pop(), places.pop()])
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
        until(lambda: held.count >= 3, 'requests of the stream')
        before = len(held.small)
        wanted = [places.pop() for _ in range(40)]
        for off in wanted[:20]:
            g.read([off])
        for i in range(20, 40, 4):
            g.read(wanted[i:i + 4])
        # One request each, for no more than a cluster.  What the stream asked
        # for in small pieces, because the guest was there before, is elsewhere.
        asked = [o for o in held.small[before:] if o >= SIZE // 2]
        assert sorted(o // (64 * KIB) for o in asked) == \
            sorted(o // (64 * KIB) for o in wanted), (asked, wanted)
        assert s.qmp.cmd('query-block-jobs')[0]['offset'] < SIZE // 2
        held.go.set()
        data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
        assert 'error' not in data, data
        g.nbd.shutdown()
    server.stop()
    with open(d + '/base', 'wb') as f:
        f.write(DATA)
    run_tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw',
             d + '/top.qcow2', d + '/base')
    os.unlink(d + '/top.qcow2')


def test_nbd(d):
    beside_a_stream(d, NbdServer)


def test_http(d):
    beside_a_stream(d, WebServer)


def test_s3(d):
    beside_a_stream(d, lambda d, held: WebServer(d, held, s3=True))


if __name__ == '__main__':
    run(globals())
