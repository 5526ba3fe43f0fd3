#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""TLS of the NBD server: rows TL2-TL8 of the conformance list, clients of others
with certificates and keys, and who is let in to what."""
import json
import os
import re
import ssl
import struct
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '../../lib'))
import nbdraw  # noqa: E402
from nbdraw import (ABORT, ACK, ERR_INVALID, ERR_TLS_REQD, ERR_UNKNOWN,  # noqa: E402
                    EXPORT_NAME, GO, INFO, LIST, LIST_META, SET_META, STARTTLS,
                    STRUCTURED, Closed, meta, name_info)
from memory import memory_of  # noqa: E402
from sluiced import (SLUICED, Sluiced, qemu_img, run,  # noqa: E402
                     run_tool, write_pattern)
from tlsfiles import Authority, psk_folder  # noqa: E402
from waiting import until  # noqa: E402

MIB = 1 << 20
ALICE = '0123456789abcdef0123456789abcdef'
BOB = 'fedcba9876543210fedcba9876543210'


class Client(nbdraw.Client):
    """A raw client that can go on in TLS."""

    def start_tls(self, context, ask=True):
        if ask:
            assert self.opt(STARTTLS)[0] == ACK
        self.sock = context.wrap_socket(self.sock, suppress_ragged_eofs=False)
        return self


def context(folder=None, **versions):
    """A client with the certificate of @folder; it verifies nothing, for here it
    is the server's behaviour that counts."""
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname = False
    c.verify_mode = ssl.CERT_NONE
    if folder and os.path.exists(folder + '/client-cert.pem'):
        c.load_cert_chain(folder + '/client-cert.pem',
                          folder + '/client-key.pem')
    for name, value in versions.items():
        setattr(c, name, value)
    return c


class Server:
    """The daemon with TLS by @creds, serving a disk under the names of
    @exports: {name: more options}."""

    def __init__(self, d, creds, *objects, authz=None, exports=None, tcp=True,
                 writable=True):
        self.dir = d
        self.disk = os.path.join(d, 'disk')
        if not os.path.exists(self.disk):
            write_pattern(self.disk, 4 * MIB)
        self.path = os.path.join(d, 'nbd.sock')
        where = ('addr.type=inet,addr.host=127.0.0.1,addr.port=0' if tcp else
                 'addr.type=unix,addr.path=' + self.path)
        args = ['--blockdev', 'raw,node-name=disk,file.driver=file,'
                'file.filename=' + self.disk]
        for o in (creds,) + objects:
            args += ['--object', o + ',id=creds' if o is creds else o]
        args += ['--nbd-server', where + ',tls-creds=creds' +
                 (',tls-authz=' + authz if authz else '')]
        for i, (name, more) in enumerate((exports or {'disk': ''}).items()):
            args += ['--export', 'nbd,id=e%d,node-name=disk,name=%s%s%s' % (
                i, name, ',writable=on' if writable and not i else '', more)]
        self.daemon = Sluiced(d, *args)
        self.uri = self.daemon.qmp.cmd('query-nbd-exports')[0]['uri']
        self.port = int(re.search(r':(\d+)/', self.uri).group(1)) if tcp else 0

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.daemon.__exit__(*args)

    def raw(self):
        return Client(('127.0.0.1', self.port) if self.port else
                      self.path).greet()

    def tls(self, folder=None, **versions):
        return self.raw().start_tls(context(folder, **versions))


def x509(folder, *more):
    return ','.join(('tls-creds-x509,endpoint=server,dir=' + folder,) + more)


def is_refused(make):
    """Does the handshake fail, or nothing come after it?  With TLS 1.3 the
    client has done its part before the server has looked at it."""
    try:
        c = make()
        c.send_opt(LIST)
        c.opt_reply(LIST)
    except (Closed, ssl.SSLError, ConnectionError):
        return True
    return False


def names_listed(c):
    kind, _, before = c.opt(LIST)
    assert kind == ACK
    return sorted(d[4:4 + struct.unpack_from('>I', d)[0]].decode()
                  for k, d in before)


def setup(d, **how):
    ca = Authority(d)
    server = ca.folder('server', 'localhost',
                       names=['DNS:localhost', 'IP:127.0.0.1'])
    return ca, server, ca.folder('client', 'alice', **how)


# --- rows ---

