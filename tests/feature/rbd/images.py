#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images in Ceph as bases and as storage, against what rbd and QEMU say."""
import json
import os

from ceph import Ceph
from rig import MIB, daemon, io, node, sent, raw, same, sluice
from sluiced import Sluiced, qemu_img, run

SIZE = 64 * MIB
PIECES = ((0, MIB, 1), (20 * MIB + 4096, 3 * MIB, 2), (SIZE - 4096, 4096, 3))


def stream(s):
    s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
    data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
    assert 'error' not in data, data


def export(ceph, image, path):
    if os.path.exists(path):
        os.unlink(path)
    ceph.run('rbd', 'export', image, path)
    return path


def base_of_a_stream(d, ceph):
    """Holes cost nothing, with an object map and without."""
    path = raw(d + '/base.raw', SIZE, *PIECES)
    for features in ('layering',
                     'layering,exclusive-lock,object-map,fast-diff'):
        ceph.run('rbd', 'import', '--image-feature', features, path, 'base')
        ceph.run('rbd', 'snap', 'create', 'base@gold')
        before = sent(ceph)
        with daemon(d, ceph, node('base@gold'), size=SIZE) as s:
            stream(s)
            # Of sixteen objects of 4 MiB three hold data.
            read = sent(ceph) - before
            assert 4 * MIB <= read <= 12 * MIB + MIB // 4, read
        top = d + '/top.qcow2'
        assert 'backing file' not in qemu_img('info', top)
        same(ceph, path, top, 'raw', 'qcow2')
        os.unlink(top)
        # A clone shows its parent's bytes and its own.
        ceph.run('rbd', 'snap', 'protect', 'base@gold')
        ceph.run('rbd', 'clone', 'base@gold', 'clone')
        same(ceph, path, 'rbd:rbd/clone')
        sluice(ceph, 'convert', '-f', 'raw', '-O', 'raw', 'rbd:rbd/clone',
               d + '/out.raw')
        same(ceph, path, d + '/out.raw')
        ceph.run('rbd', 'rm', 'clone')
        ceph.run('rbd', 'snap', 'unprotect', 'base@gold')
        ceph.run('rbd', 'snap', 'purge', 'base')
        ceph.run('rbd', 'rm', 'base')


def overlay_in_ceph(d, ceph):
    """qcow2 on RBD over a snapshot on RBD, named by its header."""
    path = raw(d + '/base.raw', SIZE, *PIECES)
    ceph.run('rbd', 'import', path, 'base')
    ceph.run('rbd', 'snap', 'create', 'base@gold')
    sluice(ceph, 'create', '-f', 'qcow2', '-b', 'rbd:rbd/base@gold', '-F',
           'raw', 'rbd:rbd/top')
    ceph.run('qemu-img', 'check', '-f', 'qcow2', 'rbd:rbd/top')
    same(ceph, path, 'rbd:rbd/top', 'raw', 'qcow2')
    ceph.run('qemu-io', '-f', 'raw', '-c', 'write -P 7 1M 3M', path)
    with Sluiced(d, '--blockdev', json.dumps(
            {'driver': 'qcow2', 'node-name': 'top',
             'file': {'driver': 'rbd', 'pool': 'rbd', 'image': 'top'}}),
            env=ceph.env) as s:
        assert 'wrote' in io(s, 'top', 'write -P 7 1M 3M')
        stream(s)
    info = json.loads(ceph.run('qemu-img', 'info', '--output=json',
                               'rbd:rbd/top').stdout)
    assert info['format'] == 'qcow2' and 'backing-filename' not in info, info
    ceph.run('qemu-img', 'check', '-f', 'qcow2', 'rbd:rbd/top')
    same(ceph, path, 'rbd:rbd/top', 'raw', 'qcow2')
    ceph.run('rbd', 'snap', 'purge', 'base')
    for image in ('top', 'base'):
        ceph.run('rbd', 'rm', image)


