#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage beside the disk: the snapshot table, the bitmap directory, header
extensions.

Whatever they say, the disk is read, by every command and by a daemon; nothing is
written to the image before a repair, and the refusal says how to repair it.
`check` reports, `check -r leaks` gives nothing away, `check -r all` repairs: then
the disk and what was not damaged are as before, and qemu-img finds nothing.
"""
import os
import shutil
import struct
import subprocess

import nbd

from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

MIB = 1 << 20


def u64(n):
    return struct.pack('>Q', n)


def u32(n):
    return struct.pack('>I', n)


def get(path, at, n):
    with open(path, 'rb') as f:
        f.seek(at)
        return int.from_bytes(f.read(n), 'big')


def bytes_of(path):
    with open(path, 'rb') as f:
        return f.read()


def store(path, *rows):
    with open(path, 'r+b') as f:
        for at, value in rows:
            f.seek(at)
            f.write(value)


def tool(*args, status=0, name=SLUICE):
    p = subprocess.run([name, *args], capture_output=True, text=True,
                       check=False)
    assert p.returncode == status, (args, p.returncode, p.stdout, p.stderr)
    return p.stdout + p.stderr


def view(d, path, *words):
    out = d + '/view'
    run_tool(SLUICE, 'convert', '-f', 'qcow2', *words, '-O', 'raw', path, out)
    return bytes_of(out)


def make(d, options):
    """A disk with two snapshots; what it and they show."""
    path = d + '/good.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, '1M')
    for n, name in enumerate(('one', 'two', None)):
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P %d %dk 300k' %
                 (n + 1, n * 200), path)
        if name:
            qemu_img('snapshot', '-c', name, path)
    return path, [view(d, path), view(d, path, '-l', 'one'),
                  view(d, path, '-l', 'two')]


def reads(d, path, disk, damaged=True):
    """Every reader says what is wrong, and no byte of the image changes."""
    before = bytes_of(path)
    for args in (('info',), ('map',), ('snapshot', '-l'),
                 ('measure', '-O', 'raw')):
        text = tool(args[0], *(() if args[0] == 'snapshot' else
                               ('-f', 'qcow2')), *args[1:], path)
        assert ('note: ' in text and 'check -r all' in text) == damaged, text
    assert view(d, path) == disk
    with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                 '--drive', 'id=v,format=qcow2,file=%s,readonly=on' % path,
                 '--export', 'nbd,id=e,node-name=v,name=v'):
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
        assert h.pread(MIB, 0) == disk
        h.shutdown()
    assert bytes_of(path) == before


def refuses(d, path):
    before = bytes_of(path)
    for args in (('resize', '-f', 'qcow2', path, '+1M'),
                 ('snapshot', '-c', 'new', path), ('snapshot', '-d', 'two', path),
                 ('bitmap', '--add', path, 'new')):
        text = tool(*args, status=1)
        assert 'cannot be opened read/write' in text, text
        assert 'check -r all' in text, text
    with Sluiced(d, '--blockdev', 'file,node-name=f,filename=' + path,
                 '--blockdev', 'qcow2,node-name=r,file=f,read-only=on') as s:
        text = s.qmp.error('blockdev-reopen', options=[
            {'driver': 'qcow2', 'node-name': 'r', 'file': 'f',
             'backing': None, 'read-only': False}])
        assert 'check -r all' in text, text
    assert bytes_of(path) == before


def repaired(d, path, disk, word, readonly=True):
    """Reported; leaks are not freed by guessing; repaired."""
    if readonly:
        reads(d, path, disk)
        refuses(d, path)
    before = bytes_of(path)
    text = tool('check', '-f', 'qcow2', path, status=2)
    assert word in text, text
    assert bytes_of(path) == before
    tool('check', '-f', 'qcow2', '-r', 'leaks', path, status=2)
    if readonly:
        assert bytes_of(path) == before
    text = tool('check', '-f', 'qcow2', '-r', 'all', path)
    assert word in text, text
    tool('check', '-f', 'qcow2', path, name='qemu-img')
    assert view(d, path) == disk
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, d + '/view')
    assert bytes_of(d + '/view') == disk


def writes(path, disk):
    """It can be written to again, by both."""
    run_tool(SLUICE, 'snapshot', '-c', 'new', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 77 0 300k', path)
    run_tool(SLUICE, 'snapshot', '-a', 'new', path)
    tool('check', path)
    tool('check', path, name='qemu-img')


# What is changed, and which snapshots stay ('12': both).
def snapshot_rows(path):
    at, size = get(path, 64, 8), os.path.getsize(path)
    cluster = 1 << get(path, 20, 4)
    end = -(-size // cluster) * cluster
    n = get(path, at + 36, 4)
    second = -(-(at + 40 + n + get(path, at + 12, 2) + get(path, at + 14, 2))
               // 8) * 8
    l1 = get(path, 40, 8)
    l2 = get(path, l1, 8) & 0xfffffffffffe00
    data = get(path, l2, 8) & 0xfffffffffffe00
    return {
        'offset 0': ([(64, u64(0))], ''),
        'offset at the end': ([(64, u64(end))], ''),
        'offset beyond the end': ([(64, u64(1 << 40))], ''),
        'offset of 64 bits': ([(64, u64((1 << 64) - cluster))], ''),
        'offset not aligned': ([(64, u64(at + 8))], ''),
        'offset without entries': ([(60, u32(0)), (64, u64(at + 8))], ''),
        'more than there are': ([(60, u32(50))], '12'),
        'many more than there are': ([(60, u32(65536))], '12'),
        'more than there can be': ([(60, u32(0xffffffff))], '12'),
        'first entry zero': ([(at, bytes(second - at))], None),
        'second entry zero': ([(second, bytes(80))], '1'),
        'L1 not aligned': ([(at, u64(77))], '2'),
        'L1 nowhere': ([(at, u64(0))], '2'),
        'L1 past the end': ([(second, u64(1 << 40))], '1'),
        'L1 of 64 bits': ([(at, b'\xff' * 8)], '2'),
        'L1 too large': ([(at + 8, b'\xff' * 4)], '12'),
        'L1 larger than a table': ([(second + 8, u32((32 << 20) // 8 + 1))],
                                   '12'),
        'L1 past the end of the file': ([(at + 8, u32((32 << 20) // 8))],
                                        '12'),
        'L1 where the disk has its own': ([(at, u64(l1))], '2'),
        'L1 where a table is': ([(at, u64(l2))], '2'),
        'L1 where data are': ([(at, u64(data))], '2'),
        'extra data without end': ([(second + 36, b'\xff' * 4)], '1'),
        'all lengths without end': ([(at + 12, b'\xff' * 28)], ''),
    }


def snapshots_by(d, options):
    good, (disk, one, two) = make(d, options)
    path = d + '/i.qcow2'
    for name, (rows, stay) in snapshot_rows(good).items():
        shutil.copy(good, path)
        store(path, *rows)
        try:
            repaired(d, path, disk, 'snapshot', 'where' not in name)
            for n, what in (('1', one), ('2', two)):
                if stay and n in stay:
                    assert view(d, path, '-l', n) == what, n
            if stay is not None:
                listed = tool('snapshot', '-l', path)
                assert (' one ' in listed, ' two ' in listed) == \
                    ('1' in stay, '2' in stay), listed
            writes(path, disk)
        except BaseException:
            print('# %s: %s' % (options, name))
            raise


def test_snapshots_of_version_3(d):
    snapshots_by(d, 'compat=1.1')


def test_snapshots_of_version_2(d):
    snapshots_by(d, 'compat=0.10')


def test_snapshots_of_small_clusters(d):
    snapshots_by(d, 'cluster_size=4k')


def with_extra(good, path, second, extra):
    """The second entry gets @extra for its extra data."""
    data = bytearray(bytes_of(good))
    n = struct.unpack_from('>I', data, second + 36)[0]
    text = sum(struct.unpack_from('>HH', data, second + 12))
    names = data[second + 40 + n:second + 40 + n + text]
    struct.pack_into('>I', data, second + 36, len(extra))
    end = second + 40 + len(extra) + len(names)
    data[second + 40:end] = extra + names
    with open(path, 'wb') as f:
        f.write(data)


def test_extra_data(d):
    """Too much of it is dropped, the snapshot stays; none is no reason to refuse
    anything, but version 3 asks for it."""
    good, (disk, one, two) = make(d, 'compat=1.1')
    path, at = d + '/i.qcow2', get(good, 64, 8)
    second = at + -(-(40 + get(good, at + 36, 4) + get(good, at + 12, 2) +
                      get(good, at + 14, 2)) // 8) * 8
    with_extra(good, path, second, struct.pack('>QQQ', 0, MIB, (1 << 64) - 1) +
               b'\x5a' * 2000)
    repaired(d, path, disk, 'extra data')
    assert view(d, path, '-l', 'one') == one
    assert view(d, path, '-l', 'two') == two
    writes(path, disk)
    for extra in (b'', u64(0)):
        with_extra(good, path, second, extra)
        reads(d, path, disk, False)
        repaired(d, path, disk, 'incomplete', False)
        assert view(d, path, '-l', 'two') == two
        with_extra(good, path, second, extra)
        run_tool(SLUICE, 'snapshot', '-d', 'one', path)
        tool('check', path)


def test_bitmaps(d):
    good = d + '/good.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', good, '1M')
    for name in ('b0', 'b1'):
        qemu_img('bitmap', '--add', good, name)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 3 100k 300k', good)
    disk, path = view(d, good), d + '/i.qcow2'
    data = bytes_of(good)
    ext = data.index(bytes.fromhex('2385287500000018')) + 8
    at, = struct.unpack_from('>Q', data, ext + 16)
    table, = struct.unpack_from('>Q', data, at)
    rows = [
        (ext, b'\xff' * 4), (ext, b'\0' * 4), (ext, b'\0\0\0\7'),
        (ext - 4, u32(8)),
        (ext + 8, b'\xff' * 8), (ext + 8, b'\0' * 8), (ext + 15, b'\1'),
        (ext + 16, b'\xff' * 8), (ext + 16, u64(at + 512)),
        (ext + 16, u64(1 << 40)),
        (at, b'\xff' * 8), (at, b'\0' * 8), (at + 8, b'\xff' * 4),
        (at + 8, b'\0' * 4), (at + 12, b'\x80'), (at + 16, b'\7'),
        (at + 17, b'\xff'), (at + 17, b'\0'), (at + 18, b'\xff\xff'),
        (at + 18, b'\0\0'), (at + 20, b'\xff' * 4), (at + 24, b'\0'),
    ]
    for row in rows:
        shutil.copy(good, path)
        store(path, row)
        try:
            repaired(d, path, disk, 'bitmap')
            writes(path, disk)
        except BaseException:
            print('# at %d: %s' % row)
            raise
        if row[0] == at:
            assert 'b1' in tool('info', path)
    # Its table is looked at by a check alone.
    for row in ((at, u64(1 << 40)), (table, u64(0x1ff)), (table, u64(1 << 40))):
        shutil.copy(good, path)
        store(path, row)
        reads(d, path, disk, False)
        repaired(d, path, disk, 'bitmap', False)
        assert 'b1' in tool('info', path)


def extension(kind, body):
    return struct.pack('>II', kind, len(body)) + body + bytes(-len(body) % 8)


def kinds(path):
    """The types of the extensions in the header."""
    res, at = [], 112
    while get(path, at, 4):
        res.append(get(path, at, 4))
        at += 8 + -(-get(path, at + 4, 4) // 8) * 8
    return res


def test_doubled_extensions(d):
    """The last one counts, as in QEMU."""
    base, path = d + '/base', d + '/i.qcow2'
    qemu_img('create', '-q', '-f', 'raw', base, '1M')
    run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 9 0 1M', base)
    qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path,
             '1M')
    good = bytes_of(path)
    form, names = 0xe2792aca, 0x6803f857
    for exts in ([(form, b'qcow2'), (form, b'raw')],
                 [(form, b'raw'), (form, b'raw')],
                 [(names, b'\0\0a' + bytes(45)), (form, b'raw'), (names, b'')]):
        area = b''.join(extension(*e) for e in exts) + bytes(8)
        data = bytearray(good)
        data[112:512] = area + base.encode() + bytes(
            400 - len(area) - len(base))
        struct.pack_into('>QI', data, 8, 112 + len(area), len(base))
        with open(path, 'wb') as f:
            f.write(data)
        disk = b'\x09' * MIB
        repaired(d, path, disk, 'extension')
        assert kinds(path).count(form) == 1, kinds(path)
        assert 'backing file format: raw' in tool('info', path)
        writes(path, disk)


def test_short_feature_tables(d):
    """Names are for messages: a table of any length is no reason to refuse."""
    path = d + '/i.qcow2'
    for length in (0, 1, 2, 8, 46, 47, 48, 49, 95):
        qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
        data = bytearray(bytes_of(path))
        data[112:512] = (extension(0x6803f857, b'\0\5future'.ljust(
            length, b'\0')[:length]) + bytes(400))[:400]
        with open(path, 'wb') as f:
            f.write(data)
        tool('check', path)
        run_tool(SLUICE, 'resize', path, '2M')
        tool('check', path, name='qemu-img')
        store(path, (72, u64(32)))
        text = tool('info', path, status=1)
        assert 'future' in text or length < 48 and 'feature: 20' in text, text


if __name__ == '__main__':
    run(globals())
