#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Structured replies and block status: rows R1-R6, BS1-BS7, VC12."""
import sys

import rig
from nbdserver import row, run_rows
import nbdraw
from nbdraw import (C_DATA, C_ERROR, C_HOLE, DF, EINVAL, EIO, EOVERFLOW,
                    FLUSH, READ, REQ_ONE, STATUS, WRITE, ZEROES)

MIB = rig.MIB
ALLOC, DEPTH = 'base:allocation', 'qemu:allocation-depth'
HOLE, ZERO = 1, 2


@row('R1', 'once agreed, every READ is chunks, errors with a text')
def r1(s):
    c = s.go('rw', sr=True)
    for off, length, want in ((0, 512, 0), (0, 0, 0), (rig.RW_SIZE, 1, EINVAL)):
        r = c.req(READ, off, length)
        assert r.error == want and r.chunks
    assert 'past the end' in r.text, r.text
    r = c.req(WRITE, 0, 512, nbdraw.NO_HOLE, bytes(512))
    assert r.error == EINVAL and r.chunks and 'flag' in r.text
    r = s.go('ro', sr=True).req(ZEROES, 0, 512)
    assert r.error == nbdraw.EPERM and 'read-only' in r.text
    assert c.req(FLUSH).error == 0


@row('R2', 'chunks cover the request once, in any mix of data and holes')
def r2(s):
    c = s.go('chain', sr=True)
    whole = c.read(0, rig.CHAIN_SIZE)
    assert whole[:MIB] == rig.pattern(0, MIB)
    assert whole[MIB:2 * MIB] == b'\xaa' * MIB
    assert whole[2 * MIB:4 * MIB] == rig.pattern(2 * MIB, 2 * MIB)
    assert whole[4 * MIB:6 * MIB] == bytes(2 * MIB)
    assert whole[6 * MIB:7 * MIB] == b'\xaa' * MIB
    assert whole[7 * MIB:] == bytes(MIB)
    for off, length in ((4 * MIB - 1, 2), (4 * MIB - 1, MIB), (1, 99999),
                        (6 * MIB - 70000, 140000), (7 * MIB - 1, MIB + 1),
                        (5 * MIB + 1, 12345)):
        assert c.read(off, length) == whole[off:off + length]


@row('R3', 'with DF there is one content chunk, or EOVERFLOW without any')
def r3(s):
    c = s.go('chain', sr=True)
    for off, length in ((0, 65536), (4 * MIB - 32768, 65536), (5 * MIB, 512),
                        (3 * MIB, 4 * MIB)):
        r = c.req(READ, off, length, DF)
        content = [k for k in r.chunks if k.kind in (C_DATA, C_HOLE)]
        assert r.error == 0 and len(content) == 1
        assert content[0].kind == C_DATA, 'a hole must come as data'
        assert r.data == c.read(off, length)
    c = s.go('rw', sr=True)
    assert len(c.read(0, 32 * MIB, DF)) == 32 * MIB
    r = c.req(READ, 0, 32 * MIB + 1, DF)
    assert r.error == EOVERFLOW and len(r.chunks) == 1


@row('R4', 'a failed read is one error chunk')
def r4(s):
    c = s.go('rw', sr=True)
    s('fail', errno=5)
    for length in (512, MIB, 32 * MIB, 40 * MIB):
        r = c.req(READ, 0, length)
        assert r.error == EIO and r.chunks[-1].kind == C_ERROR
        assert r.chunks[-1].flags & nbdraw.DONE
        assert 'read at offset 0' in r.text
    s('fail', errno=0)
    assert c.alive()


@row('R5', 'holes are sent as holes')
def r5(s):
    c = s.go('chain', sr=True)
    for off, length in ((4 * MIB, 2 * MIB), (7 * MIB, MIB), (5 * MIB, 65536),
                        (5 * MIB, 4096)):
        r = c.req(READ, off, length)
        assert [k.kind for k in r.chunks] == [C_HOLE], off
    kinds = [k.kind for k in c.req(READ, 3 * MIB, 4 * MIB).chunks]
    assert kinds == [C_DATA, C_HOLE, C_DATA], kinds
    c = s.go('rw', sr=True)
    r = c.req(READ, 32 * MIB, 32 * MIB)
    assert [k.kind for k in r.chunks] == [C_HOLE]


@row('R6', 'error chunks have room for their fields, text is UTF-8')
def r6(s):
    c = s.go('ro', sr=True)
    for cmd, off, length, flags in ((READ, 1 << 63, 1, 0), (99, 0, 0, 0),
                                    (READ, 0, 1, 0x8000), (FLUSH, 1, 0, 0)):
        r = c.req(cmd, off, length, flags)
        assert r.error == EINVAL and 0 < len(r.text) < 200


@row('R7', 'a READ longer than the maximum payload comes in parts')
def r7(s):
    c = s.go('rw', sr=True)
    r = c.req(READ, 0, rig.RW_SIZE)
    assert r.error == 0
    assert r.data[:MIB] == rig.pattern(0, MIB)
    assert r.data[2 * MIB:] == bytes(rig.RW_SIZE - 2 * MIB)
    assert all(k.length <= 32 * MIB for k in r.chunks if k.kind == C_DATA)


