#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of sluiced."""
import os
import re
import signal
import subprocess
import time

from qmp import Qmp
from sluiced import SLUICED, TOP, Sluiced, make_chain, run
from waiting import listens, until

MIB = 1 << 20


def sluiced(d, *args):
    p = subprocess.run([SLUICED] + list(args), cwd=d, text=True,
                       stdin=subprocess.DEVNULL, capture_output=True,
                       check=False)
    return p.returncode, p.stdout, p.stderr


def usage_error(d, *args):
    status, out, err = sluiced(d, *args)
    assert status == 1, (status, err)
    assert out == '', out
    assert err.startswith('sluiced: '), err
    return err


def test_help_and_version(d):
    status, out, _ = sluiced(d, '--help')
    assert status == 0 and '--blockdev' in out, out
    assert sluiced(d, '-h')[1] == out
    status, out, _ = sluiced(d, '-V')
    assert status == 0 and out.startswith('sluiced version '), out


def test_man_page_has_every_option(d):
    out = sluiced(d, '--help')[1]
    options = re.findall(r'--[a-z-]+', out)
    assert len(options) > 10, out
    with open(TOP + '/man/sluiced.8.rst', encoding='utf-8') as f:
        page = f.read()
    for option in options:
        assert re.search(r'^(-.*)?%s\b' % option, page, re.M), option


def test_usage_errors(d):
    assert "'--zork'" in usage_error(d, '--zork')
    assert 'needs an argument' in usage_error(d, '--blockdev')
    assert 'takes no argument' in usage_error(d, '--daemonize=yes')
    assert 'Unexpected argument: x' in usage_error(d, 'x')
    err = usage_error(d, '--blockdev', 'null-co,node-name=a',
                      '--blockdev', 'null-co,node-name=b,zz=1')
    assert '--blockdev null-co,node-name=b,zz=1' in err, err
    assert "Parameter 'zz' is unexpected" in err, err
    assert "'size'" in usage_error(d, '--blockdev',
                                   'null-co,node-name=a,size=x')
    assert "'node-name' must" in usage_error(d, '--blockdev', 'null-co')
    assert 'not running' in usage_error(
        d, '--blockdev', 'null-co,node-name=a',
        '--export', 'nbd,id=e,node-name=a',
        '--nbd-server', 'addr.type=unix,addr.path=s')
    assert 'not found' in usage_error(d, '--monitor', 'm')
    assert 'io-engine' in usage_error(d, '--io-engine', 'x')
    assert 'backing-policy' in usage_error(d, '--backing-policy', 'x')
    assert 'JSON' in usage_error(d, '--blockdev', '{"driver":')
    assert "'driver' does not accept value 'zork'" in usage_error(
        d, '--blockdev', 'zork,node-name=a')


def test_forms(d):
    """Dotted keys and JSON are the same; = and a blank are the same."""
    open(d + '/a,b', 'wb').write(bytes(MIB))
    with Sluiced(d, '--blockdev', 'driver=file,node-name=f,filename=a,,b',
                 '--blockdev={"driver": "raw", "node-name": "r", "file": "f"}',
                 '-blockdev', 'null-co,node-name=n,size=64k') as s:
        nodes = {n['node-name']: n
                 for n in s.qmp.cmd('query-named-block-nodes')}
        assert set(nodes) == {'f', 'r', 'n'}, nodes
        assert nodes['n']['image']['virtual-size'] == 65536
        assert nodes['r']['image']['virtual-size'] == MIB


