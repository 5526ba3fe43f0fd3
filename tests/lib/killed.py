# SPDX-License-Identifier: LGPL-2.1-or-later
"""The end of a process that is killed, with its locks on files.

The kernel gives up what io_uring holds of a file some time after the process
has been waited for; until then others find the file locked.
"""
import collections
import os
import signal

from waiting import until


def words(line):
    """A lock as /proc tells it, without its number."""
    return ' '.join(line.partition(':')[2].split())


def all_locks():
    with open('/proc/locks', encoding='ascii') as f:
        return collections.Counter(words(line) for line in f)


def locks_of(pid):
    res = collections.Counter()
    folder = '/proc/%d/fdinfo' % pid
    for fd in os.listdir(folder):
        try:
            with open(os.path.join(folder, fd), encoding='ascii') as f:
                res.update(words(line[len('lock:'):]) for line in f
                           if line.startswith('lock:'))
        except FileNotFoundError:
            pass
    return res


def kill_and_wait(proc):
    """Kill a process by SIGKILL; wait for it, and until its locks are gone."""
    if proc.poll() is None:
        proc.send_signal(signal.SIGSTOP)    # so that it takes no more of them
        before, mine = all_locks(), locks_of(proc.pid)
        proc.kill()
        proc.communicate()
        until(lambda: all(n <= before[lock] - mine[lock]
                          for lock, n in all_locks().items() if lock in mine),
              'the locks of a killed process to go')
    else:
        proc.communicate()