def written_by_a_guest(d, ceph):
    """Writes, zeroes, discards, sizes: what rbd export then has."""
    size = 32 * MIB
    sluice(ceph, 'create', '-f', 'raw', 'rbd:rbd/disk', str(size))
    text = sluice(ceph, 'create', '-f', 'raw', 'rbd:rbd/disk', str(size),
                  status=1)
    assert 'File exists' in text, text
    path = raw(d + '/disk.raw', size)
    options = {'driver': 'raw', 'node-name': 'disk',
               'file': node('disk', discard='unmap')}
    with Sluiced(d, '--blockdev', json.dumps(options), env=ceph.env) as s:
        for command in ('write -P 1 0 9M', 'write -P 2 12345 777',
                        'write -z 4M 1M', 'write -z -u 5M 1M',
                        'discard 8M 1M', 'write -P 3 31M 1M', 'flush'):
            text = io(s, 'disk', command)
            assert 'rror' not in text, text
            if command != 'flush':
                ceph.run('qemu-io', '-d', 'unmap', '-f', 'raw', '-c',
                         command, path)
        for offset, byte in ((0, 1), (4 * MIB, 0), (8 * MIB - 512, 1)):
            text = io(s, 'disk', 'read -P %d %d 512' % (byte, offset))
            assert 'failed' not in text, text
        s.qmp.cmd('block_resize', {'node-name': 'disk', 'size': 40 * MIB})
        text = io(s, 'disk', 'write -P 4 39M 1M')
        assert 'wrote' in text, text
    ceph.run('qemu-img', 'resize', '-q', '-f', 'raw', path, '40M')
    ceph.run('qemu-io', '-f', 'raw', '-c', 'write -P 4 39M 1M', path)
    same(ceph, path, export(ceph, 'disk', d + '/out.raw'))
    sluice(ceph, 'resize', '-f', 'raw', '--shrink', 'rbd:rbd/disk', '16M')
    info = json.loads(ceph.run('rbd', 'info', '--format', 'json',
                               'disk').stdout)
    assert info['size'] == 16 * MIB, info
    ceph.run('rbd', 'rm', 'disk')


def size_of(ceph, image):
    return json.loads(ceph.run('rbd', 'info', '--format', 'json',
                               image).stdout)['size']


def grows_as_it_is_written(d, ceph):
    """In large steps, and ends where its last byte is; after a kill it is
    longer, which harms nobody."""
    path = raw(d + '/base.raw', 8 * MIB, (0, 3 * MIB, 5))
    sluice(ceph, 'convert', '-f', 'raw', '-O', 'qcow2', path, 'rbd:rbd/grown')
    assert 3 * MIB < size_of(ceph, 'grown') < 5 * MIB
    same(ceph, path, 'rbd:rbd/grown', 'raw', 'qcow2')
    ceph.run('rbd', 'rm', 'grown')
    options = {'driver': 'qcow2', 'node-name': 'disk', 'file': node('grown')}
    ceph.run('qemu-img', 'create', '-q', '-f', 'qcow2', d + '/new', '8M')
    ceph.run('rbd', 'import', '--image-feature', 'layering', d + '/new',
             'grown')
    s = Sluiced(d, '--blockdev', json.dumps(options), env=ceph.env)
    for command in ('write -P 9 0 1M', 'flush'):
        assert 'rror' not in io(s, 'disk', command)
    s.kill()
    assert size_of(ceph, 'grown') == 64 * MIB
    ceph.run('qemu-img', 'check', '-f', 'qcow2', 'rbd:rbd/grown')
    ceph.run('qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 9 0 1M',
             'rbd:rbd/grown')
    with Sluiced(d, '--blockdev', json.dumps(options), env=ceph.env) as s:
        assert 'rror' not in io(s, 'disk', 'write -P 8 1M 1M')
    ceph.run('qemu-img', 'check', '-f', 'qcow2', 'rbd:rbd/grown')
    # It stays: the cluster waits for the client that was killed.


