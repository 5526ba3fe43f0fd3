#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A base served by an NBD server that lies: rows VB1, VB3, VB4, VB5, VB7.

The daemon streams an overlay from it.  Whatever the server does: the daemon
lives and serves its other disk, a job that could not copy fails, and no byte
that was not asked for gets into the overlay.
"""
import json
import os
import signal
import socket
import subprocess

import nbd

from nbdliar import Liar
from qmp import QmpError
from sluiced import SLUICE, Sluiced, run
from waiting import rest

SIZE = 256 << 10
GOOD = bytes(i * 7 % 251 for i in range(SIZE))


class Server(Liar):
    """Serves GOOD, but for what @lie says. Without a path: over TCP."""

    def __init__(self, path, lie='', **more):
        super().__init__(GOOD, path, lie, **more)

    def stop(self):
        super().stop()
        self.wait()


def base_options(server, **more):
    return dict({'driver': 'nbd', 'server': server.address(),
                 'reconnect-delay': 0}, **more)


def attempt(s, d, server, **options):
    """Stream an overlay from @server. Error of the open, or of the job, or
    None; afterwards the overlay's bytes are right or missing."""
    top = d + '/top.qed'
    subprocess.run([SLUICE, 'create', '-q', '-f', 'qed', top, str(SIZE)],
                   check=True)
    error = None
    try:
        s.qmp.cmd('blockdev-add', {
            'driver': 'qed', 'node-name': 'top',
            'file': {'driver': 'file', 'filename': top},
            'backing': base_options(server, **options)})
    except QmpError as e:
        os.unlink(top)
        return e.desc
    try:
        s.qmp.cmd('block-stream', device='top', job_id='j')
        event = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        error = event['data'].get('error')
    except QmpError as e:
        error = e.desc
    s.qmp.cmd('blockdev-del', node_name='top')
    # Alone, without its base: what was copied is what the base holds.
    with subprocess.Popen(['qemu-img', 'check', '-q', '-f', 'qed', top]) as p:
        assert p.wait() == 0
    raw = d + '/raw'
    subprocess.run(['qemu-img', 'rebase', '-u', '-f', 'qed', '-b', '', top],
                   check=True)
    subprocess.run(['qemu-img', 'convert', '-f', 'qed', '-O', 'raw', top, raw],
                   check=True)
    with open(raw, 'rb') as f:
        data = f.read()
    assert len(data) == SIZE
    for i in range(0, SIZE, 512):
        part = data[i:i + 512]
        assert part == GOOD[i:i + 512] or (error and part == bytes(512)), i
    os.unlink(top)
    os.unlink(raw)
    return error


def daemon(d):
    with open(d + '/other', 'wb') as f:
        f.write(GOOD)
    return Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n' % d,
                   '--drive', 'id=o,format=raw,file=%s/other' % d,
                   '--export', 'nbd,id=e,node-name=o,name=o')


class Other:
    """A client of another disk; reads must go on."""

    def __init__(self, d):
        self.h = nbd.NBD()
        self.h.connect_uri('nbd+unix:///o?socket=%s/n' % d)

    def check(self):
        start = rest()
        assert bytes(self.h.pread(4096, 8192)) == GOOD[8192:12288]
        assert rest() - start < 5


def lies(d, names, want_error=True, **options):
    with daemon(d) as s:
        other = Other(d)
        for lie in names:
            server = Server(d + '/base', lie)
            error = attempt(s, d, server, **options)
            assert bool(error) == want_error, (lie, error)
            server.stop()
            other.check()
        del other


def test_VB0_an_honest_server(d):
    """Else the other rows prove nothing."""
    lies(d, [''], want_error=False)


def test_VB1_chunks_outside_the_request(d):
    lies(d, ['data-after', 'data-before', 'data-oversize', 'hole-outside',
             'hole-overflow', 'wrong-cookie', 'error-text', 'error-0',
             'error-offset', 'simple', 'unknown-kind', 'junk'])


def test_VB1_a_chunk_of_4_GiB(d):
    lies(d, ['data-4g'])


def test_VB1_replies_that_do_not_cover_the_request(d):
    with daemon(d) as s:
        other = Other(d)
        # A second answer to a request that is over may come too late to matter.
        for lie in ('nothing-but-done', 'half', 'twice'):
            server = Server(d + '/base', lie)
            try:
                error = attempt(s, d, server)
            except AssertionError as e:
                raise AssertionError('%s: taken for data' % lie) from e
            assert error or lie == 'twice', lie
            server.stop()
            other.check()
        del other


