# SPDX-License-Identifier: LGPL-2.1-or-later
"""A web server that lies, for tests: it serves DATA in ranges, as a real one
does, but for what a function makes of the answer.

    def lie(answer):                    # an Answer, about to be sent
        answer.head['Content-Range'] = 'bytes 1-2/3'

    server = Liar(data)
    server.lie = lie

A lie that is a generator function yields the bytes itself; pieces that are
numbers are pauses in seconds, and it ends with a cut connection.
"""
import inspect
import threading

from listening import Listening


class Answer:
    def __init__(self, server, request, first, last):
        self.server = server
        self.request = request          # {'range': ..., in small letters}
        self.first, self.last = first, last
        self.status = '206 Partial Content'
        self.body = server.data[first:last + 1]
        self.version = 'HTTP/1.1'
        self.head = {
            'ETag': server.etag,
            'Last-Modified': 'Sun, 06 Nov 2022 08:49:37 GMT',
            'Accept-Ranges': 'bytes',
            'Content-Range': 'bytes %d-%d/%d' % (first, last,
                                                 len(server.data)),
            'Content-Length': str(len(self.body))}
        self.more = ''                  # lines of the head
        self.close = False

    def bytes(self):
        lines = ['%s %s' % (self.version, self.status)]
        lines += ['%s: %s' % kv for kv in self.head.items()
                  if kv[1] is not None]
        return ('\r\n'.join(lines) + '\r\n' + self.more + '\r\n').encode() \
            + self.body


class Liar(Listening):
    HOST = '127.0.0.1'

    def __init__(self, data, etag='"one"'):
        self.data, self.etag = data, etag
        self.lie = None
        self.requests = []              # the heads that came
        self.lock = threading.Lock()
        self.halt = threading.Event()
        super().__init__(host=self.HOST)
        self.port = self.listener.getsockname()[1]

    def url(self, name='base'):
        return 'http://%s:%d/%s' % (self.HOST, self.port, name)

    def stop(self):
        self.halt.set()
        super().stop()

    def serve(self, c):
        while self.one(c):
            pass

    @staticmethod
    def read_request(c):
        data = b''
        while not data.endswith(b'\r\n\r\n'):
            more = c.recv(1)
            if not more:
                return None
            data += more
        lines = data.decode('latin-1').split('\r\n')
        request = {'line': lines[0]}
        for line in lines[1:]:
            name, _, value = line.partition(':')
            request[name.lower()] = value.strip()
        return request

    def one(self, c):
        """Answer a request. False: the connection is over."""
        request = self.read_request(c)
        if request is None:
            return False
        with self.lock:
            self.requests.append(request)
            request['number'] = len(self.requests)
        first, last = request['range'][len('bytes='):].split('-')
        last = min(int(last), len(self.data) - 1)
        answer = Answer(self, request, int(first), last)
        lie = self.lie
        if lie and inspect.isgeneratorfunction(lie):
            return self.trickle(c, lie(answer))
        if lie:
            lie(answer)
        c.sendall(answer.bytes())
        return not answer.close

    def trickle(self, c, pieces):
        for piece in pieces:
            if isinstance(piece, bytes):
                c.sendall(piece)
            elif self.halt.wait(piece):
                break
        return False
