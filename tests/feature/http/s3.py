#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects of an S3 server that checks every signature: addresses, keys from
all the places, versions, and what is said when something is wrong.  (A real
one: s3-radosgw.py.)"""
import os
import subprocess

import rig
from httpliar import Liar
from qmp import QmpError
from radosgw import sign
from rig import MIB, daemon, refused, same, stream
from sluiced import SLUICE, Sluiced, run, write_pattern

SIZE = 4 * MIB
ID, KEY, TOKEN = 'AKIDEXAMPLE', 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY', \
    'session-token-value'


class S3(Liar):
    """Serves objects {path and query: bytes}; others are not there. What is not
    signed by (ID, KEY) for @region, with @token, is forbidden."""

    def __init__(self, objects, region='us-east-1', token=None, open_=False):
        super().__init__(b'')
        self.objects, self.region = objects, region
        self.token, self.open = token, open_
        self.version = None
        self.lie = self.serve_object

    def serve_object(self, a):
        path = a.request['line'].split()[1]
        status = self.judge(a.request, path)
        data = self.objects.get(path)
        if status is None and data is None:
            status = '404 Not Found'
        if status:
            a.status, a.body = status, b'<Error/>'
            a.head = {'Content-Length': '8'}
            return
        first, last = a.request['range'][len('bytes='):].split('-')
        first, last = int(first), min(int(last), len(data) - 1)
        a.body = data[first:last + 1]
        a.head['Content-Range'] = 'bytes %d-%d/%d' % (first, last, len(data))
        a.head['Content-Length'] = str(len(a.body))
        a.head['x-amz-version-id'] = self.version

    def judge(self, request, path):
        """What is wrong: a status, or None."""
        got = request.get('authorization')
        if got is None:
            return None if self.open else '403 Forbidden'
        if not got.startswith('AWS4-HMAC-SHA256 '):
            return '400 Bad Request'
        names = got.partition('SignedHeaders=')[2].partition(',')[0].split(';')
        assert 'host' in names and 'x-amz-date' in names, got
        assert request['x-amz-content-sha256'] == 'UNSIGNED-PAYLOAD', request
        path, _, query = path.partition('?')
        want = sign('GET', path, query, {n: request[n] for n in names}, ID,
                    KEY, self.region, request['x-amz-date'])
        same_ = got.replace(' ', '') == want.replace(' ', '')
        token = request.get('x-amz-security-token')
        return None if same_ and token == self.token else '403 Forbidden'

    def run(self):
        self.data = bytes(SIZE)         # the sizes that Liar reckons with
        super().run()

    @property
    def endpoint(self):
        return 'http://127.0.0.1:%d' % self.port


def s3_node(server, key='disk.raw', **options):
    return dict({'driver': 's3', 'node-name': 'web', 'read-only': True,
                 'endpoint': server.endpoint, 'bucket': 'master', 'key': key,
                 'key-id': ID, 'key-secret': 'key'}, **options)


def content(d, seed=1):
    path = os.path.join(d, 'content%d' % seed)
    write_pattern(path, SIZE, seed)
    with open(path, 'rb') as f:
        return path, f.read()


SECRETS = [('key', KEY)]


def test_stream(d):
    path, data = content(d)
    with S3({'/master/disk.raw': data}) as server:
        with daemon(d, s3_node(server), '-T', '*', size=SIZE,
                    secrets=SECRETS) as s:
            assert 'error' not in stream(s)
            text = s.errors() + repr(s.qmp.cmd('query-named-block-nodes'))
            with open('/proc/%d/cmdline' % s.proc.pid, 'rb') as f:
                text += f.read().decode()
            assert KEY not in text, text
        same(d, path)
        assert len(server.requests) > 2


def test_keys(d):
    """What a signature is about is escaped byte by byte."""
    path, data = content(d)
    for key, escaped in (
            ('a/b/c', 'a/b/c'),
            ('with blank', 'with%20blank'),
            ('plus+equals=colon:at@', 'plus%2Bequals%3Dcolon%3Aat%40'),
            ("(quoted)'!*,;", '%28quoted%29%27%21%2A%2C%3B'),
            ('dots/../and/./so//on', 'dots/../and/./so//on'),
            ('a?b&c#d%20', 'a%3Fb%26c%23d%2520'),
            ('gr\u00fc\u00dfe', 'gr%C3%BC%C3%9Fe'),
            ('~tilde_under-dash.', '~tilde_under-dash.')):
        with S3({'/master/' + escaped: data}) as server:
            for name, value in SECRETS:
                with open(os.path.join(d, name), 'w', encoding='ascii') as f:
                    f.write(value)
            words = ['driver=raw', 'file.driver=s3', 'file.bucket=master',
                     'file.key=' + key.replace(',', ',,'),
                     'file.endpoint=' + server.endpoint, 'file.key-id=' + ID,
                     'file.key-secret=key']
            p = subprocess.run(
                [SLUICE, 'compare', '--object', 'secret,id=key,file=%s/key' % d,
                 '--image-opts', ','.join(words),
                 'driver=raw,file.driver=file,file.filename=' + path],
                capture_output=True, text=True, check=False)
            assert p.returncode == 0, (key, p.stdout, p.stderr)


def info(name, d, **env):
    p = subprocess.run([SLUICE, 'info', '-f', 'raw', name],
                       capture_output=True, text=True, check=False,
                       env=dict({k: v for k, v in os.environ.items()
                                 if not k.startswith('AWS_')}, HOME=d, **env))
    return p.returncode, p.stdout + p.stderr


def test_where_keys_come_from(d):
    _, data = content(d)
    with S3({'/master/disk.raw': data}, token=TOKEN) as with_token, \
            S3({'/master/disk.raw': data}) as server:
        def name(s):
            return 's3://master/disk.raw?endpoint=' + s.endpoint
        code, text = info(name(server), d)
        assert code == 1 and 'There are no credentials' in text, text
        assert not server.requests
        env = {'AWS_ACCESS_KEY_ID': ID, 'AWS_SECRET_ACCESS_KEY': KEY}
        code, text = info(name(server), d, **env)
        assert code == 0, text
        code, text = info(name(with_token), d, **env)
        assert code == 1 and '403' in text and KEY not in text, text
        code, text = info(name(with_token), d, AWS_SESSION_TOKEN=TOKEN, **env)
        assert code == 0, text
        # A file, in the usual place and elsewhere.
        os.mkdir(d + '/.aws')
        with open(d + '/.aws/credentials', 'w', encoding='ascii') as f:
            f.write('[default]\naws_access_key_id = %s\n'
                    'aws_secret_access_key=%s\n\n[vm]\n'
                    'aws_access_key_id = %s\naws_secret_access_key = %s\n'
                    'aws_session_token = %s\n[half]\naws_access_key_id = x\n'
                    % (ID, KEY, ID, KEY, TOKEN))
        code, text = info(name(server), d)
        assert code == 0, text
        code, text = info(name(with_token), d, AWS_PROFILE='vm')
        assert code == 0, text
        code, text = info(name(server), d, AWS_PROFILE='half')
        assert code == 1 and 'under [half]' in text, text
        os.rename(d + '/.aws/credentials', d + '/keys')
        with open(d + '/words', 'w', encoding='ascii') as f:
            f.write('just words\n')
        code, text = info(name(server), d,
                          AWS_SHARED_CREDENTIALS_FILE=d + '/keys')
        assert code == 0, text
        for options, want in (
                ({'credentials-file': d + '/keys'}, None),
                ({'credentials-file': d + '/none'}, 'Could not open'),
                ({'credentials-file': d + '/words'}, 'no file of cred'),
                ({'credentials-file': d + '/keys', 'profile': 'none'},
                 'under [none]'),
                ({'credentials-file': d + '/keys', 'anonymous': True},
                 'Only one of'),
                ({'key-id': ID}, 'belong together')):
            base = {k: v for k, v in s3_node(server, **options).items()
                    if k in options or not k.startswith('key-')}
            with Sluiced(d) as s:
                try:
                    s.qmp.cmd('blockdev-add', base)
                    assert want is None, options
                except QmpError as e:
                    assert want and want in str(e), (options, e)


def test_anonymous(d):
    _, data = content(d)
    with S3({'/master/disk.raw': data}, open_=True) as server, Sluiced(d) as s:
        node = s3_node(server, anonymous=True)
        del node['key-id'], node['key-secret']
        s.qmp.cmd('blockdev-add', node)
        assert all('authorization' not in r for r in server.requests)


def test_region_and_host(d):
    _, data = content(d)
    with S3({'/master/disk.raw': data}, region='eu-central-1') as server:
        code, text = info(
            's3://master/disk.raw?region=eu-central-1&endpoint='
            + server.endpoint, d, AWS_ACCESS_KEY_ID=ID,
            AWS_SECRET_ACCESS_KEY=KEY)
        assert code == 0, text
        code, text = info('s3://master/disk.raw?endpoint=' + server.endpoint,
                          d, AWS_ACCESS_KEY_ID=ID, AWS_SECRET_ACCESS_KEY=KEY)
        assert code == 1 and '403' in text, text
    with S3({'/disk.raw': data}) as server, \
            Sluiced(d, '--object', 'secret,id=key,data=' + KEY) as s:
        # master.localhost is this machine, too (RFC 6761).
        s.qmp.cmd('blockdev-add', s3_node(
            server, **{'path-style': False, 'endpoint':
                       'http://localhost:%d' % server.port}))
        assert server.requests[0]['host'].startswith('master.localhost:')


def test_version_is_pinned(d):
    path, data = content(d)
    _, other = content(d, 2)
    with S3({'/master/disk.raw': data,
             '/master/disk.raw?versionId=v1%2F%2B': data}) as server:
        server.version = 'v1/+'
        with daemon(d, s3_node(server), size=SIZE, secrets=SECRETS) as s:
            server.objects['/master/disk.raw'] = other
            assert 'error' not in stream(s)
        same(d, path)
        assert all('versionId=' in r['line'] for r in server.requests[1:])
    # One that was chosen.
    with S3({'/master/disk.raw?versionId=old': data}) as server:
        with daemon(d, s3_node(server, **{'version-id': 'old'}), size=SIZE,
                    secrets=SECRETS) as s:
            assert 'error' not in stream(s)
        same(d, path)


def test_object_is_replaced(d):
    """No versions are kept: it is noticed."""
    _, data = content(d)
    with S3({'/master/disk.raw': data}) as server:
        server.version = 'null'
        with daemon(d, s3_node(server), size=SIZE, secrets=SECRETS) as s:
            server.etag = '"two"'
            data = stream(s)
            assert 'cannot be used any more' in data['error'], data
            assert 's3://master/disk.raw' in data['error'], data
        assert all(r['if-match'] == '"one"' for r in server.requests[1:])


def test_redirects_are_not_followed(d):
    with Liar(b'x' * SIZE) as other, Liar(b'x' * SIZE) as server:
        def away(a):
            a.status, a.body = '307 Temporary Redirect', b''
            a.head = {'Content-Length': '0', 'Location': other.url()}
        server.lie = away
        server.endpoint = server.url('').rstrip('/')
        with open(d + '/key', 'w', encoding='ascii') as f:
            f.write(KEY)
        text = refused(d, s3_node(server), [('key', d + '/key')])
        assert 'are endpoint and region right?' in text, text
        assert not other.requests


def test_names_in_headers(d):
    path, data = content(d)
    with S3({'/master/a%20b.raw': data}) as server:
        env = {'AWS_ACCESS_KEY_ID': ID, 'AWS_SECRET_ACCESS_KEY': KEY}
        top = rig.overlay(d, SIZE, 's3://master/a%20b.raw?endpoint='
                          + server.endpoint)
        with Sluiced(d, '--backing-policy', 'follow', '--drive',
                     'id=v,file=%s,format=qcow2' % top, env=env) as s:
            assert 'error' not in stream(s, device='v')
        same(d, path)


def test_bad_names(d):
    for name, want in (
            ('s3://master', 's3://BUCKET/KEY'),
            ('s3:master/x', "does not begin with 's3://'"),
            ('s3://master/', 'The key of an object'),
            ('s3://ab/x', 'no name of a bucket'),
            ('s3://a_b@c/x', 'no name of a bucket'),
            ('s3://master/%zz', 'wrong escape'),
            ('s3://master/%00', 'wrong escape'),
            ('s3://master/%ff', 'The key of an object'),
            ('s3://master/' + 'x' * 1025, 'The key of an object'),
            ('s3://master/x?y=z', 'endpoint, region and versionId'),
            ('s3://master/x?region=a&region=b', 'once each'),
            ('s3://master/x?region=a:b', 'no name of a region'),
            ('s3://master/x?endpoint=ftp://h', 'neither http: nor'),
            ('s3://master/x?endpoint=http://h/path', 'more than'),
            ('s3://master/x?endpoint=http://u:hidden@h', 'user name')):
        code, text = info(name, d, AWS_ACCESS_KEY_ID=ID,
                          AWS_SECRET_ACCESS_KEY=KEY)
        assert code == 1 and want in text, (name, text)
        assert 'hidden' not in text, text


if __name__ == '__main__':
    run(globals())
