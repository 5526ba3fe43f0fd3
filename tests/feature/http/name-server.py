#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A name server that does not answer keeps nobody waiting but those who need
the name: not a guest of another disk, nor the end of the daemon.

In namespaces of its own, where the name server is a socket of the test."""
import json
import os
import signal
import socket
import subprocess
import sys

from qmp import QmpError
from sluiced import Skip, Sluiced, run

try:
    import nbd
except ImportError:
    print('1..0 # SKIP python3-libnbd is not installed')
    sys.exit(77)

# After how many seconds the question is asked again: who had waited for an
# answer would have seen that.
PATIENCE = 30


def inside(d):
    with open(d + '/resolv.conf', 'w', encoding='ascii') as f:
        f.write('nameserver 127.0.0.1\noptions timeout:%d attempts:2\n'
                % PATIENCE)
    with open(d + '/nsswitch.conf', 'w', encoding='ascii') as f:
        f.write('hosts: dns\n')
    for words in ('ip link set lo up',
                  'mount --bind %s/resolv.conf /etc/resolv.conf' % d,
                  'mount --bind %s/nsswitch.conf /etc/nsswitch.conf' % d):
        subprocess.run(words.split(), check=True)


def add(s, name, **options):
    s.qmp.send_raw(json.dumps({'execute': 'blockdev-add', 'arguments': dict(
        {'driver': 'http', 'node-name': name, 'read-only': True,
         'url': 'http://base.example/x'}, **options)}) + '\n')


def test_name_server_that_does_not_answer(d):
    if not os.environ.get('INSIDE_NAMESPACE'):
        p = subprocess.run(
            ['unshare', '-rmn', sys.executable, __file__],
            env=dict(os.environ, INSIDE_NAMESPACE='1'), capture_output=True,
            text=True, check=False)
        if 'Operation not permitted' in p.stderr:
            raise Skip('no namespaces')
        assert 'ok 1 ' in p.stdout and p.returncode == 0, p.stdout + p.stderr
        return
    inside(d)
    sock = d + '/nbd'
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dns:
        dns.bind(('127.0.0.1', 53))
        with Sluiced(d, '--blockdev',
                     'driver=null-co,node-name=n,size=1M,read-zeroes=on',
                     '--nbd-server', 'addr.type=unix,addr.path=' + sock,
                     '--export', 'nbd,id=e,node-name=n,name=n') as s:
            add(s, 'web', timeout=3600)
            dns.recv(512)           # the lookup has begun
            h = nbd.NBD()
            h.set_export_name('n')
            h.connect_unix(sock)
            for _ in range(100):
                assert h.pread(4096, 0) == bytes(4096)
            h.shutdown()
            s.stop(signal.SIGTERM)
        # For either kind of address it was asked once, and never again.
        dns.setblocking(False)
        count = 1
        try:
            while True:
                dns.recv(512)
                count += 1
        except BlockingIOError:
            pass
        assert count <= 2, count


def test_name_that_does_not_exist(d):
    """Said at once, with the name."""
    with Sluiced(d) as s:
        try:
            s.qmp.cmd('blockdev-add', {
                'driver': 'http', 'node-name': 'n', 'read-only': True,
                'url': 'http://no.such.host.invalid/x'})
            raise RuntimeError('it was opened')
        except QmpError as e:
            assert 'Could not resolve host: no.such.host.invalid' in str(e), e


if __name__ == '__main__':
    if os.environ.get('INSIDE_NAMESPACE'):
        run({k: v for k, v in globals().items()
             if k == 'test_name_server_that_does_not_answer'})
    run(globals())
