#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Overlays under raw nodes and filters: copy-on-read, prefetch and stream find
the overlay, whatever stands between."""
import json
import os
import sys

from sluiced import Sluiced, qemu_img, run, run_tool

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

MIB = 1 << 20
SIZE = 4 * MIB
CLUSTER = 64 << 10
SHIFT = MIB

# What may stand between the device and the overlay, top first.
STACKS = {
    'raw': ['raw'], 'window': ['window'], 'throttle': ['throttle'],
    'blkdebug': ['blkdebug'], 'raw-raw': ['raw', 'window'],
    'throttle-raw': ['throttle', 'raw'], 'raw-blkdebug': ['raw', 'blkdebug'],
    'all': ['throttle', 'window', 'blkdebug', 'raw'],
}


def make(d, fmt='qcow2'):
    """A base of ones; an overlay that has 2 in its second and last MiB."""
    base, top = (os.path.join(d, n) for n in ('base.raw', 'top.' + fmt))
    qemu_img('create', '-q', '-f', 'raw', base, str(SIZE))
    run_tool('qemu-io', '-f', 'raw', '-c', 'write -q -P 1 0 4M', base)
    qemu_img('create', '-q', '-f', fmt, '-b', base, '-F', 'raw', top)
    run_tool('qemu-io', '-f', fmt, '-c', 'write -q -P 2 3M 1M', top)
    return base, top


def layer(kind, below):
    if kind == 'window':
        return {'driver': 'raw', 'file': below, 'offset': SHIFT}
    more = {'throttle': {'throttle-group': 'g'},
            'blkdebug': {'image': below}}.get(kind, {})
    if kind != 'blkdebug':
        more = dict(more, file=below)
    return dict({'driver': kind}, **more)


def stack(kinds, top, fmt='qcow2'):
    below = {'driver': fmt, 'node-name': 'top',
             'file': {'driver': 'file', 'filename': top}}
    for kind in reversed(kinds):
        below = layer(kind, below)
    return below


def daemon(d, node):
    return Sluiced(d, '--object', 'throttle-group,id=g',
                   '--nbd-server', 'addr.type=unix,addr.path=%s/s' % d,
                   '--blockdev', json.dumps(node),
                   '--export', 'type=nbd,id=e,node-name=%s,name=n,writable=on'
                   % node['node-name'])


def client(d):
    h = nbd.NBD()
    h.connect_uri('nbd+unix:///n?socket=%s/s' % d)
    return h


def allocated(top, fmt='qcow2'):
    """Bytes of the disk that the overlay itself holds."""
    return sum(e['length'] for e in json.loads(qemu_img(
        'map', '-f', fmt, '--output=json', top)) if e['depth'] == 0)


def shift_of(kinds):
    return SHIFT * kinds.count('window')


def for_each_stack(test):
    def all_of_them(d):
        for name, kinds in STACKS.items():
            folder = os.path.join(d, name)
            os.mkdir(folder)
            try:
                test(folder, kinds)
            except BaseException:
                print('# stack', name)
                raise
    all_of_them.__name__ = test.__name__
    return all_of_them


@for_each_stack
def test_copy_on_read(d, kinds):
    _, top = make(d)
    node = {'driver': 'copy-on-read', 'node-name': 'c',
            'file': stack(kinds, top)}
    with daemon(d, node):
        h = client(d)
        assert h.pread(1024, 512) == b'\1' * 1024
        assert h.pread(1024, 3 * MIB - shift_of(kinds)) == b'\2' * 1024
        h.shutdown()
    assert allocated(top) == MIB + CLUSTER
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 3M', '-c',
             'read -P 2 3M 1M', top)
    held = json.loads(qemu_img('map', '--output=json', top))
    assert [e['start'] for e in held if e['depth'] == 0][0] == shift_of(kinds)


@for_each_stack
def test_prefetch(d, kinds):
    _, top = make(d)
    node = {'driver': 'copy-on-read', 'node-name': 'c',
            'file': stack(kinds, top)}
    with daemon(d, node):
        h = client(d)
        h.cache(2 * CLUSTER, 0)
        h.shutdown()
    assert allocated(top) == MIB + 2 * CLUSTER


@for_each_stack
def test_copy_on_read_under_it(d, kinds):
    """The filter may be anywhere, prefetch comes down to it."""
    _, top = make(d)
    node = stack(kinds, top)
    at = node
    while 'file' in at and at['driver'] != 'qcow2' or 'image' in at:
        key = 'image' if 'image' in at else 'file'
        if at[key]['driver'] == 'qcow2':
            at[key] = {'driver': 'copy-on-read', 'file': at[key]}
            break
        at = at[key]
    node['node-name'] = 'c'
    with daemon(d, node):
        h = client(d)
        h.cache(CLUSTER, 0)
        assert h.pread(1024, CLUSTER) == b'\1' * 1024
        h.shutdown()
    assert allocated(top) == MIB + 2 * CLUSTER


@for_each_stack
def test_stream(d, kinds):
    base, top = make(d)
    node = dict(stack(kinds, top), **{'node-name': 'c'})
    with daemon(d, node) as s:
        q = s.qmp
        q.cmd('block-stream', device='c', job_id='j', speed=1)
        assert q.cmd('query-block-jobs')[0]['len'] == SIZE
        # Nobody has it resized meanwhile, by any name.
        for name in ('c', 'top'):
            q.error('block_resize', node_name=name, size=8 * MIB)
        h = client(d)
        h.pwrite(b'\3' * 512, 0)
        q.cmd('block-job-set-speed', device='j', speed=0)
        q.wait_event('BLOCK_JOB_COMPLETED', device='j', len=SIZE)
        q.wait_event('JOB_STATUS_CHANGE', status='null')
        os.unlink(base)
        assert h.pread(512, 0) == b'\3' * 512
        assert h.pread(512, 512) == b'\1' * 512
        h.shutdown()
        q.cmd('block_resize', node_name='c', size=8 * MIB)
    assert 'backing file' not in qemu_img('info', top)
    at = shift_of(kinds)
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 3 %d 512' % at, '-c',
             'read -P 1 %d %d' % (at + 512, 3 * MIB - at - 512), '-c',
             'read -P 2 3M 1M', top)


def test_stream_to_a_base(d):
    """base and bottom are found under the view, by name and file name."""
    base, mid = make(d)
    top = os.path.join(d, 'top2.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', mid, '-F', 'qcow2', top)
    for args in ({'base': base}, {'bottom': 'mid'}):
        qemu_img('rebase', '-u', '-b', mid, '-F', 'qcow2', top)
        node = {'driver': 'raw', 'node-name': 'c', 'file': {
            'driver': 'qcow2', 'node-name': 'top',
            'file': {'driver': 'file', 'filename': top},
            'backing': {'driver': 'qcow2', 'node-name': 'mid',
                        'file': {'driver': 'file', 'filename': mid}}}}
        with daemon(d, node) as s:
            s.qmp.cmd('block-stream', device='c', job_id='j', **args)
            s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        assert 'backing file: ' + base in qemu_img('info', top)
        assert allocated(top) == MIB


def test_a_view_in_the_chain(d):
    """Raw over an overlay as a backing file: zeroes and all are found below."""
    _, mid = make(d)
    top = os.path.join(d, 'top2.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', top, str(SIZE - SHIFT))
    node = {'driver': 'qcow2', 'node-name': 'c',
            'file': {'driver': 'file', 'filename': top},
            'backing': stack(['window'], mid)}
    with daemon(d, node) as s:
        s.qmp.cmd('block-stream', device='c', job_id='j')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
    run_tool('qemu-io', '-f', 'qcow2', '-c', 'read -P 1 0 2M', '-c',
             'read -P 2 2M 1M', top)


def test_drive(d):
    """What --drive makes of its options."""
    for fmt in ('qcow2', 'qed'):
        folder = os.path.join(d, fmt)
        os.mkdir(folder)
        base, top = make(folder, fmt)
        with Sluiced(folder, '--drive', 'id=v,format=raw,file.driver=%s,'
                     'file.file.driver=file,file.file.filename=%s,'
                     'copy-on-read=on,stream=on' % (fmt, top)) as s:
            s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='v')
        os.unlink(base)
        assert 'backing file' not in qemu_img('info', top)


if __name__ == '__main__':
    run(globals())
