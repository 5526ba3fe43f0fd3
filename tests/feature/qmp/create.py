#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""blockdev-create: images that a running daemon makes are those that qemu-img
makes with the same options; refused ones leave nothing behind."""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '../../lib'))
from sluiced import Sluiced, qemu_img, run  # noqa: E402
from qmp import QmpError  # noqa: E402
from waiting import until  # noqa: E402

MIB = 1 << 20


def finish(q, job='c'):
    """Wait for the job, dismiss it; its error or None."""
    def concluded():
        jobs = [j for j in q.cmd('query-jobs') if j['id'] == job]
        assert jobs and jobs[0]['type'] == 'create', jobs
        return jobs[0] if jobs[0]['status'] == 'concluded' else None
    j = until(concluded, 'the end of the job')
    assert q.cmd('query-block-jobs') == []
    q.cmd('job-dismiss', id=job)
    return j.get('error')


def create(q, **options):
    q.cmd('blockdev-create', job_id='c', options=options)
    return finish(q)


def make(q, path, **options):
    """A file and a format in it, as libvirt does it."""
    assert create(q, driver='file', filename=path, size=0) is None
    return create(q, file={'driver': 'file', 'filename': path}, **options)


def info(path):
    i = json.loads(qemu_img('info', '--output=json', path))
    return {k: i.get(k) for k in (
        'format', 'virtual-size', 'cluster-size', 'format-specific',
        'backing-filename', 'backing-filename-format')}


def test_formats_as_qemu_img(d):
    base = os.path.join(d, 'base')
    qemu_img('create', '-q', '-f', 'raw', base, '4M')
    backing = {'backing-file': base, 'backing-fmt': 'raw'}
    for i, (fmt, options, words) in enumerate((
            ('qcow2', {}, ''),
            ('qcow2', {'version': 'v2'}, 'compat=0.10'),
            ('qcow2', {'cluster-size': 4096, 'lazy-refcounts': True,
                       'refcount-bits': 32},
             'cluster_size=4096,lazy_refcounts=on,refcount_bits=32'),
            ('qcow2', {'extended-l2': True, 'preallocation': 'metadata'},
             'extended_l2=on,preallocation=metadata'),
            ('qcow2', {'compression-type': 'zstd', **backing},
             'compression_type=zstd,backing_file=%s,backing_fmt=raw' % base),
            ('qed', {'cluster-size': 131072, 'table-size': 2, **backing},
             'cluster_size=131072,table_size=2,backing_file=%s,'
             'backing_fmt=raw' % base),
            ('raw', {'preallocation': 'falloc'}, 'preallocation=falloc'))):
        ours = os.path.join(d, 'ours%d' % i)
        theirs = os.path.join(d, 'theirs%d' % i)
        with Sluiced(d) as s:
            error = make(s.qmp, ours, driver=fmt, size=4 * MIB, **options)
        assert error is None, (fmt, options, error)
        qemu_img('create', '-q', '-f', fmt, *(['-o', words] if words else []),
                 theirs, '4M')
        assert info(ours) == info(theirs), (info(ours), info(theirs))
        if fmt != 'raw':
            qemu_img('check', '-q', ours)


def test_hints_for_file_systems(d):
    path = os.path.join(d, 'f')
    with Sluiced(d) as s:
        assert create(s.qmp, driver='file', filename=path, size=MIB,
                      **{'nocow': True, 'extent-size-hint': 65536}) is None
        assert os.path.getsize(path) == MIB
        error = create(s.qmp, driver='file', filename=path, size=MIB,
                       **{'extent-size-hint': 1 << 40})
        assert error == 'Extent size hint is too large', error


def test_into_an_open_node(d):
    """By name; the old content is gone, and the node stays open."""
    path = os.path.join(d, 'disk')
    qemu_img('create', '-q', '-f', 'qcow2', path, '64M')
    with Sluiced(d, '--blockdev',
                 'file,node-name=f,filename=%s' % path) as s:
        assert create(s.qmp, driver='qcow2', file='f', size=8 * MIB) is None
        s.qmp.cmd('blockdev-add', driver='qcow2', node_name='n', file='f')
    assert info(path)['virtual-size'] == 8 * MIB


def test_in_use(d):
    """Storage that somebody has is not written to."""
    path = os.path.join(d, 'disk')
    qemu_img('create', '-q', '-f', 'qcow2', path, '64M')
    with open(path, 'rb') as f:
        before = f.read()
    with Sluiced(d, '--blockdev', 'file,node-name=f,filename=%s' % path,
                 '--blockdev', 'qcow2,node-name=n,file=f') as s:
        error = create(s.qmp, driver='qcow2', file='f', size=8 * MIB)
        assert error and "'f'" in error, error
        error = make_over(s.qmp, path)
        assert error == 'Failed to get "write" lock', error
    with open(path, 'rb') as f:
        assert f.read() == before


def make_over(q, path):
    return create(q, driver='file', filename=path, size=0)


def test_refused(d):
    path = os.path.join(d, 'new')
    with Sluiced(d) as s:
        for options, words in (
                ({'driver': 'qcow2', 'file': 'nobody', 'size': MIB},
                 "'nobody'"),
                ({'driver': 'file', 'filename': '/nowhere/x', 'size': 0},
                 '/nowhere/x'),
                ({'driver': 'file', 'filename': path, 'size': 0,
                  'preallocation': 'metadata'}, 'metadata')):
            error = create(s.qmp, **options)
            assert error and words in error, (options, error)
            assert not os.path.exists(path)
        for options, words in (
                ({'driver': 'nbd'}, 'nbd'),
                ({'driver': 'file', 'filename': path}, 'size'),
                ({'driver': 'qcow2', 'file': 'f', 'size': 1, 'x': 1}, 'x')):
            try:
                s.qmp.cmd('blockdev-create', job_id='c', options=options)
                raise AssertionError(options)
            except QmpError as e:
                assert words in e.desc, e.desc
        s.qmp.cmd('blockdev-create', job_id='c',
                  options={'driver': 'file', 'filename': path, 'size': 0})
        try:
            s.qmp.cmd('block-job-cancel', device='c')
            raise AssertionError('a block job')
        except QmpError as e:
            assert e.desc == "Block job 'c' not found", e.desc
        finish(s.qmp)


if __name__ == '__main__':
    run(globals())
