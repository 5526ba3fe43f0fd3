#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""resize --preallocation: what is added reads as zeroes and is allocated, for
the room that the mode stands for; a resize that fails leaves the old size.
What was cut off leaves no metadata behind that QEMU would not leave."""
import json
import os
import resource
import shutil
import signal
import struct
import subprocess

from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

MIB = 1 << 20
# A longer base would show in what is added; the old end is inside a cluster.
OLD, NEW = 5 * MIB + 1024, 70 * MIB
KINDS = ['', 'compat=0.10', 'extended_l2=on', 'extended_l2=on,cluster_size=2M',
         'cluster_size=4k', 'cluster_size=2M', 'lazy_refcounts=on']
SECRET = ['--object', 'secret,id=s,data=abc']
LUKS = 'driver=qcow2,encrypt.key-secret=s,file.filename='


def image(d, options, size=OLD, more=()):
    path = os.path.join(d, 'i.qcow2')
    if not os.path.exists(d + '/base.raw'):
        with open(d + '/base.raw', 'wb') as f:
            f.write(b'\x5a' * (20 * MIB))
    run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', *more, '-o',
             options or 'compat=1.1', '-b', 'base.raw', '-F', 'raw', path,
             str(size))
    return path


def see(path, *more):
    raw = path + '.raw'
    qemu_img('convert', *more, '-O', 'raw', path if not more else
             LUKS + path, raw)
    with open(raw, 'rb') as f:
        return f.read()


def used(path):
    return os.stat(path).st_blocks * 512


def mapped(path):
    """Bytes of the added part that are allocated in the image."""
    out = run_tool(SLUICE, 'map', '--output=json', '-s', str(OLD), path)
    return sum(e['length'] for e in json.loads(out)
               if e['depth'] == 0 and 'offset' in e)


def one_mode(d, options, mode):
    path = image(d, options)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 3 5M 1k', path)
    before = used(path)
    run_tool(SLUICE, 'resize', '-q', '--preallocation=' + mode, path, str(NEW))
    want = b'\x5a' * (5 * MIB) + b'\3' * 1024
    got = see(path)
    assert got[:OLD] == want and not any(got[OLD:]), (options, mode)
    assert len(got) == NEW
    qemu_img('check', '-q', path)
    run_tool(SLUICE, 'check', '-q', path)
    taken = used(path) - before
    # Tables for 4 KiB clusters take most; data takes 65 MiB.
    assert (taken < 2 * MIB) == (mode == 'metadata'), (options, mode, taken)
    assert taken < 70 * MIB
    if 'extended' not in options:
        # Up to the cluster that was there, every one is allocated.
        assert mapped(path) >= NEW - OLD - 2 * MIB, (options, mode)
    # Not a cluster more is needed for what is written there.
    end = os.path.getsize(path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 9 40M 3M', path)
    assert os.path.getsize(path) == end, (options, mode)
    os.unlink(path)


for kind in KINDS:
    def modes(d, kind=kind):
        for mode in 'metadata', 'falloc', 'full':
            one_mode(d, kind, mode)
    globals()['test_' + (kind or 'plain').replace('=', '_')] = modes


def test_inside_a_cluster(d):
    """The cluster in which the disk ended has its place, too, when only the
    base had something there."""
    for options in 'compat=1.1', 'cluster_size=2M', 'extended_l2=on':
        for mode in 'metadata', 'falloc', 'full':
            path = image(d, options)
            run_tool(SLUICE, 'resize', '-q', '--preallocation=' + mode, path,
                     str(NEW))
            got = see(path)
            assert got[:OLD] == b'\x5a' * OLD and not any(got[OLD:]), mode
            end = os.path.getsize(path)
            run_tool('qemu-io', '-f', 'qcow2', '-c',
                     'write -P 9 %d 3k' % OLD, path)
            assert os.path.getsize(path) == end, (options, mode)
            qemu_img('check', '-q', path)
            os.unlink(path)


def test_encrypted(d):
    """A hole under the cipher would read as noise."""
    path = image(d, 'encrypt.format=luks,encrypt.key-secret=s,'
                 'encrypt.iter-time=10', more=SECRET)
    for size, mode in (NEW, 'metadata'), (NEW + 4 * MIB, 'falloc'):
        run_tool(SLUICE, 'resize', '-q', *SECRET, '--preallocation=' + mode,
                 '--image-opts', LUKS + path, str(size))
        got = see(path, *SECRET, '--image-opts')
        assert got[:OLD] == b'\x5a' * OLD and not any(got[OLD:]), mode
        run_tool(SLUICE, 'check', '-q', *SECRET, '--image-opts', LUKS + path)


def limited():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30 * MIB, 30 * MIB))


def test_failure_leaves_the_size(d):
    """No file may grow beyond 30 MiB."""
    path = image(d, '')
    for mode in 'falloc', 'full':
        p = subprocess.run([SLUICE, 'resize', '--preallocation=' + mode, path,
                            str(NEW)], capture_output=True, text=True,
                           check=False, preexec_fn=limited)
        assert p.returncode == 1 and 'preallocate' in p.stderr, p
        info = json.loads(run_tool(SLUICE, 'info', '--output=json', path))
        assert info['virtual-size'] == OLD, info
        assert see(path) == b'\x5a' * OLD
        qemu_img('check', '-q', path)


def test_metadata_of_a_large_one(d):
    """A tebibyte gets its places, in a file that holds next to nothing."""
    path = os.path.join(d, 'i.qcow2')
    run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M',
             path, '1M')
    run_tool(SLUICE, 'resize', '-q', '--preallocation=metadata', path, '1T')
    assert used(path) < 32 * MIB, used(path)
    qemu_img('check', '-q', path)


def blocks(path):
    """How many refcount blocks there are, and how many count nothing."""
    with open(path, 'rb') as f:
        image = f.read()
    cluster = 1 << struct.unpack_from('>I', image, 20)[0]
    at, n = struct.unpack_from('>QI', image, 48)
    table = [e for e in struct.unpack_from(f'>{n * cluster // 8}Q', image, at)
             if e]
    return len(table), sum(not any(image[e:e + cluster]) for e in table)


def tables(path):
    """How many L2 tables there are."""
    with open(path, 'rb') as f:
        image = f.read()
    n, at = struct.unpack_from('>IQ', image, 36)
    return sum(e != 0 for e in struct.unpack_from(f'>{n}Q', image, at))


def end(path):
    return json.loads(qemu_img('check', '--output=json',
                               path))['image-end-offset']


def one_shrink(d, options, old, new, written):
    ours, theirs = os.path.join(d, 'ours'), os.path.join(d, 'theirs')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, ours, str(old))
    for off, n in written:
        run_tool('qemu-io', '-f', 'qcow2', '-c', f'write -P 7 {off} {n}', ours)
    shutil.copy(ours, theirs)
    run_tool(SLUICE, 'resize', '-q', '--shrink', ours, str(new))
    qemu_img('resize', '-q', '--shrink', theirs, str(new))
    what = options, old, new
    qemu_img('check', '-q', ours)
    assert tables(ours) == tables(theirs), what
    assert blocks(ours) == blocks(theirs), (what, blocks(ours), blocks(theirs))
    assert blocks(ours)[1] == 0, what
    assert end(ours) == end(theirs), what
    qemu_img('compare', '-q', ours, theirs)
    # The disk grows back to zeroes, and what was given back is used again.
    run_tool(SLUICE, 'resize', '-q', ours, str(old))
    qemu_img('resize', '-q', theirs, str(old))
    qemu_img('compare', '-q', ours, theirs)
    size = os.path.getsize(ours)
    with Sluiced(d, '--blockdev', 'qcow2,node-name=n,file.driver=file,'
                 'file.filename=' + ours) as s:
        for off in range(old - MIB, old, 16384):
            out = s.qmp.hmp(f'qemu-io n "write -P 9 {off} 16k"')
            assert 'wrote' in out, out
    qemu_img('check', '-q', ours)
    got = see(ours)
    assert got[old - MIB:] == b'\x09' * MIB and not any(got[new:old - MIB])
    # One cluster or another is taken before its block was looked at.
    now = os.path.getsize(ours)
    assert now <= size + 65536, (what, now, size)


def test_shrink_leaves_no_metadata(d):
    """Small clusters have many tables and blocks for little data."""
    for options in ('cluster_size=512,refcount_bits=64', 'cluster_size=512',
                    'cluster_size=512,compat=0.10',
                    'cluster_size=1k,refcount_bits=64',
                    'cluster_size=64k'):
        one_shrink(d, options, 16 * MIB, 65536, [(0, 16 * MIB)])
        one_shrink(d, options, 4 * MIB, 65536, [(0, 4 * MIB)])
        one_shrink(d, options, 8 * MIB, 65536, [(0, 8 * MIB)])
        # The block that counts what is cut off is not the last one.
        one_shrink(d, options, 8 * MIB, 5 * MIB,
                   [(6 * MIB, 2 * MIB), (0, 2 * MIB)])


if __name__ == '__main__':
    run(globals())
