#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a client may send to a control socket, right and wrong."""
import json
import socket

from sluiced import Sluiced, run
from waiting import rest

READY = {'return': {}}


def desc(q, line):
    q.send_raw(line + '\n')
    return q.answer()['error']['desc']


def test_greeting_and_negotiation(d):
    with Sluiced(d) as s:
        q = s.connect(negotiate=False)
        version = q.greeting['QMP']['version']
        assert list(version['qemu']) == ['micro', 'minor', 'major'], version
        assert q.greeting['QMP']['capabilities'] == ['oob']
        err = q.execute('query-jobs')['error']
        assert err == {
            'class': 'CommandNotFound',
            'desc': "Expecting capabilities negotiation with "
                    "'qmp_capabilities'"}, err
        assert "'sausage'" in q.execute(
            'qmp_capabilities', {'enable': ['sausage']})['error']['desc']
        assert q.execute('qmp_capabilities') == READY
        err = q.execute('qmp_capabilities')['error']
        assert err == {
            'class': 'CommandNotFound',
            'desc': 'Capabilities negotiation is already complete, command '
                    'ignored'}, err
        q.close()


def test_id_and_key_order(d):
    with Sluiced(d) as s:
        q = s.qmp
        q.send_raw('{"execute": "query-jobs", "id": [1, {"a": null}]}\n')
        assert q.read_line() == '{"return": [], "id": [1, {"a": null}]}'
        q.send_raw('{"execute": "nope", "id": "x"}\n')
        assert q.read_line() == (
            '{"id": "x", "error": {"class": "CommandNotFound", "desc": '
            '"The command nope has not been found"}}')


def test_forms_of_input(d):
    with Sluiced(d) as s:
        q = s.qmp
        q.send_raw("{'execute': 'query-jobs'}\n")
        assert q.answer() == {'return': []}
        q.send_raw('{"execute"\n:\n"query-jobs"\n}')
        assert q.answer() == {'return': []}
        q.send_raw('{"execute":"query-jobs"}{"execute":"query-jobs"}')
        assert q.answer() == q.answer() == {'return': []}
        for c in '{"execute": "query-jobs", "id": "\\u00e9"}':
            q.send_raw(c)
        line = q.read_line()
        assert line == '{"return": [], "id": "\\u00E9"}', line


def test_malformed(d):
    with Sluiced(d) as s:
        q = s.qmp
        assert desc(q, '[1]') == 'QMP input must be a JSON object'
        assert desc(q, '{"foo": 1}') == "QMP input member 'foo' is unexpected"
        assert desc(q, '{"execute": 1}') == \
            "QMP input member 'execute' must be a string"
        assert desc(q, '{"execute": "x", "arguments": 1}') == \
            "QMP input member 'arguments' must be an object"
        assert desc(q, 'zork').startswith('JSON parse error')
        assert desc(q, '{]') == 'JSON parse error, expecting value'
        assert desc(q, '{"a": 1, "a": 2}').startswith('JSON parse error')
        q.send_raw(b'{"execute": "query-\xff"}\n')
        assert q.answer()['error']['desc'].startswith('JSON parse error')
        assert desc(q, '{"id": %s}' % ('9' * 400)).startswith('JSON parse err')
        assert q.cmd('query-jobs') == []


def test_arguments(d):
    with Sluiced(d) as s:
        q = s.qmp
        assert q.error('block-stream') == "Parameter 'device' is missing"
        assert q.error('block-stream', device=1) == \
            "Invalid parameter type for 'device', expected: string"
        assert q.error('block-stream', device='x', zzz=1) == \
            "Parameter 'zzz' is unexpected"
        assert q.error('block-stream', device='x', on_error='y') == \
            "Parameter 'on-error' does not accept value 'y'"
        assert q.error('blockdev-add', driver='raw', node_name='r',
                       file={'xyz': 1}) == "Parameter 'file.driver' is missing"
        assert q.error('blockdev-add', driver='raw', node_name='r',
                       file={'driver': 'null-co', 'xyz': 1}) == \
            "Parameter 'file.xyz' is unexpected"
        assert q.error('blockdev-add', driver='raw', node_name='r', file=7) == \
            "Invalid parameter type for 'file', expected: BlockdevRef"
        assert q.error('blockdev-reopen', options=[{'driver': 'raw'}]) == \
            "Parameter 'options[0].file' is missing"


def test_limits(d):
    with Sluiced(d) as s:
        q = s.qmp
        # 10 MB in a string, 10,000 brackets: one error each, nothing kept.
        q.send_raw('{"execute": "' + 'x' * (10 << 20) + '"}\n')
        assert 'longer than' in q.answer()['error']['desc']
        q.send_raw('[' * 10000 + ']' * 10000)
        assert 'deeper than' in q.answer()['error']['desc']
        many = {'k%d' % i: i for i in range(1100)}
        assert 'members' in q.execute('query-jobs', many)['error']['desc']
        deep = 1
        for _ in range(31):
            deep = [deep]
        q.send_raw(json.dumps({'execute': 'query-jobs', 'id': deep}))
        assert q.answer() == {'return': [], 'id': deep}
        assert q.cmd('query-jobs') == []


def test_half_a_command(d):
    with Sluiced(d) as s:
        for text in ('{"execute": "qu', '{"exec', "{'", ''):
            q = s.connect()
            q.send_raw(text)
            q.close()
        # What was asked before the end of input is answered.
        q = s.connect()
        q.send_raw('{"execute": "query-jobs"}{"exe')
        q.sock.shutdown(socket.SHUT_WR)
        assert q.answer() == {'return': []}
        assert s.qmp.cmd('query-jobs') == []


def test_many_connections(d):
    with Sluiced(d) as s:
        all_of_them = [s.connect() for _ in range(12)]
        for i, q in enumerate(all_of_them):
            q.cmd('blockdev-add', driver='null-co', node_name='n%d' % i)
        for q in all_of_them:
            q.close()
        assert len(s.qmp.cmd('query-named-block-nodes')) == 12


def test_client_that_does_not_read(d):
    """Its events are dropped with a marker; nobody else is held up."""
    with Sluiced(d) as s:
        deaf = s.connect()
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Far more than what fits a queue of 4 MiB and a socket.
        name = 'x' * 4000
        for _ in range(40):
            deaf.send_raw(''.join(
                '{"execute": "query-jobs", "id": "%s"}' % name
                for _ in range(1)))
        s.qmp.cmd('blockdev-add', driver='null-co', node_name='n')
        start = rest()
        for i in range(200):
            assert s.qmp.cmd('query-jobs') == []
        assert rest() - start < 20
        for _ in range(40):
            assert deaf.answer() == {'return': [], 'id': name}
        deaf.close()


def test_pretty(d):
    with Sluiced(d, '--chardev',
                 'socket,id=p,path=%s/p.sock,server=on,wait=off' % d,
                 '--monitor', 'chardev=p,mode=control,pretty=on') as s:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(d + '/p.sock')
        f = sock.makefile('rw', newline='')
        text = ''
        while not text.endswith('\n}\r\n'):
            text += f.readline()
        assert '\n    "QMP": {' in text, text
        assert json.loads(text)['QMP']
        # As QEMU has it, what is empty takes two lines, too.
        f.write('{"execute": "qmp_capabilities"}{"execute": "query-jobs"}')
        f.flush()
        text = ''.join(f.readline() for _ in range(8))
        assert text.replace('\r', '') == (
            '{\n    "return": {\n    }\n}\n'
            '{\n    "return": [\n    ]\n}\n'), text
        sock.close()
        assert s.qmp.cmd('query-jobs') == []


if __name__ == '__main__':
    run(globals())