def test_drive(d):
    base, top = make_chain(d, MIB)
    err = usage_error(d, '--drive', 'id=v,file=' + top)
    assert "'format' is missing" in err and 'format=qed' in err, err
    assert 'snapshot' in usage_error(
        d, '--drive', 'id=v,format=qed,snapshot=on,file=' + top)
    assert 'writethrough' in usage_error(
        d, '--drive', 'id=v,format=qed,cache=writethrough,file=' + top)
    for limit in ('latency-target=soon', 'latency-target=1x', 'floor=x',
                  'finish-by=tomorrow'):
        assert limit.split('=')[0] in usage_error(
            d, '--drive', 'id=v,format=qed,stream=on,%s,file=%s' % (limit, top))
    assert "'floor' goes with 'stream=on'" in usage_error(
        d, '--drive', 'id=v,format=qed,floor=1M,file=' + top)
    assert 'zz' in usage_error(d, '--drive', 'id=v,format=qed,zz=1,file=' + top)
    with Sluiced(d, '--drive', 'id=v,format=qed,if=virtio,cache=none,'
                 'aio=native,file=' + top,
                 '--drive', 'if=virtio,readonly=on,file=' + base,
                 '--drive', 'format=raw,file.driver=null-co,'
                 'file.size=1M') as s:
        devices = {x['device']: x['inserted'] for x in s.qmp.cmd('query-block')}
        assert set(devices) == {'v', 'virtio0', 'drive0'}, devices
        assert devices['v']['cache']['direct'] is True
        assert devices['virtio0']['ro'] is True
        assert devices['virtio0']['drv'] == 'raw'


def one_drive(d, options, *more):
    """query-block of a daemon with this drive alone."""
    with Sluiced(d, '--drive', options, *more) as s:
        devices = s.qmp.cmd('query-block')
        assert len(devices) == 1, devices
        return devices[0]


def test_drive_image(d):
    """Every way in which -drive of the emulator names an image."""
    base, top = make_chain(d, MIB, 'qcow2')
    named = 'id=v,format=qcow2,file=' + top
    for options in (named + ',file.locking=off',
                    'file.locking=off,' + named,
                    named + ',backing.driver=raw',
                    'id=v,driver=qcow2,file=file:' + top,
                    'id=v,format=qcow2,file.driver=file,file.filename=' + top,
                    'id=v,file=json:{"driver":"qcow2",,"file":{"driver":"file"'
                    ',,"filename":"%s"}}' % top):
        shown = one_drive(d, options)['inserted']
        assert (shown['file'], shown['drv'], shown['backing_file']) == \
            (top, 'qcow2', base), (options, shown)
    other = d + '/other.raw'
    open(other, 'wb').truncate(2 * MIB)
    for options in ('backing.file.filename=', 'backing.filename=',
                    'backing.file.locking=off,backing.file.filename='):
        shown = one_drive(d, '%s,%s%s' % (named, options, other))['inserted']
        assert shown['backing_file'] == other, shown
        below = shown['image']['backing-image']
        assert (below['format'], below['virtual-size']) == ('raw', 2 * MIB)
    for options, drv in (('driver=null-co', 'null-co'),
                         ('format=null-aio,size=1M', 'null-aio'),
                         ('format=raw,file.driver=null-co', 'raw')):
        shown = one_drive(d, options)['inserted']
        assert shown['drv'] == drv, shown
    for options, text in (
            (named + ',driver=qcow2',
             "Cannot specify both 'driver' and 'format'"),
            (named + ',file.filename=' + top,
             "Can't specify 'file' and 'filename' options at the same time"),
            ('driver=qcow2', 'A block device must be specified for "file"'),
            ('discard=unmap', 'Must specify either driver or file'),
            ('format=zork,file=' + top, "Unknown driver 'zork'"),
            (named + ',zork=1',
             "Block format 'qcow2' does not support the option 'zork'"),
            (named + ',file.zork=1',
             "Block protocol 'file' doesn't support the option 'zork'"),
            ('id=v,file=json:{', 'JSON')):
        err = usage_error(d, '--drive', options)
        assert text in err, (options, err)


