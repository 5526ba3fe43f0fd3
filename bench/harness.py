# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the rows of bench/run stand on: programs that are started and ended by
their own pid, files to measure with, and what a measurement yields.

A measurement is a function of no arguments that returns a Sample.  The runner
calls those of one case in turn, round after round, so that a noise of the
machine meets all of them, and takes medians.
"""
import ctypes
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, 'tests', 'lib'))
from qmp import Qmp, QmpClosed  # noqa: E402 pylint: disable=wrong-import-position

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
START_TIMEOUT = 30
JOB_TIMEOUT = 600
TICKS = os.sysconf('SC_CLK_TCK')


class Missing(Exception):
    """Something that a row needs is not there."""


class Sample:
    """One result. cpu: seconds of CPU of the program measured, by GiB where
    the row moves data; rss: its peak resident memory, bytes; extra: more
    figures by name."""

    def __init__(self, value, cpu=None, rss=None, **extra):
        self.value = value
        self.cpu = cpu
        self.rss = rss
        self.extra = extra


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise Missing('%s is not installed' % tool)


def run(*cmd, timeout=600):
    p = subprocess.run(cmd, capture_output=True, text=True, timeout=timeout,
                       check=False)
    if p.returncode:
        last = (p.stderr or p.stdout).strip().splitlines()[-1:]
        raise RuntimeError('%s: %s' % (' '.join(cmd), ''.join(last)))
    return p.stdout


class Process:
    """A program that runs until close()."""

    def __init__(self, cmd, cwd, log='log'):
        self.log = os.path.join(cwd, log)
        with open(self.log, 'ab') as f:
            self.proc = subprocess.Popen(cmd, cwd=cwd, stdin=subprocess.DEVNULL,
                                         stdout=f, stderr=f)

    def wait_socket(self, path):
        deadline = time.monotonic() + START_TIMEOUT
        while not os.path.exists(path):
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError('no socket %s' % path)
            time.sleep(0.005)

    def check(self):
        if self.proc.poll() is not None:
            with open(self.log, encoding='utf-8', errors='replace') as f:
                raise RuntimeError('%s ended: %s' % (self.proc.args[0],
                                                     f.read()))

    def cpu(self):
        """Seconds of CPU so far, all threads."""
        with open('/proc/%d/stat' % self.proc.pid, encoding='ascii') as f:
            field = f.read().rsplit(')', 1)[1].split()
        return (int(field[11]) + int(field[12])) / TICKS

    def rss(self):
        """Peak resident memory, bytes."""
        with open('/proc/%d/status' % self.proc.pid, encoding='ascii') as f:
            return int(re.search(r'VmHWM:\s+(\d+)', f.read()).group(1)) * KIB

    def close(self):
        if self.proc.poll() is None:
            self.proc.terminate()
            try:
                self.proc.wait(20)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Daemon(Process):
    """sluiced or QEMU: they take the same options."""

    def __init__(self, program, folder, *args):
        self.dir = tempfile.mkdtemp(dir=folder)
        self.socket = os.path.join(self.dir, 'qmp')
        self.nbd = os.path.join(self.dir, 'nbd')
        super().__init__(
            [program, '--chardev', 'socket,id=c,path=%s,server=on,wait=off'
             % self.socket, '--monitor', 'chardev=c'] + list(args), self.dir)
        self.qmp = None
        try:
            self.qmp = self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return Qmp.connect(self.socket)
            except (OSError, QmpClosed):
                self.check()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def serve(self, node, writable=True, **server):
        """Export @node; its address. @server: more of the server's options."""
        self.qmp.cmd('nbd-server-start',
                     addr={'type': 'unix', 'data': {'path': self.nbd}},
                     **server)
        self.qmp.cmd('block-export-add', type='nbd', id='e', node_name=node,
                     name=node, writable=writable)
        return nbd_uri(self.nbd, node)

    def stream(self, device, job='j', **args):
        """Start a stream and wait for its end. Seconds."""
        start = time.monotonic()
        self.qmp.cmd('block-stream', device=device, job_id=job, **args)
        self.wait_stream(job)
        return time.monotonic() - start

    def backup(self, device, target, job='j', **args):
        """The same with a backup."""
        start = time.monotonic()
        self.qmp.cmd('blockdev-backup', device=device, target=target,
                     job_id=job, sync='full', **args)
        self.wait_job(job)
        return time.monotonic() - start

    def wait_stream(self, job='j'):
        self.wait_job(job)

    def wait_job(self, job):
        data = self.qmp.wait_event('BLOCK_JOB_COMPLETED', JOB_TIMEOUT,
                                   device=job)['data']
        if 'error' in data:
            raise RuntimeError('the job failed: %s' % data['error'])

    def close(self):
        if self.qmp:
            self.qmp.close()
        super().close()
        shutil.rmtree(self.dir, ignore_errors=True)


def nbd_uri(path, name=''):
    return 'nbd+unix:///%s?socket=%s' % (name, path)


