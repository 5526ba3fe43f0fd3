#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run a test program and end it when it no longer gets anywhere.

usage: watch.py PROGRAM [ARGUMENT ...]

A limit in seconds of the clock would measure the machine and who else uses it.
Two other limits end a test:

  progress    in TEST_STALL_SECONDS (300) it and everything that it started
              used less than one percent of a processor and moved nothing to
              or from a disk.  It gets SIGINT, which shows where a Python test
              waits, and SIGKILL ten seconds later.
  processor   each of its processes gets SIGXCPU after TEST_CPU_SECONDS (3600)
              of processor time.

0 takes a limit away.  What a test leaves running is ended, too.
"""
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time

STALL_SECONDS = int(os.environ.get('TEST_STALL_SECONDS', '300'))
CPU_SECONDS = int(os.environ.get('TEST_CPU_SECONDS', '3600'))
LOOK_SECONDS = 5
BUSY = 0.01                     # of one processor
LAST_SECONDS = 10               # between SIGINT and SIGKILL
TICKS = os.sysconf('SC_CLK_TCK')
PR_SET_CHILD_SUBREAPER = 36


class Process:
    """One process, as /proc tells: .pid, .parent, .state, .cpu in seconds with
    that of children who ended, .moved in bytes to or from disks."""

    def __init__(self, pid):
        with open('/proc/%d/stat' % pid, encoding='utf-8',
                  errors='replace') as f:
            words = f.read().rpartition(')')[2].split()
        self.pid, self.parent, self.state = pid, int(words[1]), words[0]
        self.cpu = sum(int(w) for w in words[11:15]) / TICKS
        self.moved = 0
        try:
            with open('/proc/%d/io' % pid, encoding='utf-8') as f:
                self.moved = sum(int(line.split()[1]) for line in f
                                 if line.startswith(('read_b', 'write_b')))
        except OSError:
            pass

    def __str__(self):
        try:
            with open('/proc/%d/cmdline' % self.pid, 'rb') as f:
                words = f.read().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            words = ''
        return '%d %s %s' % (self.pid, self.state, words)


def descendants():
    """All processes below this one."""
    found = {}
    for name in os.listdir('/proc'):
        if name.isdigit():
            try:
                p = Process(int(name))
            except (OSError, ProcessLookupError):
                continue
            found.setdefault(p.parent, []).append(p)
    res, todo = [], [os.getpid()]
    while todo:
        below = found.get(todo.pop(), [])
        res += below
        todo += [p.pid for p in below]
    return res


class Progress:
    """What all processes of a test have done, looked at now and then."""

    def __init__(self):
        self.mark = None
        self.since = time.monotonic()

    def stalled(self):
        """Seconds in which next to nothing was done."""
        tree = descendants()
        done = (sum(p.cpu for p in tree), sum(p.moved for p in tree))
        now = time.monotonic()
        if self.mark is None or done[1] != self.mark[1] or \
                abs(done[0] - self.mark[0]) > BUSY * STALL_SECONDS:
            self.mark, self.since = done, now
        return now - self.since


def end_all(sig):
    for p in descendants():
        try:
            os.kill(p.pid, sig)
        except ProcessLookupError:
            pass


def prepare():
    """In the child, before the test begins."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if CPU_SECONDS:
        # The hard limit stays: a test may set a limit of its own.
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, hard))


def watch(proc):
    """The status of @proc, which ends by itself or is ended."""
    progress = Progress()
    while True:
        try:
            return proc.wait(LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        if STALL_SECONDS and progress.stalled() > STALL_SECONDS:
            break
    print('# no progress for %d s; what runs:' % STALL_SECONDS, flush=True)
    for p in descendants():
        print('#   %s' % p, flush=True)
    proc.send_signal(signal.SIGINT)
    try:
        proc.wait(LAST_SECONDS)
    except subprocess.TimeoutExpired:
        end_all(signal.SIGKILL)
        proc.wait()
    return 1


def main():
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    began = time.monotonic()
    # A key that is pressed goes to the whole group: the test answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with subprocess.Popen(sys.argv[1:], preexec_fn=prepare) as proc:
        signal.signal(signal.SIGTERM,
                      lambda *_: proc.send_signal(signal.SIGTERM))
        status = watch(proc)
    end_all(signal.SIGKILL)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print('# %.1f s of processor time, %.1f s by the clock' % (
        used.ru_utime + used.ru_stime, time.monotonic() - began), flush=True)
    if status < 0:
        print('# ended by signal %d' % -status, flush=True)
    return status if status >= 0 else 128 - status


if __name__ == '__main__':
    sys.exit(main())
