#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changing the backing reference of qcow2 headers of every shape.

After each change qemu-img reads name and format as asked for, nothing but the
first sector and a place that was free has changed, and with the old first
sector in place of the new one the image is the old one: one write that cannot
tear decides (P1).
"""
import json
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, qemu_img, run, run_tool

HEADER_V3 = 112


def create(path, options='', base=None, fmt='raw'):
    words = ['create', '-q', '-u', '-f', 'qcow2']
    words += ['-o', options] if options else []
    words += ['-b', base, '-F', fmt] if base else []
    qemu_img(*words, path, '1M')


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def write(path, data):
    with open(path, 'wb') as f:
        f.write(data)


def reference(path):
    info = json.loads(qemu_img('info', '--output=json', path))
    name = info.get('backing-filename')
    return name, info.get('backing-filename-format') if name else None


def parse(data):
    """(place of the name, its length, [extensions])"""
    def number(at, n):
        return int.from_bytes(data[at:at + n], 'big')
    at = number(100, 4) if number(4, 4) > 2 else 72
    exts = []
    while number(at, 4):
        length = number(at + 4, 4)
        exts.append((number(at, 4), data[at + 8:at + 8 + length]))
        at += 8 + (length + 7) // 8 * 8
    return number(8, 8), number(16, 4), exts, at + 8


def change(path, name, fmt):
    """Let us change it; what must hold for the bytes."""
    before, old = read(path), reference(path)
    p = subprocess.run([SLUICE, 'rebase', '-u', '-f', 'qcow2', '-b', name] +
                       (['-F', fmt] if fmt else []) + [path],
                       capture_output=True, text=True, check=False)
    if p.returncode:
        assert read(path) == before
        return p.stderr
    after = read(path)
    assert reference(path) == ((name, fmt) if name else (None, None))
    qemu_img('check', '-q', 'json:' + json.dumps({
        'driver': 'qcow2', 'backing': None,
        'file': {'driver': 'file', 'filename': path}}))
    assert len(before) == len(after)
    place, length, exts, _ = parse(after)
    old_place, old_length, old_exts, old_end = parse(before)
    differ = [i for i in range(512, len(after)) if before[i] != after[i]]
    for i in differ:
        assert place <= i < place + length, (i, place, length)
        assert i >= old_end, (i, old_end)
        assert not old_place <= i < old_place + old_length, i
    # What we do not know, in the same order.
    known = (0xe2792aca, 0x6803f857)
    assert [e for e in exts if e[0] not in known] == \
        [e for e in old_exts if e[0] not in known]
    write(path + '.old', before[:512] + after[512:])
    assert reference(path + '.old') == old
    return None


def walk(path, rng, rounds=8, longest=1023):
    """Random changes, one after the other."""
    for _ in range(rounds):
        n = rng.choice([2, 8, 100, longest // 2, longest])
        name = '/' + 'n' * (n - 1)
        error = change(path, *rng.choice([(name, 'raw'), (name, 'qcow2'),
                                          ('', None), (name, 'host_device')]))
        assert error is None, (len(name), error)


def extension(kind, data):
    return kind.to_bytes(4, 'big') + len(data).to_bytes(4, 'big') + \
        data + bytes(-len(data) % 8)


def put_extensions(path, *exts):
    """Make these all that there are."""
    data = bytearray(read(path))
    area = b''.join(exts) + bytes(8)
    assert not parse(data)[0]
    data[HEADER_V3:HEADER_V3 + len(area)] = area
    write(path, data)


def test_layouts(d):
    rng = random.Random(SEED)
    path = os.path.join(d, 'i')
    for options, longest in (('', 1023), ('compat=0.10', 1023),
                             ('cluster_size=2M', 1023),
                             ('cluster_size=4k', 1023),
                             ('cluster_size=2k', 500),
                             ('cluster_size=1k', 250),
                             ('cluster_size=512', 360),
                             ('cluster_size=512,compat=0.10', 400),
                             ('extended_l2=on,compression_type=zstd', 1023)):
        for base in (None, '/' + 'b' * 99):
            create(path, options, base)
            walk(path, rng, longest=longest)


def test_ours(d):
    """Images that we made."""
    rng = random.Random(SEED)
    path = os.path.join(d, 'i')
    for options in ('compat=1.1', 'compat=0.10', 'cluster_size=512'):
        run_tool(SLUICE, 'create', '-q', '-u', '-f', 'qcow2', '-o', options,
                 '-b', 'some.raw', '-F', 'raw', path, '1M')
        walk(path, rng, longest=360)


def test_unknown_extensions(d):
    rng = random.Random(SEED)
    path = os.path.join(d, 'i')
    create(path)
    put_extensions(path, extension(0x11111111, b'one'),
                   extension(0x22222222, b'two' * 50),
                   extension(0x11111111, b'again'))
    walk(path, rng)
    # More of them than a sector holds: what changes must be in its place.
    create(path)
    large = extension(0x33333333, bytes(range(256)) * 4)
    put_extensions(path, extension(0xe2792aca, b'raw'), large)
    for name, fmt in (('a', 'raw'), ('b', 'qcow2'), ('', None), ('c', 'raw')):
        assert change(path, name, fmt) is None
    create(path)
    put_extensions(path, large)
    before = read(path)
    error = change(path, 'a', 'raw')
    assert error and 'has no room for' in error, error
    assert read(path) == before


def test_longer_header(d):
    """Fields of a header that is longer than we know stay what they are."""
    path = os.path.join(d, 'i')
    create(path)
    data = bytearray(read(path))
    length = 160
    area = data[HEADER_V3:512]
    data[100:104] = length.to_bytes(4, 'big')
    data[HEADER_V3:length] = bytes(range(1, length - HEADER_V3 + 1))
    data[length:length + len(area)] = area
    write(path, data)
    assert change(path, '/some/base', 'raw') is None
    assert read(path)[HEADER_V3:length] == data[HEADER_V3:length]


if __name__ == '__main__':
    run(globals())
