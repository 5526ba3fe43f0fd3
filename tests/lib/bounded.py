# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the image tool on something hostile: it must end by itself, without a
word of a sanitizer, and stay small and fast.

"Fast" is counted in seconds of the processor, which other work on the machine
does not stretch.  One that waits for ever is ended by watch.py.
"""
import os
import resource
import subprocess

from sluiced import SANITIZED, SLUICE

MIB = 1 << 20
RSS_MAX = 64 * MIB


class Run:
    """How it ended: .status; .out and .err, text; .rss, the peak in bytes;
    .cpu, seconds of the processor, of which @most are allowed."""

    def __init__(self, args, most):
        def limit():
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (most, hard))

        with subprocess.Popen([SLUICE] + list(args), stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, preexec_fn=limit) as p:
            self.out = p.stdout.read().decode(errors='replace')
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
        self.status, self.args = p.returncode, args
        self.rss = usage.ru_maxrss * 1024
        self.cpu = usage.ru_utime + usage.ru_stime

    def __repr__(self):
        return 'sluice %s: status %d, %d MiB, %.2f s: %s' % (
            ' '.join(self.args), self.status, self.rss // MIB, self.cpu,
            self.out[-1000:])


def bounded(*args, cpu=0.1, rss=RSS_MAX, ends=(0, 1)):
    """A Run whose status is one of @ends, within these limits."""
    r = Run(args, int(60 + 20 * cpu))
    assert r.status in ends, r
    assert 'Sanitizer' not in r.out and 'runtime error' not in r.out, r
    # Sanitizers have memory and time of their own.
    if not SANITIZED:
        assert r.rss < rss, r
        assert r.cpu < cpu, r
    return r
