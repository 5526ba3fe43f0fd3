#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that take long beside others: on one connection, on several."""
import json
import os
import socket

from sluiced import Sluiced, make_chain, qemu_img, run

MIB = 1 << 20


class SilentServer:
    """An NBD server that takes connections and says nothing until close()."""

    def __init__(self, directory):
        self.path = os.path.join(directory, 'silent.sock')
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen()
        self.conn = None

    def node(self, name):
        return {'driver': 'nbd', 'node-name': name, 'server': {
            'type': 'unix', 'path': self.path}}

    def accept(self):
        """Somebody waits for us from here on."""
        self.conn = self.sock.accept()[0]

    def close(self):
        self.sock.close()
        self.conn.close()


def send(q, name, args=None, number=None, key='execute'):
    msg = {key: name, 'id': number}
    if args is not None:
        msg['arguments'] = args
    q.send_raw(json.dumps(msg) + '\n')


def connect(s, oob=True):
    q = s.connect(negotiate=False)
    assert q.greeting['QMP']['capabilities'] == ['oob']
    q.cmd('qmp_capabilities', {'enable': ['oob']} if oob else {})
    return q


def file_node(d, name, size=MIB):
    path = os.path.join(d, name)
    with open(path, 'wb') as f:
        f.truncate(size)
    return {'driver': 'file', 'node-name': name, 'filename': path}


def test_oob_is_asked_for(d):
    with Sluiced(d) as s:
        s.qmp.send_raw('{"exec-oob": "query-jobs"}\n')
        assert s.qmp.answer()['error']['desc'] == \
            "QMP input member 'exec-oob' is unexpected"
        q = connect(s)
        q.send_raw('{"exec-oob": "query-jobs", "execute": "query-jobs"}\n')
        assert 'clashes with' in q.answer()['error']['desc']
        q.send_raw('{"exec-oob": 1}\n')
        assert q.answer()['error']['desc'] == \
            "QMP input member 'exec-oob' must be a string"
        send(q, 'query-jobs', number=7, key='exec-oob')
        assert q.answer() == {'return': [], 'id': 7}
        send(q, 'add-fd', key='exec-oob')
        assert q.answer()['error']['desc'] == \
            'The command add-fd does not support OOB'
        assert all(e.get('allow-oob') for e in q.cmd('query-qmp-schema')
                   if e['meta-type'] == 'command'
                   and e['name'] not in ('qmp_capabilities', 'add-fd'))
        q.close()


def test_oob_overtakes(d):
    """What is sent so is answered while another command of the connection
    waits; what is not keeps its turn."""
    server = SilentServer(d)
    with Sluiced(d) as s:
        q = connect(s)
        send(q, 'blockdev-add', server.node('slow'), 1)
        send(q, 'query-jobs', number=2)
        send(q, 'nonsense', number=3)
        q.send_raw('{]\n')
        server.accept()
        send(q, 'query-jobs', number=4, key='exec-oob')
        assert q.answer() == {'return': [], 'id': 4}
        send(q, 'blockdev-add', file_node(d, 'f'), 5, 'exec-oob')
        assert q.answer() == {'return': {}, 'id': 5}
        send(q, 'blockdev-del', {'node-name': 'f'}, 6, 'exec-oob')
        assert q.answer() == {'return': {}, 'id': 6}
        server.close()
        assert q.answer()['id'] == 1
        assert q.answer() == {'return': [], 'id': 2}
        assert q.answer()['id'] == 3
        assert 'id' not in q.answer()
        q.close()


def test_how_many_may_wait(d):
    """The ninth that waits holds up what comes behind it, and nothing is
    lost."""
    server = SilentServer(d)
    with Sluiced(d) as s:
        q = connect(s)
        send(q, 'blockdev-add', server.node('slow'), 'slow')
        for i in range(30):
            send(q, 'query-jobs', number=i)
        server.accept()
        assert s.qmp.cmd('query-jobs') == []
        server.close()
        assert q.answer()['id'] == 'slow'
        assert [q.answer()['id'] for _ in range(30)] == list(range(30))
        for i in range(30):
            send(q, 'query-jobs', number=i, key='exec-oob')
        assert sorted(q.answer()['id'] for _ in range(30)) == list(range(30))
        q.close()


def test_half_closed_connection(d):
    """A client that has sent all it wants still gets all answers."""
    server = SilentServer(d)
    with Sluiced(d) as s:
        q = connect(s)
        send(q, 'blockdev-add', server.node('slow'), 1)
        send(q, 'query-jobs', number=2)
        q.sock.shutdown(socket.SHUT_WR)
        server.accept()
        assert s.qmp.cmd('query-jobs') == []
        server.close()
        assert [q.answer()['id'], q.answer()['id']] == [1, 2]
        q.close()


def test_end_while_commands_wait(d):
    """The daemon does not wait for a server, with or without oob."""
    server = SilentServer(d)
    with Sluiced(d) as s:
        a, b = connect(s), connect(s, oob=False)
        send(a, 'blockdev-add', server.node('slow'), 1)
        server.accept()
        send(a, 'query-jobs', number=2)
        send(b, 'query-jobs', number=3)
        assert b.answer()['id'] == 3
        s.stop()
        a.close()
        b.close()
    server.close()