def file_options(path, direct=False, **more):
    opts = {'driver': 'file', 'filename': path,
            'cache': {'direct': direct, 'no-flush': False}}
    opts.update(more)
    return opts


def overlay_options(path, base, name='top', direct=False, fmt='qed'):
    """--blockdev of an overlay over the open node @base (None: none)."""
    opts = {'driver': fmt, 'node-name': name,
            'file': file_options(path, direct), 'backing': base}
    return ['--blockdev', json.dumps(opts)]


def raw_options(path, name='base', direct=False, read_only=True):
    return ['--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'read-only': read_only,
         'file': file_options(path, direct, **{'read-only': read_only})})]


def image_options(path, fmt, name='base', direct=False):
    """--blockdev of a read-only image that needs no other."""
    return ['--blockdev', json.dumps(
        {'driver': fmt, 'node-name': name, 'read-only': True,
         'file': file_options(path, direct, **{'read-only': True})})]


def nbd_options(path, name='base'):
    return ['--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'read-only': True,
         'file': {'driver': 'nbd', 'read-only': True,
                  'server': {'type': 'unix', 'path': path}}})]


def target_options(path, fmt, name='target', direct=False):
    """--blockdev of an image that a job writes to."""
    return ['--blockdev', json.dumps({'driver': fmt, 'node-name': name,
                                      'file': file_options(path, direct)})]


def far_target_options(path, name='target'):
    return ['--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'file': {
            'driver': 'nbd', 'server': {'type': 'unix', 'path': path}}})]


def http_options(url, name='base'):
    return ['--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'read-only': True,
         'file': {'driver': 'http', 'read-only': True, 'url': url}})]


def s3_options(endpoint, name='base'):
    """With the object that holds the key."""
    return ['--object', 'secret,id=s3-key,data=bench', '--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'read-only': True,
         'file': {'driver': 's3', 'read-only': True, 'endpoint': endpoint,
                  'bucket': 'master', 'key': 'base', 'key-id': 'BENCH',
                  'key-secret': 's3-key'}})]


def rbd_options(conf, image, snapshot, name='base'):
    return ['--blockdev', json.dumps(
        {'driver': 'raw', 'node-name': name, 'read-only': True,
         'file': {'driver': 'rbd', 'read-only': True, 'pool': 'rbd',
                  'image': image, 'snapshot': snapshot, 'conf': conf}})]


