#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compressed clusters of qcow2 images that qemu-img made: every byte, at any
place of a chain; a cluster is decompressed once for many small reads; damaged
streams are errors of what lies in them and of nothing else."""
import hashlib
import json
import os
import random
import struct

from seed import SEED
from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

MIB = 1 << 20
EIO = 'Input/output error'


def write_mixed(path, size, seed=SEED):
    """Text, zeroes and noise, in pieces that are no multiple of a cluster."""
    rng = random.Random(seed)
    with open(path, 'wb') as f:
        while f.tell() < size:
            n = rng.randrange(1, 300000)
            kind = rng.randrange(4)
            if kind == 0:
                data = bytes(n)
            elif kind == 1:
                data = rng.randbytes(n)
            else:
                data = (b'%d lorem ipsum dolor sit amet ' % f.tell() *
                        (n // 20 + 1))[:n]
            f.write(data[:size - f.tell()])


def sha(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def to_raw(d, path, *args):
    out = os.path.join(d, 'out.raw')
    run_tool(SLUICE, 'convert', '-O', 'raw', *args, path, out)
    return sha(out)


def compressed(d, name, options='cluster_size=64k', size=6 * MIB + 512, *args):
    raw = os.path.join(d, name + '.raw')
    path = os.path.join(d, name + '.qcow2')
    write_mixed(raw, size)
    qemu_img('convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o', options, *args,
             raw, path)
    return raw, path


def test_contents(d):
    for i, options in enumerate((
            'cluster_size=64k', 'cluster_size=4k', 'cluster_size=512',
            'cluster_size=2M', 'cluster_size=64k,compat=0.10',
            'cluster_size=64k,compression_type=zstd',
            'cluster_size=2M,compression_type=zstd',
            'cluster_size=64k,extended_l2=on')):
        raw, path = compressed(d, 'c%d' % i, options)
        assert to_raw(d, path) == sha(raw), options
        ours = json.loads(run_tool(SLUICE, 'info', '--output=json', path))
        theirs = json.loads(qemu_img('info', '--output=json', path))
        assert ours == theirs, (ours, theirs)
        ours = json.loads(run_tool(SLUICE, 'map', '--output=json', path))
        theirs = json.loads(qemu_img('map', '--output=json', path))
        assert [(e['start'], e['length'], e['zero'], e['data']) for e in ours] \
            == [(e['start'], e['length'], e['zero'], e['data'])
                for e in theirs], options


def test_convert(d):
    """What we compress is theirs to check and read, and about as small; written
    over and compressed anew it still is."""
    rng = random.Random(SEED)
    for i, options in enumerate((
            'cluster_size=64k', 'cluster_size=4k', 'cluster_size=2M',
            'cluster_size=64k,compat=0.10', 'cluster_size=512',
            'cluster_size=64k,compression_type=zstd',
            'cluster_size=64k,extended_l2=on',
            'cluster_size=64k,refcount_bits=1')):
        raw, theirs = compressed(d, 'w%d' % i, options)
        ours = d + '/ours.qcow2'
        run_tool(SLUICE, 'convert', '-c', '-f', 'raw', '-O', 'qcow2', '-o',
                 options, raw, ours)
        qemu_img('check', '-q', ours)
        qemu_img('convert', '-O', 'raw', ours, d + '/back.raw')
        assert sha(d + '/back.raw') == sha(raw), options
        a = os.path.getsize(ours), os.path.getsize(theirs)
        if 'refcount_bits=1' not in options:    # streams cannot share then
            assert a[0] < a[1] * 1.3 + 400000, (options, a)
        # In place of some streams, plain data and other streams.
        with Sluiced(d) as s:
            s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n',
                      file={'driver': 'file', 'filename': ours})
            with open(raw, 'r+b') as f:
                for _ in range(40):
                    off = rng.randrange(0, 6 * MIB)
                    n = min(rng.choice([1, 700, 4096, 65536, 200000]),
                            6 * MIB - off)
                    c = rng.randrange(1, 255)
                    out = s.qmp.hmp('qemu-io n "write -P %d %d %d"'
                                    % (c, off, n))
                    assert 'failed' not in out, out
                    f.seek(off)
                    f.write(bytes([c]) * n)
        qemu_img('check', '-q', ours)
        assert to_raw(d, ours) == sha(raw), options
        write_mixed(d + '/new.raw', 6 * MIB + 512, SEED + 1)
        run_tool(SLUICE, 'convert', '-c', '-n', '-f', 'raw', '-O', 'qcow2',
                 d + '/new.raw', ours)
        qemu_img('check', '-q', ours)
        qemu_img('convert', '-O', 'raw', ours, d + '/back.raw')
        assert sha(d + '/back.raw') == sha(d + '/new.raw'), options


def test_chain(d):
    """A compressed base below a compressed image below a plain one."""
    write_mixed(d + '/base.raw', 3 * MIB)
    qemu_img('convert', '-c', '-O', 'qcow2', d + '/base.raw', d + '/base.q')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'base.q', '-F', 'qcow2',
             d + '/mid0.q', '5M')
    rng = random.Random(SEED)
    for _ in range(6):
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P %d %d %d' % (
            rng.randrange(1, 255), rng.randrange(0, 4 * MIB),
            rng.randrange(1, 200000)), d + '/mid0.q')
    qemu_img('convert', '-c', '-f', 'qcow2', '-O', 'qcow2', '-B', 'base.q',
             '-F', 'qcow2', d + '/mid0.q', d + '/mid.q')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', 'mid.q', '-F', 'qcow2',
             d + '/top.q')
    for _ in range(6):
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P %d %d %d' % (
            rng.randrange(1, 255), rng.randrange(0, 4 * MIB),
            rng.randrange(1, 200000)), d + '/top.q')
    qemu_img('convert', '-O', 'raw', d + '/top.q', d + '/want.raw')
    assert to_raw(d, d + '/top.q') == sha(d + '/want.raw')


def test_stream(d):
    """A QED overlay over a compressed base is populated and stands alone."""
    raw, base = compressed(d, 'base', 'compression_type=zstd')
    top = d + '/top.qed'
    qemu_img('create', '-q', '-f', 'qed', '-b', base, '-F', 'qcow2', top)
    with Sluiced(d, '--blockdev', 'driver=qed,node-name=t,file.driver=file,'
                 'file.filename=' + top) as s:
        s.qmp.cmd('block-stream', device='t', job_id='j')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED')
    assert 'backing' not in qemu_img('info', top)
    qemu_img('convert', '-O', 'raw', top, d + '/top.raw')
    assert sha(d + '/top.raw') == sha(raw)


def test_cache(d):
    """The second stream that is read fails: small reads of one cluster are
    fine, that of another cluster is not."""
    _, path = compressed(d, 'c')
    with open(d + '/c.raw', 'rb') as f:
        data = f.read()
    text = [i for i in range(len(data) // 65536)
            if b'lorem' in data[i * 65536:i * 65536 + 40]]
    assert len(text) > 2, text
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n', read_only=True,
                  file={'driver': 'blkdebug', 'image': {
                      'driver': 'file', 'filename': path},
                      'set-state': [{'event': 'read_compressed', 'state': 1,
                                     'new_state': 2}],
                      'inject-error': [{'event': 'read_compressed',
                                        'state': 2, 'once': True}]})

        def io(line):
            return s.qmp.hmp('qemu-io n "%s"' % line)
        for i in range(16):
            out = io('read %d 4096' % (text[0] * 65536 + i * 4096))
            assert 'failed' not in out, (i, out)
        out = io('read %d 4096' % (text[1] * 65536))
        assert out == 'read failed: %s\n' % EIO, out
        # The failure is not kept.
        out = io('read %d 4096' % (text[1] * 65536))
        assert 'failed' not in out, out


def l2_entries(path):
    """(file offset, value) of the L2 entries of the first table."""
    with open(path, 'rb') as f:
        head = f.read(104)
        bits, = struct.unpack_from('>I', head, 20)
        l1, = struct.unpack_from('>Q', head, 40)
        f.seek(l1)
        l2 = struct.unpack('>Q', f.read(8))[0] & 0x00fffffffffffe00
        f.seek(l2)
        table = f.read(1 << bits)
    return [(l2 + i, struct.unpack_from('>Q', table, i)[0])
            for i in range(0, len(table), 8)]


def patch(path, at, value):
    with open(path, 'r+b') as f:
        f.seek(at)
        f.write(struct.pack('>Q', value))


def test_hostile(d):
    """What an entry or a stream says is an error, of bounded cost, where it
    makes no sense; what is next to it can be read."""
    x = 62 - (16 - 8)
    for zstd in ('zlib', 'zstd'):
        raw, path = compressed(d, zstd, 'compression_type=' + zstd)
        streams = [(i, at, e) for i, (at, e) in enumerate(l2_entries(path))
                   if e >> 62 & 1]
        assert len(streams) > 10
        _, at, e = streams[0]
        patch(path, at, (e & ~((1 << x) - 1)) | (1 << 40))   # past the end
        _, at, e = streams[1]
        patch(path, at, 0x7fffffffffffffff)
        _, at, e = streams[2]
        patch(path, at, e + 100)                             # not its begin
        _, at, e = streams[3]
        # Bytes of the stream itself.
        with open(path, 'r+b') as f:
            f.seek((e & ((1 << x) - 1)) + 5)
            f.write(os.urandom(40))
        bad = [p[0] for p in streams[:4]]
        with open(raw, 'rb') as f:
            data = f.read()
        with Sluiced(d) as s:
            s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n',
                      read_only=True,
                      file={'driver': 'file', 'filename': path})
            failed = 0
            for i in bad:
                out = s.qmp.hmp('qemu-io n "read %d 512"' % (i * 65536))
                failed += out == 'read failed: %s\n' % EIO
            # Damaged bytes may decompress to others; the rest may not.
            assert failed >= 3, failed
            for i, _, _ in streams[4:]:
                want = data[i * 65536]
                if data[i * 65536:i * 65536 + 512] == bytes([want]) * 512:
                    out = s.qmp.hmp('qemu-io n "read -P %d %d 512"'
                                    % (want, i * 65536))
                else:
                    out = s.qmp.hmp('qemu-io n "read %d 512"' % (i * 65536))
                assert 'failed' not in out and 'verification' not in out, out


if __name__ == '__main__':
    run(globals())
