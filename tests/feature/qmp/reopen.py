#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""blockdev-reopen: whole option sets for several nodes, all or none.

The texts are those of QEMU 7.2's storage daemon for the same commands.
"""
import copy
import os

import nbd
from sluiced import Sluiced, qemu_img, run, run_tool

MIB = 1 << 20


def paths(d):
    return [os.path.join(d, 'hd%d' % i) for i in range(3)]


def make(d, chain=False):
    """Three images of 3 MiB; the MiB number i of image i holds 0xa0 + i.
    @chain: 2 <- 1 <- 0, else 0 <- 1 and 2 alone."""
    p = paths(d)
    below = {0: 1, 1: 2} if chain else {1: 0}
    for i in (2, 1, 0) if chain else (0, 1, 2):
        base = ['-b', p[below[i]], '-F', 'qcow2'] if i in below else []
        qemu_img('create', '-q', '-f', 'qcow2', *base, p[i], '3M')
    for i in range(3):
        run_tool('qemu-io', '-f', 'qcow2', '-c',
                 'write -P %d %dM 1M' % (0xa0 + i, i), p[i])


def node(d, i, **more):
    return {'driver': 'qcow2', 'node-name': 'hd%d' % i, **more,
            'file': {'driver': 'file', 'node-name': 'hd%d-file' % i,
                     'filename': paths(d)[i]}}


def nested(d):
    """2 <- 1 <- 0, each opened as a part of the one above."""
    return node(d, 0, backing=node(d, 1, backing=node(d, 2, backing=None)))


def changed(options, path, value):
    """A copy with @value at the dotted @path; KeyError: without it."""
    options = copy.deepcopy(options)
    *way, last = path.split('.')
    at = options
    for step in way:
        at = at[step]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return options


def reopen(q, *options):
    q.cmd('blockdev-reopen', {'options': list(options)})


def refused(q, *options):
    """The text; nothing has changed."""
    before = state(q)
    text = q.error('blockdev-reopen', {'options': list(options)})
    assert state(q) == before, text
    return text


def state(q):
    """What options decide, and the edges."""
    edges = q.cmd('x-debug-query-block-graph')['edges']
    return [[n[key] for key in ('node-name', 'ro', 'cache', 'detect_zeroes',
                                'file', 'backing_file_depth')]
            for n in graph(q).values()], edges


def graph(q):
    return {n['node-name']: n for n in q.cmd('query-named-block-nodes')}


def flags(q, what):
    return {name: n[what] for name, n in graph(q).items()}


def serve(d):
    return Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d)


def export(q, name, writable=False):
    q.cmd('block-export-add', {'type': 'nbd', 'id': name, 'node-name': name,
                               'writable': writable})


def unexport(q, name):
    q.cmd('block-export-del', id=name)
    q.wait_event('BLOCK_EXPORT_DELETED', id=name)


def client(d, name):
    h = nbd.NBD()
    h.connect_uri('nbd+unix:///%s?socket=%s/nbd' % (name, d))
    return h


def expect(d, q, name, *values):
    """The first byte of each MiB of node @name."""
    export(q, name)
    h = client(d, name)
    got = tuple(h.pread(1, i * MIB)[0] for i in range(3))
    h.shutdown()
    unexport(q, name)
    assert got == values, (name, got, values)


def test_what_cannot_change(d):
    make(d)
    with serve(d) as s:
        q = s.qmp
        o = node(d, 0)
        q.cmd('blockdev-add', o)
        reopen(q, o)
        reopen(q, changed(o, 'file', 'hd0-file'))
        for path, value, text in (
                ('node-name', 'x', "Failed to find node with node-name='x'"),
                ('node-name', '', "Failed to find node with node-name=''"),
                ('node-name', KeyError, 'node-name not specified'),
                ('driver', 'raw', "Cannot change the option 'driver'"),
                ('file', 'x', "Cannot find device='' nor node-name='x'"),
                ('file', '', "Cannot find device='' nor node-name=''"),
                ('file', KeyError, "Parameter 'options[0].file' is missing"),
                ('file.node-name', 'x',
                 "Cannot change the option 'node-name'"),
                ('file.driver', 'host_device',
                 "Cannot change the option 'driver'"),
                ('file.filename', paths(d)[1],
                 "Cannot change the option 'filename'"),
                ('file.aio', 'native', "Cannot change the option 'aio'"),
                ('file.locking', 'off', "Cannot change the option 'locking'"),
                ('backing', 'x', "Cannot find device='' nor node-name='x'"),
                ('backing', '', "Cannot find device='' nor node-name=''"),
                ('backing', 'hd0', "Making 'hd0' a backing child of 'hd0' "
                 'would create a cycle'),
                ('force-share', True,
                 "Cannot change the option 'force-share'"),
                ('nonsense', 1,
                 "Parameter 'options[0].nonsense' is unexpected")):
            got = refused(q, changed(o, path, value))
            assert got == text, (path, got)
        assert refused(q, {**o, 'detect-zeroes': 'unmap',
                           'discard': 'ignore'}) == \
            'setting detect-zeroes to unmap is not allowed without setting ' \
            'discard operation to unmap'
        q.cmd('blockdev-del', node_name='hd0')
        for new, change, text in (
                ({'driver': 'file', 'filename': paths(d)[0], 'locking': 'on'},
                 'locking',
                 "Option 'locking' cannot be reset to its default value"),
                ({'driver': 'blkdebug', 'image': {'driver': 'null-co'},
                  'config': '/dev/null'}, 'config',
                 "Option 'config' cannot be reset to its default value")):
            new['node-name'] = 'x'
            q.cmd('blockdev-add', new)
            reopen(q, new)
            assert refused(q, changed(new, change, KeyError)) == text
            q.cmd('blockdev-del', node_name='x')


def test_what_is_left_out(d):
    """It has its default, or what the node above has."""
    make(d)
    with serve(d) as s:
        q = s.qmp
        o = node(d, 0)
        q.cmd('blockdev-add', o)
        reopen(q, {**o, 'read-only': True})
        assert flags(q, 'ro') == {'hd0': True, 'hd0-file': True}
        reopen(q, o)
        assert flags(q, 'ro') == {'hd0': False, 'hd0-file': False}
        no_flush = {'direct': False, 'no-flush': True}
        reopen(q, {**o, 'cache': no_flush, 'detect-zeroes': 'on'})
        assert {c['no-flush'] for c in flags(q, 'cache').values()} == {True}
        assert graph(q)['hd0']['detect_zeroes'] == 'on'
        reopen(q, changed(o, 'file.cache', no_flush))
        cache = flags(q, 'cache')
        assert not cache['hd0']['no-flush'], cache
        assert cache['hd0-file']['no-flush'], cache
        assert graph(q)['hd0']['detect_zeroes'] == 'off'
        # By its name it keeps its own options, and inherits the rest.
        reopen(q, {**o, 'file': 'hd0-file', 'read-only': True})
        assert flags(q, 'ro') == {'hd0': True, 'hd0-file': True}
        assert flags(q, 'cache')['hd0-file']['no-flush']
        reopen(q, o)
        assert not flags(q, 'cache')['hd0-file']['no-flush']
        # A node that is named twice has one set: what was said stays.
        reopen(q, {**o, 'read-only': True}, o)
        assert graph(q)['hd0']['ro']
        reopen(q, o)
        reopen(q, {**o, 'l2-cache-size': MIB, 'pass-discard-request': False})
        assert 'may not exceed' in refused(
            q, {**o, 'l2-cache-size': MIB, 'cache-size': 65536})
        expect(d, q, 'hd0', 0xa0, 0, 0)


def test_direct(d):
    """Bytes written before, while and after the cache is passed by."""
    make(d)
    with serve(d) as s:
        q = s.qmp
        o = node(d, 0)
        q.cmd('blockdev-add', o)
        export(q, 'hd0', writable=True)
        h = client(d, 'hd0')
        for i, direct in enumerate((False, True, False)):
            try:
                reopen(q, {**o, 'cache': {'direct': direct}})
            except Exception as e:  # pylint: disable=broad-except
                if 'O_DIRECT' in str(e) or 'Invalid argument' in str(e):
                    return  # the file system of the tests has none
                raise
            assert graph(q)['hd0-file']['cache']['direct'] == direct
            h.pwrite(bytes([i + 1]) * 100, 1000 * i + 7)
        assert h.pread(2300, 0) == b''.join((
            b'\xa0' * 7, b'\1' * 100, b'\xa0' * 900, b'\2' * 100,
            b'\xa0' * 900, b'\3' * 100, b'\xa0' * 193))
        h.shutdown()


def test_writers(d):
    make(d)
    text = "Read-only block node '%s' cannot support read-write users"
    with serve(d) as s:
        q = s.qmp
        o = node(d, 0)
        q.cmd('blockdev-add', o)
        assert refused(q, changed(o, 'file.read-only', True)) == \
            text % 'hd0-file'
        export(q, 'hd0', writable=True)
        assert refused(q, {**o, 'read-only': True}) == text % 'hd0'
        client(d, 'hd0').pwrite(b'x' * 512, 0)


def test_backing(d):
    make(d)
    missing = "backing is missing for 'hd1'"
    with serve(d) as s:
        q = s.qmp
        o = node(d, 1)
        q.cmd('blockdev-add', o)
        assert refused(q, o) == missing
        below, = [name for name, n in graph(q).items()
                  if n['drv'] == 'qcow2' and name != 'hd1']
        reopen(q, {**o, 'backing': below})
        inline = {**o, 'backing': {'driver': 'qcow2', 'file': {
            'driver': 'file', 'filename': paths(d)[0]}}}
        reopen(q, inline)
        reopen(q, changed(inline, 'backing.cache', {'no-flush': True}))
        assert flags(q, 'cache')[below]['no-flush']
        for path, value, name in (
                ('backing.node-name', 'x', 'node-name'),
                ('backing.driver', 'raw', 'driver'),
                ('backing.file.filename', paths(d)[2], 'filename')):
            assert refused(q, changed(inline, path, value)) == \
                "Cannot change the option '%s'" % name
        expect(d, q, 'hd1', 0xa0, 0xa1, 0)
        reopen(q, {**o, 'backing': None})
        assert below not in graph(q)
        expect(d, q, 'hd1', 0, 0xa1, 0)
        assert refused(q, o) == missing
        text = "Cannot change the option 'backing.driver'"
        assert refused(q, inline) == text
        q.cmd('blockdev-add', node(d, 0))
        reopen(q, {**o, 'backing': 'hd0'})
        expect(d, q, 'hd1', 0xa0, 0xa1, 0)
        assert refused(q, inline) == text
        assert refused(q, node(d, 0, backing='hd1')) == \
            "Making 'hd1' a backing child of 'hd0' would create a cycle"
        assert refused(q, {'driver': 'raw', 'node-name': 'hd0-file',
                           'file': 'hd1'}) == \
            "Cannot change the option 'driver'"


def test_order_of_a_chain(d):
    """Three images change places in one command."""
    make(d)
    with serve(d) as s:
        q = s.qmp
        for i in range(3):
            q.cmd('blockdev-add', node(d, i, backing=None))
        reopen(q, node(d, 0, backing='hd1'), node(d, 1, backing='hd2'))
        expect(d, q, 'hd0', 0xa0, 0xa1, 0xa2)
        reopen(q, node(d, 0, backing=None), node(d, 1, backing='hd0'),
               node(d, 2, backing='hd1'))
        expect(d, q, 'hd2', 0xa0, 0xa1, 0xa2)
        expect(d, q, 'hd1', 0xa0, 0xa1, 0)
        expect(d, q, 'hd0', 0xa0, 0, 0)


def test_all_or_none(d):
    """The last of three is refused, at each step in turn."""
    make(d)
    with serve(d) as s:
        q = s.qmp
        o = [node(d, i, backing=None) for i in range(3)]
        for options in o:
            q.cmd('blockdev-add', options)
        first = ({**o[0], 'read-only': True, 'detect-zeroes': 'on',
                  'cache': {'no-flush': True}}, {**o[1], 'backing': 'hd0'})
        # Before anything is done.
        text = refused(q, *first, {**o[2], 'backing': 'x'})
        assert text == "Cannot find device='' nor node-name='x'", text
        text = refused(q, *first, changed(o[2], 'file.locking', 'off'))
        assert text == "Cannot change the option 'locking'", text
        # When edges move: somebody writes to the new backing file.
        export(q, 'hd1', writable=True)
        export(q, 'hd2', writable=True)
        text = refused(q, first[0], {**o[2], 'backing': 'hd1'})
        assert text.startswith("Permission conflict on node 'hd1'"), text
        # When the last is to become read-only.
        text = refused(q, first[0], {**o[2], 'read-only': True})
        assert 'cannot support read-write users' in text, text
        unexport(q, 'hd1')
        unexport(q, 'hd2')
        # When a file cannot be opened anew.
        reopen(q, {**o[2], 'read-only': True})
        os.rename(paths(d)[2], paths(d)[2] + '-')
        text = refused(q, {**o[0], 'cache': {'no-flush': True}},
                       {**o[1], 'backing': 'hd0'}, o[2])
        assert 'No such file or directory' in text, text
        text = refused(q, *first, o[2])
        os.rename(paths(d)[2] + '-', paths(d)[2])
        # All of them are what they were: writable, locked, with their bytes.
        export(q, 'hd0', writable=True)
        h = client(d, 'hd0')
        h.pwrite(b'\7' * 512, 2 * MIB)
        h.shutdown()
        unexport(q, 'hd0')
        expect(d, q, 'hd0', 0xa0, 0, 7)
        expect(d, q, 'hd1', 0, 0xa1, 0)
        try:
            run_tool('qemu-io', '-f', 'qcow2', '-c', 'write 0 512',
                     paths(d)[0])
        except AssertionError:
            pass
        else:
            raise AssertionError('hd0 is not locked any more')
        reopen(q, *first, o[2])
        expect(d, q, 'hd1', 0xa0, 0xa1, 7)
    for path in paths(d):
        qemu_img('check', '-q', path)


def test_file(d):
    """A filter comes between an image and its file, and goes, under a
    guest."""
    make(d)
    with serve(d) as s:
        q = s.qmp
        o = node(d, 0)
        q.cmd('blockdev-add', o)
        q.cmd('object-add', {'qom-type': 'throttle-group', 'id': 'g'})
        q.cmd('blockdev-add', {'driver': 'throttle', 'node-name': 't',
                               'throttle-group': 'g', 'file': 'hd0-file'})
        q.cmd('blockdev-add', node(d, 2))
        export(q, 'hd0', writable=True)
        h = client(d, 'hd0')
        for i, name in enumerate(('t', 'hd0-file', 't', 'hd0-file')):
            h.pwrite(bytes([i + 1]) * 65536, MIB + 65536 * i)
            reopen(q, {**o, 'file': name})
            h.pwrite(bytes([i + 11]) * 65536, 2 * MIB + 65536 * i)
            text = q.error('blockdev-del', node_name='t') if name == 't' \
                else None
            assert text in (None, 'Block device t is in use'), text
        h.flush()
        assert refused(q, {**o, 'file': 'hd2-file'}) == \
            "Cannot change the option 'file': node 'hd2-file' does not " \
            "lead to the file of image 'hd0'"
        q.cmd('blockdev-del', node_name='t')
        for i in range(4):
            assert h.pread(65536, MIB + 65536 * i) == bytes([i + 1]) * 65536
            assert h.pread(65536, 2 * MIB + 65536 * i) == \
                bytes([i + 11]) * 65536
        h.shutdown()
    qemu_img('check', '-q', paths(d)[0])


def test_exchange_files(d):
    """Two raw disks, in one command: neither could go first."""
    for i, size in enumerate((3, 3, 2)):
        with open(paths(d)[i], 'wb') as f:
            f.write(bytes([0xa0 + i]) * (size * MIB))
    with serve(d) as s:
        q = s.qmp
        o = [{'driver': 'raw', 'node-name': 'r%d' % i, 'file': {
            'driver': 'file', 'node-name': 'f%d' % i,
            'filename': paths(d)[i]}} for i in range(3)]
        for options in o:
            q.cmd('blockdev-add', options)
        text = refused(q, {**o[0], 'file': 'f1'})
        assert text.startswith("Permission conflict on node 'f1'"), text
        reopen(q, {**o[0], 'file': 'f1'}, {**o[1], 'file': 'f0'})
        expect(d, q, 'r0', 0xa1, 0xa1, 0xa1)
        expect(d, q, 'r1', 0xa0, 0xa0, 0xa0)
        reopen(q, {**o[1], 'file': 'f2'}, {**o[2], 'file': 'f0'})
        size = {n: i['image']['virtual-size'] for n, i in graph(q).items()}
        assert (size['r1'], size['r2']) == (2 * MIB, 3 * MIB), size
        expect(d, q, 'r2', 0xa0, 0xa0, 0xa0)


def test_while_a_stream_runs(d):
    """What it does not need may change, the base below it included."""
    make(d, chain=True)
    with serve(d) as s:
        q = s.qmp
        o = nested(d)
        q.cmd('blockdev-add', o)
        q.cmd('block-stream', {'job-id': 'j', 'device': 'hd0', 'speed': 1,
                               'base-node': 'hd2', 'auto-finalize': False})
        reopen(q, o)
        reopen(q, {**o, 'detect-zeroes': 'on'})
        reopen(q, changed(o, 'backing.backing.cache', {'no-flush': True}))
        assert flags(q, 'cache')['hd2']['no-flush']
        reopen(q, changed(o, 'backing.backing.read-only', False))
        assert flags(q, 'ro')['hd2'] is False
        reopen(q, o)
        assert flags(q, 'ro')['hd2'] is True
        assert refused(q, changed(o, 'backing', None)) == \
            "Cannot change frozen 'backing' link from 'hd0' to 'hd1'"
        assert 'busy' in refused(q, {**o, 'read-only': True})
        reopen(q, changed(o, 'backing.backing', None))
        assert 'hd2' not in graph(q)
        q.cmd('block-job-set-speed', device='j', speed=0)
        q.wait_event('BLOCK_JOB_PENDING', id='j')
        q.cmd('job-finalize', id='j')
        q.wait_event('BLOCK_JOB_COMPLETED', device='j')
        q.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        expect(d, q, 'hd0', 0xa0, 0xa1, 0)


def test_beside_jobs_below(d):
    make(d, chain=True)
    with serve(d) as s:
        q = s.qmp
        o = nested(d)
        q.cmd('blockdev-add', o)
        q.cmd('block-stream', {'job-id': 'j', 'device': 'hd1', 'speed': 1})
        writable = changed(o, 'backing.read-only', False)
        assert refused(q, changed(writable, 'backing.backing', None)) == \
            "Cannot change frozen 'backing' link from 'hd1' to 'hd2'"
        assert 'busy' in refused(q, o)  # hd1 would become read-only
        assert refused(q, changed(o, 'backing', None)) == \
            'Cannot replace implicit backing child of hd0'
        q.cmd('block-job-cancel', device='j')
        q.wait_event('BLOCK_JOB_CANCELLED', device='j')
        q.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        q.cmd('block-commit', {'job-id': 'j', 'device': 'hd0', 'speed': 1})
        assert refused(q, changed(o, 'backing', None)) == \
            "Cannot change frozen 'backing' link from 'hd0' to 'hd1'"
        q.cmd('block-job-cancel', {'device': 'j', 'force': True})
        q.wait_event('BLOCK_JOB_CANCELLED', device='j')
        q.wait_event('JOB_STATUS_CHANGE', id='j', status='null')
        reopen(q, o)
        expect(d, q, 'hd0', 0xa0, 0xa1, 0xa2)


if __name__ == '__main__':
    run(globals())
