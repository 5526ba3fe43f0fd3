# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs nbd-test-server and talks to it; rows of a test as TAP points."""
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import traceback

import nbdraw
from waiting import until


class Server:
    """exports: (options of block-export-add)."""

    def __init__(self, nodes, exports=(), folder=None, **config):
        self.dir = tempfile.mkdtemp(prefix='nbd-')
        self.path = os.path.join(self.dir, 's')
        ours, theirs = socket.socketpair()
        for node in nodes:
            self._place(node, folder)
        config.setdefault('listen', {'path': self.path})
        if os.environ.get('SLUICE_ENGINE'):
            config['engine'] = os.environ['SLUICE_ENGINE']
        config['nodes'] = nodes
        self.proc = subprocess.Popen([os.environ['NBD_TEST_SERVER'],
                                      json.dumps(config)], stdin=theirs)
        theirs.close()
        self.control = ours
        self.file = ours.makefile('r')
        self.lock = threading.Condition()
        self.answers, self.events, self.next_id = {}, [], 1
        self.ended = False
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.port = self('start')['port']
            for e in exports:
                self('add', type='nbd', **e)
        except Exception:
            self.close()
            raise

    def _place(self, node, folder):
        """Names of files are relative to @folder."""
        for key, value in node.items():
            if isinstance(value, dict):
                self._place(value, folder)
            elif key == 'filename' and not value.startswith('/'):
                node[key] = os.path.join(folder, value)

    def _listen(self):
        for line in self.file:
            msg = json.loads(line)
            with self.lock:
                if 'event' in msg:
                    self.events.append(msg)
                else:
                    self.answers[msg['id']] = msg
                self.lock.notify_all()
        with self.lock:
            self.ended = True
            self.lock.notify_all()

    def begin(self, cmd, **args):
        args = {k.replace('_', '-'): v for k, v in args.items()}
        with self.lock:
            i = self.next_id
            self.next_id += 1
        self.control.sendall(json.dumps({'cmd': cmd, 'id': i, 'args': args})
                             .encode() + b'\n')
        return i

    def finish(self, i):
        with self.lock:
            self.lock.wait_for(lambda: i in self.answers or self.ended)
            assert i in self.answers, 'no answer from the server'
            return self.answers.pop(i)

    def __call__(self, cmd, **args):
        out = self.finish(self.begin(cmd, **args))
        if 'error' in out:
            raise RuntimeError(out['error'])
        return out

    def error(self, cmd, **args):
        return self.finish(self.begin(cmd, **args)).get('error')

    def wait_held(self, n):
        """Until @n requests wait in hold nodes."""
        until(lambda: self('query')['held'] == n, '%d requests' % n)

    def calm(self):
        """Whatever a row left in force is over."""
        try:
            self('hold', on=False)
            self('fail', errno=0)
        except (AssertionError, OSError):
            pass

    def client(self, **kw):
        address = self.path if not self.port else ('127.0.0.1', self.port)
        return nbdraw.Client(address, **kw).greet()

    def go(self, name, sr=False, contexts=None, **kw):
        c = self.client(**kw)
        if sr or contexts:
            c.sr()
        if contexts:
            c.ids = c.set_meta(name, contexts)
        return c.go(name)

    def rss(self):
        """Resident memory, bytes."""
        with open('/proc/%d/statm' % self.proc.pid) as f:
            return int(f.read().split()[1]) * resource.getpagesize()

    def fds(self):
        return len(os.listdir('/proc/%d/fd' % self.proc.pid))

    def close(self):
        """Quit cleanly; the exit status counts."""
        try:
            self.control.sendall(b'{"cmd":"quit"}\n')
        except OSError:
            pass
        try:
            until(lambda: self.proc.poll() is not None, 'the end')
        except AssertionError:
            self.proc.kill()
        status = self.proc.wait()
        self.control.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        assert status == 0, 'server ended with %s' % status


FILES = tempfile.mkdtemp(prefix='nbd-files-')
ROWS = []


def row(name, text):
    """Decorator: one TAP point."""
    def add(fn):
        ROWS.append((name, text, fn))
        return fn
    return add


class Skip(Exception):
    pass


def run_rows(make_server):
    """Run all rows of the program on one server; it must live through each."""
    only = sys.argv[1:]
    rows = [r for r in ROWS if not only or r[0] in only]
    print('1..%d' % (len(rows) + 1), flush=True)
    failed = 0
    server = make_server()
    try:
        for i, (name, text, fn) in enumerate(rows, 1):
            line = '%d %s %s' % (i, name, text)
            try:
                fn(server)
                assert server.proc.poll() is None, 'the server died'
                print('ok ' + line, flush=True)
            except Skip as e:
                print('ok %s # SKIP %s' % (line, e), flush=True)
            except BaseException:  # pylint: disable=broad-except
                failed += 1
                print('not ok ' + line)
                for text in traceback.format_exc().splitlines():
                    print('# ' + text)
                sys.stdout.flush()
            server.calm()
            if server.proc.poll() is not None:
                server = make_server()
    finally:
        last = '%d quits cleanly' % (len(rows) + 1)
        try:
            server.close()
            print('ok ' + last)
        except AssertionError as e:
            failed += 1
            print('not ok %s\n# %s' % (last, e))
        shutil.rmtree(FILES, ignore_errors=True)
    return 1 if failed else 0