def test_TL2_all_else_is_refused_before_TLS(d):
    ca, server, _ = setup(d)
    with Server(d, x509(server)) as s:
        c = s.raw()
        for opt, data in ((LIST, b''), (INFO, name_info('disk')),
                          (GO, name_info('disk')), (STRUCTURED, b''),
                          (LIST_META, meta('disk')), (SET_META, meta('disk')),
                          (GO, b'malformed'), (99, b''), (99, b'x' * 60000)):
            assert c.opt(opt, data)[0] == ERR_TLS_REQD, opt
        assert c.opt(ABORT)[0] == ACK
        assert c.at_end()
        c = s.raw()
        c.send_opt(EXPORT_NAME, b'disk')
        assert c.at_end()
        # Not even skipped: VC7.
        for length in (65537, 0xffffffff):
            c = s.raw()
            c.send_opt(99, length=length)
            assert c.at_end()
        # A client without the fixed flag has no option but EXPORT_NAME.
        c = Client(('127.0.0.1', s.port)).greet(0)
        c.send_opt(EXPORT_NAME, b'disk')
        assert c.at_end()


def test_TL3_starttls_takes_no_data_and_comes_once(d):
    ca, server, client = setup(d)
    with Server(d, x509(server)) as s:
        c = s.raw()
        assert c.opt(STARTTLS, b'x')[0] == ERR_INVALID
        assert c.opt(LIST)[0] == ERR_TLS_REQD
        c.start_tls(context(client))
        assert c.opt(STARTTLS)[0] == ERR_INVALID
        assert c.opt(STARTTLS, b'x')[0] == ERR_INVALID
        c.go('disk')
        assert c.alive()


def test_TL4_after_the_ack_there_is_no_way_back(d):
    ca, server, client = setup(d)
    with Server(d, x509(server)) as s:
        c = s.raw()
        assert c.opt(STARTTLS)[0] == ACK
        c.send_opt(GO, name_info('disk'))
        # What comes is an alert of TLS at most.
        try:
            rest = c.sock.recv(4096)
        except ConnectionResetError:
            rest = b''
        assert rest[:1] in (b'', b'\x15'), rest
        # Bytes that were piped behind STARTTLS never count as options.
        c = s.raw()
        c.send(nbdraw.OPT_MAGIC + struct.pack('>II', STARTTLS, 0) +
               nbdraw.OPT_MAGIC + struct.pack('>II', LIST, 0))
        assert c.opt_reply(STARTTLS)[0] == ACK
        assert is_refused(lambda: c.start_tls(context(client), ask=False))


def test_TL5_what_was_said_in_the_clear_is_forgotten(d):
    """VC10: whoever sits in between may have said it."""
    ca, server, client = setup(d)
    with Server(d, x509(server)) as s:
        c = s.tls(client)
        assert c.opt(SET_META, meta('disk', ['base:allocation']))[0] == \
            ERR_INVALID, 'structured replies were not agreed on'
        c.go('disk')
        assert c.read(0, 512)       # a simple reply
        c = s.raw()
        assert c.opt(STRUCTURED)[0] == ERR_TLS_REQD
        c.start_tls(context(client)).go('disk')
        assert c.read(0, 512)


def test_TL7_tls_1_2_and_1_3_and_no_older(d):
    ca, server, client = setup(d)
    old = ssl.TLSVersion
    with Server(d, x509(server)) as s:
        for v, name in ((old.TLSv1_2, 'TLSv1.2'), (old.TLSv1_3, 'TLSv1.3')):
            c = s.tls(client, minimum_version=v, maximum_version=v)
            assert c.sock.version() == name
            assert names_listed(c) == ['disk'], 'no TLS_REQD inside of TLS'
            assert c.sr().set_meta('disk', ['base:allocation'])
            c.go('disk')
            assert c.write(4096, b'w' * 70000) == 0
            assert c.read(4096, 70000) == b'w' * 70000
        for v in (old.TLSv1, old.TLSv1_1):
            def make(v=v):
                how = context(client)
                how.set_ciphers('ALL:@SECLEVEL=0')
                how.minimum_version = how.maximum_version = v
                return s.raw().start_tls(how)
            assert is_refused(make), v


