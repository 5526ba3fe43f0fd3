# SPDX-License-Identifier: LGPL-2.1-or-later
"""A small QMP client for the tests.

    q = Qmp.connect('/path/of/socket')
    q.cmd('block-stream', device='top', job_id='j')     # '_' becomes '-'
    q.wait_event('BLOCK_JOB_COMPLETED', device='j')

An error answer is raised as QmpError.  Events are kept until someone asks
for them.  No wait is for ever: waiting.py.
"""
import json
import socket

from waiting import LIMIT, Patience


class QmpError(Exception):
    def __init__(self, error):
        super().__init__('%s: %s' % (error['class'], error['desc']))
        self.cls = error['class']
        self.desc = error['desc']


class QmpClosed(Exception):
    """The server closed the connection."""


class Qmp:
    def __init__(self, sock, negotiate=True):
        self.sock = sock
        self.buf = b''
        self.events = []
        self.greeting = self.read_message()
        if negotiate:
            self.cmd('qmp_capabilities')

    @classmethod
    def connect(cls, path, negotiate=True):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return cls(sock, negotiate)

    def close(self):
        self.sock.close()

    def read_line(self, patience=None):
        """One line without its end; it must end in CR LF."""
        patience = patience or Patience()
        while b'\n' not in self.buf:
            if patience.over():
                raise TimeoutError('nothing came')
            self.sock.settimeout(patience.left())
            try:
                data = self.sock.recv(65536)
            except TimeoutError:
                continue
            finally:
                self.sock.settimeout(None)
            if not data:
                raise QmpClosed()
            self.buf += data
        line, self.buf = self.buf.split(b'\n', 1)
        assert line.endswith(b'\r'), line
        return line[:-1].decode()

    def read_message(self, patience=None):
        return json.loads(self.read_line(patience))

    def send_raw(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def answer(self):
        """The next message that is no event."""
        patience = Patience()
        while True:
            msg = self.read_message(patience)
            if 'event' not in msg:
                return msg
            self.events.append(msg)

    def execute(self, name, args=None):
        """Send a command, return the whole answer."""
        msg = {'execute': name}
        if args is not None:
            msg['arguments'] = args
        self.send_raw(json.dumps(msg) + '\n')
        return self.answer()

    def cmd(self, name, args=None, /, **kwargs):
        """Send a command, return what it returns, raise QmpError."""
        if kwargs:
            args = dict(args or {})
            args.update({k.replace('_', '-'): v for k, v in kwargs.items()})
        msg = self.execute(name, args)
        if 'error' in msg:
            raise QmpError(msg['error'])
        return msg['return']

    def error(self, name, args=None, /, **kwargs):
        """The description of the error that a command must give."""
        try:
            ret = self.cmd(name, args, **kwargs)
        except QmpError as e:
            return e.desc
        raise AssertionError('%s succeeded: %r' % (name, ret))

    def hmp(self, line):
        return self.cmd('human-monitor-command', {'command-line': line})

    @staticmethod
    def _matches(event, name, data):
        return event['event'] == name and all(
            event.get('data', {}).get(k.replace('_', '-')) == v
            for k, v in data.items())

    def wait_event(self, name, timeout=LIMIT, **data):
        """The first event of that name whose data has these members; it is
        taken out, what came before it stays. @timeout: seconds of rest."""
        patience = Patience(timeout)
        seen = 0
        while True:
            for i in range(seen, len(self.events)):
                if self._matches(self.events[i], name, data):
                    return self.events.pop(i)
            seen = len(self.events)
            try:
                msg = self.read_message(patience)
            except TimeoutError:
                raise TimeoutError('no event %s %r; came: %r' % (
                    name, data, self.events)) from None
            assert 'event' in msg, msg
            self.events.append(msg)

    def take_events(self):
        """All events that are known so far."""
        res, self.events = self.events, []
        return res

    def job_states(self, job):
        """Take the states of @job that have been announced, in order."""
        res, keep = [], []
        for e in self.events:
            if e['event'] == 'JOB_STATUS_CHANGE' and e['data']['id'] == job:
                res.append(e['data']['status'])
            else:
                keep.append(e)
        self.events = keep
        return res
