#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damaged QED images: both checks give the same verdict (good, leaks, corrupt,
or no image), and what ours repairs theirs finds sound.

Entries of tables change at random: nothing, zero clusters, odd places, other
tables, other clusters' data, the end of the file and far beyond it.
"""
import collections
import random
import struct
import subprocess

from seed import SEED
from sluiced import SLUICE, qemu_img, run, run_tool

KIB, MIB = 1 << 10, 1 << 20
CLUSTER, TABLE = 4096, 8192
ENTRIES = TABLE // 8
ROUNDS = 120


def verdict(program, path, *more):
    p = subprocess.run([program, 'check', '-f', 'qed', *more, path],
                       capture_output=True, text=True, check=False)
    return {0: 'good', 1: 'failed', 2: 'corrupt', 3: 'leaks'}[p.returncode], \
        p.stdout + p.stderr


def make(path):
    """Clusters of data behind four L2 tables, and one of zeroes."""
    qemu_img('create', '-q', '-f', 'qed', '-o',
             'cluster_size=4096,table_size=2', path, '16M')
    writes = []
    for i in range(10):
        writes += ['-c', 'write -P %d %d 4k' % (i + 1, i * 409 * CLUSTER)]
    run_tool('qemu-io', '-f', 'qed', *writes, '-c', 'write -z 4k 4k', path)
    with open(path, 'rb') as f:
        return f.read()


def entries(data, table):
    return struct.unpack_from('<%dQ' % ENTRIES, data, table)


def damage(rng, good):
    data = bytearray(good)
    tables = [CLUSTER] + [e for e in entries(good, CLUSTER) if e]
    for _ in range(rng.choice((1, 1, 1, 2))):
        table = rng.choice(tables)
        used = [i for i, e in enumerate(entries(data, table)) if e]
        i = rng.choice(used) if used and rng.random() < 0.7 else \
            rng.randrange(ENTRIES)
        value = rng.choice((
            0, 1, 3, 512, CLUSTER, rng.choice(tables), len(data),
            len(data) - CLUSTER, 1 << 40, (1 << 64) - CLUSTER,
            rng.randrange(len(data) // CLUSTER) * CLUSTER))
        struct.pack_into('<Q', data, table + 8 * i, value)
    return data


def test_verdicts_agree(d):
    rng = random.Random(SEED)
    path = d + '/o.qed'
    good = make(d + '/good.qed')
    seen = collections.Counter()
    for _ in range(ROUNDS):
        data = damage(rng, good)
        with open(path, 'wb') as f:
            f.write(data)
        ours, text = verdict(SLUICE, path)
        theirs, their_text = verdict('qemu-img', path)
        assert ours == theirs, '%s, qemu-img says %s\n%s\n%s' % (
            ours, theirs, text, their_text)
        with open(path, 'rb') as f:
            assert f.read() == data, 'looking changes nothing'
        seen[ours] += 1
        if ours in ('leaks', 'corrupt'):
            # What is no longer pointed to stays where it is: QED has no list of
            # clusters that are free.
            ours, text = verdict(SLUICE, path, '-r', 'all')
            theirs, their_text = verdict('qemu-img', path)
            assert ours == theirs and ours in ('good', 'leaks'), \
                (ours, theirs, text, their_text)
    print('# ' + ', '.join('%d %s' % (n, k) for k, n in seen.items()))
    assert seen['corrupt'] > 10 and seen['leaks'] > 1, seen


if __name__ == '__main__':
    run(globals())