def test_TL8_the_end_is_signed(d):
    ca, server, client = setup(d)
    with Server(d, x509(server)) as s:
        c = s.tls(client)
        assert c.opt(ABORT)[0] == ACK
        assert c.sock.recv(1) == b'', 'close_notify, else an exception'
        c = s.tls(client).go('disk')
        c.send_req(nbdraw.DISC)
        assert c.sock.recv(1) == b''
        # A stream that is cut off: the write that it broke off is none.
        before = open(s.disk, 'rb').read()
        c = s.tls(client).go('disk')
        _, head = c.pack_req(nbdraw.WRITE, 0, 32768)
        c.send(head + b'!' * 16384)
        c.sock.close()
        assert s.tls(client).go('disk').alive()
        assert open(s.disk, 'rb').read() == before


# --- clients of others ---

def check_clients(s, image_args, name, libnbd_uri):
    """@image_args: of qemu-img, to get at @name; None: not QEMU."""
    out = os.path.join(s.dir, 'copy')
    if libnbd_uri:
        info = json.loads(run_tool('nbdinfo', '--json', libnbd_uri))
        assert info['TLS'] is True
        assert info['exports'][0]['export-size'] == 4 * MIB
        run_tool('nbdcopy', libnbd_uri, out)
        with open(out, 'rb') as a, open(s.disk, 'rb') as b:
            assert a.read() == b.read()
        run_tool('nbdcopy', out, libnbd_uri)
    if image_args:
        opts = 'driver=nbd,host=127.0.0.1,port=%d,export=%s,tls-creds=t' % (
            s.port, name)
        qemu_img('convert', '--object', image_args, '--image-opts', opts, '-O',
                 'raw', out)
        with open(out, 'rb') as a, open(s.disk, 'rb') as b:
            assert a.read() == b.read()
        run_tool('qemu-io', '--object', image_args, '--image-opts', '-c',
                 'write -P 7 1M 1M', '-c', 'read -P 7 1M 1M', opts)


def test_certificates_of_clients(d):
    ca, server, client = setup(d)
    with Server(d, x509(server)) as s:
        uri = s.uri.replace('127.0.0.1', 'localhost')
        check_clients(s, 'tls-creds-x509,id=t,endpoint=client,dir=' + client,
                      'disk', '%s?tls-certificates=%s' % (uri, client))


def test_keys_of_clients(d):
    keys = psk_folder(d, alice=ALICE, bob=BOB)
    with Server(d, 'tls-creds-psk,endpoint=server,dir=' + keys) as s:
        assert s.uri.startswith('nbds://')
        uri = s.uri.replace('nbds://', 'nbds://alice@')
        check_clients(s, 'tls-creds-psk,id=t,endpoint=client,username=bob,dir='
                      + keys, 'disk', '%s?tls-psk-file=%s/keys.psk'
                      % (uri, keys))
        wrong = psk_folder(d, 'wrong', alice=BOB, eve=ALICE)
        for user in ('alice', 'eve'):
            p = subprocess.run(
                ['nbdinfo', '%s?tls-psk-file=%s/keys.psk'
                 % (s.uri.replace('nbds://', 'nbds://%s@' % user), wrong)],
                capture_output=True, text=True)
            assert p.returncode != 0, user
        assert is_refused(s.tls), 'a client without a key'


def test_anonymous_clients(d):
    with Server(d, 'tls-creds-anon,endpoint=server') as s:
        check_clients(s, 'tls-creds-anon,id=t,endpoint=client', 'disk', None)
        assert is_refused(s.tls), 'a client that wants a certificate'


def test_a_unix_socket_too(d):
    ca, server, client = setup(d)
    with Server(d, x509(server), tcp=False) as s:
        assert s.uri.startswith('nbds+unix://')
        assert s.raw().opt(LIST)[0] == ERR_TLS_REQD
        assert s.tls(client).go('disk').alive()
        assert json.loads(run_tool(
            'nbdinfo', '--json', '%s&tls-certificates=%s&tls-verify-peer=false'
            % (s.uri, client)))['TLS'] is True


# --- who gets in ---

def test_clients_that_prove_nothing(d):
    ca, server, client = setup(d)
    other = Authority(d, 'other')
    late = ca.folder('client', 'alice', days=-1)
    with Server(d, x509(server)) as s:
        for why, folder in (
                ('none', None), ('of another authority',
                                 other.folder('client', 'alice')),
                ('expired', late)):
            for v in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                assert is_refused(lambda f=folder, v=v: s.tls(
                    f, minimum_version=v, maximum_version=v)), (why, v)
        # Of the same authority, but of a server: no proof of being a client.
        c = context()
        c.load_cert_chain(server + '/server-cert.pem',
                          server + '/server-key.pem')
        assert is_refused(lambda: s.raw().start_tls(c))
        assert s.tls(client).go('disk').alive()


