#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server that lies: it serves DATA, read-only, as a real one does, but
for what LIE says.

    server = Liar(data, path, 'data-after')

LIE is '', for the truth, or a name of READ_LIES, STATUS_LIES, SIZES or OTHERS.

usage: nbdliar.py SOCKET LIE        a disk of 1 MiB of 0xaa, until it is killed
"""
import struct
import sys
import time

import nbdraw as nbd
from listening import Listening, recv_exact, reset_on_close

CONTEXT = 7
HOLE = 3                    # a hole that reads as zeroes
SIZES = {'size-2^63': 1 << 63, 'size-max': (1 << 64) - 1}
OTHERS = {
    'resize',               # from the second connection on twice the size
    'no-contexts',          # from the second connection on no contexts
    'early',                # on the second connection no contexts
}


def at(off, *more):
    return struct.pack('>Q' + 'I' * len(more), off % (1 << 64), *more)


def error_in_the_middle(c, r):
    if r.off <= len(c.server.data) // 2 < r.off + r.length:
        c.chunk(r.cookie, nbd.C_ERROR, struct.pack('>IH', 5, 0))
    else:
        truth(c, r)


def twice(c, r):
    truth(c, r)
    truth(c, r)


def truth(c, r):
    c.chunk(r.cookie, nbd.C_DATA, at(r.off) + r.data)


# What is sent for a read.
READ_LIES = {
    '': truth,
    'error-mid': error_in_the_middle,
    'twice': twice,
    'data-after': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off + r.length) + r.data),
    'data-before': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off - 512) + r.data),
    'data-oversize': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off) + r.data + bytes(4096)),
    'data-double': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off) + r.data * 2),
    'data-4g': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off) + r.data, length=0xffffffff),
    'half': lambda c, r: c.chunk(
        r.cookie, nbd.C_DATA, at(r.off) + r.data[:r.length // 2]),
    'hole-outside': lambda c, r: c.chunk(
        r.cookie, nbd.C_HOLE, at(r.off, r.length + 4096)),
    'hole-overflow': lambda c, r: c.chunk(
        r.cookie, nbd.C_HOLE, at(-512, 1024)),
    'wrong-cookie': lambda c, r: c.chunk(
        r.cookie + 77, nbd.C_DATA, at(r.off) + r.data),
    'nothing-but-done': lambda c, r: c.chunk(r.cookie, nbd.C_NONE),
    'error-text': lambda c, r: c.chunk(
        r.cookie, nbd.C_ERROR, struct.pack('>IH', 5, 60000) + b'x'),
    'error-0': lambda c, r: c.chunk(
        r.cookie, nbd.C_ERROR, struct.pack('>IH', 0, 0)),
    'error-offset': lambda c, r: c.chunk(
        r.cookie, nbd.C_ERROR_OFFSET, struct.pack('>IHQ', 5, 0, 1 << 60)),
    'simple': lambda c, r: c.simple(r.cookie, r.data),
    'unknown-kind': lambda c, r: c.chunk(r.cookie, 0x7777, b'x' * 100),
    'junk': lambda c, r: c.send(b'\x5a' * 4096),
    'bad-magic': lambda c, r: c.send(bytes(64)),
}

# The extents (length, flags) for a status of @n bytes, and other bytes.
STATUS_LIES = {
    '': lambda n: [(n, 0)],
    'status-zero-length': lambda n: [(0, HOLE), (n, HOLE)],
    'status-past-end': lambda n: [(0xffffffff, 0)],
    'status-hole-past-end': lambda n: [(0xffffffff, HOLE)],
    'status-sum': lambda n: [(0xfffffe00, 0)] * 4,
    'status-hole-sum': lambda n: [(0xfffffe00, HOLE)] * 4,
    'status-none': lambda n: [],
    'status-short': lambda n: [(512, 0)],
    'status-later-zero': lambda n: [(4096, 0), (0, HOLE), (n, HOLE)],
    'status-hole-later-zero': lambda n: [(4096, HOLE), (0, 0)],
    'status-many': lambda n: [(1, 0)] * 4096,
    'status-context': lambda n: [(n, 0)],       # of another context
    'status-odd': lambda n: [(n, 0)],           # and half an extent
}


class Request:
    def __init__(self, data, cookie, off, length):
        self.cookie, self.off, self.length = cookie, off, length
        self.data = data[off:off + length]


class Connection:
    def __init__(self, server, c, number):
        self.server, self.c, self.number = server, c, number
        self.sent = 0

    def recv(self, n):
        return recv_exact(self.c, n)

    def send(self, data):
        """Hangs up in the middle where the budget ends."""
        server = self.server
        if server.budget is not None and server.cuts > 0 and \
                self.sent + len(data) >= server.budget:
            server.cuts -= 1
            self.c.sendall(data[:server.budget - self.sent])
            if not server.path:     # what it is about to read never comes
                time.sleep(0.005)
                reset_on_close(self.c)
            raise EOFError
        self.sent += len(data)
        server.sent = self.sent
        self.c.sendall(data)

    def opt_reply(self, opt, kind, data=b''):
        self.send(struct.pack('>QIII', nbd.REP_MAGIC, opt, kind, len(data))
                  + data)

    def simple(self, cookie, data=b''):
        self.send(struct.pack('>IIQ', nbd.SIMPLE_MAGIC, 0, cookie) + data)

    def chunk(self, cookie, kind, data=b'', length=None):
        self.send(struct.pack('>IHHQI', nbd.CHUNK_MAGIC, nbd.DONE, kind, cookie,
                              len(data) if length is None else length) + data)

    def has_contexts(self):
        return not (self.server.lie == 'no-contexts' and self.number > 1 or
                    self.server.lie == 'early' and self.number == 2)

    def size(self):
        twice_as_large = self.server.lie == 'resize' and self.number > 1
        return self.server.size * (2 if twice_as_large else 1)

    def handshake(self):
        structured = self.server.structured
        self.send(b'NBDMAGIC' + nbd.OPT_MAGIC + struct.pack('>H', 3))
        self.recv(4)
        while True:
            _, opt, length = struct.unpack('>QII', self.recv(16))
            self.recv(length)
            if opt == nbd.STRUCTURED and structured:
                self.opt_reply(opt, nbd.ACK)
            elif opt == nbd.SET_META and structured and self.has_contexts():
                self.opt_reply(opt, nbd.META, struct.pack('>I', CONTEXT) +
                               b'base:allocation')
                self.opt_reply(opt, nbd.ACK)
            elif opt == nbd.SET_META and structured:
                self.opt_reply(opt, nbd.ERR_UNKNOWN)
            elif opt == nbd.GO:
                self.opt_reply(opt, nbd.REP_INFO, struct.pack(
                    '>HQH', nbd.INFO_EXPORT, self.size(), self.server.flags))
                self.opt_reply(opt, nbd.ACK)
                return
            else:
                self.opt_reply(opt, nbd.ERR_UNSUP)

    def transmit(self):
        while True:
            _, _, cmd, cookie, off, length = struct.unpack(
                '>IHHQQI', self.recv(28))
            if cmd == nbd.DISC:
                return
            if cmd == nbd.STATUS:
                self.status(cookie, length)
            elif cmd == nbd.READ:
                self.read(Request(self.server.data, cookie, off, length))
            else:
                self.chunk(cookie, nbd.C_NONE)

    def read(self, r):
        if self.server.before_read:
            self.server.before_read(r)
        if self.server.structured:
            READ_LIES.get(self.server.lie, truth)(self, r)
        else:
            self.simple(r.cookie, r.data)

    def status(self, cookie, n):
        lie = self.server.lie
        extents = STATUS_LIES.get(lie, STATUS_LIES[''])(n)
        context = 99 if lie == 'status-context' else CONTEXT
        data = b''.join(struct.pack('>II', *e) for e in extents)
        if lie == 'status-odd':
            data += bytes(3)
        self.chunk(cookie, nbd.C_STATUS, struct.pack('>I', context) + data)


class Liar(Listening):
    """Hangs up after @budget bytes of a connection, @cuts times; over TCP (no
    @path) it resets the connection.  @structured: else only simple replies.
    @before_read(request) may wait."""

    def __init__(self, data, path=None, lie='', size=None, budget=None,
                 structured=True, flags=nbd.HAS_FLAGS | nbd.READ_ONLY,
                 before_read=None):
        assert lie in READ_LIES or lie in STATUS_LIES or lie in SIZES or \
            lie in OTHERS, lie
        self.data, self.lie = data, lie
        self.size = SIZES.get(lie, len(data)) if size is None else size
        self.budget, self.cuts = budget, 1 << 30
        self.structured, self.flags = structured, flags
        self.before_read = before_read
        self.sent = 0               # on the latest connection
        self.opened = 0             # connections with their handshake done
        super().__init__(path)

    def address(self):
        if self.path:
            return {'type': 'unix', 'path': self.path}
        host, port = self.listener.getsockname()
        return {'type': 'inet', 'host': host, 'port': str(port)}

    def serve(self, c):
        connection = Connection(self, c, self.connections)
        self.sent = 0
        connection.handshake()
        self.opened += 1
        connection.transmit()


def main():
    path, lie = sys.argv[1:]
    Liar(b'\xaa' * (1 << 20), path, lie).threads[0].join()


if __name__ == '__main__':
    main()
