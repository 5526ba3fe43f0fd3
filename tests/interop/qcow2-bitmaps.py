#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Internal snapshots and persistent bitmaps of qcow2 images, with qemu-img."""
import hashlib
import json
import os
import random
import subprocess

from seed import SEED
from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool
from waiting import listens, until

MIB = 1 << 20


def info(tool, path):
    res = json.loads(run_tool(tool, 'info', '--output=json', path))
    res.pop('actual-size', None)
    return res


def same_info(path):
    ours, theirs = info(SLUICE, path), info('qemu-img', path)
    assert ours == theirs, (ours, theirs)
    return ours


def bitmaps(path):
    return info('qemu-img', path)['format-specific']['data'].get('bitmaps', [])


def image(d, name='i.qcow2', options='cluster_size=64k', size='8M'):
    path = os.path.join(d, name)
    qemu_img('create', '-q', '-f', 'qcow2', '-o', options, path, size)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 300k', path)
    return path


def fails(*words):
    p = subprocess.run([SLUICE, *words], capture_output=True, text=True,
                       check=False)
    assert p.returncode != 0, p.stdout
    return p.stderr


def patch(path, at, data):
    with open(path, 'r+b') as f:
        f.seek(at)
        was = f.read(len(data))
        f.seek(at)
        f.write(data)
    return was


def test_bitmaps_are_seen(d):
    """info is theirs; a check knows what is theirs."""
    path = image(d)
    qemu_img('bitmap', '--add', path, 'b0')
    qemu_img('bitmap', '--add', '-g', '4k', '--disable', path, 'b1')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 1M 300k', path)
    same_info(path)
    run_tool(SLUICE, 'check', '-q', path)
    with open(path, 'rb') as f:
        before = f.read()
    run_tool(SLUICE, 'map', path)
    with open(path, 'rb') as f:
        assert f.read() == before


def dirty(d, path, name):
    """What the qemu_tools reads of a bitmap: [(offset, length)], merged."""
    sock = os.path.join(d, 'dirty.sock')
    server = subprocess.Popen(['qemu-nbd', '-r', '-k', sock, '-f', 'qcow2',
                               '-B', name, path])
    try:
        until(lambda: server.poll() is not None or listens(sock),
              'the server')
        assert server.poll() is None, server.returncode
        out = json.loads(run_tool('nbdinfo', '--json', '--map=qemu:dirty-'
                                  'bitmap:' + name,
                                  'nbd+unix:///?socket=' + sock))
    finally:
        server.terminate()
        server.wait()
        if os.path.exists(sock):
            os.unlink(sock)
    return [(e['offset'], e['length']) for e in out if e['type'] == 1]


def content(path):
    copy = path + '.raw'
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, copy)
    with open(copy, 'rb') as f:
        return f.read()


def different(a, b):
    """Sectors."""
    return [(i, 512) for i in range(0, len(a), 512)
            if a[i:i + 512] != b[i:i + 512]]


