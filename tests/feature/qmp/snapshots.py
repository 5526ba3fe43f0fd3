#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Internal snapshots of a disk in use: made and deleted over QMP and HMP."""
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time

from qmp import Qmp
from seed import SEED
from sluiced import SLUICE, Skip, Sluiced, qemu_img, run, run_tool
from waiting import listens, until

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

MIB = 1 << 20
MAKE = 'blockdev-snapshot-internal-sync'
DELETE = 'blockdev-snapshot-delete-internal-sync'


def file_node(path, fmt, name, **more):
    return dict({'driver': fmt, 'node-name': name,
                 'file': {'driver': 'file', 'filename': path}}, **more)


class Disk:
    """A daemon with the qcow2 image i.qcow2 as node "n", exported."""

    def __init__(self, d, options='cluster_size=64k', size='8M', node=None,
                 args=()):
        self.dir = d
        self.path = os.path.join(d, 'i.qcow2')
        if not os.path.exists(self.path):
            qemu_img('create', '-q', '-f', 'qcow2', '-o', options, self.path,
                     size)
        self.daemon = Sluiced(
            d, '--nbd-server', 'addr.type=unix,addr.path=%s/s' % d,
            '--blockdev', json.dumps(node or file_node(self.path, 'qcow2',
                                                       'n')),
            '--export', 'type=nbd,id=e,node-name=n,name=n,writable=on', *args)
        self.qmp = self.daemon.qmp

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.daemon.__exit__(*what)

    def client(self):
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///n?socket=%s/s' % self.dir)
        return h

    def make(self, name):
        assert self.qmp.cmd(MAKE, device='n', name=name) == {}

    def listed(self):
        nodes = self.qmp.cmd('query-named-block-nodes')
        image = [n['image'] for n in nodes if n['node-name'] == 'n'][0]
        return [s['name'] for s in image.get('snapshots', [])]

    def content(self, name, tool):
        out = os.path.join(self.dir, 'out')
        run_tool(tool, 'convert', '-U', '-l', name, '-O', 'raw', self.path,
                 out)
        with open(out, 'rb') as f:
            return f.read()

    def check(self):
        for tool in (SLUICE, 'qemu-img'):
            run_tool(tool, 'check', self.path)


def test_words(d):
    """What the qemu_tools's daemon says to the same."""
    if not shutil.which('qemu-storage-daemon'):
        raise Skip('qemu-storage-daemon is not installed')
    rows = [
        (MAKE, {'device': 'nope', 'name': 'x'}),
        (MAKE, {'device': 'n', 'name': 'x'}),
        (MAKE, {'device': 'n', 'name': 'x'}),
        (MAKE, {'device': 'n', 'name': ''}),
        (MAKE, {'device': 'n', 'name': '1'}),
        (MAKE, {'device': 'q', 'name': '1'}),
        (MAKE, {'device': 'r', 'name': '1'}),
        (MAKE, {'device': 'ro', 'name': '1'}),
        (MAKE, {'device': 'b', 'name': '1'}),
        (MAKE, {'device': 'n'}),
        (DELETE, {'device': 'nope', 'name': 'x'}),
        (DELETE, {'device': 'n'}),
        (DELETE, {'device': 'n', 'name': 'nope'}),
        (DELETE, {'device': 'n', 'id': '7'}),
        (DELETE, {'device': 'n', 'id': '7', 'name': 'x'}),
        (DELETE, {'device': 'q', 'id': '1', 'name': 'x'}),
        (DELETE, {'device': 'b', 'id': '1', 'name': 'x'}),
        (DELETE, {'device': 'n', 'id': '2', 'name': 'x'}),
        (DELETE, {'device': 'n', 'name': '1'}),
        (DELETE, {'device': 'n', 'id': '1'}),
    ]

    def ask(q):
        for path, fmt in (('i', 'qcow2'), ('q', 'qed'), ('r', 'raw'),
                          ('ro', 'qcow2'), ('b', 'qcow2')):
            qemu_img('create', '-q', '-f', fmt, os.path.join(d, path), '1M')
        qemu_img('create', '-q', '-f', 'qcow2', '-b', os.path.join(d, 'b'),
                 '-F', 'qcow2', os.path.join(d, 'o'))

        def add(path, fmt, name, **more):
            q.cmd('blockdev-add', file_node(os.path.join(d, path), fmt, name,
                                            **more))
        add('i', 'qcow2', 'n')
        add('q', 'qed', 'q')
        add('r', 'raw', 'r')
        add('ro', 'qcow2', 'ro', **{'read-only': True})
        add('b', 'qcow2', 'b', **{'read-only': True})
        add('o', 'qcow2', 'o', backing='b')
        answers = []
        for name, args in rows:
            answer = q.execute(name, args)
            told = answer.get('return', {})
            answers.append({**answer, 'return': sorted(told)}
                           if 'error' not in answer else answer['error'])
        return answers

    with Sluiced(d) as s:
        ours = ask(s.qmp)
    sock = os.path.join(d, 'theirs.sock')
    p = subprocess.Popen(['qemu-storage-daemon', '--chardev',
                          'socket,id=c,server=on,wait=off,path=' + sock,
                          '--monitor', 'c'])
    try:
        until(lambda: listens(sock), 'the socket')
        theirs = ask(Qmp.connect(sock))
    finally:
        p.kill()
        p.wait()
    for row, a, b in zip(rows, ours, theirs):
        assert a == b, (row, a, b)


