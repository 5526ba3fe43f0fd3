#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""force-share is for readers: who takes no image locks never writes.

Each way to ask for both is refused in QEMU's words before a byte of the image
changes, while another program has the image open and without one.
"""
import hashlib
import os
import subprocess

from sluiced import SLUICE, SLUICED, Sluiced, make_chain, qemu_img, run

MIB = 1 << 20
WORDS = 'force-share=on can only be used with read-only images'
READ_ONLY = 'Block node is read-only'


def sluice(d, *args):
    p = subprocess.run([SLUICE, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    return p.returncode, p.stdout + p.stderr


def digest(d):
    """Of every image here."""
    h = hashlib.sha256()
    for name in sorted(os.listdir(d)):
        if name.split('.')[-1] in ('qcow2', 'qed', 'raw', 'cow', 'partial'):
            with open(os.path.join(d, name), 'rb') as f:
                h.update(f.read())
    return h.hexdigest()


def make(d):
    """An overlay of each format over a base, and what a command reads."""
    def img(*args):
        code, out = sluice(d, 'create', '-q', *args)
        assert code == 0, out

    with open(os.path.join(d, 'base.raw'), 'wb') as f:
        f.write(b'\7' * MIB)
    for fmt in ('qcow2', 'qed', 'cow'):
        img('-f', fmt, '-b', 'base.raw', '-F', 'raw', 'top.' + fmt)
    img('-f', 'qcow2', '-b', 'top.qcow2', '-F', 'qcow2', 'over.qcow2')


def options(fmt, name, *more):
    return ','.join(('driver=' + fmt, 'file.driver=file',
                     'file.filename=' + name) + more)


def rows():
    """Commands that write, as words, with the image's format."""
    for fmt in ('qcow2', 'qed', 'cow'):
        name = 'top.' + fmt
        yield 'check', '-U', '-r', 'all', '-f', fmt, name
        yield 'check', '-U', '-r', 'leaks', '-f', fmt, name
        for share in ('force-share=on', 'file.force-share=on'):
            o = options(fmt, name, share)
            yield 'check', '-r', 'all', '--image-opts', o
            yield 'resize', '--image-opts', o, '+1M'
            yield 'rebase', '-b', '', '--image-opts', o
            yield 'rebase', '-u', '-b', 'base.raw', '-F', 'raw', \
                '--image-opts', o
            yield 'commit', '--image-opts', o
            yield 'convert', '-n', '-f', 'raw', '--target-image-opts', \
                'base.raw', o
    for action in ('-c', '-a', '-d'):
        yield 'snapshot', '-U', action, 's', 'top.qcow2'
        yield 'snapshot', action, 's', '--image-opts', \
            options('qcow2', 'top.qcow2', 'force-share=on')
    for action in ('--add', '--remove', '--clear', '--enable', '--disable'):
        yield 'bitmap', action, '--image-opts', \
            options('qcow2', 'top.qcow2', 'force-share=on'), 'b'
    yield 'resize', '--image-opts', \
        'driver=raw,file.filename=base.raw,force-share=on', '+1M'
    # The base is written to, and its options are a part of the overlay's.
    yield 'commit', '--image-opts', \
        options('qcow2', 'over.qcow2', 'backing.force-share=on')


def test_tool(d):
    make(d)
    before = digest(d)
    for row in rows():
        code, out = sluice(d, *row)
        assert code == 1 and WORDS in out, (row, code, out)
        assert digest(d) == before, row
    with Sluiced(d, '--blockdev', options('qcow2', 'top.qcow2',
                                          'node-name=v')):
        for row in rows():
            code, out = sluice(d, *row)
            assert code == 1, (row, code, out)
        code, out = sluice(d, 'info', '-U', 'top.qcow2')
        assert code == 0 and 'qcow2' in out, out
        code, out = sluice(d, 'check', '-U', 'top.qcow2')
        assert code == 0, out
    qemu_img('compare', '-f', 'qcow2', '-F', 'raw', d + '/top.qcow2',
             d + '/base.raw')


def test_read_only_options(d):
    """The same commands where options say that nothing is written."""
    make(d)
    before = digest(d)
    for fmt in ('qcow2', 'qed', 'cow'):
        o = options(fmt, 'top.' + fmt, 'read-only=on')
        for row in (('check', '-r', 'all', '--image-opts', o),
                    ('resize', '--image-opts', o, '+1M'),
                    ('rebase', '-b', '', '--image-opts', o),
                    ('rebase', '-u', '-b', '', '--image-opts', o),
                    ('commit', '--image-opts', o),
                    ('convert', '-n', '-f', 'raw', '--target-image-opts',
                     'base.raw', o)):
            code, out = sluice(d, *row)
            assert code == 1 and READ_ONLY in out, (row, code, out)
            assert digest(d) == before, row
    o = options('qcow2', 'top.qcow2', 'read-only=on')
    for row in (('snapshot', '-c', 's', '--image-opts', o),
                ('bitmap', '--add', '--image-opts', o, 'b')):
        code, out = sluice(d, *row)
        assert code == 1 and READ_ONLY in out, (row, code, out)
        assert digest(d) == before, row


