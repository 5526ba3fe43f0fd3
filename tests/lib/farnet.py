# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that is far away: this one. Whoever runs in the namespace reaches it
by a line with delay and a bandwidth (far-link.c).

    with Far(delay=0.05, rate=20 << 20) as far:
        ... a server that listens on far.here
        subprocess.Popen([*far.prefix, 'client', far.here])
"""
import os
import subprocess

from netns import Host, ip
from sluiced import Skip

LINK = os.environ.get('FAR_LINK', 'far-link')


class Far(Host):
    """@delay: seconds each way; @rate: bytes/s; what waits for the line is at
    most what it brings in a round trip."""

    def __init__(self, delay, rate):
        super().__init__('far')
        if not os.path.exists('/dev/net/tun'):
            raise Skip('a line of its own needs /dev/net/tun')
        self.delay, self.rate = delay, rate
        self.device = 'sf%d' % (os.getpid() % 1000000)
        self.proc = None

    @property
    def round_trip(self):
        return 2 * self.delay

    def join(self):
        # pylint: disable=consider-using-with
        self.proc = subprocess.Popen(
            [LINK, self.device, '/run/netns/' + self.name,
             str(int(self.delay * 1e6)), str(self.rate),
             str(int(self.rate * self.round_trip))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self.proc.stdout.readline() != b'ready\n':
            raise Skip('no line of its own')
        for words, address in (((), self.here), (('-n', self.name), self.there)):
            ip(*words, 'addr', 'add', address + '/30', 'dev', self.device)
            ip(*words, 'link', 'set', self.device, 'mtu', '9000', 'up')

    def leave(self):
        if self.proc:
            self.proc.stdin.close()
            self.proc.wait()
            self.proc.stdout.close()
