#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real NBD clients on the daemon's server: libnbd and its tools, QEMU's tools,
fio.  A client that is not installed skips its row."""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile

from seed import SEED
from waiting import listens, until

MIB = 1 << 20
SIZE = 32 * MIB
DIR = tempfile.mkdtemp(prefix='nbd-clients-')
SOCK = os.path.join(DIR, 'nbd')
ROWS = []


class Skip(Exception):
    pass


def row(text, *tools):
    def add(fn):
        ROWS.append((text, tools, fn))
        return fn
    return add


def run(*cmd):
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, check=False)
    assert p.returncode == 0, '%s: %s%s' % (cmd[0], p.stdout, p.stderr)
    return p.stdout


def uri(name):
    return 'nbd+unix:///%s?socket=%s' % (name, SOCK)


def path(name):
    return os.path.join(DIR, name)


def make_files():
    rnd = random.Random(SEED)
    with open(path('base'), 'wb') as f:
        f.write(rnd.randbytes(8 * MIB))
        f.seek(16 * MIB)
        f.write(rnd.randbytes(4 * MIB))
        f.truncate(SIZE)
    run('qemu-img', 'create', '-q', '-f', 'qed', '-b', path('base'), '-F',
        'raw', path('top.qed'))
    shutil.copy(path('base'), path('scratch'))


def start():
    make_files()
    server = subprocess.Popen([
        os.environ['SLUICED'],
        '--blockdev', json.dumps({
            'driver': 'qed', 'node-name': 'chain',
            'file': {'driver': 'file', 'filename': path('top.qed')}}),
        '--blockdev', json.dumps({
            'driver': 'raw', 'node-name': 'scratch',
            'file': {'driver': 'file', 'filename': path('scratch')}}),
        '--nbd-server', 'addr.type=unix,addr.path=' + SOCK,
        '--export', 'nbd,id=c,node-name=chain,name=chain,writable=on,'
                    'allocation-depth=on',
        '--export', 'nbd,id=s,node-name=scratch,name=scratch,writable=on'])
    until(lambda: server.poll() is not None or listens(SOCK),
          'the socket')
    assert server.poll() is None, server.returncode
    return server


def digest(name):
    with open(path(name), 'rb') as f:
        return hashlib.sha256(f.read()).hexdigest()


@row('nbdinfo describes both exports', 'nbdinfo')
def nbdinfo():
    # The content would be told by file(1), which need not be there.
    found = json.loads(run('nbdinfo', '--no-content', '--json', uri('chain')))
    e = found['exports'][0]
    assert e['export-size'] == SIZE and e['can_multi_conn']
    assert sorted(e['contexts']) == ['base:allocation',
                                     'qemu:allocation-depth']
    listed = json.loads(run('nbdinfo', '--list', '--json', uri('')))
    assert sorted(e['export-name'] for e in listed['exports']) == [
        'chain', 'scratch']


@row('nbdinfo --map agrees with what was written', 'nbdinfo')
def nbdinfo_map():
    found = json.loads(run('nbdinfo', '--map', '--json', uri('chain')))
    data = [(e['offset'], e['length']) for e in found if e['type'] == 0]
    assert data == [(0, 8 * MIB), (16 * MIB, 4 * MIB)], found
    found = json.loads(run('nbdinfo', '--map=qemu:allocation-depth', '--json',
                           uri('chain')))
    assert {e['type'] for e in found} == {2}, found


@row('nbdcopy reads all of it, over several connections', 'nbdcopy')
def nbdcopy_from():
    run('nbdcopy', '--connections=4', uri('chain'), path('out'))
    assert digest('out') == digest('base')


@row('nbdcopy from one export to another, with flush', 'nbdcopy')
def nbdcopy_between():
    run('nbdcopy', '--flush', uri('chain'), uri('scratch'))
    run('nbdcopy', uri('scratch'), path('out'))
    assert digest('out') == digest('base')


@row('qemu-img compare, map, convert', 'qemu-img')
def qemu_img():
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri('chain'),
        path('base'))
    found = json.loads(run('qemu-img', 'map', '--output=json', '-f', 'raw',
                           uri('chain')))
    assert [(e['start'], e['length']) for e in found if e['data']] == [
        (0, 8 * MIB), (16 * MIB, 4 * MIB)]
    run('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri('chain'),
        path('out.qcow2'))
    run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', path('out.qcow2'),
        path('base'))
    run('qemu-img', 'convert', '-n', '-W', '-m', '16', '-f', 'qcow2', '-O',
        'raw', path('out.qcow2'), uri('scratch'))
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', uri('scratch'),
        path('base'))


@row('qemu-io writes odd sizes, zeroes and discards', 'qemu-io')
def qemu_io():
    run('qemu-io', '-f', 'raw',
        '-c', 'write -P 0x11 1 3', '-c', 'read -P 0x11 1 3',
        '-c', 'write -P 0x22 1M 1000001', '-c', 'read -P 0x22 1M 1000001',
        '-c', 'write -f -P 0x33 9M 64k', '-c', 'read -P 0x33 9M 64k',
        '-c', 'write -z 1M 64k', '-c', 'read -P 0 1M 64k',
        '-c', 'write -z -u 2M 1M', '-c', 'read -P 0 2M 1M',
        '-c', 'discard 3M 1M', '-c', 'flush',
        '-c', 'aio_write -P 0x44 20M 1M', '-c', 'aio_write -P 0x55 21M 1M',
        '-c', 'aio_flush', '-c', 'read -P 0x44 20M 1M',
        '-c', 'read -P 0x55 21M 1M', uri('scratch'))


@row('fio verifies random writes at depth 32', 'fio')
def fio():
    if 'nbd' not in run('fio', '--enghelp'):
        raise Skip('fio has no nbd engine')
    run('fio', '--name=v', '--ioengine=nbd', '--uri=' + uri('scratch'),
        '--rw=randwrite', '--bsrange=512-64k', '--iodepth=32', '--size=16M',
        '--verify=crc32c', '--do_verify=1', '--verify_fatal=1', '--fsync=64',
        '--randseed=%d' % SEED, '--output=' + path('fio.log'))


def connect(nbd, name, contexts=()):
    h = nbd.NBD()
    for c in contexts:
        h.add_meta_context(c)
    h.connect_uri(uri(name))
    return h


@row('libnbd: 64 requests in flight in any order, strict mode')
def libnbd():
    try:
        import nbd
    except ImportError as e:
        raise Skip('python3-libnbd is not installed') from e
    h = connect(nbd, 'chain', ['base:allocation', 'qemu:allocation-depth'])
    assert h.can_df() and h.can_fast_zero() and h.can_cache()
    with open(path('base'), 'rb') as f:
        want = f.read()
    rnd = random.Random(SEED + 1)
    jobs = []
    for _ in range(1000):
        off = rnd.randrange(SIZE - 70000)
        buf = nbd.Buffer(rnd.randrange(1, 70000))
        jobs.append((off, buf, h.aio_pread(buf, off)))
        while h.aio_in_flight() >= 64:
            h.poll(-1)
    while h.aio_in_flight():
        h.poll(-1)
    for off, buf, cookie in jobs:
        assert h.aio_command_completed(cookie)
        got = buf.to_bytearray()
        assert got == want[off:off + len(got)]
    parts = []

    def chunk(data, off, status, _):
        parts.append((off, len(data), status))
    h.pread_structured(4 * MIB, 6 * MIB, chunk)
    assert (8 * MIB, 2 * MIB, nbd.READ_HOLE) in parts, parts
    extents = {}

    def extent(context, _, found, err):
        extents[context] = found
    h.block_status(SIZE, 0, extent)
    assert extents['base:allocation'][0::2] == [8 * MIB, 8 * MIB, 4 * MIB,
                                                12 * MIB]
    h.shutdown()


@row('libnbd: errors are what the protocol says')
def libnbd_errors():
    try:
        import nbd
        import errno
    except ImportError as e:
        raise Skip('python3-libnbd is not installed') from e
    h = connect(nbd, 'scratch')
    h.set_strict_mode(0)
    for fn, want in ((lambda: h.pread(512, SIZE), errno.EINVAL),
                     (lambda: h.pwrite(bytes(512), SIZE), errno.ENOSPC),
                     (lambda: h.zero(512, SIZE), errno.ENOSPC),
                     (lambda: h.trim(512, SIZE), errno.EINVAL)):
        try:
            fn()
            raise AssertionError('no error')
        except nbd.Error as e:
            assert e.errnum == want, (e.errnum, want)
    assert len(h.pread(512, 0)) == 512
    h.shutdown()


def run_row(tools, fn):
    for tool in tools:
        if not shutil.which(tool):
            raise Skip(tool + ' is not installed')
    fn()


def main():
    if not shutil.which('qemu-img'):
        print('1..0 # SKIP qemu-img is not installed')
        return 77
    print('1..%d' % (len(ROWS) + 1), flush=True)
    server = start()
    failed = 0
    for i, (text, tools, fn) in enumerate(ROWS, 1):
        try:
            run_row(tools, fn)
            assert server.poll() is None, 'the daemon died'
            print('ok %d %s' % (i, text), flush=True)
        except Skip as e:
            print('ok %d %s # SKIP %s' % (i, text, e), flush=True)
        except Exception as e:  # pylint: disable=broad-except
            failed += 1
            print('not ok %d %s\n# %s' % (i, text, str(e).replace('\n',
                                                                  '\n# ')),
                  flush=True)
    server.send_signal(signal.SIGTERM)
    ok = server.wait() == 0 and not os.path.exists(SOCK)
    print('%s %d ends on SIGTERM and removes its socket'
          % ('ok' if ok else 'not ok', len(ROWS) + 1))
    shutil.rmtree(DIR, ignore_errors=True)
    return 1 if failed or not ok else 0


if __name__ == '__main__':
    sys.exit(main())
