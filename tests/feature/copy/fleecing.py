#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fleecing: what a disk was is read by a foreign NBD client while a guest
writes, whole and as an incremental backup, through copy-before-write and
snapshot-access."""
import json
import os
import random
import subprocess

import rig
from rig import Guest, KIB, Ledger, MIB, assert_same
from seed import SEED
from sluiced import Sluiced
from waiting import until

SIZE = 6 * MIB


def some_writes(ledger):
    was = ledger.requests
    until(lambda: ledger.requests > was + 50, 'the guest')


class Fleece:
    """A guest's export "virtio0" of node "front", which stands on "disk"."""

    def __init__(self, d):
        self.dir = d
        base = rig.make_file(os.path.join(d, 'base'),
                             random.Random(SEED).randbytes(SIZE - MIB))
        self.top = rig.make_overlay(os.path.join(d, 'top'), base, size=SIZE)
        self.before = rig.read_image(self.top)
        self.nbd = os.path.join(d, 'nbd.sock')
        self.daemon = Sluiced(
            d, '--blockdev', 'driver=%s,node-name=disk,file.driver=file,'
            'file.filename=%s' % (rig.FORMAT, self.top),
            '--blockdev', 'driver=raw,node-name=front,file=disk',
            '--nbd-server', 'addr.type=unix,addr.path=' + self.nbd,
            '--export', 'type=nbd,id=guest,node-name=front,name=virtio0,'
            'writable=on')
        self.qmp = self.daemon.qmp

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        self.daemon.__exit__(kind, value, trace)

    def client(self, name='virtio0'):
        return rig.connect(self.nbd, name)

    def content(self):
        h = self.client()
        data = b''.join(bytes(h.pread(MIB, at)) for at in range(0, SIZE, MIB))
        h.shutdown()
        return data

    def begin(self, **args):
        """From here on "snap" shows what the disk is now."""
        path = os.path.join(self.dir, 'temporary')
        rig.qemu_img('create', '-q', '-f', 'qcow2', path, str(SIZE))
        q = self.qmp
        q.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'temporary',
            'file': {'driver': 'file', 'filename': path}})
        q.cmd('blockdev-add', dict({
            'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'disk',
            'target': 'temporary'}, **args))
        q.cmd('blockdev-add', {'driver': 'snapshot-access',
                               'node-name': 'snap', 'file': 'cbw'})
        self.front('cbw')

    def front(self, node):
        self.qmp.cmd('blockdev-reopen', options=[
            {'driver': 'raw', 'node-name': 'front', 'file': node}])

    def export(self, **more):
        self.qmp.cmd('block-export-add', dict(
            {'type': 'nbd', 'id': 'snap', 'node-name': 'snap'}, **more))

    def end(self):
        q = self.qmp
        q.cmd('block-export-del', id='snap', mode='hard')
        q.cmd('blockdev-del', {'node-name': 'snap'})
        self.front('disk')
        q.cmd('blockdev-del', {'node-name': 'cbw'})
        q.cmd('blockdev-del', {'node-name': 'temporary'})

    def uri(self):
        return 'nbd+unix:///snap?socket=' + self.nbd


def dirty_parts(uri, bitmap):
    """[(offset, length)] by nbdinfo."""
    text = rig.run_tool('nbdinfo', '--json',
                        '--map=qemu:dirty-bitmap:' + bitmap, uri)
    return [(e['offset'], e['length']) for e in json.loads(text)
            if e['type'] & 1]


def test_whole(d):
    """nbdcopy and qemu-img read the disk of the moment it began."""
    rig.need('nbdcopy')
    with Fleece(d) as s:
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        guest.stop()
        want = s.content()
        s.begin()
        s.export()
        guest = Guest(s, ledger, seed=SEED + 1, pause=0)
        some_writes(ledger)
        for i, command in enumerate((
                ['nbdcopy', s.uri()],
                ['qemu-img', 'convert', '-O', 'raw', s.uri()])):
            out = os.path.join(d, 'out%d' % i)
            rig.make_file(out, bytes(SIZE))
            subprocess.run(command + [out], check=True)
            with open(out, 'rb') as f:
                assert_same(f.read(), want, command[0])
            some_writes(ledger)
        guest.stop()
        s.end()
        ledger.check_all(s.content())


