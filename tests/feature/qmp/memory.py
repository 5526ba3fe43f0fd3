#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""One budget of memory for all that a daemon does: --memory, and the options of
qcow2's caches."""
import os
import subprocess

from sluiced import SANITIZED, SLUICED, Sluiced, qemu_img, run
from waiting import until

MIB = 1 << 20
SIZE = 32 * MIB
DISKS = 12


def peak(s):
    """Most memory that the daemon has had, bytes."""
    with open('/proc/%d/status' % s.proc.pid) as f:
        line, = [x for x in f if x.startswith('VmHWM')]
    return int(line.split()[1]) << 10


def test_many_streams(d):
    """What is in flight for all of them is within the budget; without it they
    would take SIZE each."""
    if SANITIZED:
        return
    base, args = d + '/base', []
    with open(base, 'wb') as f:
        f.write(os.urandom(SIZE))
    for i in range(DISKS):
        qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw',
                 '%s/%d' % (d, i))
        args += ['--drive', 'id=v%d,format=qcow2,file=%s/%d' % (i, d, i)]
    with Sluiced(d, '--memory', '32M', *args) as s:
        before = peak(s)
        for i in range(DISKS):
            s.qmp.cmd('block-stream', device='v%d' % i, job_id='j%d' % i)
        until(lambda: not s.qmp.cmd('query-jobs'), 'the streams')
        # 32 MiB, what the loop keeps for reuse, stacks.
        assert peak(s) - before < 150 * MIB, (before, peak(s))


def test_refused(d):
    for size, text in (('1M', 'expects at least 16M'), ('x', "'x'")):
        p = subprocess.run([SLUICED, '--memory', size], capture_output=True,
                           text=True, check=False)
        assert p.returncode == 1 and text in p.stderr, p.stderr


def test_cache_options(d):
    """As QEMU takes them."""
    path = d + '/i'
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    rows = [
        ({'cache-size': MIB, 'l2-cache-size': MIB,
          'refcount-cache-size': MIB},
         'cache-size, l2-cache-size and refcount-cache-size may not be set at '
         'the same time'),
        ({'cache-size': MIB, 'l2-cache-size': 2 * MIB},
         'l2-cache-size may not exceed cache-size'),
        ({'cache-size': MIB, 'refcount-cache-size': 2 * MIB},
         'refcount-cache-size may not exceed cache-size'),
        ({'cache-clean-interval': 1 << 32}, 'Cache clean interval too big'),
        ({'cache-size': MIB, 'l2-cache-size': MIB // 2}, None),
        ({'refcount-cache-size': 0, 'l2-cache-size': 0}, None),
        ({'cache-clean-interval': 0}, None),
    ]
    with Sluiced(d) as s:
        for options, text in rows:
            args = dict(options, driver='qcow2', file={
                'driver': 'file', 'filename': path})
            args['node-name'] = 'n'
            if text:
                got = s.qmp.error('blockdev-add', args)
                assert got == text, (options, got)
            else:
                s.qmp.cmd('blockdev-add', args)
                s.qmp.cmd('blockdev-del', node_name='n')


if __name__ == '__main__':
    run(globals())
