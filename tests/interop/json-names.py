#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""json: names of backing files, as QEMU and libvirt write them.

Overlays are made by qemu-img; what both programs read through them is the same.
Names that a header has no business with are refused, and so are all under the
narrower policies.  SEED, ROUNDS: of the random names.
"""
import contextlib
import json
import os
import random
import socket
import subprocess

import sluiced
from sluiced import SLUICE, SLUICED, qemu_img, run_tool

SEED = int(os.environ.get('SEED', '0')) or random.SystemRandom().getrandbits(32)
ROUNDS = int(os.environ.get('ROUNDS', '60'))
KIB = 1024
SIZE = 256 * KIB


def pattern(seed):
    return bytes((seed + i // 512) % 251 for i in range(SIZE))


class World:
    """base.raw; base.qcow2 over it with 64k of its own."""

    def __init__(self, d):
        self.dir = d
        self.raw = self.path('base.raw')
        self.qcow2 = self.path('base.qcow2')
        with open(self.raw, 'wb') as f:
            f.write(pattern(1))
        qemu_img('create', '-q', '-f', 'qcow2', '-b', self.raw, '-F', 'raw',
                 self.qcow2)
        run_tool('qemu-io', '-f', 'qcow2', '-c', 'write -P 200 64k 64k',
                 self.qcow2)

    def path(self, name):
        return os.path.join(self.dir, name)

    def overlay(self, name, fmt):
        top = self.path('top.qcow2')
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', name, '-F', fmt,
                 top, str(SIZE))
        return top


def read(tool, top):
    out = top + '.out'
    run_tool(tool, 'convert', '-f', 'qcow2', '-O', 'raw', top, out)
    with open(out, 'rb') as f:
        data = f.read()
    os.unlink(out)
    return data


def same(w, name, fmt='raw', want=None):
    """By both programs; and @want, if that is said."""
    top = w.overlay(name, fmt)
    theirs, ours = read('qemu-img', top), read(SLUICE, top)
    assert theirs == ours, name
    assert want is None or ours == want, name
    chain = json.loads(run_tool(SLUICE, 'info', '--output=json', top))
    assert chain['backing-filename'] == name


@contextlib.contextmanager
def server(path):
    """qemu-nbd before @path, export x, on a TCP port of this machine."""
    s = socket.create_server(('127.0.0.1', 0))
    fd = s.fileno()
    proc = subprocess.Popen(
        ['sh', '-c', 'exec 3<&%d; LISTEN_PID=$$ LISTEN_FDS=1 exec qemu-nbd -t '
         '-r -e 16 -x x -f raw "$0"' % fd, path], pass_fds=(fd,),
        stderr=subprocess.DEVNULL)
    try:
        yield s.getsockname()[1]
    finally:
        proc.kill()
        proc.wait()
        s.close()


def file(path):
    return '{"driver":"file","filename":"%s"}' % path


def test_files(d):
    w = World(d)
    raw = pattern(1)
    f = file(w.raw)
    same(w, 'json:{"driver":"raw","file":%s}' % f, want=raw)
    same(w, 'json:{"file":%s}' % f, want=raw)
    same(w, 'json:{"driver":"raw","file":{"filename":"%s"}}' % w.raw, want=raw)
    same(w, 'json:{"driver":"raw","file.driver":"file","file.filename":"%s"}'
         % w.raw, want=raw)
    same(w, "json:{'driver':'raw','file':{'driver':'file','filename':'%s'}}"
         % w.raw, want=raw)
    same(w, 'json:{"driver":"raw","read-only":true,"file":%s}' % f, want=raw)
    same(w, 'json:{"file":{"driver":"raw","offset":"512","size":65536,"file":'
         '%s}}' % f, want=raw[512:512 + 65536] + bytes(SIZE - 65536))
    q = file(w.qcow2)
    same(w, 'json:{"driver":"qcow2","file":%s}' % q, 'qcow2')
    same(w, 'json:{"driver":"qcow2","backing":null,"file":%s}' % q, 'qcow2',
         bytes(64 * KIB) + b'\xc8' * 64 * KIB + bytes(SIZE - 128 * KIB))
    same(w, 'json:{"driver":"qcow2","file":%s,"backing":{"driver":"raw",'
         '"offset":4096,"file":%s}}' % (q, f), 'qcow2')


def test_network(d):
    w = World(d)
    raw = pattern(1)
    with server(w.raw) as port:
        at = '"host":"127.0.0.1","port":"%d"' % port
        inet = '"server":{"type":"inet",%s}' % at
        same(w, 'json:{"file":{"driver":"nbd",%s,"export":"x"}}' % inet,
             want=raw)
        same(w, 'json:{"driver":"raw","file":{"driver":"nbd",%s,"export":"x"}}'
             % inet, want=raw)
        same(w, 'json:{"driver":"raw","file":{"driver":"nbd","server":{"type":'
             '"inet","host":"127.0.0.1","port":%d},"export":"x"}}' % port,
             want=raw)
        same(w, 'json:{"driver":"raw","file.driver":"nbd","file.host":'
             '"127.0.0.1","file.port":%d,"file.export":"x"}' % port, want=raw)
        same(w, 'json:{"driver":"raw","file.driver":"nbd","file.server.type":'
             '"inet","file.server.host":"127.0.0.1","file.server.port":"%d",'
             '"file.export":"x"}' % port, want=raw)
        same(w, 'json:{"file":{"driver":"raw","offset":1024,"size":4096,"file":'
             '{"driver":"nbd",%s,"export":"x"}}}' % inet,
             want=raw[1024:1024 + 4096] + bytes(SIZE - 4096))
    with server(w.qcow2) as port:
        inet = ('"server":{"type":"inet","host":"127.0.0.1","port":"%d"}'
                % port)
        same(w, 'json:{"file":{"driver":"nbd",%s,"export":"x"}}' % inet,
             'qcow2')
        same(w, 'json:{"driver":"qcow2","file":{"driver":"nbd",%s,"export":"x"'
             '}}' % inet, 'qcow2')


def test_relative_names_inside(d):
    """QEMU takes them in the folder where it was started: followed where that
    is the image's, too."""
    w = World(d)
    for name in ('file:base.raw', 'json:{"driver":"raw","file":'
                 '{"driver":"file","filename":"base.raw"}}'):
        top = w.overlay(name, 'raw')
        got = subprocess.run([SLUICE, 'compare', '-q', '-f', 'qcow2', '-F',
                              'raw', 'top.qcow2', 'base.raw'], cwd=d,
                             check=False)
        assert got.returncode == 0
        for args in (('map', '-f', 'qcow2', top),
                     ('rebase', '-u', '-b', name, '-F', 'raw', top),
                     ('create', '-u', '-f', 'qcow2', '-b', name, '-F', 'raw',
                      w.path('new'), '1M')):
            text = refusal([SLUICE, *args])
            assert 'relative file name' in text, text


