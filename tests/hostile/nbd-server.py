#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What past NBD servers fell to, tried on the daemon: rows VC1 to VC13.

Rows that need slow disks or the server's own counters are in
tests/feature/nbd: VC2, VC9 (handshake), VC11, VC13 (limits), VC12
(structured).  Here: the same and the rest against sluiced as it runs in
production.  VC3 is about rules of who gets in: nbd-tls.
"""
import os
import signal
import socket
import struct
import threading
import time

import nbdraw
from nbdraw import (ABORT, ACK, EINVAL, ERR_INVALID, ERR_POLICY, ERR_TOO_BIG,
                    ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, FAST_ZERO, FLUSH, GO,
                    INFO, LIST, LIST_META, READ, SET_META, STARTTLS, STATUS,
                    STRUCTURED, WRITE, ZEROES, Client, Closed, meta, name_info)
from sluiced import SANITIZED, Sluiced, run
from waiting import rest, until

MIB = 1 << 20
PATTERN = bytes(i % 251 for i in range(MIB))


class Rig:
    def __init__(self, d, *more):
        self.path = d + '/n'
        with open(d + '/disk', 'wb') as f:
            f.write(PATTERN)
        self.s = Sluiced(d, '--nbd-server',
                         'addr.type=unix,addr.path=' + self.path,
                         '--drive', 'id=v,format=raw,file=%s/disk' % d,
                         '--export', 'nbd,id=e,node-name=v,name=v,writable=on',
                         *more)

    def __enter__(self):
        self.s.__enter__()
        self.keep = self.client().go('v')
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            # Whatever happened, who was connected before still is served.
            assert self.keep.read(0, 512)
            self.keep.close()
        self.s.__exit__(kind, value, trace)

    def client(self, flags=3):
        return Client(self.path).greet(flags)

    def rss(self):
        with open('/proc/%d/statm' % self.s.proc.pid, encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGESIZE')

    def fds(self):
        return len(os.listdir('/proc/%d/fd' % self.s.proc.pid))


def dropped(c):
    try:
        return c.at_end()
    except Closed:
        return True


def test_VC1_requests_longer_than_the_buffer(d):
    with Rig(d) as r:
        for cmd in (READ, WRITE):
            for length in ((32 << 20) + 1, 1 << 28, 0x7fffffff, 0xffffffff):
                c = r.client().go('v')
                c.send_req(cmd, 0, length)
                if cmd == READ:
                    assert c.reply()[1].error != 0
                    assert c.alive()
                elif length > 64 << 20:
                    assert dropped(c), length
                c.close()
        for off in (1 << 63, (1 << 64) - 512, (1 << 64) - 1, MIB, MIB - 1):
            c = r.client().go('v')
            for cmd in (READ, WRITE, ZEROES, STATUS):
                data = bytes(512) if cmd == WRITE else b''
                assert c.req(cmd, off, 512, data=data).error != 0
            assert c.alive()
            c.close()
        assert r.client().go('v').read(0, MIB) == PATTERN


def test_VC2_clients_that_go_away_at_every_byte(d):
    stream = (struct.pack('>I', 3) + nbdraw.OPT_MAGIC +
              struct.pack('>II', STRUCTURED, 0) + nbdraw.OPT_MAGIC +
              struct.pack('>II', GO, 7) + name_info('v') +
              struct.pack('>IHHQQI', nbdraw.REQ_MAGIC, 0, READ, 1, 0, 65536) +
              struct.pack('>IHHQQI', nbdraw.REQ_MAGIC, 0, WRITE, 2, 0, 512))
    with Rig(d) as r:
        fds = r.fds()
        for n in range(len(stream) + 1):
            c = Client(r.path)
            c.send(stream[:n])
            c.close()
        until(lambda: r.fds() <= fds, 'descriptors to be given back')
        # Half a WRITE wrote nothing.
        assert r.client().go('v').read(0, MIB) == PATTERN


def test_VC2_resets_over_TCP_at_every_byte(d):
    """Not an end of the stream, a reset: by a scanner of ports, for one."""
    stream = (struct.pack('>I', 3) + nbdraw.OPT_MAGIC +
              struct.pack('>II', GO, 12) + name_info('nobody') +
              nbdraw.OPT_MAGIC + struct.pack('>II', ABORT, 0))
    with Rig(d) as r:
        r.s.qmp.cmd('nbd-server-stop')
        r.s.qmp.cmd('nbd-server-start', {'addr': {'type': 'inet', 'data': {
            'host': '127.0.0.1', 'port': '0'}}})
        r.s.qmp.cmd('block-export-add', type='nbd', id='e', node_name='v',
                    name='v', writable=True)
        port = tcp_port(r.s.proc.pid)
        fds = r.fds()
        for n in range(len(stream) + 1):
            c = Client(('127.0.0.1', port))
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                              struct.pack('ii', 1, 0))
            if n % 2:
                c.greet(None)
            c.send(stream[:n])
            c.close()
        until(lambda: r.fds() <= fds, 'descriptors to be given back')
        r.keep = Client(('127.0.0.1', port)).greet().go('v')


def tcp_port(pid):
    """Where the daemon listens."""
    mine = {os.readlink('/proc/%d/fd/%s' % (pid, f))
            for f in os.listdir('/proc/%d/fd' % pid)}
    with open('/proc/net/tcp', encoding='ascii') as f:
        for line in f:
            w = line.split()
            if w[3] == '0A' and 'socket:[%s]' % w[9] in mine:
                return int(w[1].split(':')[1], 16)
    raise AssertionError('it does not listen')


def test_VC4_a_storm_of_signals_during_io(d):
    with Rig(d) as r:
        stop = threading.Event()

        def storm():
            while not stop.is_set():
                for sig in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH,
                            signal.SIGURG, signal.SIGCONT):
                    r.s.proc.send_signal(sig)
                time.sleep(0.0005)
        t = threading.Thread(target=storm)
        t.start()
        try:
            c = r.client().go('v')
            for i in range(500):
                off = i * 977 % (MIB - 4096)
                assert c.write(off, PATTERN[off:off + 3000]) == 0
                assert c.read(off, 4096) == PATTERN[off:off + 4096]
            assert c.req(FLUSH).error == 0
            r.s.qmp.cmd('query-block')
        finally:
            stop.set()
            t.join()


def test_VC5_long_names_in_every_option(d):
    with Rig(d) as r:
        for n in (256, 257, 1024, 1025, 4095, 4096, 4097, 8192, 65000):
            name = b'x' * n
            c = r.client().sr()
            good = ERR_UNKNOWN if n <= 4096 else ERR_INVALID
            for opt, data in ((INFO, name_info(name)), (GO, name_info(name)),
                              (LIST_META, meta(name)), (SET_META, meta(name)),
                              (SET_META, meta('v', [name])),
                              (SET_META, meta('v', [b'base:' + name]))):
                kind = c.opt(opt, data)[0]
                assert kind in (good, ERR_INVALID, ERR_TOO_BIG, ACK), (n, opt)
                assert kind != ACK or opt in (LIST_META, SET_META)
            c.go('v').alive()
            c.close()
            c = r.client()
            c.send_opt(EXPORT_NAME, name)
            assert dropped(c)


def test_VC6_lengths_near_4_GiB_inside_options(d):
    with Rig(d) as r:
        c = r.client().sr()
        for big in (0xffffffff, 0xfffffffe, 0x80000000, 0x7fffffff):
            word = struct.pack('>I', big)
            for opt in (INFO, GO, LIST_META, SET_META):
                for data in (word, word + b'v', word + b'v\0\0',
                             b'\0\0\0\1v' + word, b'\0\0\0\1v\0\0\0\1' + word,
                             b'\0\0\0\1v\xff\xff'):
                    kind = c.opt(opt, data)[0]
                    assert kind == ERR_INVALID, (opt, data, kind)
            c.close()
            c = r.client().sr()
        c.go('v').alive()


def test_VC7_huge_options_are_not_read(d):
    with Rig(d) as r:
        before = r.rss()
        for opt in (STARTTLS, LIST, GO, EXPORT_NAME, 99):
            c = r.client()
            c.send_opt(opt, length=0xffffffff)
            assert dropped(c), opt
        c = r.client()
        c.send_opt(99, length=32 << 20)
        try:
            for _ in range(64):
                c.send(bytes(MIB // 2))
            assert c.opt_reply(99)[0] == ERR_TOO_BIG
        except Closed:
            pass
        assert r.rss() - before < 16 * MIB


def test_VC8_unknown_names_in_error_texts(d):
    with Rig(d) as r:
        for name in (b'x' * 4096, 'é'.encode() * 2048, '\U0001f600'.encode()
                     * 1024, b'%s%n' * 1024, b'\x1b[2J' * 1024):
            c = r.client()
            for opt in (INFO, GO):
                # opt_reply() checks that texts are UTF-8 of up to 4096 bytes.
                kind, text, _ = c.opt(opt, name_info(name))
                assert kind in (ERR_UNKNOWN, ERR_INVALID)
                assert b'\x1b' not in text
            c.go('v').alive()
            c.close()
        for name in (b'\xff' * 100, b'a\0b', b'\xc3'):
            c = r.client()
            assert c.opt(GO, name_info(name))[0] in (ERR_INVALID, ERR_UNKNOWN)
            c.close()


def test_VC9_many_connects_without_a_handshake(d):
    with Rig(d) as r:
        crowd = []
        for i in range(300):
            c = socket.socket(socket.AF_UNIX)   # blocks while the queue is full
            c.connect(r.path)
            if i % 3 == 0:
                c.send(b'\0\0\0\3IHAVE')
            crowd.append(c)
        def attempt():
            try:
                return r.client()
            except (BlockingIOError, Closed):   # the queue is still full
                return None
        c = until(attempt, 'a place')
        for opt in (INFO, STRUCTURED, INFO, LIST, GO):
            data = name_info('v') if opt in (INFO, GO) else b''
            assert c.opt(opt, data)[0] == ACK
        c.structured = True
        assert c.alive()
        for s in crowd:
            s.close()


def test_VC10_plaintext_around_STARTTLS(d):
    with Rig(d) as r:
        c = r.client().sr()
        assert c.set_meta('v', ['base:allocation'])
        c.structured = False
        # No TLS here: refused, and what was piped behind is options, no more.
        c.send(nbdraw.OPT_MAGIC + struct.pack('>II', STARTTLS, 0) +
               nbdraw.OPT_MAGIC + struct.pack('>II', 77, 3) + b'abc' +
               nbdraw.OPT_MAGIC + struct.pack('>II', LIST, 0))
        assert c.opt_reply(STARTTLS)[0] in (ERR_POLICY, ERR_UNSUP)
        assert c.opt_reply(77)[0] == ERR_UNSUP
        kinds = []
        while not kinds or kinds[-1] != ACK:
            kinds.append(c.opt_reply(LIST)[0])
        c.structured = True
        assert c.go('v').alive()


def test_VC11_the_server_stops_in_two_seconds(d):
    with Rig(d) as r:
        held = [Client(r.path) for _ in range(40)]
        for c in held[20:]:
            try:
                c.greet()
                c.send(b'IHAVEOPT\0')
            except Closed:
                pass
        stuck = r.client().go('v')
        for _ in range(64):
            stuck.send_req(READ, 0, MIB)
        start = rest()
        r.s.qmp.cmd('nbd-server-stop')
        assert SANITIZED or rest() - start < 2
        assert r.s.qmp.cmd('query-block-exports') == []
        r.s.qmp.cmd('nbd-server-start', {
            'addr': {'type': 'unix', 'data': {'path': r.path}}})
        r.s.qmp.cmd('block-export-add', type='nbd', id='e', node_name='v',
                    name='v', writable=True)
        r.keep = r.client().go('v')
        for c in held + [stuck]:
            c.close()


def test_VC12_lengths_of_nearly_4_GiB_on_a_large_disk(d):
    with Rig(d, '--blockdev', 'null-co,node-name=big,size=64G,read-zeroes=on',
             '--export', 'nbd,id=b,node-name=big,name=big,writable=on') as r:
        c = r.client().sr()
        assert c.set_meta('big', ['base:allocation'])
        c.go('big')
        for off in (0, 1, 512, 60 << 30):
            for length in (0xffffffff, 0xfffffe00):
                start = rest()
                assert c.req(STATUS, off, length).error == 0
                assert c.req(ZEROES, off, length).error == 0
                assert rest() - start < 20
        assert c.req(STATUS, (64 << 30) - 512, 0xffffffff).error == EINVAL
        assert c.alive()


def test_VC13_fast_zero_and_greedy_clients(d):
    with Rig(d) as r:
        c = r.client().go('v')
        assert c.req(ZEROES, 0, 0, FAST_ZERO).error in (0, EINVAL)
        assert c.req(READ, 0, 512, FAST_ZERO).error == EINVAL
        assert c.req(WRITE, 0, 512, FAST_ZERO, bytes(512)).error == EINVAL
        c.close()
        greedy = []
        for _ in range(8):
            c = r.client().go('v')
            try:
                for _ in range(200):
                    c.sock.settimeout(0.2)
                    c.send_req(READ, 0, MIB)
            except OSError:
                pass
            greedy.append(c)
        assert r.rss() < 700 * MIB
        for c in greedy:
            c.close()
        for i in range(300):
            c = r.client().go('v')
            c.send(b''.join(c.pack_req(READ, 0, 4096)[1] for _ in range(64)))
            c.close()


if __name__ == '__main__':
    run(globals())
