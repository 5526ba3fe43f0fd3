#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects "iothread": nodes, jobs and exports on several data loops, which clients
see as one daemon."""
import os
import subprocess

from sluiced import SLUICE, Sluiced, run
from tlsfiles import psk_folder

MIB = 1 << 20
SIZE = 8 * MIB


def make_image(path):
    subprocess.run([SLUICE, 'create', '-q', '-f', 'qcow2', path, str(SIZE)],
                   check=True)
    return path


def disk(name, path, **more):
    return dict(driver='qcow2', node_name=name,
                file=dict(driver='file', filename=path), **more)


def uri_of(q, name):
    return next(e['uri'] for e in q.cmd('query-nbd-exports')
                if e['name'] == name)


def start_server(q, d):
    q.cmd('nbd-server-start', addr={
        'type': 'unix', 'data': {'path': os.path.join(d, 'nbd.sock')}})


def qemu_io(uri, *commands):
    args = [a for c in commands for a in ('-c', c)]
    out = subprocess.run(['qemu-io', '-f', 'raw', *args, uri],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True)
    assert out.returncode == 0 and 'ailed' not in out.stdout, out.stdout
    return out.stdout


def test_two_devices(d):
    """Two disks on two threads: data, the names of exports, their end."""
    with Sluiced(d, '--object', 'iothread,id=io0', '--object',
                 'iothread,id=io1') as s:
        q = s.qmp
        start_server(q, d)
        for i, thread in enumerate(('io0', 'io1', None)):
            name = 'disk%d' % i
            image = make_image(os.path.join(d, name + '.qcow2'))
            where = {'iothread': thread} if thread else {}
            q.cmd('blockdev-add', **disk(name, image, **where))
            q.cmd('block-export-add', type='nbd', id='e%d' % i,
                  node_name=name, writable=True, name=name, **where)
        listed = subprocess.run(
            ['nbdinfo', '--list', '--json', uri_of(q, 'disk0')],
            check=True, stdout=subprocess.PIPE, text=True).stdout
        for i in range(3):
            assert '"export-name": "disk%d"' % i in listed, listed
        assert [e['id'] for e in q.cmd('query-block-exports')] == \
            ['e2', 'e0', 'e1']
        writers = [subprocess.Popen(
            ['qemu-io', '-f', 'raw', '-c', 'write -P %d 0 %d' % (i + 1, SIZE),
             '-c', 'flush', uri_of(q, 'disk%d' % i)],
            stdout=subprocess.DEVNULL) for i in range(3)]
        assert [w.wait() for w in writers] == [0, 0, 0]
        for i in range(3):
            qemu_io(uri_of(q, 'disk%d' % i),
                    'read -P %d 0 %d' % (i + 1, SIZE))
        assert {n['node-name'] for n in q.cmd('query-named-block-nodes')} >= \
            {'disk0', 'disk1', 'disk2'}
        q.cmd('nbd-server-stop')
        assert q.cmd('query-block-exports') == []
        assert q.error('block-export-add', type='nbd', id='e0',
                       node_name='disk0') == 'NBD server not running'
        for i in range(3):
            q.cmd('blockdev-del', node_name='disk%d' % i)
        for thread in ('io0', 'io1'):
            q.cmd('object-del', id=thread)
        assert q.cmd('query-iothreads') == []
        for i in range(3):
            path = os.path.join(d, 'disk%d.qcow2' % i)
            subprocess.run(['qemu-img', 'check', '-q', path], check=True)


def test_names_are_one(d):
    """What one thread has, no other takes; what is on two is refused."""
    with Sluiced(d, '--object', 'iothread,id=io0',
                 '--blockdev', 'null-co,node-name=here',
                 '--blockdev', 'null-co,node-name=there,iothread=io0') as s:
        q = s.qmp
        assert q.error('blockdev-add', driver='null-co', node_name='there') \
            == "Duplicate nodes with node-name='there'"
        assert q.error('blockdev-add', driver='null-co', node_name='here',
                       iothread='io0') \
            == "Duplicate nodes with node-name='here'"
        assert q.error('blockdev-add', driver='null-co', node_name='n',
                       iothread='zz') == 'Cannot find iothread zz'
        apart = q.error('blockdev-add', driver='raw', node_name='r',
                        file='here', iothread='io0')
        assert apart == ("'io0' is in iothread 'io0' and 'here' in the main "
                         "thread: they cannot be used together") or \
            apart == ("'here' is in the main thread and 'io0' in iothread "
                      "'io0': they cannot be used together"), apart
        both = q.error('blockdev-mirror', job_id='j', device='there',
                       target='here', sync='full')
        assert 'cannot be used together' in both, both
        both = q.error('transaction', actions=[
            {'type': 'block-dirty-bitmap-add',
             'data': {'node': n, 'name': 'b'}} for n in ('here', 'there')])
        assert 'cannot be used together' in both, both
        # A node goes where the nodes are that it names.
        q.cmd('blockdev-add', driver='raw', node_name='r', file='there')
        for name, thread in (('r', 'io0'), ('there', 'io0'), ('here', None)):
            q.cmd('x-blockdev-set-iothread', node_name=name, iothread=thread)
        for name, thread in (('r', None), ('here', 'io0')):
            assert q.error('x-blockdev-set-iothread', node_name=name,
                           iothread=thread) == \
                'Cannot change iothread of active block backend'
        start_server(q, d)
        export = dict(type='nbd', id='e', node_name='here')
        assert q.error('block-export-add', iothread='zz', **export) == \
            'iothread "zz" not found'
        assert q.error('block-export-add', iothread='io0',
                       fixed_iothread=True, **export) == \
            'Cannot change iothread of active block backend'
        q.cmd('block-export-add', iothread='io0', **export)
        assert q.error('block-export-add', type='nbd', id='e',
                       node_name='there', name='x') == \
            "Block export id 'e' is already in use"
        assert q.error('block-export-add', type='nbd', id='f',
                       node_name='there', name='here') == \
            "NBD server already has export named 'here'"
        assert 'in use' in q.error('object-del', id='io0')
        ids = [n['id'] for n in q.cmd('x-debug-query-block-graph')['nodes']]
        assert len(ids) == len(set(ids)) >= 3, ids


def test_job_there(d):
    """A job runs, and is found, in the thread of its disk."""
    with Sluiced(d, '--object', 'iothread,id=io0') as s:
        q = s.qmp
        base = make_image(os.path.join(d, 'base.qcow2'))
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c',
                        'write -q -P 7 0 %d' % SIZE, base], check=True)
        top = os.path.join(d, 'top.qcow2')
        subprocess.run([SLUICE, 'create', '-q', '-f', 'qcow2', '-b', base,
                        '-F', 'qcow2', top], check=True)
        q.cmd('blockdev-add', **disk('top', top, iothread='io0'))
        q.cmd('block-stream', job_id='j', device='top', speed=1)
        assert q.error('block-stream', job_id='j', device='top')
        assert [j['device'] for j in q.cmd('query-block-jobs')] == ['j']
        assert 'in use' in q.error('object-del', id='io0')
        q.cmd('block-job-set-speed', device='j', speed=0)
        q.wait_event('BLOCK_JOB_COMPLETED', device='j')
        assert q.cmd('query-jobs') == []
        assert q.hmp('qemu-io top "read -P 7 0 %d"' % SIZE).startswith('read')
        q.cmd('blockdev-del', node_name='top')
        q.cmd('object-del', id='io0')


def test_journal(d):
    """A stream in an iothread goes on after a restart, where its disk is."""
    state = os.path.join(d, 'state')
    os.mkdir(state)
    base = make_image(os.path.join(d, 'base.qcow2'))
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c',
                    'write -q -P 7 0 %d' % SIZE, base], check=True)
    top = os.path.join(d, 'top.qcow2')
    subprocess.run([SLUICE, 'create', '-q', '-f', 'qcow2', '-b', base, '-F',
                    'qcow2', top], check=True)
    args = ('--state-dir', state, '--object', 'iothread,id=io0')
    with Sluiced(d, *args) as s:
        s.qmp.cmd('blockdev-add', **disk('top', top, iothread='io0'))
        s.qmp.cmd('block-stream', job_id='j', device='top', speed=1)
        assert s.qmp.cmd('query-job-journal')[0]['state'] == 'active'
    with Sluiced(d, *args) as s:
        assert s.qmp.cmd('query-job-journal')[0]['state'] == 'waiting'
        s.qmp.cmd('blockdev-add', **disk('top', top, iothread='io0'))
        assert [j['device'] for j in s.qmp.cmd('query-block-jobs')] == ['j']
        s.qmp.cmd('block-job-set-speed', device='j', speed=0)
        s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')
        assert s.qmp.cmd('query-job-journal') == []


def test_slow_device(d):
    """A disk that does not answer holds up nobody on another thread, and a
    disk beside it neither."""
    # Once the group is full, a read of it waits for hours.
    with Sluiced(d, '--object', 'iothread,id=io0',
                 '--object', 'throttle-group,id=g,limits.bps-total=1',
                 '--blockdev', 'throttle,node-name=slow,throttle-group=g,'
                 'file.driver=null-co,file.size=1M,iothread=io0',
                 '--blockdev', 'null-co,node-name=fast,size=1M',
                 '--blockdev', 'null-co,node-name=beside,size=1M,'
                 'iothread=io0') as s:
        q = s.qmp
        start_server(q, d)
        for name in ('slow', 'fast', 'beside'):
            q.cmd('block-export-add', type='nbd', id=name, node_name=name)
        stuck = subprocess.Popen(
            ['qemu-io', '-r', '-f', 'raw', '-c', 'read 0 64k', '-c',
             'read 0 64k', uri_of(q, 'slow')], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        try:
            for _ in range(20):
                for name in ('fast', 'beside'):
                    subprocess.run(
                        ['qemu-io', '-r', '-f', 'raw', '-c', 'read -q 0 64k',
                         uri_of(q, name)], check=True)
                q.cmd('query-block-exports')
                q.cmd('query-blockstats', query_nodes=True)
            assert stuck.poll() is None
            # New limits reach the other thread, and let it go on.
            q.cmd('qom-set', path='g', property='limits',
                  value={'bps-total': 0})
            assert stuck.wait() == 0
        finally:
            stuck.kill()
            stuck.wait()


def test_come_and_go(d):
    """Clients move to a thread while its export and the thread go: each is served or
    refused, and nothing of the thread stays."""
    with Sluiced(d) as s:
        q = s.qmp
        start_server(q, d)
        q.cmd('blockdev-add', driver='null-co', node_name='main', size=MIB)
        q.cmd('block-export-add', type='nbd', id='main', node_name='main')
        kept = uri_of(q, 'main')
        for _ in range(10):
            q.cmd('object-add', qom_type='iothread', id='io')
            q.cmd('blockdev-add', driver='null-co', node_name='n', size=MIB,
                  iothread='io')
            q.cmd('block-export-add', type='nbd', id='e', node_name='n')
            uri = uri_of(q, 'n')
            clients = [subprocess.Popen(['nbdinfo', '--size', u],
                                        stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
                       for u in (uri, uri, kept)]
            q.cmd('block-export-del', id='e', mode='hard')
            assert clients[2].wait() == 0
            q.cmd('blockdev-del', node_name='n')
            q.cmd('object-del', id='io')
            for c in clients:
                c.wait()
        assert q.cmd('query-iothreads') == []


def test_tls(d):
    """A client that has proven who it is keeps that as its connection moves, and
    rules judge it there."""
    keys = psk_folder(d, alice='00112233445566778899aabbccddeeff')
    with Sluiced(d, '--object', 'iothread,id=io0',
                 '--object', 'tls-creds-psk,id=t,endpoint=server,dir=' + keys,
                 '--object', 'authz-simple,id=a,identity=alice',
                 '--object', 'authz-simple,id=b,identity=bob') as s:
        q = s.qmp
        q.cmd('nbd-server-start', tls_creds='t', addr={
            'type': 'unix', 'data': {'path': os.path.join(d, 'nbd.sock')}})
        for name, rule in (('yes', 'a'), ('no', 'b')):
            q.cmd('blockdev-add', driver='null-co', node_name=name, size=MIB,
                  iothread='io0')
            q.cmd('block-export-add', type='nbd', id=name, node_name=name,
                  tls_authz=rule)

        def size_of(name):
            uri = uri_of(q, name).replace('nbds+unix://', 'nbds+unix://alice@')
            return subprocess.run(
                ['nbdinfo', '--size', '%s&tls-psk-file=%s/keys.psk'
                 % (uri, keys)], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True)

        assert size_of('yes').stdout.strip() == str(MIB), size_of('yes').stderr
        assert size_of('no').returncode != 0
        q.cmd('object-del', id='a')
        assert size_of('yes').returncode != 0


def test_objects_are_shared(d):
    """A throttle group is one for all threads, and one thread uses it."""
    with Sluiced(d, '--object', 'throttle-group,id=g,limits.iops-total=1000',
                 '--object', 'iothread,id=io0') as s:
        q = s.qmp
        limited = dict(driver='throttle', throttle_group='g')
        q.cmd('blockdev-add', node_name='a', iothread='io0',
              file={'driver': 'null-co'}, **limited)
        assert q.error('blockdev-add', node_name='b',
                       file={'driver': 'null-co'}, **limited) == \
            "Throttle group 'g' is in use in another iothread"
        q.cmd('qom-set', path='g', property='limits',
              value={'iops-total': 5})
        assert 'in use' in q.error('object-del', id='g')
        q.cmd('blockdev-del', node_name='a')
        q.cmd('blockdev-add', node_name='b', file={'driver': 'null-co'},
              **limited)
        q.cmd('blockdev-del', node_name='b')
        q.cmd('object-del', id='g')


def test_properties(d):
    with Sluiced(d, '--object', 'iothread,id=io0',
                 '--object', 'iothread,id=io1,poll-max-ns=0') as s:
        q = s.qmp
        told = q.cmd('query-iothreads')
        assert [t['id'] for t in told] == ['io0', 'io1']
        assert [t['poll-max-ns'] for t in told] == [32768, 0]
        tasks = {int(t) for t in os.listdir('/proc/%d/task' % s.proc.pid)}
        threads = {t['thread-id'] for t in told}
        assert len(threads) == 2 and threads <= tasks, (threads, tasks)
        q.cmd('qom-set', path='io0', property='poll-max-ns', value=5)
        assert q.cmd('query-iothreads')[0]['poll-max-ns'] == 5
        assert q.error('object-add', {
            'qom-type': 'iothread', 'id': 'io2', 'poll-grow': -1}) == \
            'poll-grow value must be in range [0, 9223372036854775807]'
        assert 'duplicate' in q.error('object-add', qom_type='iothread',
                                      id='io0')
        q.cmd('object-add', qom_type='iothread', id='io2')
        q.cmd('object-del', id='io2')
        assert q.error('object-del', id='io2') == "object 'io2' not found"
        q.cmd('object-add', qom_type='iothread', id='io2')


if __name__ == '__main__':
    run(globals())
