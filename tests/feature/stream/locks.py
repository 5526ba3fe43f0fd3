#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""One writer per image, among us and with QEMU's tools (D2)."""
import os
import random
import subprocess

import rig
from rig import KIB, MIB, Stage
from sluiced import SLUICE, SLUICED

SIZE = 4 * MIB


def make_images(d, tops=('top',)):
    data = random.Random(rig.SEED).randbytes(SIZE)
    base = rig.make_file(os.path.join(d, 'base'), data)
    return base, [rig.make_overlay(os.path.join(d, t), base) for t in tops], \
        data


def attempt(*argv):
    """Run what may fail: status, all that it said."""
    p = subprocess.run(argv, capture_output=True, text=True, check=False)
    return p.returncode, p.stdout + p.stderr


def second_daemon(top):
    return attempt(SLUICED, '--blockdev', 'qed,node-name=n,file.driver=file,'
                   'file.filename=' + top, '--export',
                   'nbd,id=e,node-name=n,writable=on')


def test_second_daemon_is_refused(d):
    _, (top,), data = make_images(d)
    with Stage(d, top) as s:
        status, text = second_daemon(top)
        assert status == 1, (status, text)
        assert 'Failed to get "' in text and 'lock' in text, text
        assert 'Is another process using the image [%s]?' % top in text, text
        # The first one has lost nothing by it.
        h = s.client()
        h.pwrite(b'1' * 512, 0)
        s.stream()
        s.wait_completed()
    rig.assert_same(rig.read_image(top), b'1' * 512 + data[512:])


def test_lock_ends_with_the_process(d):
    _, (top,), data = make_images(d)
    with Stage(d, top) as s:
        s.daemon.kill()
    with Stage(d, top) as s:
        s.stream()
        s.wait_completed()
    rig.assert_same(rig.read_image(top), data)


def test_qemu_respects_ours(d):
    _, (top,), _ = make_images(d)
    with Stage(d, top):
        for argv in (('qemu-img', 'check', '-f', 'qed', top),
                     ('qemu-io', '-f', 'qed', '-c', 'write 0 512', top),
                     ('qemu-img', 'rebase', '-u', '-f', 'qed', '-b', '', top)):
            status, text = attempt(*argv)
            assert status == 1 and 'lock' in text, (argv, status, text)
            assert 'Is another process using the image [%s]?' % top in text
        # Asked to share, it reads.
        status, text = attempt('qemu-img', 'info', '-U', top)
        assert status == 0, text
    assert attempt('qemu-img', 'check', '-f', 'qed', top)[0] == 0


def test_our_tools_respect_the_daemon(d):
    _, (top,), _ = make_images(d)
    with Stage(d, top):
        for argv in ((SLUICE, 'check', '-f', 'qed', top),
                     (SLUICE, 'resize', '-f', 'qed', top, '8M')):
            status, text = attempt(*argv)
            assert status == 1 and 'lock' in text, (argv, status, text)
        assert attempt(SLUICE, 'info', '-U', top)[0] == 0


def test_we_respect_qemu(d):
    _, (top,), _ = make_images(d)
    sock = os.path.join(d, 'qemu_tools.sock')
    rig.need('qemu-storage-daemon')
    qemu_tools = subprocess.Popen(
        ['qemu-storage-daemon',
         '--blockdev', 'driver=qed,node-name=n,file.driver=file,'
         'file.filename=' + top,
         '--nbd-server', 'addr.type=unix,addr.path=' + sock,
         '--export', 'nbd,id=e,node-name=n,name=e,writable=on'])
    try:
        rig.until(lambda: rig.listens(sock), 'the qemu_tools')
        rig.until(lambda: attempt('nbdinfo', '--size', 'nbd+unix:///e?socket='
                                  + sock)[0] == 0, 'the qemu_tools')
        status, text = second_daemon(top)
        assert status == 1, (status, text)
        assert 'Failed to get "' in text, text
        assert 'Is another process using the image [%s]?' % top in text, text
        status, text = attempt(SLUICE, 'check', '-f', 'qed', top)
        assert status == 1 and 'lock' in text, (status, text)
    finally:
        qemu_tools.terminate()
        qemu_tools.wait()
    with Stage(d, top) as s:
        s.stream()
        s.wait_completed()


def test_base_is_shared(d):
    """Three overlays of one base in three daemons, the qemu_tools's tools reading
    it meanwhile; all three stream."""
    base, tops, data = make_images(d, ('one', 'two', 'three'))
    stages = []
    try:
        for top in tops:
            folder = top + '.d'
            os.mkdir(folder)
            stages.append(Stage(folder, top))
        assert attempt('qemu-img', 'info', '-f', 'raw', base)[0] == 0
        for i, s in enumerate(stages):
            s.client().pwrite(b'%d' % i * 512, i * 64 * KIB)
            s.stream(speed=4 * MIB)
        # Nobody may write to the base now.
        status, text = attempt('qemu-io', '-f', 'raw', '-c', 'write 0 512',
                               base)
        assert status == 1 and 'lock' in text, (status, text)
        for s in stages:
            s.qmp.execute('block-job-set-speed', {'device': 'virtio0',
                                                  'speed': 0})
        for s in stages:
            s.wait_completed()
            s.daemon.stop()
    except BaseException:
        for s in stages:
            s.daemon.kill()
        raise
    for i, top in enumerate(tops):
        want = bytearray(data)
        want[i * 64 * KIB:i * 64 * KIB + 512] = b'%d' % i * 512
        rig.assert_same(rig.read_image(top), want)


def test_base_is_let_go(d):
    """After the stream the base is nobody's: another may write to it."""
    base, (top,), data = make_images(d)
    with Stage(d, top) as s:
        argv = 'qemu-io', '-f', 'raw', '-c', 'write -P 1 0 1M', base
        status, text = attempt(*argv)
        assert status == 1 and 'lock' in text, (status, text)
        s.stream()
        s.wait_completed()
        # Files are closed after guests run again.
        rig.until(lambda: attempt(*argv)[0] == 0, 'the lock to go')
        rig.assert_same(bytes(s.client().pread(MIB, 0)), data[:MIB])
    rig.assert_same(rig.read_image(top), data)


if __name__ == '__main__':
    rig.run(globals())
