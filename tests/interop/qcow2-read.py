#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow2 images that qemu-img made and qemu-io filled: every byte, the map and
the facts that we read are those that they read."""
import json
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, Skip, Sluiced, qemu_img, run, run_tool, write_pattern

try:
    import nbd
except ImportError:
    nbd = None

MIB = 1 << 20
SIZE = 6 * MIB + 3 * 512      # no multiple of any cluster
BASE_SIZE = 5 * MIB + 1024    # shorter than the overlays


def fill(path, rng, unit, writes=40, size=SIZE):
    """Random writes, zeroes and discards, aligned and not."""
    words = ['qemu-io', '-f', 'qcow2', '-d', 'unmap']
    for _ in range(writes):
        align = rng.choice([512, 512, 4096, unit])
        off = rng.randrange(0, size) // align * align
        length = min(rng.choice([512, 4096, unit, 3 * unit + 512, 300 * 1024]),
                     size - off)
        kind = rng.choice(['write -P %d' % rng.randrange(1, 255)] * 3 +
                          ['write -z', 'write -z -u', 'discard'])
        words += ['-c', '%s %d %d' % (kind, off, length)]
    run_tool(*words, path)


def images(d, rng):
    """(name, options, with a base) of everything that qemu-img can make."""
    rows = [('v2', 'compat=0.10', 0), ('v2-base', 'compat=0.10', 1),
            ('v2-512', 'compat=0.10,cluster_size=512', 1),
            ('lazy', 'lazy_refcounts=on', 1)]
    rows += [('c%d' % (1 << bits), 'cluster_size=%d' % (1 << bits), 1)
             for bits in range(9, 22)]
    rows += [('r%d' % bits, 'refcount_bits=%d' % bits, 0)
             for bits in (1, 2, 4, 8, 32, 64)]
    rows += [('e%dk' % k, 'extended_l2=on,cluster_size=%dk' % k, 1)
             for k in (16, 64, 512, 2048)]
    rows += [('prealloc-' + p, 'preallocation=' + p, 0)
             for p in ('metadata', 'falloc', 'full')]
    rows += [('prealloc-e', 'preallocation=metadata,extended_l2=on', 0)]
    for name, options, base in rows:
        path = os.path.join(d, name + '.qcow2')
        backing = ['-b', 'base.raw', '-F', 'raw'] if base else []
        qemu_img('create', '-q', '-f', 'qcow2', '-o', options, *backing, path,
                 str(SIZE))
        unit = int(json.loads(qemu_img('info', '--output=json', path))
                   ['cluster-size'])
        fill(path, rng, unit)
        if name in ('c65536', 'e64k', 'c4096', 'v2-base'):
            qemu_img('snapshot', '-c', 'one', path)
            fill(path, rng, unit, 10)
        yield name, path


def read_all(uri):
    h = nbd.NBD()
    h.connect_uri(uri)
    size, data = h.get_size(), bytearray()
    while len(data) < size:
        data += h.pread(min(2 * MIB, size - len(data)), len(data))
    # Small and odd pieces too.
    for off in range(0, size - 100000, 777777):
        assert h.pread(70001, off + 13) == data[off + 13:off + 70014], off
    h.shutdown()
    return bytes(data)


def compare(d, s, sock, name, path):
    s.qmp.cmd('blockdev-add', {
        'driver': 'qcow2', 'node-name': name, 'read-only': True,
        'file': {'driver': 'file', 'filename': path}})
    s.qmp.cmd('nbd-server-add', {'device': name})
    ours = read_all('nbd+unix:///%s?socket=%s' % (name, sock))
    raw = os.path.join(d, 'expected.raw')
    qemu_img('convert', '-U', '-f', 'qcow2', '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        theirs = f.read()
    assert len(ours) == len(theirs), (name, len(ours), len(theirs))
    if ours != theirs:
        at = next(i for i in range(len(ours)) if ours[i] != theirs[i])
        raise AssertionError('%s differs at %d' % (name, at))
    s.qmp.cmd('nbd-server-remove', {'name': name})
    s.qmp.cmd('blockdev-del', {'node-name': name})


def holes_merged(entries):
    """Where nobody has bytes, whose hole it is does not matter."""
    res = []
    for e in entries:
        if not e['present']:
            e.pop('depth')
            e.pop('offset', None)
            if res and not res[-1]['present']:
                res[-1]['length'] += e['length']
                continue
        res.append(e)
    return res


def same_json(name, *words):
    def output(tool):
        res = json.loads(run_tool(tool, *words))
        return holes_merged(res) if words[0] == 'map' else res
    ours, theirs = output(SLUICE), output('qemu-img')
    if isinstance(ours, list):
        for a, b in zip(ours, theirs):
            assert a == b, (name, words[0], a, b)
    assert ours == theirs, (name, words[0], ours, theirs)


def test_images(d):
    """Contents over NBD, map and info of each."""
    if nbd is None:
        raise Skip("Python's nbd module is not installed")
    rng = random.Random(SEED)
    sock = os.path.join(d, 'nbd.sock')
    write_pattern(os.path.join(d, 'base.raw'), BASE_SIZE, seed=SEED, block=512)
    with Sluiced(d) as s:
        s.qmp.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': sock}}})
        for name, path in images(d, rng):
            compare(d, s, sock, name, path)
            if 'prealloc' not in name:   # they look at holes of the file, too
                same_json(name, 'map', '-f', 'qcow2', '--output=json', path)
            if 'snapshot' not in qemu_img('info', path).lower():
                same_json(name, 'info', '-f', 'qcow2', '--output=json', path)
            os.unlink(path)


def test_chain(d):
    """qcow2 on qcow2 on raw, formats from the headers or by magic."""
    base, mid, top = (os.path.join(d, n) for n in ('b.raw', 'm.q', 't.q'))
    write_pattern(base, BASE_SIZE, seed=SEED, block=512)
    rng = random.Random(SEED)
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'b.raw', '-F', 'raw', mid)
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'm.q', '-F', 'qcow2',
             '-o', 'cluster_size=4k,extended_l2=off', top, str(SIZE))
    fill(mid, rng, 65536, 10, BASE_SIZE)
    fill(top, rng, 4096, 10)
    same_json('chain', 'map', '--output=json', top)
    same_json('chain', 'info', '--backing-chain', '--output=json', top)
    with open(top, 'rb') as f:
        at = f.read(512).index(bytes.fromhex('e2792aca'))
    patch(top, at, b'none')   # the extension with the format is another now
    same_json('chain', 'map', '--output=json', top)


def refusal(path, *args):
    p = subprocess.run([SLUICE, 'info', '-f', 'qcow2', *args, path],
                       capture_output=True, text=True, check=False)
    assert p.returncode != 0, p.stdout
    return p.stderr


def patch(path, at, data):
    with open(path, 'r+b') as f:
        f.seek(at)
        f.write(data)


def test_features(d):
    """Unknown incompatible bits are refused by the name that the image brings
    along; compatible and autoclear ones are not."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    patch(path, 80, (1 << 63 | 1 << 9).to_bytes(8, 'big'))   # compatible
    patch(path, 88, (1 << 62).to_bytes(8, 'big'))            # autoclear
    same_json('bits', 'info', '--output=json', path)
    patch(path, 72, (1 << 41 | 1 << 5).to_bytes(8, 'big'))
    assert 'Unsupported qcow2 feature(s): Unknown incompatible feature: ' \
        '20000000020' in refusal(path)
    # Entry 0 of the feature name table becomes that of bit 41.
    patch(path, 0x78, bytes([0, 41]) + b'time travel'.ljust(46, b'\0'))
    text = refusal(path)
    assert 'Unsupported qcow2 feature(s): time travel, ' in text, text
    # Garbage where the table would be: still a refusal for that reason.
    patch(path, 0x70, b'\xff' * 400)
    assert 'Unsupported qcow2 feature(s)' in refusal(path)


def test_states(d):
    """A dirty image and a corrupt one can be read; both are shown."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    for bits in (1, 2, 3):
        patch(path, 72, bits.to_bytes(8, 'big'))
        with open(path, 'rb') as f:
            before = f.read()
        same_json('state', 'info', '--output=json', path)
        with open(path, 'rb') as f:
            assert f.read() == before
    with Sluiced(d) as s:
        text = s.qmp.error('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n',
            'file': {'driver': 'file', 'filename': path}})
        assert 'Image is corrupt; cannot be opened read/write' in text, text


def test_extensions(d):
    """Unknown extensions and ones at odd places do no harm."""
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    ext = (b'wxyz' + (13).to_bytes(4, 'big') + b'what is this?'.ljust(16, b'\0')
           + bytes.fromhex('e2792aca00000003') + b'raw\0\0\0\0\0' + bytes(8))
    patch(path, 0x70, ext)
    same_json('extension', 'info', '--output=json', path)


if __name__ == '__main__':
    run(globals())
