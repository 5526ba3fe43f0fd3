#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Post-copy: the guest starts at the destination at once, its data follows."""
import os
import shutil
import subprocess
import time

import rig
from hosts import (DEVICE, MIB, Move, Source, Target, check_alone, progress,
                   wait_served)
from netns import Namespace
from rig import Guest, Ledger
from tlsfiles import Authority
from waiting import until


def begin(a, b, link, *args, speed=4 * MIB):
    """A migration under way, its guest started at the destination."""
    move = Move(a, b, link, '--speed', str(speed), *args).start()
    wait_served(b)
    return move


def finish(b, ledger, guest):
    """The guest ends; the image is checked once the daemon has closed it."""
    guest.stop()
    guest.flush_all()
    b.daemon.stop()
    check_alone(b.path)
    ledger.check_all(rig.read_image(b.path))


def some_requests(ledger, n=30):
    was = ledger.requests
    until(lambda: ledger.requests > was + n, 'the guest')


def test_moves_under_a_guest(d):
    """Far away; the source is let go of, and has not changed."""
    with Source(d) as a, Target(d) as b, a.link(delay=0.01) as link:
        old = a.client()
        ledger = Ledger(a.content)
        stop = os.path.join(d, 'stopped')
        move = Move(a, b, link, '--stop-command', 'echo $SLUICE_DEVICE > ' +
                    stop, '--start-command', 'echo at $SLUICE_URI')
        # A guest that is connected is not cut off unless one says so.
        assert move.run() == 1 and '--force' in move.err, move.err
        old.shutdown()
        move = begin(a, b, link)
        guest = Guest(b, ledger)
        assert move.wait() == 0, move.err
        assert 'has moved' in move.out, move.out
        with open(stop, encoding='ascii') as f:
            assert f.read() == DEVICE + '\n'
        assert a.exports() == set() and b.exports() == {DEVICE}
        link.cut()
        some_requests(ledger)
        finish(b, ledger, guest)
        with open(os.path.join(d, 'source.raw'), 'rb') as f:
            assert f.read() == a.content


def test_drive(d):
    """A drive with a filter of its own: its guests are above that."""
    with Source(d) as a, Target(d) as b, a.link() as link:
        a.daemon.stop()
        a.args = a.args[:2] + [
            '--drive', 'id=%s,file=%s,format=raw,copy-on-read=on' % (
                DEVICE, os.path.join(d, 'source.raw')),
            '--export', 'nbd,id=e,node-name=%s,name=guest,writable=on'
            % DEVICE]
        a.start()
        h = a.client('guest')
        move = Move(a, b, link)
        assert move.run() == 1 and '--force' in move.err, move.err
        h.pwrite(b'w' * 4096, 0)
        h.shutdown()
        assert move.run() == 0, move.err
        assert a.exports() == set()
        assert b.client().pread(4096, 0) == b'w' * 4096


def test_hooks(d):
    with Source(d, MIB) as a, Target(d) as b, a.link() as link:
        move = Move(a, b, link, '--stop-command', 'exit 3')
        assert move.run() == 1 and '--stop-command' in move.err
        assert DEVICE in a.exports() and b.exports() == set()
        assert not os.path.exists(b.path)
        move = Move(a, b, link, '--start-command',
                    'echo at $SLUICE_URI for $SLUICE_DEVICE')
        assert move.run() == 0
        uri = b.qmp.cmd('query-nbd-exports')[0]['uri']
        assert move.out.splitlines()[:2] == [uri, 'at %s for %s'
                                             % (uri, DEVICE)], move.out


def test_cut_link_stalls(d):
    """The guest waits, the stream goes on, all by itself."""
    with Source(d) as a, Target(d) as b, a.link() as link:
        ledger = Ledger(a.content)
        move = begin(a, b, link)
        guest = Guest(b, ledger)
        until(lambda: progress(b), 'some progress')
        some_requests(ledger)
        link.cut()
        until(lambda: link.refused, 'an attempt to come back')
        link.mend()
        some_requests(ledger)
        link.freeze()
        until(lambda: link.held, 'something on the frozen link')
        link.thaw()
        assert move.wait() == 0, move.err
        finish(b, ledger, guest)


