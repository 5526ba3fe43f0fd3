#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Faults and breakpoints of blkdebug, and the qemu-io language of HMP."""
import os
import subprocess

from sluiced import Sluiced, make_chain, qemu_img, run

EIO = 'Input/output error'
ENOSPC = 'No space left on device'


class Rig:
    """A QED disk "n" over blkdebug."""

    def __init__(self, d, top=None, **options):
        self.top = top or os.path.join(d, 'disk.qed')
        if top is None:
            qemu_img('create', '-q', '-f', 'qed', self.top, '16M')
        self.daemon = Sluiced(d)
        self.options = options

    def __enter__(self):
        self.daemon.__enter__()
        debug = dict({'driver': 'blkdebug', 'image': {
            'driver': 'file', 'filename': self.top}}, **self.options)
        self.daemon.qmp.cmd('blockdev-add', driver='qed', **{
            'node-name': 'n', 'file': debug})
        return self.io

    def __exit__(self, *args):
        self.daemon.__exit__(*args)

    def io(self, line):
        return self.daemon.qmp.hmp('qemu-io n "%s"' % line)


def good(text):
    return 'failed' not in text and 'verification' not in text


def check(path, *args):
    """No corruption. A write that failed may leave its cluster unused (3)."""
    code = subprocess.run(['qemu-img', 'check', '-q', '-f', 'qed', *args, path],
                          check=False).returncode
    assert code in (0, 3), code


def test_state_machine(d):
    """The second write fails, once; set-state chains count."""
    with Rig(d, **{
            'set-state': [{'event': 'write_aio', 'state': 1, 'new_state': 2}],
            'inject-error': [{'event': 'write_aio', 'state': 2, 'errno': 28,
                              'once': True}]}) as io:
        assert good(io('write -P 1 0 64k'))
        assert io('write -P 2 64k 64k') == 'write failed: %s\n' % ENOSPC
        assert good(io('write -P 2 64k 64k'))
        assert good(io('read -P 1 0 64k')) and good(io('read -P 2 64k 64k'))
        assert io('flush') == ''
    check(d + '/disk.qed')


def test_config_file(d):
    conf = d + '/b.conf'
    with open(conf, 'w', encoding='ascii') as f:
        f.write('# reads\n[inject-error]\nevent = "read_aio"\n'
                'iotype = "read"\nonce = "on"\nerrno = "5"\n')
    with Rig(d, config=conf) as io:
        assert good(io('write -P 1 0 64k'))
        assert io('read 0 4k') == 'read failed: %s\n' % EIO
        assert good(io('read -P 1 0 4k'))


def test_bad_options(d):
    with Sluiced(d) as s:
        for text, want in (('[zork]\n', "no option group 'zork'"),
                           ('[inject-error]\nerrno = "5"\n', "'event'"),
                           ('event = "none"\n', 'no group defined'),
                           ('[inject-error]\nevent = none\n', 'quotes'),
                           ('[set-state]\nevent = "zork"\n', 'zork')):
            with open(d + '/b.conf', 'w', encoding='ascii') as f:
                f.write(text)
            e = s.qmp.error('blockdev-add', **{
                'driver': 'blkdebug', 'node-name': 'x', 'config': d + '/b.conf',
                'image': {'driver': 'null-co'}})
            assert want in e and 'b.conf' in e, e
        for name, value in (('align', 3), ('max-transfer', -1)):
            e = s.qmp.error('blockdev-add', **{
                'driver': 'blkdebug', 'node-name': 'x', name: value,
                'image': {'driver': 'null-co'}})
            assert name in e, e


def test_table_errors(d):
    """Tables are published by the flush, so the flush gets the error."""
    for event in ('l2_update', 'l1_update', 'flush_to_disk'):
        sub = os.path.join(d, event)
        os.mkdir(sub)
        with Rig(sub, **{'inject-error': [
                {'event': event, 'once': True}]}) as io:
            assert good(io('write -P 1 0 64k'))
            assert io('flush') == 'flush failed: %s\n' % EIO, event
            assert good(io('read -P 1 0 64k'))
        check(sub + '/disk.qed')


def test_l2_load(d):
    with Rig(d) as io:
        assert good(io('write -P 1 0 64k'))
    with Rig(d, d + '/disk.qed', **{'inject-error': [
            {'event': 'l2_load', 'once': True}]}) as io:
        assert io('read 0 4k') == 'read failed: %s\n' % EIO
        assert good(io('read -P 1 0 4k'))


def test_guest_write_beats_held_fill(d):
    """A small write waits for the base; a whole one meanwhile survives."""
    _, top = make_chain(d, 1 << 20)
    with Rig(d, top) as io:
        assert io('break cow_read A') == ''
        io('aio_write -P 5 0 512')
        assert io('wait_break A') == ''
        assert good(io('write -P 9 0 64k'))
        assert io('resume A') == ''
        assert good(io('aio_flush'))
        assert good(io('read -P 5 0 512')) and good(io('read -P 9 512 65024'))
        assert 'No such file' in io('resume A')


