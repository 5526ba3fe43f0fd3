# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hosts made of network namespaces, each joined to this one by a cable.

    with Namespace('a') as ns:
        subprocess.Popen([*ns.prefix, 'program'])   # runs there
        ns.here, ns.there                           # addresses of the two ends
"""
import ipaddress
import os
import subprocess

from sluiced import Skip


def ip(*words):
    p = subprocess.run(['ip', *words], check=False, capture_output=True,
                       text=True)
    assert p.returncode == 0, '%s: %s' % (' '.join(words), p.stderr)


class Host:
    """A namespace; how it is joined to this one, the classes below say.
    The network that joins it has room for two, from 198.18.0.0/15, which is for
    tests; no other test that runs now has the same (of 8192 processes)."""
    hosts = 0   # made by this process

    def __init__(self, name):
        if os.geteuid() != 0:
            raise Skip('only root makes network namespaces')
        self.name = 'sluice-%s-%d' % (name, os.getpid())
        net = (198 << 24) + (18 << 16) + 16 * (os.getpid() % 8192) + \
            4 * (Host.hosts % 4)
        Host.hosts += 1
        self.here, self.there = (str(ipaddress.IPv4Address(net + n))
                                 for n in (1, 2))
        self.prefix = ['ip', 'netns', 'exec', self.name]

    def join(self):
        """Give both ends a device with its address."""
        raise NotImplementedError

    def leave(self):
        """Undo what join() did, also half of it, but for what goes with the
        namespace."""

    def __enter__(self):
        try:
            ip('netns', 'add', self.name)
        except (AssertionError, FileNotFoundError) as e:
            raise Skip('no network namespaces here: %s' % e) from None
        try:
            self.join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.leave()
        ip('netns', 'del', self.name)


class Namespace(Host):
    """Joined by a cable without delay."""

    def __init__(self, name):
        super().__init__(name)
        self.cable = 'sl%s%d' % (name, os.getpid() % 1000000)

    def join(self):
        ip('link', 'add', self.cable, 'type', 'veth', 'peer', 'name', 'up0',
           'netns', self.name)
        ip('addr', 'add', self.here + '/30', 'dev', self.cable)
        ip('link', 'set', self.cable, 'up')
        ip('-n', self.name, 'addr', 'add', self.there + '/30', 'dev', 'up0')
        for device in ('up0', 'lo'):
            ip('-n', self.name, 'link', 'set', device, 'up')