def units(ranges, granularity):
    return {i for off, length in ranges
            for i in range(off // granularity,
                           -(-(off + length) // granularity))}


def covers(bits, granularity, size, asked, changed):
    """All that has changed is in the bitmap, and nothing that was not asked
    for: what reads as zeroes may be left alone when it is zeroed."""
    have = units(bits, granularity)
    assert max(have, default=0) * granularity < size
    lost = units(changed, granularity) - have
    assert not lost, (granularity, lost)
    more = have - units(asked, granularity)
    assert not more, (granularity, more)


def change(s, rng, size, count, changes):
    """Random changes through the daemon; they join @changes."""
    for _ in range(count):
        off = rng.randrange(size // 512) * 512
        length = min(rng.choice((512, 4096, 65536, 300 * 1024)), size - off)
        what = rng.choice(('write -P 5', 'write -z', 'write -zu', 'discard'))
        if what == 'discard': # of less than a cluster it changes nothing
            off &= -65536
            length = min(65536, size - off)
            length -= length % 65536
        out = s.qmp.hmp('qemu-io n "%s %d %d"' % (what, off, length))
        assert 'failed' not in out, out
        changes.append((off, length))


def add_node(s, path):
    s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n',
              file={'driver': 'file', 'filename': path})


def test_bitmaps_are_edited(d):
    """Every action, by both tools in turn; then they agree on all of it."""
    rng = random.Random(SEED)
    path = image(d, size='64M')
    have = set()
    for i in range(60):
        tool = rng.choice((SLUICE, 'qemu-img'))
        name = 'b%d' % rng.randrange(5)
        if name not in have:
            words = ['--add', '-g', rng.choice(('512', '4k', '64k', '2M'))] + \
                rng.choice(([], ['--disable']))
            have.add(name)
        else:
            words = rng.choice((['--remove'], ['--clear'], ['--enable'],
                                ['--disable'],
                                ['--merge', rng.choice(sorted(have))]))
            if words == ['--remove']:
                have.discard(name)
        run_tool(tool, 'bitmap', *words, path, name)
        if i % 4 == 0:
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write %d 64k' %
                     (rng.randrange(1023) << 16), path)
        same_info(path)
        assert {b['name'] for b in bitmaps(path)} == have
        run_tool(SLUICE, 'check', '-q', path)
        run_tool('qemu-img', 'check', '-q', path)
    for name in have:
        run_tool(SLUICE, 'bitmap', '--remove', path, name)
    assert bitmaps(path) == []
    run_tool('qemu-img', 'check', '-q', path)


def test_bitmaps_of_one_command(d):
    """Bits that one tool merges are those that the other does."""
    paths = [image(d, name) for name in ('ours', 'theirs')]
    for path in paths:
        qemu_img('bitmap', '--add', '-g', '512', path, 'fine')
        qemu_img('bitmap', '--add', '-g', '64k', path, 'coarse')
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 1000k 3k', '-c',
                 'write 5M 100k', '-c', 'write 0 512', path)
    for tool, path in zip((SLUICE, 'qemu-img'), paths):
        run_tool(tool, 'bitmap', '--add', '--disable', '-g', '4k', '--merge',
                 'fine', '--merge', 'coarse', path, 'all')
        run_tool(tool, 'bitmap', '--add', '--merge', 'coarse', path, 'two')
        run_tool(tool, 'bitmap', '--clear', '--merge', 'fine', path, 'coarse')
    for name in ('fine', 'coarse', 'all', 'two'):
        ours, theirs = (dirty(d, path, name) for path in paths)
        assert ours and ours == theirs, (name, ours, theirs)


def test_bitmaps_are_kept(d):
    """Writers keep those that record, and only those."""
    rng = random.Random(SEED)
    size = 8 * MIB + 512
    for options in ('cluster_size=64k', 'cluster_size=512',
                    'extended_l2=on,cluster_size=32k',
                    'lazy_refcounts=on,cluster_size=4k'):
        path = image(d, options=options, size=str(size))
        for name, granularity in (('fine', 512), ('coarse', 65536)):
            run_tool(SLUICE, 'bitmap', '--add', '-g', str(granularity), path,
                     name)
        run_tool(SLUICE, 'bitmap', '--add', '--disable', path, 'off')
        changes, before = [], content(path)
        for _ in range(3):
            with Sluiced(d) as s:
                add_node(s, path)
                change(s, rng, size, 6, changes)
            same_info(path)
            run_tool(SLUICE, 'check', '-q', path)
            run_tool('qemu-img', 'check', '-q', path)
            for name, granularity in (('fine', 512), ('coarse', 65536)):
                covers(dirty(d, path, name), granularity, size, changes,
                       different(before, content(path)))
            assert dirty(d, path, 'off') == []
        os.unlink(path)


def flags(path):
    out = json.loads(qemu_img('info', '-U', '--output=json', path))
    return [b['flags'] for b in out['format-specific']['data']['bitmaps']]


def test_bitmaps_beside_a_name(d):
    """A backing name that stands where their extension must go makes room; one
    that fills the sector stays, and nothing has changed."""
    for tool in (SLUICE, 'qemu-img'):
        for cluster in ('512', '4k', '64k'):
            base, top = os.path.join(d, 'b' * 100), os.path.join(d, 'top')
            qemu_img('create', '-q', '-f', 'raw', base, '1M')
            run_tool('qemu-io', '-f', 'raw', '-c', 'write -P 3 0 1M', base)
            run_tool(tool, 'create', '-q', '-f', 'qcow2', '-o',
                     'cluster_size=' + cluster, '-b', base, '-F', 'raw', top)
            before = info('qemu-img', top)
            run_tool(SLUICE, 'bitmap', '--add', top, 'b0')
            after = same_info(top)
            assert after['format-specific']['data'].pop('bitmaps')
            assert after == before
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 3 0 1M', top)
            run_tool('qemu-img', 'check', '-q', top)
    name = os.path.join(d, 'n' * 200, 'n' * 190)
    os.mkdir(os.path.dirname(name))
    qemu_img('create', '-q', '-f', 'raw', name, '1M')
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', name,
             '-F', 'raw', top)
    text = fails('bitmap', '--add', top, 'b0')
    assert 'No space left' in text, text
    assert bitmaps(top) == []
    run_tool('qemu-img', 'check', '-q', top)


