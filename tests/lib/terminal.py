# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program on a terminal: what it prints is read, what it is to read is typed.

    with Terminal(SLUICE, 'monitor', '-s', socket) as t:
        t.expect(r'\\(sluice\\) ')
        t.type('info block\\n')
"""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

from killed import kill_and_wait
from waiting import LIMIT, Patience

CTRL_C, CTRL_D, TAB, UP = '\x03', '\x04', '\t', '\x1b[A'


class Terminal:
    def __init__(self, *argv, cwd=None, env=None, columns=100):
        self.fd, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ,
                    struct.pack('HHHH', 24, columns, 0, 0))
        # The terminal is the one of the program's own session, so that Ctrl-C
        # reaches it as a signal.
        self.proc = subprocess.Popen(
            ['setsid', '--ctty', '--wait'] + list(argv), stdin=slave,
            stdout=slave, stderr=slave, cwd=cwd, close_fds=True,
            env=dict(os.environ, TERM='xterm', **(env or {})))
        os.close(slave)
        self.text = ''  # all that was printed
        self.seen = 0   # up to where expect() has looked
        self.open = True

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if self.proc.poll() is None:
            kill_and_wait(self.proc)
        os.close(self.fd)

    def read(self, seconds):
        """Take what comes within @seconds. False: nothing came."""
        if not self.open or not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:     # the program has closed its side
            data = b''
        self.open = bool(data)
        self.text += data.decode('utf-8', 'replace')
        return self.open

    def expect(self, pattern):
        """Wait until the rest of the output matches; the match."""
        patience = Patience(LIMIT)
        while True:
            m = re.search(pattern, self.text[self.seen:])
            if m:
                self.seen += m.end()
                return m
            assert self.open and not patience.over(), \
                'in vain waited for %r in %r' % (pattern, self.text)
            self.read(min(0.1, patience.left()))

    def is_raw(self):
        """The program gets each key by itself."""
        return not termios.tcgetattr(self.fd)[3] & termios.ECHO

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self):
        """Its exit status, after all of its output."""
        patience = Patience(LIMIT)
        while self.open:
            assert not patience.over(), self.text
            self.read(min(0.1, patience.left()))
        return self.proc.wait()

