#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow2 images that we make: the options of qemu-img and its refusals, and
images that qemu-img finds whole, describes as its own and can fill."""
import itertools
import json
import os
import subprocess

from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

REFUSED = [
    '-o cluster_size=1000 x 1M', '-o cluster_size=256 x 1M',
    '-o cluster_size=4M x 1M', '-o refcount_bits=3 x 1M',
    '-o refcount_bits=128 x 1M', '-o refcount_bits=0 x 1M',
    '-o compat=0.10,refcount_bits=8 x 1M',
    '-o compat=0.10,lazy_refcounts=on x 1M', '-o compat=9 x 1M',
    '-o preallocation=metadata,backing_file=base.raw,backing_fmt=raw x',
    '-o preallocation=nope x 1M', '-o data_file_raw=on x 1M',
    '-o data_file=d,data_file_raw=on,backing_file=base.raw,backing_fmt=raw x',
    '-o compat=0.10,data_file=d x 1M',
    '-o compat=0.10,compression_type=zstd x 1M',
    '-o compression_type=nope x 1M', '-o extended_l2=on,cluster_size=8k x 1M',
    '-o extended_l2=on,compat=0.10 x 1M', '-o cluster_size=512 x 256G',
    'x 8191P', '-o backing_fmt=raw x 1M', '-b base.raw -F nope -u x 1M',
]

MADE = ['x 0', 'x 1000', 'x 10T', '-o compat=0.10 x 3M', '-o compat=v3 x 3M',
        '-b base.raw -F raw x', '-b base.raw -F raw x 9M',
        '-o compat=0.10,backing_file=base.raw,backing_fmt=raw x',
        '-o cluster_size=512,backing_file=base.raw,backing_fmt=raw x',
        '-o compression_type=zstd,lazy_refcounts=on x 3M',
        '-o extended_l2=on,preallocation=metadata -b base.raw -F raw x']


def both(d, words):
    """Run both tools in folders of their own: [(status, output, info)]."""
    res = []
    for tool in (SLUICE, 'qemu-img'):
        folder = os.path.join(d, os.path.basename(tool))
        os.makedirs(folder, exist_ok=True)
        base = os.path.join(folder, 'base.raw')
        if not os.path.exists(base):
            qemu_img('create', '-q', '-f', 'raw', base, '2M')
        p = subprocess.run([tool, 'create', '-f', 'qcow2', *words.split()],
                           cwd=folder, capture_output=True, text=True,
                           check=False)
        text = (p.stdout + p.stderr).replace(os.path.basename(tool) + ':', '')
        image, info = os.path.join(folder, 'x'), None
        if os.path.exists(image) and p.returncode == 0:
            qemu_img('check', image)
            info = json.loads(qemu_img('info', '--output=json', image))
            for key in ('actual-size', 'filename', 'full-backing-filename'):
                info.pop(key, None)
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 1M', image) \
                if info['virtual-size'] >= 1 << 20 else None
            qemu_img('check', image)
            os.unlink(image)
        res.append((p.returncode, text, info))
    return res


def test_refusals(d):
    """The same words and status as theirs."""
    for words in REFUSED:
        ours, theirs = both(d, words)
        assert ours == theirs and ours[0] == 1, (words, ours, theirs)


def test_same(d):
    """The same output, an image described the same."""
    for words in MADE:
        ours, theirs = both(d, words)
        assert ours == theirs and ours[0] == 0, (words, ours, theirs)


def test_geometries(d):
    """Every kind of table and preallocation: whole, and readable."""
    path = os.path.join(d, 'x')
    rows = list(itertools.product(
        ('512', '4k', '64k', '2M'), (1, 4, 16, 64),
        ('off', 'metadata', 'falloc', 'full')))[::3]
    rows = ['cluster_size=%s,refcount_bits=%d,preallocation=%s' % r
            for r in rows]
    rows += ['extended_l2=on,cluster_size=%s,preallocation=%s' % r
             for r in (('16k', 'metadata'), ('64k', 'full'), ('2M', 'falloc'))]
    for options in rows:
        run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', '-o', options, path,
                 '3000k')
        qemu_img('check', '-q', path)
        text = run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 0 0 3000k',
                        path)
        assert 'verification failed' not in text, (options, text)


def test_what_is_below_is_not_overwritten(d):
    """An image that is in the chain of the new one's backing file, by whatever
    name, keeps its bytes."""
    base, top = os.path.join(d, 'base.qcow2'), os.path.join(d, 'top.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', base, '1M')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2',
             top)
    os.symlink('base.qcow2', os.path.join(d, 'link'))
    for victim, name in (base, './base.qcow2'), (base, 'top.qcow2'), (
            base, 'link'), (top, top), (
            d + '/./top.qcow2', 'top.qcow2'):
        with open(victim, 'rb') as f:
            before = f.read()
        p = subprocess.run([SLUICE, 'create', '-f', 'qcow2', '-b', name, '-F',
                            'qcow2', victim], capture_output=True, text=True,
                           check=False)
        assert p.returncode == 1 and p.stdout == '', (victim, name, p)
        with open(victim, 'rb') as f:
            assert f.read() == before, (victim, name)


def test_falloc_takes_space(d):
    path = os.path.join(d, 'x')
    for how, least in (('metadata', 0), ('falloc', 8 << 20), ('full', 8 << 20)):
        run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', '-o',
                 'preallocation=' + how, path, '8M')
        assert os.stat(path).st_blocks * 512 >= least, how


def test_what_storage_held_does_not_show(d):
    """An export has its bytes from before: clusters that get their places in
    advance, and are left out by a copy since they are zero, read as zeroes."""
    source, path = os.path.join(d, 'raw'), os.path.join(d, 'disk')
    sock = os.path.join(d, 'nbd.sock')
    with open(source, 'wb') as f:
        f.truncate(3 << 20)
        f.seek(1000000)
        f.write(b'sluice' * 9000)
    for options in itertools.product(
            ('off', 'metadata', 'falloc', 'full'),
            ('compat=1.1', 'compat=0.10', 'extended_l2=on')):
        with open(path, 'wb') as f:
            f.write(b'\xa5' * (5 << 20))
        with Sluiced(d, '--blockdev',
                     'file,node-name=n,discard=unmap,filename=' + path,
                     '--nbd-server', 'addr.type=unix,addr.path=' + sock,
                     '--export', 'nbd,id=e,node-name=n,name=x,writable=on'):
            run_tool(SLUICE, 'convert', '-f', 'raw', '-O', 'qcow2', '-o',
                     'preallocation=%s,%s' % options, source,
                     'nbd+unix:///x?socket=' + sock)
        qemu_img('check', '-q', '-f', 'qcow2', path)
        qemu_img('compare', '-q', '-f', 'raw', '-F', 'qcow2', source, path)
        os.unlink(sock) if os.path.exists(sock) else None


if __name__ == '__main__':
    run(globals())