def test_revoked_certificates(d):
    ca, _, client = setup(d)
    crl = ca.revoke(ca.dir + '/2.pem')
    good = ca.folder('client', 'bob')
    server = ca.folder('server', 'localhost', 'strict', crl=crl)
    with Server(d, x509(server)) as s:
        assert is_refused(lambda: s.tls(client))
        assert s.tls(good).go('disk').alive()


def test_certificates_are_renewed_while_clients_are_served(d):
    ca, server, alice = setup(d)
    new = Authority(d, 'new')
    bob = new.folder('client', 'bob')
    new_server = new.folder('server', 'localhost', names=['DNS:localhost'])
    with Server(d, x509(server)) as s:
        old = s.tls(alice).go('disk')
        assert is_refused(lambda: s.tls(bob))
        q = s.daemon.qmp

        def renew(**props):
            q.cmd('object-del', id='creds')
            q.cmd('object-add', id='creds', endpoint='server', **props)
        renew(qom_type='tls-creds-x509', dir=new_server)
        assert s.tls(bob).go('disk').alive()
        assert is_refused(lambda: s.tls(alice))
        # Of another kind, or without proof of clients: not in its place.
        renew(qom_type='tls-creds-anon')
        renew(qom_type='tls-creds-x509', dir=new_server, verify_peer=False)
        assert is_refused(s.tls)
        q.cmd('object-del', id='creds')
        assert old.alive()


def test_verify_peer_off(d):
    ca, server, _ = setup(d)
    os.unlink(server + '/ca-cert.pem')
    with Server(d, x509(server, 'verify-peer=off')) as s:
        assert s.tls().go('disk').alive()


def test_authz_of_the_server(d):
    ca, server, alice = setup(d, subject='/O=Ours/CN=alice')
    bob = ca.folder('client', 'bob', subject='/O=Ours/CN=bob')
    eve = ca.folder('client', 'eve', subject='/O=Theirs/CN=eve')
    rules = os.path.join(d, 'rules.json')

    def write(**content):
        with open(rules + '.new', 'w', encoding='ascii') as f:
            json.dump(content, f)
        os.rename(rules + '.new', rules)

    def let_in(s):
        return [name for name, folder in (('alice', alice), ('bob', bob),
                                          ('eve', eve))
                if not is_refused(lambda f=folder: s.tls(f))]

    write(rules=[{'match': '*CN=bob*', 'policy': 'allow', 'format': 'glob'}])
    for text, expect in (
            ('authz-simple,id=z,identity=O=Ours,,CN=alice', ['alice']),
            ('authz-list,id=z,rules.0.match=*O=Ours*,rules.0.policy=allow,'
             'rules.0.format=glob', ['alice', 'bob']),
            ('authz-list,id=z,policy=allow,rules.0.match=O=Ours,,CN=bob,'
             'rules.0.policy=deny', ['alice', 'eve']),
            ('authz-list,id=z', []),
            ('authz-list-file,id=z,filename=' + rules, ['bob'])):
        with Server(d, x509(server), text, authz='z') as s:
            assert let_in(s) == expect, text
            if 'file' not in text:
                continue
            write(rules=[{'match': 'O=Theirs,CN=eve', 'policy': 'allow'}])
            assert let_in(s) == ['eve'], 'the file was read again'
            with open(rules, 'w', encoding='ascii') as f:
                f.write('{')
            assert let_in(s) == [], 'until it can be read nobody is let in'
            assert 'nobody is let in' in s.daemon.errors()
            write(policy='allow')
            assert let_in(s) == ['alice', 'bob', 'eve']
            # Rules may be replaced while the server runs.
            s.daemon.qmp.cmd('object-del', id='z')
            assert let_in(s) == [], 'without rules nobody is let in'
            s.daemon.qmp.cmd('object-add', id='z', **{
                'qom-type': 'authz-list', 'policy': 'deny', 'rules': [
                    {'match': 'O=Ours,CN=bob', 'policy': 'allow'}]})
            assert let_in(s) == ['bob']


