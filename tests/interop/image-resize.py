#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""resize --preallocation: what is added reads as zeroes and is allocated, for
the room that the mode stands for; a resize that fails leaves the old size."""
import json
import os
import resource
import signal
import subprocess

from sluiced import SLUICE, qemu_img, run, run_tool

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


if __name__ == '__main__':
    run(globals())