def refusal(argv):
    p = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert p.returncode == 1, (argv, p.returncode, p.stdout, p.stderr)
    return p.stderr


def bad_names(w):
    f = file(w.raw)
    os.mkfifo(w.path('pipe'))
    return (
        ('{"driver":"blkdebug","image":%s}' % f, "driver 'blkdebug'"),
        ('{"driver":"raw","file":{"driver":"copy-on-read","file":%s}}' % f,
         "driver 'copy-on-read'"),
        ('{"driver":"raw","file":{"driver":"ssh","path":"x"}}', "driver 'ssh'"),
        ('{"driver":"raw","file":"node"}', 'node of this process'),
        ('{"driver":"raw","backing":"node","file":%s}' % f, "option 'backing'"),
        ('{"driver":"raw","node-name":"n","file":%s}' % f,
         "option 'node-name'"),
        ('{"driver":"raw","read-only":false,"file":%s}' % f,
         "option 'read-only'"),
        ('{"driver":"raw","force-share":true,"file":%s}' % f,
         "option 'force-share'"),
        ('{"driver":"raw","file":{"driver":"file","locking":"off",'
         '"filename":"%s"}}' % w.raw, "option 'locking'"),
        ('{"driver":"raw","file":{"driver":"nbd","tls-creds":"t","host":"h"}}',
         "option 'tls-creds'"),
        ('{"driver":"raw","file":%s}' % file(w.path('pipe')), 'a FIFO'),
        ('{"driver":"raw","file":%s}' % file('/dev/zero'),
         'a character device'),
        ('{"driver":"raw","file":%s}' % file(w.dir), 'a directory'),
        ('{"driver":"raw","file":{"a":"b"}}', 'does not say'),
        ('{"driver":"raw","file":{"filename":"fd:0"}}', 'relative file name'),
        ('{"driver":"raw","file":{"filename":"nbd://h/x"}}',
         'relative file name'),
        ('{"driver":"raw","file":{"driver":"nbd","filename":"nbd://h/x"}}',
         "option 'filename'"),
        ('{"driver":"raw","file":%s}' % file('a\\u000ab'),
         'control characters'),
        ('{"driver":"raw","file":%s,"file":%s}' % (f, f), 'duplicate'),
        ('{"driver":"qcow2","file":%s}' % f, "the format beside it is 'raw'"),
        ('{"driver":"raw","file":%s}' % file('/gone'), 'No such file'),
        ('{"a":' * 70 + '1' + '}' * 70, 'nested'),
        ('{"%s1":1}' % ('a.' * 70), 'nested'),
    )