def names(d, ceph):
    """Namespaces, and characters that have a meaning in names."""
    path = raw(d + '/base.raw', 4 * MIB, (0, MIB, 5))
    ceph.run('rbd', 'namespace', 'create', 'rbd/space')
    ceph.run('rbd', 'import', path, 'rbd/space/a:b=c\\d')
    name = 'rbd:rbd/space/a\\:b\\=c\\\\d'
    same(ceph, path, name)
    sluice(ceph, 'convert', '-f', 'raw', '-O', 'raw', name, d + '/out.raw')
    same(ceph, path, d + '/out.raw')
    info = json.loads(sluice(ceph, 'info', '--output=json', name))
    assert info['filename'] == name, info
    # Monitors by option, the key by a secret, another user.
    ceph.run('ceph', 'auth', 'get-or-create', 'client.vm', 'mon',
             'profile rbd', 'osd', 'profile rbd')
    key = ceph.run('ceph', 'auth', 'get-key', 'client.vm').stdout
    with open(d + '/key', 'w', encoding='ascii') as f:
        f.write(key + '\n')
    options = {'driver': 'raw', 'file': {
        'driver': 'rbd', 'pool': 'rbd', 'namespace': 'space',
        'image': 'a:b=c\\d', 'user': 'vm', 'key-secret': 'k',
        'conf': '/dev/null', 'auth-client-required': ['cephx'],
        'server': [{'host': '127.0.0.1', 'port': str(ceph.mon)}]}}
    os.unlink(d + '/out.raw')
    text = sluice(ceph, 'convert', '--object',
                  'secret,id=k,file=%s/key' % d, '-O', 'raw',
                  'json:' + json.dumps(options), d + '/out.raw')
    assert key not in text
    same(ceph, path, d + '/out.raw')


def exclusive_lock(d, ceph):
    """Who writes has it alone; who reads needs none."""
    ceph.run('rbd', 'create', '--size', '8M', '--image-feature',
             'layering,exclusive-lock', 'locked')
    options = {'driver': 'raw', 'node-name': 'disk', 'file': node('locked')}
    export_words = ('--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d,
                    '--export',
                    'nbd,id=e,node-name=disk,writable=on,name=e')
    with Sluiced(d, '--blockdev', json.dumps(options), *export_words,
                 env=ceph.env):
        text = sluice(ceph, 'dd', '-f', 'raw', '-O', 'raw', 'if=/dev/zero',
                      'of=rbd:rbd/locked', 'count=1', status=1)
        text = sluice(ceph, 'resize', '-f', 'raw', 'rbd:rbd/locked', '16M',
                      status=1)
        assert 'Failed to get exclusive lock' in text, text
        sluice(ceph, 'info', '-f', 'raw', 'rbd:rbd/locked')
    sluice(ceph, 'resize', '-f', 'raw', 'rbd:rbd/locked', '16M')
    ceph.run('rbd', 'rm', 'locked')


def base_that_changes(d, ceph):
    """Another image of the same name is no base of a job's end."""
    path = raw(d + '/base.raw', 4 * MIB, (0, MIB, 5))
    ceph.run('rbd', 'import', path, 'base')
    ceph.run('rbd', 'snap', 'create', 'base@gold')
    with daemon(d, ceph, node('base@gold'), size=4 * MIB) as s:
        s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                   'auto-finalize': False})
        s.qmp.wait_event('BLOCK_JOB_PENDING')
        ceph.run('rbd', 'snap', 'rm', 'base@gold')
        ceph.run('rbd', 'snap', 'create', 'base@gold')
        s.qmp.cmd('job-finalize', {'id': 'j'})
        data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
        assert 'another snapshot' in data['error'], data
    ceph.run('rbd', 'snap', 'purge', 'base')
    ceph.run('rbd', 'rm', 'base')
    os.unlink(d + '/top.qcow2')


def opened_and_closed(d, ceph):
    """An image that is closed as soon as it is open."""
    ceph.run('rbd', 'create', '--size', '4M', 'brief')
    ceph.run('rbd', 'snap', 'create', 'brief@gold')
    with Sluiced(d, env=ceph.env) as s:
        for _ in range(30):
            s.qmp.cmd('blockdev-add', node('brief@gold'))
            s.qmp.cmd('blockdev-del', {'node-name': 'ceph'})
    ceph.run('rbd', 'snap', 'purge', 'brief')
    ceph.run('rbd', 'rm', 'brief')


def test_images(d):
    with Ceph(d, pool='rbd') as ceph:
        base_of_a_stream(d, ceph)
        overlay_in_ceph(d, ceph)
        written_by_a_guest(d, ceph)
        grows_as_it_is_written(d, ceph)
        names(d, ceph)
        exclusive_lock(d, ceph)
        base_that_changes(d, ceph)
        opened_and_closed(d, ceph)


if __name__ == '__main__':
    run(globals())
