#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes for blkdebug, as users of QEMU's tools keep them, by both programs: the
same config files, the same nodes, the same requests over NBD; every request
must end the same way.

Where the way of a format makes a difference (Sluice writes the pointers of new
clusters at the flush), the recipe says what Sluice gives.
"""
import errno
import json
import os
import re
import shutil

import nbd

from qemu_tools import Qsd
from qmp import QmpError
from sluiced import Skip, Sluiced, qemu_img, run

MIB = 1 << 20
K = 1024


def one(h, op, off=0, n=0):
    """How a request ends: 0 or the name of the error."""
    try:
        if op == 'w':
            h.pwrite(b'\x55' * n, off)
        elif op == 'fua':
            h.pwrite(b'\x66' * n, off, nbd.CMD_FLAG_FUA)
        elif op == 'r':
            h.pread(n, off)
        elif op == 'f':
            h.flush()
        elif op == 't':
            h.trim(n, off)
        elif op == 'z':
            h.zero(n, off)
        elif op == 'zn':
            h.zero(n, off, nbd.CMD_FLAG_NO_HOLE)
        elif op == 's':
            h.block_status(n, off, lambda *a: 0)
        return 0
    except nbd.Error as e:
        return errno.errorcode.get(e.errnum, e.errnum)


def nodes(layout, d, rules):
    """blockdev-add arguments; blkdebug takes @rules."""
    file = {'driver': 'file', 'filename': d + '/disk'}
    debug = dict({'driver': 'blkdebug', 'image': file}, **rules)
    if layout == 'top':             # guests see blkdebug itself
        debug['image'] = {'driver': 'raw', 'file': file}
        return dict(debug, **{'node-name': 'n', 'discard': 'unmap'})
    if layout == 'double':          # two of them; the rules are the lower one's
        debug = {'driver': 'blkdebug', 'image': debug}
    fmt = 'qed' if layout.startswith('qed') else 'raw'
    return {'driver': fmt, 'node-name': 'n', 'discard': 'unmap', 'file': debug}


def make_disk(layout, d):
    path = d + '/disk'
    if os.path.exists(path):
        os.unlink(path)
    if layout == 'qed-backed':
        with open(d + '/base', 'wb') as f:
            f.write(b'\x11' * MIB)
        qemu_img('create', '-q', '-f', 'qed', '-b', d + '/base', '-F', 'raw',
                 path)
    elif layout == 'qed':
        qemu_img('create', '-q', '-f', 'qed', path, '1M')
    else:
        with open(path, 'wb') as f:
            f.write(b'\x22' * MIB)


def connect(sock):
    h = nbd.NBD()
    h.add_meta_context('base:allocation')
    h.connect_uri('nbd+unix:///n?socket=' + sock)
    return h


def requests(cls, d, layout, rules, ops):
    make_disk(layout, d)
    sock = d + '/nbd'
    with cls(d, '--nbd-server', 'addr.type=unix,addr.path=' + sock) as s:
        s.qmp.cmd('blockdev-add', nodes(layout, d, rules))
        s.qmp.cmd('block-export-add', **{'type': 'nbd', 'id': 'e', 'name': 'n',
                                         'node-name': 'n', 'writable': True})
        res = []
        h = connect(sock)
        for op in ops:
            # Errors of reads differ: the qemu_tools drops a client that way.
            end = one(h, *op)
            res.append('read fails' if end and op[0] == 'r' else end)
            if not h.aio_is_ready():
                assert cls is Qsd and op[0] == 'r', op
                h = connect(sock)
        h.shutdown()
        s.qmp.cmd('block-export-del', id='e', mode='hard')
        if cls is Qsd:
            s.kill()    # it may not survive what was injected
    return res


def config(d, text):
    path = d + '/recipe.conf'
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    return {'config': path}


def inject(**kw):
    return {'inject-error': [{k.replace('_', '-') if k != 'new_state' else k: v
                              for k, v in kw.items()}]}


def both(d, layout, rules, ops, ours=None):
    mine = requests(Sluiced, d, layout, rules, ops)
    if ours is not None:
        assert mine == ours, (layout, rules, mine, ours)
        return
    qemu_tools = requests(Qsd, d, layout, rules, ops)
    assert mine == qemu_tools, (layout, rules, ops, mine, qemu_tools)
    assert any(mine) or not rules, 'the recipe does nothing: %r' % (rules,)


W, R, F = ('w', 0, 4 * K), ('r', 0, 4 * K), ('f',)
W2, R2 = ('w', 256 * K, 64 * K), ('r', 256 * K, 64 * K)


def test_rules_that_hold_from_the_start(d):
    for iotype, op in (('read', R), ('write', W), ('write-zeroes',
                       ('z', 0, 64 * K)), ('discard', ('t', 0, 64 * K)),
                       ('flush', F), ('block-status', ('s', 0, 64 * K))):
        for once in (True, False):
            for layout in ('top', 'raw', 'double'):
                if layout == 'raw':
                    continue    # what raw asks its file is its own business
                # The qemu_tools leaves out a flush of what nobody wrote to.
                first = [W] if op == F else []
                ops = [W, R, F, ('z', 0, 64 * K), ('t', 0, 64 * K)]
                if iotype == 'block-status':
                    ops.remove(R)   # the qemu_tools asks before it reads
                both(d, layout, inject(event='none', iotype=iotype, errno=28,
                                       once=once), first + [op, op] + ops)


def test_sectors(d):
    rules = inject(event='none', iotype='write', sector=9, errno=5)
    both(d, 'raw', rules, [('w', 0, 4 * K), ('w', 4 * K, 512),
                           ('w', 4608, 512), ('w', 4 * K, 4 * K),
                           ('w', 5120, 512), ('r', 4 * K, 4 * K)])
    rules = inject(event='none', iotype='read', sector=9, errno=5, once=True)
    both(d, 'top', rules, [('r', 0, 4 * K), ('r', 4 * K, 4 * K),
                           ('r', 4 * K, 4 * K)])


def test_two_errors_of_one_request(d):
    rules = {'inject-error': [
        {'event': 'none', 'iotype': 'write', 'errno': 28, 'once': True},
        {'event': 'none', 'iotype': 'write', 'errno': 5, 'once': True},
        {'event': 'none', 'iotype': 'read', 'errno': 0, 'sector': 0},
        {'event': 'none', 'iotype': 'read', 'errno': 5}]}
    both(d, 'top', rules, [W, W, W, R, R2, R])


def test_immediately(d):
    for now in (True, False):
        both(d, 'top', inject(event='none', iotype='write', immediately=now,
                              errno=5, once=True), [W, W, R])


def test_states(d):
    rules = config(d, """\