def test_cut_link_fails(d):
    """By --on-link-loss: what is not there fails, what is goes on; later all
    goes on."""
    with Source(d) as a, Target(d) as b, a.link() as link:
        move = begin(a, b, link, '--on-link-loss', 'error:1', speed=MIB)
        until(lambda: progress(b), 'some progress')
        h = b.client()
        h.pwrite(b'x' * 65536, 0)
        link.cut()
        assert h.pread(65536, 0) == b'x' * 65536
        try:
            h.pread(512, len(a.content) - 65536)
            raise AssertionError('a read of what is not there')
        except rig.nbd.Error as e:
            assert e.errno == 'EIO', e
        h.pwrite(b'y' * 65536, len(a.content) - 65536)
        until(lambda: b.qmp.cmd('query-block-jobs')[0]['io-status'] != 'ok',
              'an error of the job')
        link.mend()
        until(lambda: b.qmp.cmd('query-block-jobs')[0]['io-status'] == 'ok',
              'the job')
        b.qmp.cmd('block-job-set-speed', device='migrate-' + DEVICE, speed=0)
        assert move.wait() == 0, move.err
        assert move.err.count('It is tried again every 1 s.') == 1, move.err
        want = bytearray(a.content)
        want[:65536] = b'x' * 65536
        want[-65536:] = b'y' * 65536
        h.shutdown()
        b.daemon.stop()
        check_alone(b.path)
        rig.assert_same(rig.read_image(b.path), want)


def test_taken_up_again(d):
    """Whoever is killed, the same command goes on; nothing that the guest has
    flushed is lost."""
    with Source(d) as a, Target(d) as b, a.link() as link:
        ledger = Ledger(a.content)
        move = begin(a, b, link, speed=2 * MIB)
        guest = Guest(b, ledger)
        until(lambda: progress(b), 'some progress')
        move.kill()
        some_requests(ledger)
        # The command, while the guest is at work.
        move = Move(a, b, link, '--speed', str(2 * MIB)).start()
        until(lambda: progress(b), 'some progress')
        # The destination.
        guest.cut = True
        killed = time.monotonic()
        b.daemon.kill()
        guest.join()
        assert move.wait() == 1, move.err
        ledger.check(rig.read_image(b.path), killed, grace=3)
        b.start()
        move = begin(a, b, link, speed=2 * MIB)
        guest = Guest(b, ledger, seed=2)
        until(lambda: progress(b), 'some progress')
        # The source.
        a.daemon.kill()
        assert move.proc.poll() is None or move.wait() != 0
        move.kill()
        a.start()
        move = Move(a, b, link)
        b.qmp.cmd('block-job-set-speed', device='migrate-' + DEVICE, speed=0)
        assert move.run() == 0, move.err
        assert a.exports() == set()
        finish(b, ledger, guest)


def credentials(d):
    """Options of the two daemons, with certificates of one authority."""
    ca = Authority(d)
    server = ca.folder('server', 'source', names=['DNS:source'])
    client = ca.folder('client', 'target')
    return (['--object', 'tls-creds-x509,id=tls0,endpoint=server,dir=%s,'
             'verify-peer=on' % server],
            ['--object', 'tls-creds-x509,id=tls0,endpoint=client,dir=%s'
             % client])