def test_busy(d):
    """A stream has the disk for itself; afterwards it goes."""
    base = os.path.join(d, 'base')
    qemu_img('create', '-q', '-f', 'raw', base, '4M')
    run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 4M', base)
    top = os.path.join(d, 'top')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', top)
    with Sluiced(d, '--drive', 'id=virtio0,format=qcow2,file=' + top) as s:
        s.qmp.cmd('block-stream', device='virtio0', speed=65536)
        text = "Node 'virtio0' is busy: block device is in use by block " \
            "job: stream"
        for name in (MAKE, DELETE):
            said = s.qmp.error(name, device='virtio0', name='x')
            assert said == text, said
        s.qmp.cmd('block-job-cancel', device='virtio0')
        s.qmp.wait_event('BLOCK_JOB_CANCELLED')
        assert s.qmp.hmp('snapshot_blkdev_internal virtio0 x') == ''
        assert 'already exists' in s.qmp.hmp(
            'snapshot_blkdev_internal virtio0 x')
        assert s.qmp.hmp('snapshot_delete_blkdev_internal virtio0 x 1') == ''
        assert 'does not exist' in s.qmp.hmp(
            'snapshot_delete_blkdev_internal virtio0 x')
    run_tool('qemu-img', 'check', top)


def test_contents(d):
    """Each shows the disk as it was; made and deleted in any order."""
    rnd = random.Random(SEED)
    for options in ('cluster_size=64k', 'cluster_size=4k',
                    'cluster_size=16k,extended_l2=on', 'compat=0.10'):
        place = os.path.join(d, options.replace(',', '-'))
        os.mkdir(place)
        want, disk = {}, bytearray(8 * MIB)
        with Disk(place, options) as disk_:
            h = disk_.client()
            for i in range(20):
                for _ in range(4):
                    n = rnd.choice([512, 4096, 70000, 300000])
                    off = rnd.randrange(8 * MIB - n)
                    data = rnd.randbytes(n)
                    h.pwrite(data, off)
                    disk[off:off + n] = data
                if want and rnd.random() < 0.4:
                    name = rnd.choice(list(want))
                    told = disk_.qmp.cmd(DELETE, device='n', name=name)
                    assert told['name'] == name
                    del want[name]
                else:
                    want['s%d' % i] = bytes(disk)
                    disk_.make('s%d' % i)
                assert disk_.listed() == list(want)
            assert h.pread(8 * MIB, 0) == disk
            for name, data in want.items():
                assert disk_.content(name, SLUICE) == data, name
        for name, data in want.items():
            assert disk_.content(name, 'qemu-img') == data, name
        disk_.check()


def test_kill(d):
    """Killed right behind the answer: it is there, and what it shows."""
    for i in range(6):
        with Disk(d) as disk:
            h = disk.client()
            h.pwrite(bytes([i + 1]) * 300000, i * 12345)
            seen = h.pread(8 * MIB, 0)
            disk.make('k%d' % i)
            if i > 2:
                disk.qmp.cmd(DELETE, device='n', name='k%d' % (i - 2))
            disk.daemon.kill()
        for tool in (SLUICE, 'qemu-img'):
            assert disk.content('k%d' % i, tool) == seen
    left = run_tool('qemu-img', 'snapshot', '-l', disk.path)
    names = [line.split()[1] for line in left.splitlines()[2:]]
    assert names == ['k0', 'k4', 'k5'], left
    run_tool(SLUICE, 'check', '-r', 'leaks', disk.path)
    disk.check()


class Writer(threading.Thread):
    """Counts up in every block of 4 KiB, one pass after the other."""
    BLOCKS = 512

    def __init__(self, h):
        super().__init__()
        self.h, self.halt, self.passes, self.slowest = h, False, 0, 0.0

    def run(self):
        while not self.halt:
            self.passes += 1
            for i in range(self.BLOCKS):
                began = time.monotonic()
                self.h.pwrite(self.passes.to_bytes(8, 'little') * 512,
                              i * 4096)
                self.slowest = max(self.slowest, time.monotonic() - began)


