#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""One budget of memory for all that a daemon does: --memory, and the options of
qcow2's caches."""
import os
import resource
import shutil
import subprocess

import nbdraw
from sluiced import SANITIZED, SLUICED, Skip, Sluiced, qemu_img, run
from waiting import until

MIB = 1 << 20
SIZE = 32 * MIB
DISKS = 12
IDLE = 1000


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


def resident(s):
    """What the daemon has in memory of its own now, bytes."""
    with open('/proc/%d/status' % s.proc.pid) as f:
        line, = [x for x in f if x.startswith('RssAnon')]
    return int(line.split()[1]) << 10


def test_64_streams(d):
    """At once, with the default budget: all that the daemon takes is within it."""
    if SANITIZED:
        return
    base, args, size = d + '/base', [], 8 * MIB
    with open(base, 'wb') as f:
        f.write(os.urandom(size))
    for i in range(64):
        qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw',
                 '%s/%d' % (d, i))
        args += ['--drive', 'id=v%d,format=qcow2,file=%s/%d' % (i, d, i)]
    with Sluiced(d, *args) as s:
        for i in range(64):
            s.qmp.cmd('block-stream', device='v%d' % i, job_id='j%d' % i)
        until(lambda: not s.qmp.cmd('query-jobs'), 'the streams')
        assert peak(s) < 256 * MIB, peak(s)


def test_idle_devices(d):
    """A thousand images with an export each, which nobody uses."""
    if SANITIZED:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * IDLE:
        raise Skip('a limit of %d descriptors' % hard)
    qemu_img('create', '-q', '-f', 'qcow2', d + '/0', '1G')
    with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d) as s:
        for i in range(IDLE):
            path = '%s/%d' % (d, i)
            if i:
                shutil.copyfile(d + '/0', path)
            s.qmp.cmd('blockdev-add', {
                'driver': 'qcow2', 'node-name': 'n%d' % i,
                'file': {'driver': 'file', 'filename': path}})
            s.qmp.cmd('block-export-add', type='nbd', id='e%d' % i,
                      node_name='n%d' % i, name='n%d' % i, writable=True)
        assert peak(s) < 300 * MIB, peak(s)
        print('%d idle devices: %d MiB' % (IDLE, peak(s) // MIB))


def test_cache_is_given_back(d):
    """Tables of an image that nobody asks any more leave memory after the
    interval, and are read again for whoever comes back."""
    if SANITIZED:
        return
    path, sock, size = d + '/i', d + '/nbd', 4 << 30
    qemu_img('create', '-q', '-f', 'qcow2', '-o',
             'cluster_size=4k,preallocation=metadata', path, str(size))
    tables = size // 4096 * 8

    def touch(c):
        for off in range(0, size, 2 * MIB):     # a table of L2 each
            c.read(off, 512)

    with Sluiced(d, '--blockdev', 'driver=qcow2,node-name=n,'
                 'cache-clean-interval=1,file.driver=file,file.filename=' + path,
                 '--nbd-server', 'addr.type=unix,addr.path=' + sock,
                 '--export', 'nbd,id=e,node-name=n,name=e') as s:
        with nbdraw.Client(sock) as c:
            c.greet()
            c.go('e')
            c.read(0, 512)
            before = resident(s)
            touch(c)
            most = resident(s)
            print('%d KiB of tables, %d KiB more' % (
                tables >> 10, most - before >> 10))
            until(lambda: resident(s) - before < tables // 4, 'less memory')
            assert c.read(2 * MIB, 512) == bytes(512)


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