# Fail the third write, and every one from the fifth on.
[set-state]
event = "pwritev"
state = "1"
new_state = "2"

[set-state "two"]
event = "pwritev"
state = "2"
new_state = "3"

[set-state]
  event = "pwritev"
  state = "3"
  new_state = "4"

[inject-error]
event = "pwritev"
state = "3"
errno = "28"
once = "on"

[set-state]
event = "pwritev"
state = "4"
new_state = "5"

[inject-error "for-good"]
event = "pwritev"
state = "5"
iotype = "write"
errno = "5"
""")
    both(d, 'raw', rules, [W, W, W, W, W, W, R])


def test_forms_of_a_config_file(d):
    for text in ('[inject-error]\nevent = "pwritev"\n',
                 '\n\n# c\n[inject-error]\n\n event = "pwritev"\n# x\n',
                 '[inject-error "a-b"]\nevent = "pwritev"\nerrno = "0x1c"\n',
                 '[inject-error]\nevent = "pwritev"\nerrno = "5" # why\n',
                 '[inject-error]\nevent = "pwritev"\nonce = "off"\n',
                 '[inject-error]\nevent = "pwritev"\nonce = "yes"\n',
                 '[inject-error]\nevent = "pwritev"\nsector = "0"'):
        both(d, 'raw', config(d, text), [W, W])


def test_what_a_config_file_may_not_say(d):
    for text in ('event = "pwritev"\n', '[inject-error]\nerrno = "5"\n',
                 '[no-such]\nevent = "pwritev"\n',
                 '[inject-error]\nevent = "no_such"\n',
                 '[inject-error]\nevent = "pwritev"\nonce = "maybe"\n',
                 '[inject-error]\nevent = "pwritev"\nerrno = "EIO"\n',
                 '[inject-error]\nevent = "pwritev"\ncolour = "red"\n',
                 '[inject-error]\nevent = pwritev\n',
                 '[set-state]\nevent = "pwritev"\nstate = "x"\n'):
        for cls in (Sluiced, Qsd):
            make_disk('raw', d)
            with cls(d) as s:
                try:
                    s.qmp.cmd('blockdev-add', nodes('raw', d, config(d, text)))
                except QmpError:
                    pass
                else:
                    raise AssertionError((cls, text))
                if cls is Qsd:
                    s.kill()


def test_qed_data(d):
    for event, op in (('write_aio', W), ('read_aio', R), ('l2_load', R),
                      ('read_backing_aio', R2), ('read_backing_aio', W),
                      ('cow_write', W)):
        layout = 'qed' if event in ('write_aio', 'read_aio') else 'qed-backed'
        first = [] if event in ('write_aio', 'cow_write', 'read_backing_aio') \
            else [W, F]
        if event == 'l2_load':
            continue    # tables of new clusters never need to be read
        both(d, layout, inject(event=event, errno=5, once=True),
             first + [op, op, W, R])


def test_qed_pointers(d):
    # The qemu_tools fails the write; here it is the flush that needs the pointers,
    # and nothing is lost.
    for event in ('l2_update', 'l1_update'):
        for layout in ('qed', 'qed-backed'):
            rules = inject(event=event, errno=5, once=True)
            ops = [W, F, W2, F, F, R, R2]
            res = requests(Sluiced, d, layout, rules, ops)
            assert res.count('EIO') == 1 and res[5:] == [0, 0], (event, res)
            assert res[0] == res[2] == 0, (event, res)
            assert qemu_img('check', '-f', 'qed', d + '/disk')


def test_qed_space(d):
    text = """\
