# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of a host cache share: a web server that counts, a base on
it, a cache above that, overlays."""
import json
import os

from nginx import Nginx
from sluiced import Sluiced, qemu_img, write_pattern

MIB = 1 << 20
BLOCK = 65536
ECHO = ('ngx_http_echo_module',)
DELAY = '''
location / { auth_request /_delay; }
location = /_delay { internal; echo_sleep %s; echo ok; }
'''


class Web(Nginx):
    """@delay: of every answer, seconds."""

    def __init__(self, d, delay=None):
        super().__init__(d, DELAY % delay if delay else '',
                         modules=ECHO if delay else ())

    def base(self, size, seed=1, when=None):
        """base.raw, written at @when."""
        path = self.path('base.raw')
        write_pattern(path + '.new', size, seed)
        if when:
            os.utime(path + '.new', (when, when))
        os.rename(path + '.new', path)
        return path

    def fetched(self):
        """Bytes that were sent so far."""
        total = 0
        for _, _, status, where, _, _ in self.log():
            if status == '206':
                first, last = where.partition('=')[2].split('-')
                total += int(last) - int(first) + 1
        return total


def base_node(web):
    return {'driver': 'http', 'node-name': 'web', 'read-only': True,
            'url': web.url('base.raw'), 'readahead': 0}


def cache_node(d, **options):
    return dict({'driver': 'cache', 'node-name': 'cache', 'read-only': True,
                 'path': d + '/cache', 'size': 64 * MIB,
                 'file': {'driver': 'raw', 'node-name': 'base',
                          'read-only': True, 'file': 'web'}}, **options)


def overlay_node(d, size, i=0):
    """A new overlay above the cache."""
    path = '%s/top%d.qcow2' % (d, i)
    qemu_img('create', '-q', '-f', 'qcow2', path, str(size))
    return {'driver': 'qcow2', 'node-name': 'top%d' % i, 'backing': 'cache',
            'file': {'driver': 'file', 'filename': path}}


def daemon(d, web, *nodes, **more):
    words = []
    for node in (base_node(web),) + nodes:
        words += ['--blockdev', json.dumps(node)]
    return Sluiced(d, *words, **more)


def table(d):
    """The epoch of the cache's file, and how many blocks it says it has."""
    with open(d + '/cache', 'rb') as f:
        head = f.read(4096)
        slots = int.from_bytes(head[36:40], 'little')
        entries = f.read(32 * slots)
    return head[16:24], sum(
        entries[i:i + 8] != bytes(8) for i in range(0, len(entries), 32))


def start_stream(s, i=0):
    s.qmp.cmd('block-stream', {'job-id': 'j%d' % i, 'device': 'top%d' % i})


def completed(s, i=0):
    data = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j%d' % i)['data']
    assert 'error' not in data, data


def same(d, path, i=0):
    top = '%s/top%d.qcow2' % (d, i)
    assert 'backing file' not in qemu_img('info', top)
    qemu_img('compare', '-f', 'qcow2', '-F', 'raw', top, path)
    os.unlink(top)


def read(s, offset, length=512):
    text = s.qmp.cmd('human-monitor-command', {
        'command-line': 'qemu-io cache "read %d %d"' % (offset, length)})
    assert 'failed' not in text and 'rror' not in text, text