def test_incremental(d):
    """A virtual machine manager's way: the bitmap of the checkpoint is frozen
    and another one begun at the point in time; the client asks what is dirty
    and pulls that alone."""
    rig.need('nbdinfo')
    with Fleece(d) as s:
        q = s.qmp
        persistent = rig.FORMAT == 'qcow2'
        q.cmd('block-dirty-bitmap-add', {
            'node': 'disk', 'name': 'c0', 'persistent': persistent})
        copy = bytearray(s.before)
        ledger = Ledger(s.before)
        for i in range(3):
            now, then = 'c%d' % i, 'c%d' % (i + 1)
            guest = Guest(s, ledger, seed=SEED + i)
            some_writes(ledger)
            guest.stop()
            want = s.content()
            q.cmd('transaction', actions=[
                {'type': 'block-dirty-bitmap-disable',
                 'data': {'node': 'disk', 'name': now}},
                {'type': 'block-dirty-bitmap-add', 'data': {
                    'node': 'disk', 'name': then, 'persistent': persistent}}])
            s.begin(bitmap={'node': 'disk', 'name': now})
            s.export(bitmaps=[{'node': 'disk', 'name': now}])
            guest = Guest(s, ledger, seed=SEED + 10 + i)
            some_writes(ledger)
            h = s.client('snap')
            parts = dirty_parts(s.uri(), now)
            assert 0 < sum(n for _, n in parts) <= SIZE
            for off, n in parts:
                copy[off:off + n] = h.pread(n, off)
            assert_same(bytes(copy), want, 'backup %d' % i)
            h.shutdown()
            guest.stop()
            s.end()
            ledger.check_all(s.content())


def test_only_what_is_marked_can_be_read(d):
    with Fleece(d) as s:
        s.qmp.cmd('block-dirty-bitmap-add', {
            'node': 'disk', 'name': 'b', 'granularity': 65536})
        s.client().pwrite(b'a' * 512, MIB)
        s.begin(bitmap={'node': 'disk', 'name': 'b'})
        s.export()
        h = s.client('snap')
        s.client().pwrite(b'b' * 512, MIB)
        assert bytes(h.pread(512, MIB)) == b'a' * 512
        for off in (0, MIB - 512, MIB + 64 * KIB):
            try:
                h.pread(512, off)
            except rig.nbd.Error:
                continue
            raise AssertionError('what is not marked was read')


def test_discard(d):
    """A reader gives back what it has read."""
    with Fleece(d) as s:
        s.begin()
        s.export(writable=True)
        h = s.client('snap')
        h.trim(2 * MIB, 0)
        s.client().pwrite(b'b' * MIB, 0)
        temporary = os.path.join(d, 'temporary')
        assert os.stat(temporary).st_blocks * 512 < MIB
        assert bytes(h.pread(512, 2 * MIB)) == s.before[2 * MIB:][:512]
        try:
            h.pread(512, 0)
        except rig.nbd.Error:
            return
        raise AssertionError('what was given back was read')


