#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Transmission with simple replies: rows X1-X24 of the conformance list."""
import random
import socket
import sys

import rig
from nbdserver import row, run_rows
from seed import SEED
from waiting import let_pass
import nbdraw
from nbdraw import (CACHE, DISC, EINVAL, EIO, ENOSPC, EOVERFLOW, EPERM,
                    ESHUTDOWN, FAST_ZERO, FLUSH, FUA, NO_HOLE, READ, REQ_ONE,
                    STATUS, TRIM, WRITE, ZEROES, Closed)

MIB = rig.MIB


def dropped(c):
    try:
        return c.at_end()
    except Closed:
        return True


@row('X1', 'a wrong request magic drops; cookies are opaque')
def x1(s):
    c = s.go('ro')
    for cookie in (0, 1 << 63, 0xffffffffffffffff, 0x1234567890abcdef):
        c.send_req(READ, 0, 16, cookie=cookie)
        got, reply = c.reply()
        assert got == cookie and reply.data == rig.pattern(0, 16)
    c.send_req(READ, 0, 16, magic=0x25609514)
    assert dropped(c)


@row('X1b', 'replies come in any order, each with its own data')
def x1b(s):
    c = s.go('ro')
    want = {}
    for i in range(64):
        want[c.send_req(READ, i * 1000, 300)] = rig.pattern(i * 1000, 300)
    for _ in range(64):
        cookie, reply = c.reply()
        assert reply.data == want.pop(cookie)
    assert not want


@row('X2', 'length 0 succeeds without effect')
def x2(s):
    c = s.go('rw')
    for cmd in (READ, WRITE, TRIM, ZEROES, CACHE):
        for off in (0, 1, rig.RW_SIZE):
            assert c.req(cmd, off, 0).error == 0, (cmd, off)
    assert c.read(0, 4096) == rig.pattern(0, 4096)


BEYOND = [(rig.RW_SIZE, 1), (rig.RW_SIZE - 1, 2), (1 << 63, 512),
          ((1 << 64) - 1, 1), ((1 << 64) - 512, 1024), ((1 << 64) - 1, 0)]


@row('X3', 'READ, TRIM, CACHE past the end are EINVAL')
def x3(s):
    c = s.go('rw')
    for off, length in BEYOND:
        for cmd in (READ, TRIM, CACHE):
            assert c.req(cmd, off, length).error == EINVAL, (cmd, off)
    assert c.alive()


@row('X4', 'WRITE, WRITE_ZEROES past the end are ENOSPC, payload consumed')
def x4(s):
    c = s.go('rw')
    for off, length in BEYOND:
        assert c.req(WRITE, off, length, data=bytes(length)).error == ENOSPC
        assert c.req(ZEROES, off, length).error == ENOSPC
    assert c.req(ZEROES, 512, 0xffffffff).error == ENOSPC
    assert c.read(rig.RW_SIZE - 512, 512) == bytes(512)


@row('X5', 'writing to a read-only export is EPERM, payload consumed')
def x5(s):
    c = s.go('ro')
    assert c.flags & nbdraw.READ_ONLY
    assert c.write(0, bytes(100000)) == EPERM
    assert c.write(rig.RO_SIZE, bytes(512)) == EPERM
    assert c.req(TRIM, 0, 512).error == EPERM
    assert c.req(ZEROES, 0, 512).error == EPERM
    assert c.req(FLUSH).error == 0
    assert c.read(0, 512) == rig.pattern(0, 512)


@row('X6', 'unknown commands and flags, flags on wrong commands: EINVAL')
def x6(s):
    c = s.go('rw')
    for cmd in (8, 9, 99, 0xffff):
        assert c.req(cmd, 0, 512).error == EINVAL
    rows = [(READ, NO_HOLE), (READ, REQ_ONE), (READ, FAST_ZERO), (READ, 32),
            (READ, nbdraw.DF), (WRITE, NO_HOLE), (WRITE, nbdraw.DF),
            (TRIM, FAST_ZERO), (FLUSH, NO_HOLE), (CACHE, REQ_ONE),
            (ZEROES, nbdraw.DF), (ZEROES, 1 << 15), (STATUS, NO_HOLE)]
    for cmd, flag in rows:
        length = 0 if cmd == FLUSH else 512
        data = bytes(512) if cmd == WRITE else b''
        r = c.req(cmd, 0, length, flag, data)
        assert r.error == EINVAL, (cmd, flag, r.error)
    assert c.read(0, 512) == rig.pattern(0, 512)


