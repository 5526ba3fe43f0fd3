#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pre-copy: the disk is copied while the guest runs, then the guest moves."""
import os

import rig
from hosts import (DEVICE, MIB, Move, Source, Target, check_alone, progress)
from rig import Guest, Ledger
from waiting import until


def some_requests(ledger, n=30):
    was = ledger.requests
    until(lambda: ledger.requests > was + n, 'the guest')


def test_moves_under_a_guest(d):
    """The guest writes until the moment of the switch, which cuts it off; what
    was acknowledged is at the destination."""
    with Source(d) as a, Target(d) as b, b.link(delay=0.005) as link:
        ledger = Ledger(a.content)
        guest = Guest(a, ledger)
        guest.cut = True
        move = Move(a, b, link, '--precopy', '--force', '--start-command',
                    'echo at $SLUICE_URI')
        assert move.run() == 0, move.err
        guest.join()
        assert a.exports() == set() and b.exports() == {DEVICE}
        nodes = {n['node-name'] for n in a.qmp.cmd('query-named-block-nodes')}
        assert DEVICE + '-target' not in nodes, nodes
        uri = b.qmp.cmd('query-nbd-exports')[0]['uri']
        assert 'at ' + uri in move.out, move.out
        # Of a request that the cut has met, either is right.
        got = b.client().pread(len(a.content), 0)
        ledger.check(got, killed=float('inf'), grace=0)
        # Once more: it has moved already, and the guest may be there.
        b.client().pwrite(b'z' * 4096, 0)
        assert move.run() == 0 and 'has moved' in move.out, move.out
        assert b.client().pread(4096, 0) == b'z' * 4096
        b.daemon.stop()
        check_alone(b.path)


def test_guest_stays_connected(d):
    """Without --force a guest is not cut off, and goes on at the source."""
    with Source(d) as a, Target(d) as b, b.link() as link:
        ledger = Ledger(a.content)
        guest = Guest(a, ledger)
        move = Move(a, b, link, '--precopy')
        assert move.run() != 0 and '--force' in move.err, move.err
        assert DEVICE in a.exports() and DEVICE not in b.exports()
        some_requests(ledger)
        guest.stop()
        guest.flush_all()
        for h in guest.handles:
            h.shutdown()
        assert move.run() == 0, move.err
        ledger.check_all(b.client().pread(len(a.content), 0))


def test_cut_link(d):
    """Writes that were on their way may be lost: the copy is none, the source
    is the disk, and the same command copies it."""
    with Source(d) as a, Target(d) as b, b.link() as link:
        ledger = Ledger(a.content)
        move = Move(a, b, link, '--precopy', '--force', '--speed',
                    str(4 * MIB)).start()
        until(lambda: progress(a), 'some progress')
        guest = Guest(a, ledger)
        guest.cut = True
        some_requests(ledger)
        link.cut()
        link.mend()
        assert move.wait() == 1 and 'copies it again' in move.err, move.err
        assert DEVICE in a.exports() and DEVICE not in b.exports()
        some_requests(ledger)
        assert move.run() == 0, move.err
        guest.join()
        ledger.check(b.client().pread(len(a.content), 0),
                     killed=float('inf'), grace=0)


def test_begun_again(d):
    """The command or the source is killed: the source is the disk, and the same
    command copies it."""
    with Source(d) as a, Target(d) as b, b.link() as link:
        move = Move(a, b, link, '--precopy', '--speed', str(4 * MIB)).start()
        until(lambda: progress(a), 'some progress')
        move.kill()
        a.client().pwrite(b'n' * MIB, 3 * MIB)
        move = Move(a, b, link, '--precopy', '--speed', str(4 * MIB)).start()
        until(lambda: progress(a), 'some progress')
        a.daemon.kill()
        assert move.wait() != 0
        a.start()
        h = a.client()
        assert h.pread(MIB, 3 * MIB) == b'n' * MIB
        h.shutdown()
        move = Move(a, b, link, '--precopy')
        assert move.run() == 0, move.err
        want = bytearray(a.content)
        want[3 * MIB:4 * MIB] = b'n' * MIB
        rig.assert_same(b.client().pread(len(want), 0), want)


def test_refused(d):
    """A file that is there is not written over."""
    with Source(d, MIB) as a, Target(d) as b, b.link() as link:
        rig.make_file(b.path, b'x' * 4096)
        move = Move(a, b, link, '--precopy')
        assert move.run() == 1 and 'is there already' in move.err, move.err
        with open(b.path, 'rb') as f:
            assert f.read() == b'x' * 4096
        os.unlink(b.path)
        move = Move(a, b, link, '--precopy', '-f', 'raw')
        assert move.run() == 0, move.err
        with open(b.path, 'rb') as f:
            assert f.read() == a.content


if __name__ == '__main__':
    rig.run(globals())