def test_identities_are_those_of_QEMU(d):
    """The same rule lets the same client in to QEMU's server."""
    ca, server, client = setup(d, subject='/C=DE/O=A, B/OU=x y/CN=alice')
    identity = 'C=DE,O=A\\, B,OU=x y,CN=alice'
    with Server(d, x509(server), 'authz-simple,id=z,identity=%s'
                % identity.replace(',', ',,'), authz='z') as s:
        assert not is_refused(lambda: s.tls(client))
    sock = os.path.join(d, 'qemu.sock')
    with subprocess.Popen(
            ['qemu-nbd', '-f', 'raw', '-r', '-t', '-k', sock, '-x', 'disk',
             '--object', 'tls-creds-x509,id=t,endpoint=server,dir=' + server,
             '--object', 'authz-simple,id=z,identity=' +
             identity.replace(',', ',,'), '--tls-creds', 't', '--tls-authz',
             'z', os.path.join(d, 'disk')]) as p:
        try:
            until(lambda: os.path.exists(sock), 'qemu-nbd')
            c = Client(sock).greet().start_tls(context(client))
            assert names_listed(c) == ['disk']
        finally:
            p.terminate()


def test_authz_of_exports(d):
    ca, server, alice = setup(d)
    bob = ca.folder('client', 'bob')
    with Server(d, x509(server), 'authz-simple,id=a,identity=CN=alice',
                'authz-simple,id=b,identity=CN=bob',
                exports={'hers': ',tls-authz=a', 'his': ',tls-authz=b',
                         'all': ''}) as s:
        c = s.tls(alice).sr()
        assert names_listed(c) == ['all', 'hers']
        texts = set()
        for name in ('his', 'nil'):
            for opt, data in ((INFO, name_info(name)), (GO, name_info(name)),
                              (LIST_META, meta(name)), (SET_META, meta(name))):
                kind, text, before = c.opt(opt, data)
                assert kind == ERR_UNKNOWN and not before, (opt, name)
                texts.add(text.replace(name.encode(), b'X'))
        assert len(texts) == 1, 'forbidden and missing look the same'
        assert c.go('hers').alive()
        c = s.tls(alice)
        c.send_opt(EXPORT_NAME, b'his')
        try:
            assert c.at_end()
        except ssl.SSLError:
            pass
        assert names_listed(s.tls(bob)) == ['all', 'his']
        assert s.tls(bob).go('all').alive()
        # Writing is a matter of the export: the second is read-only.
        c = s.tls(bob).go('his')
        assert c.flags & nbdraw.READ_ONLY


def test_authz_by_key(d):
    keys = psk_folder(d, alice=ALICE, bob=BOB)
    with Server(d, 'tls-creds-psk,endpoint=server,dir=' + keys,
                'authz-simple,id=a,identity=alice', tcp=True,
                exports={'all': '', 'hers': ',tls-authz=a'}) as s:
        def listed(user):
            uri = s.uri.replace('nbds://', 'nbds://%s@' % user)
            out = json.loads(run_tool(
                'nbdinfo', '--json', '--list', '--no-content',
                '%s?tls-psk-file=%s/keys.psk' % (uri, keys)))
            return [e['export-name'] for e in out['exports']]
        assert listed('alice') == ['all', 'hers']
        assert listed('bob') == ['all']


# --- bad input ---

def errors_of(d, *args):
    """What the daemon says when it does not start."""
    p = subprocess.run([SLUICED, *args],
                       capture_output=True, text=True, cwd=d)
    assert p.returncode == 1, p.stderr
    return p.stderr


def test_other_machines_need_tls(d):
    ca, server, client = setup(d)
    for host in ('0.0.0.0', '::'):
        text = errors_of(d, '--nbd-server', 'addr.type=inet,addr.host=%s,'
                         'addr.port=0' % host)
        assert 'without TLS only loopback addresses are served' in text
        assert 'tls-creds' in text and 'insecure-plaintext=on' in text
    with Sluiced(d, '--object', x509(server) + ',id=t') as s:
        addr = {'type': 'inet', 'data': {'host': '0.0.0.0', 'port': '0'}}
        s.qmp.error('nbd-server-start', addr=addr)
        s.qmp.cmd('nbd-server-start', addr=addr, tls_creds='t')
        s.qmp.cmd('nbd-server-stop')
        s.qmp.cmd('nbd-server-start', addr=addr, insecure_plaintext=True)