def test_released(d):
    """The destination says that it needs the source no more: once, with the
    connection closed; its hook is run. A daemon that ends in between says so
    later."""
    hook = os.path.join(d, 'hook')
    state = os.path.join(d, 'state')
    os.mkdir(state)
    more = ['--state-dir', state, '--release-hook',
            'echo $SLUICE_DEVICE $SLUICE_NODE $SLUICE_BASE >> ' + hook]
    with Source(d, MIB) as a, Target(d, *more) as b, a.link() as link:
        before = os.path.join(d, 'before')
        move = begin(a, b, link, speed=64 << 10)
        until(lambda: progress(b), 'some progress')
        shutil.copyfile(os.path.join(state, 'jobs.json'), before)
        b.qmp.cmd('block-job-set-speed', device='migrate-' + DEVICE, speed=0)
        assert move.wait() == 0, move.err
        b.qmp.wait_event('BLOCK_JOB_COMPLETED')
        told = [e['data'] for e in b.qmp.events
                if e['event'] == 'BLOCK_BASE_RELEASED']
        assert len(told) == 1, b.qmp.events
        base = 'nbd://%s/migrate-%s' % (link.name, DEVICE)
        assert told[0] == {'device': 'migrate-' + DEVICE, 'base': base,
                           'node-name': DEVICE + '-image'}, told
        line = 'migrate-%s %s-image %s\n' % (DEVICE, DEVICE, base)
        until(lambda: os.path.exists(hook) and os.path.getsize(hook), 'hook')
        with open(hook, encoding='ascii') as f:
            assert f.read() == line
        # As after a power cut between the header and the event.
        b.daemon.kill()
        shutil.copyfile(before, os.path.join(state, 'jobs.json'))
        b.start()
        b.qmp.cmd('blockdev-add', driver='qcow2', node_name=DEVICE + '-image',
                  file={'driver': 'file', 'filename': b.path})
        b.qmp.cmd('blockdev-add', driver='copy-on-read', node_name=DEVICE,
                  file=DEVICE + '-image')
        data = b.qmp.wait_event('BLOCK_BASE_RELEASED')['data']
        assert data == {'device': 'migrate-' + DEVICE,
                        'node-name': DEVICE + '-image'}, data


def test_between_namespaces(d):
    """Two machines' networks, TLS between them, a slow link that breaks."""
    server, client = credentials(d)
    with Namespace('a') as na, Namespace('b') as nb, \
            Source(d, before=server, host=na.there, prefix=na.prefix,
                   server=',tls-creds=tls0') as a, \
            Target(d, *client, host='127.0.0.1', prefix=nb.prefix) as b, \
            a.link(delay=0.02, listen=(nb.here, 0)) as link:
        socket = os.path.join(d, 'nbd.sock')
        b.qmp.cmd('nbd-server-stop')
        b.qmp.cmd('nbd-server-start', addr={'type': 'unix',
                                            'data': {'path': socket}})
        b.client = lambda: rig.connect(socket, DEVICE)
        move = Move(a, b, link)
        assert move.run() == 1 and 'TLS' in move.err, move.err
        assert a.exports() == {DEVICE}, a.exports()
        ledger = Ledger(a.content)
        move = begin(a, b, link, '--tls-creds', 'tls0', '--tls-hostname',
                     'source')
        guest = Guest(b, ledger)
        until(lambda: progress(b), 'some progress')
        link.cut()
        until(lambda: link.refused, 'an attempt to come back')
        link.mend()
        assert move.wait() == 0, move.err
        finish(b, ledger, guest)


def test_refused(d):
    """Nothing changes at either end."""
    with Source(d, MIB) as a, Target(d) as b, a.link() as link:
        def refused(*args, words):
            move = Move(a, b, link, *args)
            assert move.run() == 1, move.out
            assert words in move.err, move.err
            assert a.exports() == {DEVICE} and not b.exports(), a.exports()
        rig.qemu_img('create', '-q', '-f', 'qcow2', b.path, '1M')
        refused(words='needs no base')
        os.unlink(b.path)
        rig.qemu_img('create', '-q', '-f', 'qcow2', '-b',
                     os.path.join(d, 'source.raw'), '-F', 'raw', b.path)
        refused(words='source.raw')
        os.unlink(b.path)
        rig.make_file(b.path, b'x' * 4096)
        refused(words='qcow2')
        with open(b.path, 'rb') as f:
            assert f.read() == b'x' * 4096
        os.unlink(b.path)
        refused('-f', 'raw', words='--precopy')
        b.qmp.cmd('blockdev-add', driver='null-co', node_name=DEVICE,
                  size=MIB)
        refused(words="has a disk 'vda'")
        for cmd, words in (
                (['--target', 'x', DEVICE], 'absolute'),
                (['--target', b.path, 'nobody'], "'nobody'"),
                (['--target', b.path, '--on-link-loss', 'x', DEVICE],
                 'error:SECONDS')):
            p = subprocess.run(
                [Move(a, b, link).cmd[0], 'migrate', '-s', a.daemon.socket,
                 '--to', b.daemon.socket, *cmd], check=False,
                capture_output=True, text=True)
            assert p.returncode == 1 and words in p.stderr, p


if __name__ == '__main__':
    rig.run(globals())