def test_drive_empty(d):
    """A drive without a medium is there, and says that it has none."""
    dev = one_drive(d, 'if=none,id=cd,media=cdrom')
    assert dev['device'] == 'cd' and dev['removable'], dev
    assert 'inserted' not in dev, dev
    with Sluiced(d, '--drive', 'media=cdrom', '--drive', 'id=x,file=') as s:
        assert [b['device'] for b in s.qmp.cmd('query-block')] == \
            ['drive0', 'x']
        assert [b['device'] for b in s.qmp.cmd('query-blockstats')] == \
            ['drive0', 'x']
        s.qmp.cmd('x-debug-query-block-graph')
        assert s.qmp.hmp('info block') == ''.join(
            '%s: [not inserted]\n'
            '    Removable device: not locked, tray closed\n' % name
            for name in ('drive0', 'x'))
        for cmd, args in (('block-stream', {'device': 'x', 'job-id': 'j'}),
                          ('block-export-add', {'type': 'nbd', 'id': 'e',
                                                'node-name': 'x'})):
            if cmd == 'block-export-add':
                s.qmp.cmd('nbd-server-start', addr={
                    'type': 'unix', 'data': {'path': d + '/nbd'}})
            assert s.qmp.error(cmd, **args) == "Device 'x' has no medium"
        assert 'conflicting' in s.qmp.error('blockdev-add', **{
            'driver': 'null-co', 'node-name': 'x'})


def throttles(q):
    """Names of the nodes right below devices that are throttle filters."""
    return [n['node-name'] for n in q.cmd('query-named-block-nodes')
            if n['drv'] == 'throttle']


def test_drive_throttle(d):
    image = d + '/a.raw'
    open(image, 'wb').truncate(8 * MIB)
    drive = 'id=v,format=raw,file=%s,' % image
    for options in ('throttling.bps-total=4194304', 'bps=4194304',
                    'throttling.bps-read=4194304,throttling.group=g',
                    'bps_rd=4194304,group=g'):
        with Sluiced(d, '--drive', drive + options) as s:
            assert len(throttles(s.qmp)) == 1
            assert s.qmp.cmd('query-block')[0]['inserted']['drv'] == 'raw'
            begin = time.monotonic()
            for i in range(8):
                s.qmp.hmp('qemu-io v "read %dM 1M"' % i)
            # The bucket holds a part of a second.
            assert time.monotonic() - begin > 1, options
    other = d + '/b.raw'
    open(other, 'wb').truncate(MIB)
    # Two drives of one group: the later limits are those of both.
    with Sluiced(d, '--drive', drive + 'iops=1,throttling.group=g', '--drive',
                 'id=w,format=raw,file=%s,iops=1000000,group=g' % other) as s:
        assert len(throttles(s.qmp)) == 2
        for _ in range(20):
            s.qmp.hmp('qemu-io v "read 0 4k"')
    # A group that was made as an object.
    with Sluiced(d, '--object', 'throttle-group,id=g,x-bps-total=4M,'
                 'x-iops-total-max-length=1', '--drive', drive + 'group=g'):
        pass
    for options, text in (('iops=1,throttling.iops-total=1', 'alias'),
                          ('bps_max=5', "'bps-total-max' needs"),
                          ('throttling.zork=1', "'zork' is unexpected"),
                          ('throttling=1', "'throttling'")):
        assert text in usage_error(d, '--drive', drive + options), options


def test_drive_throttle_is_shown(d):
    """By query-block: what a limit is, and of bursts only what there is."""
    image = d + '/a.raw'
    open(image, 'wb').truncate(MIB)
    with Sluiced(d, '--drive', 'id=v,format=raw,file=%s,bps=4194304,'
                 'iops_rd=100,iops_rd_max=300,iops_rd_max_length=2,'
                 'iops_size=8192,copy-on-read=on' % image, '--drive',
                 'id=w,driver=null-co', '--object',
                 'throttle-group,id=g,limits.bps-write=7', '--drive',
                 'id=x,driver=null-co,group=g') as s:
        shown = {b['device']: {k: v for k, v in b['inserted'].items()
                               if k.startswith(('bps', 'iops', 'group'))}
                 for b in s.qmp.cmd('query-block')}
        none = dict.fromkeys(['bps', 'bps_rd', 'bps_wr', 'iops', 'iops_rd',
                              'iops_wr'], 0)
        assert shown['v'] == dict(
            none, bps=4194304, iops_rd=100, iops_rd_max=300,
            iops_rd_max_length=2, iops_size=8192, group='v'), shown['v']
        assert shown['w'] == none, shown['w']
        assert ('    I/O throttling:   bps=4194304 bps_rd=0 bps_wr=0 bps_max=0 '
                'bps_rd_max=0 bps_wr_max=0 iops=0 iops_rd=100 iops_wr=0 '
                'iops_max=0 iops_rd_max=300 iops_wr_max=0 iops_size=8192 '
                'group=v\n') in s.qmp.hmp('info block v')
        assert 'throttling' not in s.qmp.hmp('info block w')
        assert shown['x'] == dict(none, bps_wr=7, group='g'), shown['x']


