# SPDX-License-Identifier: LGPL-2.1-or-later
"""A Ceph cluster for a test: one monitor and one store of objects, all in a
folder of its own and on ports of 127.0.0.1, or another address.

    with Ceph(d) as ceph:
        ceph.run('rbd', 'create', '--size', '16M', 'disk')
        Sluiced(d, ..., env=ceph.env)

Its programs find it by CEPH_CONF in the environment.
"""
import os
import shutil
import subprocess
import uuid

from killed import kill_and_wait
from nginx import free_ports
from sluiced import Skip
from waiting import until

CONF = '''[global]
fsid = %(fsid)s
mon host = [v2:%(host)s:%(mon)d,v1:%(host)s:%(mon1)d]
public addr = %(host)s
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
mon warn on pool no redundancy = false
mon data avail crit = 1
paxos propose interval = 0.02
[client]
log file = /dev/null
[mon]
mon data = %(d)s/mon
[osd]
osd data = %(d)s/osd
osd memory target = 939524096
osd objectstore = %(store)s
memstore device bytes = 1073741824
bluestore block size = 4294967296
'''


class Ceph:
    """@store: 'memstore', or 'bluestore', which survives the end of its
    program. @pool: to be made, for RBD. @host: an address of this machine."""
    PROGRAMS = ('ceph-mon', 'ceph-osd', 'ceph')
    FOLDERS = ('', 'run', 'log', 'mon', 'osd')
    CONF = ''

    def __init__(self, d, store='memstore', pool=None, host='127.0.0.1'):
        for program in self.PROGRAMS:
            if not shutil.which(program):
                raise Skip('%s is not installed' % program)
        self.dir = os.path.join(d, 'ceph')
        for sub in self.FOLDERS:
            os.makedirs(os.path.join(self.dir, sub), exist_ok=True)
        self.port, self.mon, mon1, low = free_ports(4)
        low = min(low, 65000)
        self.conf = self.dir + '/ceph.conf'
        self.env = dict(os.environ, CEPH_CONF=self.conf)
        with open(self.conf, 'w', encoding='ascii') as f:
            f.write((CONF + self.CONF) % {
                'fsid': uuid.uuid4(), 'd': self.dir, 'mon': self.mon,
                'mon1': mon1, 'low': low, 'high': low + 200,
                'port': self.port, 'store': store, 'host': host})
        self.mon_addr = '[v2:%s:%d,v1:%s:%d]' % (host, self.mon, host, mon1)
        self.procs = []
        self.osd = None
        try:
            self.start()
            if pool:
                self.make_pool(pool)
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
            p = subprocess.Popen(words, env=self.env, cwd=self.dir,
                                 stdout=err, stderr=err)
        self.procs.append(p)
        return p

    def check_alive(self):
        for p in self.procs:
            assert p.poll() is None, (p.args, self.errors())

    def works(self, *words):
        self.check_alive()
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
        with open(self.conf, encoding='ascii') as f:
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
        self.start_osd()

    def start_osd(self):
        self.osd = self.spawn('ceph-osd', '-i', '0', '-f')
        until(lambda: '1 up' in self.works('ceph', 'osd', 'stat').stdout,
              'ceph-osd')

    def kill_osd(self):
        """SIGKILL. It is brought back by start_osd(), where its store lasts."""
        self.procs.remove(self.osd)
        kill_and_wait(self.osd)
        self.osd = None

    def make_pool(self, name):
        self.run('ceph', 'osd', 'pool', 'create', name, '8')
        self.run('rbd', 'pool', 'init', name)

    def keep(self, name):
        with open(self.dir + '/keyring', 'a', encoding='ascii') as f:
            f.write(self.run('ceph', 'auth', 'get', name).stdout)

    def stop(self):
        for p in reversed(self.procs):
            kill_and_wait(p)
        self.procs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
