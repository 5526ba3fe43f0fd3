#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images that somebody hostile wrote: names of past vulnerabilities, as rows.

VA1, VA2, VA5: what a guest writes into its raw disk stays data.  VA3: what a
header may name.  VA6, VA10, VA12: extreme fields.  VA13: bombs, long chains,
loops.  VA15: symbolic links where the daemon makes files.
"""
import hashlib
import os
import struct
import subprocess

import nbd

from bounded import RSS_MAX, bounded
from sluiced import SANITIZED, SLUICE, SLUICED, Sluiced, qemu_img, run
from waiting import rest, until

MIB = 1 << 20
SECRET = b'the secret of the host\n' * 100
EXTREMES32 = (0, 1, 3, 0x7fffffff, 0x80000000, 0xffffffff)
EXTREMES64 = (1, 511, 4097, 0x7fffffff, 0xffffffff, 1 << 62, (1 << 63) - 1,
              1 << 63, (1 << 64) - 4096, (1 << 64) - 1)


def sha(path):
    with open(path, 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


def header(cluster=4096, table=1, size_of_header=1, features=0, l1=4096,
           image=MIB, name_offset=0, name_size=0):
    return b'QED\0' + struct.pack('<IIIQQQQQII', cluster, table,
                                  size_of_header, features, 0, 0, l1, image,
                                  name_offset, name_size)


def write(path, *parts):
    """Each part: (offset, bytes)."""
    with open(path, 'wb') as f:
        for at, data in parts:
            f.seek(at)
            f.write(data)
    return path


def overlay(path, name, fmt_raw=False):
    """An empty QED overlay whose header names @name."""
    name = name.encode()
    return write(path, (0, header(features=5 if fmt_raw else 1, name_offset=64,
                                  name_size=len(name)) + name),
                 (8191, b'\0'))


def qcow2(backing):
    """A QCOW2 header alone, naming @backing."""
    name = backing.encode()
    return struct.pack('>IIQIIQIIQQIIQ', 0x514649fb, 2, 512, len(name), 16,
                       MIB, 0, 1, 0x30000, 0x10000, 1, 0, 0) \
        .ljust(512, b'\0') + name


# --- what a guest writes ---

def serve_raw(d, disk, *more):
    return Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                   '--drive', 'id=v,format=raw,file=' + disk,
                   '--export', 'nbd,id=e,node-name=v,name=v,writable=on', *more)


def guest(d):
    h = nbd.NBD()
    h.set_strict_mode(0)
    h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
    return h


def still_raw(d, disk, want):
    with serve_raw(d, disk) as s:
        info = s.qmp.cmd('query-block')[0]['inserted']
        assert info['drv'] == 'raw' and info['image']['virtual-size'] == MIB
        assert 'backing-filename' not in info['image'], info
        h = guest(d)
        assert h.get_size() == MIB
        got = h.pread(len(want), 0)
        assert bytes(got) == want
        assert SECRET not in bytes(h.pread(MIB, 0))
        h.shutdown()


def headers_naming(path):
    qed = header(features=1, name_offset=64, name_size=len(path)) + \
        path.encode()
    vmdk = b'# Disk DescriptorFile\nversion=1\ncreateType="monolithicFlat"' \
        b'\nRW 2048 FLAT "' + path.encode() + b'" 0\n'
    return {'qed': qed, 'qcow2': qcow2(path), 'vmdk': vmdk}


def test_VA1_guest_writes_a_header_and_the_daemon_restarts(d):
    secret = write(d + '/secret', (0, SECRET))
    for fmt, data in headers_naming(secret).items():
        disk = write('%s/disk-%s' % (d, fmt), (MIB - 1, b'\0'))
        with serve_raw(d, disk):
            h = guest(d)
            h.pwrite(data, 0)
            h.flush()
            h.shutdown()
        still_raw(d, disk, data)
        # Nor is it probed when nobody says the format.
        p = subprocess.run([SLUICED, '--drive', 'id=v,file=' + disk],
                           capture_output=True, text=True, check=False)
        assert p.returncode == 1 and "'format' is missing" in p.stderr, p.stderr


def test_VA2_the_same_in_pieces_by_other_requests(d):
    secret = write(d + '/secret', (0, SECRET))
    for fmt, data in headers_naming(secret).items():
        disk = write('%s/disk-%s' % (d, fmt), (0, b'\xff' * MIB))
        with serve_raw(d, disk, '--object', 'throttle-group,id=t'):
            h = guest(d)
            h.zero(4096, 0)
            h.trim(512, 512)
            for i in range(0, len(data), 7):
                h.pwrite(data[i:i + 7], i)
            h.pwrite(data[:3], 0, nbd.CMD_FLAG_FUA)
            h.flush()
            h.shutdown()
        still_raw(d, disk, data)


def test_VA5_raw_images_that_look_like_another_format(d):
    secret = write(d + '/secret', (0, SECRET))
    for fmt, data in headers_naming(secret).items():
        disk = write('%s/disk-%s' % (d, fmt), (0, data), (MIB - 1, b'\0'))
        bounded('resize', '-f', 'raw', disk, '2M', ends=(0,))
        assert os.path.getsize(disk) == 2 * MIB
        with open(disk, 'rb') as f:
            assert f.read(len(data)) == data
        r = bounded('info', '-f', 'raw', disk, ends=(0,))
        assert 'secret' not in r.out and 'raw' in r.out, r
        # A copy has these bytes, in whatever format; nothing else is opened.
        for target in ('raw', 'qcow2', 'qed'):
            copy = '%s/copy.%s' % (d, target)
            bounded('convert', '-f', 'raw', '-O', target, disk, copy,
                    ends=(0,))
            bounded('compare', '-f', 'raw', '-F', target, disk, copy,
                    ends=(0,))
            with open(copy, 'rb') as f:
                assert SECRET[:64] not in f.read(), (fmt, target)


# --- what a header may name ---

def test_VA3_policy_explicit_and_deny_open_nothing(d):
    secret = write(d + '/secret', (0, SECRET.ljust(MIB, b'\0')))
    top = overlay(d + '/top.qed', secret, fmt_raw=True)
    for policy in ('explicit', 'deny'):
        p = subprocess.run([SLUICED, '--backing-policy', policy, '--blockdev',
                            'qed,node-name=q,file.driver=file,file.filename='
                            + top], capture_output=True, text=True,
                           check=False)
        assert p.returncode == 1, (policy, p)
        assert "'%s'" % policy in p.stderr and secret in p.stderr, p.stderr
    with Sluiced(d, '--backing-policy', 'explicit', '--blockdev',
                 'qed,node-name=q,file.driver=file,file.filename=%s,'
                 'backing.driver=raw,backing.file.driver=file,'
                 'backing.file.filename=%s' % (top, secret)) as s:
        assert len(s.qmp.cmd('query-named-block-nodes')) == 4


def test_VA3_policy_beneath_keeps_to_its_folder(d):
    root = d + '/images'
    os.mkdir(root)
    os.mkdir(d + '/images-other')
    secret = write(d + '/secret', (0, SECRET.ljust(MIB, b'\0')))
    other = write(d + '/images-other/x', (0, bytes(MIB)))
    write(root + '/base', (0, bytes(MIB)))
    os.symlink(secret, root + '/link')
    os.symlink(d, root + '/dir')
    os.mkfifo(root + '/fifo')
    refused = [secret, '../secret', root + '/../secret', root + '/link', 'link',
               'dir/secret', other, '/dev/null', '/dev/zero', 'fifo',
               '/proc/self/environ', 'nbd://127.0.0.1:1/x',
               'nbd+unix:///x?socket=%s/s' % d, 'json:{"driver":"null-co"}',
               'fd:3', 'file:' + secret, 'base\n', 'http://127.0.0.1/', '..',
               'file:base']
    with Sluiced(d, '--backing-policy', 'beneath=' + root) as s:
        for name in refused:
            top = overlay(root + '/top.qed', name, fmt_raw=True)
            before = sha(top)
            answer = s.qmp.execute('blockdev-add', {
                'driver': 'qed', 'node-name': 'q',
                'file': {'driver': 'file', 'filename': top}})
            assert 'error' in answer, name
            assert s.qmp.cmd('query-named-block-nodes') == [], name
            assert sha(top) == before, name
        for name in ('base', root + '/base', root + '/./base', 'dir/images/base',
                     'file:%s/base' % root):
            top = overlay(root + '/top.qed', name, fmt_raw=True)
            s.qmp.cmd('blockdev-add', {
                'driver': 'qed', 'node-name': 'q',
                'file': {'driver': 'file', 'filename': top}})
            s.qmp.cmd('blockdev-del', {'node-name': 'q'})


def test_VA3_info_and_check_open_no_backing_file(d):
    for name in (d + '/not-there', '/dev/zero', 'nbd://192.0.2.1:1/x',
                 'json:{"driver":"nbd"}', 'fd:0'):
        top = overlay(d + '/top.qed', name, fmt_raw=True)
        before = sha(top)
        # An address that never answers (or a file that never ends) would hang.
        r = bounded('info', '-f', 'qed', top, ends=(0,))
        assert name in r.out, r
        bounded('check', '-f', 'qed', top, ends=(0,))
        assert sha(top) == before


# --- extreme fields ---

FIELDS = (('cluster', 4, EXTREMES32), ('table', 8, EXTREMES32),
          ('size_of_header', 12, EXTREMES32), ('l1', 40, EXTREMES64),
          ('image', 48, EXTREMES64), ('features', 16, EXTREMES64))


def is_good(field, value):
    """Extremes that are legal."""
    return (field, value) in (('table', 1), ('size_of_header', 1),
                              ('features', 1))


def try_image(path, want_error=True):
    before = sha(path)
    for command in ('info', 'check', 'map'):
        bounded(command, '-f', 'qed', path, ends=(1, 2) if want_error
                else (0, 1, 2))
    assert sha(path) == before, 'the image was changed'


def test_VA6_VA12_extreme_fields_of_the_header(d):
    path = d + '/i.qed'
    for field, _, values in FIELDS:
        for value in values:
            if not is_good(field, value):
                write(path, (0, header(**{field: value})), (8191, b'\0'))
                try_image(path)
    for at, size in ((64, 0xffffffff), (0xffffffff, 8), (0xffffffff, 0xffffffff),
                     (4090, 100), (0, 0x7fffffff), (64, 4096)):
        write(path, (0, header(features=1, name_offset=at, name_size=size)),
              (8191, b'\0'))
        try_image(path)


def test_VA10_zero_and_huge_geometry(d):
    path = d + '/i.qed'
    for cluster in (0, 1, 2048, 4095, 4097, 1 << 27, 1 << 31):
        for table in (0, 1, 3, 16, 17, 32, 1 << 31):
            write(path, (0, header(cluster=cluster, table=table, l1=cluster)),
                  (8191, b'\0'))
            try_image(path)
    # The largest geometry that both formats' limits allow still works, sparse;
    # tables of 64 MiB are beyond ours.
    for cluster, table, image, status in ((1 << 20, 16, 1 << 60, 0),
                                          (1 << 26, 1, MIB, 1)):
        write(path, (0, header(cluster=cluster, table=table, l1=cluster,
                               image=image)),
              (cluster * (table + 1) - 1, b'\0'))
        for command in ('info', 'check'):
            bounded(command, '-f', 'qed', path, cpu=1, ends=(status,))


def test_VA12_truncated_headers(d):
    path = d + '/i.qed'
    whole = header().ljust(8192, b'\0')
    for n in [0, 1, 3, 4, 8, 40, 63, 64, 511, 512, 4095, 4096, 4097, 8191]:
        write(path, (0, whole[:n]))
        try_image(path)
    write(path, (0, whole))
    try_image(path, want_error=False)


def test_VA12_tables_that_point_anywhere(d):
    path = d + '/i.qed'
    entries = [4096, 0, 1, 3, 512, 1 << 40, 1 << 62, (1 << 63), (1 << 64) - 4096,
               (1 << 64) - 1, 12288]
    for l1 in entries:
        for l2 in entries:
            write(path, (0, header()), (4096, struct.pack('<QQ', l1, l1)),
                  (8192, struct.pack('<512Q', *([l2] * 512))), (16383, b'\0'))
            before = sha(path)
            bounded('check', '-f', 'qed', path, ends=(0, 1, 2, 3))
            assert sha(path) == before
    write(path, (0, header()), (4096, struct.pack('<QQ', 8192, 8192)),
          (8192, struct.pack('<512Q', *([12288] * 512))), (16383, b'\0'))
    bounded('check', '-f', 'qed', '-r', 'all', path, ends=(0,))
    bounded('check', '-f', 'qed', path, ends=(0,))


# --- bombs, chains, loops ---

def bomb(path):
    """Few bytes on disk that describe as much metadata as the format allows: each
    L1 entry leads to the same table, every entry to the same cluster."""
    cluster, table = 1 << 20, 16
    size = cluster * table
    with open(path, 'wb') as f:
        f.write(header(cluster=cluster, table=table, l1=cluster, image=1 << 60))
        f.seek(cluster)
        f.write(struct.pack('<Q', cluster + size) * 32)
        f.truncate(cluster + 3 * size)
    return path


def test_VA13_a_bomb_of_a_few_KiB(d):
    path = bomb(d + '/bomb.qed')
    assert os.stat(path).st_blocks * 512 < 64 << 10
    for args in (('info',), ('check',), ('map',), ('map', '-l', '1M')):
        bounded(*args, '-f', 'qed', path, cpu=5, ends=(0, 1, 2))
    with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                 '--drive', 'id=v,format=qed,readonly=on,file=' + path,
                 '--export', 'nbd,id=e,node-name=v,name=v') as s:
        h = nbd.NBD()
        h.add_meta_context('base:allocation')
        h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
        step = (1 << 20) * (16 << 20) // 8      # another L1 entry each
        for i in range(200):
            try:
                h.pread(4096, i * step % (1 << 59))
            except nbd.Error:
                pass
        try:
            h.block_status(MIB, 0, lambda *a: 0)
        except nbd.Error:
            pass
        del h
        with open('/proc/%d/status' % s.proc.pid, encoding='ascii') as f:
            peak = [int(l.split()[1]) for l in f if l.startswith('VmHWM')][0]
        # One table of 16 MiB is the least; the cache is bounded in bytes.
        assert SANITIZED or peak << 10 < 3 * RSS_MAX, peak


def test_VA16_tables_without_end(d):
    """16 MiB of L1 entries that lead to one table, or 2 MiB to 262,144 of them in
    a file of 4 TiB that is all hole."""
    path = d + '/i.qed'
    cluster, table = 1 << 20, 16
    size = cluster * table
    for step, n in ((0, size // 8), (size, 1 << 18)):
        with open(path, 'wb') as f:
            f.write(header(cluster=cluster, table=table, l1=cluster,
                           image=1 << 62))
            f.seek(cluster)
            for k in range(0, n, 512):      # in pieces: our memory counts, too
                f.write(struct.pack('<512Q', *(cluster + size + (k + i) * step
                                               for i in range(512))))
            f.truncate(cluster + 2 * size + n * step)
        for command in ('info', 'check', 'map'):
            r = bounded(command, '-f', 'qed', path, cpu=10,
                        ends=(0, 1, 2, 3))
            assert len(r.out) < 4 * MIB, (step, command, len(r.out))


def test_VA13_a_chain_of_5000(d):
    """Longer than any that is opened: what it takes grows with the limit."""
    write(d + '/0', (0, bytes(MIB)))
    for i in range(1, 5000):
        overlay('%s/%d' % (d, i), str(i - 1), fmt_raw=i == 1)
    top = d + '/4999'
    for limit, seconds, *args in ((64, 1, '--chain-limit', '64'), (4096, 20)):
        start = rest()
        p = subprocess.run([SLUICED, *args, '--drive',
                            'id=v,format=qed,file=' + top],
                           capture_output=True, text=True, check=False)
        took = rest() - start
        assert p.returncode == 1, p
        assert 'deeper than %d images' % limit in p.stderr, p.stderr
        assert SANITIZED or took < seconds, took
    bounded('map', '-f', 'qed', top, cpu=20, ends=(1,))
    bounded('info', '-f', 'qed', top, ends=(0,))
    bounded('info', '--backing-chain', '-f', 'qed', top, cpu=20)


def test_VA13_loops(d):
    a, b = d + '/a.qed', d + '/b.qed'
    overlay(a, 'b.qed')
    overlay(b, a)
    self = overlay(d + '/self.qed', 'self.qed')
    os.link(self, d + '/other-name.qed')
    linked = overlay(d + '/linked.qed', 'x')
    os.symlink('linked.qed', d + '/x')
    for path in (a, b, self, d + '/other-name.qed', linked):
        start = rest()
        p = subprocess.run([SLUICED, '--drive', 'id=v,format=qed,file=' + path],
                           capture_output=True, text=True, check=False)
        took = rest() - start
        assert p.returncode == 1 and p.stderr.startswith('sluiced: '), p
        assert SANITIZED or took < 1, took
        for args in (('info', '--backing-chain'), ('map',)):
            bounded(*args, '-f', 'qed', path, ends=(1,))


# --- planted links ---

def test_VA15_links_where_the_daemon_makes_files(d):
    victim = write(d + '/victim', (0, SECRET))
    mode = os.stat(victim).st_mode
    for name in ('pid', 'sock', 'ctl'):
        os.symlink(victim, d + '/' + name)
    dangling = d + '/dangling'
    os.symlink(d + '/made-by-link', dangling)
    for args in (['--pidfile', d + '/pid'], ['--pidfile', dangling],
                 ['--nbd-server', 'addr.type=unix,addr.path=%s/sock' % d],
                 ['--nbd-server', 'addr.type=unix,addr.path=' + dangling],
                 ['--chardev', 'socket,id=c,path=%s/ctl,server=on,wait=off' % d,
                  '--monitor', 'c']):
        p = subprocess.Popen([SLUICED] + args, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL)
        try:
            until(lambda: p.poll() is not None, 'a refusal of %r' % args)
        finally:
            p.kill()
            _, err = p.communicate()
        assert p.returncode == 1, (args, err)
        with open(victim, 'rb') as f:
            assert f.read() == SECRET, args
        assert os.stat(victim).st_mode == mode
        assert not os.path.lexists(d + '/made-by-link'), args
        assert os.path.islink(dangling)


def test_VA15_links_in_the_state_directory(d):
    victim = write(d + '/victim', (0, SECRET))
    state = d + '/state'
    os.mkdir(state)
    # Learn the names of its files from a run without links.
    write(d + '/base', (0, bytes(MIB)))
    top = overlay(d + '/top.qed', d + '/base', fmt_raw=True)
    drive = ['--state-dir', state, '--drive', 'id=v,format=qed,file=' + top]

    def stream():
        with Sluiced(d, *drive) as s:
            s.qmp.cmd('block-stream', device='v', speed=4096)
            names = {n for n in os.listdir(state)}
            s.kill()
        return names
    names = stream()
    assert names, 'nothing is kept in the state directory'
    for name in list(names) + [n + '.tmp' for n in names] + \
            [n + '.new' for n in names]:
        for n in os.listdir(state):
            os.unlink(state + '/' + n)
        os.symlink(victim, state + '/' + name)
        try:
            stream()
        except Exception:  # pylint: disable=broad-except
            pass           # to refuse is fine
        with open(victim, 'rb') as f:
            assert f.read() == SECRET, name


if __name__ == '__main__':
    qemu_img('--version')
    run(globals())
