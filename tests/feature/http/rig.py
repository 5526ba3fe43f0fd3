# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of bases on web servers share."""
import json
import os

from sluiced import SLUICE, Sluiced, qemu_img, run_tool, write_pattern

MIB = 1 << 20


def node(url, **options):
    """Options of a node for @url."""
    return dict({'driver': url.partition(':')[0], 'node-name': 'web',
                 'url': url, 'read-only': True}, **options)


def overlay(d, size=None, base=None, fmt='raw', name='top.qcow2'):
    """An overlay in @d; its header names @base, if that is given."""
    top = os.path.join(d, name)
    args = ['-u', '-b', base, '-F', fmt] if base else []
    qemu_img('create', '-q', '-f', 'qcow2', *args, top, str(size))
    return top


def daemon(d, web_node, *args, base='raw', size=None, secrets=(), env=None):
    """A daemon with an overlay 'top' in @d over @web_node, format @base.
    secrets: (id, data) or (id, None) for the file @d/id."""
    top = overlay(d, size)
    words = []
    for name, data in secrets:
        path = os.path.join(d, name)
        if data is not None:
            with open(path, 'w', encoding='utf-8') as f:
                f.write(data)
        words += ['--object', 'secret,id=%s,file=%s' % (name, path)]
    return Sluiced(
        d, *words, '--blockdev', json.dumps(web_node),
        '--blockdev', json.dumps({'driver': base, 'node-name': 'base',
                                  'read-only': True, 'file': 'web'}),
        '--blockdev', json.dumps(
            {'driver': 'qcow2', 'node-name': 'top', 'backing': 'base',
             'file': {'driver': 'file', 'filename': top}}), *args, env=env)


def stream(s, **options):
    """Stream all of 'top'; the data of the event at its end."""
    s.qmp.cmd('block-stream', dict({'job-id': 'j', 'device': 'top'},
                                   **options))
    return s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']


def same(d, path, fmt='raw', top='top.qcow2'):
    """The overlay in @d needs no base, and has the disk of @path."""
    top = os.path.join(d, top)
    assert 'backing file' not in qemu_img('info', top)
    qemu_img('check', '-q', '-f', 'qcow2', top)
    run_tool('qemu-img', 'compare', '-f', 'qcow2', '-F', fmt, top, path)


def make_base(web, name='base.raw', size=16 * MIB, seed=1):
    """A file full of data that the web server has."""
    write_pattern(web.path(name), size, seed)
    return web.path(name)


def refused(d, options, secrets=()):
    """The text with which 'info' fails for a node."""
    import subprocess
    words = []
    for name, path in secrets:
        words += ['--object', 'secret,id=%s,file=%s' % (name, path)]
    options = {k: v for k, v in options.items()
               if k not in ('node-name', 'read-only')}
    p = subprocess.run([SLUICE, 'info', *words, 'json:' + json.dumps(
        {'driver': 'raw', 'file': options})], capture_output=True, text=True,
        check=False, cwd=d)
    assert p.returncode == 1, (p.returncode, p.stdout, p.stderr)
    return p.stderr
