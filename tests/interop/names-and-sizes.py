#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names that are hard to say, and sizes at the ends: against qemu-img.

A name that info prints opens again; one that is not UTF-8 is a name.  Disks of
0 bytes are disks; sizes near 2^63 are refused and never become negative.  The
map names the image that a shorter base leaves a range to.
"""
import json
import os
import subprocess

from killed import kill_and_wait
from sluiced import SLUICE, Skip, run
from waiting import until

KIB, MIB = 1 << 10, 1 << 20
MAX = (1 << 63) - (1 << 30)


def call(d, *args, ok=True):
    p = subprocess.run(args, cwd=d, capture_output=True, check=False)
    assert not ok or p.returncode == 0, (args, p.stderr)
    return p.returncode, p.stdout, p.stderr


def both(d, *args):
    """The same command by both programs: the same words and status."""
    ours, theirs = (call(d, tool, *args, ok=False)
                    for tool in (SLUICE, 'qemu-img'))
    assert ours[:2] == theirs[:2], (args, ours, theirs)
    assert ours[2].replace(b'sluice:', b'qemu-img:') == theirs[2], \
        (args, ours, theirs)
    return ours


def shown_name(d, *args):
    out = call(d, SLUICE, 'info', '--output=json', *args)[1]
    return json.loads(out)['filename']


def test_colons(d):
    for name in ('a:b.raw', 'nbd:x', 'json:{}', 'file:z', 'a:b/c'):
        os.makedirs(os.path.join(d, os.path.dirname(name)), exist_ok=True)
        said = 'file:' + name
        call(d, SLUICE, 'create', '-q', '-f', 'raw', said, '1M')
        assert os.path.getsize(os.path.join(d, name)) == MIB
        shown = shown_name(d, said)
        assert shown == './' + name, shown
        assert shown_name(d, shown) == shown
        both(d, 'info', '--output=json', said)
        both(d, 'map', said)
        both(d, 'info', shown)
    # As a backing file, and of an image that has such a name itself.
    call(d, SLUICE, 'create', '-q', '-f', 'qcow2', '-b', 'file:a:b.raw', '-F',
         'raw', 'file:o:v.qcow2')
    for tool in (SLUICE, 'qemu-img'):
        out = call(d, tool, 'info', '--backing-chain', '--output=json',
                   'file:o:v.qcow2')[1]
        assert [i['filename'] for i in json.loads(out)] == \
            ['./o:v.qcow2', './a:b.raw'], (tool, out)
    both(d, 'commit', 'file:o:v.qcow2')
    # What the options name is shown in the same way.
    assert shown_name(d, '--image-opts',
                      'driver=raw,file.driver=file,file.filename=a:b.raw') == \
        './a:b.raw'


def test_bytes(d):
    """Names of files are bytes; in JSON they are what is valid of them."""
    name = b'\xff\xfe-a.qcow2'
    raw = b'\xfd.raw'
    both(d, 'create', '-f', 'qcow2', name, '1M')
    assert name in os.listdir(d.encode())
    both(d, 'check', name)
    both(d, 'map', '--output=json', name)
    both(d, 'resize', name, '2M')
    _, out, _ = call(d, SLUICE, 'info', name)
    assert out.startswith(b'image: ' + name + b'\n'), out
    assert shown_name(d, name) == '\ufffd\ufffd-a.qcow2'
    call(d, SLUICE, 'convert', '-O', 'raw', name, raw)
    both(d, 'compare', name, raw)
    status, _, err = call(d, SLUICE, 'create', '-f', 'qcow2', '-b', name, '-F',
                          'qcow2', 'o.qcow2', ok=False)
    assert status == 1 and b'is not valid UTF-8' in err, err


def test_near_2_63(d):
    for size in (MAX + 1, (1 << 63) - 512, (1 << 63) - 1, (1 << 64) - 1):
        null = 'driver=null-co,size=%d' % size
        for args in (['info', '--image-opts', null],
                     ['info', '--output=json', '--image-opts', null],
                     ['map', '--image-opts', null],
                     ['measure', '--image-opts', null]):
            status, out, err = call(d, SLUICE, *args, ok=False)
            assert status == 1 and out == b'', (args, out)
            assert b'Could not refresh total sector count: ' in err, err
    null = 'driver=null-co,size=%d' % MAX
    out = call(d, SLUICE, 'info', '--output=json', '--image-opts', null)[1]
    assert json.loads(out)['virtual-size'] == MAX
    call(d, SLUICE, 'create', '-q', '-f', 'raw', 'r', '1M')
    for size in (MAX + 512, (1 << 63) - 512, (1 << 63) - 1):
        both_fail(d, 'resize', '-f', 'raw', 'r', str(size))
        both_fail(d, 'resize', '-f', 'raw', 'r', '+%d' % size)
        for fmt in ('raw', 'qcow2', 'qed'):
            both_fail(d, 'create', '-f', fmt, 'new.' + fmt, str(size))
    assert os.path.getsize(d + '/r') == MIB


def both_fail(d, *args):
    for tool in (SLUICE, 'qemu-img'):
        assert call(d, tool, *args, ok=False)[0] == 1, (tool, args)


def test_huge_file(d):
    """A file that is longer than a disk may be."""
    path = '/dev/shm/sluice-huge-%d' % os.getpid()
    try:
        with open(path, 'wb') as f:
            try:
                f.truncate((1 << 63) - 1)
            except OSError:
                raise Skip('no file system for large files') from None
        for args in (['info', '-f', 'raw', path], ['map', '-f', 'raw', path],
                     ['measure', '-f', 'raw', path]):
            both_fail(d, *args)
    finally:
        os.unlink(path)


def test_map_depth(d):
    """What a shorter base does not reach is the overlay's."""
    call(d, 'qemu-img', 'create', '-q', '-f', 'raw', 'b.raw', '100k')
    call(d, 'qemu-io', '-f', 'raw', '-c', 'write 0 64k', 'b.raw')
    chain = [('m.qcow2', 'b.raw', 'raw', '1M'), ('t.qed', 'm.qcow2', 'qcow2',
                                                 '3M'),
             ('s.qcow2', 't.qed', 'qed', '512k'),
             ('u.qcow2', 's.qcow2', 'qcow2', '2M')]
    for name, base, fmt, size in chain:
        call(d, 'qemu-img', 'create', '-q', '-f', name.split('.')[1], '-b',
             base, '-F', fmt, name, size)
    call(d, 'qemu-io', '-c', 'write -z 512k 64k', '-c', 'write 700k 64k',
         'm.qcow2')
    for name, *_ in chain:
        both(d, 'map', '--output=json', name)


