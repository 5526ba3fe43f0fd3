#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one small read over NBD costs in system calls, one request at a time.

The tracer is attached while nothing is under way, so each count is of READS
reads and of little else; SLACK of them is for timers and the attaching itself."""
import os
import re
import signal
import subprocess

import nbdraw
from sluiced import SLUICED, Skip, Sluiced, qemu_img, run, write_pattern
from waiting import until

READS = 400
SLACK = 0.1
SIZE = 4 << 20
# System calls of the daemon for a read, by engine: at most.  io_uring: one that
# sends the reply and waits for a request, one that reads and waits.  Threads:
# wait, receive, arm, read, send, and what it takes to look for more.
MOST = {'io_uring': 2, 'threads': 6}


def is_traced(pid):
    tasks = os.listdir('/proc/%d/task' % pid)
    for t in tasks:
        with open('/proc/%d/task/%s/status' % (pid, t)) as f:
            if re.search(r'TracerPid:\t0\n', f.read()):
                return False
    return True


class Counter:
    """System calls of a process, by name, while the block runs."""

    def __init__(self, pid, out):
        self.pid, self.out, self.calls = pid, out, {}

    def __enter__(self):
        self.proc = subprocess.Popen(
            ['strace', '-f', '-qq', '-c', '-U', 'calls,name', '-o', self.out,
             '-p', str(self.pid)], stderr=subprocess.PIPE, text=True)

        def ready():
            if self.proc.poll() is not None:
                raise Skip('strace: ' + self.proc.stderr.read().strip())
            return is_traced(self.pid)
        until(ready, 'the tracer')
        return self

    def __exit__(self, *_):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGINT)
        self.proc.communicate()
        with open(self.out) as f:
            for line in f:
                m = re.match(r' *(\d+) +(\w+)$', line)
                if m and m[2] != 'total':
                    self.calls[m[2]] = int(m[1])


def count(d, engine, fmt, path, *more):
    sock = '%s/%s-%s.sock' % (d, engine, fmt)
    args = [*more, '--io-engine', engine,
            '--blockdev', 'driver=%s,node-name=n,file.driver=file,'
            'file.filename=%s' % (fmt, path),
            '--nbd-server', 'addr.type=unix,addr.path=' + sock,
            '--export', 'nbd,id=e,node-name=n,name=e']
    with Sluiced(d, *args) as s, nbdraw.Client(sock) as c:
        c.greet()
        c.go('e')
        for i in range(0, SIZE, 65536):     # tables and pages are in memory
            c.read(i, 65536)
        with Counter(s.proc.pid, d + '/calls') as k:
            for i in range(READS):
                c.read(i * 37 % (SIZE // 4096) * 4096, 4096)
    total = sum(k.calls.values()) / READS
    print('%s, %s: %.2f system calls a read: %s' % (engine, fmt, total, k.calls))
    return total


def test_reads(d):
    raw, qcow2 = d + '/raw', d + '/qcow2'
    write_pattern(raw, SIZE)
    qemu_img('convert', '-O', 'qcow2', raw, qcow2)
    for engine, most in MOST.items():
        for fmt, path in (('raw', raw), ('qcow2', qcow2)):
            got = count(d, engine, fmt, path)
            assert got <= most + SLACK, (engine, fmt, got)


def test_polling(d):
    """It takes one call more where it hands over before it looks, and none to
    look on io_uring."""
    raw = d + '/raw'
    write_pattern(raw, SIZE)
    got = count(d, 'io_uring', 'raw', raw, '--poll-max-ns', '1000000')
    assert got <= MOST['io_uring'] + 1 + SLACK, got
    count(d, 'threads', 'raw', raw, '--poll-max-ns', '1000000',
          '--poll-grow', '4', '--poll-shrink', '2')


def test_refused(_d):
    for option in ('poll-max-ns', 'poll-grow', 'poll-shrink'):
        for value in ('-1', 'x', str(1 << 63)):
            p = subprocess.run([SLUICED, '--' + option, value],
                               capture_output=True, text=True, check=False)
            assert p.returncode == 1, p
            assert option + ' value must be in range [0, 9223372036854775807]' \
                in p.stderr, p.stderr


if __name__ == '__main__':
    run(globals())