def test_VB3_closes_at_every_byte(d):
    with daemon(d) as s:
        other = Other(d)
        # Measure a whole conversation: handshake, status, one read.
        server = Server(d + '/base')
        assert attempt(s, d, server) is None
        whole = server.sent
        server.stop()
        handshake = whole - SIZE
        points = list(range(0, 260, 3)) + [handshake, whole // 2, whole - 1]
        for n in points:
            server = Server(d + '/base', budget=n)
            assert attempt(s, d, server), n
            server.stop()
        other.check()
        del other


def closes_and_is_back(d, path, step):
    with daemon(d) as s:
        other = Other(d)
        server = Server(path)
        assert attempt(s, d, server) is None
        whole = server.sent
        server.stop()
        handshake = whole - SIZE
        points = list(range(0, handshake + 24, step)) + [
            handshake + 4096, whole // 2, whole - 1]
        for n in points:
            server = Server(path, budget=n)
            server.cuts = 1
            options = base_options(server, **{
                'node-name': 'n', 'read-only': True, 'reconnect-delay': 20,
                'connections': 1})
            try:
                s.qmp.cmd('blockdev-add', options)
            except QmpError:
                # Whoever opens it hears what is wrong, and tries again.
                assert n <= handshake, n
                s.qmp.cmd('blockdev-add', options)
            text = s.qmp.hmp('qemu-io n "read -v 0 32"')
            got = bytes(int(w, 16) for line in text.splitlines()[:2]
                        for w in line[11:58].split())
            assert got == GOOD[:32], (n, text)
            text = s.qmp.hmp('qemu-io n "read -q 0 %d"' % SIZE)
            assert text == '', (n, text)
            s.qmp.cmd('blockdev-del', node_name='n')
            server.stop()
        other.check()
        del other


def test_VB3_closes_at_every_byte_and_is_back(d):
    """A read that lost its server is made again when there is patience; then it
    gives the right bytes. Handshake, headers of replies, the payload."""
    closes_and_is_back(d, d + '/base', 1)


def test_VB3_resets_and_is_back(d):
    closes_and_is_back(d, None, 3)


def test_VB4_a_read_error_in_the_middle_of_a_copy(d):
    """The job fails, whatever is ignored the base stays in the header, and no
    tool says that it is done."""
    server = Server(d + '/base', 'error-mid')
    uri = 'nbd+unix:///?socket=' + server.path
    for policy in ('report', 'ignore'):
        top = d + '/top-' + policy
        subprocess.run([SLUICE, 'create', '-q', '-f', 'qcow2', '-u', '-b', uri,
                        '-F', 'raw', top, str(SIZE)], check=True)
        with Sluiced(d, '--drive', 'id=v,format=qcow2,file=' + top) as s:
            s.qmp.cmd('block-stream', device='v', on_error=policy)
            event = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='v')
            assert event['data'].get('error'), (policy, event)
        info = json.loads(subprocess.run(
            ['qemu-img', 'info', '--output=json', '-U', top], check=True,
            capture_output=True).stdout)
        assert info['backing-filename'] == uri, (policy, info)
        text = subprocess.run([SLUICE, 'map', '--output=json', top],
                              capture_output=True, check=True).stdout
        # What failed is not there, as data or as a hole.
        here = [e for e in json.loads(text)
                if e['start'] <= SIZE // 2 < e['start'] + e['length']]
        assert here[0]['depth'] == 1, (policy, here)
    for args in (('convert', '-O', 'raw', uri, d + '/copy'),
                 ('convert', '-O', 'qcow2', '-c', uri, d + '/copy'),
                 ('convert', '-O', 'qcow2', '-W', '-m', '8', uri, d + '/copy'),
                 ('dd', 'bs=64k', 'if=' + uri, 'of=%s/copy' % d),
                 ('compare', uri, d + '/other')):
        with open(d + '/other', 'wb') as f:
            f.write(GOOD)
        p = subprocess.run([SLUICE] + list(args), capture_output=True,
                           text=True, check=False)
        assert p.returncode != 0 and 'rror' in p.stderr, (args, p)
        if os.path.exists(d + '/copy'):
            os.unlink(d + '/copy')
    server.stop()


def test_VB5_impossible_sizes(d):
    with daemon(d) as s:
        other = Other(d)
        for size in ((1 << 63) - 512, 1 << 63, (1 << 63) + 512, (1 << 64) - 1):
            server = Server(d + '/base', size=size)
            assert attempt(s, d, server), size
            server.stop()
            other.check()
        del other


def test_VB5_a_size_that_changes_on_reconnect(d):
    with daemon(d) as s:
        server = Server(d + '/base', 'resize', budget=40000)
        error = attempt(s, d, server, **{'reconnect-delay': 5,
                                         'connections': 1})
        assert error, 'a resized base was taken'
        server.stop()


def test_VB5_contexts_that_are_gone_on_reconnect(d):
    with daemon(d) as s:
        server = Server(d + '/base', 'no-contexts', budget=40000)
        error = attempt(s, d, server, **{'reconnect-delay': 5,
                                         'connections': 1})
        assert error, 'a base that tells less than before was taken'
        server.stop()


def test_an_export_that_comes_back_during_the_handshake(d):
    """It was not there when its contexts were asked for; the next handshake
    has them."""
    with daemon(d) as s:
        server = Server(d + '/base', 'early', budget=40000)
        server.cuts = 1
        error = attempt(s, d, server, **{'reconnect-delay': 60,
                                         'connections': 1})
        assert not error, error
        assert server.connections == 3, server.connections
        server.stop()


def test_VB3_the_daemon_ends_while_a_server_is_silent(d):
    # A second, then it lets go.
    with socket.socket(socket.AF_UNIX) as silent, Sluiced(d) as s:
        silent.bind(d + '/silent')
        silent.listen(5)
        s.qmp.send_raw(json.dumps({'execute': 'blockdev-add', 'arguments': {
            'driver': 'nbd', 'node-name': 'n', 'open-timeout': 600,
            'server': {'type': 'unix', 'path': d + '/silent'}}}) + '\n')
        other = s.connect()
        other.cmd('query-named-block-nodes')
        other.close()
        s.proc.send_signal(signal.SIGTERM)
        assert s.wait() == 0


def test_VB7_extents_that_lie_about_lengths(d):
    with daemon(d) as s:
        other = Other(d)
        for lie in ('status-zero-length', 'status-past-end', 'status-sum',
                    'status-none', 'status-short', 'status-later-zero',
                    'status-context', 'status-odd', 'status-many'):
            server = Server(d + '/base', lie)
            # An error, or all the data: never a hole where there is data.
            attempt(s, d, server)
            server.stop()
            other.check()
        del other


if __name__ == '__main__':
    run(globals())
