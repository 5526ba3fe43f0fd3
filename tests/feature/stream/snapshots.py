#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Images with internal snapshots: what these show of the backing chain stays.

A snapshot shows the chain wherever it holds nothing itself.  Whatever would
change that is refused before it begins; the rest goes on.
"""
import hashlib
import json
import os
import subprocess

from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool

MIB = 1 << 20
SIZE = 4 * MIB
MAKE = 'blockdev-snapshot-internal-sync'


def image(d, name, base=None, fmt='qcow2', base_fmt='qcow2'):
    path = os.path.join(d, name)
    more = ['-b', base, '-F', base_fmt] if base else []
    qemu_img('create', '-q', '-f', fmt, *more, path, str(SIZE))
    return path


def write(path, *commands, fmt='qcow2'):
    words = [w for c in commands for w in ('-c', 'write -q -P ' + c)]
    run_tool('qemu-io', '-f', fmt, *words, path)


def chain(d):
    """base.raw of ones <- mid with 2 in [0, 1M) <- top with 3 in [2M, 3M)."""
    base = image(d, 'base.raw', fmt='raw')
    write(base, '1 0 4M', fmt='raw')
    mid = image(d, 'mid.qcow2', base, base_fmt='raw')
    write(mid, '2 0 1M')
    top = image(d, 'top.qcow2', mid)
    write(top, '3 2M 1M')
    return base, mid, top


def content(d, path, snapshot=None):
    """A hash of what the disk, or a snapshot of it, shows."""
    out = os.path.join(d, 'content.raw')
    more = ['-l', snapshot] if snapshot else []
    qemu_img('convert', '-f', 'qcow2', *more, '-O', 'raw', path, out)
    with open(out, 'rb') as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    os.unlink(out)
    return digest


def snapshot(path, *names):
    for name in names:
        qemu_img('snapshot', '-c', name, path)


def node(path):
    return {'driver': 'qcow2', 'node-name': 'top',
            'file': {'driver': 'file', 'filename': path}}


def daemon(d, path):
    return Sluiced(d, '--blockdev', json.dumps(node(path)))


def stream(s, **args):
    s.qmp.cmd('block-stream', device='top', job_id='j', **args)
    s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
    s.qmp.wait_event('JOB_STATUS_CHANGE', status='null')


def refused(text, verb, *names):
    assert "cannot be %s: its internal snapshots %s show" % (
        verb, ', '.join("'%s'" % n for n in names)) in text, text


def sluice(*args):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False)
    return p.returncode, p.stdout + p.stderr


def test_stream_refused(d):
    _, mid, top = chain(d)
    snapshot(top, 'one', 'two')
    write(top, '4 0 64k')
    before = [content(d, top, name) for name in (None, 'one', 'two')]
    with daemon(d, top) as s:
        q = s.qmp
        refused(q.error('block-stream', device='top', job_id='j'),
                'streamed', 'one', 'two')
        refused(q.error('block-stream', device='top', job_id='j',
                        base=d + '/base.raw'), 'streamed', 'one', 'two')
        # The form of 2011, one step at a time.
        refused(q.error('block_stream', device='top', all=False), 'streamed',
                'one', 'two')
        assert q.cmd('query-jobs') == []
        # The link to what every snapshot shows stays: nothing to do.
        stream(s, base_node=[n['node-name'] for n in
                             q.cmd('query-named-block-nodes')
                             if n['file'] == mid and n['drv'] == 'qcow2'][0])
        q.cmd('blockdev-snapshot-delete-internal-sync', device='top',
              name='one')
        refused(q.error('block-stream', device='top', job_id='j'),
                'streamed', 'two')
    assert [content(d, top), content(d, top, 'two')] == before[::2]
    with daemon(d, top) as s:
        s.qmp.cmd('blockdev-snapshot-delete-internal-sync', device='top',
                  name='two')
        stream(s)
    assert content(d, top) == before[0]
    assert 'backing file' not in qemu_img('info', top)


def test_whole_snapshots_do_not_mind(d):
    base, mid, top = chain(d)
    write(top, '5 0 4M')
    snapshot(top, 'whole')
    write(top, '6 1M 64k')
    before = [content(d, top), content(d, top, 'whole')]
    with daemon(d, top) as s:
        stream(s)
    os.unlink(mid)
    os.unlink(base)
    assert [content(d, top), content(d, top, 'whole')] == before


def test_what_goes_holds_nothing_they_show(d):
    """What is cut out holds [0, 1M) alone, where the snapshot has its own."""
    base, mid, top = chain(d)
    write(top, '7 0 1M')
    snapshot(top, 'covers')
    before = [content(d, top), content(d, top, 'covers')]
    with daemon(d, top) as s:
        refused(s.qmp.error('block-stream', device='top', job_id='j'),
                'streamed', 'covers')
        stream(s, base=base)
    os.unlink(mid)
    assert [content(d, top), content(d, top, 'covers')] == before


def test_zeroes_below(d):
    """A backing file that shows zeroes can go."""
    base = image(d, 'base.qcow2')
    write(base, '1 0 64k')
    top = image(d, 'top.qcow2', base)
    write(top, '2 0 1M')
    snapshot(top, 's')
    before = content(d, top, 's')
    with daemon(d, top) as s:
        stream(s)
    os.unlink(base)
    assert content(d, top, 's') == before


def test_subclusters(d):
    """A part of a cluster is enough."""
    base = image(d, 'base.raw', fmt='raw')
    write(base, '1 0 4M', fmt='raw')
    top = os.path.join(d, 'top.qcow2')
    qemu_img('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', '-o',
             'extended_l2=on', top)
    write(top, '2 0 2M', '2 2050k 2046k')
    snapshot(top, 's')
    with daemon(d, top) as s:
        refused(s.qmp.error('block-stream', device='top', job_id='j'),
                'streamed', 's')
    write(top, '2 2M 2k')
    snapshot(top, 't')
    qemu_img('snapshot', '-d', 's', top)
    with daemon(d, top) as s:
        stream(s)


def test_none_is_made_meanwhile(d):
    top = chain(d)[2]
    with daemon(d, top) as s:
        q = s.qmp
        q.cmd('block-stream', device='top', job_id='j', speed=64 << 10)
        assert 'is busy: block device is in use by block job: stream' in \
            q.error(MAKE, device='top', name='s')
        q.cmd('block-job-cancel', device='j')
        q.wait_event('JOB_STATUS_CHANGE', status='null')
        # Two monitors, at once: one of the two, in either order.
        other = s.connect()
        for i in range(20):
            first, second = (q, other) if i % 2 else (other, q)
            first.send_raw(json.dumps({'execute': 'block-stream', 'arguments': {
                'device': 'top', 'job-id': 'j', 'speed': 4096}}) + '\n')
            second.send_raw(json.dumps({'execute': MAKE, 'arguments': {
                'device': 'top', 'name': 's'}}) + '\n')
            streams = 'error' not in first.answer()
            made = 'error' not in second.answer()
            assert not (streams and made)
            if streams:
                q.cmd('block-job-cancel', device='j', force=True)
                while q.cmd('query-jobs'):
                    pass
            if made:
                q.cmd('blockdev-snapshot-delete-internal-sync', device='top',
                      name='s')
        other.close()


def test_rebase(d):
    base, mid, top = chain(d)
    snapshot(top, 's')
    before = [content(d, top), content(d, top, 's')]
    other = image(d, 'other.raw', fmt='raw')
    for args in (['-b', base, '-F', 'raw'], ['-b', other, '-F', 'raw'],
                 ['-b', '']):
        status, text = sluice('rebase', '-f', 'qcow2', *args, top)
        assert status == 1
        refused(text, 'rebased', 's')
        assert [content(d, top), content(d, top, 's')] == before
    # To what is there already, and what the user answers for.
    assert sluice('rebase', '-f', 'qcow2', '-b', mid, '-F', 'qcow2',
                  top) == (0, '')
    assert sluice('rebase', '-u', '-f', 'qcow2', '-b', base, '-F', 'raw',
                  top) == (0, '')
    # Nothing that it shows lies in what goes.
    assert sluice('rebase', '-u', '-f', 'qcow2', '-b', mid, '-F', 'qcow2',
                  top) == (0, '')
    write(top, '7 0 1M')
    snapshot(top, 't')
    qemu_img('snapshot', '-d', 's', top)
    before = [content(d, top), content(d, top, 't')]
    assert sluice('rebase', '-f', 'qcow2', '-b', base, '-F', 'raw',
                  top) == (0, '')
    os.unlink(mid)
    assert [content(d, top), content(d, top, 't')] == before


def test_commit(d):
    _, mid, top = chain(d)
    snapshot(top, 's')
    snapshot(mid, 'of-the-base')
    before = [content(d, top), content(d, top, 's'), content(d, mid),
              content(d, mid, 'of-the-base')]
    for args in ([], ['-d'], ['-b', d + '/base.raw']):
        # What top holds is in the snapshot, too, and nothing else is written.
        write(top, '8 3M 64k')
        status, text = sluice('commit', '-f', 'qcow2', *args, top)
        assert status == 1
        refused(text, 'committed', 's')
        assert content(d, top, 's') == before[1]
        assert [content(d, mid), content(d, mid, 'of-the-base')] == before[2:]
    now = content(d, top)
    # Snapshots of the base keep what they have.
    qemu_img('snapshot', '-d', 's', top)
    assert sluice('commit', '-q', '-f', 'qcow2', top) == (0, '')
    assert [content(d, top), content(d, mid)] == [now, now]
    assert content(d, mid, 'of-the-base') == before[3]


def test_commit_of_what_they_hold(d):
    """What is written into the base, the snapshot holds itself."""
    top = chain(d)[2]
    snapshot(top, 's')
    before = content(d, top, 's')
    assert sluice('commit', '-q', '-f', 'qcow2', top) == (0, '')
    assert content(d, top, 's') == before


def test_convert(d):
    top = chain(d)[2]
    snapshot(top, 's')
    write(top, '9 0 1M')
    before = content(d, top, 's')
    out = os.path.join(d, 'out.qcow2')
    assert sluice('convert', '-f', 'qcow2', '-O', 'qcow2', '-l', 's', top,
                  out) == (0, '')
    assert content(d, out) == before


if __name__ == '__main__':
    run(globals())
