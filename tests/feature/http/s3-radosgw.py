#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A base in Ceph's radosgw: keys, versions, objects that are replaced, and a
server that takes If-Range for nothing."""
import os

from qmp import QmpError
from radosgw import KEY, KEY_ID, Radosgw
from rig import MIB, daemon, same, stream
from sluiced import Sluiced, qemu_img, run, write_pattern

SIZE = 8 * MIB
VERSIONING = (b'<VersioningConfiguration xmlns='
              b'"http://s3.amazonaws.com/doc/2006-03-01/">'
              b'<Status>Enabled</Status></VersioningConfiguration>')


def node(s3, key, bucket='master', **options):
    return dict({'driver': 's3', 'node-name': 'web', 'read-only': True,
                 'endpoint': s3.endpoint, 'bucket': bucket, 'key': key,
                 'key-id': KEY_ID, 'key-secret': 'key'}, **options)


def whole(d, s3, options, path, base='raw', **more):
    with daemon(d, options, base=base, size=SIZE, secrets=[('key', KEY)],
                **more) as s:
        data = stream(s)
        assert 'error' not in data, data
    same(d, path)
    os.unlink(d + '/top.qcow2')


def test_radosgw(d):
    raw = os.path.join(d, 'base.raw')
    write_pattern(raw, SIZE)
    write_pattern(d + '/other.raw', SIZE, 2)
    qemu_img('convert', '-c', '-O', 'qcow2', raw, d + '/base.qcow2')
    with Radosgw(d) as s3:
        s3.request('PUT', '/master')
        s3.request('PUT', '/versions')
        s3.request('PUT', '/versions', VERSIONING, 'versioning=')
        # Names that signatures stumble over.
        for key in ('disk.raw', 'a b/c+d=e:f@(g)\'h,~.raw', 'gr\u00fc\u00dfe'):
            s3.put('/master/' + key, raw)
            whole(d, s3, node(s3, key), raw)
        s3.put('/master/disk.qcow2', d + '/base.qcow2')
        whole(d, s3, node(s3, 'disk.qcow2'), raw, base='qcow2')
        # What is said when something is wrong.
        for secret, options, want in (
                ('wrong', {}, 'the server answered 403'),
                (KEY, {'key': 'none'}, 'the server answered 404'),
                (KEY, {'bucket': 'none'}, 'the server answered 404'),
                (KEY, {'version-id': 'none'}, 'the server answered 4')):
            with Sluiced(d, '--object', 'secret,id=key,data=' + secret) as s:
                try:
                    s.qmp.cmd('blockdev-add',
                              dict(node(s3, 'disk.raw'), **options))
                    raise RuntimeError('opened with %s' % options)
                except QmpError as e:
                    assert want in str(e) and secret not in str(e), e
        # Replaced under a stream.
        with daemon(d, node(s3, 'disk.raw'), size=SIZE,
                    secrets=[('key', KEY)]) as s:
            s3.put('/master/disk.raw', d + '/other.raw')
            data = stream(s)
            assert 'cannot be used any more' in data['error'], data
        os.unlink(d + '/top.qcow2')
        # ... where versions are kept, and deleted, too.
        s3.put('/versions/disk.raw', raw)
        with daemon(d, node(s3, 'disk.raw', 'versions'), size=SIZE,
                    secrets=[('key', KEY)]) as s:
            s3.put('/versions/disk.raw', d + '/other.raw')
            s3.request('DELETE', '/versions/disk.raw')
            data = stream(s)
            assert 'error' not in data, data
        same(d, raw)


if __name__ == '__main__':
    run(globals())
