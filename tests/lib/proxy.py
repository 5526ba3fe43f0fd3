# SPDX-License-Identifier: LGPL-2.1-or-later
"""A link between two hosts: passes TCP connections on, late, and can be cut.

    with Link(('127.0.0.1', port), delay=0.01) as link:
        ... connect to link.address
        link.cut()          # connections are reset, new ones are refused
        link.mend()
        link.freeze()       # nothing comes through, nobody is told
        link.thaw()
        link.cut_after(100)     # bytes more from the server: its connection ends
"""
import socket
import struct
import threading
import time

PIECE = 256 << 10
RESET = struct.pack('ii', 1, 0)     # SO_LINGER: closing sends a reset


class Pipe(threading.Thread):
    """One direction of a connection: what comes at t leaves at t + delay."""

    def __init__(self, link, source, target, from_server):
        super().__init__(daemon=True)
        self.link, self.source, self.target = link, source, target
        self.from_server = from_server
        self.queue = []
        self.ready = threading.Condition()
        threading.Thread(target=self.deliver, daemon=True).start()
        self.start()

    def run(self):
        while True:
            try:
                data = self.source.recv(PIECE)
            except OSError:
                data = b''
            with self.ready:
                self.queue.append((time.monotonic() + self.link.delay, data))
                self.ready.notify()
            if not data:
                return

    def next(self):
        with self.ready:
            while not self.queue:
                self.ready.wait()
            return self.queue.pop(0)

    def deliver(self):
        while True:
            when, data = self.next()
            time.sleep(max(0, when - time.monotonic()))
            self.link.held += not self.link.open.is_set()
            self.link.open.wait()
            try:
                if not data:
                    self.target.shutdown(socket.SHUT_WR)
                    return
                rest = self.link.spend(len(data)) if self.from_server else None
                if rest is not None:
                    self.end(data[:rest])
                    return
                self.target.sendall(data)
                self.link.passed += len(data)
            except OSError:
                return


    def end(self, data):
        """Send that, and end the connection on both sides."""
        self.target.sendall(data)
        if self.link.resets:
            Link.reset(self.target)
        else:
            self.target.shutdown(socket.SHUT_RDWR)
        Link.reset(self.source)


class Link:
    """@listen: address to listen on; port 0: any."""

    def __init__(self, server, delay=0.0, listen=('127.0.0.1', 0)):
        self.server, self.delay = server, delay
        self.open = threading.Event()
        self.open.set()
        self.passed = 0         # bytes, both ways
        self.refused = 0        # connections while it was cut
        self.held = 0           # pieces that met a frozen link
        self.left = None        # bytes until a connection ends
        self.resets = False     # how it ends
        self.lock = threading.Lock()
        self.is_cut = False
        self.sockets = []
        self.listener = socket.create_server(listen)
        self.address = self.listener.getsockname()[:2]
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def name(self):
        return '%s:%d' % self.address

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.is_cut:
                    self.refused += 1
                    self.reset(near)
                    continue
                try:
                    far = socket.create_connection(self.server)
                except OSError:
                    self.reset(near)
                    continue
                self.sockets += [near, far]
                Pipe(self, near, far, False)
                Pipe(self, far, near, True)

    @staticmethod
    def reset(s):
        try:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        s.close()

    def cut(self):
        with self.lock:
            self.is_cut = True
            for s in self.sockets:
                self.reset(s)
            self.sockets = []

    def mend(self):
        with self.lock:
            self.is_cut = False

    def cut_after(self, count, resets=False):
        """The connection that has brought @count bytes from the server from now
        on ends there, with a reset or in good order; others go on."""
        with self.lock:
            self.left, self.resets = count, resets

    def spend(self, count):
        """How many of @count bytes still pass, if not all."""
        with self.lock:
            if self.left is None:
                return None
            if count < self.left:
                self.left -= count
                return None
            left, self.left = self.left, None
            return left

    def freeze(self):
        self.open.clear()

    def thaw(self):
        self.open.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cut()
        self.thaw()
        self.listener.close()
