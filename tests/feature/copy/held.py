#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Streams, commits, mirrors and backups are held at every breakpoint, something else happens
meanwhile, they are let go: all of it ends, and the disk is what it has to be.

Which breakpoints a job comes by is found by a run of it alone. The whole matrix
has some hundred cells; each run takes CELLS of them, by SEED; 0 takes all."""
import json
import os
import random
import re
import select

import rig
from rig import KIB, MIB, assert_same
from qmp import QmpClosed, QmpError
from seed import SEED
from sluiced import Sluiced
from waiting import until

SIZE = 2 * MIB
CELLS = int(os.environ.get('CELLS', '40'))
NODES = ['top', 'middle', 'base', 'target']
BUSY = 'is busy: block device is in use by block job'


def node(name, path, fmt, backing=None):
    res = {'driver': fmt, 'node-name': name, 'file': {
        'driver': 'blkdebug', 'node-name': name + '-dbg',
        'image': {'driver': 'file', 'filename': path}}}
    if fmt != 'raw':
        res['backing'] = backing
    return res


class Held:
    """A chain of three and a target, each over blkdebug, served over NBD."""

    def __init__(self, d, images):
        self.paths = {}
        for n in NODES:
            self.paths[n] = os.path.join(d, n)
            with open(self.paths[n], 'wb') as f:
                f.write(images[n])
        nbd = os.path.join(d, 'nbd.sock')
        self.daemon = Sluiced(d, '-T', 'debug_event', '--nbd-server',
                              'addr.type=unix,addr.path=' + nbd)
        q = self.qmp = self.daemon.qmp
        base = node('base', self.paths['base'], 'raw')
        middle = node('middle', self.paths['middle'], rig.FORMAT, base)
        q.cmd('blockdev-add', node('top', self.paths['top'], rig.FORMAT,
                                   middle))
        q.cmd('blockdev-add', node('target', self.paths['target'], rig.FORMAT))
        q.cmd('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'top', 'name': 'top',
            'writable': True})
        q.cmd('blockdev-add', {'driver': 'copy-on-read', 'node-name': 'cor',
                               'file': 'top'})
        q.cmd('block-export-add', {'type': 'nbd', 'id': 'c',
                                   'node-name': 'cor', 'name': 'cor'})
        self.other = self.daemon.connect()
        self.third = self.daemon.connect()
        self.gone = False   # the daemon has been told to end
        self.held = False
        self.open = None    # what a write left behind may not have changed
        self.nbd = nbd
        self.guest = rig.connect(nbd, 'top')

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.daemon.__exit__(kind, value, trace)

    def io(self, n, line):
        return self.qmp.hmp('qemu-io %s-dbg "%s"' % (n, line))

    def hold(self, n, event):
        assert self.io(n, 'break %s held' % event) == ''
        self.other.send_raw(json.dumps({
            'execute': 'human-monitor-command', 'arguments': {
                'command-line': 'qemu-io %s-dbg "wait_break held"' % n}})
            + '\n')

    def is_held(self):
        """Has a request come to the breakpoint?"""
        o = self.other
        while not self.held and (b'\n' in o.buf or
                                 select.select([o.sock], [], [], 0)[0]):
            self.held = 'event' not in o.read_message()
        return self.held

    def release(self, n):
        """Who waited in vain for it goes on waiting until the daemon ends."""
        self.io(n, 'remove_break held')

    def job(self):
        jobs = self.qmp.cmd('query-block-jobs')
        return jobs[0] if jobs else None

    def state(self):
        job = self.job()
        return job and job['status']

    def read(self):
        h = rig.connect(self.nbd, 'top')
        return bytes(h.pread(SIZE, 0))


# --- the jobs ---

def commit(s):
    s.qmp.cmd('block-commit', {'device': 'top', 'job-id': 'j',
                               'top-node': 'middle', 'base-node': 'base'})


def active(s):
    s.qmp.cmd('block-commit', {'device': 'top', 'job-id': 'j'})


def mirror(s, mode='background'):
    s.qmp.cmd('blockdev-mirror', {
        'device': 'top', 'job-id': 'j', 'target': 'target', 'sync': 'full',
        'copy-mode': mode})


def mirror_blocking(s):
    mirror(s, 'write-blocking')


def stream(s):
    s.qmp.cmd('block-stream', {'device': 'top', 'job-id': 'j'})


def backup(s):
    s.qmp.cmd('blockdev-backup', {
        'device': 'top', 'job-id': 'j', 'target': 'target', 'sync': 'full'})


MOVES = [active, mirror, mirror_blocking]
JOBS = [commit, active, mirror, mirror_blocking, stream, backup]


# --- what happens meanwhile; each returns what is to be done after it ---

def write(s, model):
    data = b'w' * 512
    cookie = s.guest.aio_pwrite(rig.nbd.Buffer.from_bytearray(bytearray(data)),
                                300 * KIB)
    model[300 * KIB:300 * KIB + 512] = data
    return lambda: finish_aio(s, cookie)


def read(s, model):
    buf = rig.nbd.Buffer(64 * KIB)
    cookie = s.guest.aio_pread(buf, 64 * KIB)

    def end():
        finish_aio(s, cookie)
        assert_same(bytes(buf.to_bytearray()),
                    bytes(model[64 * KIB:128 * KIB]), 'a read')
    return end


def populate(s, model):
    """A read through the filter that copies what it reads to the top image."""
    h = rig.connect(s.nbd, 'cor')
    buf = rig.nbd.Buffer(192 * KIB)
    cookie = h.aio_pread(buf, 128 * KIB)
    want = bytes(model[128 * KIB:320 * KIB])

    def end():
        while not h.aio_command_completed(cookie):
            h.poll(-1)
        assert_same(bytes(buf.to_bytearray()), want, 'a read that populates')
        h.shutdown()
    return end


def drain(s, model):
    """A reopen drains the node."""
    fmt = rig.FORMAT
    s.third.send_raw(json.dumps({
        'execute': 'blockdev-reopen', 'arguments': {'options': [
            {'driver': fmt, 'node-name': 'top', 'file': 'top-dbg',
             'backing': 'middle', 'detect-zeroes': 'on'}]}}) + '\n')

    def end():
        until(lambda: 'event' not in s.third.read_message(), 'the reopen')
    return end


def close(s, model):
    """The exports go with what is under way, and the nodes stay."""
    for e in ('c', 'e'):
        s.third.send_raw(json.dumps({
            'execute': 'block-export-del',
            'arguments': {'id': e, 'mode': 'hard'}}) + '\n')
    s.third.send_raw(json.dumps({
        'execute': 'blockdev-del', 'arguments': {'node-name': 'top'}}) + '\n')

    def end():
        answers = []
        while len(answers) < 3:
            m = s.third.read_message()
            answers += [m] if 'event' not in m else []
        assert 'error' in answers[2], answers
        until(lambda: not s.qmp.cmd('query-block-exports'), 'the exports')
        # The filter stands on what is the disk by now.
        s.qmp.cmd('block-export-add', {
            'type': 'nbd', 'id': 'e', 'node-name': 'cor', 'name': 'top',
            'writable': True})
        s.guest = rig.connect(s.nbd, 'top')
    return end


def leave_daemon(s, model):
    """It ends whatever a breakpoint holds."""
    s.qmp.cmd('quit')
    s.gone = True
    try:
        while True:
            m = s.qmp.read_message()
            s.qmp.events += [m] if 'event' in m else []
    except QmpClosed:
        s.daemon.wait()
    return lambda: None


def zero(s, model):
    cookie = s.guest.aio_zero(64 * KIB, 512 * KIB)
    model[512 * KIB:576 * KIB] = bytes(64 * KIB)
    return lambda: finish_aio(s, cookie)


def trim(s, model):
    cookie = s.guest.aio_trim(64 * KIB, 640 * KIB)

    def end():
        finish_aio(s, cookie)
        got = bytes(rig.connect(s.nbd, 'top').pread(64 * KIB, 640 * KIB))
        assert got in (bytes(64 * KIB), bytes(model[640 * KIB:704 * KIB]))
        model[640 * KIB:704 * KIB] = got
    return end


def flush(s, model):
    cookie = s.guest.aio_flush()
    return lambda: finish_aio(s, cookie)


def leave(s, model):
    """The guest's connection ends with a request under way, which may come too
    late, or not be read any more."""
    s.open = bytes(model[300 * KIB:300 * KIB + 512])
    write(s, model)
    s.guest.aio_disconnect(0)
    s.guest = rig.connect(s.nbd, 'top')
    return lambda: None


def resize(s, model):
    text = s.qmp.error('block_resize', {'node-name': 'top',
                                        'size': 4 * MIB})
    assert BUSY in text, text
    return lambda: None


def snapshot(s, model):
    text = s.qmp.error('blockdev-snapshot-sync', {
        'node-name': 'top', 'snapshot-node-name': 'n',
        'snapshot-file': s.paths['top'] + '.n'})
    assert BUSY in text, text
    assert not os.path.exists(s.paths['top'] + '.n')
    return lambda: None


def pause(s, model):
    s.qmp.cmd('block-job-pause', device='j')

    def end():
        until(lambda: s.state() in ('paused', 'standby'), 'the pause')
        s.qmp.cmd('block-job-resume', device='j')
    return end


def cancel(s, model):
    s.qmp.cmd('block-job-cancel', {'device': 'j', 'force': True})
    return lambda: None


WHILE = [write, read, populate, zero, trim, flush, leave, drain, close,
         leave_daemon, resize, snapshot, pause, cancel]


def finish_aio(s, cookie):
    while not s.guest.aio_command_completed(cookie):
        s.guest.poll(-1)


# --- one cell ---

def over(s):
    """The name of the event that ended the job, or None."""
    for e in s.qmp.events:
        if e['event'] in ('BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED'):
            assert 'error' not in e['data'], e
            return e['event']
    return None


def drive(s):
    """Let a job that is ready end."""
    if s.state() == 'ready':
        try:
            s.qmp.cmd('block-job-complete', device='j')
        except QmpError:
            pass
    return over(s) is not None


def breakpoints(d, images, start):
    """The breakpoints that a job comes by, [(node, event)]."""
    with Held(d, images) as s:
        before = len(s.daemon.errors())
        start(s)
        until(lambda: drive(s), 'the end')
        text = s.daemon.errors()[before:]
    found = set(re.findall(r'debug_event.*?\b(\w+)-dbg\W+(\w+)', text))
    assert found, text
    return sorted(found)


def check(s, got, model, what):
    if s.open and got[300 * KIB:300 * KIB + 512] == s.open:
        got = bytearray(got)
        got[300 * KIB:300 * KIB + 512] = model[300 * KIB:300 * KIB + 512]
    assert_same(bytes(got), bytes(model), what)


def play(d, images, start, n, event, act):
    """Which of two requests comes first to a breakpoint is open: it may be none of
    the job's by then, and the job may be over."""
    model = bytearray(images['disk'])
    with Held(d, images) as s:
        s.hold(n, event)
        start(s)
        until(lambda: s.is_held() or s.state() == 'ready' or over(s),
              'the job')
        if not s.is_held() and s.state() == 'ready':
            s.qmp.cmd('block-job-complete', device='j')
            until(lambda: s.is_held() or over(s), 'the job')
        may = {pause: ('running', 'ready'), cancel: ('running', 'ready')}
        state = s.state()
        end = act(s, model) if state and state in may.get(act, (state,)) \
            else lambda: None
        if not s.gone:
            s.release(n)
            end()
            until(lambda: drive(s), 'the end')
            check(s, s.read(), model, 'the disk')
            s.guest.shutdown()
            s.qmp.cmd('quit')
            s.daemon.wait()
        ended = over(s)
    last, fmt = 'top', rig.FORMAT
    if ended == 'BLOCK_JOB_COMPLETED' and start in MOVES:
        last, fmt = ('base', 'raw') if start is active else ('target', fmt)
    if ended == 'BLOCK_JOB_COMPLETED' and start is backup:
        assert_same(rig.read_image(s.paths['target'], fmt), images['disk'],
                    'the backup')
    check(s, rig.read_image(s.paths[last], fmt), model, last)
    if fmt != 'raw':
        rig.check_no_corruption(s.paths[last])