def test_consistent_point(d):
    """A guest writes on: a snapshot shows its writes up to one of them."""
    with Disk(d, 'cluster_size=4k') as disk:
        w = Writer(disk.client())
        w.start()
        for i in range(12):
            passes = w.passes
            until(lambda: w.passes > passes, 'a pass of the guest')
            disk.make('p%d' % i)
        w.halt = True
        w.join()
        for i in range(12):
            data = disk.content('p%d' % i, SLUICE)
            marks = [int.from_bytes(data[k * 4096:k * 4096 + 8], 'little')
                     for k in range(w.BLOCKS)]
            assert sorted(marks, reverse=True) == marks, marks
            assert marks[0] - marks[-1] <= 1, marks
        print('# %d passes, slowest write %.1f ms' % (w.passes,
                                                      w.slowest * 1000))
    disk.check()


def test_what_a_guest_waits_for(d):
    """The tables are copied beforehand, but for those of a guest that goes
    on."""
    with Disk(d, 'cluster_size=4k,preallocation=metadata', size='256M',
              args=('-T', 'qcow2_snapshot_share')) as disk:
        h = disk.client()
        disk.make('first')
        h.pwrite(b'a' * 4096, 5 * MIB)
        disk.make('second')
        disk.make('third')
        w = Writer(disk.client())
        w.start()
        until(lambda: w.passes > 1, 'a pass of the guest')
        disk.make('fourth')
        w.halt = True
        w.join()
        for name in ('first', 'fourth'):
            disk.qmp.cmd(DELETE, device='n', name=name)
        assert disk.content('second', 'qemu-img')[5 * MIB:][:4096] == \
            b'a' * 4096
        told = re.findall(r'qcow2_snapshot_share n: (\d+) of 128 tables .* '
                          r'ret (-?\d+)', disk.daemon.errors())
        assert told[:3] == [('0', '0')] * 3, told
        assert len(told) == 4 and int(told[3][0]) <= 2, told
    disk.check()


def test_hundreds(d):
    """Space is given back: the file does not grow by them."""
    with Disk(d, 'cluster_size=4k') as disk:
        h = disk.client()
        h.pwrite(b'a' * 2 * MIB, 0)
        disk.make('first')
        disk.qmp.cmd(DELETE, device='n', name='first')
        size = os.path.getsize(disk.path)
        for i in range(150):
            disk.make('h%d' % i)
            h.pwrite(b'b' * 4096, i * 8192)
            if i >= 10:
                disk.qmp.cmd(DELETE, device='n', name='h%d' % (i - 10))
        assert len(disk.listed()) == 10
        for name in disk.listed():
            disk.qmp.cmd(DELETE, device='n', name=name)
        grown = os.path.getsize(disk.path) - size
        assert grown < MIB, grown
    disk.check()


def test_no_space(d):
    """It fails for want of space at its last step; nothing has changed."""
    file = {'driver': 'blkdebug', 'inject-error': [
        {'event': 'refblock_alloc_write_table', 'errno': 28, 'once': True}],
        'image': {'driver': 'file',
                  'filename': os.path.join(d, 'i.qcow2')}}
    node = {'driver': 'qcow2', 'node-name': 'n', 'file': file}
    qemu_img('create', '-q', '-f', 'qcow2', os.path.join(d, 'i.qcow2'), '8M')
    with Disk(d, node=node) as disk:
        h = disk.client()
        h.pwrite(b'a' * MIB, 0)
        assert disk.qmp.error(MAKE, device='n', name='x') == (
            "Failed to create snapshot 'x' on device 'n': No space left on "
            "device")
        assert disk.listed() == []
        h.pwrite(b'b' * MIB, MIB // 2)
        disk.make('x')
        h.pwrite(b'c' * MIB, MIB)
    for tool in (SLUICE, 'qemu-img'):
        assert disk.content('x', tool)[:2 * MIB] == \
            b'a' * (MIB // 2) + b'b' * MIB + bytes(MIB // 2)
    run_tool('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 99 1M 1M',
             disk.path)
    disk.check()


def test_in_a_transaction(d):
    """With a bitmap that begins at the snapshot; all or none."""
    with Disk(d) as s:
        s.client().pwrite(b'a' * 512, 0)

        def actions(*more):
            return [{'type': MAKE, 'data': {'device': 'n', 'name': 'one'}},
                    {'type': 'block-dirty-bitmap-add', 'data': {
                        'node': 'n', 'name': 'b', 'persistent': True}},
                    *more]

        text = s.qmp.error('transaction', actions=actions(
            {'type': 'abort', 'data': {}}))
        assert text == 'Transaction aborted using Abort action', text
        assert s.listed() == []
        text = s.qmp.error('transaction', actions=actions(
            {'type': MAKE, 'data': {'device': 'n', 'name': ''}}))
        assert text == 'Name is empty', text
        assert s.listed() == []
        s.qmp.cmd('transaction', actions=actions())
        assert s.listed() == ['one']
        s.client().pwrite(b'b' * 512, 65536)
        assert s.content('one', 'qemu-img')[:512] == b'a' * 512
        node, = [n for n in s.qmp.cmd('query-named-block-nodes')
                 if n['node-name'] == 'n']
        assert node['dirty-bitmaps'][0]['count'] == 65536, node
    s.check()


if __name__ == '__main__':
    run(globals())