def test_backing_policy(d):
    _, top = make_chain(d, MIB)
    drive = ['--drive', 'id=v,format=qed,file=' + top]
    assert 'base.raw' in usage_error(d, '--backing-policy', 'deny', *drive)
    os.mkdir(d + '/sub')
    usage_error(d, '--backing-policy', 'beneath=%s/sub' % d, *drive)
    with Sluiced(d, '--backing-policy', 'beneath=' + d, *drive):
        pass


def runs(pid):
    """@pid is a daemon of ours, and no zombie."""
    try:
        with open('/proc/%d/stat' % pid, encoding='ascii') as f:
            text = f.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return '(sluiced)' in text and ') Z ' not in text


def test_daemonize_and_pidfile(d):
    sock, pidfile = d + '/s', d + '/pid'
    args = ['--daemonize', '--pidfile', pidfile, '--chardev',
            'socket,id=m,path=%s,server=on,wait=off' % sock, '--monitor', 'm']
    status, out, err = sluiced(d, *args)
    assert (status, out, err) == (0, '', ''), (status, out, err)
    pid = int(open(pidfile).read())
    try:
        q = Qmp.connect(sock)
        assert q.cmd('query-jobs') == []
        other = usage_error(d, '--pidfile', pidfile)
        assert 'cannot lock PID file' in other, other
        # The verdict of a daemon that fails reaches the parent.
        status, _, err = sluiced(d, '--daemonize', '--blockdev', 'zork')
        assert status == 1 and 'zork' in err, (status, err)
        q.send_raw('{"execute": "quit"}')
    finally:
        try:
            until(lambda: not runs(pid), 'the end of the daemon')
        except AssertionError:
            os.kill(pid, signal.SIGKILL)
            raise
    assert not os.path.exists(pidfile)
    assert not os.path.exists(sock)


def test_stdio_monitor(d):
    text = ('{"execute": "qmp_capabilities"}\n'
            '{"execute": "query-jobs", "id": 1}\n{"execute": "quit"}\n')
    p = subprocess.run([SLUICED, '--chardev', 'stdio,id=m', '--monitor', 'm'],
                       input=text, cwd=d, text=True, capture_output=True,
                       check=False)
    assert p.returncode == 0, p.stderr
    lines = p.stdout.splitlines()
    assert '"QMP"' in lines[0] and '{"return": [], "id": 1}' in lines, lines


def test_client_monitor(d):
    """A socket without server=on is connected to."""
    import socket
    ls = socket.socket(socket.AF_UNIX)
    ls.bind(d + '/ls')
    ls.listen(1)
    with Sluiced(d, '--chardev', 'socket,id=c,path=%s/ls' % d,
                 '--monitor', 'c') as s:
        conn, _ = ls.accept()
        q = Qmp(conn)
        assert q.cmd('query-jobs') == s.qmp.cmd('query-jobs') == []
        q.close()
    ls.close()


def test_wait_for_client(d):
    with Sluiced(d, '--chardev', 'socket,id=w,path=%s/w,server=on' % d,
                 '--monitor', 'w', '--blockdev', 'null-co,node-name=n',
                 connect=False) as s:
        until(lambda: listens(d + '/w'), 'the socket')
        q = Qmp.connect(d + '/w')
        assert len(q.cmd('query-named-block-nodes')) == 1
        s.qmp = q


def test_engines(d):
    for engine in ('threads', 'auto'):
        with Sluiced(d, '--io-engine', engine) as s:
            assert s.qmp.cmd('query-jobs') == []


if __name__ == '__main__':
    run(globals())
