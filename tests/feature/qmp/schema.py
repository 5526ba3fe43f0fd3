#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Introspection: complete, closed, and true."""
from sluiced import Sluiced, run


def test_schema_is_closed(d):
    """Every type that is named is there, every entity once."""
    with Sluiced(d) as s:
        schema = s.qmp.cmd('query-qmp-schema')
        by_name = {e['name']: e for e in schema}
        assert len(by_name) == len(schema)
        for e in schema:
            used = [e[k] for k in ('arg-type', 'ret-type', 'element-type')
                    if k in e]
            if e['meta-type'] in ('object', 'alternate'):
                used += [m['type'] for m in e['members']]
            used += [v['type'] for v in e.get('variants', [])]
            for name in used:
                assert name in by_name, (e['name'], name)
        meta = {e['meta-type'] for e in schema}
        assert meta == {'command', 'event', 'object', 'enum', 'array',
                        'alternate', 'builtin'}, meta


def test_commands_agree(d):
    with Sluiced(d) as s:
        q = s.qmp
        listed = {c['name'] for c in q.cmd('query-commands')}
        declared = {e['name'] for e in q.cmd('query-qmp-schema')
                    if e['meta-type'] == 'command'}
        assert listed == declared
        for name in listed - {'quit', 'qmp_capabilities'}:
            err = q.execute(name, {'no-such-argument': 1}).get('error')
            # A missing one may be named first.
            assert err and ('is unexpected' in err['desc'] or
                            'is missing' in err['desc']), (name, err)


def test_stream_as_clients_look_for_it(d):
    with Sluiced(d) as s:
        by_name = {e['name']: e for e in s.qmp.cmd('query-qmp-schema')}
        members = by_name[by_name['block-stream']['arg-type']]['members']
        assert [m['name'] for m in members] == [
            'job-id', 'device', 'base', 'base-node', 'backing-file', 'bottom',
            'speed', 'on-error', 'filter-node-name', 'auto-finalize',
            'auto-dismiss', 'latency-target', 'floor', 'finish-by'], members
        assert [m['name'] for m in members if 'default' not in m] == ['device']
        add = by_name[by_name['blockdev-add']['arg-type']]
        assert add['tag'] == 'driver'
        assert {'qed', 'raw', 'file', 'nbd'} <= {v['case']
                                                 for v in add['variants']}


if __name__ == '__main__':
    run(globals())