def test_faults_of_credentials(d):
    ca, server, client = setup(d)
    other = Authority(d, 'other')
    plain = d + '/plain'
    os.mkdir(plain)

    def creds(folder, end='server', kind='x509', more=''):
        return errors_of(d, '--object', 'tls-creds-%s,id=t,endpoint=%s,dir=%s%s'
                         % (kind, end, folder, more))

    assert "Unable to access credentials %s/ca-cert.pem: No such file" \
        % plain in creds(plain)
    assert 'Unable to access credentials %s/keys.psk' % plain in \
        creds(plain, kind='psk')
    assert "Missing 'dir' property value" in errors_of(
        d, '--object', 'tls-creds-x509,id=t')
    assert 'has expired' in creds(ca.folder('server', 'x', days=-1))
    assert 'purpose does not allow' in creds_of_client_as_server(d, client)
    wrong = ca.folder('server', 'x', trust=other)
    assert 'failed validation against %s/ca-cert.pem' % wrong in creds(wrong)
    os.chmod(server + '/server-key.pem', 0o644)
    assert 'can be accessed by all users' in creds(server)
    os.chmod(server + '/server-key.pem', 0o640)
    assert 'Unable to set TLS session priority' in \
        creds(server, more=',priority=NONSENSE')
    with open(server + '/server-cert.pem', 'w', encoding='ascii') as f:
        f.write('no certificate')
    assert 'Unable to import certificate' in creds(server)
    for lines in ('alice\n', 'alice:xyz\n', ':00\n', 'alice:abc\n', '\n'):
        with open(plain + '/keys.psk', 'w', encoding='ascii') as f:
            f.write(lines)
        os.chmod(plain + '/keys.psk', 0o600)
        text = creds(plain, kind='psk')
        assert 'keys.psk' in text and 'psktool' in text
        assert 'xyz' not in text and 'abc' not in text
    keys = psk_folder(d, alice=ALICE)
    assert "has no key of user 'qemu'" in creds(keys, 'client', 'psk')
    assert "Expected TLS credentials for a server endpoint" in errors_of(
        d, '--object', 'tls-creds-psk,id=t,username=alice,dir=' + keys,
        '--nbd-server', 'addr.type=unix,addr.path=s,tls-creds=t')
    assert "No TLS credentials with id 'x'" in errors_of(
        d, '--nbd-server', 'addr.type=unix,addr.path=s,tls-creds=x')


def creds_of_client_as_server(d, client):
    for name in ('cert', 'key'):
        os.rename('%s/client-%s.pem' % (client, name),
                  '%s/server-%s.pem' % (client, name))
    return errors_of(d, '--object', x509(client) + ',id=t')


def test_authz_needs_identities(d):
    ca, server, _ = setup(d)
    rules = ['--object', 'authz-simple,id=z,identity=me']
    unix = 'addr.type=unix,addr.path=s'
    assert 'prove' in errors_of(d, *rules, '--nbd-server',
                                unix + ',tls-authz=z')
    assert 'prove' in errors_of(
        d, *rules, '--object', x509(server, 'verify-peer=off') + ',id=t',
        '--nbd-server', unix + ',tls-creds=t,tls-authz=z')
    assert 'prove' in errors_of(
        d, *rules, '--blockdev', 'null-co,node-name=n', '--nbd-server', unix,
        '--export', 'nbd,id=e,node-name=n,tls-authz=z')
    assert "No authorization object with id 'y'" in errors_of(
        d, *rules, '--object', x509(server) + ',id=t', '--nbd-server',
        unix + ',tls-creds=t,tls-authz=y')
    for bad in ('authz-simple,id=z', 'authz-list,id=z,rules.0.match=x',
                'authz-list,id=z,policy=maybe',
                'authz-list,id=z,rules.0.match=x,rules.0.policy=allow,'
                'rules.0.format=regex', 'authz-list-file,id=z',
                'authz-list-file,id=z,filename=/nonexistent',
                'authz-simple,id=z,identity=x,policy=allow'):
        assert errors_of(d, '--object', bad), bad


