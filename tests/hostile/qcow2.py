#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow2 images that somebody hostile wrote: names of past vulnerabilities, as
rows.  VA4: what a header may name as data file.  VA6, VA7, VA10: extreme
fields, alone and in pairs.  Tables that point anywhere.  VA3: names of backing
files.  VA8, VA9: snapshots.  VA11: refcounts that lie.  VA13: a bomb (few bytes
that describe as much metadata as there can be), loops and long chains.  VA14:
counts in the directory of bitmaps.  VA16: work without end."""
import itertools
import os
import random
import socket
import struct
import subprocess

import nbd

from bounded import RSS_MAX, bounded
from seed import SEED
from sluiced import SANITIZED, SLUICED, Sluiced, qemu_img, run
from waiting import rest

MIB = 1 << 20
EXTREMES32 = (0, 1, 3, 8, 0x7fffffff, 0x80000000, 0xffffffff)
EXTREMES64 = (0, 1, 511, 512, 4097, 0x7fffffff, 0xffffffff, 1 << 56, 1 << 62,
              (1 << 63) - 1, 1 << 63, (1 << 64) - 65536, (1 << 64) - 1)
# (offset, bytes) of every field behind the version
FIELDS = [(8, 8), (16, 4), (20, 4), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8),
          (56, 4), (60, 4), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4),
          (100, 4), (104, 1)]


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
    res = [bounded(cmd, '-f', 'qcow2', path).status
           for cmd in ('info', 'map')]
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
                            (56, 4, -1), (96, 4, 7),
                            (100, 4, 8), (100, 4, -8), (24, 8, 1 << 63),
                            (104, 1, 1), (72, 8, 1 << 63)):
        data = bytearray(good)
        put(data, at, size, value)
        assert look(path, data)[0] == 1, (at, value)


def test_VA7_VA10_pairs_of_fields(d):
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


def peak(pid):
    """Most memory that a process ever had, bytes."""
    with open('/proc/%d/status' % pid, encoding='ascii') as f:
        return [int(l.split()[1]) << 10 for l in f if l.startswith('VmHWM')][0]


def serve(d, path, mode='writable=on'):
    more = '' if 'on' in mode else ',readonly=on'
    return Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                   '--drive', 'id=v,format=qcow2,file=%s%s' % (path, more),
                   '--export', 'nbd,id=e,node-name=v,name=v,' + mode)


def guest(d):
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
    return h


def any_of(call, *args):
    """It may fail; it must not end the daemon, which the caller looks at."""
    try:
        return call(*args)
    except nbd.Error:
        return None


def test_VA13_a_bomb(d):
    """32 MiB of L1 table, all entries the same L2 table, in a sparse file."""
    path, good = image(d)
    put(good, 24, 8, (32 << 20) // 8 * (512 << 20))
    put(good, 36, 4, (32 << 20) // 8)
    put(good, 40, 8, 1 << 20)
    with open(path, 'wb') as f:
        f.write(good)
        f.truncate(34 << 20)
    bounded('info', '-f', 'qcow2', path, cpu=0.5, ends=(0,))
    with open(path, 'r+b') as f:
        f.seek(1 << 20)
        f.write(struct.pack('>Q', 33 << 20) * ((32 << 20) // 8))
    bounded('info', '-f', 'qcow2', path, cpu=0.5, ends=(0,))
    bounded('map', '-l', '1M', path, cpu=0.5)
    bounded('check', path, cpu=5, ends=(1, 2))
    with serve(d, path, 'writable=off') as s:
        h = guest(d)
        for i in range(200):            # each another L1 entry
            any_of(h.pread, 4096, i * (2011 << 29))
        any_of(h.block_status, MIB, 0, lambda *a: 0)
        assert h.aio_is_ready()
        h.shutdown()
        # The L1 table and as much for tables that are kept.
        assert SANITIZED or peak(s.proc.pid) < 2 * RSS_MAX, peak(s.proc.pid)


def data_file(path, good, name):
    """The image says that its data are in @name."""
    data = bytearray(good)
    put(data, 72, 8, 4)
    raw = name.encode()
    data[112:120] = struct.pack('>II', 0x44415441, len(raw))
    data[120:120 + len(raw) + 8] = raw + bytes(8)
    with open(path, 'wb') as f:
        f.write(data)


def test_VA4_data_file_only_by_name(d):
    """What the header names as data file is not opened for that alone: no byte
    of it shows, a FIFO does not hang, no server is called."""
    path, good = image(d)
    os.mkfifo(d + '/fifo')
    with open(d + '/secret', 'wb') as f:
        f.write(b'root:' * (1 << 20))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(d + '/server')
        server.listen(5)
        server.setblocking(False)
        for name in (d + '/secret', d + '/fifo', '/dev/zero', 'fd:0',
                     'json:{"driver":"null-co"}',
                     'json:{"driver":"nbd","server":{"type":"unix","path":"%s"'
                     '}}' % (d + '/server'),
                     'nbd+unix:///x?socket=%s/server' % d,
                     'nbd://192.0.2.1:1/x'):
            data_file(path, good, name)
            for args in (('info',), ('info', '--output=json'), ('check',),
                         ('map',), ('measure', '-O', 'raw')):
                r = bounded(*args, '-f', 'qcow2', path)
                assert 'root:' not in r.out, r
                assert r.status == (args[0] in ('map', 'measure')), r
            qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', path, '-F',
                     'qcow2', d + '/top.qcow2', '1M')
            # Nor by what writes, nor below another image, nor by a daemon.
            for args in (('resize', path, '+1M'),
                         ('rebase', '-u', '-b', '', path),
                         ('convert', '-O', 'raw', path, d + '/out'),
                         ('map', d + '/top.qcow2')):
                r = bounded(args[0], '-f', 'qcow2', *args[1:],
                            ends=(1,))
                assert 'root:' not in r.out, r
                assert "'data-file' is required" in r.out, r
            p = subprocess.run([SLUICED, '--drive', 'id=v,format=qcow2,file=' +
                                path], capture_output=True, text=True,
                               check=False)
            assert p.returncode == 1 and 'root:' not in p.stderr and \
                "'data-file' is required" in p.stderr, p
            with open(d + '/secret', 'rb') as f:
                assert f.read() == b'root:' * (1 << 20)
            bounded('convert', '-O', 'raw', path, d + '/copy',
                    ends=(1,))
            assert not os.path.exists(d + '/copy'), name
            p = subprocess.run([SLUICED, '--drive', 'id=v,format=qcow2,file='
                                + path], capture_output=True, text=True,
                               check=False)
            assert p.returncode == 1 and 'data' in p.stderr, p
        try:
            server.accept()
        except BlockingIOError:
            pass
        else:
            raise AssertionError('the server was called')


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
        r = bounded('info', '-f', 'qcow2', top, ends=(0,))
        assert name in r.out, r
        bounded('check', '-f', 'qcow2', top, ends=(0,))
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
                           capture_output=True, text=True, check=False)
        assert p.returncode == 1 and 'polic' in p.stderr, (policy, p)


def snapshots(d):
    path, _ = image(d)
    qemu_img('snapshot', '-c', 'one', path)
    with open(path, 'rb') as f:
        data = bytearray(f.read())
    return path, data, int.from_bytes(data[64:72], 'big')


def bytes_of(path):
    with open(path, 'rb') as f:
        return f.read()


def store(path, data):
    with open(path, 'wb') as f:
        f.write(data)


SNAPSHOT_WORK = (('-l',), ('-a', 'one'), ('-d', 'one'), ('-c', 'two'))


def test_VA7_VA8_snapshot_tables(d):
    """L1 tables of snapshots beyond that of the disk and beyond the file, names
    and extra data that pass the end of the table."""
    path, good, at = snapshots(d)
    for field, size in ((0, 8), (8, 4), (12, 2), (14, 2), (32, 4), (36, 4)):
        for value in EXTREMES32 if size < 8 else EXTREMES64:
            data = bytearray(good)
            put(data, at + field, size, value)
            look(path, data)
            for args in SNAPSHOT_WORK:
                bounded('snapshot', *args, path)
            bounded('check', path, ends=(0, 1, 2, 3))
    for count in (2, 1000, 65536, 65537, 0xffffffff):
        data = bytearray(good)
        put(data, 60, 4, count)
        store(path, data)
        for args in (('info', path), ('snapshot', '-l', path)):
            bounded(*args)


def test_VA7_a_snapshot_with_a_larger_table_than_the_disk(d):
    """It is not taken for one of the disk's size: refused, and nothing of the
    image changes; or, where the size is legal but what is there is not, the
    image is marked, nothing else."""
    path, good, at = snapshots(d)
    most = 4 << 20
    for entries in (most + 1, 0x10000000, 0x7fffffff, 0xffffffff, most):
        data = bytearray(good)
        put(data, at + 8, 4, entries)
        for args in (('-a', 'one'), ('-d', 'one')):
            store(path, data)
            # A table of 32 MiB is legal, and held more than once.
            bounded('snapshot', *args, path, cpu=1,
                    rss=RSS_MAX * (1 + (entries == most)), ends=(0, 1)
                    if (entries, args[0]) == (most, '-d') else (1,))
            now = bytearray(bytes_of(path))
            now[79] &= ~2
            assert now == data or args[0] == '-d' and entries == most, entries


def test_VA8_the_header_fails_after_the_snapshots_were_read(d):
    """What was read of them is given back: the sanitizers' builds look."""
    path, good, _ = snapshots(d)
    for field, size, value in ((40, 8, 1 << 62), (36, 4, 0), (48, 8, 1 << 62),
                               (24, 8, 1 << 62), (72, 8, 1 << 40)):
        data = bytearray(good)
        put(data, field, size, value)
        assert look(path, data)[1] == 1, field
        for args in SNAPSHOT_WORK:
            bounded('snapshot', *args, path, ends=(1,))
        assert bytes_of(path) == data


