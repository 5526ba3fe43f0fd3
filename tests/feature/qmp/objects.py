#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Objects by their paths, character devices, and commands for what only other
daemons have: the same questions to QEMU's daemon."""
import os
import socket
import subprocess

from qemu_tools import Qsd
from sluiced import SLUICE, SLUICED, Sluiced, run

OBJECTS = ['--object', 'throttle-group,id=tg0,limits.bps-total=1000',
           '--object', 'secret,id=s0,data=knock', '--object', 'iothread,id=io0',
           '--blockdev', 'null-co,node-name=n']


def desc(q, name, **args):
    """The text of an error; None when it worked."""
    answer = q.execute(name, {k.replace('_', '-'): v for k, v in args.items()})
    return answer['error']['desc'] if 'error' in answer else None


def pairs(properties):
    return {p['name']: p['type'] for p in properties}


def ask(q):
    """What both daemons must say alike."""
    limits = q.cmd('qom-get', path='tg0', property='limits')
    told = [
        pairs(q.cmd('qom-list', path='/objects')),
        pairs(q.cmd('qom-list', path='/objects/tg0')),
        limits,
        q.cmd('qom-get', path='/objects/tg0', property='x-bps-total'),
        q.cmd('qom-get', path='/objects', property='tg0'),
        q.cmd('qom-get', path='/', property='objects'),
        q.cmd('qom-get', path='/objects/io0', property='type'),
        q.cmd('qom-get', path='io0', property='poll-grow'),
    ]
    told.append(pairs(q.cmd('qom-list-properties', typename='throttle-group')))
    told.append(desc(q, 'qom-list-properties', typename='nope'))
    for args in (dict(path='/nope', property='x'),
                 dict(path='/objects/nope', property='x'),
                 dict(path='s0', property='nope'),
                 dict(path='/objects', property='nope')):
        told.append(desc(q, 'qom-get', **args))
    for args in (dict(path='tg0', property='x-bps-total', value=3),
                 dict(path='tg0', property='limits', value={'bps-total': 5}),
                 dict(path='io0', property='poll-max-ns', value=-1),
                 dict(path='io0', property='poll-max-ns', value=5),
                 dict(path='io0', property='type', value='x'),
                 dict(path='/nope', property='x', value=1)):
        told.append(desc(q, 'qom-set', **args))
    told.append(q.cmd('qom-get', path='io0', property='poll-max-ns'))
    told.append(q.cmd('qom-get', path='tg0', property='limits'))
    for args in (dict(), dict(node='n', child='file'), dict(child='file'),
                 dict(node='n'), dict(node='zz')):
        told.append(desc(q, 'x-blockdev-change', parent='n', **args))
    told.append(desc(q, 'x-blockdev-change', parent='zz', node='n'))
    for args in (dict(node_name='n', iothread='zz'),
                 dict(node_name='zz', iothread='zz'),
                 dict(node_name='n', iothread=None)):
        told.append(desc(q, 'x-blockdev-set-iothread', **args))
    return told


def closed(client):
    """Does the other end close the connection without a word? A connection that
    was not accepted before its listener went is reset."""
    try:
        return client.recv(1) == b''
    except ConnectionResetError:
        return True


def test_like_qemu(d):
    with Sluiced(d, *OBJECTS) as s, Qsd(d + '/..', *OBJECTS) as t:
        ours, theirs = ask(s.qmp), ask(t.qmp)
        for a, b in zip(ours, theirs):
            assert a == b, (a, b)
        types = {t['name'] for t in
                 s.qmp.cmd('qom-list-types', implements='user-creatable')}
        assert types <= {t['name'] for t in t.qmp.cmd(
            'qom-list-types', implements='user-creatable')}, types
        names = pairs(s.qmp.cmd('qom-list', path='s0'))
        assert names.items() <= pairs(t.qmp.cmd('qom-list',
                                                path='s0')).items(), names


def test_what_is_otherwise(d):
    """A passphrase is told to nobody, and nodes stay in their thread."""
    with Sluiced(d, *OBJECTS) as s:
        assert desc(s.qmp, 'qom-get', path='s0', property='data') == \
            "Property 'secret.data' is not readable"
        assert desc(s.qmp, 'qom-set', path='s0', property='data',
                    value='x') == "Property 'secret.data' is not writable"
        assert s.qmp.cmd('qom-get', path='s0', property='format') == 'raw'
        s.qmp.cmd('object-add', {'qom-type': 'authz-list', 'id': 'a',
                                 'policy': 'deny'})
        assert s.qmp.cmd('qom-get', path='a', property='policy') == 'deny'
        assert s.qmp.cmd('qom-get', path='a', property='rules') == []
        assert 'is not writable' in desc(
            s.qmp, 'qom-set', path='a', property='policy', value='allow')
        text = desc(s.qmp, 'x-blockdev-set-iothread', node_name='n',
                    iothread='io0')
        assert text == 'Cannot change iothread of active block backend', text
        assert 'knock' not in str(s.qmp.cmd('qom-list', path='s0'))