def test_keys_are_shown_nowhere(d):
    keys = psk_folder(d, alice=ALICE)
    with Server(d, 'tls-creds-psk,endpoint=server,dir=' + keys) as s:
        run_tool('nbdinfo', '%s?tls-psk-file=%s/keys.psk' % (
            s.uri.replace('nbds://', 'nbds://alice@'), keys))
        pid = s.daemon.proc.pid
        assert ALICE.encode() in memory_of(pid), 'it is there, and found'
        with open('/proc/%d/cmdline' % pid, encoding='ascii') as f:
            assert ALICE not in f.read()
        assert ALICE not in s.daemon.errors()
        assert ALICE not in json.dumps(s.daemon.qmp.cmd('query-nbd-exports'))
        # The server has its own; a deleted object's key is wiped with the last.
        s.daemon.qmp.cmd('nbd-server-stop')
        s.daemon.qmp.cmd('object-del', id='creds')
        assert ALICE.encode() not in memory_of(pid)
        assert bytes.fromhex(ALICE) not in memory_of(pid)


def test_private_keys_are_wiped(d):
    ca, server, client = setup(d)
    with open(server + '/server-key.pem', encoding='ascii') as f:
        lines = [l.encode() for l in f.read().splitlines() if '-' not in l]
    assert lines
    with Server(d, x509(server)) as s:
        assert s.tls(client).go('disk').alive()
        pid, q = s.daemon.proc.pid, s.daemon.qmp
        assert all(l in memory_of(pid) for l in lines)
        q.cmd('nbd-server-stop')
        assert all(l in memory_of(pid) for l in lines), 'the object has it'
        q.cmd('object-del', id='creds')
        found = memory_of(pid)
        assert not any(l in found for l in lines)


def test_a_key_with_a_passphrase(d):
    ca = Authority(d)
    server = ca.folder('server', 'localhost', passphrase='correct horse')
    client = ca.folder('client', 'alice')
    text = errors_of(d, '--object', x509(server) + ',id=t')
    assert 'Cannot load certificate' in text and 'passwordid' in text
    with open(d + '/pass', 'w', encoding='ascii') as f:
        f.write('correct horse')
    with Sluiced(d, '--object', 'secret,id=pw,file=' + d + '/pass', '--object',
                 x509(server, 'passwordid=pw') + ',id=creds', '--nbd-server',
                 'addr.type=unix,addr.path=%s/s,tls-creds=creds' % d,
                 '--blockdev', 'null-co,node-name=n', '--export',
                 'nbd,id=e,node-name=n'):
        c = Client(d + '/s').greet().start_tls(context(client))
        assert names_listed(c) == ['n']
    text = errors_of(d, '--object', 'secret,id=pw,data=wrong', '--object',
                     x509(server, 'passwordid=pw') + ',id=t')
    assert 'Cannot load certificate' in text and 'wrong' not in text


def test_forms_of_keys(d):
    """As programs of others write them, with and without a passphrase."""
    ca, server, client = setup(d)
    key = server + '/server-key.pem'
    os.rename(key, d + '/key')
    with open(d + '/pass', 'w', encoding='ascii') as f:
        f.write('secret')
    enc = ['-aes128', '-passout', 'pass:secret']
    for how, first in (
            (['pkey', '-traditional'], 'BEGIN EC PRIVATE KEY'),
            (['pkey', '-traditional'] + enc, 'Proc-Type'),
            (['pkcs8', '-topk8', '-nocrypt'], 'BEGIN PRIVATE KEY'),
            (['pkcs8', '-topk8', '-passout', 'pass:secret'], 'ENCRYPTED')):
        run_tool('openssl', *how, '-in', d + '/key', '-out', key)
        os.chmod(key, 0o600)
        with open(key, encoding='ascii') as f:
            text = f.read()
        assert first in text, text
        # What stands before the key does not matter.
        params = run_tool('openssl', 'ecparam', '-name', 'prime256v1')
        with open(key, 'w', encoding='ascii') as f:
            f.write(params + text)
        locked = '-passout' in how
        with Sluiced(d, '--object', 'secret,id=pw,file=' + d + '/pass') as s:
            props = dict(qom_type='tls-creds-x509', id='t', dir=server,
                         endpoint='server')
            if locked:
                assert 'passwordid' not in s.qmp.error('object-add', **props)
                props['passwordid'] = 'pw'
            s.qmp.cmd('object-add', **props)


if __name__ == '__main__':
    run(globals())
