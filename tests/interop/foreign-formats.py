#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images of formats that have no driver here are not taken for raw disks: by
no command, nowhere in a chain and not by the daemon, unless somebody says raw.
"""
import filecmp
import os
import shutil
import struct
import subprocess

from sluiced import SLUICE, SLUICED, Sluiced, qemu_img, run, write_pattern

MIB = 1 << 20
SIZE = 4 * MIB
SEEMS = 'seems to be %s, which is not supported'


def sluice(d, *args):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    return p.returncode, p.stdout + p.stderr


def good(d, *args):
    code, out = sluice(d, *args)
    assert code == 0, (args, code, out)
    return out


def udif(data):
    """A disk of @data with Apple's trailer."""
    return data + b'koly' + struct.pack('>II', 4, 512) + bytes(500)


def made_by_qemu(d):
    """Name and title of an image of each kind that QEMU writes."""
    src = os.path.join(d, 'src.raw')
    write_pattern(src, SIZE)

    def convert(name, fmt, *options):
        qemu_img('convert', '-f', 'raw', '-O', fmt, *options, src,
                 os.path.join(d, name))
        return name

    for sub in ('monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse',
                'twoGbMaxExtentFlat', 'streamOptimized'):
        yield convert(sub + '.vmdk', 'vmdk', '-o', 'subformat=' + sub), 'VMDK'
    yield 'twoGbMaxExtentSparse-s001.vmdk', 'VMDK'
    yield convert('a.vdi', 'vdi'), 'VDI'
    yield convert('static.vdi', 'vdi', '-o', 'static=on'), 'VDI'
    yield convert('dynamic.vhd', 'vpc', '-o', 'subformat=dynamic'), 'VHD'
    yield convert('fixed.vhd', 'vpc', '-o', 'subformat=fixed'), 'fixed VHD'
    for sub in ('dynamic', 'fixed'):
        yield convert(sub + '.vhdx', 'vhdx', '-o', 'subformat=' + sub), 'VHDX'
    yield convert('a.qcow', 'qcow'), 'qcow (version 1)'
    yield convert('a.hds', 'parallels'), 'Parallels'


def made_here(d):
    """And those that it only reads."""
    fill = b'\1' * 65536
    for name, data, title in (
            ('esx.vmdk', b'COWD\1\0\0\0' + fill, 'VMDK'),
            ('se.vmdk', struct.pack('<QQ', 0xcafebabe, 0x200000001) + fill,
             'VMDK (SESparse)'),
            ('text.vmdk', b'# a comment\r\n\r\n  # and another\n'
             b'version=3\r\nCID=fffffffe\n', 'VMDK'),
            ('short.vmdk', b'# Disk DescriptorFile\n', 'VMDK'),
            ('v1.qcow', b'QFI\xfb\0\0\0\1' + fill, 'qcow (version 1)'),
            ('ext.hds', b'WithouFreSpacExt\2\0\0\0' + fill, 'Parallels'),
            # QEMU measures how fast the machine is before it makes these.
            ('luks1', b'LUKS\xba\xbe\0\1' + fill, 'LUKS'),
            ('luks2', b'LUKS\xba\xbe\0\2' + fill, 'LUKS'),
            ('bochs', b'Bochs Virtual HD Image'.ljust(32, b'\0') + fill,
             'Bochs'),
            ('cloop', b'#!/bin/sh\n#V2.0 Format\nmodprobe cloop\n' + fill,
             'cloop'),
            ('a.dmg', udif(fill), 'Apple disk image (dmg)'),
            # The storage rounds its size up.
            ('long.dmg', udif(fill) + bytes(511), 'Apple disk image (dmg)'),
            ('tiny.dmg', udif(b''), 'Apple disk image (dmg)')):
        with open(os.path.join(d, name), 'wb') as f:
            f.write(data)
        yield name, title
    # The first programs left out the last byte of the footer, a zero.
    shutil.copy(d + '/fixed.vhd', d + '/old.vhd')
    os.truncate(d + '/old.vhd', os.path.getsize(d + '/old.vhd') - 1)
    yield 'old.vhd', 'fixed VHD'


