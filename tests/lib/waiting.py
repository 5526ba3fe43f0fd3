# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wait for conditions, and keep time on machines that others use, too.

    until(lambda: os.path.exists(path), 'the socket')

A wait ends when its condition holds.  LIMIT measures nothing: it ends a test
that would wait for ever, and says for what.  It is counted in seconds of rest:
seconds in which no process of this machine had to wait for a processor or for
a disk.  Under full load that clock nearly stands still.
"""
import bisect
import os
import tempfile
import threading
import time

LIMIT = 60
# Even under full load the clock of rest goes on at this share of its speed.
SLOWEST = 0.05
# The first polls are close together, later ones cost next to nothing.
FIRST_PAUSE, LAST_PAUSE = 0.005, 0.1


def stalled():
    """Seconds since boot in which something waited for processors or disks;
    0 where the kernel does not count that."""
    total = 0
    for what in ('cpu', 'io'):
        try:
            with open('/proc/pressure/' + what, encoding='utf-8') as f:
                total += int(f.readline().rpartition('total=')[2]) / 1e6
        except (OSError, ValueError):
            pass
    return total


class RestClock:
    """Seconds of rest since it was made."""

    def __init__(self):
        self.lock = threading.Lock()
        self.wall, self.stall = time.monotonic(), stalled()
        self.seconds = 0.0

    def __call__(self):
        with self.lock:
            wall, stall = time.monotonic(), stalled()
            passed = wall - self.wall
            self.seconds += max(passed - (stall - self.stall),
                                passed * SLOWEST)
            self.wall, self.stall = wall, stall
            return self.seconds


rest = RestClock()


class Pace(threading.Thread):
    """How fast a process gets on that sleeps, writes and syncs, as the daemon
    does by its timers: this thread does so, and its steps are the time.

    Where something must have happened within seconds of its cause, these are
    the seconds: they pass on a busy machine as on one at rest, and get longer
    only as far as this thread is held up, too."""
    STEP = 0.05

    def __init__(self):
        super().__init__(daemon=True)
        self.steps = [time.monotonic()]
        self.start()

    def run(self):
        with tempfile.TemporaryFile() as f:
            while True:
                time.sleep(self.STEP)
                os.pwrite(f.fileno(), bytes(65536), 0)
                os.fdatasync(f.fileno())
                self.steps.append(time.monotonic())

    def before(self, when, seconds):
        """The time.monotonic() that was @seconds of this before @when."""
        at = bisect.bisect_right(self.steps, when) - 1
        at -= round(seconds / self.STEP)
        return self.steps[at] if at >= 0 else float('-inf')


class Patience:
    """@seconds of rest, from now on."""

    def __init__(self, seconds=LIMIT):
        self.end = rest() + seconds

    def left(self):
        """What a blocking call may wait before one looks again; not 0."""
        return min(1, max(0.001, self.end - rest()))

    def over(self):
        return rest() >= self.end


def until(condition, what, timeout=LIMIT):
    """Wait until @condition() is true; its value. @timeout: seconds of rest."""
    patience, pause = Patience(timeout), FIRST_PAUSE
    while True:
        value = condition()
        if value:
            return value
        assert not patience.over(), 'in vain waited for ' + what
        time.sleep(pause)
        pause = min(LAST_PAUSE, pause * 1.1)


def listens(path):
    """A server listens at this Unix socket: its name is there before that. It is
    not connected to, for some servers end when their first client has gone."""
    with open('/proc/net/unix', encoding='utf-8', errors='replace') as f:
        # Number, references, protocol, flags (0x10000: it listens) ... path.
        return any(words[3] == '00010000' and words[7:] == [path]
                   for words in map(str.split, f))


def let_pass(seconds):
    """Time in which something wrong could happen, @seconds of rest: before one
    says that nothing did. Never before something that has to happen: until()
    waits for that."""
    patience = Patience(seconds)
    while not patience.over():
        time.sleep(min(0.05, patience.left()))
