# SPDX-License-Identifier: LGPL-2.1-or-later
"""A raw NBD client: sends what it is told, valid or not, and takes replies
apart without believing them."""
import socket
import struct

OPT_MAGIC = b'IHAVEOPT'
REP_MAGIC = 0x3e889045565a9
REQ_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668e33ef

(EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO, STRUCTURED, LIST_META,
 SET_META, EXT_HEADERS) = range(1, 12)
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
(ERR_UNSUP, ERR_POLICY, ERR_INVALID, ERR_PLATFORM, ERR_TLS_REQD, ERR_UNKNOWN,
 ERR_SHUTDOWN, ERR_BLOCK_SIZE_REQD, ERR_TOO_BIG) = \
    [(1 << 31) + i for i in range(1, 10)]
INFO_EXPORT, INFO_NAME, INFO_DESCRIPTION, INFO_BLOCK_SIZE = range(4)

(READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS) = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = [1 << i for i in range(6)]
(HAS_FLAGS, READ_ONLY, SEND_FLUSH, SEND_FUA, ROTATIONAL, SEND_TRIM, SEND_ZEROES,
 SEND_DF, MULTI_CONN, SEND_RESIZE, SEND_CACHE, SEND_FAST_ZERO) = \
    [1 << i for i in range(12)]
DONE = 1
C_NONE, C_DATA, C_HOLE, C_STATUS = 0, 1, 2, 5
C_ERROR, C_ERROR_OFFSET = 0x8001, 0x8002

EPERM, EIO, ENOMEM, EINVAL, ENOSPC = 1, 5, 12, 22, 28
EOVERFLOW, ENOTSUP, ESHUTDOWN = 75, 95, 108


class Closed(Exception):
    """The server ended the connection."""


def name_info(name, items=()):
    """Payload of INFO and GO."""
    name = name.encode() if isinstance(name, str) else name
    return (struct.pack('>I', len(name)) + name +
            struct.pack('>H', len(items)) +
            b''.join(struct.pack('>H', i) for i in items))


def meta(name, queries=()):
    """Payload of LIST_META_CONTEXT and SET_META_CONTEXT."""
    name = name.encode() if isinstance(name, str) else name
    out = struct.pack('>I', len(name)) + name + struct.pack('>I', len(queries))
    for q in queries:
        q = q.encode() if isinstance(q, str) else q
        out += struct.pack('>I', len(q)) + q
    return out


class Chunk:
    def __init__(self, flags, kind, payload):
        self.flags, self.kind, self.payload = flags, kind, payload

    @property
    def offset(self):
        return struct.unpack_from('>Q', self.payload)[0]

    @property
    def length(self):
        if self.kind == C_DATA:
            return len(self.payload) - 8
        return struct.unpack_from('>I', self.payload, 8)[0]

    @property
    def extents(self):
        """(context id, [(length, flags)])"""
        n = (len(self.payload) - 4) // 8
        words = struct.unpack('>%dI' % (1 + 2 * n), self.payload)
        return words[0], list(zip(words[1::2], words[2::2]))

    @property
    def error(self):
        """(errno, text)"""
        code, n = struct.unpack_from('>IH', self.payload)
        assert 6 + n <= len(self.payload)
        return code, self.payload[6:6 + n].decode()


class Reply:
    """A whole reply: .error 0 or errno; .data of a read; .chunks, or None."""

    def __init__(self, error=0, data=b'', chunks=None, text=''):
        self.error, self.data, self.chunks = error, data, chunks
        self.text = text


