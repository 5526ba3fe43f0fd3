#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Wrong input of every kind, also where the words are those of qemu-img.  Each row is a command line and words that its
error must hold: field, value, place.  Nothing may be made, changed or lost by
a row, and what is asked wrongly of a running daemon leaves its disks alone."""
import hashlib
import os
import shutil
import subprocess

import nbd

from qmp import QmpError
from sluiced import SLUICE, SLUICED, Sluiced, run

MIB = 1 << 20

# (program, arguments, words of the error)
SLUICE_ROWS = [
    ('', ['command']),
    ('zork', ["'zork'"]),
    ('create', []),
    ('create -f', ['-f']),
    ('create -f zork new 1M', ['zork']),
    ('create -f qed new', ['size']),
    ('create -f qed new zork', ['image size']),
    ('create -f qed new -5', ['-5']),
    ('create -f qed new 1Z', ['image size']),
    ('create -f qed new 99999999999999999999', ['image size']),
    ('create -f qed new 9E', ['image size']),
    ('create -f qed new 7E', ['image size', '512']),
    ('create -f qed new 1M extra', ['extra']),
    ('create -f qed -o zork=1 new 1M', ['zork']),
    ('create -f qed -o cluster_size=5000 new 1M', ['cluster size', '4096']),
    ('create -f qed -o cluster_size=x new 1M', ['cluster_size', 'x']),
    ('create -f qed -o cluster_size=1G new 1M', ['cluster size']),
    ('create -f qed -o table_size=3 new 1M', ['table size', '16']),
    ('create -f qed -o table_size=0 new 1M', ['table size']),
    ('create -f qed -o cluster_size=4096,table_size=1 new 1E', []),
    ('create -f qed -b missing -F raw new', ['missing']),
    ('create -f qed -b base -F zork new', ['zork']),
    ('create -f qed -b base -F qed new', ['base']),
    ('create -f raw -b base -F raw new 1M', []),
    ('create -f qed -b . -F raw new 1M', []),
    ('create -f qed /nowhere/new 1M', ['/nowhere/new']),
    ('create -f qed sub 1M', ['sub']),
    ('create --zork', ['zork']),
    ('info', []),
    ('info missing', ['missing']),
    ('info -f zork top', ['zork']),
    ('info -f qed base', ['base']),
    ('info -f qed empty', ['empty']),
    ('info sub', ['sub']),
    ('info --output zork top', ['human or json']),
    ('info top more', ['more']),
    ('check -f qed base', ['base']),
    ('check -f qed broken', ['broken']),
    ('check -r zork -f qed top', ['zork']),
    ('check missing', ['missing']),
    ('map -s zork -f qed top', ['start offset']),
    ('map -l -1 -f qed top', ['max length']),
    ('map -f qed broken', ['broken']),
    ('resize -f qed top', []),
    ('resize -f qed top zork', ["'size'"]),
    ('resize -f qed top 512K', ['shrink']),
    ('resize -f qed top -512K', ['shrink']),
    ('resize -f raw base 512K', ['shrink']),
    ('resize -f qed missing 2M', ['missing']),
    ('resize -f qed top +9E', []),
    ('resize top 2M 3M', []),
    ('serve', []),
    ('serve missing.qed --socket s', ['missing.qed']),
    ('serve top --socket s', ['format']),
    ('serve -f qed top --socket s --cache zork', ['zork']),
    ('serve -f qed top --port 99999', ['99999']),
    ('serve -f qed top --socket s --io-engine zork', ['zork']),
    ('pull -s nosock v', ['nosock']),
    ('pull -s nosock', []),
    ('pull -s nosock v --speed zork', ['zork']),
    ('pull -s nosock v --on-error zork', ['nosock']),
    ('jobs -s nosock', ['nosock']),
    ('job -s nosock zork id', ['zork']),
    ('job -s nosock speed id', []),
    ('job', []),
    ('monitor -s nosock', ['nosock']),
]
SLUICED_ROWS = [
    ('--zork', ['--zork']),
    ('stray', ['stray']),
    ('--drive', ['--drive']),
    ('--daemonize=yes', ['--daemonize']),
    ('--drive id=v,file=top', ['format']),
    ('--drive id=v,file=missing,format=qed', ['missing']),
    ('--drive id=v,file=top,format=zork', ['zork']),
    ('--drive id=v,file=base,format=qed', ['base']),
    ('--drive id=v,file=broken,format=qed', ['broken']),
    ('--drive id=v,file=empty,format=qed', ['empty']),
    ('--drive id=v,file=sub,format=raw', ['sub']),
    ('--drive id=v,format=qed', ['file']),
    ('--drive id=v,file=top,format=qed,zork=1', ['zork']),
    ('--drive id=v,file=top,format=qed,stream=maybe', ['stream']),
    ('--drive id=v,file=top,format=qed,cache=zork', ['cache', 'zork']),
    ('--drive id=v,file=top,format=qed,readonly=2', ['readonly']),
    ('--drive id=1v,file=top,format=qed', ['1v']),
    ('--drive id=v,file=top,format=qed --drive id=v,file=base,format=raw',
     ['v']),
    ('--blockdev zork,node-name=a', ['zork']),
    ('--blockdev null-co', ['node-name']),
    ('--blockdev null-co,node-name=a,size=-1', ['size']),
    ('--blockdev null-co,node-name=a,size=1x', ['size']),
    ('--blockdev null-co,node-name=a --blockdev null-co,node-name=a', ['a']),
    ('--blockdev null-co,node-name=#x', ['node-name']),
    ('--blockdev raw,node-name=a', ['file']),
    ('--blockdev raw,node-name=a,file=zork', ['zork']),
    ('--blockdev raw,node-name=a,file.driver=file', ['filename']),
    ('--blockdev file,node-name=a,filename=missing', ['missing']),
    ('--blockdev qed,node-name=a,file.driver=file,file.filename=top,'
     'backing=zork', ['zork']),
    ('--blockdev nbd,node-name=a', []),
    ('--blockdev nbd,node-name=a,server.type=unix,server.path=nosock',
     ['nosock']),
    ('--blockdev nbd,node-name=a,server.type=zork', ['zork']),
    ('--blockdev nbd,node-name=a,server.type=inet,server.host=h,'
     'server.port=999999', ['999999']),
    ('--blockdev throttle,node-name=a,throttle-group=zork,file.driver=null-co',
     ['zork']),
    ('--blockdev {"driver":', ['JSON']),
    ('--blockdev =', []),
    ('--blockdev a..b=1', ['a..b']),
    ('--object zork,id=o', ['zork']),
    ('--object throttle-group', ['id']),
    ('--export nbd,id=e,node-name=zork', []),
    ('--blockdev null-co,node-name=n --export nbd,id=e,node-name=n',
     ['running']),
    ('--nbd-server addr.type=unix', ['path']),
    ('--nbd-server addr.type=zork,addr.path=s', ['zork']),
    ('--nbd-server addr.type=unix,addr.path=/nowhere/s', ['/nowhere/s']),
    ('--nbd-server addr.type=inet,addr.host=0.0.0.0,addr.port=0', ['0.0.0.0']),
    ('--nbd-server addr.type=unix,addr.path=s,max-connections=-1',
     ['max-connections']),
    ('--chardev zork,id=c', ['zork']),
    ('--chardev socket,id=c', []),
    ('--chardev socket,path=s,server=on', ['id']),
    ('--monitor zork', ['zork']),
    ('--chardev stdio,id=c --monitor c,mode=zork', ['zork']),
    ('--io-engine zork', ['zork']),
    ('--backing-policy zork', ['zork']),
    ('--backing-policy beneath=', ['beneath']),
    ('--resume-jobs maybe', ['maybe']),
    ('--state-dir /nowhere/x', ['/nowhere/x']),
    ('--pidfile /nowhere/pid', ['/nowhere/pid']),
    ('--pidfile sub', ['sub']),
]
QMP_ROWS = [
    ('zork', {}, ['zork']),
    ('block-stream', {}, ['device']),
    ('block-stream', {'device': 'zork'}, ['zork']),
    ('block-stream', {'device': 'v', 'base': 'zork'}, ['zork']),
    ('block-stream', {'device': 'v', 'speed': -1}, ['speed']),
    ('block-stream', {'device': 'v', 'speed': 'x'}, ['speed']),
    ('block-stream', {'device': 'v', 'on-error': 'zork'}, ['zork']),
    ('block-stream', {'device': 'v', 'job-id': '1 2'}, ['1 2']),
    ('block-stream', {'device': 'v', 'base': 'base', 'base-node': 'v'},
     ['base']),
    ('blockdev-add', {'driver': 'qed', 'node-name': 'x'}, ['file']),
    ('blockdev-add', {'driver': 'null-co', 'node-name': 'x', 'zork': 1},
     ['zork']),
    ('blockdev-add', {'driver': 'file', 'node-name': 'x',
                      'filename': 'a\nb'}, []),
    ('blockdev-add', {'driver': 'file', 'node-name': 'x' * 32,
                      'filename': 'base'}, ['ode name']),
    ('blockdev-del', {'node-name': 'zork'}, ['zork']),
    ('blockdev-reopen', {'options': []}, None),
    ('blockdev-reopen', {'options': [{'driver': 'null-co',
                                      'node-name': 'zork'}]}, ['zork']),
    ('block_resize', {'device': 'v', 'size': -1}, []),
    ('block_resize', {'device': 'zork', 'size': 1}, ['zork']),
    ('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'v'}, ['e']),
    ('block-export-add', {'type': 'zork', 'id': 'f', 'node-name': 'v'},
     ['zork']),
    ('block-export-del', {'id': 'zork'}, ['zork']),
    ('nbd-server-start', {'addr': {'type': 'unix', 'data': {'path': 's'}}},
     ['already']),
    ('job-cancel', {'id': 'zork'}, ['not found']),
    ('block-job-cancel', {'device': 'zork'}, ['not ']),
    ('block-job-set-speed', {'device': 'zork', 'speed': 1}, ['not ']),
    ('change-backing-file', {'device': 'v', 'image-node-name': 'zork',
                             'backing-file': 'x'}, ['zork']),
    ('object-add', {'qom-type': 'zork', 'id': 'o'}, ['zork']),
    ('object-del', {'id': 'zork'}, ['zork']),
    ('human-monitor-command', {'command-line': 5}, ['command-line']),
    ('block-dirty-bitmap-add', {'node': 'v'}, ['name']),
    ('block-dirty-bitmap-add', {'node': 'v', 'name': ''}, ['name']),
    ('block-dirty-bitmap-add', {'node': 'v', 'name': 'b', 'granularity': 3},
     ['Granularity']),
    ('block-dirty-bitmap-add', {'node': 'v', 'name': 'b', 'granularity': -1},
     ['granularity']),
    ('block-dirty-bitmap-add', {'node': 'v', 'name': 'b', 'persistent': True},
     ['persistent']),
    ('block-dirty-bitmap-merge', {'node': 'v', 'target': 'b', 'bitmaps': [5]},
     ['bitmaps']),
    ('block-dirty-bitmap-clear', {'node': 'v', 'name': 'zork'}, ['zork']),
    ('transaction', {'actions': [{'type': 'zork', 'data': {}}]}, ['zork']),
    ('transaction', {'actions': [
        {'type': 'block-dirty-bitmap-add', 'data': {
            'node': 'v', 'name': 'b'}},
        {'type': 'block-dirty-bitmap-add', 'data': {'node': 'v'}}]}, ['name']),
    ('transaction', {'actions': [
        {'type': 'block-dirty-bitmap-add', 'data': {
            'node': 'v', 'name': 'b'}},
        {'type': 'blockdev-backup', 'data': {
            'device': 'v', 'target': 'v', 'sync': 'full'}}]}, ['same']),
    ('transaction', {'actions': [], 'properties': {
        'completion-mode': 'zork'}}, ['zork']),
    ('blockdev-backup', {'device': 'v', 'target': 'zork', 'sync': 'full'},
     ['zork']),
    ('blockdev-backup', {'device': 'v', 'target': 'v', 'sync': 'zork'},
     ['zork']),
    ('drive-backup', {'device': 'v', 'target': 'base', 'sync': 'full',
                      'mode': 'existing', 'format': 'zork'}, ['zork']),
    ('drive-backup', {'device': 'v', 'target': 'new', 'sync': 'full',
                      'format': 'zork'}, ['zork']),
    ('drive-backup', {'device': 'v', 'target': 'top', 'sync': 'full',
                      'format': 'qed'}, ['lock']),
    ('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'c',
                      'file': {'driver': 'null-co', 'size': MIB},
                      'target': 'zork'}, ['zork']),
    ('blockdev-add', {'driver': 'copy-before-write', 'node-name': 'c',
                      'file': 'zork', 'target': {
                          'driver': 'null-co', 'size': MIB}}, ['zork']),
    ('blockdev-add', {'driver': 'snapshot-access', 'node-name': 'c'},
     ['file']),
    ('block-export-add', {'type': 'nbd', 'id': 'f', 'node-name': 'v',
                          'bitmaps': [{'node': 'v'}]}, ['bitmaps']),
]


def prepare(d):
    os.mkdir(d + '/sub')
    for name, data in (('base', bytes(range(256)) * (MIB // 256)),
                       ('empty', b''),
                       ('broken', b'QED\0' + b'\xff' * 8188)):
        with open(os.path.join(d, name), 'wb') as f:
            f.write(data)
    subprocess.run([SLUICE, 'create', '-q', '-f', 'qed', '-b', 'base', '-F',
                    'raw', 'top'], cwd=d, check=True)


def snapshot(d):
    """All that a row could make, change or lose."""
    result = {}
    for folder, _, names in os.walk(d):
        result[folder] = sorted(names)
        for name in names:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            with open(path, 'rb') as f:
                result[path] = (st.st_mode, st.st_size, st.st_ino, hashlib
                                .sha256(f.read()).hexdigest())
    return result


def fails(d, program, row):
    line, words = row
    before = snapshot(d)
    p = subprocess.run([program] + line.split(), cwd=d, capture_output=True,
                       text=True, check=False,
                       stdin=subprocess.DEVNULL,
                       env={k: v for k, v in os.environ.items()
                            if k != 'SLUICE_SOCKET'})
    assert p.returncode in (1, 2), (line, p.returncode, p.stdout, p.stderr)
    text = p.stderr
    assert text.startswith(os.path.basename(program)), (line, text)
    for word in words:
        assert word in text, '%s: no %r in %r' % (line, word, text)
    for bad in ('Sanitizer', 'runtime error', 'ssertion', '(null)'):
        assert bad not in text, (line, text)
    assert snapshot(d) == before, (line, 'files were changed')


def make_row(program, row):
    def test(d):
        prepare(d)
        fails(d, program, row)
        # A tool that works leaves the image good.
        assert subprocess.run([SLUICE, 'check', '-q', '-f', 'qed', 'top'],
                              cwd=d, check=False).returncode == 0
    return test


class Daemon(Sluiced):
    def __init__(self, d):
        prepare(d)
        super().__init__(
            d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
            '--drive', 'id=v,file=top,format=qed', '--export',
            'nbd,id=e,node-name=v,name=v')


def test_qmp_rows_leave_a_running_daemon_alone(d):
    with Daemon(d) as s:
        h = nbd.NBD()
        h.connect_uri('nbd+unix:///v?socket=%s/n' % d)
        want = bytes(h.pread(4096, 0))
        nodes = s.qmp.cmd('query-named-block-nodes')
        files = {k: v for k, v in snapshot_files(d).items()}
        for name, args, words in QMP_ROWS:
            try:
                s.qmp.cmd(name, args)
                assert words is None, (name, args, 'succeeded')
            except QmpError as e:
                for word in words or []:
                    assert word in e.desc, (name, args, e.desc)
            assert s.qmp.cmd('query-named-block-nodes') == nodes, (name, args)
            assert s.qmp.cmd('query-jobs') == [], (name, args)
            assert bytes(h.pread(4096, 0)) == want
        assert snapshot_files(d) == files
        h.shutdown()


def snapshot_files(d):
    result = {}
    for name in ('base', 'top', 'empty', 'broken'):
        with open(os.path.join(d, name), 'rb') as f:
            result[name] = hashlib.sha256(f.read()).hexdigest()
    return result


def test_other_programs_beside_a_running_daemon(d):
    """What is in use is not opened a second time, and stays as it is."""
    with Daemon(d) as s:
        files = snapshot_files(d)
        for args in (['create', '-f', 'qed', 'top', '1M'],
                     ['resize', '-f', 'qed', 'top', '2M'],
                     ['check', '-r', 'all', '-f', 'qed', 'top']):
            p = subprocess.run([SLUICE] + args, cwd=d, capture_output=True,
                               text=True, check=False)
            assert p.returncode == 1 and 'lock' in p.stderr, (args, p)
        for args in (['--drive', 'id=w,file=top,format=qed'],
                     ['--nbd-server', 'addr.type=unix,addr.path=n'],
                     ['--chardev', 'socket,id=c,path=qmp.sock,server=on,'
                      'wait=off', '--monitor', 'c']):
            p = subprocess.run([SLUICED] + args, cwd=d, capture_output=True,
                               text=True, check=False)
            assert p.returncode == 1, (args, p)
        assert snapshot_files(d) == files
        assert s.qmp.cmd('query-block')[0]['device'] == 'v'


def add_rows():
    for program, rows in ((SLUICE, SLUICE_ROWS), (SLUICED, SLUICED_ROWS)):
        for row in rows:
            name = 'test_%s %s' % (os.path.basename(program), row[0])
            assert name not in globals(), name
            globals()[name] = make_row(program, row)


if __name__ == '__main__':
    if shutil.which(SLUICE) is None:
        print('1..0 # SKIP no sluice')
    add_rows()
    run(globals())