class Context:
    """Folder, programs, sizes; remembers the files it made."""

    def __init__(self, args):
        self.build = os.path.abspath(args.build)
        self.quick = args.quick
        self.dir = tempfile.mkdtemp(prefix='sluice-bench-', dir=args.dir)
        self.programs = {
            'sluiced': os.path.abspath(args.sluiced) if args.sluiced
                       else os.path.join(self.build, 'sluiced'),
            'qemu': args.qemu,
        }
        self.bases = {}
        self.closers = []

    def close(self):
        for fn in reversed(self.closers):
            fn()
        shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def daemon(self, who, *args):
        need(self.programs[who])
        return Daemon(self.programs[who], self.dir, *args)

    def base(self, size, folder=None):
        """A raw file of @size random bytes, in the page cache."""
        folder = folder or self.dir
        key = (folder, size)
        if key not in self.bases:
            path = os.path.join(folder, 'base-%d' % size)
            with open(path, 'wb') as f:
                for _ in range(size // MIB):
                    f.write(os.urandom(MIB))
            os.sync()
            self.bases[key] = path
        return self.bases[key]

    def text_base(self, size):
        """A raw file of @size bytes that compress to a third or so."""
        key = ('text', size)
        if key not in self.bases:
            path = self.path('text-%d' % size)
            with open(path, 'wb') as f:
                for _ in range(size // MIB):
                    f.write(b''.join(os.urandom(1024) + bytes(3072)
                                     for _ in range(MIB // (4 * KIB))))
            os.sync()
            self.bases[key] = path
        return self.bases[key]

    def converted(self, source, fmt, *args):
        """@source, raw, as an image of @fmt, made by a neutral hand."""
        key = ('converted', source, fmt) + args
        if key not in self.bases:
            path = '%s.%s%s' % (source, fmt, ''.join(args))
            run('qemu-img', 'convert', '-f', 'raw', '-O', fmt, *args, source,
                path)
            os.sync()
            self.bases[key] = path
        return self.bases[key]

    def sparse(self, virtual, data):
        """A raw file of @virtual bytes, @data of them data, spread evenly."""
        key = ('sparse', virtual, data)
        if key not in self.bases:
            path = self.path('sparse-%d' % virtual)
            count = data // MIB
            with open(path, 'wb') as f:
                f.truncate(virtual)
                for i in range(count):
                    f.seek(virtual // count * i // MIB * MIB)
                    f.write(os.urandom(MIB))
            os.sync()
            self.bases[key] = path
        return self.bases[key]

    def overlay(self, base, size=None, folder=None, fmt='qed'):
        """A new, empty image over @base, made by a neutral hand."""
        fd, path = tempfile.mkstemp(suffix='.' + fmt, dir=folder or self.dir)
        os.close(fd)
        cmd = ['qemu-img', 'create', '-q', '-f', fmt]
        if base:
            cmd += ['-b', base, '-F', 'raw']
        run(*cmd, path, *([str(size)] if size else []))
        return path

    def far(self, path, rtt_ms, writable=False):
        """@path served by nbdkit, @rtt_ms away: a stack of two processes."""
        return FarBase(self, path, rtt_ms, writable)

    def far_web(self, path, rtt_ms, **how):
        """The same, by a web server."""
        return FarWeb(self, path, rtt_ms, **how)


class FarBase:
    def __init__(self, ctx, path, rtt_ms, writable=False):
        need('nbdkit')
        self.dir = tempfile.mkdtemp(dir=ctx.dir)
        near = os.path.join(self.dir, 'near')
        self.socket = os.path.join(self.dir, 'far')
        self.parts = []
        try:
            self._start([shutil.which('nbdkit'), '-f', '-t', '64', '-U', near]
                        + ([] if writable else ['-r']) + ['file', path], near)
            self._start([os.path.join(ctx.build, 'bench', 'delay-proxy'),
                         self.socket, near, str(int(rtt_ms * 1000))],
                        self.socket)
        except BaseException:
            self.close()
            raise

    def _start(self, cmd, socket):
        self.parts.append(Process(cmd, self.dir))
        self.parts[-1].wait_socket(socket)

    def close(self):
        for part in reversed(self.parts):
            part.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


NGINX = '''daemon off; master_process off; pid nginx.pid; error_log stderr;
events { worker_connections 512; }
http { client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t;
  uwsgi_temp_path t; scgi_temp_path t;
  log_format sent '$body_bytes_sent'; access_log %s;
  keepalive_requests 1000000; sendfile on;
  server { listen unix:%s; location ~ ^(/master)?/base$ { alias %s; } } }
'''


class FarWeb(FarBase):
    """The same behind nginx, over TCP; self.url.  Also an object of S3:
    self.endpoint, bucket 'master', key 'base', whoever signs. @counts: sent()
    tells how many bytes of it were sent."""

    def __init__(self, ctx, path, rtt_ms, counts=False):
        need('nginx')
        self.dir = tempfile.mkdtemp(dir=ctx.dir)
        near = os.path.join(self.dir, 'near')
        with open(os.path.join(self.dir, 'nginx.conf'), 'w',
                  encoding='ascii') as f:
            f.write(NGINX % ('sent.log sent' if counts else 'off', near,
                             path))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.endpoint = 'http://127.0.0.1:%d' % port
        self.url = self.endpoint + '/base'
        self.parts = []
        try:
            self._start([shutil.which('nginx'), '-p', self.dir + '/', '-e',
                         'stderr', '-c', self.dir + '/nginx.conf'], near)
            self.parts.append(Process(
                [os.path.join(ctx.build, 'bench', 'delay-proxy'), str(port),
                 near, str(int(rtt_ms * 1000))], self.dir))
            self._wait_port(port)
        except BaseException:
            self.close()
            raise

    def sent(self):
        with open(os.path.join(self.dir, 'sent.log'), encoding='ascii') as f:
            return sum(int(line) for line in f)

    def _wait_port(self, port):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            self.parts[-1].check()
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise RuntimeError('nobody listens on port %d' % port)
            time.sleep(0.005)


def timed(*cmd):
    """Run a tool; (seconds, CPU seconds of it)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    run(*cmd)
    took = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, (after.ru_utime + after.ru_stime -
                  before.ru_utime - before.ru_stime)


def fio_nbd(uri, rw, seconds, depth=32, size=None, **more):
    """4 KiB requests; {'iops', 'p50_us', 'p99_us'}."""
    need('fio')
    cmd = ['fio', '--name=bench', '--ioengine=nbd', '--uri=' + uri,
           '--rw=' + rw, '--bs=4k', '--iodepth=%d' % depth,
           '--output-format=json', '--group_reporting', '--time_based',
           '--runtime=%g' % seconds, '--randrepeat=0']
    if size:
        cmd.append('--size=%d' % size)
    cmd += ['--%s=%s' % kv for kv in more.items()]
    out = run(*cmd)
    job = json.loads(out[out.index('{'):])['jobs'][0]
    side = job['write' if 'write' in rw else 'read']
    times = side['clat_ns'].get('percentile', {})
    return {'iops': side['iops'],
            'p50_us': times.get('50.000000', 0) / 1000,
            'p99_us': times.get('99.000000', 0) / 1000}


def memory_copy_rate():
    """MiB/s of memcpy() on blocks that no cache holds."""
    size = 128 * MIB
    a, b = ctypes.create_string_buffer(size), ctypes.create_string_buffer(size)
    ctypes.memmove(b, a, size)
    start = time.monotonic()
    for _ in range(4):
        ctypes.memmove(b, a, size)
    return 4 * size / MIB / (time.monotonic() - start)


def remove(*paths):
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
