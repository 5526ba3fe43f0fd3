#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The export table: adding, describing, removing, and who is refused why."""
import sys

import rig
from nbdserver import row, run_rows
from nbdraw import (ACK, ERR_UNKNOWN, EXPORT_NAME, GO, READ, Closed,
                    name_info)


def add_error(s, **kw):
    return s.error('add', **dict({'type': 'nbd', 'id': 'x', 'node_name': 'ro'},
                                 **kw))


@row('add', 'an export is described and reached by its name')
def add(s):
    s('add', type='nbd', id='e1', node_name='ro', name='other name')
    s('add', type='nbd', id='e2', node_name='ro', name='')
    found = {e['id']: e for e in s('query')['exports']}
    assert found['e1'] == {'id': 'e1', 'type': 'nbd', 'node-name': 'ro',
                           'shutting-down': False}
    for name in ('other name', ''):
        assert s.go(name).read(0, 512) == rig.pattern(0, 512)
    c = s.client()
    c.send_opt(EXPORT_NAME, b'')
    assert len(c.recv(10)) == 10 and c.alive()
    c.close()


@row('refused', 'bad options are refused with a text that says why')
def refused(s):
    rows = [
        ({'id': 'rw'}, "Block export id 'rw' is already in use"),
        ({'id': '1x'}, 'Invalid block export id'),
        ({'id': 'a/b'}, 'Invalid block export id'),
        ({'id': None}, "Parameter 'id' is missing"),
        ({'type': None}, "Parameter 'type' is missing"),
        ({'type': 'fax'}, "Parameter 'type' does not accept value 'fax'"),
        ({'node_name': 'no'}, "Cannot find device='' nor node-name='no'"),
        ({'node_name': None}, "Parameter 'node-name' is missing"),
        ({'writable': True}, 'Cannot export read-only node as writable'),
        ({'name': 'ro'}, "NBD server already has export named 'ro'"),
        ({'name': 'n' * 4097}, 'too long'),
        ({'description': 'd' * 4097}, 'too long'),
        ({'name': 'n', 'bitmaps': ['b0']}, "Bitmap 'b0' is not found"),
        ({'name': 'n', 'color': 'red'}, "Parameter 'color' is unexpected"),
        ({'name': 'n', 'writable': 7}, "Invalid parameter type for 'writable'"),
    ]
    for args, text in rows:
        args = dict({'type': 'nbd', 'id': 'x', 'node_name': 'ro'}, **args)
        args = {k: v for k, v in args.items() if v is not None}
        error = s.error('add', **args)
        assert error and text in error, (args, error)
    assert 'x' not in [e['id'] for e in s('query')['exports']]
    s('add', type='nbd', id='x', node_name='ro', name='n' * 4096)
    s('del', id='x')


@row('safe', 'a safe removal is refused while a client is connected')
def safe(s):
    s('add', type='nbd', id='busy', node_name='ro', name='busy')
    c = s.go('busy')
    assert s.error('del', id='busy') == "export 'busy' still in use"
    assert c.alive()
    c.close()
    for _ in range(1000):
        if not s.error('del', id='busy'):
            break
    assert 'busy' not in [e['id'] for e in s('query')['exports']]
    assert s.error('del', id='busy') == "Export 'busy' is not found"
    assert s.client().opt(GO, name_info('busy'))[0] == ERR_UNKNOWN


@row('hard', 'a hard removal answers what is in flight and ends the clients')
def hard(s):
    s('add', type='nbd', id='gone', node_name='rw', name='gone')
    c, other = s.go('gone'), s.go('rw')
    s('hold', on=True)
    cookie = c.send_req(READ, 0, 512)
    s.wait_held(1)
    n = s.begin('del', id='gone', hard=True)
    state = [e for e in s('query')['exports'] if e['id'] == 'gone']
    assert state[0]['shutting-down']
    assert s.error('del', id='gone') == "Export 'gone' is already shutting down"
    assert s.client().opt(GO, name_info('gone'))[0] == ERR_UNKNOWN
    s('hold', on=False)
    got, reply = c.reply()
    assert got == cookie and reply.data == rig.pattern(0, 512)
    assert 'error' not in s.finish(n)
    try:
        assert c.at_end()
    except Closed:
        pass
    assert other.alive()
    assert 'gone' not in [e['id'] for e in s('query')['exports']]
    deleted = [e['data'] for e in s.events
               if e['event'] == 'BLOCK_EXPORT_DELETED']
    assert {'id': 'gone'} in deleted


@row('shared', 'a node may have several exports, writable ones too')
def shared(s):
    s('add', type='nbd', id='w2', node_name='rw', name='w2', writable=True,
      writethrough=True)
    a, b = s.go('rw'), s.go('w2')
    assert a.write(1 << 20, b'\x11' * 4096) == 0
    assert b.read(1 << 20, 4096) == b'\x11' * 4096
    assert b.write(1 << 20, b'\x22' * 4096) == 0
    assert a.read(1 << 20, 4096) == b'\x22' * 4096
    s('del', id='w2', hard=True)
    assert a.alive()


@row('server', 'starting twice, stopping twice, adding without a server')
def server(_):
    s = rig.make_server()
    assert s.error('start') == 'NBD server already running'
    s('stop')
    assert s.error('stop') == 'NBD server not running'
    assert add_error(s) == 'NBD server not running'
    assert s('query')['exports'] == []
    s('start')
    s('add', type='nbd', id='again', node_name='ro')
    assert s.go('ro').alive()
    s.close()


@row('tcp', 'over TCP: the same, without delay; only loopback')
def tcp(_):
    s = rig.make_server(listen={'host': 'localhost', 'port': '0'})
    c = s.go('rw')
    for i in range(50):
        assert c.read(i * 512, 512) == rig.pattern(i * 512, 512)
    s.close()


@row('many', '200 exports come and go under load')
def many(s):
    c = s.go('rw')
    for i in range(200):
        s('add', type='nbd', id='m%d' % i, node_name='ro', name='m%d' % i)
        d = s.client()
        assert d.opt(GO, name_info('m%d' % i))[0] == ACK
        assert c.alive()
        if i % 20 == 0:
            s('del', id='m%d' % i, hard=True)
        d.close()
    for i in (i for i in range(200) if i % 20):
        while s.error('del', id='m%d' % i):
            pass
    assert len(s('query')['exports']) <= 6


if __name__ == '__main__':
    sys.exit(run_rows(rig.make_server))
