# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of images in Ceph share."""
import json
import os
import subprocess

from sluiced import SLUICE, Sluiced, qemu_img

MIB = 1 << 20


def node(image, **options):
    """Options of a node for @image of pool rbd."""
    name, _, snapshot = image.partition('@')
    o = {'driver': 'rbd', 'node-name': 'ceph', 'pool': 'rbd', 'image': name}
    if snapshot:
        o.update({'snapshot': snapshot, 'read-only': True})
    return dict(o, **options)


def raw(path, size, *pieces):
    """A file of @size bytes with @pieces (offset, length, seed) of data."""
    import random
    with open(path, 'wb') as f:
        f.truncate(size)
        for off, length, seed in pieces:
            f.seek(off)
            f.write(random.Random(seed).randbytes(length))
    return path


def daemon(d, ceph, options, *args, size=None, **more):
    """A daemon with an overlay 'top' in @d over raw over node @options."""
    top = os.path.join(d, 'top.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', top, str(size))
    return Sluiced(
        d, '--blockdev', json.dumps(options),
        '--blockdev', json.dumps({'driver': 'raw', 'node-name': 'base',
                                  'read-only': True, 'file': 'ceph'}),
        '--blockdev', json.dumps(
            {'driver': 'qcow2', 'node-name': 'top', 'backing': 'base',
             'file': {'driver': 'file', 'filename': top}}),
        *args, env=ceph.env, **more)


def sluice(ceph, *words, status=0):
    """Run the tool; what it printed, both ways."""
    p = subprocess.run([SLUICE, *words], env=ceph.env, text=True,
                       capture_output=True, check=False)
    assert p.returncode == status, (words, p.returncode, p.stdout, p.stderr)
    return p.stdout + p.stderr


def same(ceph, a, b, fmt_a='raw', fmt_b='raw'):
    """Two disks, as QEMU reads them."""
    ceph.run('qemu-img', 'compare', '-f', fmt_a, '-F', fmt_b, a, b)


def io(s, device, command):
    """What qemu-io says of @command on a node."""
    return s.qmp.cmd('human-monitor-command',
                     {'command-line': 'qemu-io -d %s "%s"' % (device,
                                                              command)})


def sent(ceph):
    """Bytes that the store of objects has given out so far."""
    text = ceph.run('ceph', 'tell', 'osd.0', 'perf', 'dump').stdout
    return json.loads(text)['osd']['op_out_bytes']
