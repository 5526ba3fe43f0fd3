#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest, as in guest.py, whose overlay stands on a compressed qcow2
template behind nginx with TLS.

It boots while the stream runs, and the web server goes away and comes back
meanwhile; boots again after the daemon was killed, and goes on when the stream
has ended, the base was released and the server is gone for good.  Of the
template hardly a byte is fetched twice."""
import json
import os
import subprocess

from guest import (Machine, find_kernel, hold, make_initramfs, make_template,
                   offset)
from nginx import Nginx
from sluiced import Sluiced, qemu_img, run
from waiting import until

MIB = 1 << 20


def daemon(d, web):
    base = {'driver': 'https', 'url': web.url('template.qcow2', tls=True),
            'ca-secret': 'ca', 'read-only': True, 'reconnect-delay': 3600}
    return Sluiced(
        d, '--object', 'secret,id=ca,file=' + web.ca,
        '--nbd-server', 'addr.type=unix,addr.path=%s/nbd.sock' % d,
        '--blockdev', json.dumps(
            {'driver': 'qcow2', 'node-name': 'disk',
             'file': {'driver': 'file', 'filename': d + '/disk.qcow2'},
             'backing': {'driver': 'qcow2', 'read-only': True,
                         'file': base}}),
        '--blockdev', json.dumps({'driver': 'copy-on-read',
                                  'node-name': 'keep', 'file': 'disk'}),
        '--export', 'type=nbd,id=e,node-name=keep,name=disk,writable=on')


def fetched(web):
    """Bytes that the server has sent in whole answers, and of how many
    different places."""
    total, seen = 0, bytearray()
    for _, _, status, where, _, _ in web.log():
        assert status == '206', web.log()
        first, last = map(int, where.partition('=')[2].split('-'))
        total += last - first + 1
        if len(seen) <= last:
            seen.extend(bytes(last + 1 - len(seen)))
        seen[first:last + 1] = b'\1' * (last + 1 - first)
    return total, sum(seen)


class Restart:
    """Of the server, once the guest has asked for something."""

    def __init__(self, s, web):
        self.s, self.web, self.done = s, web, False

    def __call__(self):
        hold(self.s)
        if not self.done and offset(self.s) > 2 * MIB:
            self.web.stop()
            self.web.start('')
            self.done = True


def test_boots_from_https(d):
    kernel = find_kernel()
    with Nginx(d, tls=True) as web:
        raw = make_template(d)
        qemu_img('convert', '-q', '-c', '-O', 'qcow2', raw,
                 web.path('template.qcow2'))
        os.unlink(raw)
        initrd = make_initramfs(d, kernel)
        qemu_img('create', '-q', '-f', 'qcow2', d + '/disk.qcow2', '128M')

        s = daemon(d, web)
        try:
            s.qmp.cmd('block-stream', {'device': 'disk', 'job-id': 'disk',
                                       'speed': 2 * MIB})
            restart = Restart(s, web)
            Machine(d, kernel, initrd).finish(0, restart)
            assert restart.done
            held = offset(s)
            s.qmp.cmd('block-job-set-speed', device='disk', speed=2 * MIB)
            until(lambda: offset(s) > held + 4 * MIB, 'another 4 MiB')
        finally:
            s.kill()
        total, places = fetched(web)
        print('# until the kill: %d bytes of %d places' % (total, places),
              flush=True)
        # What was read ahead of the guest may come once more.
        assert total < 1.5 * places, (total, places)

        with daemon(d, web) as s:
            machine = Machine(d, kernel, initrd)
            s.qmp.cmd('block-stream', {'device': 'disk', 'job-id': 'disk'})
            event = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='disk')
            assert 'error' not in event['data'], event
            s.qmp.wait_event('BLOCK_BASE_RELEASED')
            web.stop()
            machine.finish(1)
    p = subprocess.run(['qemu-img', 'check', '-f', 'qcow2', d + '/disk.qcow2'],
                       text=True, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False)
    assert p.returncode in (0, 3), p.stdout


if __name__ == '__main__':
    run(globals())