@row('X7', 'FUA is accepted on every command')
def x7(s):
    c = s.go('rw')
    assert c.flags & nbdraw.SEND_FUA
    keep = c.read(2 * MIB, 512)
    assert c.write(2 * MIB, keep, FUA) == 0
    for cmd, length in ((READ, 512), (FLUSH, 0), (TRIM, 512), (CACHE, 512),
                        (ZEROES, 512)):
        assert c.req(cmd, 2 * MIB if length else 0, length, FUA).error == 0


@row('X8', 'FLUSH with an offset or a length is EINVAL')
def x8(s):
    c = s.go('rw')
    assert c.req(FLUSH).error == 0
    assert c.req(FLUSH, 512, 0).error == EINVAL
    assert c.req(FLUSH, 0, 512).error == EINVAL


@row('X10', 'multi-conn is offered, and a write shows on the other connection')
def x10(s):
    a, b = s.go('rw'), s.go('rw')
    assert a.flags & nbdraw.MULTI_CONN
    for i in range(50):
        data = bytes([i + 1]) * 4096
        assert a.write(3 * MIB, data) == 0
        assert b.read(3 * MIB, 4096) == data
        assert b.req(FLUSH).error == 0
        a, b = b, a


@row('X11', 'READ of 32 MiB works, longer is EOVERFLOW')
def x11(s):
    c = s.go('rw')
    data = c.read(0, 32 * MIB)
    assert data[:MIB] == rig.pattern(0, MIB)
    for length in (32 * MIB + 1, 100 * MIB):
        assert c.req(READ, 0, length).error == EOVERFLOW
    assert c.alive()


