#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work that is given up at a bad moment: rows VE1 and VE2.  A job that reaches
its limits or is cancelled while a guest writes, requests that are under way
when their client, their export or their job goes away."""
import os
import random
import struct
import threading
import time

import nbd

import nbdraw
from nbdraw import WRITE, Client
from qmp import QmpError
from seed import SEED
from sluiced import Sluiced, qemu_img, run, write_pattern
from waiting import let_pass, until

MIB = 1 << 20
CLUSTER = 65536


class Guest(threading.Thread):
    """Writes clusters, whole or in part, and reads what it wrote before."""

    def __init__(self, path, size, seed):
        super().__init__(daemon=True)
        self.h = nbd.NBD()
        self.h.connect_uri('nbd+unix:///v?socket=' + path)
        self.rnd = random.Random(seed)
        self.size, self.over, self.error = size, False, None
        self.known = {}
        self.start()

    def step(self):
        at = self.rnd.randrange(self.size // 4096) * 4096
        n = self.rnd.choice((4096, 4096, CLUSTER))
        n = min(n, self.size - at)
        if self.rnd.random() < 0.5:
            tag = struct.pack('<Q', self.rnd.getrandbits(60) | 1) * 512
            self.h.pwrite(tag * (n // 4096), at)
            for i in range(at, at + n, 4096):
                self.known[i] = tag
        else:
            got = self.h.pread(n, at)
            for i in range(at, at + n, 4096):
                want = self.known.get(i)
                assert want is None or got[i - at:i - at + 4096] == want, i

    def run(self):
        try:
            while not self.over:
                self.step()
            self.h.flush()
            self.h.shutdown()
        except Exception as e:  # pylint: disable=broad-except
            self.error = e

    def stop(self):
        self.over = True
        self.join()
        assert self.error is None, repr(self.error)
        return self.known


def verify(raw, base, known):
    with open(raw, 'rb') as f, open(base, 'rb') as b:
        for i in range(0, os.path.getsize(base), 4096):
            got, below = f.read(4096), b.read(4096)
            assert got == known.get(i, below), i


def one_job(q, rnd):
    """Start it, change its limits, end it in one way or another."""
    args = {'device': 'v', 'job-id': 'j', 'auto-dismiss': False,
            'speed': rnd.choice((1, 4096, 65536, MIB, 0)),
            'on-error': rnd.choice(('report', 'stop', 'enospc'))}
    q.cmd('block-stream', args)
    for _ in range(rnd.randrange(6)):
        time.sleep(rnd.random() * 0.02)
        try:
            what = rnd.choice(('speed', 'pause', 'resume'))
            if what == 'speed':
                q.cmd('block-job-set-speed', device='j',
                      speed=rnd.choice((0, 1, 65536, 1 << 40)))
            else:
                q.cmd('job-' + what, id='j')
        except QmpError:
            pass            # it has ended, or is in that state already
    for force in (rnd.random() < 0.5, True):    # one that is paused wants force
        try:
            q.cmd('block-job-cancel', device='j', force=force)
        except QmpError:
            pass
    until(lambda: q.cmd('query-jobs')[0]['status'] == 'concluded', 'its end')
    jobs = q.cmd('query-jobs')
    q.cmd('job-dismiss', id='j')
    return 'error' not in jobs[0]


def test_VE1_a_stream_hits_limits_and_is_cancelled_while_guests_write(d):
    rnd = random.Random(SEED)
    base = d + '/base'
    write_pattern(base, 8 * MIB)
    for fmt in ('qed', 'qcow2'):
        top = '%s/top.%s' % (d, fmt)
        qemu_img('create', '-q', '-f', fmt, '-b', base, '-F', 'raw', top)
        with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                     '--drive', 'id=v,format=%s,file=%s,copy-on-read=on'
                     % (fmt, top), '--export',
                     'nbd,id=e,node-name=v,name=v,writable=on') as s:
            guest = Guest(d + '/n', 8 * MIB, SEED)
            for _ in range(40):
                if one_job(s.qmp, rnd):
                    break
            known = guest.stop()
        assert len(known) > 50
        qemu_img('check', '-q', top)
        qemu_img('convert', top, d + '/raw')
        verify(d + '/raw', base, known)


class Held:
    """A raw disk of 1 MiB whose requests can be held, exported as "n"."""

    def __init__(self, d):
        self.path = d + '/n'
        with open(d + '/disk', 'wb') as f:
            f.write(b'\x11' * MIB)
        self.s = Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path='
                         + self.path, '--blockdev', 'raw,node-name=n,'
                         'file.driver=blkdebug,file.image.driver=file,'
                         'file.image.filename=%s/disk' % d)

    def __enter__(self):
        self.s.__enter__()
        self.add()
        return self

    def __exit__(self, *args):
        self.s.__exit__(*args)

    def add(self):
        self.s.qmp.cmd('block-export-add', type='nbd', id='e', node_name='n',
                       name='n', writable=True)

    def io(self, line):
        return self.s.qmp.hmp('qemu-io n "%s"' % line)

    def client(self):
        return Client(self.path).greet().go('n')

    def hold_write(self, at, value):
        """A client whose write is under way."""
        assert self.io('break write_aio A') == ''
        c = self.client()
        c.send_req(WRITE, at, 4096, data=bytes([value]) * 4096)
        assert self.io('wait_break A') == ''
        return c


def test_VE2_an_export_goes_away_with_a_write_under_way(d):
    """Its end is announced when nothing can land any more, and not before."""
    with Held(d) as t:
        for how, args in (('block-export-del', {'id': 'e', 'mode': 'hard'}),
                          ('nbd-server-stop', None)):
            c = t.hold_write(4096, 0xaa)
            second = t.s.connect()
            ender = threading.Thread(target=second.execute, args=(how, args))
            ender.start()
            let_pass(0.3)
            assert t.s.qmp.cmd('query-block-exports') != [], how
            assert not [e for e in t.s.qmp.events
                        if e['event'] == 'BLOCK_EXPORT_DELETED'], how
            assert t.io('resume A') == ''
            t.s.qmp.wait_event('BLOCK_EXPORT_DELETED', id='e')
            ender.join()
            assert t.io('write -q -P 0xbb 4096 4096') == ''
            let_pass(0.2)
            assert t.io('read -q -P 0xbb 4096 4096') == '', how
            assert t.io('read -q -P 0x11 0 4096') == ''
            assert t.io('read -q -P 0x11 8192 4096') == ''
            c.close()
            second.close()
            if how == 'block-export-del':
                t.add()


def test_VE2_a_client_goes_away_with_a_write_under_way(d):
    """It may land or not, but in its place, and before anything newer."""
    with Held(d) as t:
        t.hold_write(4096, 0xaa).close()
        # The end of the first is noticed before the next one is greeted.
        other = t.client()
        done = []
        newer = threading.Thread(target=lambda: done.append(
            other.write(4096, b'\xbb' * 4096)))
        newer.start()
        # What does not overlap it does not wait.
        third = t.client()
        assert third.write(8192, b'\x11' * 4096) == 0
        assert third.read(4096, 4096) == b'\x11' * 4096
        assert not done
        t.io('resume A')
        newer.join()
        assert done == [0]
        let_pass(0.2)
        assert t.io('read -q -P 0xbb 4096 4096') == ''
        assert t.io('read -q -P 0x11 0 4096') == ''
        assert t.io('read -q -P 0x11 8192 4096') == ''


def test_VE2_a_job_is_cancelled_with_a_copy_under_way(d):
    """Its cluster holds what the guest wrote meanwhile, whole or in part."""
    with open(d + '/base', 'wb') as f:
        f.write(b'\x11' * MIB)
    for fmt in ('qed', 'qcow2'):
        top = '%s/top.%s' % (d, fmt)
        qemu_img('create', '-q', '-f', fmt, '-b', d + '/base', '-F', 'raw', top)
        with Sluiced(d, '--blockdev', fmt + ',node-name=n,file.driver=blkdebug,'
                     'file.image.driver=file,file.image.filename=%s,'
                     'backing.driver=raw,backing.file.driver=blkdebug,'
                     'backing.node-name=b,backing.file.image.driver=file,'
                     'backing.file.image.filename=%s/base' % (top, d)) as s:
            for node, event in (('b', 'read_aio'), ('n', 'write_aio')):
                assert s.qmp.hmp('qemu-io %s "break %s A"' % (node, event)) == ''
                s.qmp.cmd('block-stream', device='n', job_id='j', speed=MIB)
                assert s.qmp.hmp('qemu-io %s "wait_break A"' % node) == ''
                io = lambda line: s.qmp.hmp('qemu-io n "%s"' % line)
                assert io('write -q -P 0x22 0 64k') == ''
                io('aio_write -q -P 0x33 68k 4k')
                s.qmp.cmd('job-cancel', id='j')
                s.qmp.hmp('qemu-io %s "resume A"' % node)
                assert io('aio_flush') == ''
                s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
                let_pass(0.1)
                assert io('read -q -P 0x22 0 64k') == '', (fmt, event)
                assert io('read -q -P 0x33 68k 4k') == ''
                assert io('read -q -P 0x11 64k 4k') == ''
                assert io('read -q -P 0x11 72k 952k') == ''
        qemu_img('check', '-q', top)


if __name__ == '__main__':
    run(globals())
