#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""When a disk does not need its base on the web any more no connection stays, and
once their object is deleted no password, token, cookie or key is left in memory,
freed memory included: neither as it was given nor as it was sent.  (The library
for HTTP/2 keeps what it has sent; this is HTTP/1.1.)"""
import base64
import json
import os
import random

from httpliar import Liar
from memory import memory_of
from seed import SEED
from sluiced import Sluiced, qemu_img, run
from waiting import until

SIZE = 8 << 20
DATA = random.Random(SEED).randbytes(SIZE)
SECRET = 'Tr0ub4dor-and-3-%d' % SEED
BASIC = base64.b64encode(b'vm:' + SECRET.encode())


class Server(Liar):
    """Counts connections."""

    def __init__(self):
        self.open_now = 0
        super().__init__(DATA)

    def serve(self, c):
        with self.lock:
            self.open_now += 1
        super().serve(c)
        with self.lock:
            self.open_now -= 1


def found(s, forms):
    memory = memory_of(s.proc.pid)
    return [form for form in forms if form in memory]


def is_wiped(d, options, *forms):
    """@forms: how the secret may look."""
    top = d + '/top.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', top, str(SIZE))
    with open(d + '/secret', 'w', encoding='ascii') as f:
        f.write(SECRET)
    with Server() as server:
        where = ({'driver': 's3', 'endpoint': server.url('').rstrip('/'),
                  'bucket': 'master', 'key': 'base'} if 'key-id' in options
                 else {'driver': 'http', 'url': server.url()})
        base = {'driver': 'raw', 'read-only': True,
                'file': dict(where, **options)}
        # The C library of tests would overwrite what is freed.
        with Sluiced(d, '--object', 'secret,id=s,file=%s/secret' % d,
                     '--blockdev', json.dumps(
                         {'driver': 'qcow2', 'node-name': 'top',
                          'file': {'driver': 'file', 'filename': top},
                          'backing': base}),
                     env={'MALLOC_PERTURB_': '0'}) as s:
            assert found(s, forms), 'it is there, and found'
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
            s.qmp.wait_event('BLOCK_BASE_RELEASED')
            data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
            assert 'error' not in data, data
            until(lambda: not server.open_now, 'the end of connections')
            s.qmp.cmd('object-del', id='s')
            assert not found(s, forms), found(s, forms)
        sent = json.dumps(server.requests)
    os.unlink(top)
    return sent


def test_password(d):
    sent = is_wiped(d, {'username': 'vm', 'password-secret': 's'},
                    SECRET.encode(), BASIC)
    assert BASIC.decode() in sent, sent


def test_token(d):
    assert SECRET in is_wiped(d, {'bearer-token-secret': 's'}, SECRET.encode())


def test_cookie(d):
    assert SECRET in is_wiped(d, {'cookie-secret': 's'}, SECRET.encode())


def test_key_of_s3(d):
    is_wiped(d, {'key-id': 'ID', 'key-secret': 's'}, SECRET.encode())


if __name__ == '__main__':
    run(globals())
