#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow2 images that somebody hostile wrote: names of past vulnerabilities, as
rows.  VA4: what a header may name as data file.  VA6, VA7, VA10: extreme
fields, alone and in pairs.  Tables that point anywhere.  A bomb: few bytes that
claim as much metadata as there can be.  VA3: names of backing files.  VA8, VA9:
snapshots.  VA11: refcounts that lie.  VA13: loops and long chains.  VA16: work
without end."""
import itertools
import os
import random
import struct
import subprocess
import time

import nbd

from sluiced import SANITIZED, SLUICE, SLUICED, Sluiced, qemu_img, run

MIB = 1 << 20
RSS_MAX = 64 * MIB
SECONDS = 1.0     # on a machine with nothing else to do it takes 20 ms
SEED = int(os.environ.get('SEED', '0')) or int(time.time())
EXTREMES32 = (0, 1, 3, 8, 0x7fffffff, 0x80000000, 0xffffffff)
EXTREMES64 = (0, 1, 511, 512, 4097, 0x7fffffff, 0xffffffff, 1 << 56, 1 << 62,
              (1 << 63) - 1, 1 << 63, (1 << 64) - 65536, (1 << 64) - 1)
# (offset, bytes) of every field behind the version
FIELDS = [(8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8),
          (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4),
          (100, 4), (104, 1)]


def bounded(*args):
    """Run a tool that must stay small and fast: (status, errors)."""
    start = time.monotonic()
    with subprocess.Popen([SLUICE] + list(args), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT) as p:
        out = p.stdout.read().decode(errors='replace')
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
    took = time.monotonic() - start
    assert p.returncode in (0, 1), (args, p.returncode, out)
    assert 'Sanitizer' not in out and 'runtime error' not in out, out
    if not SANITIZED:
        assert usage.ru_maxrss * 1024 < RSS_MAX, (args, usage.ru_maxrss)
        assert took < SECONDS, (args, took)
    return p.returncode, out


def image(d):
    path = os.path.join(d, 'i.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', path, '8M')
    with open(path, 'rb') as f:
        return path, bytearray(f.read())


def put(data, at, size, value):
    data[at:at + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, 'big')


def look(path, data):
    """Describe it and walk its map; the bytes stay as they are."""
    with open(path, 'wb') as f:
        f.write(data)
    res = [bounded(cmd, '-f', 'qcow2', path)[0] for cmd in ('info', 'map')]
    with open(path, 'rb') as f:
        assert f.read() == data
    return res


def test_VA6_extreme_fields(d):
    path, good = image(d)
    assert look(path, good) == [0, 0]
    for at, size in FIELDS:
        for value in EXTREMES32 if size == 4 else EXTREMES64:
            data = bytearray(good)
            put(data, at, size, value)
            look(path, data)
    # These cannot be what anybody meant.
    for at, size, value in ((20, 4, 8), (20, 4, 22), (36, 4, 0), (36, 4, -1),
                            (40, 8, 512), (40, 8, -65536), (48, 8, 512),
                            (56, 4, -1), (60, 4, -1), (64, 8, 512), (96, 4, 7),
                            (100, 4, 8), (100, 4, -8), (24, 8, 1 << 63),
                            (104, 1, 1), (72, 8, 1 << 63)):
        data = bytearray(good)
        put(data, at, size, value)
        assert look(path, data)[0] == 1, (at, value)


def test_VA7_VA10_pairs_of_fields(d):
    print('# seed %d' % SEED)
    rng = random.Random(SEED)
    path, good = image(d)
    pairs = list(itertools.combinations(FIELDS, 2))
    for (a, an), (b, bn) in rng.sample(pairs, 60):
        data = bytearray(good)
        put(data, a, an, rng.choice(EXTREMES32 if an == 4 else EXTREMES64))
        put(data, b, bn, rng.choice(EXTREMES32 if bn == 4 else EXTREMES64))
        look(path, data)


def test_VA6_extensions(d):
    path, good = image(d)
    for kind in (0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441, 7):
        for length in (0, 1, 7, 24, 16000, 0x10000, 0x7fffffff, 0xfffffff8,
                       0xffffffff):
            data = bytearray(good)
            data[112:120] = struct.pack('>II', kind, length)
            data[120:144] = b'\xff' * 24
            look(path, data)


def test_truncated(d):
    path, good = image(d)
    for n in (0, 1, 4, 8, 71, 72, 103, 104, 111, 112, 511, 512, 4096, 65536,
              65537, 131072, 196608, len(good) - 1):
        assert look(path, good[:n])[0] == (0 if n > 196608 + 7 else 1), n


def test_tables_that_point_anywhere(d):
    path, good = image(d)
    good += bytes(65536 * 5 - len(good))
    entries = [0, 1, 512, 65536, 196608, 262144, 1 << 40, 1 << 55, 1 << 56,
               1 << 62, 1 << 63, (1 << 64) - 1, 1 << 63 | 262144,
               1 << 62 | 65000, 1 << 62 | (1 << 61)]
    for l1, l2 in itertools.product(entries, entries):
        data = bytearray(good)
        put(data, 0x30000, 8, l1)
        data[0x40000:0x50000] = struct.pack('>Q', l2) * 8192
        look(path, data)


def test_bomb(d):
    """32 MiB of L1 table, all entries the same L2 table, in a sparse file."""
    path, good = image(d)
    put(good, 24, 8, (32 << 20) // 8 * (512 << 20))
    put(good, 36, 4, (32 << 20) // 8)
    put(good, 40, 8, 1 << 20)
    with open(path, 'wb') as f:
        f.write(good)
        f.truncate(34 << 20)
    assert bounded('info', '-f', 'qcow2', path)[0] == 0
    with open(path, 'r+b') as f:
        f.seek(1 << 20)
        f.write(struct.pack('>Q', 33 << 20) * ((32 << 20) // 8))
    assert bounded('info', '-f', 'qcow2', path)[0] == 0


def test_VA4_data_file_only_by_name(d):
    """What the header names as data file is not opened for that alone."""
    path, good = image(d)
    for name in ('/etc/passwd', '/dev/zero', 'json:{"driver":"null-co"}',
                 'nbd://192.0.2.1:1/x', 'fd:0'):
        data = bytearray(good)
        put(data, 72, 8, 4)
        raw = name.encode()
        data[112:120] = struct.pack('>II', 0x44415441, len(raw))
        data[120:200] = raw.ljust(80, b'\0')
        with open(path, 'wb') as f:
            f.write(data)
        status, text = bounded('map', '-f', 'qcow2', path)
        assert status == 1 and 'root:' not in text, (name, text)


def overlay(path, name, fmt='qcow2'):
    qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', name, '-F', fmt, path,
             '1M')
    return path


def test_VA3_info_and_check_open_no_backing_file(d):
    for name in (d + '/not-there', '/dev/zero', 'nbd://192.0.2.1:1/x',
                 'json:{"driver":"nbd"}', 'fd:0'):
        top = overlay(d + '/top.qcow2', name, 'raw')
        with open(top, 'rb') as f:
            before = f.read()
        status, text = bounded('info', '-f', 'qcow2', top)
        assert status == 0 and name in text, text
        assert bounded('check', '-f', 'qcow2', top)[0] == 0, name
        with open(top, 'rb') as f:
            assert f.read() == before


def test_VA3_policies_open_nothing(d):
    secret = d + '/secret'
    with open(secret, 'wb') as f:
        f.write(b'secret' * 1000)
    top = overlay(d + '/top.qcow2', secret, 'raw')
    inside = d + '/inside'
    os.mkdir(inside)
    for policy in ('deny', 'explicit', 'beneath=' + inside):
        p = subprocess.run([SLUICED, '--backing-policy', policy, '--drive',
                            'id=v,format=qcow2,file=' + top],
                           capture_output=True, text=True, timeout=60,
                           check=False)
        assert p.returncode == 1 and 'polic' in p.stderr, (policy, p)


def snapshots(d):
    path, _ = image(d)
    qemu_img('snapshot', '-c', 'one', path)
    with open(path, 'rb') as f:
        data = bytearray(f.read())
    return path, data, int.from_bytes(data[64:72], 'big')


def test_VA7_VA8_snapshot_tables(d):
    """L1 tables of snapshots beyond that of the disk and beyond the file, names
    and extra data that pass the end of the table."""
    path, good, at = snapshots(d)
    for field, size in ((0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4)):
        for value in EXTREMES32 if size < 8 else EXTREMES64:
            data = bytearray(good)
            put(data, at + field, size, value)
            look(path, data)
            with open(path, 'wb') as f:
                f.write(data)
            for args in (('snapshot', '-l', path), ('snapshot', '-a', 'one',
                         path), ('snapshot', '-d', 'one', path),
                         ('snapshot', '-c', 'two', path),
                         ('check', '-f', 'qcow2', path)):
                any_end(*args)
    for count in (2, 1000, 65536, 65537, 0xffffffff):
        data = bytearray(good)
        put(data, 60, 4, count)
        with open(path, 'wb') as f:
            f.write(data)
        for args in (('info', path), ('snapshot', '-l', path)):
            any_end(*args)


def any_end(*args, seconds=10):
    """It ends, in time, with a status of its own and without a sanitizer."""
    p = subprocess.run([SLUICE] + list(args), capture_output=True, text=True,
                       timeout=120, check=False, errors='replace')
    out = p.stdout + p.stderr
    assert 0 <= p.returncode < 4, (args, p.returncode, out[-2000:])
    assert 'Sanitizer' not in out and 'runtime error' not in out, out[-2000:]
    return p.returncode


def test_VA9_entries_beyond_the_refcount_table(d):
    """Clusters that no refcount block can count: a snapshot would have to."""
    path, good = image(d)
    good += bytes(65536 * 5 - len(good))
    put(good, 0x30000, 8, 1 << 63 | 0x40000)
    for entry in (1 << 40, 1 << 50, (1 << 55), (1 << 56) - 65536):
        data = bytearray(good)
        put(data, 0x40000, 8, 1 << 63 | entry)
        with open(path, 'wb') as f:
            f.write(data)
        for args in (('check', path), ('snapshot', '-c', 'one', path),
                     ('check', path), ('snapshot', '-d', 'one', path)):
            any_end(*args)
        assert os.path.getsize(path) < 1 << 30


def test_VA11_refcounts_of_metadata_are_zero(d):
    """The header, tables and blocks look free. A writer must not be given them:
    the image is refused or marked, and its header stays."""
    path, good = image(d)
    block = int.from_bytes(good[65536:65544], 'big')
    for clusters in ((0,), (1,), (2,), (3,), (0, 1, 2, 3)):
        data = bytearray(good)
        for c in clusters:
            put(data, block + 2 * c, 2, 0)
        with open(path, 'wb') as f:
            f.write(data)
        try:
            with Sluiced(d, '--nbd-server',
                         'addr.type=unix,addr.path=%s/n' % d,
                         '--drive', 'id=v,format=qcow2,file=' + path,
                         '--export', 'nbd,id=e,node-name=v,name=v,'
                         'writable=on') as s:
                h = nbd.NBD()
                h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
                for i in range(0, 8 * MIB, 512 << 10):
                    try:
                        h.pwrite(b'\xaa' * 65536, i)
                    except nbd.Error:
                        pass
                try:
                    h.flush()
                except nbd.Error:
                    pass
                h.shutdown()
                assert s.proc.poll() is None
        except AssertionError as e:
            assert 'ended with status 1' in str(e), e     # refused
        with open(path, 'rb') as f:
            head = f.read(112)
        mask = bytearray(head)
        mask[72:88] = good[72:88]       # but for "dirty" and "corrupt"
        # Neither the header nor what it leads to was given away.
        assert mask == good[:112], (clusters, mask.hex(), good[:112].hex())
        with open(path, 'rb') as f:
            f.seek(65536)
            table = f.read(65536)
        assert b'\xaa' * 512 not in table, clusters


def test_VA13_loops_and_a_long_chain(d):
    a, b = d + '/a.qcow2', d + '/b.qcow2'
    overlay(a, 'b.qcow2')
    overlay(b, a)
    me = overlay(d + '/me.qcow2', 'me.qcow2')
    overlay(d + '/0', 'nothing', 'raw')
    for i in range(1, 300):
        overlay('%s/%d' % (d, i), str(i - 1))
    for path in (a, b, me, d + '/299'):
        start = time.monotonic()
        p = subprocess.run([SLUICED, '--drive',
                            'id=v,format=qcow2,file=' + path],
                           capture_output=True, text=True, timeout=60,
                           check=False)
        took = time.monotonic() - start
        assert p.returncode == 1 and p.stderr.startswith('sluiced: '), p
        assert SANITIZED or took < 5, took
        assert any_end('map', '-f', 'qcow2', path) == 1


def test_VA16_work_without_end(d):
    """4 Mi L1 entries that lead to one table, or to as many tables in a hole."""
    path, good = image(d)
    n = (32 << 20) // 8
    put(good, 24, 8, n * (512 << 20))
    put(good, 36, 4, n)
    put(good, 40, 8, 1 << 20)
    for step, fill in ((0, b''), (0, b'\x01'), (65536, b'')):
        with open(path, 'wb') as f:
            f.write(good)
            f.seek(1 << 20)
            for k in range(0, n, 512):
                f.write(struct.pack('>512Q', *((33 << 20) + (k + i) * step
                                               for i in range(512))))
            f.seek(33 << 20)
            f.write(fill)
            f.truncate((34 << 20) + n * step)
        for command in ('info', 'map', 'check'):
            start = time.monotonic()
            p = subprocess.run([SLUICE, command, '-f', 'qcow2', path],
                               timeout=200, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, check=False)
            assert p.returncode in (0, 1, 2, 3), (command, p)
            took = time.monotonic() - start
            assert SANITIZED or took < 60, (step, command, took)


if __name__ == '__main__':
    run(globals())