def test_VA9_entries_beyond_the_refcount_table(d):
    """Clusters that no refcount block can count: a snapshot would have to."""
    path, good = image(d)
    good += bytes(65536 * 5 - len(good))
    put(good, 0x30000, 8, 1 << 63 | 0x40000)
    for entry in (1 << 40, 1 << 50, (1 << 55), (1 << 56) - 65536):
        data = bytearray(good)
        put(data, 0x40000, 8, 1 << 63 | entry)
        store(path, data)
        bounded('check', path, ends=(1, 2))
        bounded('snapshot', '-c', 'one', path, ends=(1,))
        # The table of refcounts and what lies behind it are as they were.
        assert bytes_of(path)[65536:196608] == data[65536:196608], entry
        assert os.path.getsize(path) < 1 << 30


def write_all_over(d, path):
    """A guest does so; how many requests failed, or None: it was refused."""
    failed = 0
    try:
        with serve(d, path) as s:
            h = guest(d)
            for i in range(0, 8 * MIB, 512 << 10):
                try:
                    h.pwrite(b'\xaa' * 65536, i)
                except nbd.Error:
                    failed += 1
            try:
                h.flush()
            except nbd.Error:
                failed += 1
            h.shutdown()
            assert s.proc.poll() is None
    except AssertionError as e:
        assert 'ended with status 1' in str(e), e
        return None
    return failed