class Nbdkit:
    def __init__(self, d, *args):
        self.log = d + '/nbdkit.log'
        self.uri = 'nbd+unix:///?socket=%s/nbd.sock' % d
        with open(self.log, 'wb') as log:
            self.proc = subprocess.Popen(
                ['nbdkit', '-fv', '-U', d + '/nbd.sock', *args], stderr=log)
        until(lambda: os.path.exists(d + '/nbd.sock'), 'nbdkit')

    def read(self):
        with open(self.log, encoding='utf-8', errors='replace') as f:
            return f.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        kill_and_wait(self.proc)


def test_empty_export(d):
    with Nbdkit(d, 'memory', '0') as s:
        for args in (['info'], ['info', '--output=json'],
                     ['map', '--output=json'], ['measure']):
            status, out, err = call(d, SLUICE, *args, s.uri)
            theirs = call(d, 'qemu-img', *args, s.uri)
            # Each prints the address in its own way.
            drop = [line for line in out.split(b'\n') if b'nbd' not in line]
            assert (status, err) == (0, b''), err
            assert drop == [line for line in theirs[1].split(b'\n')
                            if b'nbd' not in line], (args, out, theirs)
        call(d, SLUICE, 'convert', '-f', 'raw', s.uri, 'empty.raw')
        assert os.path.getsize(d + '/empty.raw') == 0


def test_polite(d):
    """Who looks at an image over NBD takes leave on every connection."""
    with Nbdkit(d, 'memory', '1M') as s:
        call(d, SLUICE, 'info', s.uri)
        until(lambda: s.read().count('client sent NBD_CMD_DISC') >= 2,
              'the end of both connections')
        assert s.read().count('accepted connection') == 2, s.read()
        assert 'error' not in s.read(), s.read()


def test_polite_at_the_end(d):
    """Connections that are in their handshake when all is done arrive first."""
    with Nbdkit(d, '--filter=delay', 'pattern', '4M', 'delay-open=30ms') as s:
        call(d, SLUICE, 'convert', '-f', 'raw', s.uri, 'x.raw')
        until(lambda: s.read().count('client sent NBD_CMD_DISC') >= 2 and
              s.read().count('client sent NBD_CMD_DISC') ==
              s.read().count('accepted connection'),
              'the end of all connections')
        assert 'error' not in s.read(), s.read()


if __name__ == '__main__':
    run(globals())
