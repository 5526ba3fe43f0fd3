#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice serve: one image behind an NBD socket, in one line; sluice add and
remove: images of a daemon that runs."""
import os
import re
import subprocess

from sluiced import (SLUICE, SLUICED, Skip, Sluiced, make_chain, qemu_img, run,
                     write_pattern)
from waiting import until

MIB = 1 << 20
ENV = dict(os.environ, SLUICED=SLUICED)


def sluice(*args, cwd=None):
    return subprocess.run([SLUICE] + list(args), text=True, cwd=cwd, env=ENV,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)


def control(s, *args):
    return sluice(args[0], '-s', s.socket, *args[1:], cwd=s.dir)


def size_of(uri):
    """A client finds the export there."""
    try:
        import nbd
    except ImportError:
        raise Skip('python3-libnbd') from None
    h = nbd.NBD()
    h.connect_uri(uri)
    size = h.get_size()
    h.shutdown()
    return size


def end(pidfile):
    with open(pidfile, encoding='ascii') as f:
        os.kill(int(f.read()), 15)
    until(lambda: not os.path.exists(pidfile), 'the end')


# --- serve ---

def test_format_from_the_name(d):
    for ending in ('qcow2', 'qed', 'cow', 'raw'):
        p = sluice('serve', '--dry-run', 'a.' + ending)
        assert p.returncode == 0, p
        assert 'file=a.%s,format=%s' % (ending, ending) in p.stdout, p
    p = sluice('serve', '--dry-run', 'a.img')
    assert p.returncode == 1 and '-f' in p.stderr, p


def test_uri_is_printed(d):
    """Once clients can connect; relative and odd names are found."""
    write_pattern(d + '/a.raw', MIB)
    p = sluice('serve', 'a.raw', '-k', 'n b?.sock', '--name', 'my-disk',
               '-d', '--pidfile', 'pid', cwd=d)
    assert p.returncode == 0, p
    uri = p.stdout.strip()
    try:
        assert uri == 'nbd+unix:///my-disk?socket=%s/n%%20b%%3F.sock' % d, p
        assert size_of(uri) == MIB
    finally:
        end(d + '/pid')


def test_uri_of_a_port(d):
    write_pattern(d + '/a.raw', MIB)
    p = sluice('serve', 'a.raw', '--port', '0', '-d', '--pidfile', 'pid',
               cwd=d)
    assert p.returncode == 0, p
    try:
        assert re.fullmatch(r'nbd://127\.0\.0\.1:[1-9]\d*/disk0\n',
                            p.stdout), p
        assert size_of(p.stdout.strip()) == MIB
    finally:
        end(d + '/pid')


def test_nothing_is_printed_by_what_fails(d):
    write_pattern(d + '/a.raw', MIB)
    p = sluice('serve', 'a.raw', '-k', 'no/such/folder', cwd=d)
    assert p.returncode == 1 and not p.stdout and p.stderr, p


def test_stream_needs_a_base(d):
    top = make_chain(d, MIB, 'qcow2')[1]
    qemu_img('create', '-q', '-f', 'qcow2', d + '/alone.qcow2', '1M')
    write_pattern(d + '/a.raw', MIB)
    for name in ('alone.qcow2', 'a.raw'):
        p = sluice('serve', '--stream', '--dry-run', name, cwd=d)
        assert p.returncode == 1 and 'no backing file' in p.stderr, p
    p = sluice('serve', '--stream', '--dry-run', 'absent.qcow2', cwd=d)
    assert p.returncode == 1 and 'No such file' in p.stderr, p
    p = sluice('serve', '--stream', '--dry-run', top, cwd=d)
    assert p.returncode == 0 and 'stream=on' in p.stdout, p


# --- add and remove ---

def names(s):
    return sorted(n['node-name'] for n in s.qmp.cmd('query-named-block-nodes')
                  if not n['node-name'].startswith('#'))


def test_add_and_remove(d):
    write_pattern(d + '/a.raw', MIB)
    qemu_img('create', '-q', '-f', 'qcow2', d + '/b.qcow2', '2M')
    with Sluiced(d) as s:
        p = control(s, 'add', 'a', 'a.raw')
        assert p.returncode == 1 and '--nbd-socket' in p.stderr, p
        assert names(s) == [], names(s)
        p = control(s, 'add', '--nbd-socket', 'nbd.sock', 'a', 'a.raw')
        assert p.returncode == 0, p
        assert size_of(p.stdout.strip()) == MIB
        p = control(s, 'add', '-r', '--nbd-socket', 'nbd.sock', 'b', 'b.qcow2')
        assert p.returncode == 0, p
        assert size_of(p.stdout.strip()) == 2 * MIB
        assert names(s) == ['a', 'b']
        p = control(s, 'add', 'a', 'b.qcow2')
        assert p.returncode == 1 and 'a' in p.stderr, p
        assert names(s) == ['a', 'b']
        p = control(s, 'remove', 'a')
        assert p.returncode == 0, p
        assert names(s) == ['b']
        assert [e['id'] for e in s.qmp.cmd('query-block-exports')] == ['b']
        p = control(s, 'remove', 'b')
        assert p.returncode == 0 and names(s) == [], p


def test_add_with_stream(d):
    base, top = make_chain(d, MIB, 'qcow2')
    with Sluiced(d) as s:
        p = control(s, 'add', '--nbd-socket', 'nbd.sock', '--stream', 'disk0',
                    top)
        assert p.returncode == 0 and p.stdout.startswith('nbd+unix:///'), p
        p = control(s, 'job', 'wait', 'disk0')
        assert p.returncode == 0, p
        os.rename(base, base + '.gone')
        p = control(s, 'remove', 'disk0')
        assert p.returncode == 0 and names(s) == [], p
        qemu_img('create', '-q', '-f', 'qcow2', d + '/alone.qcow2', '1M')
        p = control(s, 'add', '--stream', 'x', 'alone.qcow2')
        assert p.returncode == 1 and 'no backing file' in p.stderr, p
        assert names(s) == [], names(s)
    qemu_img('compare', '-f', 'qcow2', '-F', 'raw', top, base + '.gone')


def test_remove_in_use(d):
    """A client or a job holds it; --force cuts the client off."""
    import nbd
    _, top = make_chain(d, 8 * MIB, 'qcow2')
    with Sluiced(d) as s:
        p = control(s, 'add', '--copy-on-read', '--nbd-socket', 'nbd.sock',
                    'disk0', top)
        assert p.returncode == 0, p
        h = nbd.NBD()
        h.connect_uri(p.stdout.strip())
        p = control(s, 'remove', 'disk0')
        assert p.returncode == 1 and '--force' in p.stderr, p
        s.qmp.cmd('block-stream', device='disk0', job_id='disk0',
                  speed=64 << 10)
        p = control(s, 'remove', '--force', 'disk0')
        assert p.returncode == 1 and 'sluice job cancel disk0' in p.stderr, p
        assert control(s, 'job', 'cancel', 'disk0').returncode == 0
        p = control(s, 'remove', '--force', 'disk0')
        assert p.returncode == 0 and names(s) == [], p


def test_remove_what_is_not_there(d):
    write_pattern(d + '/a.raw', MIB)
    with Sluiced(d, '--drive', 'id=drive,format=raw,file=%s/a.raw' % d,
                 '--blockdev', 'null-co,node-name=null') as s:
        p = control(s, 'remove', 'nul')
        assert p.returncode == 1 and "Did you mean 'null'?" in p.stderr, p
        p = control(s, 'remove', 'drive')
        assert p.returncode == 1 and '--drive' in p.stderr, p


if __name__ == '__main__':
    run(globals())