def test_bitmaps_after_kill(d):
    """Who dies leaves them in use: nobody takes them for true."""
    path = image(d)
    qemu_img('bitmap', '--add', path, 'b0')
    qemu_img('bitmap', '--add', '--disable', path, 'off')
    with Sluiced(d) as s:
        add_node(s, path)
        assert 'failed' not in s.qmp.hmp('qemu-io n "read 0 64k"')
        assert flags(path)[0] == ['auto']
        assert 'failed' not in s.qmp.hmp('qemu-io n "write 0 64k"')
        s.proc.kill()
        assert s.wait() == -9
    same_info(path)
    assert flags(path) == [['in-use', 'auto'], []]
    text = fails('bitmap', '--clear', path, 'b0')
    assert 'inconsistent' in text, text
    with Sluiced(d) as s:
        add_node(s, path)
        assert 'failed' not in s.qmp.hmp('qemu-io n "write 0 64k"')
    assert flags(path) == [['in-use', 'auto'], []]
    run_tool(SLUICE, 'bitmap', '--remove', path, 'b0')
    assert [b['name'] for b in bitmaps(path)] == ['off']
    run_tool('qemu-img', 'check', path)


def test_bitmaps_of_other_sizes(d):
    """A disk that grows, shrinks, or goes back to a snapshot."""
    path = image(d)
    run_tool(SLUICE, 'bitmap', '--add', path, 'b0')
    run_tool(SLUICE, 'bitmap', '--add', '--disable', path, 'off')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 1M 64k', path)
    run_tool(SLUICE, 'resize', '-q', '-f', 'qcow2', path, '70M')
    assert dirty(d, path, 'b0') == [(MIB, 65536), (8 * MIB, 62 * MIB)]
    assert dirty(d, path, 'off') == []
    run_tool(SLUICE, 'resize', '-q', '--shrink', '-f', 'qcow2', path, '3M')
    assert dirty(d, path, 'b0') == [(MIB, 65536)]
    run_tool('qemu-img', 'check', path)
    run_tool(SLUICE, 'snapshot', '-c', 'one', path)
    run_tool(SLUICE, 'bitmap', '--clear', path, 'b0')
    run_tool(SLUICE, 'snapshot', '-a', 'one', path)
    assert dirty(d, path, 'b0') == [(0, 3 * MIB)]
    assert dirty(d, path, 'off') == []
    run_tool('qemu-img', 'check', path)


def test_bitmaps_are_copied(d):
    path = image(d)
    qemu_img('bitmap', '--add', '-g', '4k', path, 'b0')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 1M 64k', path)
    qemu_img('bitmap', '--add', '--disable', path, 'off')
    for tool in (SLUICE, 'qemu-img'):
        copy = os.path.join(d, os.path.basename(tool))
        run_tool(tool, 'convert', '-f', 'qcow2', '-O', 'qcow2', '--bitmaps',
                 path, copy)
        assert bitmaps(copy) == bitmaps(path), tool
        assert dirty(d, copy, 'b0') == [(MIB, 65536)], tool
        run_tool('qemu-img', 'check', copy)


def test_snapshots_are_seen(d):
    path = image(d)
    qemu_img('snapshot', '-c', 'one', path)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 2 64k 300k', path)
    qemu_img('snapshot', '-c', 'two \u00fc', path)
    same_info(path)
    run_tool(SLUICE, 'check', '-q', path)


if __name__ == '__main__':
    run(globals())
