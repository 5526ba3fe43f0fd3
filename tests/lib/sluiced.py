# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the daemon for a test, and the frame that tests run in.

    def test_something(d):                      # d: a directory of its own
        with Sluiced(d, '--blockdev', 'null-co,node-name=n') as s:
            s.qmp.cmd('query-block')

    if __name__ == '__main__':
        run(globals())

The daemon is reached over a Unix socket in the directory, ended by its own
pid, and has to end with status 0 and without a word of a sanitizer.
"""
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

from killed import kill_and_wait
from qmp import Qmp, QmpClosed
from waiting import LIMIT, Patience, until

TOP = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
SLUICED = os.environ.get('SLUICED', TOP + '/build/sluiced')
SLUICE = os.environ.get('SLUICE', TOP + '/build/sluice')
# A build under a sanitizer: uses more memory, cannot be loaded by Python.
SANITIZED = 'san' in os.path.basename(os.path.dirname(SLUICED))

BAD_WORDS = ('Sanitizer', 'runtime error:', 'Assertion', 'ERROR:',
             'does not fit its schema', 'terminate called', 'CRITICAL **')


class Skip(Exception):
    """What is missing for this test."""


class Sluiced:
    client = Qmp    # how its monitor is spoken to

    def __init__(self, directory, *args, monitor=True, env=None,
                 connect=True, stdin=None, prefix=()):
        self.dir = directory
        self.socket = os.path.join(directory, 'qmp.sock')
        self.log = os.path.join(directory, 'sluiced.err')
        self.status = None
        cmd = [*prefix, SLUICED]
        if monitor:
            cmd += ['--chardev',
                    'socket,id=qmp0,path=%s,server=on,wait=off' % self.socket,
                    '--monitor', 'qmp0']
        cmd += list(args)
        with open(self.log, 'ab') as err:
            self.proc = subprocess.Popen(
                cmd, stdin=stdin or subprocess.DEVNULL, stderr=err,
                stdout=subprocess.PIPE, cwd=directory,
                env=dict(os.environ, **(env or {})))
        self.qmp = None
        if monitor and connect:
            try:
                self.qmp = self.connect()
            except BaseException:
                self.kill()
                raise

    def connect(self, negotiate=True):
        """Another connection to the monitor."""
        def attempt():
            try:
                return self.client.connect(self.socket, negotiate)
            except (FileNotFoundError, ConnectionRefusedError,
                    ConnectionResetError, BrokenPipeError, QmpClosed):
                assert self.proc.poll() is None, \
                    'sluiced ended with status %d: %s' % (
                        self.proc.returncode, self.errors())
                return None
        return until(attempt, 'the monitor')

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind is not None:
            self.kill()
            sys.stdout.write(self.errors())
        elif self.status is None:
            self.stop()

    def errors(self):
        with open(self.log, encoding='utf-8', errors='replace') as f:
            return f.read()

    def wait(self, timeout=LIMIT):
        """Wait for an end that the test has caused. Returns the status.
        @timeout: seconds of rest."""
        patience = Patience(timeout)
        while True:
            try:
                self.proc.communicate(timeout=patience.left())
                break
            except subprocess.TimeoutExpired:
                if patience.over():
                    self.kill()
                    raise AssertionError('sluiced does not end: %s'
                                         % self.errors()) from None
        self.status = self.proc.returncode
        if self.qmp:
            self.qmp.close()
        text = self.errors()
        for word in BAD_WORDS:
            assert word not in text, text
        return self.status

    def stop(self, how='quit'):
        """End it, by the quit command or a signal; it must end well."""
        if how == 'quit' and self.qmp and self.proc.poll() is None:
            self.qmp.send_raw('{"execute": "quit"}\n')
        else:
            self.proc.send_signal(signal.SIGTERM if how == 'quit' else how)
        status = self.wait()
        assert status == 0, 'status %d: %s' % (status, self.errors())

    def kill(self):
        """The power cut: SIGKILL."""
        kill_and_wait(self.proc)
        self.status = self.proc.returncode
        if self.qmp:
            self.qmp.close()


def run_tool(*cmd):
    """Run a program that must succeed; its output. Skips when it is missing."""
    if shutil.which(cmd[0]) is None:
        raise Skip('%s is not installed' % cmd[0])
    p = subprocess.run(cmd, capture_output=True, text=True, check=False)
    assert p.returncode == 0, '%s: %s%s' % (' '.join(cmd), p.stdout, p.stderr)
    return p.stdout


def qemu_img(*args):
    return run_tool('qemu-img', *args)


def write_pattern(path, size, seed=1, block=4096):
    """Fill @path with bytes that differ from block to block."""
    import random
    rng = random.Random(seed)
    with open(path, 'wb') as f:
        for _ in range(size // block):
            f.write(rng.randbytes(16) * (block // 16))


def make_chain(directory, size, fmt='qed'):
    """A raw base full of data and an empty overlay: their paths."""
    base = os.path.join(directory, 'base.raw')
    top = os.path.join(directory, 'top.' + fmt)
    write_pattern(base, size)
    qemu_img('create', '-q', '-f', fmt, '-b', base, '-F', 'raw', top)
    return base, top


def run(names):
    """Run every test_* function of @names in a directory of its own; TAP on
    stdout, which tells of skipped ones, too: Meson takes another exit status
    than 0 for a failure. Arguments on the command line choose tests by name."""
    tests = [(n, f) for n, f in names.items()
             if n.startswith('test_') and callable(f)
             and (len(sys.argv) < 2 or n in sys.argv[1:])]
    failed = 0
    print('1..%d' % len(tests), flush=True)
    for i, (name, func) in enumerate(tests, 1):
        directory = tempfile.mkdtemp(prefix='sluice-')
        try:
            func(directory)
            print('ok %d %s' % (i, name), flush=True)
        except Skip as e:
            print('ok %d %s # SKIP %s' % (i, name, e), flush=True)
        except (Exception, KeyboardInterrupt) as e:
            failed += 1
            traceback.print_exc(file=sys.stdout)
            print('not ok %d %s' % (i, name), flush=True)
            if isinstance(e, KeyboardInterrupt):    # watch.py, or a person
                break
        finally:
            shutil.rmtree(directory, ignore_errors=True)
    sys.exit(1 if failed else 0)
