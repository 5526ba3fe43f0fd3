# SPDX-License-Identifier: LGPL-2.1-or-later
"""An S3 server for a test: radosgw of Ceph, on one monitor and one store in
memory, all in a folder of its own and on ports of 127.0.0.1.

    with Radosgw(d) as s3:
        s3.request('PUT', '/bucket')
        s3.request('PUT', '/bucket/key', data)
"""
import hashlib
import hmac
import http.client
import os
import shutil
import subprocess
import time
import urllib.parse
import uuid

from killed import kill_and_wait
from nginx import free_ports
from sluiced import Skip
from waiting import until

KEY_ID, KEY = 'TESTKEYID', 'testSecretKey/with+signs='
CONF = '''[global]
fsid = %(fsid)s
mon host = [v2:127.0.0.1:%(mon)d,v1:127.0.0.1:%(mon1)d]
public addr = 127.0.0.1
ms bind port min = %(low)d
ms bind port max = %(high)d
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = %(d)s/keyring
run dir = %(d)s/run
log file = %(d)s/log/$name.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail crit = 1
paxos propose interval = 0.02
[mon]
mon data = %(d)s/mon
[osd]
osd data = %(d)s/osd
osd objectstore = memstore
memstore device bytes = 1073741824
[client.rgw]
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


class Radosgw:
    def __init__(self, d):
        for program in ('ceph-mon', 'ceph-osd', 'radosgw', 'ceph'):
            if not shutil.which(program):
                raise Skip('%s is not installed' % program)
        self.dir = os.path.join(d, 'ceph')
        for sub in ('', 'run', 'log', 'mon', 'osd', 'rgw'):
            os.makedirs(os.path.join(self.dir, sub), exist_ok=True)
        self.port, mon, mon1, low = free_ports(4)
        low = min(low, 65000)
        self.env = dict(os.environ, CEPH_CONF=self.dir + '/ceph.conf')
        with open(self.dir + '/ceph.conf', 'w', encoding='ascii') as f:
            f.write(CONF % {'fsid': uuid.uuid4(), 'd': self.dir,
                            'mon': mon, 'mon1': mon1, 'low': low,
                            'high': low + 200, 'port': self.port})
        self.mon_addr = '[v2:127.0.0.1:%d,v1:127.0.0.1:%d]' % (mon, mon1)
        self.procs = []
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def run(self, *words, check=True):
        p = subprocess.run(words, env=self.env, cwd=self.dir, text=True,
                           capture_output=True, check=False)
        assert not check or p.returncode == 0, (words, p.stdout, p.stderr)
        return p

    def spawn(self, *words):
        with open(os.path.join(self.dir, 'stderr'), 'ab') as err:
            self.procs.append(subprocess.Popen(
                words, env=self.env, cwd=self.dir, stdout=err, stderr=err))

    def works(self, *words):
        for p in self.procs:
            assert p.poll() is None, (p.args, self.errors())
        return self.run(*words, check=False)

    def errors(self):
        with open(os.path.join(self.dir, 'stderr'), encoding='utf-8',
                  errors='replace') as f:
            return f.read()[-4000:]

    def start(self):
        auth = ['ceph-authtool', 'keyring', '--gen-key', '-n']
        self.run('ceph-authtool', '-C', 'keyring', '--gen-key', '-n', 'mon.',
                 '--cap', 'mon', 'allow *')
        self.run(*auth, 'client.admin', '--cap', 'mon', 'allow *', '--cap',
                 'osd', 'allow *', '--cap', 'mgr', 'allow *')
        with open(self.dir + '/ceph.conf', encoding='ascii') as f:
            fsid = f.read().split()[3]
        self.run('monmaptool', '--create', '--fsid', fsid, '--addv', 'a',
                 self.mon_addr, 'monmap')
        self.run('ceph-mon', '-i', 'a', '--mkfs', '--monmap', 'monmap',
                 '--keyring', 'keyring')
        self.spawn('ceph-mon', '-i', 'a', '-f')
        until(lambda: self.works('ceph', '--connect-timeout', '5',
                                 '-s').returncode == 0, 'ceph-mon')
        osd = str(uuid.uuid4())
        self.run('ceph', 'osd', 'new', osd)
        self.run('ceph', 'auth', 'add', 'osd.0', 'mon', 'allow profile osd',
                 'mgr', 'allow profile osd', 'osd', 'allow *')
        self.keep('osd.0')
        self.run('ceph-osd', '-i', '0', '--mkfs', '--osd-uuid', osd)
        self.spawn('ceph-osd', '-i', '0', '-f')
        until(lambda: '1 up' in self.works('ceph', 'osd', 'stat').stdout,
              'ceph-osd')
        self.run('ceph', 'auth', 'get-or-create', 'client.rgw', 'mon',
                 'allow rw', 'osd', 'allow rwx')
        self.keep('client.rgw')
        self.run('radosgw-admin', '-n', 'client.rgw', 'user', 'create',
                 '--uid=t', '--display-name=t', '--access-key=' + KEY_ID,
                 '--secret-key=' + KEY)
        self.spawn('radosgw', '-n', 'client.rgw', '-f')
        until(self.answers, 'radosgw')

    def keep(self, name):
        with open(self.dir + '/keyring', 'a', encoding='ascii') as f:
            f.write(self.run('ceph', 'auth', 'get', name).stdout)

    def answers(self):
        for p in self.procs:
            assert p.poll() is None, (p.args, self.errors())
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

    def stop(self):
        for p in reversed(self.procs):
            kill_and_wait(p)
        self.procs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
