# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rows of bench/run: each yields cases, a case names its contestants.

'sluiced' and 'qemu' (qemu-storage-daemon) get the same options and files; any
other contestant is a yardstick: what the machine, or the best tool for that
one thing, does.  QEMU's NBD server is never put in an iothread: version
7.2 aborts when a client of such a server leaves.
"""
import os
import random
import select
import shutil
import time

from harness import (GIB, KIB, MIB, TIB, Missing, Process, Sample, fio_nbd,
                     http_options, image_options, memory_copy_rate, nbd_options, nbd_uri,
                     need, overlay_options, raw_options, rbd_options, remove, run,
                     s3_options, timed, far_target_options, target_options)
from ceph import Ceph    # harness has set the path
from sluiced import Skip
from tlsfiles import Authority

import longchain  # in tests/lib, where harness looks  pylint: disable=wrong-import-order

ROWS = []
# QEMU copies every hole as zeroes into QED, 512 KiB at a time.
QEMU_SPARSE_MAX = {True: 1 * GIB, False: 10 * GIB}


class Case:
    """goal: wanted ratio sluiced/qemu; yard: (contestant, wanted ratio).
    better: 'high' or 'low'; ratios are "times better" either way."""

    def __init__(self, label, unit, contestants, better='high', goal=None,
                 yard=None, limit=None):
        self.label = label
        self.unit = unit
        self.contestants = contestants
        self.better = better
        self.goal = goal
        self.yard = yard
        self.limit = limit    # the most (unit) that sluiced should take


def row(name, text):
    def add(fn):
        ROWS.append((name, text, fn))
        return fn
    return add


def both(measure, *args, **kw):
    """The two daemons on the same measurement."""
    return {who: (lambda who=who: measure(who, *args, **kw))
            for who in ('qemu', 'sluiced')}


def null_server(ctx, depth):
    """Reads from a server that has all in memory: what the client can."""
    need('nbdkit')
    sock = ctx.path('null')
    remove(sock)
    with Process([shutil.which('nbdkit'), '-f', '-U', sock, 'memory', '256M'],
                 ctx.dir) as p:
        p.wait_socket(sock)
        return Sample(fio_nbd(nbd_uri(sock), 'randread', 1 if ctx.quick else 2,
                              depth)['iops'])


# --- the machine ---

@row('machine', 'limits of this machine')
def machine(ctx):
    size = (256 if ctx.quick else 1024) * MIB
    target = ctx.path('limit')

    def dd(*args):
        os.sync()
        took, cpu = timed('dd', 'if=/dev/zero', 'of=' + target, 'bs=4M',
                          'count=%d' % (size // (4 * MIB)), *args)
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    yield Case('write a new file, direct I/O', 'MiB/s',
               {'dd': lambda: dd('oflag=direct', 'conv=fsync')})
    yield Case('write a new file, cached, then sync', 'MiB/s',
               {'dd': lambda: dd('conv=fsync')})
    yield Case('copy memory', 'MiB/s',
               {'memcpy': lambda: Sample(memory_copy_rate())})
    for depth in (32, 1):
        yield Case('NBD server on memory, depth %d' % depth, 'IOPS',
                   {'nbdkit': lambda depth=depth: null_server(ctx, depth)})


# --- streams ---

def stream_sample(d, size, seconds):
    return Sample(size / MIB / seconds, d.cpu() * GIB / size, d.rss(),
                  seconds=seconds)


def stream_once(ctx, who, base_options, size, folder=None, base=None,
                direct=False, fmt='qed'):
    """Stream all of a base into a new overlay."""
    top = ctx.overlay(base, size, folder, fmt)
    try:
        os.sync()
        with ctx.daemon(who, *base_options,
                        *overlay_options(top, 'base', direct=direct,
                                         fmt=fmt)) as d:
            return stream_sample(d, size, d.stream('top'))
    finally:
        remove(top)


def stream_local_cases(ctx, fmt):
    size = (256 if ctx.quick else 1024) * MIB
    base = ctx.base(size)

    def copy(*how):
        os.sync()
        target = ctx.path('copy')
        took, cpu = timed('dd', 'if=' + base, 'of=' + target, 'bs=1M', *how)
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    def cp():
        os.sync()
        target = ctx.path('copy')
        took, cpu = timed('sh', '-c', 'cp "$1" "$2" && sync -d "$2"', 'cp',
                          base, target)
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    def measure(who, direct):
        return stream_once(ctx, who, raw_options(base), size, base=base,
                           direct=direct, fmt=fmt)

    yield Case('overlay with direct I/O', 'MiB/s',
               dict(both(measure, True),
                    **{'dd direct': lambda: copy('oflag=direct')}),
               goal=3, yard=('dd direct', 0.8))
    yield Case('overlay cached', 'MiB/s',
               dict(both(measure, False), **{'cp+sync': cp}),
               yard=('cp+sync', 0.8))


@row('stream-local', 'stream a local base in the page cache into QED')
def stream_local(ctx):
    yield from stream_local_cases(ctx, 'qed')


@row('stream-qcow2', 'stream local bases into qcow2')
def stream_qcow2(ctx):
    yield from stream_local_cases(ctx, 'qcow2')
    size = (128 if ctx.quick else 512) * MIB
    text = ctx.text_base(size)
    for fmt, label, args in (('qcow2', 'from qcow2', ()),
                             ('qcow2', 'from compressed qcow2', ('-c',))):
        image = ctx.converted(text, fmt, *args)
        yield Case(label + ', overlay with direct I/O', 'MiB/s',
                   both(lambda who, i=image, f=fmt: stream_once(
                       ctx, who, image_options(i, f), size, base=text,
                       direct=True, fmt='qcow2')), goal=3)


@row('stream-far', 'stream a base that is far away (NBD)')
def stream_far(ctx):
    size = (128 if ctx.quick else 512) * MIB
    goals = {2: 5, 10: 15, 50: 60, 200: None}

    def measure(who, rtt):
        # QEMU's rate does not depend on the size, the time that it takes does.
        n = size if who == 'sluiced' else max(4, 128 // rtt) * MIB
        base = ctx.base(n)
        with ctx.far(base, rtt) as far:
            return stream_once(ctx, who, nbd_options(far.socket), n,
                               base=base)

    def nbdcopy(rtt):
        need('nbdcopy')
        target = ctx.path('copy')
        with ctx.far(ctx.base(size), rtt) as far:
            os.sync()
            took, cpu = timed('nbdcopy', '--requests=64', '--flush',
                              nbd_uri(far.socket), target)
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    for rtt in (2, 10, 50) if ctx.quick else (2, 10, 50, 200):
        yield Case('%d ms away' % rtt, 'MiB/s',
                   dict(both(measure, rtt),
                        **{'nbdcopy': lambda rtt=rtt: nbdcopy(rtt)}),
                   goal=goals[rtt], yard=('nbdcopy', 0.9))


def curl_sample(ctx, rtt, size, path='/base', lines=()):
    """What curl makes of 16 parts at a time."""
    need('curl')
    folder, part = ctx.path('parts'), 4 * MIB
    os.makedirs(folder)
    with ctx.far_web(ctx.base(size), rtt) as far:
        lines = ['parallel', 'parallel-max = 16', 'no-progress-meter', *lines]
        for off in range(0, size, part):
            lines += ['next' if off else '',
                      'url = "%s%s"' % (far.endpoint, path),
                      'range = %d-%d' % (off, off + part - 1),
                      'output = "%s/%d"' % (folder, off)]
        with open(folder + '/config', 'w', encoding='ascii') as f:
            f.write('\n'.join(lines))
        took, cpu = timed('sh', '-c', 'curl -K "$1"/config && sync', 'sh',
                          folder)
    shutil.rmtree(folder)
    return Sample(size / MIB / took, cpu * GIB / size)


@row('stream-http', 'stream a base that is far away (HTTP)')
def stream_http(ctx):
    size = (128 if ctx.quick else 512) * MIB

    def measure(who, rtt):
        n = size if who == 'sluiced' else max(4, 128 // rtt) * MIB
        base = ctx.base(n)
        with ctx.far_web(base, rtt) as far:
            return stream_once(ctx, who, http_options(far.url), n, base=base)

    for rtt, goal in ((2, 5), (10, 15), (50, 60)):
        yield Case('%d ms away' % rtt, 'MiB/s',
                   dict(both(measure, rtt),
                        **{'curl -Z': lambda rtt=rtt: curl_sample(ctx, rtt,
                                                                  size)}),
                   goal=goal, yard=('curl -Z', 0.9))


@row('stream-s3', 'stream an object that is far away (S3; QEMU has none)')
def stream_s3(ctx):
    size = (128 if ctx.quick else 512) * MIB

    def measure(rtt):
        base = ctx.base(size)
        with ctx.far_web(base, rtt) as far:
            return stream_once(ctx, 'sluiced', s3_options(far.endpoint), size,
                               base=base)

    def curl(rtt):
        return curl_sample(ctx, rtt, size, '/master/base', [
            'aws-sigv4 = "aws:amz:us-east-1:s3"', 'user = "BENCH:bench"'])

    for rtt in (2, 10, 50):
        yield Case('%d ms away' % rtt, 'MiB/s',
                   {'sluiced': lambda rtt=rtt: measure(rtt),
                    'curl -Z': lambda rtt=rtt: curl(rtt)},
                   yard=('curl -Z', 0.9))


@row('stream-rbd', 'stream an image in Ceph, on this machine, into QED')
def stream_rbd(ctx):
    size = (64 if ctx.quick else 256) * MIB
    base = ctx.base(size)
    try:
        ceph = Ceph(ctx.dir, pool='rbd')
    except Skip as e:
        raise Missing(str(e)) from None
    ctx.closers.append(ceph.stop)
    ceph.run('rbd', 'import', base, 'base')
    ceph.run('rbd', 'snap', 'create', 'base@s')

    def export():
        os.sync()
        target = ctx.path('export')
        os.environ['CEPH_CONF'] = ceph.conf
        took, cpu = timed('sh', '-c', 'rbd export --no-progress base@s "$1" '
                          '&& sync -d "$1"', 'rbd', target)
        del os.environ['CEPH_CONF']
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    yield Case('the whole', 'MiB/s',
               dict(both(lambda who: stream_once(
                   ctx, who, rbd_options(ceph.conf, 'base', 's'), size,
                   base=base)), **{'rbd export': export}),
               goal=1, yard=('rbd export', 0.9))


def mount_loop(ctx, kind, size):
    """A new file system on a file; its folder."""
    need('mkfs.' + kind, 'mount')
    image, folder = ctx.path(kind + '.img'), ctx.path(kind)
    if os.path.ismount(folder):
        return folder
    if os.geteuid() != 0:
        raise Missing('mounting needs root')
    with open(image, 'wb') as f:
        f.truncate(size)
    os.mkdir(folder)
    try:
        run('mkfs.' + kind, '-q', image)
        run('mount', '-o', 'loop', image, folder)
    except RuntimeError as e:
        raise Missing('no %s: %s' % (kind, e)) from None
    ctx.closers.append(lambda: run('umount', folder))
    return folder


@row('stream-clone', 'stream where the file system shares extents')
def stream_clone(ctx):
    size = (256 if ctx.quick else 1024) * MIB

    def measure(who, folder, base):
        s = stream_once(ctx, who, raw_options(base), size, folder, base)
        s.value = s.extra['seconds']
        return s

    def cp(folder, base):
        target = os.path.join(folder, 'copy')
        took, _ = timed('sh', '-c', 'cp --reflink=always "$1" "$2" && '
                        'sync -d "$2"', 'cp', base, target)
        remove(target)
        return Sample(took)

    for kind in ('xfs', 'btrfs'):
        folder = mount_loop(ctx, kind, 4 * GIB)
        base = ctx.base(size, folder)
        yield Case('%s, %d MiB' % (kind, size // MIB), 's',
                   dict(both(measure, folder, base),
                        **{'cp --reflink': lambda f=folder, b=base: cp(f, b)}),
                   better='low', limit=0.1)


@row('stream-sparse', 'stream 16 MiB of data in a disk of any size')
def stream_sparse(ctx):
    def measure(who, virtual):
        if who == 'qemu' and virtual > QEMU_SPARSE_MAX[ctx.quick]:
            raise Missing('takes minutes to hours')
        base = ctx.sparse(virtual, 16 * MIB)
        top = ctx.overlay(base, virtual)
        try:
            os.sync()
            with ctx.daemon(who, *raw_options(base),
                            *overlay_options(top, 'base')) as d:
                return Sample(d.stream('top'), d.cpu(), d.rss())
        finally:
            remove(top)

    # The largest file of ext4 is a little shorter than 16 TiB.
    big = 1 * TIB if ctx.quick else 16 * TIB - 64 * KIB
    for virtual, name in ((GIB, '1 GiB'), (10 * GIB, '10 GiB'),
                          (big, '1 TiB' if ctx.quick else '16 TiB')):
        yield Case(name, 's', both(measure, virtual), better='low')


# --- backups ---

def backup_once(ctx, who, source_options, size, fmt, direct, **args):
    """Copy all of node "base" to a new image."""
    target = ctx.path('target')
    run('qemu-img', 'create', '-q', '-f', fmt, target, str(size))
    os.sync()
    try:
        with ctx.daemon(who, *source_options,
                        *target_options(target, fmt, direct=direct)) as d:
            return stream_sample(d, size, d.backup('base', 'target', **args))
    finally:
        remove(target)


@row('backup', 'back up a disk, here and to a target that is far away')
def backup(ctx):
    size = (256 if ctx.quick else 1024) * MIB
    base = ctx.base(size)
    for fmt in ('raw', 'qcow2'):
        yield Case('to %s with direct I/O' % fmt, 'MiB/s',
                   both(lambda who, f=fmt: backup_once(
                       ctx, who, raw_options(base), size, f, True)), goal=1.5)
    small = (64 if ctx.quick else 256) * MIB
    text = ctx.text_base(small)
    yield Case('compressed', 'MiB/s', both(lambda who: backup_once(
        ctx, who, raw_options(text), small, 'qcow2', False, compress=True)),
        goal=1.5)

    def far(who):
        target = ctx.path('far-target')
        with open(target, 'wb') as f:
            f.truncate(small)
        with ctx.far(target, 10, writable=True) as there:
            with ctx.daemon(who, *raw_options(ctx.base(small)),
                            *far_target_options(there.socket)) as d:
                sample = stream_sample(d, small, d.backup('base', 'target'))
        remove(target)
        return sample

    yield Case('10 ms away', 'MiB/s', both(far), goal=1.5)



# --- guests ---

def nbd_sample(ctx, who, options, node, rw, depth, writable, **more):
    with ctx.daemon(who, *options) as d:
        got = fio_nbd(d.serve(node, writable), rw, 1.5 if ctx.quick else 3,
                      depth, **more)
        return Sample(got['iops'], d.cpu() / max(got['iops'], 1), d.rss(),
                      p99_us=got['p99_us'])


@row('nbd-read', 'guest reads, 4 KiB, random, over NBD')
def nbd_read(ctx):
    base = ctx.base(256 * MIB)

    def measure(who, depth, jobs=1):
        return nbd_sample(ctx, who, raw_options(base), 'base', 'randread',
                          depth, False, numjobs=jobs)

    for depth, goal in ((32, 1.8), (1, 1.5)):
        yield Case('depth %d' % depth, 'IOPS',
                   dict(both(measure, depth),
                        **{'nbdkit memory':
                           lambda depth=depth: null_server(ctx, depth)}),
                   goal=goal)
    for jobs in (4, 16):
        yield Case('depth 8, %d connections' % jobs, 'IOPS',
                   both(measure, 8, jobs))


# --- TLS ---

def tls_folders(ctx):
    """Folders with certificates of a server and of a client.  With keys
    (PSK) programs would agree on different ciphers."""
    ca = Authority(ctx.dir, 'ca')
    return (ca.folder('server', 'localhost', names=['DNS:localhost']),
            ca.folder('client', 'bench'))


def tls_uri(folder, sock, name=''):
    return ('nbds+unix:///%s?socket=%s&tls-certificates=%s&'
            'tls-verify-peer=false' % (name, sock, folder))


def tls_object(end, folder):
    return 'tls-creds-x509,id=t,dir=%s,endpoint=%s' % (folder, end)


@row('nbd-tls', 'NBD with and without TLS')
def nbd_tls(ctx):
    need('nbdcopy', 'nbdkit', 'qemu-img', 'openssl')
    size = (256 if ctx.quick else 1024) * MIB
    base = ctx.base(size)
    server_dir, client_dir = tls_folders(ctx)

    def pull(uri, server):
        """Read all by four connections; the server's own CPU."""
        before = server.cpu()
        took, _ = timed('nbdcopy', '--connections=4', '--threads=4', uri,
                        'null:')
        return Sample(size / MIB / took,
                      (server.cpu() - before) * GIB / size)

    def daemon(who, tls):
        more = (['--object', tls_object('server', server_dir)] if tls else [])
        with ctx.daemon(who, *more, *raw_options(base)) as d:
            uri = d.serve('base', False, **({'tls_creds': 't'} if tls else {}))
            return pull(tls_uri(client_dir, d.nbd, 'base') if tls else uri, d)

    def nbdkit(sock, tls):
        remove(sock)
        more = (['--tls=require', '--tls-verify-peer',
                 '--tls-certificates=' + server_dir] if tls
                else [])
        p = Process([shutil.which('nbdkit'), '-f', '-r', '-U', sock, *more,
                     'file', base], ctx.dir)
        p.wait_socket(sock)
        return p

    def yardstick(tls):
        sock = ctx.path('kit')
        with nbdkit(sock, tls) as p:
            return pull(tls_uri(client_dir, sock) if tls else nbd_uri(sock), p)

    def client(who, tls):
        """Copy a disk of nbdkit's to nowhere."""
        sock = ctx.path('kit')
        opts = 'driver=nbd,path=' + sock + (',tls-creds=t,tls-hostname=localhost'
                                         if tls else '')
        more = ['--object', tls_object('client', client_dir)] if tls else []
        with nbdkit(sock, tls):
            if who == 'nbdcopy':
                took, cpu = timed('nbdcopy', tls_uri(client_dir, sock) if tls
                                  else nbd_uri(sock), 'null:')
            else:
                tool = (os.path.join(ctx.build, 'sluice') if who == 'sluiced'
                        else 'qemu-img')
                took, cpu = timed(tool, 'convert', '-n', *more, '-m', '16',
                                  '-W', '--image-opts', '--target-image-opts',
                                  opts, 'driver=null-co,size=%d' % size)
        return Sample(size / MIB / took, cpu * GIB / size)

    for tls, word in ((False, 'plain'), (True, 'TLS')):
        yield Case('server, %s' % word, 'MiB/s',
                   dict(both(daemon, tls),
                        nbdkit=lambda tls=tls: yardstick(tls)))
    for tls, word in ((False, 'plain'), (True, 'TLS')):
        yield Case('client, %s' % word, 'MiB/s',
                   dict(both(client, tls),
                        nbdcopy=lambda tls=tls: client('nbdcopy', tls)),
                   yard=('nbdcopy', 0.9))