def test_VA11_refcounts_of_metadata_are_zero(d):
    """The header, tables and blocks look free. A writer must not be given them:
    the image is refused or marked, and its header stays."""
    path, good = image(d)
    block = int.from_bytes(good[65536:65544], 'big')
    for clusters in ((0,), (1,), (2,), (3,), (0, 1, 2, 3)):
        data = bytearray(good)
        for c in clusters:
            put(data, block + 2 * c, 2, 0)
        store(path, data)
        failed = write_all_over(d, path)
        after = bytes_of(path)
        mask = bytearray(after[:112])
        mask[72:88] = good[72:88]       # but for "dirty" and "corrupt"
        # Neither the header nor what it leads to was given away.
        assert mask == good[:112], (clusters, mask.hex(), good[:112].hex())
        assert b'\xaa' * 512 not in after[:4 * 65536], clusters
        # Who could not write finds the image marked, and nobody writes again.
        if failed:
            assert after[79] & 2, (clusters, failed)
            assert write_all_over(d, path) is None, clusters


def test_VA14_counts_in_the_directory_of_bitmaps(d):
    """Each is checked before anything is multiplied or allocated by it."""
    path, _ = image(d)
    for i in range(3):
        qemu_img('bitmap', '--add', path, 'b%d' % i)
    good = bytearray(bytes_of(path))
    at = good.index(struct.pack('>II', 0x23852875, 24)) + 8
    directory = int.from_bytes(good[at + 16:at + 24], 'big')
    fields = [(at, 4), (at + 8, 8), (at + 16, 8)] + [
        (directory + off, size) for off, size in ((0, 8), (8, 4), (12, 4),
                                                  (17, 1), (18, 2), (20, 4))]
    for field, size in fields:
        for value in EXTREMES64 if size == 8 else EXTREMES32:
            data = bytearray(good)
            put(data, field, size, value)
            look(path, data)
            bounded('check', path, ends=(0, 1, 2, 3))
            for args in (('--remove', path, 'b1'), ('--add', path, 'new')):
                store(path, data)
                bounded('bitmap', *args)
                assert os.path.getsize(path) < 1 << 30, (field, value)


