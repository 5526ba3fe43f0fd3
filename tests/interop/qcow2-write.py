#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random guest operations on qcow2 images, by us and by qemu-io in turns: what
anyone reads is what a model in memory says, and qemu-img check finds nothing,
leaks neither."""
import itertools
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, Skip, Sluiced, qemu_img, run, run_tool, \
    write_pattern

try:
    import nbd
except ImportError:
    nbd = None

KIB, MIB = 1 << 10, 1 << 20
SIZE = 5 * MIB + 3 * 512      # no multiple of any cluster
BASE_SIZE = 4 * MIB + 1024    # shorter than the overlay
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
            while not h.aio_command_completed(c[0]):
                h.poll(-1)
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
                       capture_output=True, text=True, check=False)
    assert p.returncode == 0, (name, p.stdout, p.stderr)


def their_view(path, raw):
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
    with open(raw, 'rb') as f:
        return f.read()


class Served:
    """An image that a daemon serves, over a connection."""
    def __init__(self, s, sock, path, data=None):
        self.s = s
        storage = [{'driver': 'file', 'filename': p, 'discard': 'unmap'}
                   for p in (path, data) if p]
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'discard': 'unmap',
            **dict(zip(('file', 'data-file'), storage))})
        s.qmp.cmd('nbd-server-add', {'device': 'n', 'writable': True})
        self.h = nbd.NBD()
        self.h.connect_uri('nbd+unix:///n?socket=' + sock)

    def close(self):
        self.h.shutdown()
        self.s.qmp.cmd('nbd-server-remove', {'name': 'n', 'mode': 'hard'})
        self.s.qmp.cmd('blockdev-del', {'node-name': 'n'})


def start_server(s, d):
    if nbd is None:
        raise Skip("Python's nbd module is not installed")
    sock = os.path.join(d, 'nbd.sock')
    s.qmp.cmd('nbd-server-start', {'addr': {
        'type': 'unix', 'data': {'path': sock}}})
    return sock


def one_image(s, d, sock, rng, name, options, base, unit):
    path, raw = os.path.join(d, 'i.qcow2'), os.path.join(d, 'view.raw')
    backing = ['-b', 'base.raw', '-F', 'raw'] if base else []
    data = d + '/i.data' if 'data_file' in options else None
    tool = rng.choice([SLUICE, 'qemu-img']) if data else 'qemu-img'

    def compare(who, seen):
        model.compare('%s (%s)' % (name, who), seen)
        if 'data_file_raw' in options:
            with open(data, 'rb') as f:
                model.compare('%s (%s, data file)' % (name, who),
                              f.read(SIZE)) # theirs may end with a cluster

    run_tool(tool, 'create', '-q', '-f', 'qcow2', '-o',
             options.replace('DATA', data or ''), *backing, path, str(SIZE))
    model = Model((base + bytes(SIZE))[:SIZE])
    for _ in range(ROUNDS):
        image = Served(s, sock, path, data)
        ours(image.h, rng, model, unit)
        image.h.flush()
        compare('ours', read_all(image.h))
        image.close()
        check(name, path)
        compare('theirs', their_view(path, raw))
        theirs(path, rng, model, unit)
        compare('their own', their_view(path, raw))
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
    for cluster, ext, kind in itertools.product(
            (512, 65536, 2 * MIB), (0, 1), ('', '+base', 'data_file_raw=on')):
        if ext and cluster < 16384:
            continue
        options = 'cluster_size=%d,data_file=DATA' % cluster
        options += ',extended_l2=on' if ext else ''
        options += ',' + kind if kind.startswith('data') else ''
        yield '%s %s' % (options, kind), options, kind == '+base', \
            cluster // 32 if ext else cluster
    for base in (0, 1):
        yield 'v2' + (' +base' if base else ''), 'compat=0.10', base, 65536


def test_combinations(d):
    """Every cluster size, refcount width, kind of entry, with a base and
    without; with the data in the image or in another file."""
    base_path = os.path.join(d, 'base.raw')
    write_pattern(base_path, BASE_SIZE, seed=SEED, block=512)
    with open(base_path, 'rb') as f:
        base_data = f.read()
    with Sluiced(d) as s:
        sock = start_server(s, d)
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


def test_refcount_growth(d):
    """Many small blocks, and refcount tables that must grow and move."""
    path, raw = os.path.join(d, 'i.qcow2'), os.path.join(d, 'view.raw')
    with Sluiced(d) as s:
        sock = start_server(s, d)
        for options, total in (('cluster_size=512,refcount_bits=64', 6 * MIB),
                               ('cluster_size=512,refcount_bits=1', 6 * MIB),
                               ('cluster_size=4k,refcount_bits=64', 96 * MIB)):
            rng = random.Random(SEED)
            qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path,
                     str(total))
            image = Served(s, sock, path)
            chunk = 256 * KIB
            data = bytearray(total)
            order = list(range(0, total, chunk))
            rng.shuffle(order)
            for i, off in enumerate(order):
                part = rng.randbytes(64) * (chunk // 64)
                image.h.pwrite(part, off)
                data[off:off + chunk] = part
                if i % 7 == 0:
                    image.h.flush()
            image.close()
            check(options, path)
            assert their_view(path, raw) == data, options
            os.unlink(path)


def test_shared(d):
    """Clusters that are shared with a snapshot or compressed move when they
    are written to; the snapshot stays as it was."""
    path, raw = os.path.join(d, 'i.qcow2'), os.path.join(d, 'view.raw')
    with Sluiced(d) as s:
        sock = start_server(s, d)
        for name, unit in (('cluster_size=64k', 65536),
                           ('cluster_size=4k', 4096),
                           ('cluster_size=64k,extended_l2=on', 2048),
                           ('compat=0.10', 65536)):
            rng = random.Random('%d %s' % (SEED, name))
            write_pattern(raw, SIZE // 512 * 512, seed=SEED, block=512)
            qemu_img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', name,
                     raw, path)
            with open(raw, 'rb') as f:
                model = Model(f.read())
            for _ in range(2):
                theirs(path, rng, model, unit)
                qemu_img('snapshot', '-c', 'kept', path)
                before = bytes(model.data)
                image = Served(s, sock, path)
                ours(image.h, rng, model, unit)
                model.compare(name, read_all(image.h))
                image.close()
                check(name, path)
                model.compare(name + ' (theirs)', their_view(path, raw))
                qemu_img('snapshot', '-a', 'kept', path)
                assert their_view(path, raw) == before, name + ' snapshot'
                model.data[:] = before
                qemu_img('snapshot', '-d', 'kept', path)
                check(name + ' deleted', path)
            os.unlink(path)


def test_resize(d):
    """Growing and shrinking, over a longer base, with a larger L1 table."""
    path, raw = os.path.join(d, 'i.qcow2'), os.path.join(d, 'view.raw')
    base = os.path.join(d, 'base.raw')
    write_pattern(base, 4 * MIB, seed=SEED, block=512)
    with open(base, 'rb') as f:
        base_data = f.read()
    for name in ('cluster_size=512', 'cluster_size=64k', 'cluster_size=4k',
                 'cluster_size=64k,extended_l2=on'):
        rng = random.Random('%d %s' % (SEED, name))
        size = MIB + 512
        qemu_img('create', '-q', '-f', 'qcow2', '-o', name, '-b', base, '-F',
                 'raw', path, str(size))
        data = bytearray(base_data[:size])
        for _ in range(6):
            off = rng.randrange(0, size) // 512 * 512
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 %d 512' % off,
                     path)
            data[off:off + 512] = bytes([7]) * 512
            size = rng.randrange(1, 6 * MIB) // 512 * 512 + 512
            run_tool(SLUICE, 'resize', '-f', 'qcow2', '--shrink', path,
                     str(size))
            data = data[:size] + bytes(max(0, size - len(data)))
            check(name, path)
            assert their_view(path, raw) == data, (name, size)
        os.unlink(path)


if __name__ == '__main__':
    run(globals())
