#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Internal snapshots and persistent bitmaps of qcow2 images, with qemu-img."""
import hashlib
import json
import os
import random
import struct
import subprocess
import time

from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

MIB = 1 << 20
SEED = int(os.environ.get('SEED', '0')) or int(time.time())


def info(tool, path):
    res = json.loads(run_tool(tool, 'info', '--output=json', path))
    res.pop('actual-size', None)
    return res


def same_info(path):
    ours, theirs = info(SLUICE, path), info('qemu-img', path)
    assert ours == theirs, (ours, theirs)
    return ours


def bitmaps(path):
    return info('qemu-img', path)['format-specific']['data'].get('bitmaps', [])


def image(d, name='i.qcow2', options='cluster_size=64k', size='8M'):
    path = os.path.join(d, name)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, size)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 300k', path)
    return path


def fails(*words):
    p = subprocess.run([SLUICE, *words], capture_output=True, text=True,
                       timeout=60, check=False)
    assert p.returncode != 0, p.stdout
    return p.stderr


def patch(path, at, data):
    with open(path, 'r+b') as f:
        f.seek(at)
        was = f.read(len(data))
        f.seek(at)
        f.write(data)
    return was


def test_bitmaps_are_seen(d):
    """info is theirs; a check knows what is theirs."""
    path = image(d)
    qemu_img('bitmap', '--add', path, 'b0')
    qemu_img('bitmap', '--add', '-g', '4k', '--disable', path, 'b1')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 1M 300k', path)
    same_info(path)
    run_tool(SLUICE, 'check', '-q', path)
    with open(path, 'rb') as f:
        before = f.read()
    run_tool(SLUICE, 'map', path)
    with open(path, 'rb') as f:
        assert f.read() == before


def test_bitmaps_are_dropped(d):
    """Who writes without keeping them says so; who only looks does not."""
    path = image(d)
    qemu_img('bitmap', '--add', path, 'b0')
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n',
                  file={'driver': 'file', 'filename': path})
        out = s.qmp.hmp('qemu-io n "read 0 64k"')
        assert 'failed' not in out, out
    assert [b['name'] for b in bitmaps(path)] == ['b0']
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n',
                  file={'driver': 'file', 'filename': path})
        out = s.qmp.hmp('qemu-io n "write 0 64k"')
        assert 'failed' not in out, out
    assert bitmaps(path) == []


def test_bitmaps_hostile(d):
    path = image(d)
    qemu_img('bitmap', '--add', path, 'b0')
    with open(path, 'rb') as f:
        data = f.read()
    ext = data.index(bytes.fromhex('2385287500000018')) + 8
    at, = struct.unpack_from('>Q', data, ext + 16)
    rows = [
        (ext, b'\xff' * 4), (ext, b'\0' * 4), (ext, b'\0\0\0\2'),
        (ext + 8, b'\xff' * 8), (ext + 8, b'\0' * 8), (ext + 15, b'\1'),
        (ext + 16, b'\xff' * 8), (ext + 16, struct.pack('>Q', at + 512)),
        (ext + 16, struct.pack('>Q', 1 << 40)),
        (at, b'\xff' * 8), (at, b'\0' * 8), (at + 8, b'\xff' * 4),
        (at + 8, b'\0' * 4), (at + 12, b'\x80'), (at + 16, b'\7'),
        (at + 17, b'\xff'), (at + 17, b'\0'), (at + 18, b'\xff\xff'),
        (at + 18, b'\0\0'), (at + 20, b'\xff' * 4),
    ]
    for off, value in rows:
        was = patch(path, off, value)
        text = fails('info', path)
        assert 'bitmap' in text, (off, value, text)
        patch(path, off, was)
    same_info(path)


def test_snapshots_are_seen(d):
    path = image(d)
    qemu_img('snapshot', '-c', 'one', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 64k 300k', path)
    qemu_img('snapshot', '-c', 'two \u00fc', path)
    same_info(path)
    run_tool(SLUICE, 'check', '-q', path)


def test_snapshots_hostile(d):
    path = image(d)
    for name in ('one', 'two'):
        qemu_img('snapshot', '-c', name, path)
    with open(path, 'rb') as f:
        at, = struct.unpack('>Q', f.read(72)[64:72])
    rows = [
        (60, b'\xff' * 4), (60, struct.pack('>I', 65536)),
        (64, struct.pack('>Q', 1 << 40)), (64, struct.pack('>Q', at + 8)),
        (at, b'\xff' * 8), (at, struct.pack('>Q', 77)), (at + 8, b'\xff' * 4),
        (at + 8, struct.pack('>I', (32 << 20) // 8 + 1)),
        (at + 36, b'\xff' * 4), (at + 36, struct.pack('>I', 1025)),
    ]
    for off, value in rows:
        was = patch(path, off, value)
        start = time.monotonic()
        text = fails('info', path)
        assert 'snapshot' in text, (off, value, text)
        assert time.monotonic() - start < 10
        patch(path, off, was)
    same_info(path)


if __name__ == '__main__':
    run(globals())
