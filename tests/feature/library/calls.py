#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""libsluice against a real daemon, every call."""
import ctypes
import json
import os
import select
import sys
import time
from ctypes import byref, c_char_p, c_int, c_int64, c_void_p

from sluiced import SANITIZED, SLUICED, Skip, Sluiced, make_chain, run
from waiting import rest

LIBRARY = os.path.join(os.path.dirname(SLUICED), 'src/lib/libsluice.so')
KIB, MIB = 1 << 10, 1 << 20
EREMOTEIO = 121
COMPLETED, FAILED, CANCELLED = 0, 1, 2


class Info(ctypes.Structure):
    _fields_ = [('cur', c_int64), ('end', c_int64)]


class Library:
    """The calls with strings of Python; errors as (number, text)."""

    def __init__(self, path):
        if SANITIZED:
            # Its runtime must come first in a process.
            raise Skip('a library without sanitizers is missing')
        self.c = ctypes.CDLL(LIBRARY)
        self.c.sluice_free.argtypes = [c_void_p]
        self.conn = c_void_p()
        self.error = c_void_p()
        r = self.c.sluice_connect(path.encode(), byref(self.conn),
                                  byref(self.error))
        if r < 0:
            raise OSError(-r, self.take(self.error))

    def take(self, pointer):
        """The text of a returned string, which is freed."""
        text = ctypes.cast(pointer, c_char_p).value
        self.c.sluice_free(pointer)
        pointer.value = None
        return text.decode() if text is not None else None

    def call(self, name, *args):
        r = getattr(self.c, name)(self.conn, *args, byref(self.error))
        if r < 0:
            raise OSError(-r, self.take(self.error))
        return r

    def execute(self, command, **args):
        ret = c_void_p()
        self.call('sluice_execute', command.encode(),
                  json.dumps(args).encode() if args else None, byref(ret))
        return json.loads(self.take(ret))

    def event(self, timeout_ms):
        text = c_void_p()
        r = self.c.sluice_wait_event(self.conn, c_int(timeout_ms), byref(text))
        return json.loads(self.take(text)) if r == 1 else r

    def wait(self, device, timeout_ms):
        result = c_int(-1)
        r = self.call('sluice_wait_block_pull', device, c_int(timeout_ms),
                      byref(result))
        text = self.take(self.error) if self.error else None
        return result.value if r == 1 else None, text

    def info(self, device):
        info = Info()
        r = self.call('sluice_get_block_pull_info', device, byref(info))
        return info if r == 1 else None

    def close(self):
        self.c.sluice_disconnect(self.conn)


FOREVER = -1


def start(d, size=4 * MIB):
    _, top = make_chain(d, size)
    return Sluiced(d, '--drive', 'id=disk,file=%s,format=qed' % top)


def start_slow(d):
    """A base that gives 512 KiB a second."""
    base, top = make_chain(d, 8 * MIB)
    return Sluiced(
        d, '--object', 'throttle-group,id=t,limits.bps-total=524288',
        '--blockdev', 'raw,node-name=far,file.driver=file,file.filename=' + base,
        '--blockdev', 'throttle,node-name=slow,throttle-group=t,file=far',
        '--drive', 'id=disk,file=%s,format=qed,backing=slow' % top)


def test_commands_and_errors(d):
    with start(d) as s:
        lib = Library(s.socket)
        assert lib.execute('query-version')['qemu']
        try:
            lib.execute('block_stream', device='nobody')
            raise AssertionError('a device that is not there was accepted')
        except OSError as e:
            assert e.errno == EREMOTEIO and 'nobody' in e.strerror, e
        # Without anywhere to put answer and error.
        assert lib.c.sluice_execute(lib.conn, b'no-such', None, None,
                                    None) == -EREMOTEIO
        lib.close()
        lib.c.sluice_disconnect(None)
        lib.c.sluice_free(None)


def test_no_daemon(d):
    try:
        Library(d + '/nothing.sock')
        raise AssertionError('connected to nothing')
    except OSError as e:
        assert 'nothing.sock' in e.strerror, e


def test_pull_all(d):
    with start(d) as s:
        lib = Library(s.socket)
        lib.call('sluice_block_pull_all', b'disk')
        assert lib.wait(b'disk', FOREVER) == (COMPLETED, None)
        assert lib.info(b'disk') is None
        image = s.qmp.cmd('query-named-block-nodes')
        assert not any('base.raw' in n['file'] for n in image), image
        lib.close()


def test_pull_by_increments(d):
    with start(d, 3 * MIB) as s:
        lib = Library(s.socket)
        info, last = Info(), -1
        for _ in range(100000):
            lib.call('sluice_block_pull', b'disk', byref(info))
            assert last < info.cur <= info.end == 3 * MIB, (last, info.cur)
            last = info.cur
            if info.cur == info.end:
                break
        assert info.cur == info.end
        assert lib.wait(b'disk', FOREVER) == (COMPLETED, None)
        lib.close()


def test_progress_abort_and_timeout(d):
    with start_slow(d) as s:
        lib = Library(s.socket)
        lib.call('sluice_block_pull_all', b'disk')
        info = lib.info(b'disk')
        assert info and 0 <= info.cur < info.end == 8 * MIB, info
        before, rested = time.monotonic(), rest()
        assert lib.wait(b'disk', 300)[0] is None
        assert time.monotonic() - before > 0.25 and rest() - rested < 20
        lib.call('sluice_block_pull_abort', b'disk')
        assert lib.wait(b'disk', FOREVER)[0] == CANCELLED
        lib.close()


def test_events(d):
    with start(d) as s:
        lib = Library(s.socket)
        assert lib.event(50) == 0
        other = Library(s.socket)
        other.call('sluice_block_pull_all', b'disk')
        assert select.select([lib.c.sluice_fd(lib.conn)], [], [])[0]
        names = set()
        while 'BLOCK_JOB_COMPLETED' not in names:
            event = lib.event(FOREVER)
            assert isinstance(event, dict), (event, names)
            names.add(event['event'])
        # Events that come during a command are kept.
        lib.execute('query-status')
        other.close()
        s.stop()
        event = 0
        while isinstance(event, dict) or event == 0:
            event = lib.event(1000)
        assert event < 0, event
        lib.close()


if __name__ == '__main__':
    sys.exit(run(globals()))
