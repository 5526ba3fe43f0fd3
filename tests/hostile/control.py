#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Hostile or broken clients of the control socket: row VE3.  After each, the
same daemon answers others at once and has kept nothing."""
import json
import os
import random
import socket

from qmp import Qmp, QmpClosed
from seed import SEED
from sluiced import SANITIZED, Sluiced, run
from waiting import rest, until

MIB = 1 << 20


class Rig:
    def __init__(self, d):
        self.s = Sluiced(d, '--blockdev', 'null-co,node-name=n')

    def __enter__(self):
        self.s.__enter__()
        self.before = self.rss()
        return self

    def __exit__(self, kind, value, trace):
        if kind is None:
            self.check()
        self.s.__exit__(kind, value, trace)

    def rss(self):
        with open('/proc/%d/statm' % self.s.proc.pid, encoding='ascii') as f:
            return int(f.read().split()[1]) * os.sysconf('SC_PAGESIZE')

    def check(self, limit=64 * MIB):
        """Others are served; memory is bounded."""
        start = rest()
        assert self.s.qmp.cmd('query-named-block-nodes')
        assert rest() - start < 10
        assert SANITIZED or self.rss() - self.before < limit, self.rss()

    def error(self, q, data):
        q.send_raw(data)
        msg = q.answer()
        assert 'error' in msg, msg
        assert len(json.dumps(msg)) < 1000, 'the input is echoed'
        return msg['error']['desc']


def test_VE3_long_strings(d):
    with Rig(d) as r:
        q = r.s.connect()
        for data in ('"%s"' % ('x' * (10 * MIB)),
                     '{"execute": "%s"}' % ('x' * (10 * MIB)),
                     '{"execute": "query-block", "arguments": {"%s": 1}}'
                     % ('y' * (2 * MIB)),
                     '{"execute": "query-block", "id": "%s"}' % ('z' * 2 * MIB),
                     '9' * (3 * MIB) + ' ', '"' + '\\"' * MIB + '"'):
            assert 'longer' in r.error(q, data + '\n'), data[:30]
            r.check()
        # Just below the limit it is an ordinary mistake.
        q.send_raw('{"execute": "%s"}\n' % ('x' * (MIB - 100)))
        assert q.answer()['error']['class'] == 'CommandNotFound'
        assert q.cmd('query-jobs') == []
        q.close()


def test_VE3_deep_nesting(d):
    with Rig(d) as r:
        q = r.s.connect()
        for left, right in (('[', ']'), ('{"a":', '}'), ('[{"a":', '}]')):
            data = left * 10000 + '1' + right * 10000
            assert 'deeper' in r.error(q, data + '\n')
            data = '{"execute":"query-jobs","id":%s1%s}' % (left * 100,
                                                             right * 100)
            assert 'deeper' in r.error(q, data + '\n')
        q.close()
        q = r.s.connect()
        q.send_raw('[' * (2 * MIB))          # never closed
        r.check()
        q.close()


def test_VE3_invalid_utf8(d):
    with Rig(d) as r:
        q = r.s.connect()
        for bad in (b'\xff', b'\xc3(', b'\xc0\x80', b'\xed\xa0\x80',
                    b'\xf4\x90\x80\x80', b'\xe2\x82', b'\\ud800',
                    b'\\udc00\\ud800', b'\\u0000', b'\0'):
            for form in (b'{"execute": "query-%s"}', b'{"%s": 1}',
                         b'{"execute": "query-jobs", "id": "%s"}',
                         b'{"execute": "blockdev-del", "arguments": '
                         b'{"node-name": "%s"}}'):
                r.error(q, form % bad + b'\n')
        assert q.cmd('query-jobs') == []
        q.close()


def test_VE3_duplicate_keys_and_many_keys(d):
    with Rig(d) as r:
        q = r.s.connect()
        for data in ('{"execute": "query-jobs", "execute": "quit"}',
                     '{"execute": "blockdev-del", "arguments": '
                     '{"node-name": "x", "node-name": "n"}}',
                     '{"execute": "query-jobs", "id": {"a": 1, "a": 2}}'):
            r.error(q, data + '\n')
        many = ','.join('"k%d":1' % i for i in range(100000))
        r.error(q, '{"execute": "query-jobs", "arguments": {%s}}\n' % many)
        r.error(q, '{%s}\n' % many)
        q.close()


def test_VE3_huge_numbers(d):
    with Rig(d) as r:
        q = r.s.connect()
        for n in ('9223372036854775808', '-9223372036854775809', '1e400',
                  '-1e400', '9' * 1000, '1' + '0' * 100000, '0x10', '1e', '-',
                  '01', '.5', '+1', 'NaN', 'Infinity'):
            r.error(q, '{"execute": "block_resize", "arguments": {"node-name": '
                    '"n", "size": %s}}\n' % n)
        for n in ('-1', '9223372036854775807', '-9223372036854775808', '1.5',
                  '1e10', '-0.0', '1e-400'):
            q.send_raw('{"execute": "block-job-set-speed", "arguments": '
                       '{"device": "x", "speed": %s}}\n' % n)
            assert 'error' in q.answer(), n
        assert q.cmd('query-jobs') == []
        q.close()


def test_VE3_half_a_command_then_gone(d):
    whole = ("{'execute': 'blockdev-del', 'arguments': {'node-name': 'n'}, "
             "'id': \"\\u00e9\"").encode()
    with Rig(d) as r:
        fds = len(os.listdir('/proc/%d/fd' % r.s.proc.pid))
        for n in range(len(whole) + 1):
            q = r.s.connect()
            q.send_raw(whole[:n])
            if n % 2:
                q.sock.shutdown(socket.SHUT_WR)
                try:
                    while True:
                        q.read_line()
                except QmpClosed:
                    pass
            q.close()
        # None of the halves was carried out.
        assert len(r.s.qmp.cmd('query-named-block-nodes')) == 1
        until(lambda: len(os.listdir('/proc/%d/fd' % r.s.proc.pid)) <= fds,
              'descriptors to be given back')


def test_VE3_commands_without_reading_replies(d):
    with Rig(d) as r:
        deaf = [r.s.connect() for _ in range(4)]
        for q in deaf:
            q.sock.settimeout(0.2)
            try:
                for _ in range(400):
                    q.sock.sendall(b'{"execute": "query-qmp-schema"}' * 20)
            except OSError:
                pass
            r.check()
        for i in range(100):
            r.s.qmp.cmd('blockdev-add', driver='null-co', node_name='x')
            r.s.qmp.cmd('blockdev-del', node_name='x')
        r.check()
        for q in deaf:
            q.close()
        r.check()


def test_VE3_random_bytes(d):
    rnd = random.Random(SEED)
    words = [b'{', b'}', b'[', b']', b'"', b"'", b'\\', b':', b',', b'execute',
             b'query-jobs', b'id', b'\0', b'\xff', b'\n', b'1', b'null', b' ']
    with Rig(d) as r:
        for i in range(60):
            q = r.s.connect(negotiate=bool(i % 2))
            q.sock.settimeout(0.5)
            try:
                if i % 3 == 0:
                    q.send_raw(rnd.randbytes(20000))
                else:
                    q.send_raw(b''.join(rnd.choices(words, k=3000)))
            except OSError:
                pass
            q.close()
        assert len(r.s.qmp.cmd('query-named-block-nodes')) == 1


def test_VE3_the_human_monitor(d):
    hmp = d + '/hmp'
    with Sluiced(d, '--blockdev', 'null-co,node-name=n', '--chardev',
                 'socket,id=h,path=%s,server=on,wait=off' % hmp,
                 '--monitor', 'h,mode=readline') as s:
        for data in (b'x' * (10 * MIB) + b'\n', b'\xff\xfe\n', b'info "\n',
                     b'info block\0x\n', b"'" * 3000 + b'\n',
                     b'block_stream %s%s%n\n', b'help ' * 1000 + b'\n',
                     b'drive_add\n' * 1000, b'info '):
            c = socket.socket(socket.AF_UNIX)
            c.connect(hmp)
            try:
                c.sendall(data)
                c.shutdown(socket.SHUT_WR)
                while c.recv(65536):
                    pass
            except OSError:
                pass
            c.close()
            assert s.qmp.cmd('query-named-block-nodes')
        assert s.qmp.hmp('info block') == ''


def test_VE3_many_connections(d):
    with Rig(d) as r:
        crowd = []
        for _ in range(200):
            c = socket.socket(socket.AF_UNIX)
            c.connect(r.s.socket)
            crowd.append(c)
        r.check()
        for c in crowd:
            c.close()
        # Those that have gone free their places when the daemon notices.
        def attempt():
            try:
                return Qmp.connect(r.s.socket)
            except (QmpClosed, OSError):
                return None
        assert until(attempt, 'a place').cmd('query-jobs') == []


if __name__ == '__main__':
    run(globals())
