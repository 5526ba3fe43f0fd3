#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stream into a raw disk: overlay, data file, kill -9 half way, and at the
end a plain raw file and nothing else."""
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, Sluiced, run, write_pattern
from waiting import until

MIB = 1 << 20
SIZE = 48 * MIB
KINDS = ('raw', 'qcow2', 'qed')


def sluice(*args, status=0):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False)
    assert p.returncode == status, '%s: %d %s%s' % (args, p.returncode,
                                                    p.stdout, p.stderr)
    return p.stdout + p.stderr


def make(d, fmt='raw', *options):
    """A base with holes, an overlay over it: base, sidecar, final name."""
    base = os.path.join(d, 'base.' + fmt)
    raw = base if fmt == 'raw' else os.path.join(d, 'base.tmp')
    write_pattern(raw, SIZE // 2)
    os.truncate(raw, SIZE)
    if fmt != 'raw':
        sluice('convert', '-f', 'raw', '-O', fmt, raw, base)
        os.unlink(raw)
    top = os.path.join(d, 'disk.img.cow')
    sluice('create', '-q', '-f', 'cow', '-b', base, '-F', fmt, *options, top)
    return base, top, os.path.join(d, 'disk.img')


def expected(d, base, fmt):
    """What the disk holds now, as a raw file."""
    want = os.path.join(d, 'want.raw')
    sluice('convert', '-f', fmt, '-O', 'raw', base, want)
    return want


def patch(path, off, data):
    with open(path, 'r+b') as f:
        f.seek(off)
        f.write(data)


def drive(top, *more):
    return ('--blockdev', ','.join((
        'cow,node-name=v,file.driver=file,file.filename=%s' % top,) + more))


def node(s):
    return next(n for n in s.qmp.cmd('query-named-block-nodes')
                if n['node-name'] == 'v')


def write(s, off, length, byte):
    out = s.qmp.hmp('qemu-io v "write -P %d %d %d"' % (byte, off, length))
    assert 'wrote' in out, out


def same(a, b):
    assert subprocess.run(['cmp', a, b], check=False).returncode == 0


def names(d):
    return sorted(n for n in os.listdir(d) if n.startswith('disk'))


def stream(s, **more):
    s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v', **more})


def offset(s):
    job, = s.qmp.cmd('query-block-jobs')
    return job['offset']


def completed(s):
    data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
    assert 'error' not in data, data


def kill_and_finish(d, fmt):
    base, top, final = make(d, fmt)
    want = expected(d, base, fmt)
    rng = random.Random(SEED)
    with Sluiced(d, *drive(top)) as s:
        stream(s, speed=8 * MIB)
        for i in range(20):
            off = rng.randrange(SIZE - 8192) & ~511
            write(s, off, 1536, i + 1)
            patch(want, off, bytes([i + 1]) * 1536)
        s.qmp.hmp('qemu-io v flush')
        until(lambda: offset(s) > 4 * MIB, '4 MiB')
        s.qmp.cmd('block-job-set-speed', device='j', speed=4096)
        s.kill()
    assert names(d) == ['disk.img.cow', 'disk.img.partial'], names(d)
    same_disk(top, want)
    with Sluiced(d, *drive(top)) as s:
        write(s, SIZE - 4096, 4096, 99)
        patch(want, SIZE - 4096, b'c' * 4096)
        stream(s)
        completed(s)
        os.unlink(base)
        assert names(d) == ['disk.img'], names(d)
        # The guest goes on, on the file itself.
        write(s, 12345, 700, 42)
        patch(want, 12345, b'*' * 700)
        assert os.path.basename(node(s)['file']) == 'disk.img', node(s)
    assert names(d) == ['disk.img'], names(d)
    same(final, want)


def same_disk(top, want):
    out = sluice('compare', '-f', 'cow', '-F', 'raw', top, want)
    assert 'identical' in out, out
    assert 'No errors' in sluice('check', '-f', 'cow', top)


def test_kill_raw(d):
    kill_and_finish(d, 'raw')


def test_kill_qcow2(d):
    kill_and_finish(d, 'qcow2')


def test_kill_qed(d):
    kill_and_finish(d, 'qed')


def test_cancel_and_again(d):
    base, top, final = make(d)
    with Sluiced(d, '--drive', 'id=v,file=%s,format=cow,copy-on-read=on' % top
                 ) as s:
        stream(s, speed=4 * MIB)
        until(lambda: offset(s) > MIB, 'a MiB')
        s.qmp.cmd('block-job-cancel', {'device': 'j'})
        s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
        assert names(d) == ['disk.img.cow', 'disk.img.partial']
        s.qmp.hmp('qemu-io v "read 1M 64k"')
        stream(s)
        completed(s)
    same(final, base)
    assert names(d) == ['disk.img']


def test_down_to_a_base(d):
    """The overlay goes on with another backing name."""
    base, mid, _ = make(d)
    top = os.path.join(d, 'top.cow')
    with Sluiced(d, *drive(mid)) as s:
        write(s, 3 * MIB, 4096, 3)
    sluice('create', '-q', '-f', 'cow', '-b', mid, '-F', 'cow', top)
    want = expected(d, top, 'cow')
    with Sluiced(d, *drive(top)) as s:
        stream(s, base=base)
        completed(s)
    info = sluice('info', '-f', 'cow', top)
    assert 'backing file: %s' % base in info and 'populating' in info, info
    for name in names(d):
        os.unlink(os.path.join(d, name))
    same_disk(top, want)
    os.unlink(want)
    assert sorted(os.listdir(d))[0] == 'base.raw'


def test_name_is_taken(d):
    """What is called like the finished disk is not overwritten; then again."""
    base, top, final = make(d)
    with Sluiced(d, *drive(top)) as s:
        with open(final, 'w', encoding='utf-8') as f:
            f.write('mine')
        stream(s)
        data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
        assert 'exists already' in data['error'], data
        assert node(s)['backing_file_depth'] == 1
        os.unlink(final)
        stream(s)
        completed(s)
    same(final, base)
    assert names(d) == ['disk.img']


def test_resize(d):
    base, top, final = make(d)
    with Sluiced(d, *drive(top)) as s:
        s.qmp.cmd('block_resize', {'node-name': 'v', 'size': SIZE + 5 * MIB})
        write(s, SIZE + 4 * MIB, 4096, 5)
        stream(s)
        completed(s)
    os.truncate(base, SIZE + 5 * MIB)
    patch(base, SIZE + 4 * MIB, b'\5' * 4096)
    same(final, base)


def test_reopen(d):
    base, top, final = make(d)
    with Sluiced(d, *drive(top, 'read-only=on', 'auto-read-only=on')) as s:
        stream(s)
        completed(s)
    same(final, base)


if __name__ == '__main__':
    run(globals())