def test_limits_at_once(d):
    """qom-set reaches drives that use the group."""
    with Sluiced(d, *OBJECTS, '--drive',
                 'id=v,driver=null-co,group=tg0') as s:
        s.qmp.cmd('qom-set', path='tg0', property='limits',
                  value={'bps-total': 0})
        assert s.qmp.cmd('query-block')[0]['inserted']['bps'] == 0
        assert 'read' in s.qmp.hmp('qemu-io v "read 0 64k"')
        assert "'zork' is unexpected" in desc(
            s.qmp, 'qom-set', path='tg0', property='limits',
            value={'zork': 1})


def test_object_help(d):
    def text(*args):
        p = subprocess.run([SLUICED, *args], check=False, capture_output=True,
                           text=True)
        assert p.returncode == 0, p.stderr
        return p.stdout

    def types(output):
        title, *names = output.splitlines()
        assert title == 'List of user creatable objects:', output
        return names
    ours = types(text('--object', 'help'))
    assert ours == sorted(ours) and '  throttle-group' in ours, ours
    theirs = types(subprocess.run(
        ['qemu-storage-daemon', '--object', 'help'],
        check=True, capture_output=True, text=True).stdout)
    assert set(ours) <= set(theirs), (ours, theirs)
    lines = text('--object', 'secret,help').splitlines()
    assert lines[0] == 'secret options:' and '  data=<string>' in lines, lines
    theirs = subprocess.run(
        ['qemu-storage-daemon', '--object', 'throttle-group,help'],
        check=True, capture_output=True, text=True).stdout
    ours = text('--object', 'throttle-group,help').splitlines()
    for line in ours:
        assert line in theirs, (line, theirs)
    p = subprocess.run([SLUICED, '--object', 'zork,help'], check=False,
                       capture_output=True, text=True)
    assert p.returncode == 1, p


def test_object_help_of_the_tool(d):
    listed = subprocess.run([SLUICED, '--object', 'help'], check=True,
                            capture_output=True, text=True).stdout
    for command in ('amend', 'bench', 'bitmap', 'check', 'commit', 'compare',
                    'convert', 'create', 'dd', 'info', 'map', 'measure',
                    'rebase', 'resize', 'snapshot'):
        # The last word of resize is a size, whatever it is.
        p = subprocess.run([SLUICE, command, '--object', 'help', 'x', '1M'],
                           check=False, capture_output=True, text=True)
        assert (p.returncode, p.stdout, p.stderr) == (0, listed, ''), \
            (command, p)
    p = subprocess.run([SLUICE, 'info', '--object', 'secret,help'],
                       check=False, capture_output=True, text=True)
    assert p.returncode == 0 and 'file=<string>' in p.stdout, p


def ask_chardevs(q, directory):
    path = os.path.join(directory, 'extra.sock')
    unix = {'type': 'unix', 'data': {'path': path}}
    null = {'type': 'null', 'data': {}}
    told = [q.cmd('query-chardev'),
            desc(q, 'chardev-add', id='c1', backend=null),
            desc(q, 'chardev-add', id='c1', backend=null),
            desc(q, 'chardev-add', id='c2', backend={'type': 'nope'}),
            desc(q, 'chardev-change', id='zz', backend=null),
            desc(q, 'chardev-change', id='qmp0', backend=null),
            desc(q, 'chardev-send-break', id='zz'),
            desc(q, 'chardev-send-break', id='c1'),
            desc(q, 'chardev-remove', id='qmp0'),
            desc(q, 'chardev-change', id='c1', backend={
                'type': 'socket', 'data': {'addr': unix, 'server': True,
                                           'wait': False}})]
    told.append(sorted(q.cmd('query-chardev'), key=lambda c: c['label']))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        told.append(desc(q, 'chardev-remove', id='c1'))
        told.append(closed(client))
    told.append(os.path.exists(path))
    told.append(desc(q, 'chardev-remove', id='c1'))
    return told


def test_chardevs(d):
    os.mkdir(d + '/a')
    with Sluiced(d + '/a') as s:
        ours = ask_chardevs(s.qmp, d + '/a')
        kinds = {b['name'] for b in s.qmp.cmd('query-chardev-backends')}
        assert kinds == {'null', 'socket', 'stdio'}, kinds
        text = desc(s.qmp, 'chardev-add', id='x', backend={
            'type': 'socket', 'data': {'server': False, 'addr': {
                'type': 'unix', 'data': {'path': d + '/none'}}}})
        assert text.startswith("Failed to add chardev 'x': "), text
        s.qmp.cmd('chardev-add', id='left', backend={
            'type': 'socket', 'data': {'addr': {
                'type': 'unix', 'data': {'path': d + '/left'}}}})
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(d + '/left')
            s.stop()
    os.rename(d + '/a', d + '/old')
    os.mkdir(d + '/a')
    with Qsd(d + '/a') as s:
        theirs = ask_chardevs(s.qmp, d + '/a')
    for a, b in zip(ours, theirs):
        assert a == b, (a, b)


if __name__ == '__main__':
    run(globals())
