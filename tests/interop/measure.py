#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What measure says is enough: random images are converted, and their file may
not grow by a byte beyond it.

qemu-img measures them, too, and never more than sluice does: so what it says is
compared, and must be the same where it is an upper bound at all.
"""
import json
import os
import random
import resource
import subprocess

from seed import SEED
from sluiced import SLUICE, run

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = int(os.environ.get('ROUNDS') or 25)
SECRET = ['--object', 'secret,id=s,data=word']


def call(*args, limit=None, ok=True):
    """@limit: bytes that a file may have."""
    def set_limit():
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # Python ignores SIGXFSZ, and so does what it starts here: a write beyond
    # the limit fails with EFBIG.
    p = subprocess.run(args, capture_output=True, text=True, check=False,
                       preexec_fn=set_limit, restore_signals=False)
    assert not ok or p.returncode == 0, (args, p.stderr)
    return p


def options(r):
    """Random options of a qcow2 image."""
    o = {}
    if r.random() < 0.3:
        return {'compat': '0.10',
                'cluster_size': 1 << r.randrange(9, 18)}
    if r.random() < 0.7:
        o['cluster_size'] = 1 << r.randrange(9, 22)
    if r.random() < 0.5:
        o['refcount_bits'] = 1 << r.randrange(0, 7)
    if r.random() < 0.3 and o.get('cluster_size', 65536) >= 16384:
        o['extended_l2'] = 'on'
    if r.random() < 0.3:
        o['lazy_refcounts'] = 'on'
    if r.random() < 0.3:
        o['preallocation'] = r.choice(['metadata', 'falloc', 'full'])
    if r.random() < 0.15:
        o.update({'encrypt.format': 'luks', 'encrypt.key-secret': 's',
                  'encrypt.iter-time': 10})
    return o


def write(r, path, size, cmds):
    """Data at random places of image @path."""
    for _ in range(r.randrange(0, 12)):
        off = r.randrange(0, size) & ~511
        length = min(r.choice([512, 4 * KIB, 64 * KIB, MIB]) * r.randrange(1, 9),
                     size - off)
        if length:
            cmds += ['-c', 'write -P %d %d %d' % (r.randrange(1, 256), off,
                                                  length)]
    if cmds:
        call('qemu-io', '-f', 'qcow2', *cmds, path)


def make_source(r, path):
    """A qcow2 image with data and maybe bitmaps: its size and how many."""
    size = r.choice([0, 512, 64 * KIB, MIB, 5 * MIB + 512, 32 * MIB,
                     100 * MIB]) + 512 * r.randrange(0, 1000)
    call('qemu-img', 'create', '-q', '-f', 'qcow2', path, str(size))
    n = r.randrange(0, 5) if r.random() < 0.7 else 0
    for i in range(n):
        extra = ['-g', str(1 << r.randrange(9, 20))] if r.random() < 0.6 else []
        name = 'b%d' % i + 'x' * r.randrange(0, 900)
        call('qemu-img', 'bitmap', '--add', *extra, path, name)
    if size:
        write(r, path, size, [])
    return size, n


def measured(tool, o, source):
    p = call(tool, 'measure', *SECRET, '-O', 'qcow2', *o, '-f', 'qcow2',
             '--output=json', source, ok=False)
    return json.loads(p.stdout) if p.returncode == 0 else None


def one(r, d, number):
    source, target = d + '/source', d + '/target-%d' % number
    size, n = make_source(r, source)
    opts = options(r)
    o = ['-o', ','.join('%s=%s' % kv for kv in opts.items())] if opts else []
    if size == 0 and opts.get('preallocation') in ('falloc', 'full'):
        return
    ours = measured(SLUICE, o, source)
    what = (opts, size, n, ours)
    assert ours, what
    with_bitmaps = opts.get('compat') != '0.10'
    assert ('bitmaps' in ours) == with_bitmaps, what
    theirs = measured('qemu-img', o, source)
    if theirs:
        for key, value in theirs.items():
            assert ours[key] >= value, (what, theirs)
        assert ours.keys() == theirs.keys(), (what, theirs)
    limit = ours['required'] + ours.get('bitmaps', 0)
    p = call(SLUICE, 'convert', *SECRET, '-f', 'qcow2', '-O', 'qcow2', *o,
             *(['--bitmaps'] if with_bitmaps else []),
             *(['-W'] if r.random() < 0.3 else []), source, target,
             limit=limit, ok=False)
    assert p.returncode == 0, (what, p.stderr)
    image = 'driver=qcow2,file.filename=' + target
    if 'encrypt.format' in opts:
        image += ',encrypt.key-secret=s'
    call(SLUICE, 'compare', *SECRET, '--image-opts', image,
         'driver=qcow2,file.filename=' + source)
    call('qemu-img', 'check', '-q', *SECRET, '--image-opts', image)
    os.unlink(target)


def test_upper_bound(d):
    for i in range(ROUNDS):
        print('# SEED=%d ROUNDS=1' % (SEED + i), flush=True)
        one(random.Random(SEED + i), d, i)


if __name__ == '__main__':
    run(globals())
