#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random guest operations on qcow2 images, by us and by qemu-io in turns: what
anyone reads is what a model in memory says, and qemu-img check finds nothing,
leaks neither."""
import itertools
import os
import random
import subprocess
import time

from sluiced import Skip, Sluiced, qemu_img, run, run_tool, write_pattern

try:
    import nbd
except ImportError:
    nbd = None

KIB, MIB = 1 << 10, 1 << 20
SIZE = 5 * MIB + 3 * 512      # no multiple of any cluster
BASE_SIZE = 4 * MIB + 1024    # shorter than the overlay
SEED = int(os.environ.get('SEED', '0')) or int(time.time())
ROUNDS = int(os.environ.get('ROUNDS', '2'))
ONLY = os.environ.get('ONLY', '')


class Model:
    """The disk as it must be."""
    def __init__(self, data):
        self.data = bytearray(data)

    def compare(self, name, other):
        assert len(other) == len(self.data), (name, len(other))
        if other != self.data:
            bad = [i for i in range(0, len(other), 512)
                   if other[i:i + 512] != self.data[i:i + 512]]
            raise AssertionError(
                '%s: %d sectors differ, the first at %d: %s, not %s' % (
                    name, len(bad), bad[0], other[bad[0]:bad[0] + 8].hex(),
                    self.data[bad[0]:bad[0] + 8].hex()))


def pick_ranges(rng, unit, count):
    """Ranges that do not overlap, aligned and not."""
    res = []
    for _ in range(count):
        align = rng.choice([1, 512, 4096, unit])
        off = rng.randrange(0, SIZE) // align * align
        length = rng.choice([1, 512, 4096, unit, 2 * unit, 3 * unit + 512,
                             300 * KIB])
        length = max(1, min(length, SIZE - off, 700 * KIB))
        if all(off + length <= a or a + n <= off for a, n in res):
            res.append((off, length))
    return res


def ours(h, rng, model, unit, batches=6):
    """Batches of operations in flight at once."""
    for _ in range(batches):
        cookies = []
        for off, length in pick_ranges(rng, unit, 10):
            kind = rng.choice(['write'] * 5 + ['zero', 'zero-keep', 'trim',
                                               'fua'])
            if kind in ('write', 'fua'):
                data = rng.randbytes(length)
                flags = nbd.CMD_FLAG_FUA if kind == 'fua' else 0
                buf = nbd.Buffer.from_bytearray(bytearray(data))
                cookies.append((h.aio_pwrite(buf, off, flags=flags), buf))
                model.data[off:off + length] = data
            elif kind == 'trim':
                # Whole sectors, so that all of it is taken as advice for
                # whole clusters or not at all: it is read again below.
                cookies.append((h.aio_trim(length, off), None))
                cookies[-1] += ((off, length),)
            else:
                flags = nbd.CMD_FLAG_NO_HOLE if kind == 'zero-keep' else 0
                cookies.append((h.aio_zero(length, off, flags=flags), None))
                model.data[off:off + length] = bytes(length)
        trims = [c[2] for c in cookies if len(c) > 2]
        for c in cookies:
            deadline = time.monotonic() + 60
            while not h.aio_command_completed(c[0]):
                assert time.monotonic() < deadline, 'no reply'
                h.poll(1000)
        for off, length in trims:
            # Each sector is old or zero (G8).
            now = h.pread(length, off)
            for i in range(0, length, 512):
                part = now[i:i + 512]
                old = model.data[off + i:off + i + len(part)]
                assert part == old or not any(
                    a not in (0, b) for a, b in zip(part, old)), off + i
            model.data[off:off + length] = now
        if rng.random() < 0.3:
            h.flush()


def theirs(path, rng, model, unit):
    words = ['qemu-io', '-f', 'qcow2']
    for off, length in pick_ranges(rng, unit, 12):
        off, length = off // 512 * 512, max(512, length // 512 * 512)
        length = min(length, SIZE - off)
        if rng.random() < 0.7:
            byte = rng.randrange(1, 255)
            words += ['-c', 'write -P %d %d %d' % (byte, off, length)]
            model.data[off:off + length] = bytes([byte]) * length
        else:
            words += ['-c', 'write -z %s %d %d' % (rng.choice(['', '-u']), off,
                                                   length)]
            model.data[off:off + length] = bytes(length)
    run_tool(*words, path)


def read_all(h):
    size, data = h.get_size(), bytearray()
    while len(data) < size:
        data += h.pread(min(2 * MIB, size - len(data)), len(data))
    return data


def check(name, path):
    p = subprocess.run(['qemu-img', 'check', '-f', 'qcow2', path],
                       capture_output=True, text=True, timeout=60, check=False)
    assert p.returncode == 0, (name, p.stdout, p.stderr)


def their_view(path, raw):
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        return f.read()


def one_image(s, d, sock, rng, name, options, base, unit):
    path, raw = os.path.join(d, 'i.qcow2'), os.path.join(d, 'view.raw')
    backing = ['-b', 'base.raw', '-F', 'raw'] if base else []
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, *backing, path,
             str(SIZE))
    model = Model((base + bytes(SIZE))[:SIZE])
    for _ in range(ROUNDS):
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap',
            'file': {'driver': 'file', 'filename': path, 'discard': 'unmap'}})
        s.qmp.cmd('nbd-server-add', {'device': 'n', 'writable': True})
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///n?socket=' + sock)
        ours(h, rng, model, unit)
        model.compare(name + ' (ours)', read_all(h))
        h.shutdown()
        s.qmp.cmd('nbd-server-remove', {'name': 'n', 'mode': 'hard'})
        s.qmp.cmd('blockdev-del', {'node-name': 'n'})
        check(name, path)
        model.compare(name + ' (theirs)', their_view(path, raw))
        theirs(path, rng, model, unit)
        model.compare(name + ' (their own)', their_view(path, raw))
    os.unlink(path)


def combinations():
    for cluster, bits, lazy, ext, base in itertools.product(
            (512, 4096, 65536, 2 * MIB), (1, 8, 16, 64), (0, 1), (0, 1),
            (0, 1)):
        if ext and cluster < 16384:
            continue
        options = 'cluster_size=%d,refcount_bits=%d' % (cluster, bits)
        options += ',lazy_refcounts=on' if lazy else ''
        options += ',extended_l2=on' if ext else ''
        yield (options + (' +base' if base else ''), options, base,
               cluster // 32 if ext else cluster)
    for base in (0, 1):
        yield 'v2' + (' +base' if base else ''), 'compat=0.10', base, 65536


def test_combinations(d):
    """Every cluster size, refcount width, kind of entry, with a base and
    without."""
    if nbd is None:
        raise Skip("Python's nbd module is not installed")
    print('# seed %d: run again with SEED=%d' % (SEED, SEED))
    sock = os.path.join(d, 'nbd.sock')
    base_path = os.path.join(d, 'base.raw')
    write_pattern(base_path, BASE_SIZE, seed=SEED, block=512)
    with open(base_path, 'rb') as f:
        base_data = f.read()
    with Sluiced(d) as s:
        s.qmp.cmd('nbd-server-start', {'addr': {
            'type': 'unix', 'data': {'path': sock}}})
        for name, options, base, unit in combinations():
            if ONLY and ONLY not in name:
                continue
            rng = random.Random('%d %s' % (SEED, name))
            try:
                one_image(s, d, sock, rng, name, options,
                          base_data if base else b'', unit)
            except Exception:
                print('# in %s' % name)
                raise


if __name__ == '__main__':
    run(globals())