@row('first-write', 'guest writes, 4 KiB, each to a new cluster')
def first_write(ctx):
    base = ctx.base(1024 * MIB if not ctx.quick else 256 * MIB)

    def measure(who, over, fmt):
        n = os.path.getsize(base) * (1 if over or who == 'qemu' else 4)
        top = ctx.overlay(base if over else None, n, fmt=fmt)
        options = raw_options(base) if over else []
        options += overlay_options(top, 'base' if over else None, fmt=fmt)
        try:
            os.sync()
            with ctx.daemon(who, *options) as d:
                uri = d.serve('top')
                # One write a cluster, then on by 60 KiB: fio cannot draw
                # aligned offsets at random without drawing some twice.
                got = fio_nbd(uri, 'write:60k', 20, 32, n, time_based=0,
                              io_size=n // 16)
                return Sample(got['iops'], d.cpu() / max(got['iops'], 1),
                              d.rss(), p99_us=got['p99_us'])
        finally:
            remove(top)

    yield Case('QED', 'IOPS', both(measure, False, 'qed'), goal=10)
    yield Case('QED over a base', 'IOPS', both(measure, True, 'qed'), goal=10)
    yield Case('qcow2', 'IOPS', both(measure, False, 'qcow2'), goal=3)
    yield Case('qcow2 over a base', 'IOPS', both(measure, True, 'qcow2'),
               goal=2)


@row('first-write-far', 'the same over a base 50 ms away, 500 a second: what a write takes')
def first_write_far(ctx):
    base = ctx.base(256 * MIB)
    writes = 512 if ctx.quick else 2048

    def measure(who, fmt):
        n = os.path.getsize(base)
        top = ctx.overlay(base, n, fmt=fmt)
        try:
            with ctx.far(base, 50) as far:
                with ctx.daemon(who, *nbd_options(far.socket),
                                *overlay_options(top, 'base', fmt=fmt)) as d:
                    # In the long run each write takes a cluster of the base.
                    got = fio_nbd(d.serve('top'), 'write:60k', 20, 32, n,
                                  time_based=0, io_size=4 * KIB * writes,
                                  rate_iops=500)
                    return Sample(got['p50_us'] / 1000, rss=d.rss(),
                                  p99_ms=got['p99_us'] / 1000,
                                  iops=got['iops'])
        finally:
            remove(top)

    for fmt, name in (('qed', 'QED'), ('qcow2', 'qcow2')):
        yield Case('%s: median' % name, 'ms', both(measure, fmt), better='low',
                   goal=100, limit=1)


@row('qcow2-io', 'guest I/O on a qcow2 image that holds all, 4 KiB, random')
def qcow2_io(ctx):
    image = ctx.converted(ctx.base(256 * MIB), 'qcow2')

    def measure(who, rw, depth):
        options = overlay_options(image, None, fmt='qcow2')
        return nbd_sample(ctx, who, options, 'top', rw, depth, True)

    for rw, name in (('randread', 'reads'), ('randwrite', 'writes')):
        for depth in (32, 1):
            yield Case('%s, depth %d' % (name, depth), 'IOPS',
                       both(measure, rw, depth),
                       goal=1.8 if (rw, depth) == ('randread', 32) else None)


@row('convert', 'sluice convert against qemu-img convert -m 16 -W')
def convert(ctx):
    need('qemu-img')
    size = (256 if ctx.quick else 1024) * MIB
    raw = ctx.text_base(size)

    def measure(who, source, *words):
        target = ctx.path('converted')
        tool = ([os.path.join(ctx.build, 'sluice')] if who == 'sluiced'
                else ['qemu-img'])
        os.sync()
        took, cpu = timed(*tool, 'convert', '-m', '16', '-W', *words, source,
                          target)
        start = time.monotonic()
        run('sync', '-d', target)
        took += time.monotonic() - start
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    def cp(source):
        target = ctx.path('converted')
        os.sync()
        took, cpu = timed('sh', '-c', 'cp --reflink=never "$1" "$2" && '
                          'sync -d "$2"', 'cp', source, target)
        remove(target)
        return Sample(size / MIB / took, cpu * GIB / size)

    for src, dst, more in (('raw', 'qcow2', ()), ('qcow2', 'raw', ()),
                           ('raw', 'qcow2', ('-c',))):
        source = raw if src == 'raw' else ctx.converted(raw, src)
        who = {who: (lambda who=who, s=source, f=src, t=dst, m=more:
                     measure(who, s, '-f', f, '-O', t, *m))
               for who in ('qemu', 'sluiced')}
        if more:    # the processor's work
            yield Case('%s to %s, compressed' % (src, dst), 'MiB/s', who)
        else:       # the goal is 1.5, or what the disk allows
            who['cp+sync'] = lambda s=source: cp(s)
            yield Case('%s to %s' % (src, dst), 'MiB/s', who, goal=1.5,
                       yard=('cp+sync', 0.8))


@row('guest-stream', 'a guest while a stream runs')
def guest_stream(ctx):
    size = (256 if ctx.quick else 1024) * MIB
    base = ctx.base(size)
    state = {}

    def guest(handle, until, rng):
        """Read at random until until() says so; the latencies, s."""
        took = []
        while len(took) % 16 or not until():
            at = rng.randrange(size // (4 * KIB)) * 4 * KIB
            start = time.perf_counter()
            handle.pread(4 * KIB, at)
            took.append(time.perf_counter() - start)
        return took

    def p99(times):
        return sorted(times)[len(times) * 99 // 100] * 1e6

    def measure(who):
        try:
            import nbd
        except ImportError:
            raise Missing('libnbd for Python is not installed') from None
        rng = random.Random(7)
        top = ctx.overlay(base, size)
        try:
            os.sync()
            with ctx.daemon(who, *raw_options(base),
                            *overlay_options(top, 'base', direct=True)) as d:
                h = nbd.NBD()
                h.connect_uri(d.serve('top'))
                end = time.monotonic() + 1
                idle = p99(guest(h, lambda: time.monotonic() > end, rng))
                start = time.monotonic()
                d.qmp.cmd('block-stream', device='top', job_id='j')
                busy = p99(guest(h, lambda: ended(d), rng))
                d.wait_stream()
                took = time.monotonic() - start
                # Before, all came from a base in the page cache; by and by
                # the reads go to the overlay, on the disk.
                end = time.monotonic() + 1
                idle_after = p99(guest(h, lambda: time.monotonic() > end, rng))
                h.shutdown()
            alone = stream_once(ctx, who, raw_options(base), size, base=base,
                                direct=True).extra['seconds']
            state[who] = Sample(busy, rss=None, idle_us=idle,
                                idle_after_us=idle_after,
                                ratio=busy / max(idle, idle_after),
                                speed=size / MIB / took,
                                kept=alone / took)
            return state[who]
        finally:
            remove(top)

    def ended(d):
        """Has the stream's last event come?"""
        while (b'\n' in d.qmp.buf or
               select.select([d.qmp.sock], [], [], 0)[0]):
            d.qmp.events.append(d.qmp.read_message())
        return any(e['event'] == 'BLOCK_JOB_COMPLETED' for e in d.qmp.events)

    def again(who, key):
        if who not in state:
            raise Missing('not measured')
        return Sample(state[who].extra[key])

    yield Case('p99 of 4 KiB reads during the stream', 'us', both(measure),
               better='low')
    yield Case('of the same reads, idle, base cached', 'us',
               both(again, 'idle_us'), better='low')
    yield Case('of the same reads, idle, overlay', 'us',
               both(again, 'idle_after_us'), better='low')
    yield Case('during the stream, against idle', 'times',
               both(again, 'ratio'), better='low', limit=1.5)
    yield Case('speed of that stream', 'MiB/s', both(again, 'speed'))
    yield Case('of what it does alone', 'part', both(again, 'kept'))


@row('guest-far', 'a guest while a stream comes from 100 ms away')
def guest_far(ctx):
    rtt, size = 100, (256 if ctx.quick else 1024) * MIB
    here = 16 * MIB     # of the disk is in the overlay
    reads = 20 if ctx.quick else 100
    base, state = ctx.base(size), {}

    def p99(times):
        return sorted(times)[len(times) * 99 // 100] * 1e3

    def took(handle, at):
        start = time.perf_counter()
        handle.pread(4 * KIB, at)
        return time.perf_counter() - start

    def guest(d):
        """Local reads in idle; then, with a stream, between remote ones."""
        try:
            import nbd
        except ImportError:
            raise Missing('libnbd for Python is not installed') from None
        rng, h = random.Random(7), nbd.NBD()
        h.connect_uri(d.serve('top'))
        for at in range(0, here, MIB):
            h.pwrite(os.urandom(MIB), at)
        h.flush()

        def local():
            return took(h, rng.randrange(here // (4 * KIB)) * 4 * KIB)
        idle = [local() for _ in range(20 * reads)]
        # From behind, where the stream is last.
        places = rng.sample(range(size * 3 // 4, size, 64 * KIB), reads)
        d.qmp.cmd('block-stream', device='top', job_id='j')
        there, busy = [], []
        for at in places:
            there.append(took(h, at))
            busy += [local() for _ in range(20)]
        h.shutdown()
        return Sample(p99(there), rss=None, busy=p99(busy),
                      ratio=p99(busy) / p99(idle))

    def measure(who, name, far, options):
        top = ctx.overlay(base, size)
        try:
            with far() as there:
                with ctx.daemon(who, *options(there),
                                *overlay_options(top, 'base',
                                                 direct=True)) as d:
                    state[who, name] = guest(d)
            return state[who, name]
        finally:
            remove(top)

    def ratio(who, name):
        if (who, name) not in state:
            raise Missing('not measured')
        return Sample(state[who, name].extra['ratio'])

    for name, far, options in (
            ('NBD', ctx.far, lambda f: nbd_options(f.socket)),
            ('HTTP', ctx.far_web, lambda f: http_options(f.url)),
            ('S3', ctx.far_web, lambda f: s3_options(f.endpoint))):
        def pair(fn, *args, name=name):
            return {w: (lambda w=w: fn(w, name, *args))
                    for w in ('qemu', 'sluiced') if (w, name) != ('qemu', 'S3')}
        yield Case('%s: p99 of reads from there' % name, 'ms',
                   pair(measure, lambda far=far: far(base, rtt), options),
                   better='low', limit=2.1 * rtt)
        yield Case('%s: p99 of local ones, against idle' % name, 'times',
                   pair(ratio), better='low', limit=2)


@row('guest-target', 'what a guest of depth 4 feels of a stream, all direct')
def guest_target(ctx):
    size = (1 if ctx.quick else 4) * GIB
    seconds = 2 if ctx.quick else 4
    base = ctx.base(size)
    rates, idles = [], []

    def measure(who, **how):
        """Seconds of random reads of 4 KiB while the stream goes on, after one
        that lets both come to rest: p99, and the stream's MiB/s meanwhile."""
        top = ctx.overlay(base, size)
        try:
            os.sync()
            with ctx.daemon(who, *raw_options(base, direct=True),
                            *overlay_options(top, 'base', direct=True)) as d:
                uri = d.serve('top')
                idle = fio_nbd(uri, 'randread', 1, 4, size)['p99_us']
                d.qmp.cmd('block-stream', device='top', job_id='j', **how)
                fio_nbd(uri, 'randread', 1, 4, size)
                before, start = stream_offset(d), time.monotonic()
                busy = fio_nbd(uri, 'randread', seconds, 4, size)['p99_us']
                took = time.monotonic() - start
                done = stream_offset(d) - before
                return Sample(busy, rss=None, idle_us=idle,
                              speed=done / MIB / took, ratio=busy / idle)
        finally:
            remove(top)

    def stream_offset(d):
        jobs = d.qmp.cmd('query-block-jobs')
        return jobs[0]['offset'] if jobs else size

    def plain(who):
        got = measure(who)
        if who == 'qemu':
            rates.append(got.extra['speed'])
        idles.append(got.extra['idle_us'])
        return got

    def held(who):
        """Both at the rate that QEMU has of itself."""
        if not rates:
            raise Missing('the rate of QEMU is not known')
        how = {'latency_target': 'off'} if who == 'sluiced' else {}
        return measure(who, speed=int(sorted(rates)[len(rates) // 2] * MIB),
                       **how)

    def target(times):
        """p99 against a target; and the rate, against the best fixed one of a
        few that keeps it."""
        if not idles:
            raise Missing('the idle value is not known')
        ms = sorted(idles)[len(idles) // 2] * times / 1000
        got = measure('sluiced', latency_target='%.3fms' % ms)
        best = 0
        for rate in (32, 64, 128, 256, 512):
            fixed = measure('sluiced', latency_target='off', speed=rate * MIB)
            if fixed.value <= ms * 1000:
                best = max(best, fixed.extra['speed'])
        return Sample(got.value / (ms * 1000), rss=None, best=best,
                      speed=got.extra['speed'])

    state = {}

    def shown(key, fn, what, *args):
        def get():
            if what == 'value':
                state[key] = fn(*args)
                return state[key]
            if key not in state:
                raise Missing('not measured')
            return Sample(state[key].extra[what])
        return get

    def pair(name, fn, what):
        return {who: shown((name, who), fn, what, who)
                for who in ('qemu', 'sluiced')}

    for name, fn, goal in (('as they come', plain, 1),
                           ("at QEMU's own rate", held, 1.5)):
        yield Case('p99, %s' % name, 'us', pair(name, fn, 'value'),
                   better='low', goal=goal)
        yield Case('... against idle', 'times', pair(name, fn, 'ratio'),
                   better='low')
        yield Case('... rate of the stream', 'MiB/s', pair(name, fn, 'speed'))
    for times in (2, 4):
        yield Case('p99, target %d x idle, of that target' % times, 'times',
                   {'sluiced': shown(times, target, 'value', times)},
                   better='low', limit=1.2)
        yield Case('... rate of the stream', 'MiB/s',
                   {'sluiced': shown(times, target, 'speed'),
                    'best fixed': shown(times, target, 'best')},
                   yard=('best fixed', 0.8))


# --- scaling ---

@row('scale-devices', 'streams of many devices at once')
def scale_devices(ctx):
    each = 64 * MIB
    base = ctx.base(each)

    def measure(who, count):
        options, tops = [], []
        for i in range(count):
            tops.append(ctx.overlay(base, each))
            options += raw_options(base, 'base%d' % i)
            options += overlay_options(tops[-1], 'base%d' % i, 'top%d' % i)
        try:
            os.sync()
            with ctx.daemon(who, *options) as d:
                start = time.monotonic()
                for i in range(count):
                    d.qmp.cmd('block-stream', device='top%d' % i,
                              job_id='j%d' % i)
                for i in range(count):
                    d.wait_stream('j%d' % i)
                return stream_sample(d, each * count,
                                     time.monotonic() - start)
        finally:
            remove(*tops)

    for count in (1, 4) if ctx.quick else (1, 4, 16, 64):
        yield Case('%d' % count, 'MiB/s', both(measure, count))


def make_chain(ctx, base, depth):
    """@depth empty overlays over @base: options and files; the top is 'top'."""
    options, files = raw_options(base, 'n0'), []
    for i in range(1, depth + 1):
        path = ctx.overlay(base, os.path.getsize(base))
        files.append(path)
        options += overlay_options(path, 'n%d' % (i - 1),
                                   'top' if i == depth else 'n%d' % i)
    return options, files


@row('scale-chain', 'chains of overlays, all data at the bottom')
def scale_chain(ctx):
    size = 128 * MIB
    base = ctx.base(size)

    def measure(who, depth, what):
        options, files = make_chain(ctx, base, depth)
        try:
            os.sync()
            if what == 'read':
                return nbd_sample(ctx, who, options, 'top', 'randread', 16,
                                  True)
            with ctx.daemon(who, *options) as d:
                return stream_sample(d, size, d.stream('top'))
        finally:
            remove(*files)

    for depth in (1, 16) if ctx.quick else (1, 4, 16, 63):
        yield Case('stream, %d deep' % depth, 'MiB/s',
                   both(measure, depth, 'stream'))
        yield Case('random reads, %d deep' % depth, 'IOPS',
                   both(measure, depth, 'read'))


@row('long-chain', 'random reads, 4 KiB, over NBD, after the first touch')
def long_chain(ctx):
    images, size = (100 if ctx.quick else 1000), 64 * MIB
    folder = ctx.path('chain')
    os.makedirs(folder, exist_ok=True)
    longchain.make(folder, images, size, random.Random(1))
    top = os.path.join(folder, longchain.name_of(images - 1))
    flat = ctx.path('flat')
    run('qemu-img', 'convert', '-f', 'qcow2', '-O', 'qcow2', top, flat)

    def measure(path, depth):
        with ctx.daemon('sluiced', *image_options(path, 'qcow2', 'top')) as d:
            uri = d.serve('top', False)
            fio_nbd(uri, 'read', 3, 4, size=size, bs='64k')  # the first touch
            before = d.cpu()
            got = fio_nbd(uri, 'randread', 1.5 if ctx.quick else 3, depth)
            return Sample(got['iops'], (d.cpu() - before) / got['iops'],
                          d.rss(), p99_us=got['p99_us'])

    try:
        for depth in (1, 32):
            yield Case('%d images, depth %d' % (images, depth), 'IOPS', {
                'sluiced': lambda depth=depth: measure(top, depth),
                'one image': lambda depth=depth: measure(flat, depth)},
                       yard=('one image', 0.9))
    finally:
        remove(flat)
        shutil.rmtree(folder)
