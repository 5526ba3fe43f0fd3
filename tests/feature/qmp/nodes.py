#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nodes, devices, exports and objects by QMP."""
import os

from sluiced import Sluiced, make_chain, qemu_img, run

MIB = 1 << 20


def names(q):
    return {n['node-name'] for n in q.cmd('query-named-block-nodes',
                                          flat=True)}


def test_add_and_del(d):
    base, top = make_chain(d, MIB)
    with Sluiced(d) as s:
        q = s.qmp
        q.cmd('blockdev-add', driver='file', node_name='f', filename=base,
              read_only=True)
        q.cmd('blockdev-add', driver='raw', node_name='b', file='f',
              read_only=True)
        q.cmd('blockdev-add', driver='qed', node_name='t', backing='b',
              file={'driver': 'file', 'filename': top, 'node-name': 'tf'})
        assert names(q) == {'f', 'b', 't', 'tf'}
        assert q.error('blockdev-add', driver='null-co', node_name='b') == \
            "Duplicate nodes with node-name='b'"
        assert q.error('blockdev-add', driver='null-co') == \
            "'node-name' must be specified for the root node"
        assert q.error('blockdev-add', driver='null-co', node_name='1x') == \
            "Invalid node-name: '1x'"
        assert q.error('blockdev-del', node_name='b') == \
            "Node 'b' is busy: node is used as backing hd of 't'"
        assert q.error('blockdev-del', node_name='x') == \
            "Failed to find node with node-name='x'"
        q.cmd('blockdev-del', node_name='t')
        assert names(q) == {'f', 'b'}
        q.cmd('blockdev-del', node_name='b')
        q.cmd('blockdev-del', node_name='f')
        assert names(q) == set()
        err = q.error('blockdev-add', driver='file', node_name='n',
                      filename=d + '/missing')
        assert err.endswith('No such file or directory'), err


def test_queries(d):
    base, top = make_chain(d, MIB)
    with Sluiced(d, '--drive',
                 'id=virtio0,file=%s,format=qed,node-name=t' % top) as s:
        q = s.qmp
        dev, = q.cmd('query-block')
        assert list(dev) == ['io-status', 'device', 'locked', 'removable',
                             'inserted', 'qdev', 'type'], dev
        info = dev['inserted']
        assert list(info) == [
            'iops_rd', 'detect_zeroes', 'image', 'iops_wr', 'ro', 'node-name',
            'backing_file_depth', 'drv', 'iops', 'bps_wr', 'write_threshold',
            'backing_file', 'encrypted', 'bps', 'bps_rd', 'cache', 'file']
        assert (info['node-name'], info['drv'], info['backing_file_depth'],
                info['backing_file'], info['ro']) == \
            ('t', 'qed', 1, base, False), info
        image = info['image']
        assert list(image) == [
            'backing-image', 'backing-filename-format', 'virtual-size',
            'filename', 'cluster-size', 'format', 'actual-size',
            'full-backing-filename', 'backing-filename', 'dirty-flag'], image
        assert image['virtual-size'] == MIB
        assert image['backing-image']['format'] == 'raw'
        stats, = q.cmd('query-blockstats')
        assert stats['device'] == 'virtio0', stats
        assert len(q.cmd('query-blockstats', query_nodes=True)) == 4
        assert q.cmd('x-query-block-graph-dot').startswith('digraph')
        graph = q.cmd('x-debug-query-block-graph')
        assert {'virtio0', 't'} <= {n['name'] for n in graph['nodes']}


def test_resize(d):
    _, top = make_chain(d, MIB)
    with Sluiced(d, '--drive', 'id=virtio0,file=%s,format=qed' % top) as s:
        q = s.qmp
        q.cmd('block_resize', device='virtio0', size=2 * MIB)
        info = q.cmd('query-block')[0]['inserted']
        assert info['image']['virtual-size'] == 2 * MIB, info
        assert q.error('block_resize', device='virtio0', size=-1) == \
            "Parameter 'size' expects a >0 size"
        assert q.error('block_resize', device='x', size=1) == \
            "Cannot find device='x' nor node-name=''"
        assert q.hmp('block_resize virtio0 3') == ''
    assert '3 MiB' in qemu_img('info', top)


def test_change_backing_file(d):
    base, top = make_chain(d, MIB)
    with Sluiced(d, '--drive',
                 'id=virtio0,file=%s,format=qed,node-name=t' % top,
                 '--blockdev', 'null-co,node-name=n') as s:
        q = s.qmp
        q.cmd('change-backing-file', device='virtio0', image_node_name='t',
              backing_file='base.raw')
        assert 'not in the same chain' in q.error(
            'change-backing-file', device='virtio0', backing_file='x',
            image_node_name='n')
    text = qemu_img('info', top)
    assert 'backing file: base.raw' in text, text
    qemu_img('compare', '-f', 'qed', '-F', 'raw', top, base)


def test_exports(d):
    path = d + '/nbd.sock'
    addr = {'type': 'unix', 'data': {'path': path}}
    with Sluiced(d, '--blockdev', 'null-co,node-name=n,size=1M') as s:
        q = s.qmp
        export = {'type': 'nbd', 'id': 'e', 'node-name': 'n'}
        assert q.error('block-export-add', export) == 'NBD server not running'
        q.cmd('nbd-server-start', addr=addr)
        assert q.error('nbd-server-start', addr=addr) == \
            'NBD server already running'
        q.cmd('block-export-add', export)
        assert q.error('nbd-server-add', device='n', name='old',
                       bitmap='b') == "Bitmap 'b' is not found"
        q.cmd('nbd-server-add', device='n', name='old')
        ids = {e['id'] for e in q.cmd('query-block-exports')}
        assert ids == {'e', 'old'}, ids
        q.cmd('nbd-server-remove', name='old')
        q.wait_event('BLOCK_EXPORT_DELETED', id='old')
        assert q.error('block-export-del', id='x') == \
            "Export 'x' is not found"
        assert 'is in use' in q.error('blockdev-del', node_name='n')
        q.cmd('block-export-del', id='e')
        q.wait_event('BLOCK_EXPORT_DELETED', id='e')
        q.cmd('blockdev-del', node_name='n')
        q.cmd('nbd-server-stop')
        assert q.error('nbd-server-stop') == 'NBD server not running'
        assert not os.path.exists(path)
        assert q.error('nbd-server-start', addr=addr, tls_creds='x') == \
            "No TLS credentials with id 'x'"


def test_objects(d):
    with Sluiced(d, '--object', 'throttle-group,id=g,limits.bps-total=1M',
                 '--object', 'iothread,id=t') as s:
        q = s.qmp
        assert q.error('object-add', qom_type='iothread', id='g') == (
            "attempt to add duplicate property 'g' to object "
            "(type 'container')")
        q.cmd('blockdev-add', driver='throttle', node_name='th',
              throttle_group='g', file={'driver': 'null-co'})
        assert 'in use' in q.error('object-del', id='g')
        q.cmd('blockdev-del', node_name='th')
        q.cmd('object-del', id='g')
        q.cmd('object-del', id='t')
        assert q.error('object-del', id='t') == "object 't' not found"
        assert q.error('object-add', qom_type='secret', id='s') == \
            "A secret needs one of 'data' and 'file'"
        q.cmd('object-add', qom_type='secret', id='s', data='hush')
        assert 'duplicate' in q.error('object-add', qom_type='secret', id='s',
                                      data='hush')
        q.cmd('object-del', id='s')
        assert q.error('object-add', qom_type='rng', id='s') == \
            "Parameter 'qom-type' does not accept value 'rng'"


if __name__ == '__main__':
    run(globals())
