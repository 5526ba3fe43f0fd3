#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The image tool on overlays: made, described, copied from and to, based on
something else, merged down, finished."""
import json
import os
import subprocess

from sluiced import SLUICE, run, write_pattern

MIB = 1 << 20
SIZE = 12 * MIB


def sluice(d, *args, status=0):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    assert p.returncode == status, '%s: %d %s%s' % (args, p.returncode,
                                                    p.stdout, p.stderr)
    return p.stdout + p.stderr


def make(d, name='top.cow', *options):
    base = os.path.join(d, 'base.raw')
    if not os.path.exists(base):
        write_pattern(base, SIZE // 2)
        os.truncate(base, SIZE)
    sluice(d, 'create', '-q', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
           *options, name)


def same(d, a, fa, b, fb='raw'):
    out = sluice(d, 'compare', '-f', fa, '-F', fb, a, b)
    assert 'identical' in out, out


def test_info_and_map(d):
    make(d, 'disk.img.cow')
    info = json.loads(sluice(d, 'info', '--output=json', 'disk.img.cow'))
    assert info['format'] == 'cow' and info['virtual-size'] == SIZE, info
    assert info['cluster-size'] == 4096, info
    assert info['backing-filename'] == 'base.raw', info
    data = info['format-specific']['data']
    assert data['state'] == 'populating' and data['data-format'] == 'raw', data
    assert data['data-file'].endswith('/disk.img.partial'), data
    first = json.loads(sluice(d, 'map', '--output=json', 'disk.img.cow'))[0]
    assert first['depth'] == 1 and first['length'] == SIZE // 2, first
    by_json = json.dumps({'driver': 'cow', 'file': {
        'driver': 'file', 'filename': 'disk.img.cow'}})
    assert 'format: cow' in sluice(d, 'info', 'json:' + by_json)
    assert 'No errors' in sluice(d, 'check', 'disk.img.cow')


def test_convert(d):
    make(d)
    sluice(d, 'convert', '-f', 'cow', '-O', 'qcow2', 'top.cow', 'a.qcow2')
    same(d, 'a.qcow2', 'qcow2', 'base.raw')
    for fmt in ('raw', 'qcow2', 'qed'):
        name = 'to-' + fmt
        sluice(d, 'convert', '-f', 'raw', '-O', 'cow', '-o',
               'data_format=' + fmt, 'base.raw', name + '.cow')
        same(d, name + '.cow', 'cow', 'base.raw')
        sluice(d, 'rebase', '-f', 'cow', '-u', '-b', '', name + '.cow')
        assert not os.path.exists(os.path.join(d, name + '.cow'))
        same(d, name, fmt, 'base.raw')


def test_rebase(d):
    """To another base; then, with all that is missing copied, to none."""
    make(d)
    other = os.path.join(d, 'other.raw')
    subprocess.run(['cp', os.path.join(d, 'base.raw'), other], check=True)
    with open(other, 'r+b') as f:
        f.seek(5000000)
        f.write(b'other')
    sluice(d, 'rebase', '-f', 'cow', '-b', 'other.raw', '-F', 'raw', 'top.cow')
    same(d, 'top.cow', 'cow', 'base.raw')
    local = [e for e in json.loads(sluice(d, 'map', '--output=json',
                                          'top.cow')) if e['depth'] == 0]
    assert sum(e['length'] for e in local) == 4096, local
    sluice(d, 'rebase', '-f', 'cow', '-b', '', 'top.cow')
    os.unlink(other)
    assert subprocess.run(['cmp', d + '/top', d + '/base.raw'],
                          check=False).returncode == 0
    assert sorted(os.listdir(d)) == ['base.raw', 'top'], os.listdir(d)


def test_commit(d):
    """Down, and the overlay is empty, or is kept; it knows its base again."""
    make(d)
    patch = os.path.join(d, 'patch.raw')
    subprocess.run(['cp', os.path.join(d, 'base.raw'), patch], check=True)
    with open(patch, 'r+b') as f:
        f.seek(7 * MIB)
        f.write(b'patch' * 1000)
    for keep in ((), ('-d',)):
        sluice(d, 'rebase', '-u', '-f', 'cow', '-b', 'patch.raw', '-F', 'raw',
               'top.cow')
        sluice(d, 'rebase', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
               'top.cow')
        same(d, 'top.cow', 'cow', 'patch.raw')
        os.utime(os.path.join(d, 'base.raw'), (1000, 1000))
        sluice(d, 'rebase', '-u', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
               'top.cow')
        sluice(d, 'resize', '-f', 'cow', 'top.cow', '+0')
        sluice(d, 'commit', *keep, '-f', 'cow', 'top.cow')
        same(d, 'base.raw', 'raw', 'patch.raw')
        same(d, 'top.cow', 'cow', 'patch.raw')
        assert 'No errors' in sluice(d, 'check', 'top.cow')


def test_changed_base(d):
    """A base that somebody wrote to is refused, until one insists."""
    make(d)
    sluice(d, 'resize', '-f', 'cow', 'top.cow', '+1M')   # learns the base
    os.utime(os.path.join(d, 'base.raw'), (1000, 1000))
    out = sluice(d, 'convert', '-f', 'cow', '-O', 'raw', 'top.cow', 'x.raw',
                 status=1)
    assert 'was changed since' in out and 'rebase -u' in out, out
    sluice(d, 'rebase', '-u', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
           'top.cow')
    sluice(d, 'convert', '-f', 'cow', '-O', 'raw', 'top.cow', 'x.raw')


def test_restored_pair(d):
    """Both files copied: refused with a hint, and the repair takes them."""
    make(d)
    os.mkdir(d + '/new')
    subprocess.run(['cp', '-p', d + '/top.cow', d + '/top.partial',
                    d + '/base.raw', d + '/new'], check=True)
    out = sluice(d, 'convert', '-f', 'cow', '-O', 'raw', 'new/top.cow',
                 'x.raw', status=1)
    assert 'is not the file that' in out and 'check -r all' in out, out
    sluice(d, 'check', '-f', 'cow', 'new/top.cow', status=2)
    sluice(d, 'check', '-r', 'all', '-f', 'cow', 'new/top.cow')
    same(d, 'new/top.cow', 'cow', 'base.raw')


def read_or_none(d, name):
    """What the disk shows, with the parts that it has itself; None: an error."""
    p = subprocess.run([SLUICE, 'convert', '-f', 'cow', '-O', 'raw', name,
                        'view.raw'], capture_output=True, check=False, cwd=d)
    if p.returncode:
        return None
    with open(os.path.join(d, 'view.raw'), 'rb') as f:
        return f.read()


def test_repair_of_a_slot_changes_nothing(d):
    """Of the two headers either one is torn, at each sector: what could be read
    before reads the same after a repair, and no part comes from elsewhere."""
    make(d)
    sluice(d, 'resize', '-f', 'cow', 'top.cow', '+1M')
    with open(d + '/part.raw', 'wb') as f:
        f.write(b'own part' * 4096)
        f.truncate(SIZE + MIB)
    sluice(d, 'convert', '-n', '-f', 'raw', '-O', 'cow', 'part.raw',
           'top.cow')
    with open(d + '/top.cow', 'rb') as f:
        good = f.read(8192)
    readable = 0
    for at in range(0, 8192, 512):
        for how in ('leaks', 'all'):
            with open(d + '/top.cow', 'r+b') as f:
                f.write(good)
                f.seek(at)
                f.write(bytes(b ^ 0x5a for b in good[at:at + 512]))
            before = read_or_none(d, 'top.cow')
            if before is None:
                continue
            readable += 1
            sluice(d, 'check', '-r', how, '-f', 'cow', 'top.cow')
            assert read_or_none(d, 'top.cow') == before, (at, how)
            assert 'No errors' in sluice(d, 'check', '-f', 'cow', 'top.cow')
    assert readable > 16, readable


def test_sizes(d):
    make(d, 'top.cow', '-o', 'cluster_size=64k')
    sluice(d, 'resize', '-f', 'cow', 'top.cow', '+1M')
    out = sluice(d, 'resize', '-f', 'cow', '--shrink', 'top.cow', '1M',
                 status=1)
    assert 'not supported' in out, out
    sluice(d, 'measure', '-O', 'cow', '--size', '16T')
    out = sluice(d, 'create', '-q', '-f', 'cow', 'big.cow', '600T', status=1)
    assert 'must be a multiple' in out, out
    assert sorted(os.listdir(d)) == ['base.raw', 'top.cow', 'top.partial']


def test_dd(d):
    make(d)
    sluice(d, 'dd', '-f', 'cow', '-O', 'raw', 'if=top.cow', 'of=x.raw',
           'bs=1M')
    same(d, 'x.raw', 'raw', 'base.raw')


if __name__ == '__main__':
    run(globals())
