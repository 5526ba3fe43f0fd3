#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Handshake and options: rows H1-H24 of the conformance list, TL1, TL3 of a
server without TLS, and what past servers fell to (VC2-VC9)."""
import random
import struct
import sys

import rig
from nbdserver import row, run_rows
from seed import SEED
import nbdraw
from nbdraw import (ABORT, ACK, ERR_INVALID, ERR_POLICY, ERR_SHUTDOWN,
                    ERR_TOO_BIG, ERR_UNKNOWN, ERR_UNSUP, EXPORT_NAME, GO, INFO,
                    INFO_BLOCK_SIZE, INFO_DESCRIPTION, INFO_NAME, LIST,
                    LIST_META, SET_META, STARTTLS, STRUCTURED, Client, Closed,
                    meta, name_info)


def raw(s):
    return Client(s.path)


def dropped(c):
    """The server closes without another byte."""
    try:
        return c.at_end()
    except Closed:
        return True


@row('H1', 'greets with fixed newstyle and no-zeroes only')
def h1(s):
    c = s.client()
    assert c.server_flags == 3


@row('H2', 'drops a client that sets flags which were not offered')
def h2(s):
    for flags in (4, 0x80000000, 7, 0x10003):
        assert dropped(raw(s).greet(flags)), flags


@row('H3', 'without the fixed flag only EXPORT_NAME works')
def h3(s):
    c = raw(s).greet(0)
    c.send_opt(LIST)
    assert dropped(c)
    c = raw(s).greet(0)
    c.send_opt(EXPORT_NAME, b'ro')
    size, _ = struct.unpack('>QH', c.recv(10))
    assert size == rig.RO_SIZE
    assert c.recv(124) == bytes(124)
    assert c.read(0, 512) == rig.pattern(0, 512)


@row('H4', 'drops at a wrong option magic')
def h4(s):
    c = s.client()
    c.send(b'IHAVEOPX' + struct.pack('>II', LIST, 0))
    assert dropped(c)


@row('H5', 'an unknown option is refused, its data consumed')
def h5(s):
    c = s.client()
    for opt in (0, nbdraw.PEEK, 12, 99, 0xffffffff):
        assert c.opt(opt, b'x' * 1000)[0] == ERR_UNSUP
        assert c.opt(opt)[0] == ERR_UNSUP
    assert c.opt(LIST)[0] == ACK


@row('H6', 'ABORT is acknowledged, with data too, and ends the connection')
def h6(s):
    for data in (b'', b'reason'):
        c = s.client()
        assert c.opt(ABORT, data)[0] == ACK
        assert dropped(c)
    c = s.client()
    c.send_opt(ABORT)
    c.close()


@row('H7', 'LIST names every export; with data it is invalid')
def h7(s):
    c = s.client()
    kind, _, before = c.opt(LIST)
    assert kind == ACK
    found = {}
    for k, d in before:
        assert k == nbdraw.SERVER
        n = struct.unpack_from('>I', d)[0]
        found[d[4:4 + n].decode()] = d[4 + n:].decode()
    assert found == {'rw': '', 'ro': 'read-only one', 'chain': ''}, found
    assert c.opt(LIST, b'x')[0] == ERR_INVALID
    assert c.opt(LIST)[0] == ACK


@row('H8', 'malformed INFO and GO are invalid and the next option works')
def h8(s):
    c = s.client()
    good = name_info('ro', [INFO_NAME])
    for opt in (INFO, GO):
        for bad in (b'', b'\0\0', good[:-1], good + b'x', good[:5],
                    struct.pack('>I', 3) + b'ro\0\0',
                    struct.pack('>I', 2) + b'ro\0\2\0\0'):
            assert c.opt(opt, bad)[0] == ERR_INVALID, bad
    c.go('ro')
    assert c.alive()


@row('H9', 'an unknown export: no information, and the next option works')
def h9(s):
    c = s.client()
    for name in ('nope', '', 'RO', 'ro ', 'r'):
        for opt in (INFO, GO):
            kind, _, infos = c.infos(opt, name)
            assert kind == ERR_UNKNOWN and not infos
    c.go('ro')


@row('H10', 'GO gives the export, then nothing before the first reply')
def h10(s):
    c = s.client()
    kind, _, infos = c.infos(GO, 'ro')
    assert kind == ACK and c.size == rig.RO_SIZE
    assert nbdraw.INFO_EXPORT in infos
    c.send_req(nbdraw.READ, 0, 512)
    assert c.reply()[1].data == rig.pattern(0, 512)


@row('H11', 'sends what was asked for, once, and the block size')
def h11(s):
    c = s.client()
    items = [INFO_NAME, INFO_NAME, INFO_DESCRIPTION, 77, 0xffff,
             INFO_BLOCK_SIZE]
    _, _, infos = c.infos(INFO, 'ro', items)
    assert infos[INFO_NAME] == b'ro'
    assert infos[INFO_DESCRIPTION] == b'read-only one'
    small, preferred, large = struct.unpack('>III', infos[INFO_BLOCK_SIZE])
    assert small == 1 and large == 32 << 20
    assert preferred & (preferred - 1) == 0 and preferred >= 512
    assert 77 not in infos and 0xffff not in infos
    _, _, infos = c.infos(INFO, 'rw', [INFO_DESCRIPTION])
    assert INFO_DESCRIPTION not in infos
    assert INFO_BLOCK_SIZE in infos and INFO_NAME not in infos


@row('H12', 'GO after INFO gives the same')
def h12(s):
    c = s.client()
    items = [INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE]
    assert c.infos(INFO, 'ro', items) == c.infos(GO, 'ro', items)


@row('H13', 'EXPORT_NAME with and without zeroes; unknown names drop')
def h13(s):
    c = s.client()
    c.send_opt(EXPORT_NAME, b'rw')
    size, flags = struct.unpack('>QH', c.recv(10))
    assert size == rig.RW_SIZE and flags & nbdraw.HAS_FLAGS
    assert c.read(0, 512) == rig.pattern(0, 512)
    c = raw(s).greet(1)
    c.send_opt(EXPORT_NAME, b'rw')
    assert c.recv(134)[10:] == bytes(124)
    assert c.alive()
    for name in (b'nope', b'', b'\xff\xfe', b'r\0', b'x' * 4097):
        c = s.client()
        c.send_opt(EXPORT_NAME, name)
        assert dropped(c), name


@row('H14', 'names of 4096 bytes are legal, longer or broken ones are not')
def h14(s):
    c = s.client()
    for opt in (INFO, GO):
        for n in (257, 1025, 4096):
            assert c.opt(opt, name_info('n' * n))[0] == ERR_UNKNOWN, n
        assert c.opt(opt, name_info('n' * 4097))[0] == ERR_INVALID
        assert c.opt(opt, name_info(b'a\0b'))[0] == ERR_INVALID
        assert c.opt(opt, name_info(b'\xff'))[0] == ERR_INVALID


@row('H15', 'STRUCTURED_REPLY: twice is fine, with data it is invalid')
def h15(s):
    c = s.client()
    assert c.opt(STRUCTURED, b'x')[0] == ERR_INVALID
    _, _, _ = c.infos(INFO, 'ro')
    assert not c.flags & nbdraw.SEND_DF
    c.sr()
    assert c.opt(STRUCTURED)[0] == ACK
    c.infos(INFO, 'ro')
    assert c.flags & nbdraw.SEND_DF


@row('H16', 'SET_META needs structured replies first')
def h16(s):
    c = s.client()
    assert c.opt(SET_META, meta('ro', ['base:allocation']))[0] == ERR_INVALID
    c.sr()
    assert c.set_meta('ro', ['base:allocation'])


def listed(c, name, queries):
    kind, _, before = c.opt(LIST_META, meta(name, queries))
    assert kind == ACK, kind
    assert all(k == nbdraw.META for k, _ in before)
    return sorted(d[4:].decode() for _, d in before)


@row('H17', 'LIST_META: all, wildcards, strange namespaces, bad syntax')
def h17(s):
    c = s.client().sr()
    both = ['base:allocation', 'qemu:allocation-depth']
    assert listed(c, 'chain', []) == both
    assert listed(c, 'ro', []) == both[:1]
    assert listed(c, 'chain', ['base:']) == both[:1]
    assert listed(c, 'chain', ['qemu:']) == both[1:]
    assert listed(c, 'chain', ['base:', 'base:allocation']) == both[:1]
    assert listed(c, 'chain', ['x-other:thing', 'base:nothing']) == []
    assert listed(c, 'ro', ['qemu:allocation-depth']) == []
    for bad in ('', 'base', ':x', 'base' * 1025):
        kind = c.opt(LIST_META, meta('chain', [bad]))[0]
        assert kind == ERR_INVALID, bad
    assert c.opt(LIST_META, meta('nope', []))[0] == ERR_UNKNOWN


@row('H18', 'SET_META replaces, also when it fails; ids are unique')
def h18(s):
    c = s.client().sr()
    ids = c.set_meta('chain', ['base:allocation', 'qemu:allocation-depth',
                               'base:allocation', 'no:such', 'base:leaf'])
    assert sorted(ids) == ['base:allocation', 'qemu:allocation-depth']
    assert len(set(ids.values())) == 2
    assert c.set_meta('chain', ['base:']) == {}
    assert c.set_meta('chain', []) == {}
    assert c.set_meta('chain', ['base:allocation'])
    assert c.opt(SET_META, meta('chain', ['bad']))[0] == ERR_INVALID
    c.go('chain')
    assert c.req(nbdraw.STATUS, 0, 512).error == nbdraw.EINVAL


@row('H19', 'contexts chosen for another export do not count')
def h19(s):
    c = s.client().sr()
    assert c.set_meta('chain', ['base:allocation'])
    c.go('ro')
    assert c.req(nbdraw.STATUS, 0, 512).error == nbdraw.EINVAL
    assert c.alive()


@row('H20', 'query lengths and counts near 2^32 are invalid, nothing more')
def h20(s):
    c = s.client().sr()
    name = struct.pack('>I', 5) + b'chain'
    for opt in (LIST_META, SET_META):
        for bad in (name + b'\xff\xff\xff\xff',
                    name + b'\xff\xff\xff\xff' + b'\0\0\0\5base:',
                    name + b'\0\0\0\1\xff\xff\xff\xff' + b'base:',
                    b'\xff\xff\xff\xff' + b'chain\0\0\0\0',
                    name + b'\0\0\0\0x', name, b''):
            assert c.opt(opt, bad)[0] == ERR_INVALID, bad
    c.go('chain')


@row('H21', 'long options are skipped, huge ones and too many drop')
def h21(s):
    c = s.client()
    assert c.opt(99, bytes(64 << 10))[0] == ERR_UNSUP
    assert c.opt(99, bytes((64 << 10) + 1))[0] == ERR_TOO_BIG
    assert c.opt(99, bytes(3 << 20))[0] == ERR_TOO_BIG
    c.send_opt(99, length=(32 << 20) + 1)
    assert dropped(c)
    for length in (0xffffffff, 0x80000000):
        c = s.client()
        c.send_opt(STARTTLS, length=length)
        assert dropped(c)
    c = s.client()
    for _ in range(32):
        assert c.opt(99)[0] == ERR_UNSUP
    c.send_opt(99)
    assert dropped(c)
    c = s.client()
    assert c.opt(LIST)[0] == ACK
    for _ in range(31 + 2 * 3):
        assert c.opt(INFO, name_info('ro'))[0] == ACK
    c.send_opt(LIST)
    assert dropped(c)


@row('H22', 'every export takes requests of one byte')
def h22(s):
    for name in ('rw', 'ro', 'chain'):
        c = s.client()
        _, _, infos = c.infos(GO, name)
        assert struct.unpack('>III', infos[INFO_BLOCK_SIZE])[0] == 1
        assert len(c.read(511, 3)) == 3


@row('H23', 'while the server stops, options get ERR_SHUTDOWN')
def h23(_):
    s = rig.make_server()
    c = s.client()
    h = s.client()
    s('query')
    stop = s.begin('stop')
    s('query')
    assert c.opt(LIST)[0] == ERR_SHUTDOWN
    assert c.opt(GO, name_info('ro'))[0] == ERR_SHUTDOWN
    assert c.opt(ABORT)[0] == ACK
    assert dropped(c)
    h.send_opt(EXPORT_NAME, b'ro')
    assert dropped(h)
    assert 'error' not in s.finish(stop)
    s.close()


@row('H24', 'error texts are short, printable and whole characters')
def h24(s):
    c = s.client()
    for name in ('\u20ac' * 1365, 'a\x1b[31m', 'x' * 4096):
        kind, text, _ = c.opt(GO, name_info(name))
        assert kind == ERR_UNKNOWN
        assert 0 < len(text) <= 4096
        assert '\x1b' not in text.decode()


@row('TL1', 'STARTTLS without TLS is refused by policy')
def tl1(s):
    c = s.client()
    assert c.opt(STARTTLS)[0] == ERR_POLICY
    assert c.opt(STARTTLS, b'x')[0] == ERR_INVALID
    assert c.opt(LIST)[0] == ACK
    c.go('ro')
    assert c.alive()


@row('VC2', 'a client that vanishes at any byte of the handshake')
def vc2(s):
    stream = (struct.pack('>I', 3) +
              nbdraw.OPT_MAGIC + struct.pack('>II', STRUCTURED, 0) +
              nbdraw.OPT_MAGIC + struct.pack('>II', SET_META, 31) +
              meta('ro', ['base:allocation'])[:31] +
              nbdraw.OPT_MAGIC + struct.pack('>II', GO, 8) + name_info('ro'))
    for n in range(0, len(stream) + 1, 1):
        c = raw(s)
        c.send(stream[:n])
        if n % 2:
            # RST instead of FIN where there is one; on a Unix socket, unread
            # replies make the server's next write fail.
            c.sock.setsockopt(1, 13, struct.pack('ii', 1, 0))
        c.close()
    s.go('ro').alive()


@row('VC9', 'options in any order, GO refused and again, and none twice')
def vc9(s):
    rnd = random.Random(SEED)
    for _ in range(60):
        c = s.client()
        for _ in range(20):
            opt = rnd.choice([LIST, INFO, STRUCTURED, LIST_META, SET_META,
                              STARTTLS, 11, 99])
            name = rnd.choice(['ro', 'rw', 'nope', ''])
            data = rnd.choice([b'', name_info(name),
                               meta(name, ['base:allocation'])])
            kind, _, _ = c.opt(opt, data)
            assert kind in (ACK, ERR_UNSUP, ERR_INVALID, ERR_UNKNOWN,
                            ERR_POLICY)
            c.structured = c.structured or (opt == STRUCTURED and kind == ACK)
        assert c.opt(GO, name_info('nope'))[0] == ERR_UNKNOWN
        c.go('ro').alive()
        # A second handshake inside transmission is no request.
        c.send_opt(GO, name_info('ro', [1, 2, 3]))
        assert dropped(c)


if __name__ == '__main__':
    sys.exit(run_rows(rig.make_server))