def refused_start(d, *args):
    p = subprocess.run([SLUICED, *args], capture_output=True, text=True,
                       check=False, cwd=d)
    assert p.returncode == 1 and WORDS in p.stderr, (args, p)


def test_command_line(d):
    make(d)
    before = digest(d)
    for fmt in ('qcow2', 'qed', 'cow'):
        name = 'top.' + fmt
        for more in (('force-share=on',), ('file.force-share=on',),
                     ('force-share=on', 'read-only=off'),
                     ('force-share=on', 'auto-read-only=on'),
                     ('force-share=on', 'read-only=on', 'file.read-only=off')):
            refused_start(d, '--blockdev',
                          options(fmt, name, 'node-name=v', *more))
        refused_start(d, '--drive', 'id=v,file=%s,format=%s,force-share=on'
                      % (name, fmt))
        refused_start(d, '--drive', 'id=v,file.driver=file,file.filename=%s,'
                      'file.force-share=on,format=%s' % (name, fmt))
    for driver in ('null-co,size=1M', 'file,filename=base.raw',
                   'raw,file.driver=file,file.filename=base.raw'):
        refused_start(d, '--blockdev', driver + ',node-name=v,force-share=on')
    assert digest(d) == before


def file_options(d, name):
    return {'driver': 'file', 'filename': os.path.join(d, name)}


def test_qmp(d):
    make(d)
    before = digest(d)
    f = file_options(d, 'top.qcow2')
    shared = {'driver': 'qcow2', 'node-name': 'v', 'file': f,
              'force-share': True}
    with Sluiced(d) as s:
        q = s.qmp
        assert q.error('blockdev-add', dict(shared)) == WORDS
        assert q.error('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'v',
            'file': dict(f, **{'force-share': True})}) == WORDS
        # Another node's file that is only for reading.
        q.cmd('blockdev-add', dict(f, **{
            'node-name': 'f', 'force-share': True, 'read-only': True}))
        assert q.error('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'v', 'file': 'f'}) == READ_ONLY
        q.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'v',
                               'file': 'f', 'auto-read-only': True})
        assert q.error('blockdev-reopen', {'options': [
            {'driver': 'qcow2', 'node-name': 'v', 'file': 'f',
             'backing': None, 'read-only': False}]}) == READ_ONLY
        q.cmd('blockdev-del', {'node-name': 'v'})
        reopen_is_refused(q, shared)
    assert digest(d) == before


def reopen_is_refused(q, shared):
    """Writable later: by reopen, by a command, by a job."""
    for auto, words in ((False, READ_ONLY), (True, WORDS)):
        q.cmd('blockdev-add', dict(shared, **{'read-only': True,
                                              'auto-read-only': auto}))
        error = q.error('blockdev-reopen', {'options': [
            dict(shared, **{'backing': None, 'read-only': False})]})
        assert error == WORDS, error
        for command, args in (
                ('block-stream', {'device': 'v', 'job-id': 'j'}),
                ('change-backing-file', {'device': 'v', 'image-node-name': 'v',
                                         'backing-file': 'base.raw'})):
            error = q.error(command, args)
            assert error == words, (command, error)
        error = q.error('blockdev-reopen', {'options': [
            dict(shared, **{'force-share': False, 'read-only': False})]})
        assert error == "Cannot change the option 'force-share'", error
        node = next(n for n in q.cmd('query-named-block-nodes')
                    if n['node-name'] == 'v')
        assert node['ro'], node
        q.cmd('blockdev-del', {'node-name': 'v'})


def test_unused_overlay(d):
    """Permissions come with use: a base below an overlay that nobody uses may
    be written to, and is left alone again when the writer is gone."""
    base, top = make_chain(d, MIB)
    with Sluiced(d, '--blockdev',
                 'raw,node-name=base,file.driver=file,file.filename=' + base,
                 '--blockdev', 'qed,node-name=top,backing=base,'
                 'file.driver=file,file.filename=' + top,
                 '--nbd-server', 'addr.type=unix,addr.path=%s/nbd' % d) as s:
        def export(node):
            return {'type': 'nbd', 'id': node, 'node-name': node,
                    'writable': True}
        s.qmp.cmd('block-export-add', **export('base'))
        error = s.qmp.error('block-export-add', **export('top'))
        assert "Permission conflict on node 'base'" in error, error
        s.qmp.cmd('block-export-del', id='base')
        s.qmp.wait_event('BLOCK_EXPORT_DELETED')
        s.qmp.cmd('block-export-add', **export('top'))
        error = s.qmp.error('block-export-add', **export('base'))
        assert "Permission conflict on node 'base'" in error, error
        s.qmp.cmd('block-export-del', id='top')
        s.qmp.wait_event('BLOCK_EXPORT_DELETED')
        s.qmp.cmd('block-export-add', **export('base'))


if __name__ == '__main__':
    run(globals())
