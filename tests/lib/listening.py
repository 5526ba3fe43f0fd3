# SPDX-License-Identifier: LGPL-2.1-or-later
"""A server of a test's own: each connection has a thread.

    class Echo(Listening):
        def serve(self, c):             # a socket, closed afterwards
            c.sendall(c.recv(1))

An end of the connection (EOFError, OSError) may leave serve() at any place.
"""
import os
import socket
import threading

from waiting import until


class Listening:
    """@path: of a Unix socket; None: a free port of @host."""

    def __init__(self, path=None, host='127.0.0.1'):
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX if path
                                      else socket.AF_INET)
        self.listener.bind(path or (host, 0))
        self.listener.listen(100)
        self.connections = 0            # that came
        self.threads = []
        self._start(self._accept)

    def _start(self, *call):
        t = threading.Thread(target=call[0], args=call[1:], daemon=True)
        self.threads.append(t)
        t.start()

    def _accept(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, c)

    def _serve(self, c):
        with c:
            try:
                self.serve(c)
            except (EOFError, OSError):
                pass

    def serve(self, c):
        raise NotImplementedError

    def stop(self):
        """No more connections."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        if self.path:
            os.unlink(self.path)

    def wait(self):
        """After stop(): until all connections have ended."""
        until(lambda: not any(t.is_alive() for t in self.threads),
              'the end of all connections')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def recv_exact(c, n):
    """@n bytes of @c; EOFError where it ends before."""
    data = b''
    while len(data) < n:
        more = c.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def reset_on_close(c):
    """What was sent may never arrive."""
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