def others_work(d, q, uses_storage=True):
    """All that a manager does, on a disk of its own."""
    base, top = make_chain(d, 4 * MIB, 'qcow2')
    new = os.path.join(d, 'new.qcow2')
    q.cmd('blockdev-add', {'driver': 'qcow2', 'node-name': 'top', 'file': {
        'driver': 'file', 'filename': top}})
    q.cmd('block_resize', {'node-name': 'top', 'size': 8 * MIB})
    q.cmd('nbd-server-start', addr={'type': 'unix', 'data': {
        'path': os.path.join(d, 'n.sock')}})
    q.cmd('block-export-add', {'type': 'nbd', 'id': 'e', 'node-name': 'top',
                               'writable': True})
    q.cmd('blockdev-snapshot-sync', {
        'node-name': 'top', 'snapshot-file': new,
        'snapshot-node-name': 'new'})
    q.cmd('block-stream', {'job-id': 'j', 'device': 'new'})
    q.wait_event('BLOCK_JOB_COMPLETED', device='j')
    q.cmd('blockdev-add', file_node(d, 'f'))
    q.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'r', 'file': 'f'})
    q.cmd('blockdev-reopen', options=[{
        'driver': 'raw', 'node-name': 'r', 'file': 'f', 'size': 4096}])
    q.cmd('blockdev-del', {'node-name': 'r'})
    q.cmd('query-named-block-nodes')
    q.cmd('query-blockstats')
    q.cmd('block-export-del', id='e')
    q.cmd('nbd-server-stop')
    assert os.path.exists(base)


def test_an_open_that_waits(d):
    server = SilentServer(d)
    with Sluiced(d) as s:
        a = connect(s, oob=False)
        send(a, 'blockdev-add', server.node('slow'), 1)
        server.accept()
        others_work(d, s.qmp)
        server.close()
        assert a.answer()['id'] == 1
        a.close()


def test_a_disk_that_waits(d):
    """One that has a request under way which does not end: a resize of it
    waits, others do not."""
    with Sluiced(d) as s:
        q = s.qmp
        path = d + '/stuck.qcow2'
        qemu_img('create', '-q', '-f', 'qcow2', path, '4M')
        q.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'stuck', 'file': {
                'driver': 'blkdebug', 'node-name': 'debug',
                'image': {'driver': 'file', 'filename': path}}})
        q.hmp('qemu-io stuck "break write_aio A"')
        q.hmp('qemu-io stuck "aio_write 0 64k"')
        q.hmp('qemu-io stuck "wait_break A"')
        a = connect(s, oob=False)
        send(a, 'block_resize', {'node-name': 'stuck', 'size': 8 * MIB}, 1)
        b = connect(s)
        send(b, 'blockdev-snapshot-internal-sync',
             {'device': 'stuck', 'name': 's'}, 2)
        send(b, 'query-jobs', number=3, key='exec-oob')
        assert b.answer() == {'return': [], 'id': 3}
        others_work(d, q)
        q.hmp('qemu-io stuck "resume A"')
        assert a.answer() == {'return': {}, 'id': 1}
        assert b.answer() == {'return': {}, 'id': 2}
        a.close()
        b.close()
    qemu_img('check', '-q', path)


def test_one_id_for_two(d):
    """The same object at once: one is made, and can be used."""
    with open(d + '/key', 'w', encoding='ascii') as f:
        f.write('knock')
    with Sluiced(d) as s:
        q = connect(s)
        for i in range(20):
            for _ in range(3):
                send(q, 'object-add', {'qom-type': 'secret', 'id': 's',
                                       'file': d + '/key'}, i, 'exec-oob')
            send(q, 'object-add', {'qom-type': 'throttle-group', 'id': 's'}, i,
                 'exec-oob')
            answers = [q.answer() for _ in range(4)]
            assert sum('return' in a for a in answers) == 1, answers
            assert all('duplicate property' in a['error']['desc']
                       for a in answers if 'error' in a), answers
            q.cmd('object-del', id='s')
        q.close()


def test_changes_of_one_image(d):
    """All that changes an image as a whole, at once: one after the other, and
    what comes last finds what the others did."""
    path = d + '/disk.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', path, '4M')
    with Sluiced(d) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'qcow2', 'node-name': 'n', 'file': {
                'driver': 'file', 'filename': path}})
        q = connect(s)
        sizes = [(4 + i) * MIB for i in range(1, 30)]
        for i, size in enumerate(sizes):
            s.qmp.hmp('qemu-io n "write -P %d %dk 64k"' % (i + 1, i * 100))
            send(q, 'block_resize', {'node-name': 'n', 'size': size}, i,
                 'exec-oob')
            send(q, 'blockdev-snapshot-internal-sync',
                 {'device': 'n', 'name': 's%d' % i}, i, 'exec-oob')
            send(q, 'blockdev-snapshot-internal-sync',
                 {'device': 'n', 'name': 't%d' % i}, i, 'exec-oob')
            if i:
                send(q, 'blockdev-snapshot-delete-internal-sync',
                     {'device': 'n', 'name': 't%d' % (i - 1)}, i, 'exec-oob')
            for _ in range(3 + (i > 0)):
                answer = q.answer()
                assert 'return' in answer, answer
        q.close()
    qemu_img('check', '-q', path)
    names = [line.split()[1] for line in qemu_img(
        'snapshot', '-l', path).splitlines()[2:]]
    assert sorted(names) == sorted(['s%d' % i for i in range(29)] + ['t28'])


if __name__ == '__main__':
    run(globals())