def images(d):
    yield from made_by_qemu(d)
    yield from made_here(d)


# One that begins with its magic, one that is text, one that ends with it.
EVERYWHERE = ('a.vdi', 'monolithicFlat.vmdk', 'fixed.vhd')


def rows(name):
    """Commands that look at an image; all of them for a few."""
    yield 'info', name
    yield 'convert', '-O', 'raw', name, 'out.raw'
    yield 'resize', name, '+1M'
    if name in EVERYWHERE:
        yield 'info', '-U', name
        yield 'map', name
        yield 'check', name
        yield 'measure', '-O', 'qcow2', name
        yield 'compare', name, name
        yield 'convert', '-O', 'qcow2', '-n', name, 'plain.qcow2'
        yield 'dd', 'if=' + name, 'of=out.raw'
        yield 'commit', name
        yield 'rebase', '-u', '-b', '', name
        yield 'snapshot', '-c', 's', name
        yield 'bitmap', '--add', name, 'b'
        yield 'info', '--image-opts', 'file.filename=' + name
        yield 'info', 'json:{"file.filename": "%s"}' % name
        yield 'create', '-f', 'qcow2', '-b', name, 'o.qcow2'


def test_commands(d):
    for name, title in images(d):
        words = SEEMS % title
        with open(os.path.join(d, name), 'rb') as f:
            before = f.read()
        good(d, 'create', '-q', '-f', 'qcow2', 'plain.qcow2', '1M')
        for row in rows(name):
            code, out = sluice(d, *row)
            want = 2 if row[0] == 'compare' else 1
            assert code == want and words in out, (row, code, out)
            assert 'raw' in out.splitlines()[-1], out
        assert not os.path.exists(d + '/out.raw')
        assert not os.path.exists(d + '/o.qcow2')
        with open(os.path.join(d, name), 'rb') as f:
            assert f.read() == before, name
        if name in EVERYWHERE:
            raw_is_raw(d, name)


def raw_is_raw(d, name):
    """Said to be raw it is: to read and to write."""
    path, out = os.path.join(d, name), os.path.join(d, 'out.raw')
    assert 'file format: raw' in good(d, 'info', '-f', 'raw', name)
    good(d, 'convert', '-f', 'raw', '-O', 'raw', name, 'out.raw')
    size = os.path.getsize(path)
    os.truncate(out, size)
    assert filecmp.cmp(path, out, shallow=False), name
    good(d, 'info', '--image-opts', 'driver=raw,file.filename=' + name)
    good(d, 'resize', '-f', 'raw', 'out.raw', '+1M')
    os.unlink(out)
    good(d, 'create', '-q', '-f', 'qcow2', '-b', name, '-F', 'raw', 'o.qcow2')
    good(d, 'compare', '-f', 'raw', '-F', 'qcow2', name, 'o.qcow2')
    os.unlink(d + '/o.qcow2')


def forget_format(path):
    """Take the format of the backing file out of a qcow2 header."""
    with open(path, 'r+b') as f:
        f.seek(100)
        at, = struct.unpack('>I', f.read(4))
        f.seek(at)
        assert f.read(4) == b'\xe2\x79\x2a\xca'
        f.seek(at)
        f.write(b'\0\0\0\1')       # an extension that nobody knows


