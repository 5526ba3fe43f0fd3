#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A finished overlay by the name of its sidecar, which is gone: the command
line that populated it opens the disk that it became, and says so.  What only looks
like it - half a disk, no disk - is never opened."""
import os
import subprocess

from sluiced import SLUICE, SLUICED, Sluiced, run, write_pattern

MIB = 1 << 20
SIZE = 8 * MIB
NOTE = "'%s' is finished: '%s' is the disk now"


def sluice(d, *args, status=0):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    assert p.returncode == status, '%s: %d %s%s' % (args, p.returncode,
                                                    p.stdout, p.stderr)
    return p.stdout + p.stderr


def make(d, *options):
    write_pattern(d + '/base.raw', SIZE)
    sluice(d, 'create', '-q', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
           *options, 'disk.img.cow')


def finish(d, *options):
    """An overlay that is finished; its base is gone."""
    make(d, *options)
    sluice(d, 'rebase', '-f', 'cow', '-b', '', 'disk.img.cow')
    os.rename(d + '/base.raw', d + '/want.raw')
    assert names(d) == ['disk.img'], names(d)


def names(d):
    return sorted(n for n in os.listdir(d) if n.startswith('disk'))


def same(d, name='disk.img'):
    with open(d + '/want.raw', 'rb') as a, open(d + '/' + name, 'rb') as b:
        assert a.read() == b.read()


def refused(d, *args):
    """A daemon that does not start: what it says."""
    p = subprocess.run([SLUICED, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    assert p.returncode == 1, (args, p)
    return p.stderr


BLOCKDEV = 'driver=cow,node-name=v,file.driver=file,file.filename=disk.img.cow'
LINES = {
    'drive': ('--drive', 'id=v,file=disk.img.cow,format=cow'),
    'copy-on-read': ('--drive', 'id=v,file=disk.img.cow,format=cow,'
                     'copy-on-read=on'),
    'blockdev': ('--blockdev', BLOCKDEV),
    'named': ('--blockdev', 'file,node-name=f,filename=disk.img.cow',
              '--blockdev', 'cow,node-name=v,file=f'),
    'filter': ('--blockdev', 'driver=cow,node-name=v,file.driver=blkdebug,'
               'file.image.driver=file,file.image.filename=disk.img.cow'),
    'base': ('--blockdev', BLOCKDEV + ',backing.driver=raw,'
             'backing.file.driver=file,backing.file.filename=base.raw'),
    'data': ('--backing-policy', 'explicit', '--blockdev', BLOCKDEV +
             ',data-file.driver=raw,data-file.file.driver=file,'
             'data-file.file.filename=disk.img.partial,backing.driver=raw,'
             'backing.file.driver=file,backing.file.filename=base.raw'),
    'json': ('--blockdev', '{"driver": "cow", "node-name": "v", "file": '
             '{"driver": "file", "filename": "disk.img.cow"}}'),
}


def write(s, off, length, byte):
    out = s.qmp.hmp('qemu-io v "write -P %d %d %d"' % (byte, off, length))
    assert 'wrote' in out, out


def fill_and_start_again(root, name, line):
    d = os.path.join(root, name)
    os.mkdir(d)
    make(d)
    with Sluiced(d, *line) as s:
        write(s, 4096, 4096, 1)
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v'})
        data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
        assert 'error' not in data, data
        write(s, 3 * MIB + 512, 512, 2)
        assert NOTE % ('disk.img.cow', 'disk.img') not in s.errors()
    assert names(d) == ['disk.img'], names(d)
    os.rename(d + '/base.raw', d + '/want.raw')
    for turn in (3, 4):
        with Sluiced(d, *line) as s:
            assert NOTE % ('disk.img.cow', 'disk.img') in s.errors()
            write(s, 5 * MIB, 70000, turn)
            s.qmp.hmp('qemu-io v flush')
            files = [n['file'] for n in s.qmp.cmd('query-named-block-nodes')]
            assert all(f.endswith('disk.img') for f in files), (name, files)
    with open(d + '/want.raw', 'r+b') as f:
        for off, data in ((4096, b'\1' * 4096), (3 * MIB + 512, b'\2' * 512),
                          (5 * MIB, b'\4' * 70000)):
            f.seek(off)
            f.write(data)
    assert names(d) == ['disk.img'], names(d)
    same(d)


def test_same_command_line(d):
    for name, line in LINES.items():
        fill_and_start_again(d, name, line)


def test_stream_on(d):
    """A unit that streams at its start has nothing to do any more."""
    finish(d)
    with Sluiced(d, '--drive', 'id=v,file=disk.img.cow,format=cow,'
                 'copy-on-read=on,stream=on') as s:
        while s.qmp.cmd('query-block-jobs'):
            s.qmp.wait_event('BLOCK_JOB_COMPLETED')
        write(s, 0, 512, 9)
    assert names(d) == ['disk.img'], names(d)


def test_recorded_job(d):
    """The daemon ended after the disk was finished, and before its job's record
    went: the job ends when it is resumed."""
    make(d)
    os.mkdir(d + '/state')
    line = LINES['drive'] + ('--state-dir', d + '/state')
    with Sluiced(d, *line) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v', 'speed': 1})
        s.kill()
    sluice(d, 'rebase', '-f', 'cow', '-b', '', 'disk.img.cow')
    os.rename(d + '/base.raw', d + '/want.raw')
    with Sluiced(d, *line) as s:
        while s.qmp.cmd('query-block-jobs'):
            s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
    same(d)
    assert names(d) == ['disk.img'], names(d)


def test_reopen(d):
    """With the same options, before and after a restart."""
    make(d)
    line = ('--blockdev', 'file,node-name=f,filename=disk.img.cow',
            '--blockdev', 'file,node-name=g,filename=disk.img.partial',
            '--blockdev', 'raw,node-name=r,file=g',
            '--blockdev', 'cow,node-name=v,file=f,data-file=r')
    sidecar = {'driver': 'file', 'node-name': 'f', 'filename': 'disk.img.cow'}
    with Sluiced(d, *line) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v'})
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        for name in ('disk.img.partial', 'disk.img'):
            s.qmp.cmd('blockdev-reopen', {'options': [
                {'driver': 'file', 'node-name': 'g', 'filename': name}]})
        assert s.qmp.error('blockdev-reopen', {'options': [
            {'driver': 'file', 'node-name': 'g', 'filename': 'base.raw'}]}) \
            == "Cannot change the option 'filename'"
    with Sluiced(d, *LINES['named']) as s:
        s.qmp.cmd('blockdev-reopen', {'options': [sidecar]})
        for read_only in (True, False):
            s.qmp.cmd('blockdev-reopen', {'options': [
                {'driver': 'cow', 'node-name': 'v', 'file': 'f',
                 'read-only': read_only}]})
        write(s, 0, 512, 1)


def test_read_only(d):
    finish(d)
    os.chmod(d + '/disk.img', 0o444)
    for line in (('--blockdev', BLOCKDEV + ',read-only=on'),
                 ('--drive', 'id=v,file=disk.img.cow,readonly=on')):
        with Sluiced(d, *line) as s:
            out = s.qmp.hmp('qemu-io v "read 0 512"')
            assert 'read 512' in out, out
    same(d)


def test_qmp(d):
    finish(d)
    with Sluiced(d) as s:
        for _ in range(2):
            s.qmp.cmd('blockdev-add', {
                'driver': 'cow', 'node-name': 'v', 'file': {
                    'driver': 'file', 'filename': d + '/disk.img.cow'}})
            node, = [n for n in s.qmp.cmd('query-named-block-nodes')
                     if n['node-name'] == 'v']
            assert node['drv'] == 'cow', node
            assert node['file'] == d + '/disk.img', node
            s.qmp.cmd('block_resize', {'node-name': 'v', 'size': SIZE + MIB})
            write(s, SIZE, 512, 1)
            s.qmp.cmd('block_resize', {'node-name': 'v', 'size': SIZE})
            s.qmp.cmd('blockdev-del', {'node-name': 'v'})
        assert s.errors().count('is the disk now') == 1, s.errors()
    same(d)


def test_locks(d):
    """The disk is locked as such."""
    finish(d)
    with Sluiced(d, '--blockdev', BLOCKDEV):
        for words in (('info', '-f', 'cow', 'disk.img.cow'),
                      ('info', '-f', 'raw', 'disk.img')):
            assert 'lock' in sluice(d, *words, status=1)


def test_tool(d):
    finish(d)
    for spec in (('disk.img.cow',), ('-f', 'cow', 'disk.img.cow'),
                 ('--image-opts', 'driver=cow,file.filename=disk.img.cow')):
        info = sluice(d, 'info', *spec)
        assert 'file format: cow' in info and 'state: complete' in info, info
        assert 'data format: raw' in info, info
        assert NOTE % ('disk.img.cow', 'disk.img') in info, info
        assert 'disk.img' in sluice(d, 'map', *spec)
        assert 'No errors' in sluice(d, 'check', *spec)
        assert 'No errors' in sluice(d, 'check', '-r', 'all', *spec)
        sluice(d, 'convert', '-O', 'raw', *spec, 'out.raw')
        same(d, 'out.raw')
        sluice(d, 'measure', '-O', 'qcow2', *spec)
        sluice(d, 'rebase', '-u', '-b', '', *spec)
        sluice(d, 'rebase', '-b', '', *spec)
        assert names(d) == ['disk.img'], names(d)
        out = sluice(d, 'commit', *spec, status=1)
        assert 'does not have a backing file' in out, out
        out = sluice(d, 'rebase', '-u', '-b', 'want.raw', '-F', 'raw', *spec,
                     status=1)
        assert 'change the backing file' in out, out
        same(d)
    sluice(d, 'resize', '-f', 'cow', 'disk.img.cow', '+1M')
    sluice(d, 'resize', '--shrink', '-f', 'cow', 'disk.img.cow', '--', '-1M')
    same(d)
    # It is the target of a copy, too, and the copy's source is noticed.
    sluice(d, 'convert', '-n', '-f', 'raw', '-O', 'cow', 'out.raw',
           'disk.img.cow')
    same(d)
    out = sluice(d, 'convert', '-f', 'cow', '-O', 'raw', 'disk.img.cow',
                 'disk.img', status=1)
    assert 'is read by this command' in out, out
    same(d)


def test_another_folder(d):
    finish(d)
    os.mkdir(d + '/sub')
    out = sluice(d + '/sub', 'info', '../disk.img.cow')
    assert NOTE % ('../disk.img.cow', '../disk.img') in out, out


def test_backing_file(d):
    """Images that stand on the overlay stand on the disk."""
    make(d)
    for fmt in ('qcow2', 'qed'):
        sluice(d, 'create', '-q', '-f', fmt, '-b', 'disk.img.cow', '-F', 'cow',
               'top.' + fmt)
    sluice(d, 'rebase', '-f', 'cow', '-b', '', 'disk.img.cow')
    os.rename(d + '/base.raw', d + '/want.raw')
    for fmt in ('qcow2', 'qed'):
        out = sluice(d, 'convert', '-f', fmt, '-O', 'raw', 'top.' + fmt,
                     'out.raw')
        assert NOTE % ('disk.img.cow', 'disk.img') in out, out
        same(d, 'out.raw')
        with Sluiced(d, '--backing-policy', 'beneath=' + d, '--blockdev',
                     '%s,node-name=v,file.driver=file,file.filename=top.%s'
                     % (fmt, fmt)) as s:
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v'})
            data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
            assert 'error' not in data, data
        sluice(d, 'compare', '-f', fmt, '-F', 'raw', 'top.' + fmt, 'want.raw')


def everywhere_refused(d, words, finished=False):
    """By the tool, by the daemon, with and without a format; untouched."""
    before = names(d)
    for row in (('info', 'disk.img.cow'), ('info', '-f', 'cow', 'disk.img.cow'),
                ('check', '-r', 'all', '-f', 'cow', 'disk.img.cow'),
                ('convert', '-O', 'raw', 'disk.img.cow', 'out.raw'),
                ('rebase', '-u', '-f', 'cow', '-b', '', 'disk.img.cow'),
                ('resize', '-f', 'cow', 'disk.img.cow', '+1M')):
        out = sluice(d, *row, status=1)
        assert words in out, (row, out)
        assert ('is the disk now' in out) == finished, (row, out)
    for line in (LINES['drive'], LINES['blockdev'], LINES['named'],
                 ('--drive', 'file=disk.img.cow,readonly=on')):
        out = refused(d, *line)
        assert words in out, (line, out)
        assert ('is the disk now' in out) == finished, (line, out)
    assert names(d) == before


def test_never_half_a_disk(d):
    """The sidecar is gone, and the data file was not finished."""
    make(d)
    os.unlink(d + '/disk.img.cow')
    everywhere_refused(d, "'disk.img.partial' is no whole disk")
    write_pattern(d + '/disk.img', MIB)      # somebody else's
    everywhere_refused(d, "'disk.img.partial' is no whole disk")
    os.unlink(d + '/disk.img.partial')
    os.symlink('nowhere', d + '/disk.img.partial')
    everywhere_refused(d, "'disk.img.partial' is no whole disk")


def test_no_disk(d):
    everywhere_refused(d, 'No such file or directory')
    os.mkdir(d + '/disk.img')
    everywhere_refused(d, 'No such file or directory')
    os.rmdir(d + '/disk.img')
    os.mkfifo(d + '/disk.img')
    everywhere_refused(d, 'No such file or directory')
    os.unlink(d + '/disk.img')
    # A link that leads nowhere is not an overlay that ended.
    write_pattern(d + '/disk.img', MIB)
    os.symlink('nowhere', d + '/disk.img.cow')
    everywhere_refused(d, 'No such file or directory')
    os.unlink(d + '/disk.img.cow')
    # Nor is any other name.
    for name in ('disk.img.qcow2', 'disk.img.', 'disk.img.COW', 'disk'):
        out = sluice(d, 'info', name, status=1)
        assert 'No such file or directory' in out, out
    os.rename(d + '/disk.img', d + '/sub')
    out = sluice(d, 'info', d + '/.cow', status=1)
    assert 'No such file or directory' in out, out


def test_unfinished_is_unfinished(d):
    """While the sidecar is there it says what the disk is."""
    make(d)
    write_pattern(d + '/disk.img', MIB)
    info = sluice(d, 'info', 'disk.img.cow')
    assert 'state: populating' in info and 'is the disk now' not in info, info


def test_new_overlay(d):
    """In the place of a finished one: the disk is in its way."""
    finish(d)
    write_pattern(d + '/base.raw', SIZE, seed=2)
    out = sluice(d, 'create', '-f', 'cow', '-b', 'base.raw', '-F', 'raw',
                 'disk.img.cow', status=1)
    assert 'exists already' in out, out
    assert names(d) == ['disk.img'], names(d)
    same(d)


def header(fmt, d):
    path = d + '/header.' + fmt
    sluice(d, 'create', '-q', '-f', fmt, '-b', '/etc/passwd', '-F', 'raw',
           path, '1M')
    with open(path, 'rb') as f:
        return f.read(65536)


def test_bytes_of_another_format(d):
    """The data file's format went with the sidecar. What a guest wrote is not
    taken for one; a format that it was is not shown as a disk."""
    finish(d)
    for fmt in ('qcow2', 'qed'):
        data = header(fmt, d)
        with open(d + '/disk.img', 'r+b') as f:
            f.write(data)
        everywhere_refused(d, "looks like a %s image" % fmt, finished=True)
        out = sluice(d, 'info', 'disk.img.cow', status=1)
        assert "Open 'disk.img' itself" in out, out
        assert 'passwd' not in out, out
    for magic in (b'LUKS\xba\xbe\0\2', b'conectix', b'KDMV', bytes(8)):
        with open(d + '/disk.img', 'r+b') as f:
            f.write(magic + bytes(4096))
        assert 'state: complete' in sluice(d, 'info', 'disk.img.cow')
        with Sluiced(d, *LINES['drive']) as s:
            assert 'read 8' in s.qmp.hmp('qemu-io v "read 0 8"')


def test_other_data_format(d):
    finish(d, '-o', 'data_format=qed')
    everywhere_refused(d, 'looks like a qed image', finished=True)
    sluice(d, 'compare', '-f', 'qed', '-F', 'raw', 'disk.img', 'want.raw')


if __name__ == '__main__':
    run(globals())
