# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host that is far away: this one. Whoever runs in the namespace reaches it
by a line with delay and a bandwidth (far-link.c).

    with Far(delay=0.05, rate=20 << 20) as far:
        ... a server that listens on far.here
        subprocess.Popen([*far.prefix, 'client', far.here])
"""
import os
import subprocess

from netns import ip
from sluiced import Skip

LINK = os.environ.get('FAR_LINK', 'far-link')


class Far:
    """@delay: seconds each way; @rate: bytes/s; what waits for the line is at
    most what it brings in a round trip."""

    def __init__(self, delay, rate, number=1):
        if os.geteuid() != 0 or not os.path.exists('/dev/net/tun'):
            raise Skip('only root makes a line of its own, by /dev/net/tun')
        self.delay, self.rate = delay, rate
        self.name = 'sluice-far%d-%d' % (number, os.getpid())
        self.device = 'sf%d' % (os.getpid() % 1000000)
        net = '198.%d.%d.' % (18 + os.getpid() % 2, 200 + number)
        self.here, self.there = net + '1', net + '2'
        self.prefix = ['ip', 'netns', 'exec', self.name]
        self.proc = None

    @property
    def round_trip(self):
        return 2 * self.delay

    def __enter__(self):
        try:
            ip('netns', 'add', self.name)
        except (AssertionError, FileNotFoundError) as e:
            raise Skip('no network namespaces here: %s' % e) from None
        try:
            # pylint: disable=consider-using-with
            self.proc = subprocess.Popen(
                [LINK, self.device, '/run/netns/' + self.name,
                 str(int(self.delay * 1e6)), str(self.rate),
                 str(int(self.rate * self.round_trip))],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if self.proc.stdout.readline() != b'ready\n':
                raise Skip('no line of its own')
            for words, address in (((), self.here),
                                   (('-n', self.name), self.there)):
                ip(*words, 'addr', 'add', address + '/24', 'dev', self.device)
                ip(*words, 'link', 'set', self.device, 'mtu', '9000', 'up')
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self.proc:
            self.proc.stdin.close()
            self.proc.wait()
            self.proc.stdout.close()
        ip('netns', 'del', self.name)
