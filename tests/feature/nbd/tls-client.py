#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""TLS of the NBD client: the servers of others and our own, names that are
checked, and servers that would rather not (VB2)."""
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '../../lib'))
from killed import kill_and_wait  # noqa: E402
from listening import Listening  # noqa: E402
from nginx import free_ports  # noqa: E402
from sluiced import SLUICE, Skip, Sluiced, run, write_pattern  # noqa: E402
from tlsfiles import Authority, psk_folder  # noqa: E402
from waiting import until  # noqa: E402

MIB = 1 << 20
KEY = '0123456789abcdef0123456789abcdef'
OPT_MAGIC = b'IHAVEOPT'
NAMES = ['DNS:localhost', 'IP:127.0.0.1']


class Other:
    """A server of others that is ended with the block."""

    def __init__(self, args, ready):
        try:
            self.proc = subprocess.Popen(args)
        except FileNotFoundError as e:
            raise Skip('%s is not installed' % args[0]) from e
        until(lambda: self.is_up(ready), args[0])

    def is_up(self, ready):
        assert self.proc.poll() is None
        if isinstance(ready, int):
            with socket.socket() as s:
                return s.connect_ex(('127.0.0.1', ready)) == 0
        return os.path.exists(ready)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        kill_and_wait(self.proc)


def setup(d, **how):
    ca = Authority(d)
    how.setdefault('names', NAMES)
    server = ca.folder('server', 'localhost', **how)
    disk = os.path.join(d, 'disk')
    write_pattern(disk, 4 * MIB)
    return ca, server, ca.folder('client', 'alice'), disk


def nbdkit(port, disk, *args):
    return Other(['nbdkit', '-f', '-p', str(port), '-i', '127.0.0.1', *args,
                  'file', disk], port)


def qemu_nbd(port, disk, *args):
    return Other(['qemu-nbd', '-t', '-f', 'raw', '-p', str(port), '-b',
                  '127.0.0.1', '-x', '', '-e', '8', *args, disk], port)


def sluice(*args):
    return subprocess.run([SLUICE, *args], capture_output=True, text=True)


def x509(folder):
    return 'tls-creds-x509,id=t,endpoint=client,dir=' + folder


def opts(port, more='', host='localhost'):
    return 'driver=nbd,host=%s,port=%d,tls-creds=t%s' % (host, port, more)


def check_reads(d, creds, image, disk):
    out = os.path.join(d, 'copy')
    p = sluice('convert', '--object', creds, '--image-opts', image, '-O',
               'raw', out)
    assert p.returncode == 0, p.stderr
    with open(out, 'rb') as a, open(disk, 'rb') as b:
        assert a.read() == b.read()


def fails(creds, image):
    p = sluice('info', '--object', creds, '--image-opts', image)
    assert p.returncode == 1, p.stdout
    return p.stderr


def test_servers_of_others(d):
    ca, server, client, disk = setup(d)
    keys = psk_folder(d, alice=KEY)
    port = free_ports(1)[0]
    psk = 'tls-creds-psk,id=t,username=alice,dir=' + keys
    with nbdkit(port, disk, '--tls=require', '--tls-certificates=' + server,
                '--tls-verify-peer'):
        check_reads(d, x509(client), opts(port), disk)
        check_reads(d, x509(client), opts(port, host='127.0.0.1'), disk)
    with nbdkit(port, disk, '--tls=require',
                '--tls-psk=%s/keys.psk' % keys):
        check_reads(d, psk, opts(port), disk)
        text = fails('tls-creds-psk,id=t,username=alice,dir=' + psk_folder(
            d, 'wrong', alice='ff' * 16), opts(port))
        assert 'TLS handshake failed' in text, text
    with qemu_nbd(port, disk, '--object', 'tls-creds-x509,id=t,endpoint=server,'
                  'dir=' + server, '--tls-creds', 't'):
        check_reads(d, x509(client), opts(port), disk)
        check_reads(d, x509(client),
                    'driver=nbd,filename=nbds://localhost:%d,tls-creds=t'
                    % port, disk)
    with qemu_nbd(port, disk, '--object', 'tls-creds-anon,id=t,endpoint=server',
                  '--tls-creds', 't'):
        check_reads(d, 'tls-creds-anon,id=t', opts(port), disk)


class OurServer:
    def __init__(self, d, folder, disk, more='', unix=False, writable=False):
        os.makedirs(d + '/ours', exist_ok=True)
        self.daemon = Sluiced(
            d + '/ours', '--object', 'tls-creds-x509,id=t,endpoint=server,dir='
            + folder + more, '--nbd-server',
            ('addr.type=unix,addr.path=%s/ours/s' % d if unix else
             'addr.type=inet,addr.host=127.0.0.1,addr.port=0') +
            ',tls-creds=t', '--blockdev', 'raw,node-name=n,file.driver=file,'
            'file.filename=' + disk, '--export', 'nbd,id=e,node-name=n,name=%s'
            % (',writable=on' if writable else ''))
        uri = self.daemon.qmp.cmd('query-nbd-exports')[0]['uri']
        self.port = 0 if unix else int(re.search(r':(\d+)/', uri).group(1))

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.daemon.__exit__(*args)


def test_our_own_server_and_a_unix_socket(d):
    ca, server, client, disk = setup(d)
    with OurServer(d, server, disk, unix=True):
        path = 'driver=nbd,path=%s/ours/s,tls-creds=t' % d
        assert 'No hostname for certificate validation' in \
            fails(x509(client), path)
        check_reads(d, x509(client), path + ',tls-hostname=localhost', disk)
        assert 'hostname' in fails(x509(client),
                                   path + ',tls-hostname=elsewhere')
        check_reads(d, x509(client), 'driver=nbd,filename=nbds+unix://?socket='
                    '%s/ours/s,tls-creds=t,tls-hostname=localhost' % d, disk)


def test_writes_and_flushes(d):
    ca, server, client, disk = setup(d)
    with OurServer(d, server, disk, writable=True) as s, \
            Sluiced(d, '--object', x509(client), '--blockdev',
                    'nbd,node-name=n,server.type=inet,server.host=localhost,'
                    'server.port=%d,tls-creds=t' % s.port) as c:
        hmp = c.qmp
        out = hmp.cmd('human-monitor-command', command_line=
                      'qemu-io n "write -P 9 1M 2M"')
        out += hmp.cmd('human-monitor-command', command_line=
                       'qemu-io n "flush"')
        out += hmp.cmd('human-monitor-command', command_line=
                       'qemu-io n "read -P 9 1M 2M"')
        assert 'failed' not in out and 'error' not in out.lower(), out
    with open(disk, 'rb') as f:
        f.seek(MIB)
        assert f.read(2 * MIB) == b'\x09' * 2 * MIB


# --- VB2: servers that cannot prove who they are ---

def test_VB2_names_and_authorities(d):
    ca, server, client, disk = setup(d)
    other = Authority(d, 'other')
    stranger = other.folder('client', 'alice')
    with OurServer(d, server, disk) as s:
        text = fails(x509(client), opts(s.port, ',tls-hostname=elsewhere'))
        assert 'TLS handshake failed' in text and 'elsewhere' in text, text
        text = fails(x509(stranger), opts(s.port))
        assert 'issuer' in text or 'not trusted' in text, text
        # A client without a certificate: the server says no.
        bare = ca.folder('client', None, 'bare')
        text = fails(x509(bare), opts(s.port))
        assert 'TLS' in text and 'ertificate' in text, text
    for why, how in (('expired', {'days': -1}),
                     ('hostname', {'names': ['DNS:elsewhere']})):
        folder = ca.folder('server', 'localhost', **{'names': NAMES, **how})
        with OurServer(d, folder, disk, ',sanity-check=off') as s:
            text = fails(x509(client), opts(s.port))
            assert 'TLS handshake failed' in text and why in text, text
    # A certificate of a client makes no server.
    cert, key = ca.issue('client', '/CN=localhost', names=NAMES)
    folder = ca.folder('server', None, 'misused')
    os.rename(cert, folder + '/server-cert.pem')
    os.rename(key, folder + '/server-key.pem')
    with OurServer(d, folder, disk, ',sanity-check=off') as s:
        assert 'TLS handshake failed' in fails(x509(client), opts(s.port))
        # Whoever wants that gets it.
        check_reads(d, x509(client) + ',verify-peer=off', opts(s.port), disk)


def test_VB2_no_way_back_to_plain_text(d):
    ca, server, client, disk = setup(d)
    port = free_ports(1)[0]
    with nbdkit(port, disk, '--tls=off'):
        text = fails(x509(client), opts(port))
        assert 'Denied by server for option 5 (starttls)' in text, text
        assert sluice('info', 'nbd://localhost:%d' % port).returncode == 0
    with OurServer(d, server, disk) as s:
        p = sluice('info', 'nbd://localhost:%d' % s.port)
        assert p.returncode == 1 and 'TLS' in p.stderr, p.stderr
    p = sluice('info', 'nbds://localhost:%d' % port)
    assert p.returncode == 1 and "needs 'tls-creds'" in p.stderr, p.stderr
    p = sluice('info', '--image-opts',
               'driver=nbd,host=localhost,port=%d,tls-hostname=x' % port)
    assert p.returncode == 1 and "needs 'tls-creds'" in p.stderr, p.stderr


class Liar(Listening):
    """A server that answers by @talk(connection) and hangs up."""

    def __init__(self, talk):
        self.talk = talk
        self.got = b''
        super().__init__()
        self.port = self.listener.getsockname()[1]

    def serve(self, c):
        self.talk(c)
        c.shutdown(socket.SHUT_WR)
        while True:
            part = c.recv(65536)
            if not part:
                break
            self.got += part


def greeting(flags=3):
    return b'NBDMAGIC' + OPT_MAGIC + struct.pack('>H', flags)


def reply(opt, kind, data=b'', length=None):
    return struct.pack('>QIII', 0x3e889045565a9, opt, kind,
                       len(data) if length is None else length) + data


def test_VB2_servers_that_lie_before_TLS(d):
    ca, server, client, disk = setup(d)
    refused = 1 << 31
    for name, answer in (
            ('nothing', b''),
            ('old', b'NBDMAGIC' + b'\0\0\x42\x02\x81\x86\x12\x53' + bytes(136)),
            ('not fixed', greeting(2)),
            ('garbage', b'HTTP/1.1 400 Bad Request\r\n\r\n'),
            ('policy', greeting() + reply(5, refused + 2, b'no TLS here')),
            ('unsup', greeting() + reply(5, refused + 1)),
            ('long', greeting() + reply(5, refused + 2, length=0xffffffff)),
            ('not text', greeting() + reply(5, refused + 2, b'\xff\xfe\x1b[2J')),
            ('other option', greeting() + reply(7, 1)),
            ('data', greeting() + reply(5, 1, b'x')),
            ('server', greeting() + reply(5, 2, b'x')),
            # What a stripped TLS looks like: the server goes on in the clear.
            ('stripped', greeting() + reply(5, 1) + reply(8, 1) + bytes(4096)),
            ('alert', greeting() + reply(5, 1) + b'\x15\x03\x03\0\2\2\x28'),
            ('huge', greeting() + reply(5, 1) + b'\x16\x03\x03\xff\xff' +
             bytes(70000))):
        liar = Liar(lambda c, a=answer: c.sendall(a))
        try:
            text = fails(x509(client), opts(liar.port))
            assert 'Could not open' in text, (name, text)
            assert '\x1b' not in text, name
            # STARTTLS and a ClientHello at most: never another option.
            seen = liar.got.split(OPT_MAGIC)
            assert len(seen) <= 2, (name, liar.got)
            assert name != 'policy' or 'no TLS here' in text
        finally:
            liar.stop()


def test_VB3_closed_at_every_byte_of_the_handshake(d):
    """Of TLS, that is: through a proxy that cuts the server off."""
    ca, server, client, disk = setup(d)
    with OurServer(d, server, disk) as s:
        with Cutter(s.port) as cut:
            p = sluice('info', '--object', x509(client), '--image-opts',
                       opts(cut.port))
            assert p.returncode == 0, p.stderr
            # The last is a goodbye; lengths of signatures differ a little.
            until(lambda: cut.passed, 'the end of the connection')
            total = cut.passed - 64
            assert total > 1000, total
            for n in list(range(0, 64)) + list(range(64, total, 97)):
                cut.limit = n
                text = fails(x509(client), opts(cut.port))
                assert 'Could not open' in text, (n, text)


class Cutter:
    """A proxy to @port that lets @limit bytes of the server pass."""

    def __init__(self, port):
        self.target = port
        self.limit = None
        self.passed = 0
        self.sock = socket.create_server(('127.0.0.1', 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.sock.close()

    def _run(self):
        while True:
            try:
                c, _ = self.sock.accept()
            except OSError:
                return
            s = socket.create_connection(('127.0.0.1', self.target))
            threading.Thread(target=self._up, args=(c, s), daemon=True).start()
            threading.Thread(target=self._down, args=(s, c),
                             daemon=True).start()

    @staticmethod
    def _up(c, s):
        try:
            while True:
                part = c.recv(65536)
                if not part:
                    break
                s.sendall(part)
            s.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _down(self, s, c):
        passed = 0
        try:
            while self.limit is None or passed < self.limit:
                part = s.recv(65536)
                if self.limit is not None:
                    part = part[:self.limit - passed]
                if not part:
                    break
                c.sendall(part)
                passed += len(part)
        except OSError:
            pass
        self.passed = passed
        s.close()
        try:
            c.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        c.close()


# --- a stream, and a server that comes back ---

def test_a_stream_over_a_server_that_comes_back(d):
    ca, server, client, disk = setup(d)
    port = free_ports(1)[0]
    args = ('--tls=require', '--tls-certificates=' + server)
    top = d + '/top.qcow2'
    p = sluice('create', '-f', 'qcow2', top, '4M')
    assert p.returncode == 0, p.stderr
    with Sluiced(d, '--object', x509(client)) as s:
        q = s.qmp
        first = nbdkit(port, disk, *args)
        try:
            q.cmd('blockdev-add', driver='nbd', node_name='base',
                  server={'type': 'inet', 'host': 'localhost',
                          'port': str(port)}, tls_creds='t', read_only=True,
                  reconnect_delay=60)
            q.cmd('blockdev-add', driver='qcow2', node_name='top',
                  file={'driver': 'file', 'filename': top}, backing='base')
            q.cmd('object-del', id='t')     # the node has its own
        finally:
            kill_and_wait(first.proc)
        q.cmd('block-stream', device='top', job_id='j')
        with nbdkit(port, disk, *args):
            q.wait_event('BLOCK_JOB_COMPLETED')
        shown = q.cmd('query-named-block-nodes')
        assert any(n['node-name'] == 'top' for n in shown)
    out = d + '/copy'
    p = sluice('convert', '-f', 'qcow2', '-O', 'raw', top, out)
    assert p.returncode == 0, p.stderr
    with open(out, 'rb') as a, open(disk, 'rb') as b:
        assert a.read() == b.read()


def test_a_server_that_hangs_holds_nobody(d):
    """Within TLS, too, a job ends when it is cancelled, and so does the daemon."""
    ca, server, client, disk = setup(d)
    port = free_ports(1)[0]
    top = d + '/top.qcow2'
    p = sluice('create', '-f', 'qcow2', top, '4M')
    assert p.returncode == 0, p.stderr
    with nbdkit(port, disk, '--tls=require', '--tls-certificates=' + server) \
            as kit, Sluiced(d, '--object', x509(client)) as s:
        q = s.qmp
        q.cmd('blockdev-add', driver='nbd', node_name='base',
              server={'type': 'inet', 'host': 'localhost', 'port': str(port)},
              tls_creds='t', read_only=True, hang_timeout=1)
        q.cmd('blockdev-add', driver='qcow2', node_name='top',
              file={'driver': 'file', 'filename': top}, backing='base')
        kit.proc.send_signal(signal.SIGSTOP)
        try:
            q.cmd('block-stream', device='top', job_id='j')
            q.wait_event('BLOCK_NODE_HANG')
            q.cmd('block-job-cancel', device='j')
            q.wait_event('BLOCK_JOB_CANCELLED')
            s.stop()
        finally:
            kit.proc.send_signal(signal.SIGCONT)


if __name__ == '__main__':
    run(globals())
