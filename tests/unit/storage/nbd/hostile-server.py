#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""An NBD server that lies.  usage: hostile-server.py SOCKET LIE"""
import socket
import struct
import sys

SIZE = 1 << 20
HUGE = {'size-2^63': 1 << 63, 'size-max': (1 << 64) - 1}


def recv(c, n):
    data = b''
    while len(data) < n:
        more = c.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def opt_reply(c, opt, kind, data=b''):
    c.sendall(struct.pack('>QIII', 0x3e889045565a9, opt, kind, len(data))
              + data)


def handshake(c, lie):
    c.sendall(b'NBDMAGICIHAVEOPT' + struct.pack('>H', 3))
    recv(c, 4)
    while True:
        _, opt, length = struct.unpack('>QII', recv(c, 16))
        recv(c, length)
        if opt == 8:                      # STRUCTURED_REPLY
            opt_reply(c, opt, 1)
        elif opt == 10:                   # SET_META_CONTEXT
            opt_reply(c, opt, 4, struct.pack('>I', 7) + b'base:allocation')
            opt_reply(c, opt, 1)
        elif opt == 7:                    # GO
            opt_reply(c, opt, 3, struct.pack('>HQH', 0, HUGE.get(lie, SIZE),
                                             0x0003))
            opt_reply(c, opt, 1)
            return
        else:
            opt_reply(c, opt, 0x80000001)


def chunk(c, cookie, kind, data=b'', flags=1):
    c.sendall(struct.pack('>IHHQI', 0x668e33ef, flags, kind, cookie,
                          len(data)) + data)


def read(c, lie, cookie, off, length):
    data = b'\xaa' * length
    if lie == 'data-outside':
        chunk(c, cookie, 1, struct.pack('>Q', off + length) + data)
    elif lie == 'data-oversize':
        chunk(c, cookie, 1, struct.pack('>Q', off) + data * 2)
    elif lie == 'hole-outside':
        chunk(c, cookie, 2, struct.pack('>QI', off, length + 4096))
    elif lie == 'wrong-cookie':
        chunk(c, cookie + 99, 1, struct.pack('>Q', off) + data)
    elif lie == 'error-message-too-long':
        chunk(c, cookie, 0x8001, struct.pack('>IH', 5, 60000) + b'x')
    elif lie == 'bad-magic':
        c.sendall(b'\0' * 64)
    else:
        chunk(c, cookie, 1, struct.pack('>Q', off) + data)


def status(c, lie, cookie, length):
    extents = {
        'extent-zero-length': [(0, 3), (length, 3)],
        'extent-past-end': [(0xffffffff, 3)],
        'extent-sum': [(0xfffffe00, 3)] * 4,
        'extent-none': [],
        'extent-later-zero': [(4096, 3), (0, 0)],
    }.get(lie, [(length, 0)])
    chunk(c, cookie, 5, struct.pack('>I', 7)
          + b''.join(struct.pack('>II', *e) for e in extents))


def serve(c, lie):
    handshake(c, lie)
    while True:
        _, _, cmd, cookie, off, length = struct.unpack('>IHHQQI', recv(c, 28))
        if cmd == 2:
            return
        if cmd == 7:
            status(c, lie, cookie, length)
        else:
            read(c, lie, cookie, off, length)


def main():
    path, lie = sys.argv[1:]
    s = socket.socket(socket.AF_UNIX)
    s.bind(path)
    s.listen(5)
    while True:
        c, _ = s.accept()
        try:
            serve(c, lie)
        except (EOFError, OSError):
            pass
        c.close()


main()
