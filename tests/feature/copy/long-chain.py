#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A chain of 1,000 images: read, written to, committed and streamed in its
middle, and open in bounded memory."""
import os
import random

import longchain
import rig
from rig import Guest, Ledger, MIB, Stage, assert_same
from seed import SEED
from sluiced import SANITIZED, Sluiced

IMAGES = 1000
SIZE = 16 * MIB
# Each image has an open file, a header and an L2 slice or two.
RSS_MAX = 400 * MIB


def disk_of(holds):
    return b''.join(bytes([v]) * longchain.CLUSTER for v in holds)


def read_disk(s):
    h = s.client()
    return b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))


def read_small(s):
    """In small pieces, in random order."""
    h = s.client()
    places = list(range(0, SIZE, 16384))
    random.Random(SEED).shuffle(places)
    disk = bytearray(SIZE)
    for at in places:
        disk[at:at + 16384] = h.pread(16384, at)
    return disk


def chain(s):
    """Node names of the images, by number."""
    nodes = s.qmp.cmd('query-named-block-nodes', flat=True)
    return {int(os.path.basename(n['file'])[1:]): n['node-name']
            for n in nodes if n['drv'] == 'qcow2'}


def rss(s):
    with open('/proc/%d/status' % s.daemon.proc.pid, encoding='ascii') as f:
        line, = [text for text in f if text.startswith('VmRSS')]
    return int(line.split()[1]) << 10


def test_thousand(d):
    want = disk_of(longchain.make(d, IMAGES, SIZE, random.Random(SEED)))
    top = os.path.join(d, longchain.name_of(IMAGES - 1))
    with Stage(d, top) as s:
        assert_same(read_small(s), want)
        assert_same(read_disk(s), want)
        rig.note('%d MiB of memory' % (rss(s) // MIB))
        assert SANITIZED or rss(s) < RSS_MAX, rss(s)
        name = chain(s)
        assert len(name) == IMAGES
        ledger = Ledger(want)
        guest = Guest(s, ledger, seed=SEED)
        s.qmp.cmd('block-commit', {
            'device': 'virtio0', 'job-id': 'j', 'top-node': name[600],
            'base-node': name[500]})
        s.wait_completed(job='j')
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        left = chain(s)
        assert sorted(left) == [*range(501), *range(601, IMAGES)]
        s.qmp.cmd('block-stream', {
            'device': name[300], 'job-id': 'j', 'base-node': name[200]})
        s.wait_completed(job='j')
        s.qmp.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        assert sorted(chain(s)) == [*range(201), *range(300, 501),
                                    *range(601, IMAGES)]
        guest.stop()
        got = read_disk(s)
        ledger.check_all(got)
        assert_same(read_small(s), got)
    for i in [*range(501, 601), *range(201, 300)]:
        os.unlink(os.path.join(d, longchain.name_of(i)))
    with Stage(d, top) as s:
        assert_same(read_disk(s), got)


def test_limit(d):
    longchain.make(d, 10, MIB, random.Random(SEED))
    node = {'driver': 'qcow2', 'node-name': 'n', 'file': {
        'driver': 'file', 'filename': os.path.join(d, longchain.name_of(9))}}
    with Sluiced(d, '--chain-limit', '9') as s:
        text = s.qmp.error('blockdev-add', node)
        assert 'is deeper than 9 images' in text, text
        assert '--chain-limit' in text, text
    with Sluiced(d, '--chain-limit', '10') as s:
        s.qmp.cmd('blockdev-add', node)


if __name__ == '__main__':
    rig.run(globals())