def test_end_while_held(d):
    """A held request does not keep the daemon from ending."""
    with Rig(d) as io:
        assert 'No such file' in io('break zork A')
        io('break write_aio A')
        io('aio_write -P 7 0 64k')
        assert io('wait_break A') == ''
    with Rig(d, d + '/disk.qed') as io:
        assert good(io('read -P 7 0 64k'))


def test_language(d):
    with Rig(d) as io:
        text = io('write -P 0x41 0 64k')
        assert text.startswith('wrote 65536/65536 bytes at offset 0\n'
                               '64 KiB, 1 ops; 00.'), text
        assert text.endswith(' ops/sec)\n'), text
        assert io('write -q 0 512') == ''
        assert '00010000:  ' in io('read -v 64k 16')
        assert io('read -P 1 -q 64k 512') == (
            'Pattern verification failed at offset 65536, 512 bytes\n')
        assert io('map') == (
            '64 KiB (0x10000) bytes     allocated at offset 0 bytes (0x0)\n'
            '15.938 MiB (0xff0000) bytes not allocated at offset 64 KiB '
            '(0x10000)\n')
        assert io('length') == '16 MiB\n'
        assert io('truncate 32M') == '' and io('length') == '32 MiB\n'
        assert io('read 0') == ('bad argument count 1 to read, expected at '
                                'least 2 arguments\n')
        assert io('read -P 300 0 512') == '300 is not a valid pattern byte\n'
        assert io('zork') == 'command "zork" not found\n'
        assert io('read 32M 512') == 'read failed: %s\n' % EIO
        assert io('read -P 1 -s 600 0 512').startswith('pattern verif')
        assert io('write -z -P 1 0 512') == (
            'Only one of -z, -P, and -s can be specified at the same time\n')
        io('aio_read 32M 512')
        assert io('aio_flush') == 'readv failed: %s\n' % EIO
        for name in ('readv', 'aio_write', 'wait_break', 'discard'):
            assert name in io('help')


def test_requests_on_a_device(d):
    """They are made with permissions of their own, and count for it."""
    top = d + '/disk.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', top, '16M')
    with open(d + '/b.conf', 'w', encoding='ascii') as f:
        f.write('[inject-error]\nevent = "write_aio"\nonce = "on"\n')
    with Sluiced(d, '--drive', 'id=v,format=qcow2,file=blkdebug:%s/b.conf:%s'
                 % (d, top)) as s:
        def io(line):
            return s.qmp.hmp('qemu-io v "%s"' % line)
        assert io('write -P 1 0x10000 64k') == 'write failed: %s\n' % EIO
        assert good(io('write -P 1 0x10000 64k'))
        assert good(io('read -P 1 64k 0x8000'))
        assert io('read 16M 512') == 'read failed: %s\n' % EIO
        assert good(io('write -c -P 2 128k 64k'))
        io('aio_write -q -P 3 256k 4k')
        assert io('aio_flush') == ''
        # Nothing is done but counted.
        assert io('aio_write -i 0 512') == 'injecting invalid write request\n'
        assert io('aio_read -i 0 512') == 'injecting invalid read request\n'
        assert good(io('discard 0x10000 0x10000'))
        stats = s.qmp.cmd('query-blockstats')[0]['stats']
        for name, n in (('wr_operations', 3), ('wr_bytes', 135168),
                        ('failed_wr_operations', 1), ('rd_operations', 1),
                        ('invalid_rd_operations', 2),
                        ('invalid_wr_operations', 1), ('unmap_operations', 1)):
            assert stats[name] == n, (name, stats)


def test_truncate_waits_for_requests(d):
    """A write on its way does not bring back what is cut off."""
    top = d + '/disk.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', top, '16M')
    with open(d + '/b.conf', 'w', encoding='ascii'):
        pass
    with Sluiced(d, '--drive', 'id=v,format=qcow2,file=blkdebug:%s/b.conf:%s'
                 % (d, top)) as s:
        def io(line):
            return s.qmp.hmp('qemu-io v "%s"' % line)
        assert io('break write_aio A') == ''
        io('aio_write -P 7 8M 64k')
        assert io('wait_break A') == ''
        assert io('truncate 4M') == ''
        text = io('length')
        assert good(text) and text.endswith('4 MiB\n'), text
        assert io('truncate 16M') == ''
        assert good(io('read -P 0 4M 12M'))
    qemu_img('check', top)


def test_header_must_not_name_it(d):
    top = d + '/t.qed'
    qemu_img('create', '-q', '-f', 'qed', '-u', '-b', 'blkdebug::/etc/passwd',
             '-F', 'raw', top, '1M')
    with Sluiced(d) as s:
        e = s.qmp.error('blockdev-add', **{
            'driver': 'qed', 'node-name': 'x',
            'file': {'driver': 'file', 'filename': top}})
        assert 'refused' in e, e


if __name__ == '__main__':
    run(globals())
