#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fault sweeps through the whole daemon: the k-th time that an event happens
while a guest works on a QED or qcow2 disk, requests fail, k = 1, 2 ... until the work
gets by without meeting the fault; once and for good, for a broken disk and for
lack of space.

Afterwards the image has no corruption, holds for every cluster a value that
was written (what was flushed successfully: exactly that), and a second try
succeeds.  tests/unit/format/qed/test-qed-fault.c does the same below the driver,
call by call; here it is the way through blkdebug's events, reading from
the backing file and copy-on-read.
"""
import os
import subprocess

from qmp import QmpError
from sluiced import Sluiced, qemu_img, run

KIB64 = 65536
CELLS = 12
QCOW2_EVENTS = ('write_aio', 'l2_update', 'l1_update', 'flush_to_disk',
                'cow_read', 'cow_write', 'cor_write', 'cluster_alloc',
                'refblock_alloc', 'refblock_update_part', 'l2_alloc_write')
EVENTS = ('write_aio', 'pwritev', 'l2_update', 'l1_update', 'flush_to_disk',
          'cow_read', 'cor_write', 'read_backing_aio', 'l2_load')
BASE = 0xbb
K_MAX = 40
# Some faults nobody hears of (a copy of copy-on-read that fails leaves the read
# as it is), so only several runs without one end a sweep.
CLEAN_RUNS = 3


class Disk:
    """What each cell may hold: a set of bytes; "sure" is what reads must
    give after the last successful flush."""

    def __init__(self, q, base):
        self.q = q
        self.may = [{base} for _ in range(CELLS)]
        self.acked = [base] * CELLS
        self.failed = 0

    def io(self, line, node='top'):
        text = self.q.hmp('qemu-io %s "%s"' % (node, line))
        assert 'Error' not in text, (line, text)
        if 'failed' in text:
            self.failed += 1
            assert ('Input/output error' in text or
                    'No space left on device' in text), (line, text)
            return False
        assert 'verification' not in text, (line, text)
        return True

    def write(self, cell, value, how='-P %d'):
        self.may[cell].add(value)
        line = 'write -q %s %d 64k' % (how % value if '%' in how else how,
                                       cell * KIB64)
        if self.io(line):
            self.acked[cell] = value
        else:
            self.acked[cell] = None
        return self.acked[cell] == value

    def write_part(self, cell, value):
        """Less than a cluster: the rest comes from below. The first 4 KiB
        tell the value."""
        self.may[cell].add(value)
        ok = self.io('write -q -P %d %d 4k' % (value, cell * KIB64))
        self.acked[cell] = value if ok else None

    def flush(self):
        if self.io('flush'):
            for i, value in enumerate(self.acked):
                if value is not None:
                    self.may[i] = {value}

    def guest(self):
        self.write(0, 1)
        self.write_part(1, 2)
        self.flush()
        self.write(0, 3)
        self.write(2, 4)
        self.write(3, 0, '-z')
        self.io('read -q 256k 64k')
        self.flush()
        self.write_part(5, 6)
        self.write(3, 7)
        self.io('read -q 448k 128k', node='cor')
        self.flush()
        self.flush()

    def verify(self):
        for i, may in enumerate(self.may):
            texts = [self.q.hmp('qemu-io top "read -q -P %d %d 4k"'
                                % (v, i * KIB64)) for v in sorted(may)]
            assert '' in texts, (i, may, texts)


def open_disk(q, path, rules, fmt):
    file = {'driver': 'file', 'filename': path}
    if rules:
        file = dict({'driver': 'blkdebug', 'image': file}, **rules)
    q.cmd('blockdev-add', **{'driver': fmt, 'node-name': 'top',
                             'file': file})
    q.cmd('blockdev-add', **{'driver': 'copy-on-read', 'node-name': 'cor',
                             'file': 'top'})


def close_disk(q):
    q.cmd('blockdev-del', **{'node-name': 'cor'})
    q.cmd('blockdev-del', **{'node-name': 'top'})


def fault_rules(event, k, errno, once):
    return {
        'set-state': [{'event': event, 'state': i, 'new_state': i + 1}
                      for i in range(1, k)],
        'inject-error': [{'event': event, 'state': k, 'errno': errno,
                          'once': once}],
    }


def sweep_one(q, path, blank, base, rules, fmt):
    """False when the fault never came."""
    with open(path, 'wb') as f:
        f.write(blank)
    disk = Disk(q, base)
    try:
        open_disk(q, path, rules, fmt)
    except QmpError as e:
        raise AssertionError('open: %s' % e) from e
    disk.guest()
    close_disk(q)
    code = subprocess.run(['qemu-img', 'check', '-q', '-f', fmt, path],
                          check=False).returncode
    assert code in (0, 3), code
    open_disk(q, path, None, fmt)
    disk.verify()
    failed, disk.failed = disk.failed, 0
    disk.guest()
    assert disk.failed == 0
    disk.verify()
    close_disk(q)
    return failed > 0


def sweep(d, backing, fmt='qed', events=EVENTS):
    path, base = os.path.join(d, 'top'), os.path.join(d, 'base.raw')
    args = []
    if backing:
        with open(base, 'wb') as f:
            f.write(bytes([BASE]) * CELLS * KIB64)
        args = ['-b', base, '-F', 'raw']
    qemu_img('create', '-q', '-f', fmt, *args, path, str(CELLS * KIB64))
    with open(path, 'rb') as f:
        blank = f.read()
    runs = 0
    with Sluiced(d) as s:
        for event in events:
            for errno, once in ((5, True), (5, False), (28, True)):
                clean = 0
                for k in range(1, K_MAX):
                    hit = sweep_one(s.qmp, path, blank, BASE if backing else 0,
                                    fault_rules(event, k, errno, once), fmt)
                    runs += hit
                    clean = 0 if hit else clean + 1
                    if clean == CLEAN_RUNS:
                        break
                else:
                    raise AssertionError('%s never gets clean' % event)
    print('# %d faults' % runs)
    assert runs > 20, runs


def test_backing(d):
    sweep(d, True)


def test_plain(d):
    sweep(d, False)


def test_qcow2_backing(d):
    sweep(d, True, 'qcow2', QCOW2_EVENTS)


def test_qcow2_plain(d):
    sweep(d, False, 'qcow2', QCOW2_EVENTS)


if __name__ == '__main__':
    run(globals())
