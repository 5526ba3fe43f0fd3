#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bases on a real web server: ranges, HTTP/2, TLS, redirects, names and
passwords, servers that go away, and files that change."""
import json
import os
import shutil
import signal
import subprocess

import rig
from nginx import Nginx, make_ca
from qmp import QmpError
from rig import MIB, daemon, make_base, node, refused, same, stream
from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool
from tlsfiles import Authority
from waiting import until

SIZE = 16 * MIB
SLOW = 65536        # bytes/s: not over before the test says so


def test_http(d):
    with Nginx(d) as web:
        base = make_base(web, size=4 * SIZE)
        with daemon(d, node(web.url('base.raw'), connections=8),
                    size=4 * SIZE) as s:
            data = stream(s)
            assert 'error' not in data, data
        log = web.log()
        same(d, base)
    assert {r[2] for r in log} == {'206'}, log
    assert all(r[3].startswith('bytes=') for r in log), log
    # Side by side, on connections that are used again.
    connections = {r[5] for r in log}
    assert 1 < len(connections) <= 8 < len(log), log


def test_https_http2(d):
    with Nginx(d, tls=True) as web:
        base = make_base(web)
        with open(web.ca, encoding='ascii') as f:
            ca = f.read()
        with daemon(d, node(web.url('base.raw', tls=True),
                            **{'ca-secret': 'ca'}),
                    size=SIZE, secrets=[('ca', ca)]) as s:
            data = stream(s)
            assert 'error' not in data, data
        log = web.log()
        same(d, base)
    assert {(r[2], r[4]) for r in log} == {('206', 'HTTP/2.0')}, log
    assert len({r[5] for r in log}) == 1, log


def test_compressed_qcow2(d):
    with Nginx(d, tls=True) as web:
        raw = make_base(web, 'base.raw')
        with open(raw, 'r+b') as f:         # what compresses
            f.seek(SIZE // 2)
            f.write(b'some text. ' * 200000)
        qemu_img('convert', '-c', '-O', 'qcow2', raw, web.path('base.qcow2'))
        with open(web.ca, encoding='ascii') as f:
            ca = f.read()
        with daemon(d, node(web.url('base.qcow2', tls=True),
                            **{'ca-secret': 'ca'}), base='qcow2',
                    size=SIZE, secrets=[('ca', ca)]) as s:
            data = stream(s)
            assert 'error' not in data, data
        same(d, raw)


def test_names_in_headers(d):
    with Nginx(d) as web:
        base = make_base(web)
        top = rig.overlay(d, SIZE, web.url('base.raw'))
        drive = ['--drive', 'id=v,file=%s,format=qcow2' % top]
        s = Sluiced(d, '--backing-policy', 'explicit', *drive, connect=False)
        assert s.wait() == 1
        assert 'policy' in s.errors(), s.errors()
        assert not os.path.exists(web.dir + '/access.log') or not web.log()
        with Sluiced(d, '--backing-policy', 'follow', *drive) as s:
            data = stream(s, device='v')
            assert 'error' not in data, data
        same(d, base)


def test_json_names_in_headers(d):
    with Nginx(d) as web:
        base = make_base(web)
        url = web.url('base.raw')
        for options, want in (
                ({'url': url}, None),
                ({'url': url, 'cookie': 'a=b'}, "may set option 'cookie'"),
                ({'url': url, 'password-secret': 'x'}, 'may set option'),
                ({'url': url, 'unpinned': True}, 'may set option')):
            top = rig.overlay(d, SIZE, 'json:' + json.dumps(
                {'driver': 'raw', 'file': dict(options, driver='http')}))
            with Sluiced(d) as s:
                try:
                    s.qmp.cmd('blockdev-add', {
                        'driver': 'qcow2', 'node-name': 'top',
                        'file': {'driver': 'file', 'filename': top}})
                    assert want is None, options
                    assert 'error' not in stream(s)
                except QmpError as e:
                    assert want and want in str(e), (options, e)
            if want is None:
                same(d, base)


def test_base_that_stays(d):
    """A stream down to a web base: the header then names its address."""
    with Nginx(d) as web:
        base = make_base(web)
        url = web.url('base.raw')
        mid = rig.overlay(d, SIZE, url, name='mid')
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 1M 1M', mid)
        top = rig.overlay(d, SIZE, mid, 'qcow2')
        with Sluiced(d, '--drive', 'id=v,file=%s,format=qcow2' % top) as s:
            nodes = [n['node-name'] for n in
                     s.qmp.cmd('query-named-block-nodes')
                     if n['drv'] == 'raw' and n['file'] == url]
            data = stream(s, device='v', **{'base-node': nodes[0]})
            assert 'error' not in data, data
        assert 'backing file: ' + url in qemu_img('info', top)
        run_tool('qemu-img', 'compare', '-f', 'qcow2', '-F', 'qcow2', top, mid)
        assert base


def test_tools(d):
    with Nginx(d) as web:
        base = make_base(web)
        url = web.url('base.raw')
        run_tool(SLUICE, 'compare', '-f', 'raw', '-F', 'raw', url, base)
        run_tool(SLUICE, 'convert', '-f', 'raw', '-O', 'qcow2', url, d + '/c')
        run_tool('qemu-img', 'compare', '-f', 'raw', base, d + '/c')
        assert '"virtual-size": %d' % SIZE in run_tool(
            SLUICE, 'info', '--output=json', '-f', 'raw', url)
        text = subprocess.run([SLUICE, 'resize', '-f', 'raw', url, '20M'],
                              capture_output=True, text=True,
                              check=False).stderr
        assert 'curl driver does not support writes' in text, text


# --- redirects ---

def test_redirect_is_kept(d):
    config = 'location = /go { return 302 %s; }'
    with Nginx(d, config % '/one.raw') as web:
        base = make_base(web, 'one.raw')
        with daemon(d, node(web.url('go')), size=SIZE) as s:
            # It writes its log when the client has got all.
            until(lambda: [r[1:3] for r in web.log()] == [
                ['/go', '302'], ['/one.raw', '206']], 'two requests')
            # What was there is gone; the first address knows where to.
            os.rename(web.path('one.raw'), web.path('two.raw'))
            web.stop()
            web.start(config % '/two.raw')
            data = stream(s)
            assert 'error' not in data, data
        codes = [r[1:3] for r in web.log()]
        assert ['/one.raw', '404'] in codes, codes
        assert ['/go', '302'] in codes[2:], codes
        # Once it is known again nobody asks for the way.
        last = [r[0] for r in codes[-5:]]
        assert last == ['/two.raw'] * 5, codes
        same(d, web.path(os.path.basename(base).replace('one', 'two')))


def test_redirects_refused(d):
    with Nginx(d, '''
            location = /circle { return 302 /circle2; }
            location = /circle2 { return 302 /circle; }
            location = /down { return 302 http://localhost:%(port)d/base.raw; }
            location = /file { return 302 file:///etc/passwd; }
            location = /ftp { return 302 ftp://localhost/base.raw; }
            location = /pw { return 302 http://u:hidden@localhost:%(port)d/; }
            location = /up { return 302 https://localhost:%(tls_port)d/base.raw; }
            location ~ ^/h([1-5])$ { set $n $1; }
            location = /hop6 { return 302 /hop5; }
            location = /hop5 { return 302 /hop4; }
            location = /hop4 { return 302 /hop3; }
            location = /hop3 { return 302 /hop2; }
            location = /hop2 { return 302 /hop1; }
            location = /hop1 { return 302 /base.raw; }
            ''', tls=True) as web:
        make_base(web)
        ca = [('ca', web.ca)]
        for name, tls, text in (
                ('circle', False, 'it redirects more than 5 times'),
                ('hop6', False, 'it redirects more than 5 times'),
                ('down', True, 'it leads from https: to http:'),
                ('file', False, 'neither http: nor https:'),
                ('ftp', False, 'neither http: nor https:'),
                ('pw', False, 'holds a user name or a password')):
            options = node(web.url(name, tls=tls))
            if tls:
                options['ca-secret'] = 'ca'
            got = refused(d, options, ca)
            assert text in got and 'hidden' not in got, (name, got)
            assert '/base.raw' not in [r[1] for r in web.log()], web.log()
        run_tool(SLUICE, 'info', '-f', 'raw', web.url('hop5'))


def test_another_server_learns_no_secret(d):
    """Another port is another server: name, token and cookie are not for it."""
    seen = 'if ($http_%s) { return 418; }'
    with Nginx(d + '/b', seen % 'authorization' + seen % 'cookie') as other, \
            Nginx(d + '/a', 'location = /go { return 302 %s; }'
                  % other.url('base.raw')) as web:
        make_base(other)
        for options in ({'username': 'u', 'password-secret': 'pw'},
                        {'bearer-token-secret': 'pw'},
                        {'cookie-secret': 'pw'}):
            with daemon(d, node(web.url('go'), **options), size=SIZE,
                        secrets=[('pw', 'hidden')]) as s:
                data = stream(s)
                assert 'error' not in data, data
            same(d, other.path('base.raw'))
            # It would have said so.
            text = refused(d, node(other.url('base.raw'), **options),
                           [('pw', d + '/pw')])
            assert 'the server answered 418' in text, text


# --- who we are ---

def htpasswd(web, user, password):
    hashed = run_tool('openssl', 'passwd', '-apr1', password).strip()
    with open(os.path.join(web.dir, 'htpasswd'), 'w', encoding='ascii') as f:
        f.write('%s:%s\n' % (user, hashed))


def everything_said(d, s):
    """All that a daemon tells: answers, logs, what others see of it."""
    text = s.errors()
    for cmd in ('query-block', 'query-named-block-nodes', 'query-jobs',
                'query-block-jobs', 'query-blockstats', 'query-yank'):
        try:
            text += repr(s.qmp.cmd(cmd))
        except QmpError as e:
            text += str(e)
    for line in ('info block -v', 'info named-block-nodes -v'):
        text += repr(s.qmp.cmd('human-monitor-command',
                               {'command-line': line}))
    with open('/proc/%d/cmdline' % s.proc.pid, 'rb') as f:
        text += f.read().decode(errors='replace')
    return text


SECRETS = {'pw': 'Tr0ub4dor-and-3', 'tok': 'eyJhbGciOi.xyz.sig',
           'jar': 'session=0123456789abcdef'}


def authorized(d, config, options, right, **wrong):
    """Streams with @options; with one of @wrong there is an error text."""
    with Nginx(d, config) as web:
        htpasswd(web, 'vm', SECRETS['pw'])
        base = make_base(web)
        url = web.url('base.raw')
        for name, value in SECRETS.items():
            with open(os.path.join(d, name), 'w', encoding='utf-8') as f:
                f.write(value)
            with open(os.path.join(d, name + '-bad'), 'w',
                      encoding='utf-8') as f:
                f.write('wrong-' + value)
        files = [(n, os.path.join(d, n)) for n in SECRETS]
        files += [(n + '-bad', os.path.join(d, n + '-bad')) for n in SECRETS]
        for text in (refused(d, node(url), files),
                     refused(d, node(url, **dict(options, **wrong)), files)):
            assert right in text, text
            assert not any(v in text for v in SECRETS.values()), text
        with daemon(d, node(url, **options), '-T', '*', size=SIZE,
                    secrets=list(SECRETS.items())) as s:
            data = stream(s)
            assert 'error' not in data, data
            said = everything_said(d, s)
            for value in SECRETS.values():
                assert value not in said, said
        same(d, base)


def test_password(d):
    authorized(d, '''auth_basic "x"; auth_basic_user_file htpasswd;''',
               {'username': 'vm', 'password-secret': 'pw'},
               'the server answered 401',
               **{'password-secret': 'pw-bad'})


def test_bearer_token(d):
    authorized(d, '''if ($http_authorization != "Bearer %s") { return 403; }'''
               % SECRETS['tok'], {'bearer-token-secret': 'tok'},
               'the server answered 403', **{'bearer-token-secret': 'tok-bad'})


def test_cookie_secret(d):
    authorized(d, '''if ($cookie_session != "0123456789abcdef") { return 403; }
               ''', {'cookie-secret': 'jar'}, 'the server answered 403',
               **{'cookie-secret': 'tok-bad'})


def test_secrets_that_cannot_be(d):
    with open(d + '/nl', 'w', encoding='ascii') as f:
        f.write('hidden\n')
    files = [('nl', d + '/nl')]
    url = 'http://127.0.0.1:1/x'
    for options, want in (
            ({'password-secret': 'nl'}, 'holds control characters'),
            ({'cookie-secret': 'nl'}, 'holds control characters'),
            ({'password-secret': 'none'}, "No secret with id 'none'"),
            ({'cookie': 'a=b', 'cookie-secret': 'nl'}, 'control characters'),
            ({'cookie': 'a=b\r\nX: y'}, 'holds control characters'),
            ({'readahead': 1000}, 'is not a multiple of 512'),
            ({'timeout': 0}, "Parameter 'timeout' expects 1 to 10000"),
            ({'connections': 65}, "Parameter 'connections' expects 1 to 64")):
        text = refused(d, node(url, **options), files)
        assert want in text and 'hidden' not in text, (options, text)
    with Sluiced(d) as s:
        for bad, want in (
                ('http://u:hidden@127.0.0.1:1/x', 'user name or a password'),
                ('http://hidden@127.0.0.1:1/x', 'user name or a password'),
                ('http:///x?hidden', 'Invalid address'),
                ('http://127.0.0.1:99999/x', 'Invalid address'),
                ('https://127.0.0.1/x', "does not start with 'http://'"),
                ('http://127.0.0.1:1/x?X-Signature=hidden', 'onnect')):
            try:
                s.qmp.cmd('blockdev-add', dict(node(bad), driver='http'))
                raise RuntimeError('it was opened')
            except QmpError as e:
                text = str(e)
            assert want in text and 'hidden' not in text, (bad, text)
        assert 'hidden' not in s.errors(), s.errors()


# --- TLS ---

def test_certificates(d):
    with Nginx(d, tls=True) as web:
        make_base(web)
        make_ca(d, 'other')
        good = node(web.url('base.raw', tls=True))
        files = [('ca', web.ca), ('other', d + '/other.pem'),
                 ('none', web.dir + '/nginx.conf')]
        for options, text in (({}, 'certificate'),
                              ({'ca-secret': 'other'}, 'certificate'),
                              ({'ca-secret': 'none'}, 'no certificate')):
            got = refused(d, dict(good, **options), files)
            assert text in got, (options, got)
        by_number = dict(good, **{
            'url': good['url'].replace('localhost', '127.0.0.1'),
            'ca-secret': 'ca'})
        got = refused(d, by_number, files)
        assert 'does not match' in got, got
        with daemon(d, dict(by_number, sslverify=False), size=SIZE,
                    secrets=[('ca', open(web.ca, encoding='ascii').read())]) \
                as s:
            data = stream(s)
            assert 'error' not in data, data


def test_certificates_of_clients(d):
    """A server that wants one gets that of tls-creds, and nobody else does."""
    ca = Authority(d)
    client = ca.folder('client', 'alice')
    stranger = Authority(d, 'other').folder('client', 'alice')
    with Nginx(d, 'ssl_client_certificate %s; ssl_verify_client on;'
               % ca.cert, tls=True) as web:
        make_base(web)
        for folder in (client, stranger):
            os.unlink(folder + '/ca-cert.pem')
            shutil.copy(web.ca, folder + '/ca-cert.pem')
        wanted = node(web.url('base.raw', tls=True))

        def creds(folder, more=''):
            return ['--object', 'tls-creds-x509,id=t,sanity-check=off,dir=%s%s'
                    % (folder, more)]

        def fails(options, *objects):
            with Sluiced(d, *objects) as s:
                return s.qmp.error('blockdev-add', **{
                    'node-name': 'n', **wanted, **options})
        with Sluiced(d, *creds(client)) as s:
            s.qmp.cmd('blockdev-add', **{'node-name': 'n', **wanted,
                                         'tls-creds': 't'})
            s.qmp.cmd('object-del', id='t')
            out = s.qmp.cmd('human-monitor-command',
                            **{'command-line': 'qemu-io n "read 0 1M"'})
            assert 'failed' not in out, out
        assert '400' in fails({'tls-creds': 't'}, *creds(stranger))
        assert 'tls-creds-x509' in fails(
            {'tls-creds': 't'}, '--object', 'tls-creds-anon,id=t')
        assert "No TLS credentials with id 'x'" in fails({'tls-creds': 'x'})
        assert 'same time' in fails(
            {'tls-creds': 't', 'ca-secret': 's'}, *creds(client), '--object',
            'secret,id=s,file=' + web.ca)
        assert 'client endpoint' in fails({'tls-creds': 't'}, *creds(
            ca.folder('server', 'x'), ',endpoint=server'))


# --- servers that fail, files that change ---

def test_no_ranges(d):
    with Nginx(d, 'max_ranges 0;') as web:
        make_base(web)
        text = refused(d, node(web.url('base.raw')))
        assert "Server does not support 'range' (byte ranges)." in text, text
        text = refused(d, node(web.url('none.raw')))
        assert 'the server answered 404: it has no such file' in text, text


def test_file_changes(d):
    with Nginx(d) as web:
        base = make_base(web)
        with daemon(d, node(web.url('base.raw')), size=SIZE) as s:
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                       'speed': MIB})
            rig.write_pattern(base + '.new', SIZE, 2)
            os.utime(base + '.new', (1, 1))     # nginx makes the ETag of it
            os.rename(base + '.new', base)
            try:
                s.qmp.cmd('block-job-set-speed', {'device': 'j', 'speed': 0})
            except QmpError:
                pass        # it has failed already
            data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
            assert 'cannot be used any more' in data['error'], data
            assert 'another version' in data['error'], data
            # For good: also for what a guest asks for.
            text = s.qmp.cmd('human-monitor-command', {
                'command-line': 'qemu-io top "read 15M 4k"'})
            assert 'read failed' in text, text
        info = qemu_img('info', d + '/top.qcow2')
        assert 'corrupt: false' in info, info


def test_server_restarts(d):
    with Nginx(d) as web:
        base = make_base(web)
        with daemon(d, node(web.url('base.raw'),
                            **{'reconnect-delay': 3600}), size=SIZE) as s:
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top',
                                       'speed': MIB})
            web.stop()
            s.qmp.cmd('block-job-set-speed', {'device': 'j', 'speed': 0})
            web.start('')
            data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']
            assert 'error' not in data, data
        same(d, base)


def test_server_is_gone(d):
    with Nginx(d) as web:
        make_base(web)
        with daemon(d, node(web.url('base.raw'), **{'reconnect-delay': 0}),
                    size=SIZE) as s:
            web.stop()
            data = stream(s)
            assert data['error'] == 'Input/output error', data
            # Later requests still make an attempt of their own.
            web.start('')
            data = stream(s)
            assert 'error' not in data, data
        same(d, web.path('base.raw'))


def test_server_hangs(d):
    """Cancelled at once; the daemon ends; by policy there is an error."""
    with Nginx(d) as web:
        make_base(web)
        with daemon(d, node(web.url('base.raw'), timeout=3600,
                            **{'hang-timeout': 1}), size=SIZE) as s:
            web.proc.send_signal(signal.SIGSTOP)
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
            event = s.qmp.wait_event('BLOCK_NODE_HANG')['data']
            assert event['hanging'] and event['node-name'] == 'web', event
            s.qmp.cmd('block-job-cancel', {'device': 'j'})
            s.qmp.wait_event('BLOCK_JOB_CANCELLED', device='j')
            s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'top'})
        # The daemon has ended while the server hangs.
        web.proc.send_signal(signal.SIGCONT)
        with daemon(d, node(web.url('base.raw'), timeout=3600,
                            **{'hang-timeout': 1, 'on-base-hang': 'error'}),
                    size=SIZE) as s:
            web.proc.send_signal(signal.SIGSTOP)
            data = stream(s)
            assert data['error'] == 'Connection timed out', data
            web.proc.send_signal(signal.SIGCONT)
            data = stream(s)
            assert 'error' not in data, data
        same(d, web.path('base.raw'))


if __name__ == '__main__':
    run(globals())
