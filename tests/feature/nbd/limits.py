#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a slow, greedy, hostile or vanished client can not do (VC11, VC13, the
limits): each limit at its value and one beyond, and others always served."""
import random
import socket
import struct
import sys

import rig
from nbdserver import row, run_rows
from seed import SEED
from waiting import let_pass, rest, until
import nbdraw
from nbdraw import (ACK, ERR_POLICY, GO, LIST, READ, WRITE, Client, Closed,
                    name_info)

MIB = rig.MIB


def is_open(c):
    """Nothing to read now, and no end of the stream."""
    c.sock.settimeout(0)
    try:
        return c.sock.recv(1) != b''
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        c.sock.settimeout(None)


def settle_half_open(s):
    """Handshakes that other rows left behind are over."""
    until(lambda: s('query')['coroutines'] <= 4, 'connections end')


@row('L1', '16 connections of one export, the 17th is refused by policy')
def l1(s):
    clients = [s.go('ro') for _ in range(16)]
    c = s.client()
    assert c.opt(GO, name_info('ro'))[0] == ERR_POLICY
    c.go('rw').alive()
    clients.pop().close()
    until(lambda: s.client().opt(GO, name_info('ro'))[0] == ACK,
            'a place became free')


@row('L2', '32 handshakes at a time; one more pushes out the oldest')
def l2(s):
    settle_half_open(s)
    idle = [s.client() for _ in range(32)]
    let_pass(0.1)
    assert all(is_open(c) for c in idle)
    newest = s.client()
    until(lambda: not is_open(idle[0]), 'the oldest is pushed out')
    let_pass(0.1)
    assert all(is_open(c) for c in idle[1:])
    assert newest.opt(LIST)[0] == ACK


@row('L3', 'a flood of half-open connections locks nobody out')
def l3(s):
    flood = []
    for i in range(300):
        flood.append(Client(s.path))
        if i % 30 == 0:
            c = s.go('ro')
            assert c.alive()
            c.close()
    until(lambda: s.fds() < 100, 'descriptors are given back')


@row('L4', 'connections beyond the maximum wait for a place')
def l4(_):
    s = rig.make_server(**{'max-connections': 2})
    a, b = s.go('ro'), s.go('rw')
    assert a.alive() and b.alive()
    waiting = Client(s.path)
    let_pass(0.1)
    assert is_open(waiting)
    a.close()
    waiting.greet().go('ro').alive()
    s.close()


@row('L5', 'one connection only: multi-conn is not offered')
def l5(_):
    s = rig.make_server(**{'max-connections': 1})
    for _ in range(20):
        c = s.go('rw')
        assert not c.flags & nbdraw.MULTI_CONN
        assert c.alive()
        c.close()
    s.close()


@row('L6', '64 requests in flight, then reading stops; all are answered')
def l6(s):
    c = s.go('rw')
    s('hold', on=True)
    # In one call: the kernel counts small writes of a Unix socket as large.
    sent, heads = zip(*(c.pack_req(READ, i * 512, 512) for i in range(200)))
    c.send(b''.join(heads))
    s.wait_held(64)
    let_pass(0.1)
    assert s('query')['held'] == 64
    s.go('ro').alive()
    s('hold', on=False)
    got = dict(c.reply() for _ in sent)
    for i, cookie in enumerate(sent):
        assert got[cookie].data == rig.pattern(i * 512, 512)


@row('L7', '64 MiB of payload in flight, then reading stops')
def l7(s):
    for cmd in (READ, WRITE):
        c = s.go('rw')
        s('hold', on=True)
        n = 4 if cmd == WRITE else 6
        for i in range(n):
            data = bytes(16 * MIB) if cmd == WRITE else b''
            c.send_req(cmd, 96 * MIB, 16 * MIB, data=data)
        s.wait_held(4)
        let_pass(0.1)
        assert s('query')['held'] == 4
        s('hold', on=False)
        for _ in range(n):
            assert c.reply()[1].error == 0
        c.close()


@row('VC13a', 'clients that never read replies: memory stays in the budget')
def vc13a(s):
    s.go('rw').read(0, 32 * MIB)
    before = s.rss()
    greedy = []
    for _ in range(12):
        c = s.go('rw')
        for _ in range(64):
            c.send_req(READ, 0, 32 * MIB)
        greedy.append(c)
    peak = 0
    for _ in range(20):
        # Others do not notice.
        start = rest()
        c = s.go('ro')
        for i in range(20):
            assert c.read(i * 4096, 4096) == rig.pattern(i * 4096, 4096)
        c.close()
        assert rest() - start < 2
        peak = max(peak, s.rss())
    assert peak - before < 600 * MIB, 'RSS grew by %d MiB' % (
        (peak - before) // MIB)
    for c in greedy:
        c.close()
    until(lambda: s('query')['coroutines'] < 20, 'all is released')
    assert len(s.go('rw').read(0, 32 * MIB)) == 32 * MIB


@row('VC13b', '1,000 clients that vanish with 64 replies in flight')
def vc13b(s):
    rnd = random.Random(SEED)
    fds = s.fds()
    for i in range(1000):
        c = s.go('rw', sr=bool(i % 2))
        batch = b''.join(c.pack_req(READ, rnd.randrange(MIB - 4096), 4096)[1]
                         for _ in range(64))
        c.send(batch[:rnd.randrange(28, len(batch))])
        if i % 3 == 0:
            c.recv(rnd.randrange(1, 2000) if i % 2 else 16)
        c.close()
    assert s.go('rw').alive()
    until(lambda: s.fds() <= fds + 2, 'descriptors are given back')
    until(lambda: s('query')['coroutines'] < 20, 'coroutines end')


@row('VC13c', 'random bytes for requests end one connection only')
def vc13c(s):
    rnd = random.Random(SEED + 1)
    keep = s.go('ro')
    for i in range(300):
        c = s.go('ro', sr=bool(i % 2))
        junk = rnd.randbytes(rnd.randrange(1, 200))
        if i % 2:
            junk = struct.pack('>I', nbdraw.REQ_MAGIC) + junk
        try:
            c.send(junk)
        except Closed:
            pass
        c.close()
        assert keep.alive()


@row('L8', 'a client that reads a byte at a time gets all, others go on')
def l8(s):
    c = s.go('rw')
    c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    c.send_req(READ, 0, MIB)
    other = s.go('rw')
    got = b''
    for i in range(2000):
        got += c.sock.recv(1)
        if i % 500 == 0:
            assert other.alive()
    rest = 16 + MIB - len(got)
    got += c.recv(rest)
    assert got[16:] == rig.pattern(0, MIB)


@row('VC11', 'stopping takes under two seconds, whatever clients hold open')
def vc11(_):
    s = rig.make_server()
    half = [Client(s.path) for _ in range(20)]
    half += [s.client() for _ in range(5)]
    for c in half[-3:]:
        c.send(b'IHAVEOPT\0\0')
    idle = [s.go('ro') for _ in range(5)]
    stuck = s.go('rw')
    for _ in range(64):
        stuck.send_req(READ, 0, 32 * MIB)
    torn = s.go('rw')
    torn.send_req(WRITE, 0, MIB, data=bytes(1000))
    s('query')
    start = rest()
    s('stop')
    took = rest() - start
    assert took < 2, took
    assert s('query')['exports'] == []
    until(lambda: not any(is_open(c) for c in idle), 'all are closed')
    # And it starts again, on the same path.
    s('start')
    s('add', type='nbd', id='ro', node_name='ro')
    s.go('ro').alive()
    s.close()


@row('VC11b', 'quitting too')
def vc11b(_):
    s = rig.make_server()
    half = [Client(s.path) for _ in range(30)] + [s.go('rw')]
    start = rest()
    s.close()
    assert rest() - start < 2
    assert len(half) == 31


if __name__ == '__main__':
    sys.exit(run_rows(rig.make_server))
