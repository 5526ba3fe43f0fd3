#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Encrypted qcow2 images, by us and by qemu-img: every byte, the facts; wrong
passphrases and damaged headers."""
import hashlib
import json
import os
import random
import struct
import subprocess

from seed import SEED
from sluiced import SLUICE, Skip, Sluiced, qemu_img, run, run_tool
from waiting import rest

MIB = 1 << 20
SECRET = ['--object', 'secret,id=s,data=swordfish']


def sha(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def qemu_create(path, size, *options, base=None):
    """They measure their processor, and sometimes find that no time passed."""
    words = ['qemu-img', 'create', '-q', '-f', 'qcow2', *SECRET, '-o',
             ','.join(('encrypt.format=luks', 'encrypt.key-secret=s',
                       'encrypt.iter-time=10') + options), path, str(size)]
    if base:
        words[2:2] = ['-b', base, '-F', 'raw']
    for _ in range(50):
        try:
            p = subprocess.run(words, capture_output=True, text=True,
                               check=False)
        except FileNotFoundError:
            raise Skip('qemu-img is not installed') from None
        if p.returncode == 0:
            return
        assert 'CPU usage' in p.stderr, p.stderr
    raise Skip('qemu-img cannot measure this processor')


def opts(path):
    return 'driver=qcow2,encrypt.key-secret=s,file.filename=' + path


def write_random(path, size):
    rng = random.Random(SEED)
    with open(path, 'wb') as f:
        while f.tell() < size:
            n = min(rng.randrange(1, 200000), size - f.tell())
            f.write(rng.choice([bytes(n), rng.randbytes(n)]))


def fill_by_qemu(raw, path):
    qemu_img('convert', '-n', *SECRET, '-f', 'raw', raw,
             '--target-image-opts', opts(path))


def to_raw(d, path):
    out = os.path.join(d, 'out.raw')
    run_tool(SLUICE, 'convert', *SECRET, '--image-opts', '-O', 'raw',
             opts(path), out)
    return sha(out)


def test_read(d):
    raw = d + '/p.raw'
    write_random(raw, 3 * MIB)
    for i, options in enumerate((
            (), ('encrypt.cipher-alg=aes-128', 'cluster_size=4k'),
            ('encrypt.cipher-mode=cbc', 'encrypt.ivgen-alg=essiv',
             'encrypt.ivgen-hash-alg=sha256', 'cluster_size=512'))):
        path = d + '/e%d.qcow2' % i
        qemu_create(path, 3 * MIB, *options)
        fill_by_qemu(raw, path)
        assert to_raw(d, path) == sha(raw), options
        # The facts need no passphrase.
        ours = json.loads(run_tool(SLUICE, 'info', '--output=json', path))
        theirs = json.loads(qemu_img('info', '--output=json', path))
        assert ours == theirs, (ours, theirs)
        run_tool('qemu-io', *SECRET, '--image-opts', '-c',
                 'write -P 77 100000 70001', opts(path))
        run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 77 100000 70001', raw)
        assert to_raw(d, path) == sha(raw), options
        qemu_img('convert', '-f', 'raw', '-O', 'raw', raw, d + '/p2.raw')
        write_random(raw, 3 * MIB)


def test_odd_reads(d):
    """Reads that are no whole sectors, and across clusters."""
    raw, path = d + '/p.raw', d + '/e.qcow2'
    with open(raw, 'wb') as f:
        f.write(b''.join(struct.pack('<I', i) for i in range(MIB // 4)))
    qemu_create(path, MIB, 'cluster_size=4k')
    fill_by_qemu(raw, path)
    with Sluiced(d, *SECRET, '--blockdev', opts(path) +
                 ',file.driver=file,node-name=n,read-only=on') as s:
        rng = random.Random(SEED)
        for _ in range(60):
            off = rng.randrange(0, MIB - 40000)
            size = rng.choice([1, 3, 511, 513, 4096, 20000, 40000])
            out = s.qmp.hmp('qemu-io n "read -v %d %d"' % (off, size))
            want = b''.join(struct.pack('<I', i) for i in
                            range(off // 4, (off + size) // 4 + 1))
            want = want[off % 4:off % 4 + size]
            got = bytes.fromhex(''.join(
                line[11:].split('  ')[0] for line in out.splitlines()
                if line[8:9] == ':'))
            assert got == want, (off, size, out[:300])


def test_create(d):
    """They read, check and fill what we make."""
    raw = d + '/p.raw'
    write_random(raw, 2 * MIB)
    for i, options in enumerate((
            '', ',encrypt.cipher-alg=aes-128,encrypt.hash-alg=sha1',
            ',encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,'
            'cluster_size=4k')):
        path = d + '/o%d.qcow2' % i
        out = run_tool(SLUICE, 'create', '-f', 'qcow2', *SECRET, '-o',
                       'encrypt.format=luks,encrypt.key-secret=s,'
                       'encrypt.iter-time=10' + options, path, '2M')
        assert 'fmt=qcow2 encrypt.format=luks encrypt.key-secret=s' in out, out
        info = json.loads(qemu_img('info', '--output=json', path))
        assert info['encrypted'], info
        qemu_img('check', '-q', *SECRET, '--image-opts', opts(path))
        fill_by_qemu(raw, path)
        qemu_img('convert', *SECRET, '--image-opts', '-O', 'raw', opts(path),
                 d + '/back.raw')
        assert sha(d + '/back.raw') == sha(raw)
        assert to_raw(d, path) == sha(raw)
    for options, says in (
            ('encrypt.format=luks', "'encrypt.key-secret' is required"),
            ('encrypt.key-secret=s', "'encrypt.format' is missing"),
            ('encrypt.format=aes,encrypt.key-secret=s', 'use \'luks\''),
            ('encrypt.format=luks,encrypt.key-secret=t', "No secret with id"),
            ('encrypt.format=luks,encrypt.key-secret=s,'
             'encrypt.cipher-alg=serpent-256', 'serpent'),
            ('encrypt.zork=1', "Invalid parameter 'encrypt.zork'")):
        text = fails('create', '-f', 'qcow2', *SECRET, '-o', options,
                     d + '/bad.qcow2', '1M')
        assert says in text, (options, text)
        assert not os.path.exists(d + '/bad.qcow2'), options


def test_copies_into_new_ones(d):
    """The copy leaves out zeroes: a place that nobody wrote to, were it a hole
    under the cipher, would show noise."""
    raw = d + '/p.raw'
    with open(raw, 'wb') as f:
        f.truncate(3 * MIB)
        f.seek(1000000)
        f.write(b'sluice' * 9000)
    for how in 'off', 'metadata', 'falloc', 'full':
        for more in '', ',extended_l2=on':
            path = d + '/c.qcow2'
            run_tool(SLUICE, 'convert', '-f', 'raw', '-O', 'qcow2', *SECRET,
                     '-o', 'encrypt.format=luks,encrypt.key-secret=s,'
                     'encrypt.iter-time=10,preallocation=' + how + more, raw,
                     path)
            assert to_raw(d, path) == sha(raw), (how, more)
            qemu_img('check', '-q', *SECRET, '--image-opts', opts(path))
            qemu_img('convert', *SECRET, '--image-opts', '-O', 'raw',
                     opts(path), d + '/back.raw')
            assert sha(d + '/back.raw') == sha(raw), (how, more)
    text = fails('create', '-f', 'qcow2', *SECRET, '-o', 'encrypt.format=luks,'
                 'encrypt.key-secret=s,preallocation=metadata,compat=0.10',
                 d + '/bad.qcow2', '1M')
    assert 'compatibility level 1.1' in text, text


def fails(*words):
    p = subprocess.run([SLUICE, *words], capture_output=True, text=True,
                       check=False)
    assert p.returncode != 0, p.stdout
    return p.stderr


def test_write(d):
    """Writes of all sizes, by us; they read the same."""
    rng = random.Random(SEED)
    size = 2 * MIB
    base = d + '/base.raw'
    write_random(base, size)
    for i, (options, b) in enumerate((
            ('', None), (',cluster_size=4k', base),
            (',extended_l2=on', base), (',extended_l2=on', None))):
        path, raw = d + '/w%d.qcow2' % i, d + '/w%d.raw' % i
        run_tool(SLUICE, 'create', '-q', '-f', 'qcow2', *SECRET, '-o',
                 'encrypt.format=luks,encrypt.key-secret=s,'
                 'encrypt.iter-time=10' + options,
                 *(['-b', b, '-F', 'raw'] if b else []), path, '2M')
        if b:
            run_tool('cp', b, raw)
        else:
            with open(raw, 'wb') as f:
                f.truncate(size)
        with Sluiced(d, *SECRET, '--blockdev', opts(path) +
                     ',file.driver=file,node-name=n') as s, \
                open(raw, 'r+b') as f:
            for _ in range(60):
                off = rng.randrange(0, size)
                n = min(rng.choice([1, 100, 512, 513, 4096, 70000, 300000]),
                        size - off)
                if rng.randrange(2):
                    off, n = off // 512 * 512, (n + 511) // 512 * 512
                    n = min(n, size - off)
                c = rng.randrange(1, 255)
                if rng.randrange(5) == 0:
                    out = s.qmp.hmp('qemu-io n "write -z %d %d"' % (off, n))
                    c = 0
                else:
                    out = s.qmp.hmp('qemu-io n "write -P %d %d %d"'
                                    % (c, off, n))
                assert 'failed' not in out, (off, n, out)
                f.seek(off)
                f.write(bytes([c]) * n)
            assert s.qmp.hmp('qemu-io n "flush"') == ''
            out = s.qmp.hmp('qemu-io n "read %d %d"' % (off, n))
            assert 'failed' not in out, out
        assert to_raw(d, path) == sha(raw), (i, options)
        qemu_img('convert', *SECRET, '--image-opts', '-O', 'raw', opts(path),
                 d + '/back.raw')
        assert sha(d + '/back.raw') == sha(raw), options
        qemu_img('check', '-q', *SECRET, '--image-opts', opts(path))


def test_passphrases(d):
    path = d + '/e.qcow2'
    qemu_create(path, MIB)
    text = fails('map', '--object', 'secret,id=s,data=tunafish', '--image-opts',
                 opts(path))
    assert 'Invalid password, cannot unlock any keyslot' in text, text
    text = fails('map', path)
    assert "Parameter 'encrypt.key-secret' is required for cipher" in text, text
    text = fails('map', '--image-opts', opts(path))
    assert "No secret with id 's'" in text, text
    text = fails('map', *SECRET, '--image-opts',
                 opts(path) + ',encrypt.format=aes')
    assert "Header reported 'luks' encryption format but options specify " \
        "'aes'" in text, text
    qemu_img('create', '-q', '-f', 'qcow2', d + '/plain.qcow2', '1M')
    text = fails('map', *SECRET, '--image-opts',
                 opts(d + '/plain.qcow2') + ',encrypt.format=luks')
    assert 'No encryption in image header' in text, text


def patch(path, at, data):
    with open(path, 'r+b') as f:
        f.seek(at)
        was = f.read(len(data))
        f.seek(at)
        f.write(data)
    return was


def test_hostile(d):
    path = d + '/e.qcow2'
    qemu_create(path, MIB)
    with open(path, 'rb') as f:
        head = f.read(4096)
    ext = head.index(bytes.fromhex('0537be7700000010'))
    luks, = struct.unpack_from('>Q', head, ext + 8)
    rows = [
        (32, struct.pack('>I', 1), 'AES encryption of qcow2 images is not'),
        (32, struct.pack('>I', 7), 'encrypt'),
        (ext, struct.pack('>I', 0x77777777), 'no extension that says'),
        (ext + 8, struct.pack('>Q', 0), 'cannot be there'),
        (ext + 8, struct.pack('>Q', luks + 512), 'cannot be there'),
        (ext + 8, struct.pack('>Q', 1 << 63), 'cannot be there'),
        (ext + 8, struct.pack('>Q', 1 << 50), 'no magic'),
        (ext + 16, struct.pack('>Q', 100), 'cut off'),
        (ext + 16, struct.pack('>Q', (1 << 64) - 1), 'cannot be there'),
        (ext + 16, struct.pack('>Q', 100000), 'outside'),
        (luks, b'SKUL', 'no magic'),
        (luks + 8, b'serpent\0', "cipher 'serpent' is not supported"),
        (luks + 208 + 4, b'\xff' * 4, 'asks for'),
        (luks + 208 + 44, b'\xff' * 4, 'stripes'),
        (luks + 208, bytes.fromhex('0000dead'), 'cannot unlock'),
    ]
    for at, data, says in rows:
        was = patch(path, at, data)
        start = rest()
        text = fails('map', *SECRET, '--image-opts', opts(path))
        assert says in text, (at, data, text)
        assert rest() - start < 20
        patch(path, at, was)
    run_tool(SLUICE, 'map', *SECRET, '--image-opts', opts(path))


if __name__ == '__main__':
    run(globals())
