#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dirty bitmaps by QMP: on any node in memory, persistent in qcow2 images, in
transactions, and as NBD contexts; what QEMU says of them afterwards."""
import hashlib
import json
import os
import random
import subprocess

import sluiced
from seed import SEED
from sluiced import Skip, Sluiced, qemu_img

try:
    import nbd
except ImportError:
    nbd = None

KIB = 1 << 10
MIB = 1 << 20
SIZE = 8 * MIB + 512


def start(d, *nodes):
    """A daemon with a qcow2 image q, a raw one r, and both exported."""
    image = os.path.join(d, 'q.qcow2')
    raw = os.path.join(d, 'r.raw')
    if not os.path.exists(image):
        qemu_img('create', '-q', '-f', 'qcow2', image, str(SIZE))
        qemu_img('create', '-q', '-f', 'raw', raw, str(SIZE))
    s = Sluiced(d, '--blockdev', 'qcow2,node-name=q,file.driver=file,'
                'file.filename=' + image,
                '--blockdev', 'raw,node-name=r,file.driver=file,'
                'file.filename=' + raw,
                '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d, *nodes)
    s.path = os.path.join(d, 'nbd')
    return s


def export(s, node, **more):
    s.qmp.cmd('block-export-add', dict(
        {'type': 'nbd', 'id': 'e-' + node, 'node-name': node,
         'writable': True}, **more))


def client(s, name, *contexts):
    if nbd is None:
        raise Skip('python3-libnbd is not installed')
    h = nbd.NBD()
    h.set_export_name(name)
    for c in contexts:
        h.add_meta_context(c)
    h.connect_unix(s.path)
    return h


def write(s, node, off, length):
    s.qmp.hmp('qemu-io %s "write -P 7 %d %d"' % (node, off, length))


def bitmap(q, command, node, name, **more):
    return q.cmd('block-dirty-bitmap-' + command, dict(
        {'node': node, 'name': name},
        **{k.replace('_', '-'): v for k, v in more.items()}))


def merge(q, node, target, *sources):
    q.cmd('block-dirty-bitmap-merge', {'node': node, 'target': target,
                                       'bitmaps': list(sources)})


def shown(q, node):
    for n in q.cmd('query-named-block-nodes', flat=True):
        if n['node-name'] == node:
            return {b['name']: b for b in n.get('dirty-bitmaps', [])}
    raise AssertionError(node)


def count(q, node, name):
    return shown(q, node)[name]['count']


def action(what, node, name, **more):
    key = 'target' if what == 'merge' else 'name'
    return {'type': 'block-dirty-bitmap-' + what,
            'data': dict({'node': node, key: name}, **more)}


def test_recording(d):
    """Writes, zeroes and discards are taken in, while it is told to."""
    with start(d) as s:
        q = s.qmp
        for node, persistent in (('q', True), ('q', False), ('r', False)):
            name = 'p' if persistent else 'm'
            bitmap(q, 'add', node, name, persistent=persistent)
            assert shown(q, node)[name] == {
                'name': name, 'recording': True, 'persistent': persistent,
                'busy': False, 'granularity': 65536, 'count': 0}
        write(s, 'q', 70000, 512)
        write(s, 'r', 65536 - 512, 1024)
        assert count(q, 'q', 'm') == count(q, 'q', 'p') == 65536
        assert count(q, 'r', 'm') == 2 * 65536
        s.qmp.hmp('qemu-io q "write -z 1M 64k"')
        s.qmp.hmp('qemu-io q "discard 2M 64k"')
        s.qmp.hmp('qemu-io q "write %d 512"' % (8 * MIB))
        assert count(q, 'q', 'm') == count(q, 'q', 'p') == 4 * 65536
        bitmap(q, 'disable', 'q', 'm')
        bitmap(q, 'disable', 'q', 'p')
        write(s, 'q', 4 * MIB, 512)
        assert count(q, 'q', 'm') == count(q, 'q', 'p') == 4 * 65536
        bitmap(q, 'enable', 'q', 'm')
        bitmap(q, 'enable', 'q', 'p')
        write(s, 'q', 4 * MIB, 512)
        assert count(q, 'q', 'm') == count(q, 'q', 'p') == 5 * 65536
        bitmap(q, 'clear', 'q', 'm')
        bitmap(q, 'clear', 'q', 'p')
        assert count(q, 'q', 'm') == count(q, 'q', 'p') == 0
        bitmap(q, 'remove', 'q', 'm')
        assert list(shown(q, 'q')) == ['p']


def test_the_newest_first(d):
    with start(d) as s:
        for persistent in (True, False):
            for name in 'abc':
                bitmap(s.qmp, 'add', 'q' if persistent else 'r', name,
                       persistent=persistent)
        for node in s.qmp.cmd('query-named-block-nodes'):
            if node['node-name'] in ('q', 'r'):
                assert [b['name'] for b in node['dirty-bitmaps']] == \
                    ['c', 'b', 'a'], node


def test_what_qemu_reads(d):
    """The image keeps what was recorded, and QEMU sees it."""
    with start(d) as s:
        bitmap(s.qmp, 'add', 'q', 'p', persistent=True, granularity=4096)
        bitmap(s.qmp, 'add', 'q', 'off', persistent=True, disabled=True)
        write(s, 'q', 8192, 512)
        sha = s.qmp.cmd('x-debug-block-dirty-bitmap-sha256', node='q',
                        name='p')
        bits = bytearray((-(-SIZE // 4096) + 63) // 64 * 8)
        bits[0] = 1 << 2
        assert sha['sha256'] == hashlib.sha256(bits).hexdigest()
    data = json.loads(qemu_img('info', '--output=json', d + '/q.qcow2'))
    have = data['format-specific']['data']['bitmaps']
    assert {(b['name'], b['granularity'], tuple(b['flags'])) for b in have} \
        == {('p', 4096, ('auto',)), ('off', 65536, ())}, have
    with start(d) as s:
        assert count(s.qmp, 'q', 'p') == 4096
        write(s, 'q', 0, 512)
        assert count(s.qmp, 'q', 'p') == 8192
    sluiced.run_tool(sluiced.SLUICE, 'check', '-q', '-f', 'qcow2',
                     d + '/q.qcow2')


def test_merge(d):
    """Of two kinds, two nodes and two granularities; all sources or none."""
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'p', persistent=True, granularity=65536)
        bitmap(q, 'add', 'q', 'm', granularity=4096)
        bitmap(q, 'add', 'r', 'other', granularity=512)
        write(s, 'q', 0, 512)
        write(s, 'r', MIB, 512)
        merge(q, 'q', 'm', 'p', {'node': 'r', 'name': 'other'})
        assert count(q, 'q', 'm') == 65536 + 4096
        bitmap(q, 'clear', 'q', 'p')
        text = q.error('block-dirty-bitmap-merge', {
            'node': 'q', 'target': 'p', 'bitmaps': ['m', 'x']})
        assert text == "Dirty bitmap 'x' not found", text
        assert count(q, 'q', 'p') == 0
        merge(q, 'q', 'p', 'm')
        assert count(q, 'q', 'p') == 2 * 65536


def test_transactions(d):
    """Later actions find what earlier ones made; one that fails undoes all."""
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'p', persistent=True)
        bitmap(q, 'add', 'r', 'm')
        write(s, 'q', 0, 512)
        write(s, 'r', 0, 512)
        before = shown(q, 'q'), shown(q, 'r')
        work = [action('add', 'q', 'new', persistent=True),
                action('merge', 'q', 'new', bitmaps=['p']),
                action('disable', 'q', 'new'),
                action('clear', 'q', 'p'),
                action('disable', 'q', 'p'),
                action('clear', 'r', 'm'),
                action('add', 'r', 'n'),
                action('merge', 'r', 'n',
                       bitmaps=[{'node': 'q', 'name': 'new'}]),
                action('remove', 'r', 'm')]
        for bad, text in (
                ({'type': 'abort', 'data': {}},
                 'Transaction aborted using Abort action'),
                (action('add', 'r', 'm'), 'Bitmap already exists: m'),
                (action('clear', 'r', 'm'),
                 "Bitmap 'm' is currently in use by another operation and "
                 'cannot be used'),
                (action('clear', 'q', 'x'), "Dirty bitmap 'x' not found"),
                (action('clear', 'x', 'p'), "Node 'x' not found")):
            assert q.error('transaction', actions=work + [bad]) == text
            assert (shown(q, 'q'), shown(q, 'r')) == before
        q.cmd('transaction', actions=work)
        assert {k: (v['count'], v['recording'])
                for k, v in shown(q, 'q').items()} \
            == {'new': (65536, False), 'p': (0, False)}
        assert list(shown(q, 'r')) == ['n']
        assert count(q, 'r', 'n') == 65536


def test_with_a_snapshot(d):
    """A checkpoint as virtual machine managers make it: at the point in time of
    the snapshot recording goes on in another bitmap, under a guest."""
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'old', persistent=True)
        write(s, 'q', 0, 512)
        q.cmd('transaction', actions=[
            action('disable', 'q', 'old'),
            {'type': 'blockdev-snapshot-sync', 'data': {
                'node-name': 'r', 'snapshot-file': d + '/o.qcow2',
                'snapshot-node-name': 'o'}},
            action('add', 'q', 'next', persistent=True)])
        write(s, 'q', MIB, 512)
        have = shown(q, 'q')
        assert have['old']['count'] == have['next']['count'] == 65536


def test_refusals(d):
    with start(d, '--blockdev', 'null-co,node-name=small,size=1048576') as s:
        q = s.qmp

        def error(what, node, name, **more):
            return q.error('block-dirty-bitmap-' + what, dict(
                {'node': node, 'name': name}, **more))

        bitmap(q, 'add', 'q', 'p', persistent=True)
        bitmap(q, 'add', 'small', 's')
        granularity = 'Granularity must be power of 2 and at least 512'
        assert error('add', 'r', 'b', persistent=True) == \
            "Can't store persistent bitmaps to r: Operation not supported"
        for g in (0, 1, 256, 1000):
            assert error('add', 'r', 'b', granularity=g) == granularity
        assert error('add', 'r', '') == 'Bitmap name cannot be empty'
        assert error('add', 'q', 'p') == 'Bitmap already exists: p'
        assert error('add', 'r', 'n' * 1024) == \
            'Bitmap name too long: ' + 'n' * 1024
        bitmap(q, 'add', 'r', 'n' * 1023)
        assert error('add', 'x', 'p') == "Node 'x' not found"
        for what in ('remove', 'clear', 'enable', 'disable'):
            assert error(what, 'q', 'x') == "Dirty bitmap 'x' not found"
        assert q.error('block-dirty-bitmap-merge', {
            'node': 'q', 'target': 'p',
            'bitmaps': [{'node': 'small', 'name': 's'}]}) == (
                "Bitmaps are of different sizes (destination size is %d, "
                "source size is 1048576) and can't be merged" % SIZE)
        q.cmd('blockdev-reopen', options=[{
            'driver': 'qcow2', 'node-name': 'q', 'read-only': True,
            'file': {'driver': 'file', 'filename': d + '/q.qcow2'}}])
        assert error('clear', 'q', 'p') == \
            "Bitmap 'p' is readonly and cannot be modified"
        assert shown(q, 'q')['p']['count'] == 0


def test_left_open(d):
    """A daemon that was killed leaves them inconsistent: seen, not used."""
    with start(d) as s:
        bitmap(s.qmp, 'add', 'q', 'p', persistent=True)
        write(s, 'q', 0, 512)
        s.kill()
    with start(d) as s:
        q = s.qmp
        assert shown(q, 'q')['p'] == {
            'name': 'p', 'recording': False, 'persistent': True,
            'inconsistent': True, 'busy': False, 'granularity': 65536,
            'count': 0}
        text = "Bitmap 'p' is inconsistent and cannot be used"
        for what in ('clear', 'enable', 'disable'):
            assert q.error('block-dirty-bitmap-' + what, node='q',
                           name='p').startswith(text)
        bitmap(q, 'remove', 'q', 'p')
        assert shown(q, 'q') == {}


def test_many_writes(d):
    """What is marked is what was asked for, against a model."""
    rng = random.Random(SEED)
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'p', persistent=True, granularity=512)
        bitmap(q, 'add', 'q', 'm', granularity=512)
        export(s, 'q')
        want = set()
        h = client(s, 'q')
        for _ in range(200):
            off = rng.randrange(0, SIZE - 4096) // 512 * 512
            n = rng.choice((512, 1024, 4096))
            what = rng.randrange(3)
            if what == 0:
                h.pwrite(rng.randbytes(n), off)
            elif what == 1:
                h.zero(n, off)
            else:
                h.pwrite(rng.randbytes(n), off, nbd.CMD_FLAG_FUA)
            want |= set(range(off // 512, (off + n) // 512))
        h.shutdown()
        assert count(q, 'q', 'm') == 512 * len(want)
        # Zeroing what reads as zeroes is no change for the image.
        assert 0 < count(q, 'q', 'p') <= 512 * len(want)
        merge(q, 'q', 'm', 'p')
        assert count(q, 'q', 'm') == 512 * len(want)


# --- over NBD ---

def runs(h, context, size):
    """[(offset, length)] of what is dirty."""
    res, off = [], [0]

    def add(name, base, entries, err):
        if name == context:
            at = base
            for i in range(0, len(entries), 2):
                if entries[i + 1] & 1:
                    res.append((at, entries[i]))
                at += entries[i]
            off[0] = at
        return 0

    while off[0] < size:
        h.block_status(size - off[0], off[0], add)
    return res


def test_nbd(d):
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'p', persistent=True)
        bitmap(q, 'add', 'q', 'm')
        write(s, 'q', 100000, 512)
        write(s, 'q', 8 * MIB, 512)
        write(s, 'r', 0, MIB)
        bitmap(q, 'disable', 'q', 'p')
        bitmap(q, 'disable', 'q', 'm')
        export(s, 'q', name='x', writable=False,
               bitmaps=['p', {'node': 'q', 'name': 'm'}])
        listed = []
        if nbd is None:
            raise Skip('python3-libnbd is not installed')
        h = nbd.NBD()
        h.set_opt_mode(True)
        h.connect_unix(s.path)
        h.set_export_name('x')
        h.add_meta_context('qemu:')
        h.opt_list_meta_context(lambda name: listed.append(name) or 0)
        h.opt_abort()
        assert listed == ['qemu:dirty-bitmap:p', 'qemu:dirty-bitmap:m'], listed
        h = client(s, 'x', 'qemu:dirty-bitmap:p', 'base:allocation')
        assert runs(h, 'qemu:dirty-bitmap:p', SIZE) == \
            [(65536, 65536), (8 * MIB, 512)]
        assert runs(h, 'base:allocation', SIZE)
        busy = 'is currently in use by another operation and cannot be used'
        for what in ('remove', 'clear', 'enable'):
            assert busy in q.error('block-dirty-bitmap-' + what, node='q',
                                   name='p')
        assert shown(q, 'q')['p']['busy']
        p = subprocess.run(
            ['qemu-img', 'map', '--output=json', '--image-opts',
             'driver=nbd,export=x,server.type=unix,server.path=%s,'
             'x-dirty-bitmap=qemu:dirty-bitmap:m' % s.path],
            capture_output=True, text=True, check=False)
        if p.returncode == 0:
            dirty = [(e['start'], e['length']) for e in json.loads(p.stdout)
                     if not e['data']]
            assert dirty == [(65536, 65536), (8 * MIB, 512)], p.stdout
        h.shutdown()
        q.cmd('block-export-del', id='e-q', mode='hard')
        assert not shown(q, 'q')['p']['busy']
        bitmap(q, 'remove', 'q', 'p')


def test_nbd_of_what_is_written_to(d):
    """An export that is written to may show one that records."""
    with start(d) as s:
        bitmap(s.qmp, 'add', 'q', 'p', persistent=True)
        export(s, 'q', bitmaps=['p'])
        h = client(s, 'q', 'qemu:dirty-bitmap:p')
        assert runs(h, 'qemu:dirty-bitmap:p', SIZE) == []
        h.pwrite(b'x' * 512, MIB)
        assert runs(h, 'qemu:dirty-bitmap:p', SIZE) == [(MIB, 65536)]
        h.shutdown()


def test_nbd_refusals(d):
    with start(d) as s:
        q = s.qmp
        bitmap(q, 'add', 'q', 'p')
        bitmap(q, 'add', 'r', 'x')

        def error(*bitmaps):
            return q.error('block-export-add', {
                'type': 'nbd', 'id': 'e', 'node-name': 'q',
                'bitmaps': list(bitmaps)})

        assert error('x') == "Bitmap 'x' is not found"
        assert error({'node': 'q', 'name': 'x'}) == \
            "Dirty bitmap 'x' not found"
        assert error({'node': 'z', 'name': 'x'}) == "Node 'z' not found"
        assert error('p') == \
            "Enabled bitmap 'p' incompatible with readonly export"
        bitmap(q, 'disable', 'q', 'p')
        assert 'currently in use' in error('p', 'p')
        assert not shown(q, 'q')['p']['busy']
        for i in range(17):
            bitmap(q, 'add', 'q', 'b%d' % i, disabled=True)
        assert error(*['b%d' % i for i in range(17)]) == \
            'An export shows at most 16 bitmaps'
        export(s, 'q', bitmaps=['b%d' % i for i in range(16)])


if __name__ == '__main__':
    sluiced.run(globals())
