#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A base on a web server that lies: row VB6, and VB3 to VB5 over HTTP; with
STORAGE=s3 the same of an object of S3.

The daemon streams an overlay from it.  Whatever the server does: the stream
fails with an error, or an attempt that followed brought the right bytes, and
what the overlay holds is right either way.
"""
import gzip
import json
import os
import subprocess
import sys

from httpliar import Liar
from qmp import QmpError
from sluiced import SLUICE, Sluiced, Skip, qemu_img, run
from waiting import until

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

KIB = 1 << 10
SIZE = 4096 * KIB
GOOD = bytes(i * 7 % 251 for i in range(SIZE))
EIO, EPROTO = 'Input/output error', 'Protocol error'
ESTALE = 'cannot be used any more'
STORAGE = os.environ.get('STORAGE', 'http')
KEY = ['--object', 'secret,id=key,data=hidden-key']
# The header is read before a lie: the first answer is good.  A lie that is told
# for ever fails at once: waiting for the end of it would be a second a row.
FAST = {'reconnect-delay': 0, 'timeout': 1, 'hang-timeout': 2,
        'on-base-hang': 'error', 'readahead': 0}


def web_node(server, name, **options):
    """Options of a node for what the server has; it needs KEY."""
    if STORAGE == 's3':
        where = {'endpoint': server.url('').rstrip('/'), 'bucket': 'master',
                 'key': 'base', 'key-id': 'ID', 'key-secret': 'key'}
    else:
        where = {'url': server.url()}
    return dict({'driver': STORAGE, 'node-name': name, 'read-only': True},
                **where, **options)


def served(d, server, **options):
    """A daemon that serves it over NBD; and how to reach that."""
    sock = os.path.join(d, 'nbd')
    return Sluiced(d, *KEY, '--blockdev',
                   json.dumps(web_node(server, 'web', **options)),
                   '--nbd-server', 'addr.type=unix,addr.path=' + sock,
                   '--export', 'nbd,id=e,node-name=web,name=web')


def client(d):
    h = nbd.NBD()
    h.set_export_name('web')
    h.connect_unix(os.path.join(d, 'nbd'))
    return h


class Stage:
    """A daemon, into which one overlay after the other is put."""

    def __init__(self, d):
        self.dir, self.count = d, 0
        self.good = os.path.join(d, 'good')
        with open(self.good, 'wb') as f:
            f.write(GOOD)
        self.s = Sluiced(d, *KEY, '-T', 'http_*')

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.s.__exit__(*args)

    def add(self, server, **options):
        self.count += 1
        n = self.count
        top = os.path.join(self.dir, 'top%d' % n)
        qemu_img('create', '-q', '-f', 'qcow2', top, str(SIZE))
        self.s.qmp.cmd('blockdev-add', web_node(server, 'web%d' % n,
                                                **dict(FAST, **options)))
        self.s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'top%d' % n,
            'file': {'driver': 'file', 'filename': top},
            'backing': {'driver': 'raw', 'node-name': 'base%d' % n,
                        'read-only': True, 'file': 'web%d' % n}})
        return top

    def stream(self):
        """The error text of a stream, or None."""
        n = self.count
        self.s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top%d' % n})
        return self.s.qmp.wait_event('BLOCK_JOB_COMPLETED',
                                     device='j')['data'].get('error')

    def remove(self):
        for kind in ('top', 'web'):
            try:
                self.s.qmp.cmd('blockdev-del',
                               {'node-name': '%s%d' % (kind, self.count)})
            except QmpError as e:
                if kind == 'top':
                    raise
                assert 'Failed to find' in str(e), e

    def check(self, top, complete):
        """What the overlay has is right, and it has all if @complete."""
        if complete:
            assert 'backing file' not in qemu_img('info', top)
        else:
            qemu_img('rebase', '-u', '-f', 'qcow2', '-F', 'raw', '-b',
                     self.good, top)
        qemu_img('compare', '-f', 'qcow2', '-F', 'raw', top, self.good)

    def row(self, name, lie, want, **options):
        """Stream from a server that begins to lie after its first answer.
        @want: text of the error; None: it must succeed, however long it
        takes."""
        if want is None:
            options = dict({'reconnect-delay': 3600}, **options)
        with Liar(GOOD) as server:
            top = self.add(server, **options)
            server.lie = lie
            error = self.stream()
            if want is None:
                assert error is None, (name, error, self.s.errors()[-2000:])
            else:
                assert error and want in error, (name, error)
            self.remove()
            self.check(top, error is None)


def some(count, lie):
    """Lie @count times, then never again."""
    left = [count]

    def maybe(a):
        if left[0] > 0:
            left[0] -= 1
            lie(a)
    return maybe


def both(stage, name, lie, want=EIO, **options):
    """A lie that is told for ever is an error; one that is told a few times
    is overcome."""
    stage.row(name, lie, want, **options)
    stage.row(name + ', some', some(3, lie), None)


def head(**fields):
    def lie(a):
        a.head.update({k.replace('_', '-'): v for k, v in fields.items()})
    return lie


def part(text):
    """Content-Range by a format with first, last, size."""
    def lie(a):
        a.head['Content-Range'] = text % {
            'first': a.first, 'last': a.last, 'size': SIZE,
            'after': a.first + 1, 'before': a.last - 1}
    return lie


def test_vb6_content_range(d):
    with Stage(d) as stage:
        for text in ('bytes %(after)d-%(last)d/%(size)d',
                     'bytes %(first)d-%(before)d/%(size)d',
                     'bytes 0-0/%(size)d',
                     'bytes %(first)d-%(last)d/*',
                     'bytes */%(size)d',
                     'bytes %(first)d-99999999999999999999/%(size)d',
                     'bytes %(first)d-18446744073709551615/%(size)d',
                     'bytes -1-%(last)d/%(size)d',
                     'bytes %(last)d-%(first)d/%(size)d',
                     'bytes 0x0-%(last)d/%(size)d',
                     'lines %(first)d-%(last)d/%(size)d',
                     'bytes %(first)d-%(last)d', 'bytes', ''):
            stage.row(text, part(text), EPROTO)
        both(stage, 'none', head(Content_Range=None), EPROTO)

        def two(a):
            a.more = 'Content-Range: bytes 0-1/%d\r\n' % SIZE
        both(stage, 'two', two, EPROTO)

        def multipart(a):
            a.head['Content-Type'] = 'multipart/byteranges; boundary=x'
            a.body = b'--x\r\nContent-Range: %s\r\n\r\n%s\r\n--x--\r\n' % (
                a.head.pop('Content-Range').encode(), a.body)
            a.head['Content-Length'] = str(len(a.body))
        both(stage, 'multipart', multipart, EPROTO)


def test_vb6_body(d):
    with Stage(d) as stage:
        def short(a):
            a.body, a.close = a.body[:-1], True

        def says_less(a):
            a.body = a.body[:-1]
            a.head['Content-Length'] = str(len(a.body))

        def says_more(a):
            a.body += b'x' * 100
            a.head['Content-Length'] = str(len(a.body))

        def much_more(a):
            a.head['Content-Length'] = None
            a.body, a.close = a.body + b'x' * 100000, True

        def chunked(a):
            a.body = b'%x\r\n%s\r\n5\r\nxxxxx\r\n0\r\n\r\n' % (len(a.body),
                                                            a.body)
            a.head['Content-Length'] = None
            a.head['Transfer-Encoding'] = 'chunked'

        def chunked_short(a):
            a.body = b'%x\r\n%s\r\n0\r\n\r\n' % (len(a.body) - 1, a.body[:-1])
            a.head['Content-Length'] = None
            a.head['Transfer-Encoding'] = 'chunked'

        def chunked_right(a):
            half = len(a.body) // 2
            a.body = b''.join(b'%x\r\n%s\r\n' % (len(part), part)
                              for part in (a.body[:half], a.body[half:], b''))
            a.head['Content-Length'] = None
            a.head['Transfer-Encoding'] = 'chunked'

        def no_length(a):
            a.head['Content-Length'] = None
            a.close = True

        def lengths(a):
            a.more = 'Content-Length: 1\r\n'

        # Attempts go on behind what came; the last byte never does.
        both(stage, 'short', short, **{'reconnect-delay': 1})
        # Odd, and right.
        stage.row('chunked', chunked_right, None)
        stage.row('no length', no_length, None)
        both(stage, 'chunked, short', chunked_short, EPROTO)
        both(stage, 'says less', says_less, EPROTO)
        both(stage, 'says more', says_more, EPROTO)
        both(stage, 'much more', much_more, EPROTO)
        both(stage, 'chunked, more', chunked, EPROTO)
        both(stage, 'two lengths', lengths, '')

        def whole(a):
            a.status, a.body = '200 OK', GOOD
            a.head['Content-Range'] = None
            a.head['Content-Length'] = str(SIZE)
        both(stage, 'whole', whole, EPROTO)
        def encoded(a):
            a.body = gzip.compress(a.body)
            a.head.update({'Content-Encoding': 'gzip',
                           'Content-Length': str(len(a.body))})
        stage.row('encoded', encoded, EPROTO)
        for name in ('gzip', 'br', 'zstd', 'x-unknown'):
            stage.row(name, head(Content_Encoding=name), EPROTO)
        stage.row('identity', head(Content_Encoding='identity'), None)


def test_vb6_another_version(d):
    with Stage(d) as stage:
        other = bytes(255 - b for b in GOOD)

        def etag(a):
            a.head['ETag'] = '"two"'
            a.body = other[a.first:a.last + 1]

        def weak(a):
            a.head['ETag'] = 'W/"one"'
            a.body = other[a.first:a.last + 1]

        def modified(a):
            a.head['Last-Modified'] = 'Sun, 06 Nov 2022 08:49:38 GMT'
            a.body = other[a.first:a.last + 1]

        def grown(a):
            a.head['Content-Range'] = 'bytes %d-%d/%d' % (a.first, a.last,
                                                          SIZE + 1)

        def precondition(a):
            assert a.request['if-match'] == '"one"', a.request
            a.status, a.body = '412 Precondition Failed', b''
            a.head.update({'Content-Length': '0', 'Content-Range': None})

        def beyond(a):
            a.status, a.body = '416 Range Not Satisfiable', b''
            a.head.update({'Content-Length': '0',
                           'Content-Range': 'bytes */1000'})

        def whole(a):
            a.status, a.body = '200 OK', other
            a.head.update({'ETag': '"two"', 'Content-Range': None,
                           'Content-Length': str(SIZE)})

        def midway(lie):
            def later(a):
                if a.first >= SIZE // 2:
                    lie(a)
            return later

        for lie in (etag, weak, modified, grown, precondition, beyond, whole):
            stage.row(lie.__name__, lie, ESTALE)
            stage.row(lie.__name__ + ' midway', midway(lie), ESTALE)
            # Once is enough, though all answers that follow are good.
            stage.row(lie.__name__ + ' once', some(1, lie), ESTALE)
        both(stage, 'no ETag', head(ETag=None), EPROTO)


def test_vb6_no_version(d):
    """Without a version there is nothing to hold on to."""
    with Liar(GOOD) as server, Sluiced(d, *KEY) as s:
        def opens(etag, modified, **options):
            server.lie = head(ETag=etag, Last_Modified=modified)
            try:
                s.qmp.cmd('blockdev-add', web_node(server, 'n', **options))
            except QmpError as e:
                assert 'could not be noticed' in str(e), e
                return False
            s.qmp.cmd('blockdev-del', {'node-name': 'n'})
            return True
        date = 'Sun, 06 Nov 2022 08:49:37 GMT'
        assert opens('"x"', None)
        assert opens(None, date)
        assert opens('W/"x"', date)
        for etag, modified in ((None, None), ('W/"x"', None), ('x', None),
                               (None, 'yesterday'), ('""x"', None)):
            assert not opens(etag, modified), (etag, modified)
            assert opens(etag, modified, unpinned=True), (etag, modified)


def test_vb6_last_modified_is_pinned(d):
    with Stage(d) as stage, Liar(GOOD) as server:
        server.lie = head(ETag=None)
        stage.add(server)

        def lie(a):
            a.head['ETag'] = None
            assert a.request['if-unmodified-since'] == \
                'Sun, 06 Nov 2022 08:49:37 GMT', a.request
            if a.first >= SIZE // 2:
                a.head['Last-Modified'] = 'Sun, 06 Nov 2022 08:49:38 GMT'
        server.lie = lie
        assert ESTALE in stage.stream()
        stage.remove()


def test_vb6_heads(d):
    with Stage(d) as stage:
        def flood(a):
            a.more = ''.join('X-%d: %s\r\n' % (i, 'y' * 100)
                             for i in range(700))

        def long_line(a):
            a.more = 'X: ' + 'y' * 70000 + '\r\n'

        def endless(a):
            yield a.bytes().partition(b'\r\n\r\n')[0] + b'\r\n'
            while True:
                yield b'X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n' * 100

        def hundreds(a):
            while True:
                yield b'HTTP/1.1 100 Continue\r\n\r\n' * 100

        def status(text):
            def lie(a):
                a.version, _, a.status = text.partition(' ')
            return lie

        def nothing(a):
            yield a.body            # as HTTP/0.9 did

        def trailers(a):
            head_, _, body = a.bytes().partition(b'\r\n\r\n')
            head_ = head_.replace(
                b'Content-Length: %d' % len(body),
                b'Transfer-Encoding: chunked')
            yield head_ + b'\r\n\r\n%x\r\n%s\r\n0\r\n' % (len(body), body)
            while True:
                yield b'X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n' * 100

        both(stage, 'flood', flood, EPROTO)
        both(stage, 'a long line', long_line, EPROTO)
        for lie in (endless, hundreds, nothing):
            stage.row(lie.__name__, lie, '')
        # All of the body has come by then.
        stage.row('trailers', trailers, None)
        for text in ('HTTP/1.1 abc', 'HTTP/1.1 99999 x', 'HTTP/1.1',
                     'HTTP/1.1 -206 x', 'HTTP/1.1 20 x', 'ICY 206 x',
                     'HTTP/1.1 204 No Content', 'HTTP/1.1 304 Not Modified',
                     'HTTP/1.1 101 Switching Protocols'):
            stage.row(text, status(text), '')


def test_vb6_status(d):
    with Stage(d) as stage:
        def answer(status, **fields):
            def lie(a):
                a.status, a.body = status, b'sorry'
                a.head = {'Content-Length': '5'}
                a.head.update({k.replace('_', '-'): v
                               for k, v in fields.items()})
            return lie

        for status in ('500 x', '502 x', '503 x', '504 x', '408 x', '429 x'):
            both(stage, status, answer(status), '')
        # Attempts are made for as long as the delay says, then no more.
        both(stage, '503 for a second', answer('503 x'), '',
             **{'reconnect-delay': 1})
        stage.row('Retry-After', some(2, answer('503 x', Retry_After='0')),
                  None)
        stage.row('Retry-After 1', some(1, answer('429 x', Retry_After='1')),
                  None, **{'reconnect-delay': 3600})
        # Longer than anybody would wait: at once, not after ten hours.
        # So do the requests that come later.
        stage.row('Retry-After 36000', answer('503 x', Retry_After='36000'),
                  'resource busy', **{'reconnect-delay': 1800})
        stage.row('Retry-After, a date',
                  some(1, answer('503 x', Retry_After='Sun, 06 Nov 1994 '
                                 '08:49:37 GMT')), None,
                  **{'reconnect-delay': 3600})
        stage.row('404', answer('404 x'), 'No such file')
        stage.row('410', answer('410 x'), 'No such file')
        stage.row('401', answer('401 x'), 'Permission denied')
        stage.row('403', answer('403 x'), 'Permission denied')
        for status in ('400 x', '405 x', '501 x', '505 x', '999 x'):
            stage.row(status, answer(status), EIO)

        def body(a):
            a.status, a.body = '404 x', b'x' * (10 << 20)
            a.head = {'Content-Length': str(len(a.body))}
        stage.row('a long error', body, 'No such file')


if STORAGE == 's3':
    def test_vb6_s3_does_not_follow(d):
        """What an endpoint redirects to is asked for nothing."""
        with Stage(d) as stage, Liar(GOOD) as other:
            for status in ('301 x', '302 x', '303 x', '307 x', '308 x'):
                def lie(a, status=status):
                    lie_to(a, other.url('master/base'))
                    a.status = status
                stage.row(status, lie, EIO)
            assert not other.requests, other.requests


def test_vb6_redirects(d):
    with Stage(d) as stage:
        def to(where):
            def lie(a):
                a.status, a.body = '302 Found', b''
                a.head = {'Content-Length': '0', 'Location': where}
            return lie

        stage.row('circle', to('/base'), 'Too many levels')
        for where in ('file:///etc/passwd', 'gopher://127.0.0.1/x',
                      'ftp://127.0.0.1/x', 'dict://127.0.0.1:1/x',
                      'http://u:p@127.0.0.1/', 'http://[::1', 'http:///x',
                      'http://127.0.0.1:99999/', 'x' * 9000, ''):
            stage.row('to ' + where[:30], to(where), '')
        stage.row('nowhere', to(None), EIO)
        stage.row('some', some(3, to('/base')), None)


def test_vb3_slow(d):
    with Stage(d) as stage:
        def drip(a):
            for b in a.bytes():
                yield bytes([b])
                yield 0.02

        def stall_in_body(a):
            yield a.bytes()[:-1 if len(a.body) > 1 else None]
            yield 3600

        def stall_in_head(a):
            yield b'HTTP/1.1 206 Partial'
            yield 3600

        def stall(a):
            yield 3600

        for lie in (drip, stall_in_head, stall):
            stage.row(lie.__name__, lie, 'Connection timed out')

        # All but one byte comes each time: it gets there.
        stage.row('stall in the body', stall_in_body, None, **{
            'on-base-hang': 'wait'})

        def once(lie):
            left = [3]

            def gen(a):
                left[0] -= 1
                if left[0] >= 0:
                    yield from lie(a)
                else:
                    yield a.bytes()
            return gen
        for lie in (drip, stall_in_head, stall):
            stage.row(lie.__name__ + ', some', once(lie), None, **{
                'on-base-hang': 'wait'})


def test_vb3_cut_at_every_byte(d):
    """Block number k is cut off at byte k of its answer, once."""
    block = 512
    with Liar(GOOD) as server:
        seen = set()

        def cut(a):
            k = a.first // block
            if a.first % block == 0 and k not in seen:
                seen.add(k)
                yield a.bytes()[:k - 128]
            else:
                yield a.bytes()

        with served(d, server, readahead=0, connections=32,
                    **{'reconnect-delay': 3600}):
            server.lie = cut
            h = client(d)
            # What the first answer brought is not asked for again.
            wanted = list(range(128, 128 + block + 300))
            bufs = {}
            for k in wanted:
                buf = nbd.Buffer(block)
                bufs[k] = buf, h.aio_pread(buf, k * block)
                while h.aio_in_flight() >= 32:
                    h.poll(-1)
            for k, (buf, cookie) in bufs.items():
                while not h.aio_command_completed(cookie):
                    h.poll(-1)
                assert buf.to_bytearray() == GOOD[k * block:(k + 1) * block], k
            h.shutdown()
        assert seen == set(wanted), len(seen)


def test_vb4_one_part_is_bad(d):
    """It fails, though others are served all the time."""
    bad = 1 << 20
    with Liar(GOOD) as server:
        def lie(a):
            if a.first == bad:
                a.status = '503 x'

        with served(d, server, readahead=0, **{'reconnect-delay': 9}):
            server.lie = lie
            h = client(d)
            ended = []
            buf = nbd.Buffer(512)
            h.aio_pread(buf, bad, lambda e: ended.append(e.value) or 1)
            until(lambda: h.pread(512, bad + 512) ==
                  GOOD[bad + 512:bad + 1024] and ended, 'the end of a read')
            assert ended[0] != 0
            h.shutdown()


def test_vb3_cut_while_opening(d):
    with Liar(GOOD) as server, Sluiced(d, *KEY) as s:
        length = [2000]

        def cut(at):
            def lie(a):
                data = a.bytes()
                length[0] = data.index(b'\r\n\r\n') + 4
                yield data[:at]
            return lie

        at = 0
        while at <= length[0] + 1:
            server.lie = cut(at)
            try:
                s.qmp.cmd('blockdev-add', web_node(server, 'n'))
                raise RuntimeError('opened after %d bytes' % at)
            except QmpError as e:
                where = server.url() if STORAGE == 'http' else \
                    's3://master/base'
                assert where in str(e) and 'hidden' not in str(e), e
            at += 1
        server.lie = None
        s.qmp.cmd('blockdev-add', web_node(server, 'n'))


def test_vb5_sizes(d):
    """Impossible sizes are refused when the file is opened."""
    with Liar(GOOD) as server, Sluiced(d, *KEY) as s:
        for total in (str(1 << 63), str(1 << 64), '0', '-1', '1e9',
                      '99999999999999999999999', ''):
            def lie(a, total=total):
                a.head['Content-Range'] = 'bytes %d-%d/%s' % (a.first, a.last,
                                                              total)
            server.lie = lie
            try:
                s.qmp.cmd('blockdev-add', web_node(server, 'n'))
                raise RuntimeError('opened with size ' + total)
            except QmpError as e:
                assert 'Content-Range' in str(e) or 'bytes' in str(e), e

        def empty(a):
            a.status, a.body = '416 x', b''
            a.head = {'Content-Length': '0', 'Content-Range': 'bytes */0'}
        server.lie = empty
        try:
            s.qmp.cmd('blockdev-add', web_node(server, 'n'))
            raise RuntimeError('opened an empty file')
        except QmpError as e:
            assert 'the file is empty' in str(e), e


def test_vb6_redirect_to_this_machine(d):
    """A server elsewhere does not send us to services of this machine. In a
    network of its own, where 192.0.2.1 is elsewhere."""
    inside = os.environ.get('INSIDE_NETNS')
    if not inside:
        p = subprocess.run(
            ['unshare', '-rn', sys.executable, __file__,
             'test_vb6_redirect_to_this_machine'],
            env=dict(os.environ, INSIDE_NETNS='1'), capture_output=True,
            text=True, check=False)
        if 'Operation not permitted' in p.stderr:
            raise Skip('no network namespaces')
        assert 'ok 1' in p.stdout and p.returncode == 0, p.stdout + p.stderr
        return
    for words in ('link set lo up', 'addr add 192.0.2.1/32 dev lo'):
        subprocess.run(['ip'] + words.split(), check=True)
    with Liar(GOOD) as victim, Elsewhere(GOOD) as elsewhere:
        for where in ('http://127.0.0.1:%d/x' % victim.port,
                      'http://localhost:%d/x' % victim.port,
                      'http://0.0.0.0:%d/x' % victim.port,
                      'http://[::ffff:127.0.0.1]:%d/x' % victim.port):
            elsewhere.lie = lambda a, where=where: lie_to(a, where)
            p = subprocess.run(
                [SLUICE, 'info', '-f', 'raw', elsewhere.url()],
                capture_output=True, text=True, check=False)
            assert p.returncode == 1, p.stdout
            assert 'an address of this machine' in p.stderr, p.stderr
            assert not victim.requests, victim.requests
        # It may redirect to itself, and this machine may to itself.
        elsewhere.lie = some(1, lambda a: lie_to(a, elsewhere.url('y')))
        subprocess.run([SLUICE, 'info', '-f', 'raw', elsewhere.url()],
                       check=True, stdout=subprocess.DEVNULL)
        victim.lie = some(1, lambda a: lie_to(a, victim.url('y')))
        subprocess.run([SLUICE, 'info', '-f', 'raw', victim.url()],
                       check=True, stdout=subprocess.DEVNULL)


def lie_to(a, where):
    a.status, a.body = '302 Found', b''
    a.head = {'Content-Length': '0', 'Location': where}


class Elsewhere(Liar):
    HOST = '192.0.2.1'


if __name__ == '__main__':
    run(globals())