class Client:
    def __init__(self, address, timeout=None):
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX)
        else:
            self.sock = socket.socket(socket.AF_INET)
        self.sock.settimeout(timeout)
        self.sock.connect(address)
        self.cookie = 1
        self.structured = False
        self.pending = {}

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.close()

    # --- bytes ---

    def send(self, data):
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as e:
            raise Closed() from e

    def recv(self, n):
        out = bytearray()
        while len(out) < n:
            try:
                part = self.sock.recv(min(n - len(out), 1 << 20))
            except ConnectionResetError as e:
                raise Closed() from e
            if not part:
                raise Closed('after %d of %d bytes' % (len(out), n))
            out += part
        return bytes(out)

    def at_end(self):
        """True when the server has closed and left nothing unread."""
        try:
            return self.sock.recv(1) == b''
        except ConnectionResetError:
            return True

    # --- handshake ---

    def greet(self, flags=3):
        head = self.recv(18)
        assert head[:16] == b'NBDMAGICIHAVEOPT', head
        self.server_flags = struct.unpack('>H', head[16:])[0]
        if flags is not None:
            self.send(struct.pack('>I', flags))
        return self

    def send_opt(self, opt, data=b'', length=None):
        self.send(OPT_MAGIC + struct.pack('>II', opt, len(data)
                                          if length is None else length) + data)

    def opt_reply(self, opt):
        magic, got, kind, n = struct.unpack('>QIII', self.recv(20))
        assert magic == REP_MAGIC and got == opt, (magic, got, opt)
        data = self.recv(n)
        if kind >> 31:
            assert n <= 4096
            data.decode()
        return kind, data

    def opt(self, opt, data=b''):
        """(final reply type, its data, replies before it)"""
        self.send_opt(opt, data)
        before = []
        while True:
            kind, data = self.opt_reply(opt)
            if kind == ACK or kind >> 31:
                return kind, data, before
            before.append((kind, data))

    def sr(self):
        assert self.opt(STRUCTURED)[0] == ACK
        self.structured = True
        return self

    def infos(self, opt, name, items=()):
        kind, data, before = self.opt(opt, name_info(name, items))
        infos = {}
        for k, d in before:
            assert k == REP_INFO
            key = struct.unpack_from('>H', d)[0]
            assert key not in infos, 'sent twice'
            infos[key] = d[2:]
        if kind == ACK:
            assert len(infos[INFO_EXPORT]) == 10
            self.size, self.flags = struct.unpack('>QH', infos[INFO_EXPORT])
        return kind, data, infos

    def set_meta(self, name, queries):
        """{context name: id}"""
        kind, _, before = self.opt(SET_META, meta(name, queries))
        assert kind == ACK, kind
        return {d[4:].decode(): struct.unpack_from('>I', d)[0]
                for k, d in before}

    def go(self, name):
        kind, text, _ = self.infos(GO, name)
        assert kind == ACK, (kind, text)
        return self

    # --- transmission ---

    def pack_req(self, cmd, off=0, length=0, flags=0, cookie=None,
                 magic=REQ_MAGIC):
        """(cookie, bytes of the request's header)"""
        if cookie is None:
            cookie = self.cookie
            self.cookie += 1
        self.pending[cookie] = (cmd, off, length)
        return cookie, struct.pack('>IHHQQI', magic, flags, cmd, cookie, off,
                                   length)

    def send_req(self, cmd, off=0, length=0, flags=0, data=b'', **kw):
        cookie, head = self.pack_req(cmd, off, length, flags, **kw)
        self.send(head + data)
        return cookie

    def _simple(self, head):
        error, cookie = struct.unpack('>IQ', head + self.recv(8))
        cmd, _, length = self.pending.pop(cookie)
        if cmd == READ:
            assert not self.structured, 'simple reply to a structured read'
        data = self.recv(length) if cmd == READ and not error else b''
        return cookie, Reply(error, data)

    def _chunk(self, head):
        flags, kind = struct.unpack('>HH', head)
        cookie, n = struct.unpack('>QI', self.recv(12))
        assert self.structured and cookie in self.pending, cookie
        assert n < 1 << 26
        if kind & 0x8000:
            assert n >= 6 if kind == C_ERROR else n >= 14
        return cookie, Chunk(flags, kind, self.recv(n))

    def reply(self):
        """The next whole reply, of whatever request: (cookie, Reply)."""
        parts = {}
        while True:
            magic, head = struct.unpack('>I4s', self.recv(8))
            if magic == SIMPLE_MAGIC:
                return self._simple(head)
            assert magic == CHUNK_MAGIC, hex(magic)
            cookie, chunk = self._chunk(head)
            parts.setdefault(cookie, []).append(chunk)
            if chunk.flags & DONE:
                assert len(parts) == 1, 'replies are interleaved: not here'
                return cookie, self._join(cookie, parts[cookie])

    def _join(self, cookie, chunks):
        cmd, off, length = self.pending.pop(cookie)
        error, text = 0, ''
        data = bytearray(length if cmd == READ else 0)
        covered = []
        for c in chunks:
            if c.kind & 0x8000:
                assert not error
                error, text = c.error
                assert error
            elif c.kind == C_NONE:
                assert len(c.payload) == 0 and c.flags & DONE
            elif c.kind in (C_DATA, C_HOLE):
                assert cmd == READ and c.length > 0
                assert off <= c.offset
                assert c.offset + c.length <= off + length
                covered.append((c.offset, c.length))
                if c.kind == C_DATA:
                    at = c.offset - off
                    data[at:at + c.length] = c.payload[8:]
            else:
                assert cmd == STATUS and c.kind == C_STATUS, c.kind
        at = off
        for start, n in sorted(covered):
            assert start == at or error, 'gap or overlap at %d' % start
            at = start + n
        if cmd == READ and not error:
            assert at == off + length, 'not all covered'
        return Reply(error, bytes(data), chunks, text)

    def req(self, cmd, off=0, length=0, flags=0, data=b''):
        cookie = self.send_req(cmd, off, length, flags, data)
        got, reply = self.reply()
        assert got == cookie, (got, cookie)
        return reply

    def read(self, off, length, flags=0):
        r = self.req(READ, off, length, flags)
        assert r.error == 0, (r.error, r.text)
        return r.data

    def write(self, off, data, flags=0):
        return self.req(WRITE, off, len(data), flags, data).error

    def alive(self):
        """A valid request works."""
        assert len(self.read(0, 512)) == 512
        return True