[inject-error]
event = "write_aio"
errno = "28"
once = "on"

[inject-error]
event = "flush_to_disk"
errno = "5"
once = "on"
"""
    # A flush that failed is not believed again.
    both(d, 'qed', config(d, text), [W, W, F, F, R],
         ours=['ENOSPC', 0, 'EIO', 'EIO', 0])


def test_reopen(d):
    make_disk('raw', d)
    results = []
    for cls in (Sluiced, Qsd):
        with cls(d) as s:
            debug = {'driver': 'blkdebug', 'node-name': 'dbg', 'image': 'f',
                     'inject-error': [{'event': 'none', 'iotype': 'write',
                                       'errno': 28}]}
            s.qmp.cmd('blockdev-add', {'driver': 'file', 'node-name': 'f',
                                       'filename': d + '/disk'})
            s.qmp.cmd('blockdev-add', debug)
            res = []
            for change in ({}, {'read-only': True}, {'read-only': False},
                           {'align': 4096}, {'discard': 'unmap'}):
                try:
                    s.qmp.cmd('blockdev-reopen', {
                        'options': [dict(debug, **change)]})
                    res.append(0)
                except QmpError as e:
                    res.append(bool(e.desc))
            results.append(res)
            if cls is Qsd:
                s.kill()
    assert results[0] == results[1], results


def test_breakpoints(d):
    """Hold requests by name; others go on."""
    make_disk('qed', d)
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', nodes('qed', d, {}))

        def io(line):
            """What it says, without what is told of writes that have ended since
            the last command."""
            text = s.qmp.hmp('qemu-io n "%s"' % line)
            return re.sub(r'wrote .*\n.* ops; .*\n', '', text.replace('\r', ''))
        assert io('break write_aio A') == ''
        assert io('break write_aio B') == ''
        # One after the other: which two are held must not be chance.
        for at, held in ((0, 'A'), (64, 'B'), (128, None)):
            assert 'rror' not in io('aio_write -P %d %dk 4k' % (at + 1, at))
            if held:
                io('wait_break ' + held)
        assert io('read -q -P 0 0 4k') == '', io('read -q -P 0 0 4k')
        assert io('resume B') == ''
        assert io('resume A') == ''
        text = io('aio_flush')
        for at in (0, 64, 128):
            assert io('read -q -P %d %dk 4k' % (at + 1, at)) == '', (at, text)
        assert io('resume A') != ''
        # A breakpoint on the pointers holds the flush, not reads.
        assert io('break l2_update C') == '' and io('break l1_update C') == ''
        assert io('aio_write -f -P 9 512k 64k') == ''
        io('wait_break C')
        assert io('read -q -P 9 512k 64k') == ''
        assert io('remove_break C') == ''
        io('aio_flush')
        assert io('flush') == ''


if __name__ == '__main__':
    if shutil.which('qemu-storage-daemon') is None:
        print('1..0 # SKIP qemu-storage-daemon is not installed')
        raise SystemExit(77)
    run(globals())
