#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""change: media of removable drives, and the live copy of 2011 by change -n."""
import os

from sluiced import Sluiced, make_chain, qemu_img, run

MIB = 1 << 20


def image(path, byte, size=MIB):
    with open(path, 'wb') as f:
        f.write(bytes([byte]) * size)
    return path


def io(s, device, command):
    out = s.qmp.hmp('qemu-io %s "%s"' % (device, command))
    assert 'rror' not in out and 'ailed' not in out, out


def inserted(s, device='cd0'):
    dev, = [b for b in s.qmp.cmd('query-block') if b['device'] == device]
    return dev.get('inserted', {}).get('file')


def trays(s):
    return [s.qmp.wait_event('DEVICE_TRAY_MOVED', device='cd0')['data']
            ['tray-open'] for _ in range(2)]


def test_media(d):
    one, two = image(d + '/one', 1), image(d + '/two', 2, 2 * MIB)
    three = d + '/three'
    qemu_img('create', '-q', '-f', 'qcow2', three, '1M')
    with Sluiced(d, '--drive', 'id=cd0') as s:
        q = s.qmp
        assert inserted(s) is None
        q.cmd('change', device='cd0', target=one)
        assert trays(s) == [True, False]
        assert inserted(s) == one
        io(s, 'cd0', 'read -P 1 0 1M')
        # Without a format it is for reading.
        assert 'ermi' in q.hmp('qemu-io cd0 "write 0 512"') or \
            'read-only' in q.hmp('qemu-io cd0 "write 0 512"')
        assert q.hmp('change cd0 %s raw' % two) == ''
        assert trays(s) == [True, False]
        assert inserted(s) == two
        io(s, 'cd0', 'read -P 2 0 2M')
        io(s, 'cd0', 'write -P 3 0 512')
        # Nobody holds what was taken out.
        assert not [n for n in q.cmd('query-named-block-nodes')
                    if n['file'] == one]
        # The format of a medium is found.
        q.cmd('change', device='cd0', target=three)
        trays(s)
        io(s, 'cd0', 'read -P 0 0 1M')
        assert q.cmd('query-block')[0]['inserted']['drv'] == 'qcow2'


def test_exported_medium(d):
    """An export goes on with the new medium."""
    one, two = image(d + '/one', 1), image(d + '/two', 2, 2 * MIB)
    with Sluiced(d, '--drive', 'id=cd0', '--nbd-server',
                 'addr.type=unix,addr.path=%s/nbd' % d) as s:
        q = s.qmp
        q.cmd('change', device='cd0', target=one)
        q.cmd('block-export-add', {'type': 'nbd', 'id': 'e',
                                   'node-name': 'cd0', 'name': 'cd0'})
        q.cmd('change', device='cd0', target=two)
        node = q.cmd('query-block')[0]['inserted']['node-name']
        assert q.cmd('query-block-exports')[0]['node-name'] == node
        qemu_img('compare', '-f', 'raw', '-F', 'raw', two,
                 'nbd+unix:///cd0?socket=%s/nbd' % d)


def test_refusals(d):
    one = image(d + '/one', 1)
    with Sluiced(d, '--drive', 'id=disk0,file=%s,format=raw' % one,
                 '--drive', 'id=cd0') as s:
        q = s.qmp
        assert q.error('change', device='disk0', target=one) == \
            "Device 'disk0' is not removable"
        assert q.error('change', device='x', target=one) == \
            "Device 'x' not found"
        assert 'No such file' in q.error('change', device='cd0',
                                         target=d + '/nothing')
        assert inserted(s) is None
        text = q.error('change', {
            'device': 'disk0', 'target': image(d + '/other', 1), 'arg': 'raw',
            'notify': False})
        assert text.endswith('the image in use, as its backing file'), text
        assert inserted(s, 'disk0') == one
        assert "find device" in q.error('change', {
            'device': 'cd0', 'target': one, 'notify': False})


def test_live_copy_of_2011(d):
    """Make the destination over the image in use, switch, stream."""
    base, top = make_chain(d, 4 * MIB)
    dest = os.path.join(d, 'dest')
    qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', top, '-F', 'qed', dest,
             '4M')
    with Sluiced(d, '--drive', 'id=disk0,file=%s,format=qed' % top) as s:
        assert s.qmp.hmp('change -n disk0 %s qcow2' % dest) == ''
        assert inserted(s, 'disk0') == dest
        io(s, 'disk0', 'write -P 5 1M 64k')
        s.qmp.hmp('block_stream disk0')
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='disk0')
        io(s, 'disk0', 'read -P 5 1M 64k')
    assert 'backing file' not in qemu_img('info', dest)


if __name__ == '__main__':
    run(globals())