def status(c, off, length, flags=0):
    """{context: extents}"""
    r = c.req(STATUS, off, length, flags)
    assert r.error == 0, r.text
    names = {v: k for k, v in c.ids.items()}
    found = {}
    for k in r.chunks:
        i, extents = k.extents
        assert names[i] not in found, 'two chunks for one context'
        found[names[i]] = extents
    assert set(found) == set(c.ids)
    return found


def walk(c, name, size):
    """[(length, flags)] of the whole export, asked for in one go."""
    off, out = 0, []
    while off < size:
        for n, flags in status(c, off, size - off)[name]:
            if out and out[-1][1] == flags:
                out[-1] = (out[-1][0] + n, flags)
            else:
                out.append((n, flags))
            off += n
    return out


@row('BS1', 'BLOCK_STATUS without a context is EINVAL')
def bs1(s):
    for sr in (False, True):
        c = s.go('chain', sr=sr)
        assert c.req(STATUS, 0, 512).error == EINVAL
        assert c.alive()


@row('BS2', 'one chunk for each context; extents have lengths and end inside')
def bs2(s):
    for contexts in ([ALLOC], [DEPTH], [ALLOC, DEPTH], [DEPTH, ALLOC]):
        c = s.go('chain', contexts=contexts)
        for off, length in ((0, rig.CHAIN_SIZE), (1, 1), (MIB - 1, 2),
                            (12345, 3 * MIB)):
            for extents in status(c, off, length).values():
                assert extents and all(n > 0 for n, _ in extents)
                assert sum(n for n, _ in extents) <= length


@row('BS3', 'REQ_ONE gives exactly one extent inside the request')
def bs3(s):
    c = s.go('chain', contexts=[ALLOC, DEPTH])
    for off, length in ((0, rig.CHAIN_SIZE), (5 * MIB, 3 * MIB), (7, 1)):
        for extents in status(c, off, length, REQ_ONE).values():
            assert len(extents) == 1 and 0 < extents[0][0] <= length


@row('BS4', 'length 0 and beyond the end are EINVAL')
def bs4(s):
    c = s.go('chain', contexts=[ALLOC])
    for off, length in ((0, 0), (rig.CHAIN_SIZE, 1), (rig.CHAIN_SIZE - 1, 2),
                        (1 << 63, 512), ((1 << 64) - 1, 0xffffffff)):
        assert c.req(STATUS, off, length).error == EINVAL
    assert c.alive()


@row('BS5', 'what is called zero reads as zeroes')
def bs5(s):
    for name, size in (('chain', rig.CHAIN_SIZE), ('rw', rig.RW_SIZE),
                       ('ro', rig.RO_SIZE)):
        c = s.go(name, contexts=[ALLOC])
        off = zeroes = 0
        for n, flags in walk(c, ALLOC, size):
            assert flags in (0, HOLE, ZERO, HOLE | ZERO)
            if flags & ZERO:
                zeroes += n
                for at in range(off, off + n, 16 * MIB):
                    part = min(16 * MIB, off + n - at)
                    assert c.read(at, part, DF) == bytes(part)
            off += n
        assert off == size
        assert zeroes > 0 or name == 'ro'


@row('BS6', 'equal neighbours are merged')
def bs6(s):
    c = s.go('chain', contexts=[ALLOC, DEPTH])
    for extents in status(c, 0, rig.CHAIN_SIZE).values():
        for (_, a), (_, b) in zip(extents, extents[1:]):
            assert a != b
    assert status(c, 0, rig.CHAIN_SIZE)[ALLOC] == [
        (4 * MIB, 0), (2 * MIB, HOLE | ZERO), (MIB, 0), (MIB, HOLE | ZERO)]


@row('BS7', 'allocation depth shows which image decides')
def bs7(s):
    c = s.go('chain', contexts=[DEPTH])
    extents = status(c, 0, rig.CHAIN_SIZE)[DEPTH]
    # The base is one raw file and decides wherever the top does not.
    assert extents == [(MIB, 2), (MIB, 1), (4 * MIB, 2), (MIB, 1), (MIB, 2)]


@row('BS8', 'writes and zeroes show at once')
def bs8(s):
    c = s.go('chain', contexts=[ALLOC, DEPTH])
    assert c.write(7 * MIB, b'\xbb' * 65536) == 0
    found = status(c, 7 * MIB, MIB)
    assert found[ALLOC][0] == (65536, 0)
    assert found[DEPTH][0] == (65536, 1)
    # Over data that only the base holds, zeroes need a marker, no writing.
    assert c.req(ZEROES, 2 * MIB, 65536).error == 0
    found = status(c, 2 * MIB, 65536)
    assert found[DEPTH] == [(65536, 1)]
    assert found[ALLOC][0][1] & ZERO, found
    assert c.read(2 * MIB, 65536) == bytes(65536)


@row('VC12', 'BLOCK_STATUS and WRITE_ZEROES of nearly 4 GiB')
def vc12(s):
    c = s.go('rw', contexts=[ALLOC])
    for length in (0xffffffff, 0x80000000, rig.RW_SIZE + 1):
        assert c.req(STATUS, 0, length).error == EINVAL
        assert c.req(ZEROES, 0, length).error == nbdraw.ENOSPC
    assert c.req(STATUS, rig.RW_SIZE - 1, 0xffffffff).error == EINVAL
    assert c.alive()


if __name__ == '__main__':
    sys.exit(run_rows(rig.make_server))
