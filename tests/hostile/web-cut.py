#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Row VB3 with a real web server: its connection ends at every byte of all that
it sends, over HTTP, and over TLS with HTTP/2: handshake, records, frames, heads
of answers, bodies.  Whoever opens the file hears of it and tries again; a read
goes on by itself, and gives the right bytes.

STEP in the environment: only every so many bytes (1: all of them)."""
import os
import random
import sys

from nginx import Nginx
from proxy import Link
from qmp import QmpError
from seed import SEED
from sluiced import Sluiced, run

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

STEP = int(os.environ.get('STEP', '61'))
SIZE = 192 << 10
FIRST = 64 << 10        # what the first answer brings


def points(end):
    """Each STEPth byte before @end, and those around it."""
    yield from range(random.Random(SEED).randrange(STEP), end, STEP)
    yield from (end - 1, end)


class Rig:
    def __init__(self, d, tls):
        self.web = Nginx(d, tls=tls)
        self.data = random.Random(SEED).randbytes(SIZE)
        with open(self.web.path('base.raw'), 'wb') as f:
            f.write(self.data)
        port = self.web.tls_port if tls else self.web.port
        self.link = Link(('127.0.0.1', port))
        more = ['--object', 'secret,id=ca,file=' + self.web.ca] if tls else []
        self.node = {
            'driver': 'https' if tls else 'http', 'node-name': 'web',
            'read-only': True, 'readahead': 0, 'connections': 1,
            'reconnect-delay': 3600, 'url': '%s://localhost:%d/base.raw' % (
                'https' if tls else 'http', self.link.address[1])}
        if tls:
            self.node['ca-secret'] = 'ca'
        self.s = Sluiced(d, *more)
        self.sock = os.path.join(d, 'nbd')
        self.s.qmp.cmd('nbd-server-start', addr={
            'type': 'unix', 'data': {'path': self.sock}})

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.s.__exit__(*args)
        self.link.__exit__(*args)
        self.web.__exit__(*args)

    def open(self):
        self.s.qmp.cmd('blockdev-add', self.node)

    def close(self):
        self.s.qmp.cmd('blockdev-del', {'node-name': 'web'})

    def client(self):
        self.s.qmp.cmd('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'web', 'name': 'web'})
        h = nbd.NBD()
        h.set_export_name('web')
        h.connect_unix(self.sock)
        return h

    def hang_up(self, h):
        h.shutdown()
        self.s.qmp.cmd('block-export-del', id='e', mode='hard')
        self.s.qmp.wait_event('BLOCK_EXPORT_DELETED', id='e')

    def opens(self, at):
        """The connection of an open ends after @at bytes: is that heard of?"""
        self.link.cut_after(at, at % 2)
        try:
            self.open()
            return False
        except QmpError as e:
            assert 'localhost' in str(e), e
            self.open()
            return True


def cut_while_opening(rig):
    before = rig.link.passed
    rig.open()
    rig.close()
    whole = rig.link.passed - before    # and what we sent: some more
    head = whole - FIRST
    heard = 0
    for at in points(head):
        heard += rig.opens(at)
        h = rig.client()
        assert h.pread(512, FIRST + 512) == \
            rig.data[FIRST + 512:FIRST + 1024], at
        rig.hang_up(h)
        rig.close()
        rig.link.cut_after(None)
    assert heard, whole


def cut_while_reading(rig):
    length = SIZE - FIRST
    rig.open()
    h = rig.client()
    for at in [*points(1500), *range(1500, length, 31 * STEP), length]:
        rig.link.cut_after(at, at % 2)
        assert h.pread(length, FIRST) == rig.data[FIRST:], at
        assert rig.link.left is None, at
    rig.hang_up(h)
    rig.close()


def test_VB3_http(d):
    with Rig(d, False) as rig:
        cut_while_opening(rig)
        cut_while_reading(rig)


def test_VB3_https(d):
    with Rig(d, True) as rig:
        cut_while_opening(rig)
        cut_while_reading(rig)
        assert {r[4] for r in rig.web.log()} == {'HTTP/2.0'}, rig.web.log()


if __name__ == '__main__':
    run(globals())
