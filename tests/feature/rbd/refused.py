#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said when an option of an image in Ceph is wrong, and what a header
may name."""
import base64
import json
import os
import struct

from ceph import Ceph
from rig import sluice
from sluiced import qemu_img, run

# As Ceph writes one: kind, time, length, sixteen bytes.
KEY = base64.b64encode(struct.pack('<HIIH', 1, 1700000000, 0, 16) +
                       b'nobody has this.').decode()


def info(ceph, options, *words):
    return sluice(ceph, 'info', *words, 'json:' + json.dumps(
        {'driver': 'raw', 'file': dict({'driver': 'rbd'}, **options)}),
        status=1)


def test_wrong_options(d):
    """Without a cluster."""
    class Nobody:
        env = dict(os.environ, CEPH_CONF='/dev/null')
    good = {'pool': 'p', 'image': 'i'}
    for options, want in (
            ({}, "Parameter 'pool' is missing"),
            ({'pool': 'p'}, "Parameter 'image' is missing"),
            (dict(good, conf=d + '/none'), 'error reading conf file'),
            (dict(good, server='x'), "'server', expected: array"),
            (dict(good, server=[{'host': 'x'}]), "'port' is missing"),
            (dict(good, **{'auth-client-required': ['x']}), "value 'x'"),
            (dict(good, **{'key-secret': 'none'}), 'none'),
            (dict(good, **{'open-timeout': 0}), 'expects 1 to'),
            (dict(good, **{'on-base-hang': 'x'}), "value 'x'"),
            (dict(good, encrypt={}), 'librbd is not supported'),
            (dict(good), 'no monitor is configured')):
        text = info(Nobody, options)
        assert want in text, (options, text)
    for name, want in (
            ('rbd:', 'Pool name is required'),
            ('rbd:p', 'Pool name is required'),
            ('rbd:p/', 'Image name is required'),
            ('rbd:p/i:x', 'conf option x has no value'),
            ('rbd:p/i:nothing_such=1', 'invalid conf option nothing_such'),
            ('rbd:p/i:key=' + KEY, 'A key may not stand in the name')):
        text = sluice(Nobody, 'info', '-f', 'raw', name, status=1)
        assert want in text, (name, text)
        if 'key' in name:
            # The name is as the user typed it; nothing more is told of it.
            assert text.count(KEY) <= 1, text
    text = info(Nobody, dict(good, server=[
        {'host': '127.0.0.1', 'port': '1'}], **{'open-timeout': 1,
                                                'key-secret': 'k'}),
        '--object', 'secret,id=k,data=' + KEY)
    assert 'no monitor of the cluster answered within 1 second' in text, text
    assert KEY not in text, text
    text = info(Nobody, dict(good, server=[
        {'host': '127.0.0.1', 'port': '1'}], **{'key-secret': 'k'}),
        '--object', 'secret,id=k,data=nonsense')
    assert "the key of user 'admin' is none of Ceph's" in text, text
    assert 'nonsense' not in text, text


def test_headers(d):
    """A header may not choose files for Ceph's library."""
    class Nobody:
        env = dict(os.environ, CEPH_CONF='/dev/null')
    top = d + '/top.qcow2'
    for tail, want in ((':conf=%s/x' % d, 'beneath /etc/ceph/ only'),
                       (':conf=/etc/ceph/../x', 'beneath /etc/ceph/ only'),
                       (':log_file=%s/x' % d, "option 'log_file'"),
                       (':id=a:mon_host=127.0.0.1\\:1', None)):
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', 'rbd:p/i' + tail,
                 '-F', 'raw', top, '1M')
        if want:
            text = sluice(Nobody, 'map', top, status=1)
            assert want in text, (tail, text)
        text = sluice(Nobody, 'create', '-u', '-f', 'qcow2', '-b',
                      'rbd:p/i' + tail, '-F', 'raw', d + '/new.qcow2', '1M',
                      status=1 if want else 0)
        assert not want or want in text, (tail, text)


def test_what_is_missing(d):
    with Ceph(d, pool='rbd') as ceph:
        ceph.run('rbd', 'create', '--size', '1M', 'disk')
        good = {'pool': 'rbd', 'image': 'disk'}
        for options, want in (
                ({'pool': 'none'}, 'error opening pool none'),
                ({'image': 'none'}, 'error reading header from none'),
                ({'namespace': 'none'}, 'error reading header from disk'),
                ({'snapshot': 'none'}, "it has no snapshot 'none'"),
                ({'user': 'none'}, "refuses user 'none'"),
                ({'key-secret': 'k'}, "refuses user 'admin'")):
            text = info(ceph, dict(good, **options), '--object',
                        'secret,id=k,data=' + KEY)
            assert want in text and KEY not in text, (options, text)
        text = sluice(ceph, 'resize', '-f', 'raw', 'rbd:rbd/disk@none', '2M',
                      status=1)
        assert 'rbd snapshots are read-only' in text, text


if __name__ == '__main__':
    run(globals())