@row('X12', 'WRITE of 32 MiB works, up to 64 is EINVAL, beyond drops')
def x12(s):
    c = s.go('rw')
    data = bytes(range(256)) * (32 * MIB // 256)
    assert c.write(64 * MIB, data) == 0
    assert c.read(64 * MIB, 32 * MIB) == data
    assert c.write(64 * MIB, bytes(32 * MIB + 1)) == EINVAL
    assert c.write(64 * MIB, bytes(64 * MIB)) == EINVAL
    assert c.read(64 * MIB, 4096) == data[:4096]
    c.send_req(WRITE, 0, 64 * MIB + 1)
    assert dropped(c)
    c = s.go('rw')
    c.send_req(WRITE, 0, 0xffffffff)
    assert dropped(c)


@row('X13', 'TRIM and WRITE_ZEROES take more than a payload')
def x13(s):
    c = s.go('rw')
    assert c.req(ZEROES, 4 * MIB, rig.RW_SIZE - 4 * MIB).error == 0
    assert c.req(TRIM, 4 * MIB, rig.RW_SIZE - 4 * MIB).error == 0
    assert c.read(rig.RW_SIZE - 512, 512) == bytes(512)


@row('X14', 'WRITE_ZEROES reads back as zeroes, NO_HOLE too, at any alignment')
def x14(s):
    c = s.go('rw')
    for flags in (0, NO_HOLE, FUA, NO_HOLE | FUA):
        for off, length in ((5 * MIB, MIB), (5 * MIB + 3, 70001), (5 * MIB, 1)):
            assert c.write(5 * MIB, b'\xff' * (2 * MIB)) == 0
            assert c.req(ZEROES, off, length, flags).error == 0
            at = off - 5 * MIB
            want = bytearray(b'\xff' * (2 * MIB))
            want[at:at + length] = bytes(length)
            assert c.read(5 * MIB, 2 * MIB) == want


@row('X15', 'FAST_ZERO where offered is done or refused unchanged')
def x15(s):
    c = s.go('rw')
    assert c.flags & nbdraw.SEND_FAST_ZERO
    assert c.write(8 * MIB, b'\xff' * 65536) == 0
    error = c.req(ZEROES, 8 * MIB, 65536, FAST_ZERO).error
    assert error in (0, nbdraw.ENOTSUP)
    assert c.read(8 * MIB, 65536) == (b'\xff' if error else b'\0') * 65536
    c = s.go('ro')
    assert not c.flags & nbdraw.SEND_FAST_ZERO
    assert c.req(ZEROES, 0, 65536, FAST_ZERO).error == EINVAL
    assert c.alive()


@row('X16', 'CACHE works, rejects flags, changes nothing')
def x16(s):
    for name in ('rw', 'ro', 'chain'):
        c = s.go(name)
        before = c.read(0, 65536)
        assert c.flags & nbdraw.SEND_CACHE
        assert c.req(CACHE, 0, 65536).error == 0
        assert c.req(CACHE, 0, 65536, NO_HOLE).error == EINVAL
        assert c.read(0, 65536) == before


@row('X17', 'DISC waits for what is in flight, then closes without a reply')
def x17(s):
    c = s.go('rw')
    s('hold', on=True)
    sent = [c.send_req(WRITE, 10 * MIB + i * 512, 512, data=bytes([i]) * 512)
            for i in range(1, 9)]
    s.wait_held(8)
    c.send_req(DISC, 77, 88)
    s('query')
    s('hold', on=False)
    got = [c.reply()[0] for _ in sent]
    assert sorted(got) == sent
    assert dropped(c)
    c = s.go('rw')
    for i in range(1, 9):
        assert c.read(10 * MIB + i * 512, 512) == bytes([i]) * 512


@row('X18', 'after a half-close the replies are still delivered')
def x18(s):
    c = s.go('rw')
    s('hold', on=True)
    sent = [c.send_req(READ, i * 512, 512) for i in range(20)]
    c.sock.shutdown(1)
    s.wait_held(20)
    s('hold', on=False)
    got = dict(c.reply() for _ in sent)
    for i, cookie in enumerate(sent):
        assert got[cookie].data == rig.pattern(i * 512, 512)
    assert dropped(c)


@row('X19', 'requests at any byte and length')
def x19(s):
    c = s.go('rw')
    base = 12 * MIB
    shadow = bytearray(16384)
    assert c.write(base, bytes(16384)) == 0
    for off, length in ((0, 1), (1, 1), (511, 1), (511, 2), (512, 511), (3, 3),
                        (4095, 2), (4097, 8191), (1, 16383)):
        data = bytes([(off + length) % 255 + 1]) * length
        assert c.write(base + off, data) == 0
        shadow[off:off + length] = data
        assert c.read(base, 16384) == shadow
    c = s.go('ro')
    for off, length in ((rig.RO_SIZE - 7, 7), (rig.RO_SIZE - 1, 1),
                        (rig.RO_SIZE - 513, 513), (1, 1), (511, 3)):
        assert c.read(off, length) == rig.pattern(off, length)


@row('X20', 'stopping: what is in flight is answered, the rest ESHUTDOWN')
def x20(_):
    s = rig.make_server()
    c = s.go('rw')
    s('hold', on=True)
    first = c.send_req(READ, 0, 512)
    s.wait_held(1)
    stop = s.begin('stop')
    s('query')
    second = c.send_req(READ, 512, 512)
    cookie, reply = c.reply()
    assert cookie == second and reply.error == ESHUTDOWN
    s('hold', on=False)
    cookie, reply = c.reply()
    assert cookie == first and reply.data == rig.pattern(0, 512)
    assert 'error' not in s.finish(stop)
    assert dropped(c)
    s.close()


@row('X21', 'errors of the node become errors of the protocol')
def x21(s):
    table = {1: EPERM, 5: EIO, 12: nbdraw.ENOMEM, 22: EINVAL, 28: ENOSPC,
             122: ENOSPC, 27: ENOSPC, 75: EOVERFLOW, 95: nbdraw.ENOTSUP,
             108: ESHUTDOWN, 2: EIO, 16: EIO, 110: EIO, 74: EIO}
    for sr in (False, True):
        c = s.go('rw', sr=sr)
        for errno, want in table.items():
            s('fail', errno=errno)
            assert c.req(READ, 0, 512).error == want, errno
            assert c.req(WRITE, 0, 512, data=rig.pattern(0, 512)).error == want
        s('fail', errno=0)
        assert c.read(0, 512) == rig.pattern(0, 512)


@row('X22', 'an error never comes after a header that promised data')
def x22(s):
    c = s.go('rw')
    s('fail', errno=5)
    for length in (512, MIB, 32 * MIB):
        assert c.req(READ, 0, length).error == EIO
    s('fail', errno=0)
    assert c.alive()


@row('X23', 'of a write that is cut off nothing is written')
def x23(s):
    a = s.go('rw')
    for length, sent in ((4096, 4095), (MIB, 300000), (8 * MIB, 5 * MIB),
                         (512, 0)):
        before = a.read(16 * MIB, length)
        c = s.go('rw')
        c.send_req(WRITE, 16 * MIB, length, data=b'\xee' * sent)
        c.close()
        let_pass(0.05)
        assert a.read(16 * MIB, length) == before


@row('X24', 'transmission flags say what there is')
def x24(s):
    common = (nbdraw.HAS_FLAGS | nbdraw.SEND_FLUSH | nbdraw.SEND_FUA |
              nbdraw.MULTI_CONN | nbdraw.SEND_CACHE)
    rw = (common | nbdraw.SEND_TRIM | nbdraw.SEND_ZEROES |
          nbdraw.SEND_FAST_ZERO)
    assert s.go('rw').flags == rw == 0xd6d
    assert s.go('rw', sr=True).flags == rw | nbdraw.SEND_DF == 0xded
    assert s.go('ro').flags == common | nbdraw.READ_ONLY


@row('X25', 'a random mix of writes, zeroes, trims and reads keeps its word')
def x25(s):
    rnd = random.Random(SEED)
    base, size = 20 * MIB, 256 * 1024
    clients = [s.go('rw', sr=bool(i % 2)) for i in range(4)]
    shadow = bytearray(size)
    assert clients[0].write(base, bytes(size)) == 0
    for step in range(600):
        c = rnd.choice(clients)
        off = rnd.randrange(size)
        n = min(rnd.choice([1, 511, 512, 4096, 5000, 65536]), size - off)
        what = rnd.choice(['read', 'write', 'zero', 'flush'])
        if what == 'read':
            got = c.read(base + off, n)
            assert got == shadow[off:off + n], 'step %d' % step
        elif what == 'write':
            data = rnd.randbytes(n)
            assert c.write(base + off, data, rnd.choice([0, 0, FUA])) == 0
            shadow[off:off + n] = data
        elif what == 'zero':
            assert c.req(ZEROES, base + off, n,
                         rnd.choice([0, NO_HOLE])).error == 0
            shadow[off:off + n] = bytes(n)
        else:
            assert c.req(FLUSH).error == 0


def old_and_new(s, in_flight, newer_waits):
    """A client with 64 requests in flight, of which the last is @in_flight,
    writes once more and sends no more; another writes to the same place through
    a second export of the disk, around the hold node."""
    off = 24 * MIB
    s('add', type='nbd', id='rw2', name='rw2', node_name='rw-raw',
      writable=True)
    try:
        old, new = s.go('rw'), s.go('rw2')
        s('hold', on=True)
        for _ in range(63):
            old.send_req(READ, 0, 512)
        in_flight(old, off)
        s.wait_held(64)
        old.send_req(WRITE, off, 4096, data=b'\x0a' * 4096)
        # Not closed: over TCP, too, the server finds out late that nobody
        # reads its replies.
        old.sock.shutdown(socket.SHUT_WR)
        mine = new.send_req(WRITE, off, 4096, data=b'\x0b' * 4096)
        beside = new.send_req(WRITE, off + MIB, 512, data=b'\x0c' * 512)
        # Replies come in the order of completion.
        cookie, reply = new.reply()
        assert reply.error == 0
        assert cookie == (beside if newer_waits else mine)
        s('hold', on=False)
        assert new.reply()[1].error == 0
        gone(s, 'rw')
        assert new.read(off, 4096) == b'\x0b' * 4096
        new.close()
    finally:
        s.calm()
        s('del', id='rw2', hard=True)


def gone(s, export):
    """Until nobody is connected to @export."""
    while s.error('del', id=export):
        pass
    s('add', type='nbd', **next(e for e in rig.EXPORTS if e['id'] == export))


@row('X26', 'a write that nobody has read does not land after its client')
def x26(s):
    old_and_new(s, lambda c, off: c.send_req(READ, 0, 512), False)


@row('X27', 'a newer write waits for that of a client that is lost')
def x27(s):
    old_and_new(s, lambda c, off:
                c.send_req(WRITE, off, 4096, data=b'\x0d' * 4096), True)


if __name__ == '__main__':
    sys.exit(run_rows(rig.make_server))