def test_VA13_loops_and_a_long_chain(d):
    a, b = d + '/a.qcow2', d + '/b.qcow2'
    overlay(a, 'b.qcow2')
    overlay(b, a)
    me = overlay(d + '/me.qcow2', 'me.qcow2')
    overlay(d + '/0', 'nothing', 'raw')
    for i in range(1, 300):
        overlay('%s/%d' % (d, i), str(i - 1))
    for path in (a, b, me, d + '/299'):
        start = rest()
        p = subprocess.run([SLUICED, '--drive',
                            'id=v,format=qcow2,file=' + path],
                           capture_output=True, text=True, check=False)
        took = rest() - start
        assert p.returncode == 1 and p.stderr.startswith('sluiced: '), p
        assert SANITIZED or took < 5, took
        bounded('map', '-f', 'qcow2', path, cpu=2, ends=(1,))


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
            r = bounded(command, '-f', 'qcow2', path, cpu=40, rss=2 * RSS_MAX,
                        ends=(0, 1, 2, 3))
            assert len(r.out) < 4 * MIB, (step, command, len(r.out))


def extension(data, kind, body):
    """Put one more in front of the others."""
    at = int.from_bytes(data[100:104], 'big')
    data[at:at] = struct.pack('>II', kind, len(body)) + body


def many_snapshots(data, l1_offset, step):
    """65536 snapshots with L1 tables of 32 MiB."""
    put(data, 60, 4, 65536)
    put(data, 64, 8, MIB)
    data.extend(bytes(MIB - len(data)))
    for i in range(65536):
        name = b'%04x' % i
        data += struct.pack('>QIHHIIQII', l1_offset + i * step, 4 << 20,
                            len(name), 0, 0, 0, 0, 0, 16)
        data += struct.pack('>QQ4s4x', 0, MIB, name)


def many_bitmaps(data):
    """65535 bitmaps with one table, each of the 512 MiB that one may have."""
    data.extend(bytes(MIB - len(data)))
    for i in range(65535):
        data += struct.pack('>QIIBBHI4s4x', 1 << 30, 1 << 13, 2, 1, 16, 4, 0,
                            b'%04x' % i)
    body = struct.pack('>IIQQ', 65535, 0, len(data) - MIB, MIB)
    del data[(1 << 16) - 32:1 << 16]
    extension(data, 0x23852875, body)
    put(data, 88, 8, 1)


def test_VA16_tables_of_tables(d):
    """What few bytes announce is neither remembered cluster by cluster nor read
    for hours: L1 tables of snapshots, side by side or all one; bitmaps; a LUKS
    header that takes all of the file."""
    path = os.path.join(d, 'i.qcow2')
    for what, says in (('apart', 'no cluster of this file'),
                       ('one', 'the snapshots are too many'),
                       ('bitmaps', 'errors were found on the image'),
                       ('luks', 'the LUKS header of 72056494526300160 bytes')):
        qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=%d' %
                 (65536 if what == 'bitmaps' else 512), path, '1M')
        data = bytearray(bytes_of(path))
        if what == 'bitmaps':
            many_bitmaps(data)
        elif what == 'luks':
            put(data, 32, 4, 2)
            del data[512 - 24:512]
            extension(data, 0x0537be77, struct.pack('>QQ', 2048,
                                                    (1 << 56) - (1 << 40)))
        else:
            many_snapshots(data, 1 << 30, (32 << 20) * (what == 'apart'))
        with open(path, 'wb') as f:
            f.write(data)
            f.truncate(4 << 30)
        for args in (('check', path), ('resize', path, '+1M')) \
                if what != 'luks' else (('check', '-r', 'leaks', path),):
            r = bounded(*args, cpu=40, rss=6 * RSS_MAX,
                        ends=(0, 1, 2, 3))
            assert len(r.out) < 4 * MIB, (what, args, len(r.out))
            assert says in r.out or args[0] == 'resize', (what, r)


if __name__ == '__main__':
    run(globals())
