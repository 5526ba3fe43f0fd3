#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that abuse TLS: handshakes cut off at every byte, garbage, drips,
crowds, records that lie, new handshakes inside of old ones.  Whatever they do,
who was connected before still is served, and nothing of them stays."""
import os
import random
import socket
import ssl
import struct
import subprocess
import threading
import time

import nbdraw
from nbdraw import ACK, GO, LIST, OPT_MAGIC, STARTTLS, Client, Closed, name_info
from seed import SEED
from sluiced import SANITIZED, Skip, Sluiced, run
from tlsfiles import Authority
from waiting import until

MIB = 1 << 20


class Pieces:
    """A client's end of TLS whose bytes are ours to send, or not."""

    def __init__(self, context):
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.into, self.out)

    def step(self):
        """Go on with the handshake; what is to be sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.out.read()


class Rig:
    def __init__(self, d):
        ca = Authority(d)
        server = ca.folder('server', 'localhost', names=['DNS:localhost'])
        self.client_dir = ca.folder('client', 'alice')
        self.context = self.make_context()
        with open(d + '/disk', 'wb') as f:
            f.write(bytes(i % 251 for i in range(MIB)))
        self.s = Sluiced(
            d, '--object', 'tls-creds-x509,id=t,endpoint=server,dir=' + server,
            '--nbd-server', 'addr.type=inet,addr.host=127.0.0.1,addr.port=0,'
            'tls-creds=t', '--drive', 'id=v,format=raw,file=%s/disk' % d,
            '--export', 'nbd,id=e,node-name=v,name=v,writable=on')
        uri = self.s.qmp.cmd('query-nbd-exports')[0]['uri']
        self.port = int(uri.rsplit(':', 1)[1].split('/')[0])

    def make_context(self, version=None):
        c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        c.check_hostname = False
        c.verify_mode = ssl.CERT_NONE
        if version:
            c.minimum_version = c.maximum_version = version
        c.load_cert_chain(self.client_dir + '/client-cert.pem',
                          self.client_dir + '/client-key.pem')
        return c

    def __enter__(self):
        self.s.__enter__()
        self.keep = self.good()
        self.fds = self.count_fds()
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            assert self.keep.read(0, 512)
            assert self.good().read(0, 512)
            until(lambda: self.count_fds() <= self.fds + 1,
                  'descriptors given back')
        self.s.__exit__(kind, value, trace)

    def plain(self):
        """A client that has been told to begin TLS."""
        c = Client(('127.0.0.1', self.port)).greet()
        assert c.opt(STARTTLS)[0] == ACK
        return c

    def good(self):
        c = self.plain()
        c.sock = self.context.wrap_socket(c.sock)
        return c.go('v')

    def pieces(self, version=None):
        """A client whose session stands, and that session."""
        c = self.plain()
        p = Pieces(self.make_context(version))
        c.send(p.step())
        while not p.tls.version() or p.out.pending or not is_done(p):
            p.into.write(c.sock.recv(65536))
            c.send(p.step())
            if is_done(p):
                break
        return c, p

    def count_fds(self):
        return len(os.listdir('/proc/%d/fd' % self.s.proc.pid))

    def rss(self):
        with open('/proc/%d/statm' % self.s.proc.pid, encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGESIZE')


def is_done(p):
    try:
        p.tls.do_handshake()
        return True
    except ssl.SSLWantReadError:
        return False


def is_dropped(c):
    """Nothing comes any more but an alert."""
    try:
        while c.sock.recv(65536):
            pass
    except OSError:
        pass
    c.close()
    return True


def reset(c):
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                      struct.pack('ii', 1, 0))
    c.close()


def test_VC2_gone_at_every_byte_of_the_handshake(d):
    with Rig(d) as r:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = r.make_context(version)
            hello = Pieces(context).step()
            for n in range(len(hello)):
                c = r.plain()
                c.send(hello[:n])
                (reset if n % 2 else Client.close)(c)
            # And in the answer to what the server says.
            n = 0
            while True:
                c, p = r.plain(), Pieces(context)
                c.send(p.step())
                flight = b''
                while not flight:
                    p.into.write(c.sock.recv(65536))
                    flight = p.step()
                c.send(flight[:n])
                (reset if n % 2 else Client.close)(c)
                if n > len(flight):
                    break
                n += 13


def test_garbage_instead_of_a_handshake(d):
    rng = random.Random(SEED)
    with Rig(d) as r:
        hello = Pieces(r.context).step()
        for i in range(300):
            c = r.plain()
            junk = bytearray(hello)
            if i % 3 == 0:
                junk = rng.randbytes(rng.randrange(1, 4096))
            else:
                for _ in range(rng.randrange(1, 8)):
                    junk[rng.randrange(len(junk))] = rng.randrange(256)
            try:
                c.send(bytes(junk))
                c.sock.shutdown(socket.SHUT_WR)
            except (Closed, OSError):
                pass
            assert is_dropped(c)
        # Plain options where TLS should be.
        c = r.plain()
        c.send(OPT_MAGIC + struct.pack('>II', GO, 11) + name_info('v'))
        assert is_dropped(c)


def test_records_that_lie(d):
    with Rig(d) as r:
        for bad in (b'\x17\x03\x03\xff\xff', b'\x16\x03\x03\xff\xff',
                    b'\x17\x03\x03\x41\x01', b'\x99\x03\x03\0\1x',
                    b'\x17\x09\x09\0\1x', b'\x15\x03\x03\0\1x',
                    b'\x17\x03\x03\0\x20' + bytes(32)):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                c, _ = r.pieces(version)
                before = r.rss()
                c.send(bad)
                try:
                    c.send(bytes(1 << 20))
                except Closed:
                    pass
                assert is_dropped(c), bad
                assert SANITIZED or r.rss() - before < 8 * MIB
            c = r.plain()
            try:
                c.send(bad + bytes(1 << 17))
            except Closed:
                pass
            assert is_dropped(c), bad
        # One bit of a good record.
        c, p = r.pieces()
        p.tls.write(OPT_MAGIC + struct.pack('>II', LIST, 0))
        record = bytearray(p.out.read())
        record[-1] ^= 1
        c.send(bytes(record))
        assert is_dropped(c)
        # The same record twice.
        c, p = r.pieces()
        p.tls.write(OPT_MAGIC + struct.pack('>II', LIST, 0))
        record = p.out.read()
        try:
            c.send(record * 2)
        except Closed:
            pass
        assert is_dropped(c)


def test_a_flood_of_warnings(d):
    with Rig(d) as r:
        c = r.plain()
        try:
            for _ in range(1000):
                c.send(b'\x15\x03\x01\0\2\1\x5a' * 100)
        except Closed:
            pass
        assert is_dropped(c)


def test_VC11_a_drip(d):
    """A byte now and then is no progress: the time is that of the whole
    handshake."""
    with Rig(d) as r:
        hello = Pieces(r.context).step()
        c = r.plain()
        sent = 0
        try:
            for i in range(len(hello) - 1):
                c.send(hello[i:i + 1])
                sent += 1
                time.sleep(0.1)
        except Closed:
            pass
        assert sent < len(hello) - 1, 'it was dropped before that'
        assert is_dropped(c)


def test_VC11_a_crowd_that_stops_half_way(d):
    with Rig(d) as r:
        hello = Pieces(r.context).step()
        crowd = []
        for i in range(60):
            try:
                c = Client(('127.0.0.1', r.port)).greet()
                if i % 3:
                    c.send(OPT_MAGIC + struct.pack('>II', STARTTLS, 0))
                if i % 3 == 2:
                    c.send(hello)
                crowd.append(c)
            except Closed:
                pass
        assert r.good().alive()
        for c in crowd:
            c.close()


def test_VC13_a_thousand_sessions_that_vanish(d):
    with Rig(d) as r:
        hello = Pieces(r.context).step()

        def some(n):
            for i in range(n):
                if i % 10 == 0:
                    c, p = r.pieces()
                else:
                    c = r.plain()
                    c.send(hello)
                (reset if i % 2 else Client.close)(c)
            assert r.good().alive()
        some(300)
        before = r.rss()
        some(1000)
        assert SANITIZED or r.rss() - before < 8 * MIB


def test_VC3_rules_compare_all_of_a_name(d):
    """Neither a beginning, nor an end, nor another case will do."""
    with Rig(d) as r:
        for i, text in enumerate(('CN=alic', 'CN=alice2', 'N=alice', 'cn=alice',
                                  'CN=ALICE', 'CN=alice ', 'CN=?lice')):
            r.s.qmp.cmd('object-add', qom_type='authz-list', id='z%d' % i,
                        policy='deny', rules=[{'match': text,
                                               'policy': 'allow'}])
            r.s.qmp.cmd('block-export-add', type='nbd', id='x%d' % i,
                        node_name='v', name='x%d' % i, tls_authz='z%d' % i)
        r.s.qmp.cmd('object-add', qom_type='authz-simple', id='ok',
                    identity='CN=alice')
        r.s.qmp.cmd('block-export-add', type='nbd', id='ok', node_name='v',
                    name='ok', tls_authz='ok')
        c = r.plain()
        c.sock = r.context.wrap_socket(c.sock)
        _, _, listed = c.opt(LIST)
        assert sorted(bytes(data[4:]) for _, data in listed) == \
            [b'ok', b'v'], listed


class Relay:
    """Begins TLS with the server, then passes bytes of one client."""

    def __init__(self, rig):
        self.rig = rig
        self.sock = socket.create_server(('127.0.0.1', 0))
        self.port = self.sock.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        c, _ = self.sock.accept()
        s = self.rig.plain().sock
        threading.Thread(target=self.carry, args=(c, s), daemon=True).start()
        self.carry(s, c)
        self.ended.set()

    @staticmethod
    def carry(a, b):
        try:
            while True:
                part = a.recv(65536)
                if not part:
                    break
                b.sendall(part)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_a_new_handshake_inside_of_a_session(d):
    """TLS 1.2 knows renegotiation, which would change who the client is."""
    with Rig(d) as r:
        relay = Relay(r)
        with subprocess.Popen(
                ['openssl', 's_client', '-connect', '127.0.0.1:%d' % relay.port,
                 '-tls1_2', '-cert', r.client_dir + '/client-cert.pem', '-key',
                 r.client_dir + '/client-key.pem'], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
            out = b''
            while b'Verify return code' not in out:
                part = os.read(p.stdout.fileno(), 65536)
                assert part, out
                out += part
            if b'Secure Renegotiation IS supported' not in out:
                raise Skip('openssl does not offer it')
            assert not relay.ended.is_set()
            p.stdin.write(b'R\n')
            p.stdin.flush()
            out += p.stdout.read()
            assert b'RENEGOTIATING' in out, out
        until(relay.ended.is_set, 'the end of the session')


if __name__ == '__main__':
    run(globals())