def make_images(d):
    """A base of noise, overlays with data and zeroes; what the disk holds."""
    rnd = random.Random(SEED)
    base = rig.make_file(os.path.join(d, 'base'), rnd.randbytes(SIZE))
    paths = {'base': base,
             'middle': rig.make_overlay(os.path.join(d, 'middle'), base)}
    paths['top'] = rig.make_overlay(os.path.join(d, 'top'), paths['middle'],
                                    fmt=rig.FORMAT)
    paths['target'] = rig.make_overlay(os.path.join(d, 'target'), None,
                                       size=SIZE)
    for n, c in (('middle', ('write -P 1 0 448k', 'write -z 448k 64k')),
                 ('top', ('write -P 2 192k 64k', 'write -z 1M 64k'))):
        rig.run_tool('qemu-io', '-f', rig.FORMAT,
                     *[w for line in c for w in ('-c', line)], paths[n])
    images = {'disk': rig.read_image(paths['top'])}
    for n, path in paths.items():
        with open(path, 'rb') as f:
            images[n] = f.read()
    return images


def test_matrix(d):
    images = make_images(d)
    cells = [(j, n, e, a) for j in JOBS
             for n, e in breakpoints(d, images, j) for a in WHILE]
    rnd = random.Random(SEED)
    rig.note('%d cells' % len(cells))
    for j, n, e, a in rnd.sample(cells, min(CELLS or len(cells), len(cells))):
        cell = '%s held at %s of %s, %s' % (j.__name__, e, n, a.__name__)
        try:
            play(d, images, j, n, e, a)
        except BaseException:
            rig.note(cell)
            raise


if __name__ == '__main__':
    rig.run(globals())
