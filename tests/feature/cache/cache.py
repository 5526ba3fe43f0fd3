#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host cache over the ends of daemons, versions of its base, damage, and a
disk that is full."""
import json
import os
import subprocess
import time

from qmp import QmpError
from rig import (BLOCK, MIB, Web, cache_node, completed, daemon, overlay_node,
                 read, same, start_stream, table)
from sluiced import Skip, Sluiced, run
from waiting import until

SIZE = 8 * MIB
# What opening the base reads.
LITTLE = MIB // 4


def stream(d, web, base, **options):
    """Stream a new overlay in a daemon of its own; bytes that were fetched,
    and the events of the cache."""
    before = web.fetched()
    with daemon(d, web, cache_node(d, **options),
                overlay_node(d, SIZE)) as s:
        start_stream(s)
        completed(s)
        events = [e for e in s.qmp.take_events()
                  if e['event'].startswith('BLOCK_CACHE')]
    same(d, base)
    return web.fetched() - before, events


def test_restart(d):
    """What it has it has after an end of any kind."""
    with Web(d) as web:
        path = web.base(SIZE)
        assert SIZE <= stream(d, web, path)[0] <= SIZE * 1.05
        assert stream(d, web, path)[0] <= LITTLE
        os.unlink(d + '/cache')
        s = daemon(d, web, cache_node(d))
        read(s, 0, SIZE)
        # A guest does not wait until its bytes are in the file.
        until(lambda: table(d)[1] == SIZE // BLOCK, 'the cache')
        s.kill()
        assert stream(d, web, path)[0] <= LITTLE
        # The limit is part of what the file is.
        assert stream(d, web, path, size=32 * MIB)[0] >= SIZE


def test_version(d):
    """Another version of the base, of the same length, is never mixed in."""
    with Web(d) as web:
        now = int(time.time())
        for i in range(4):
            path = web.base(SIZE, seed=i % 2, when=now - 100 * i)
            assert stream(d, web, path)[0] >= SIZE
            assert stream(d, web, path)[0] <= LITTLE


def test_base_without_version(d):
    """... keeps nothing, unless somebody says its version."""
    null = {'driver': 'null-co', 'node-name': 'web', 'size': MIB,
            'read-only': True}

    def epoch(**options):
        words = []
        for node in (null, cache_node(d, **options)):
            words += ['--blockdev', json.dumps(node)]
        with Sluiced(d, *words) as s:
            read(s, 0, MIB)
        assert ('nothing tells the version' in s.errors()) == (not options)
        os.unlink(d + '/sluiced.err')
        assert table(d)[1] == MIB // BLOCK
        return table(d)[0]
    assert epoch() != epoch()
    first = epoch(**{'base-version': '1'})
    assert first == epoch(**{'base-version': '1'})
    assert first != epoch(**{'base-version': '2'})


def test_damage(d):
    """One byte of every second block, the header, the table, the length."""
    with Web(d) as web:
        path = web.base(SIZE)
        stream(d, web, path)
        size = os.stat(d + '/cache').st_size
        first = size - SIZE
        with open(d + '/cache', 'r+b') as f:
            for at in range(first, size, 2 * BLOCK):
                f.seek(at + 4321)
                byte = f.read(1)[0]
                f.seek(at + 4321)
                f.write(bytes([byte ^ 1]))
        fetched, events = stream(d, web, path)
        assert SIZE // 2 <= fetched <= SIZE // 2 + LITTLE, fetched
        assert len(events) == SIZE // BLOCK // 2, events
        assert all(e['event'] == 'BLOCK_CACHE_DAMAGED' and
                   e['data']['node-name'] == 'cache' for e in events)
        assert stream(d, web, path)[0] <= LITTLE
        # Its table.
        with open(d + '/cache', 'r+b') as f:
            f.seek(4096)
            f.write(bytes(40))
        assert stream(d, web, path)[0] <= LITTLE + 2 * BLOCK
        # Cut off.
        size = os.stat(d + '/cache').st_size
        os.truncate(d + '/cache', size - SIZE // 2)
        fetched, _ = stream(d, web, path)
        assert BLOCK <= fetched <= SIZE // 2 + LITTLE, fetched
        # Its header.
        with open(d + '/cache', 'r+b') as f:
            f.seek(30)
            f.write(b'x')
        assert stream(d, web, path)[0] >= SIZE


def test_eviction(d):
    """Little room: what is used stays."""
    with Web(d) as web:
        web.base(SIZE)
        with daemon(d, web, cache_node(d, size=MIB)) as s:
            for block in range(1, SIZE // BLOCK):
                read(s, 0)
                read(s, block * BLOCK)
            before = web.fetched()
            read(s, 0)
            read(s, SIZE - 512)
            assert web.fetched() == before
            read(s, BLOCK)
            assert web.fetched() > before
        assert os.stat(d + '/cache').st_size <= MIB


def test_full_disk(d):
    """The cache goes off, and the guest notices nothing."""
    small = d + '/small'
    os.mkdir(small)
    p = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'small',
                        small], capture_output=True, text=True, check=False)
    if p.returncode:
        raise Skip('no right to mount')
    try:
        with Web(d) as web:
            path = web.base(SIZE)
            fetched, events = stream(d, web, path, path=small + '/cache')
            assert fetched <= SIZE * 1.05, fetched
            assert [e['event'] for e in events] == ['BLOCK_CACHE_OFF'], events
            assert 'No space left' in events[0]['data']['reason'], events
            # What is in it is used.
            fetched, events = stream(d, web, path, path=small + '/cache')
            assert fetched <= SIZE - MIB, fetched
    finally:
        subprocess.run(['umount', small], check=True)


def test_refused(d):
    with Web(d) as web:
        web.base(MIB)
        with open(d + '/disk', 'wb') as f:
            f.write(b'precious' * 1000)
        with daemon(d, web, cache_node(d)) as s:
            for options, want in (
                    ({'path': d + '/disk'}, 'is not the file of a cache'),
                    ({'path': d + '/cache'}, 'is in use'),
                    ({'path': d + '/none/cache'}, 'No such file'),
                    ({'path': '/dev/null'}, 'is not the file of a cache'),
                    ({'block-size': 3000}, 'expects a power of two'),
                    ({'block-size': 2048}, 'expects a power of two'),
                    ({'size': 10000}, 'has no room for a block'),
                    ({'file': 'cache2'}, "node-name='cache2'")):
                node = dict(cache_node(d, path=d + '/other', file='web'),
                            **{'node-name': 'x'})
                try:
                    s.qmp.cmd('blockdev-add', dict(node, **options))
                    raise RuntimeError('opened with %s' % options)
                except QmpError as e:
                    assert want in str(e), (options, e)
            s.qmp.cmd('blockdev-add', {
                'driver': 'file', 'node-name': 'rw', 'filename': d + '/disk'})
            text = s.qmp.error('blockdev-add', dict(
                cache_node(d, path=d + '/other', file='rw'),
                **{'node-name': 'x', 'read-only': False}))
            assert 'needs a base that is read-only' in text, text
        with open(d + '/disk', 'rb') as f:
            assert f.read() == b'precious' * 1000


if __name__ == '__main__':
    run(globals())
