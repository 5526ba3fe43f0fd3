#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a header is given leads back to the same bytes.

Streams down to bases that their file names alone do not describe: afterwards
sluice and qemu-img, which know the header alone, read what the guest saw; or
the job was refused before it copied anything.  The same for names that are
given: what would not open is refused.
"""
import json
import os
import subprocess

import rig
from rig import KIB, MIB
from sluiced import SLUICE, Skip, Sluiced, qemu_img, run_tool

SIZE = MIB


def bytes_of(seed, size=SIZE):
    return bytes((seed + i // 4096) % 251 for i in range(size))


class World:
    """base.raw, other.raw (both SIZE), mid over base.raw and top over mid; each
    of the overlays has a cluster of its own."""

    def __init__(self, d):
        self.dir = d
        self.base = rig.make_file(self.path('base.raw'), bytes_of(1))
        self.other = rig.make_file(self.path('other.raw'), bytes_of(101))
        self.top = self.path('top')
        self.mid = self.path('mid')
        rig.make_overlay(self.mid, self.base)
        rig.make_overlay(self.top, self.mid, rig.FORMAT)
        self.fill(self.mid, 77, 0)
        self.fill(self.top, 78, 128 * KIB)

    def path(self, name):
        return os.path.join(self.dir, name)

    @staticmethod
    def fill(path, value, at):
        run_tool('qemu-io', '-f', rig.FORMAT, '-c',
                 'write -P %d %d 64k' % (value, at), path)

    def file(self, path):
        return {'driver': 'file', 'filename': path}

    def nodes(self, base):
        """The chain, with @base as node 'base' below mid."""
        return {'driver': rig.FORMAT, 'node-name': 'top', 'file':
                self.file(self.top), 'backing': {
                    'driver': rig.FORMAT, 'node-name': 'mid',
                    'file': self.file(self.mid),
                    'backing': dict(base, **{'node-name': 'base'})}}

    def daemon(self, base, *args):
        sock = self.path('nbd.sock')
        s = Sluiced(self.dir, *args, '--nbd-server',
                    'addr.type=unix,addr.path=' + sock, '--blockdev',
                    json.dumps(self.nodes(base)), '--export',
                    'type=nbd,id=e,node-name=top,name=e')
        s.uri = 'nbd+unix:///e?socket=' + sock
        return s


def read_guest(s):
    """The disk as the daemon has it now."""
    h = rig.nbd.NBD()
    h.connect_uri(s.uri)
    data = bytes(h.pread(SIZE, 0))
    h.shutdown()
    return data


def by_sluice(path):
    out = path + '.out'
    run_tool(SLUICE, 'convert', '-f', rig.FORMAT, '-O', 'raw', path, out)
    with open(out, 'rb') as f:
        data = f.read()
    os.unlink(out)
    return data


def backing_of(path):
    info = json.loads(qemu_img('info', '-U', '--output=json', path))
    return info.get('backing-filename')


def stream(s, **args):
    args = {k.replace('_', '-'): v for k, v in args.items()}
    s.qmp.cmd('block-stream', dict({'job-id': 'j', 'device': 'top'}, **args))
    event = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
    assert 'error' not in event['data'], event


def leads_back(d, make_base, name, qemu=True, cut=None, **args):
    """Streams top down to the base: the header says @name then (a function: is
    true of it), and what it leads to is what the guest saw."""
    w = World(d)
    with w.daemon(make_base(w)) as s:
        before = read_guest(s)
        stream(s, base_node='base', **args)
        rig.assert_same(read_guest(s), before, 'the guest')
    got = backing_of(w.top)
    assert name(got) if callable(name) else got == name, got
    os.unlink(w.mid)
    rig.assert_same(by_sluice(w.top), before, 'by sluice')
    if qemu:
        rig.assert_same(rig.read_image(w.top), before, 'by qemu-img')
    return w


def is_json(name):
    return name.startswith('json:{')


def test_window_of_a_file(d):
    leads_back(d, lambda w: {'driver': 'raw', 'offset': 256 * KIB, 'size':
                             512 * KIB, 'file': w.file(w.base)}, is_json)


def test_window_to_the_end(d):
    leads_back(d, lambda w: {'driver': 'raw', 'offset': 64 * KIB,
                             'file': w.file(w.base)}, is_json)


def test_window_below_a_filter(d):
    leads_back(d, lambda w: {'driver': 'copy-on-read', 'file': {
        'driver': 'raw', 'offset': 64 * KIB, 'file': w.file(w.base)}}, is_json)


def test_window_below_the_format(d):
    """An image inside a file, behind something else."""
    def base(w):
        inner = w.path('inner')
        rig.make_overlay(inner, None, size=SIZE)
        w.fill(inner, 9, 192 * KIB)
        with open(inner, 'rb') as f:
            rig.make_file(w.path('outer'), bytes(64 * KIB) + f.read())
        os.unlink(inner)
        return {'driver': rig.FORMAT, 'file': {
            'driver': 'raw', 'offset': 64 * KIB,
            'file': w.file(w.path('outer'))}}
    leads_back(d, base, is_json)


def test_raw_over_a_format(d):
    def base(w):
        inner = rig.make_overlay(w.path('inner'), w.other)
        w.fill(inner, 9, 192 * KIB)
        return {'driver': 'raw', 'file': {'driver': rig.FORMAT,
                                          'file': w.file(inner)}}
    leads_back(d, base, is_json)


def other_backing(backing):
    """A base whose header names base.raw, opened over @backing."""
    def base(w):
        inner = rig.make_overlay(w.path('inner'), w.base)
        w.fill(inner, 9, 192 * KIB)
        return {'driver': rig.FORMAT, 'file': w.file(inner), 'backing':
                backing(w)}
    return base


def test_other_backing_file(d):
    leads_back(d, other_backing(lambda w: {'driver': 'raw', 'file':
                                           w.file(w.other)}), is_json)


def test_no_backing_file(d):
    leads_back(d, other_backing(lambda w: None), is_json)


def test_window_as_backing_file(d):
    leads_back(d, other_backing(lambda w: {
        'driver': 'raw', 'size': 512 * KIB, 'file': w.file(w.base)}), is_json)


def test_same_backing_file(d):
    """Given by option, but what the header says."""
    w = leads_back(d, other_backing(lambda w: {
        'driver': 'raw', 'file': {'driver': 'blkdebug', 'image':
                                  w.file(w.base)}}),
                   lambda name: os.path.basename(name) == 'inner')
    assert backing_of(w.path('inner')) == w.base


def test_no_storage(d):
    leads_back(d, lambda w: {'driver': 'null-co', 'size': SIZE,
                             'read-zeroes': True}, is_json, qemu=False)


def test_filters_are_left_out(d):
    leads_back(d, lambda w: {'driver': 'copy-on-read', 'file': {
        'driver': 'raw', 'file': {'driver': 'blkdebug', 'image':
                                  w.file(w.base)}}},
               os.path.join(d, 'base.raw'))


def test_address(d):
    rig.need('nbdkit')
    served = rig.make_file(os.path.join(d, 'served'), bytes_of(50))
    server = rig.Base(d, served)
    try:
        leads_back(d, lambda w: {'driver': 'raw', 'file': {
            'driver': 'nbd', 'server': {'type': 'unix', 'path': server.sock}}},
                   'nbd+unix://?socket=' + server.sock)
    finally:
        server.proc.kill()
        server.proc.wait()


def test_window_of_an_address(d):
    rig.need('nbdkit')
    served = rig.make_file(os.path.join(d, 'served'), bytes_of(50))
    server = rig.Base(d, served)
    try:
        leads_back(d, lambda w: {'driver': 'raw', 'offset': 64 * KIB, 'file': {
            'driver': 'nbd', 'server': {'type': 'unix', 'path': server.sock}}},
                   is_json)
    finally:
        server.proc.kill()
        server.proc.wait()


def test_name_that_was_given(d):
    """A json: name that says it all is taken."""
    leads_back(d, lambda w: {'driver': 'raw', 'offset': 64 * KIB,
                             'file': w.file(w.base)}, is_json,
               backing_file="json:{'driver':'raw','offset':'64k','file':"
               "{'driver':'file','filename':'%s'}}"
               % os.path.join(d, 'base.raw'))


# --- refused ---

def snapshot(path):
    with open(path, 'rb') as f:
        return f.read()


def refused(s, w, text, **args):
    """block-stream with @args: nothing has begun."""
    args = {k.replace('_', '-'): v for k, v in args.items()}
    before = snapshot(w.top)
    got = s.qmp.error('block-stream', dict({'device': 'top', 'job-id': 'j',
                                            'base-node': 'base'}, **args))
    assert text in got, got
    assert s.qmp.cmd('query-jobs') == []
    assert snapshot(w.top) == before
    names = [n['node-name'] for n in s.qmp.cmd('query-named-block-nodes')]
    assert not [n for n in names if n.startswith('#')
                and 'copy' in n], names


def test_file_that_was_replaced(d):
    w = World(d)
    with w.daemon({'driver': 'raw', 'file': w.file(w.base)}) as s:
        os.rename(w.other, w.base)
        refused(s, w, 'is another file than the one that is open')
        os.unlink(w.base)
        refused(s, w, 'No such file or directory')


def test_name_with_a_newline(d):
    w = World(d)
    odd = w.path('a\nb')
    os.rename(w.base, odd)
    with w.daemon({'driver': 'raw', 'file': w.file(odd)}) as s:
        refused(s, w, 'control characters')


def test_header_without_room(d):
    """The header of an image of small clusters: seen before, not at the end."""
    if rig.FORMAT != 'qcow2':
        raise Skip('no other header is as small')
    w = World(d)
    deep = w.path('x' * 200)
    for _ in range(3):
        os.mkdir(deep)
        deep = os.path.join(deep, 'x' * 200)
    base = deep[:-200] + 'base'
    os.unlink(w.top)
    rig.make_overlay(w.top, w.mid, rig.FORMAT, cluster=512)
    os.rename(w.base, base)
    with w.daemon({'driver': 'raw', 'file': w.file(base)}) as s:
        refused(s, w, 'no room')


def test_name_of_the_process(d):
    w = World(d)
    with open(w.base, 'rb') as f, \
            w.daemon({'driver': 'raw', 'file': w.file(
                '/proc/%d/fd/%d' % (os.getpid(), f.fileno()))}) as s:
        refused(s, w, 'in this process alone')


def bad_names(w, image):
    """Names for the header of @image, and what is said of each."""
    link = w.path('link')
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(image, link)
    return (
        ('fd:3', 'files and addresses only'),
        ('blkdebug::' + w.base, 'files and addresses only'),
        ('a\nb', 'control characters'),
        ('ssh://host/x', "Unknown protocol 'ssh'"),
        ('/dev/zero', 'a character device'),
        (w.dir, 'a directory'),
        ('/proc/self/fd/0', 'in this process alone'),
        (image, 'loop'),
        ('./../%s/%s' % (os.path.basename(w.dir), image), 'loop'),
        (link, 'loop'), ('file:' + link, 'loop'),
        ('json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}'
         % link, 'loop'),
        ('json:{"driver":"raw","file":"node"}', 'node of this process'),
        ('json:{"driver":"raw","file":{"driver":"blkdebug","image":{}}}',
         "driver 'blkdebug'"),
        ('json:{"driver":"raw","node-name":"x","file":{"driver":"file",'
         '"filename":"%s"}}' % w.base, "option 'node-name'"),
        ('json:{"driver":"raw","file":{"driver":"file","locking":"off",'
         '"filename":"%s"}}' % w.base, "option 'locking'"),
        ('json:{"driver":"raw","read-only":false,"file":{"driver":"file",'
         '"filename":"%s"}}' % w.base, "option 'read-only'"),
        ('json:{"driver":"raw"', 'JSON parse error'),
        ('json:[]', 'a JSON object is expected'),
        ('x' * 1024, 'a header takes 1023'),
    )


def test_names_that_would_not_open(d):
    """As backing-file of block-stream and change-backing-file."""
    w = World(d)
    with w.daemon({'driver': 'raw', 'file': w.file(w.base)}) as s:
        for name, text in bad_names(w, 'top'):
            refused(s, w, text, backing_file=name)
        before = snapshot(w.mid)
        for name, text in bad_names(w, 'mid') + (('top', 'chain above it'),):
            got = s.qmp.error('change-backing-file', {
                'device': 'top', 'image-node-name': 'mid',
                'backing-file': name})
            assert text in got, (name, got)
        assert snapshot(w.mid) == before
        s.qmp.cmd('change-backing-file', {
            'device': 'top', 'image-node-name': 'mid',
            'backing-file': 'not-yet-there.raw'})
    assert backing_of(w.mid) == 'not-yet-there.raw'


def test_plain_name_for_a_window(d):
    w = World(d)
    window = {'driver': 'raw', 'offset': 64 * KIB, 'file': w.file(w.base)}
    with w.daemon(window) as s:
        refused(s, w, 'would lead to other bytes', backing_file='base.raw')
        got = s.qmp.error('change-backing-file', {
            'device': 'top', 'image-node-name': 'mid',
            'backing-file': w.base})
        assert 'would lead to other bytes' in got, got


def sluice_refuses(text, *args):
    p = subprocess.run([SLUICE, *args], check=False, capture_output=True,
                       text=True)
    assert p.returncode == 1, (args, p.stderr)
    assert text in p.stderr, (args, p.stderr)


def test_create(d):
    """-u leaves out the look at the backing file, not this."""
    w = World(d)
    new = w.path('new')
    args = ['create', '-q', '-u', '-f', rig.FORMAT, '-F', 'raw', '-b']
    for name, text in bad_names(w, 'new'):
        sluice_refuses(text, *args, name, new, '1M')
        assert not os.path.exists(new), name
    # What exists is not lost by a refusal.
    sluice_refuses('is refused', *args, 'fd:0', w.mid, '1M')
    assert backing_of(w.mid) == w.base
    sluice_refuses('is refused', 'convert', '-O', rig.FORMAT, '-F', 'raw',
                   '-B', 'fd:0', w.other, new)


def test_rebase(d):
    w = World(d)
    before = snapshot(w.top)
    for name, text in bad_names(w, 'top'):
        for how in (['-u'], []):
            sluice_refuses(text, 'rebase', *how, '-f', rig.FORMAT, '-F', 'raw',
                           '-b', name, w.top)
            assert snapshot(w.top) == before, name


def test_rebase_into_a_window(d):
    """The name of a file of the chain, which options opened as a window."""
    w = World(d)
    text = ('driver=%s,file.filename=%s,backing.driver=%s,'
            'backing.file.filename=%s,backing.backing.driver=raw,'
            'backing.backing.offset=64k,backing.backing.file.filename=%s'
            % (rig.FORMAT, w.top, rig.FORMAT, w.mid, w.base))
    before = snapshot(w.top)
    sluice_refuses('other bytes', 'rebase', '--image-opts', '-F', 'raw', '-b',
                   w.base, text)
    assert snapshot(w.top) == before


if __name__ == '__main__':
    rig.run(globals())