def test_refused(d):
    w = World(d)
    for name, text in bad_names(w):
        top = w.overlay('json:' + name, 'raw')
        got = refusal([SLUICE, 'map', '-f', 'qcow2', top])
        assert text in got, (name, got)
        # What stands in the header is shown, whatever it is.
        info = json.loads(run_tool(SLUICE, 'info', '--output=json', top))
        assert info['backing-filename'] == 'json:' + name


def test_policies(d):
    w = World(d)
    top = w.overlay('json:{"driver":"raw","file":%s}' % file(w.raw), 'raw')
    node = ('driver=qcow2,node-name=n,read-only=on,file.driver=file,'
            'file.filename=' + top)
    for policy in ('explicit', 'deny', 'beneath=' + d):
        got = refusal([SLUICED, '--backing-policy', policy, '--blockdev', node])
        assert 'is not opened' in got, got
        assert 'backing=NODE-NAME' in got, got
        assert '--backing-policy follow' in got, got


def test_command_lines(d):
    """Single quotes in --blockdev and on image commands; types stay strict."""
    w = World(d)
    with sluiced.Sluiced(d, '--blockdev', "{'driver':'raw','node-name':'it',"
                         "'file':{'driver':'file','filename':'%s'}}" % w.raw) \
            as s:
        names = [n['node-name'] for n in
                 s.qmp.cmd('query-named-block-nodes')]
        assert 'it' in names, names
    bad = ("{'driver':'nbd','node-name':'n','server':{'type':'inet','host':"
           "'127.0.0.1','port':1}}")
    for tool in (SLUICED, 'qemu-storage-daemon'):
        got = refusal([tool, '--blockdev', bad])
        assert "Invalid parameter type for 'server.port', expected: string" \
            in got, got
    name = ("json:{'driver':'raw','offset':'4k','size':'8192','file.filename':"
            "'%s'}" % w.raw)
    for tool in (SLUICE, 'qemu-img'):
        info = json.loads(run_tool(tool, 'info', '--output=json', name))
        assert info['virtual-size'] == 8192, (tool, info)


# --- random names ---

def random_storage(rnd, w, path, port):
    if rnd.random() < 0.7:
        return {'driver': 'file', 'filename': path}
    where = {'type': 'inet', 'host': '127.0.0.1', 'port': str(port)}
    if rnd.random() < 0.5:
        where['port'] = port
    return {'driver': 'nbd', 'server': where, 'export': 'x'}


def number(rnd, value):
    return value if rnd.random() < 0.5 else str(value)


def random_raw(rnd, w, port, depth=0):
    node = {'driver': 'raw'}
    if rnd.random() < 0.5:
        node['offset'] = number(rnd, 512 * rnd.randrange(32))
    if rnd.random() < 0.5:
        node['size'] = number(rnd, 512 * rnd.randrange(1, 64))
    node['file'] = (random_raw(rnd, w, port, depth + 1)
                    if depth < 2 and rnd.random() < 0.3 and
                    not node.keys() & {'offset', 'size'}
                    else random_storage(rnd, w, w.raw, port[0]))
    return node


def random_node(rnd, w, port):
    if rnd.random() < 0.6:
        return random_raw(rnd, w, port)
    node = {'driver': 'qcow2', 'file': random_storage(rnd, w, w.qcow2, port[1])}
    # QEMU cannot open what it writes for other storage here: it takes the name
    # of the header along.
    if rnd.random() < 0.6:
        node['backing'] = rnd.choice((None, {
            'driver': 'raw', 'offset': number(rnd, 512 * rnd.randrange(32)),
            'file': {'driver': 'file', 'filename': w.raw}}))
    return node


def flat(rnd, node):
    """Some of the nesting as dotted keys."""
    ret = {}
    for key, value in node.items():
        if isinstance(value, dict):
            value = flat(rnd, value)
            if rnd.random() < 0.3:
                ret.update({key + '.' + k: v for k, v in value.items()})
                continue
        ret[key] = value
    return ret


def written(rnd, node):
    """With quotes of both kinds."""
    parts = json.dumps(node).split('"')
    for i in range(0, len(parts) - 1, 2):
        quote = rnd.choice('"\'')
        parts[i] += quote
        parts[i + 1] += quote
    return ''.join(parts)


def test_random(d):
    w = World(d)
    rnd = random.Random(SEED)
    print('# seed %d' % SEED, flush=True)
    with server(w.raw) as p, server(w.qcow2) as q:
        for _ in range(ROUNDS):
            node = random_node(rnd, w, (p, q))
            fmt = node['driver']
            if rnd.random() < 0.3:
                del node['driver']
            same(w, 'json:' + written(rnd, flat(rnd, node)), fmt)


if __name__ == '__main__':
    sluiced.run(globals())