def test_slow_target(d):
    """The guest waits for its time and no longer, then goes on; who reads the
    copy gets errors, and not wrong bytes."""
    path = rig.make_file(os.path.join(d, 'far'), bytes(SIZE))
    with rig.Base(d, path, 'delay,delay-write=4,delay-zero=4', name='far',
                  writable=True) as far, Fleece(d) as s:
        q = s.qmp
        q.cmd('blockdev-add', {'driver': 'nbd', 'node-name': 'far', 'server': {
            'type': 'unix', 'path': far.sock}})
        q.cmd('blockdev-add', {
            'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'disk',
            'target': 'far', 'on-cbw-error': 'break-snapshot',
            'cbw-timeout': 1})
        q.cmd('blockdev-add', {'driver': 'snapshot-access',
                               'node-name': 'snap', 'file': 'cbw'})
        s.front('cbw')
        s.export()
        h = s.client('snap')
        assert bytes(h.pread(512, MIB)) == s.before[MIB:][:512]
        g = s.client()
        g.pwrite(b'x' * 512, 0)
        for off in (0, MIB):
            try:
                h.pread(512, off)
            except rig.nbd.Error:
                continue
            raise AssertionError('the copy is no good')
        g.pwrite(b'y' * 512, MIB)
        assert bytes(g.pread(512, 0)) == b'x' * 512


def test_job_as_a_pull_target(d):
    """The older way: a backup that copies only what is overwritten, to an image
    whose backing file is the disk."""
    with Fleece(d) as s:
        q = s.qmp
        path = os.path.join(d, 'temporary')
        rig.qemu_img('create', '-q', '-f', 'qcow2', path, str(SIZE))
        q.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'snap', 'backing': 'disk',
            'file': {'driver': 'file', 'filename': path}})
        ledger = Ledger(s.before)
        guest = Guest(s, ledger, seed=SEED)
        some_writes(ledger)
        guest.stop()
        want = s.content()
        q.cmd('blockdev-backup', {
            'device': 'disk', 'target': 'snap', 'sync': 'none',
            'job-id': 'pull'})
        s.export()
        guest = Guest(s, ledger, seed=SEED + 1, pause=0)
        some_writes(ledger)
        h = s.client('snap')
        for _ in range(3):
            got = b''.join(bytes(h.pread(64 * KIB, at))
                           for at in range(0, SIZE, 64 * KIB))
            assert_same(got, want)
            some_writes(ledger)
        guest.stop()
        h.shutdown()
        q.cmd('block-export-del', id='snap', mode='hard')
        q.cmd('block-job-cancel', device='pull')
        q.wait_event('BLOCK_JOB_CANCELLED')
        q.cmd('blockdev-del', {'node-name': 'snap'})
        ledger.check_all(s.content())


def test_refusals(d):
    with Fleece(d) as s:
        q = s.qmp
        q.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'small',
                               'size': MIB})
        q.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 'ro',
                               'size': SIZE, 'read-only': True})
        q.cmd('blockdev-add', {'driver': 'null-co', 'node-name': 't',
                               'size': SIZE})

        def error(**args):
            return q.error('blockdev-add', dict({
                'driver': 'copy-before-write', 'node-name': 'cbw',
                'file': 'disk'}, **args))

        assert error() == "Parameter 'target' is missing"
        assert error(target='small') == \
            'Source and target image have different sizes'
        assert error(target='ro') == 'Block node is read-only'
        assert error(target='t', bitmap={'node': 'disk', 'name': 'x'}) == \
            "Dirty bitmap 'x' not found"
        assert error(target='t', bitmap={'node': 'x', 'name': 'x'}) == \
            "Node 'x' not found"
        assert 'cbw-timeout' in error(target='t', **{'cbw-timeout': -1})
        assert 'on-cbw-error' in error(target='t', **{'on-cbw-error': 'x'})
        q.cmd('blockdev-add', {'driver': 'snapshot-access',
                               'node-name': 'snap', 'file': 'disk'})
        text = q.hmp('qemu-io snap "read 0 512"')
        assert 'Operation not supported' in text, text
        q.cmd('blockdev-add', {
            'driver': 'copy-before-write', 'node-name': 'cbw', 'file': 'disk',
            'target': 't'})
        s.front('cbw')
        text = q.error('block-export-add', {
            'type': 'nbd', 'id': 'past', 'node-name': 'disk',
            'writable': True})
        assert 'Permission conflict' in text, text
        text = q.error('block_resize', {'node-name': 'front', 'size': MIB})
        assert 'does not support resize' in text, text


if __name__ == '__main__':
    rig.run(globals())