def test_backing_file(d):
    """A header that names one, and does not say which format it has."""
    for name, title in images(d):
        good(d, 'create', '-q', '-f', 'qcow2', '-b', name, '-F', 'raw',
             'o.qcow2')
        good(d, 'info', '--backing-chain', 'o.qcow2')
        forget_format(d + '/o.qcow2')
        code, out = sluice(d, 'convert', '-O', 'raw', 'o.qcow2', 'out.raw')
        assert code == 1 and SEEMS % title in out, (name, out)
        assert 'backing.driver=raw' in out, out
        good(d, 'convert', '-O', 'raw', '--image-opts',
             'driver=qcow2,file.filename=o.qcow2,backing.driver=raw',
             'out.raw')
        os.unlink(d + '/out.raw')
        os.unlink(d + '/o.qcow2')


def test_daemon(d):
    for name, title in images(d):
        p = subprocess.run([SLUICED, '--drive', 'file=%s,readonly=on' % name],
                           capture_output=True, text=True, check=False, cwd=d)
        assert p.returncode == 1 and SEEMS % title in p.stderr, (name, p)
        assert 'format=raw' in p.stderr, p.stderr
        if name in EVERYWHERE:
            with Sluiced(d, '--drive', 'id=v,file=%s,format=raw' % name) as s:
                drv = s.qmp.cmd('query-block')[0]['inserted']['drv']
                assert drv == 'raw', drv


def test_fixed_vhd(d):
    """What the hint says shows the disk, as QEMU sees it."""
    names = dict(made_by_qemu(d))
    assert 'fixed.vhd' in names
    _, out = sluice(d, 'info', 'fixed.vhd')
    size = int(out.split('size=')[1].split()[0])
    assert size == os.path.getsize(d + '/fixed.vhd') - 512, out
    good(d, 'convert', '-O', 'raw', '--image-opts',
         'driver=raw,size=%d,file.filename=fixed.vhd' % size, 'a.raw')
    qemu_img('convert', '-f', 'vpc', '-O', 'raw', d + '/fixed.vhd',
             d + '/b.raw')
    assert filecmp.cmp(d + '/a.raw', d + '/b.raw', shallow=False)


def test_raw_stays_raw(d):
    """Disks that look a little like it."""
    near = {
        'word': b'conectiX' + bytes(5000),
        'tail': bytes(4096) + b'conectix' + bytes(504),      # no checksum
        'koly': bytes(4096) + b'koly' + bytes(508),          # no version
        'text': b'version\n=1\n' + bytes(4096),
        'script': b'#!/bin/sh\necho version=1\n' + bytes(4096),
        'vdi': bytes(0x41) + b'\x7f\x10\xda\xbe' + bytes(4096),
        'comments': b'# nothing\n' * 900,
        'empty': b'', 'one': b'k', 'sector': bytes(512), 'luks': b'LUKS\xba',
        'flat': b'\1' * 65536,
    }
    for name, data in near.items():
        with open(os.path.join(d, name), 'wb') as f:
            f.write(data)
        assert 'file format: raw' in good(d, 'info', name), name


def test_shared(d):
    """The look at the first bytes takes no locks where the image takes none."""
    write_pattern(d + '/a.raw', MIB)
    good(d, 'convert', '-f', 'raw', '-O', 'qcow2', 'a.raw', 'a.qcow2')
    with Sluiced(d, '--blockdev', 'qcow2,node-name=v,file.driver=file,'
                 'file.filename=a.qcow2',
                 '--nbd-server', 'addr.type=unix,addr.path=nbd.sock',
                 '--export', 'type=nbd,id=e,node-name=v,writable=on,name=v'):
        code, out = sluice(d, 'info', 'a.qcow2')
        assert code == 1 and 'lock' in out, out
        out = good(d, 'info', '--image-opts',
                   'force-share=on,file.filename=a.qcow2')
        assert 'file format: qcow2' in out, out
        os.mkdir(d + '/other')
        with Sluiced(d + '/other', '--drive', 'id=r,file=../a.qcow2,'
                     'readonly=on,force-share=on') as s:
            drv = s.qmp.cmd('query-block')[0]['inserted']['drv']
            assert drv == 'qcow2', drv


if __name__ == '__main__':
    run(globals())
