# SPDX-License-Identifier: LGPL-2.1-or-later
"""An S3 server for a test: radosgw of Ceph, on a cluster of its own (ceph.py).

    with Radosgw(d) as s3:
        s3.request('PUT', '/bucket')
        s3.request('PUT', '/bucket/key', data)
"""
import hashlib
import hmac
import http.client
import time
import urllib.parse

from ceph import Ceph
from waiting import until

KEY_ID, KEY = 'TESTKEYID', 'testSecretKey/with+signs='


def sign(method, path, query, headers, key_id=KEY_ID, key=KEY,
         region='us-east-1', date=None, payload='UNSIGNED-PAYLOAD'):
    """The Authorization of a request (signature version 4). @path and @query
    are escaped; all @headers (in small letters) are signed."""
    day = date[:8]
    names = ';'.join(sorted(headers))
    canonical = '\n'.join(
        [method, path, query] +
        ['%s:%s' % (n, headers[n]) for n in sorted(headers)] +
        ['', names, payload])
    scope = '%s/%s/s3/aws4_request' % (day, region)
    text = '\n'.join(['AWS4-HMAC-SHA256', date, scope,
                      hashlib.sha256(canonical.encode()).hexdigest()])
    mac = ('AWS4' + key).encode()
    for part in (day, region, 's3', 'aws4_request', text):
        mac = hmac.new(mac, part.encode(), hashlib.sha256).digest()
    return ('AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, '
            'Signature=%s' % (key_id, scope, names, mac.hex()))


class Radosgw(Ceph):
    PROGRAMS = Ceph.PROGRAMS + ('radosgw',)
    FOLDERS = Ceph.FOLDERS + ('rgw',)
    CONF = '''[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:%(port)d
rgw data = %(d)s/rgw
rgw thread pool size = 32
rgw override bucket index max shards = 1
rgw num control oids = 1
rgw dynamic resharding = false
rgw enable usage log = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
'''

    def start(self):
        super().start()
        self.run('ceph', 'auth', 'get-or-create', 'client.rgw', 'mon',
                 'allow rw', 'osd', 'allow rwx')
        self.keep('client.rgw')
        self.run('radosgw-admin', '-n', 'client.rgw', 'user', 'create',
                 '--uid=t', '--display-name=t', '--access-key=' + KEY_ID,
                 '--secret-key=' + KEY)
        self.spawn('radosgw', '-n', 'client.rgw', '-f')
        until(self.answers, 'radosgw')

    def answers(self):
        self.check_alive()
        try:
            c = http.client.HTTPConnection('127.0.0.1', self.port)
            c.request('GET', '/')
            return c.getresponse().status == 200
        except OSError:
            return False

    @property
    def endpoint(self):
        return 'http://127.0.0.1:%d' % self.port

    def request(self, method, path, data=b'', query=''):
        """A signed request; the answer's head. @path is not escaped, @query
        is."""
        date = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())
        path = urllib.parse.quote(path, safe='/-._~')
        headers = {'host': '127.0.0.1:%d' % self.port, 'x-amz-date': date,
                   'x-amz-content-sha256': 'UNSIGNED-PAYLOAD'}
        headers['Authorization'] = sign(method, path, query, headers,
                                        date=date)
        c = http.client.HTTPConnection('127.0.0.1', self.port)
        c.request(method, path + ('?' + query if query else ''), data, headers)
        r = c.getresponse()
        body = r.read()
        assert r.status < 300, (method, path, r.status, body)
        return dict(r.getheaders())

    def put(self, path, name):
        with open(name, 'rb') as f:
            return self.request('PUT', path, f.read())
