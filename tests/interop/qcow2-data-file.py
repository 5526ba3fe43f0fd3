#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""qcow2 images whose data is in another file: made, described, mapped, resized
and checked by us and by qemu-img; named by options and by nothing else."""
import itertools
import json
import os
import random
import subprocess

from qmp import QmpError
from seed import SEED
from sluiced import SLUICE, Sluiced, qemu_img, run, run_tool, write_pattern

KIB, MIB = 1 << 10, 1 << 20


def tool(d, name, *words):
    """(status, words without the name of the program)"""
    p = subprocess.run([name, *words], cwd=d, capture_output=True, text=True,
                       check=False)
    text = p.stdout + p.stderr
    return p.returncode, text.replace('sluice:', '').replace('qemu-img:', '')


def ours(d, *words):
    status, text = tool(d, SLUICE, *words)
    assert status == 0, (words, text)
    return text


def refusal(d, *words):
    status, text = tool(d, SLUICE, *words)
    assert status == 1, (words, text)
    return text


def named(image='i.qcow2', data='i.data'):
    return 'driver=qcow2,file.filename=%s,data-file.filename=%s' % (image, data)


def read(d, name):
    with open(os.path.join(d, name), 'rb') as f:
        return f.read()


NODE = named() + ',node-name=n,file.driver=file,data-file.driver=file'


def facts(text):
    info = json.loads(text)
    info.pop('actual-size')
    info.pop('filename')
    return info


def kinds():
    for cluster, ext, pre, raw in itertools.product(
            ('512', '64k', '2M'), ('off', 'on'),
            ('off', 'metadata', 'falloc', 'full'), ('off', 'on')):
        if cluster == '64k' or (ext == 'off' and pre in ('off', 'metadata')):
            yield 'cluster_size=%s,extended_l2=%s,preallocation=%s,' \
                'data_file=i.data,data_file_raw=%s' % (cluster, ext, pre, raw)


def test_create(d):
    """The same words, the same facts, a data file of the size of the disk, and
    images that either program finds whole and empty."""
    for i, options in enumerate(kinds()):
        seen, size = [], (0, 1000, 3 * MIB + 512)[i % 3]
        for name in (SLUICE, 'qemu-img'):
            words = tool(d, name, 'create', '-f', 'qcow2', '-o', options,
                         'i.qcow2', str(size))
            assert words[0] == 0, (options, words)
            qemu_img('check', '-q', '--image-opts',
                     named(d + '/i.qcow2', d + '/i.data'))
            ours(d, 'check', '-q', 'i.qcow2')
            rooms = os.stat(d + '/i.data')
            seen.append((words, facts(ours(d, 'info', '--output=json',
                                           'i.qcow2'))))
            # Theirs may end with a whole cluster.
            whole = (size + 511) // 512 * 512
            assert rooms.st_size == whole or (
                name != SLUICE and rooms.st_size > whole), options
            if 'full' in options or 'falloc' in options:
                assert rooms.st_blocks * 512 >= size or name != SLUICE
            for reader in ('qemu-img', SLUICE):
                tool(d, reader, 'convert', '--image-opts', named(), '-O', 'raw',
                     'out.raw')
                assert read(d, 'out.raw') == bytes(whole), (options, reader)
        assert seen[0] == seen[1], seen
        os.unlink(d + '/i.qcow2')
        os.unlink(d + '/i.data')


def test_contents(d):
    """What one fills the other reads; map and compare agree."""
    rng = random.Random(SEED)
    for options in kinds():
        for maker in (SLUICE, 'qemu-img'):
            run_tool('sh', '-c', 'cd %s && rm -f *.raw' % d)
            assert tool(d, maker, 'create', '-q', '-f', 'qcow2', '-o', options,
                        'i.qcow2', '5M')[0] == 0
            words = []
            for _ in range(12):
                off = rng.randrange(0, 5 * MIB - 300 * KIB) // 512 * 512
                words += ['-c', '%s %d %d' % (
                    rng.choice(['write -P 7', 'write -P 9', 'write -z',
                                'write -z -u', 'discard']), off,
                    rng.choice([512, 4096, 64 * KIB, 200 * KIB]))]
            subprocess.run(['qemu-io', '-d', 'unmap', *words, 'i.qcow2'],
                           cwd=d, check=True, stdout=subprocess.DEVNULL)
            outs = []
            for reader in (SLUICE, 'qemu-img'):
                assert tool(d, reader, 'convert', '--image-opts', named(), '-O',
                            'raw', 'out.raw')[0] == 0
                outs.append(read(d, 'out.raw'))
            assert outs[0] == outs[1], options
            if 'raw=on' in options:
                # Theirs may end with a whole cluster.
                assert outs[0] == read(d, 'i.data')[:5 * MIB], options
            # They look at holes of a file with preallocated tables, and show
            # parts of clusters that are not there.
            if 'extended_l2=off,preallocation=off' in options and \
                    'raw=off' in options:
                seen = {}
                for form in ('json', 'human'):
                    maps = [tool(d, t, 'map', '--output=' + form,
                                 '--image-opts', named())
                            for t in (SLUICE, 'qemu-img')]
                    assert maps[0] == maps[1], (options, maps)
                    seen[form] = maps[0][1]
                # By chance there may be no data at all.
                assert ('i.data' in seen['human']) == any(
                    e['data'] and not e['zero']
                    for e in json.loads(seen['json'])), seen
            ours(d, 'compare', '--image-opts', named(),
                 'driver=raw,file.filename=out.raw')


def test_convert(d):
    """Into such images and out of them; measured as the others are."""
    write_pattern(d + '/src.raw', 3 * MIB + 512, seed=SEED, block=512)
    with open(d + '/src.raw', 'r+b') as f:
        f.seek(MIB)
        f.write(bytes(MIB))
    for options in ('', ',data_file_raw=on', ',extended_l2=on',
                    ',cluster_size=512', ',preallocation=full'):
        ours(d, 'convert', '-f', 'raw', '-O', 'qcow2', '-o',
             'data_file=i.data' + options, 'src.raw', 'i.qcow2')
        assert tool(d, 'qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw',
                    'i.qcow2', 'src.raw')[0] == 0, options
        assert tool(d, 'qemu-img', 'check', 'i.qcow2')[0] == 0
        if 'raw' in options:
            assert read(d, 'i.data') == read(d, 'src.raw')
        ours(d, 'convert', '-n', '--image-opts', '--target-image-opts',
             named(), 'driver=raw,file.filename=src.raw')
        os.truncate(d + '/src.raw', 3 * MIB + 512)
        for words in (['-O', 'qcow2', '-o', 'data_file=x' + options, '--size',
                       '1G'],
                      ['-O', 'qcow2', '-o', 'data_file=x' + options,
                       'src.raw']):
            both = [tool(d, t, 'measure', *words)
                    for t in (SLUICE, 'qemu-img')]
            assert both[0] == both[1], both
    text = refusal(d, 'convert', '-c', '-O', 'qcow2', '-o', 'data_file=i.data',
                   'src.raw', 'i.qcow2')
    assert 'Compression not supported' in text, text
    before = read(d, 'src.raw')
    for words in (['-f', 'raw', 'src.raw', 'i.qcow2'],
                  ['--image-opts', named('i.qcow2', 'src.raw'), 'j.qcow2']):
        text = refusal(d, 'convert', '-O', 'qcow2', '-o', 'data_file=src.raw',
                       *words)
        assert "'src.raw' is read by this command" in text, text
        assert read(d, 'src.raw') == before


def test_convert_over(d):
    """Onto a data file that holds something: its old bytes do not show."""
    for options in ('', ',data_file_raw=on'):
        write_pattern(d + '/i.data', 4 * MIB, seed=SEED)
        write_pattern(d + '/src.raw', MIB, seed=SEED + 1)
        os.truncate(d + '/src.raw', 2 * MIB)
        ours(d, 'convert', '-f', 'raw', '-O', 'qcow2', '-o', 'data_file=i.data'
             + options, 'src.raw', 'i.qcow2')
        assert tool(d, 'qemu-img', 'compare', 'i.qcow2', 'src.raw')[0] == 0
        assert os.stat(d + '/i.data').st_size == 2 * MIB


def test_data_on_an_export(d):
    """Storage that holds something: a raw one is the disk, another does not
    show it, also where clusters get their places in advance."""
    sock = d + '/nbd.sock'
    uri = 'nbd+unix:///x?socket=' + sock
    with open(d + '/src.raw', 'wb') as f:
        f.truncate(3 * MIB)
        f.seek(MIB)
        f.write(b'sluice' * 9000)
    for pre, more in itertools.product(
            ('off', 'metadata', 'falloc', 'full'),
            ('data_file_raw=off', 'data_file_raw=on', 'extended_l2=on')):
        write_pattern(d + '/disk', 4 * MIB, seed=SEED)
        before = read(d, 'disk')
        options = 'data_file=%s,preallocation=%s,%s' % (uri, pre, more)
        with Sluiced(d, '--blockdev', 'file,node-name=n,discard=unmap,'
                     'filename=disk', '--nbd-server', 'addr.type=unix,'
                     'addr.path=' + sock, '--export',
                     'nbd,id=e,node-name=n,name=x,writable=on'):
            assert 'The data file has' in refusal(
                d, 'create', '-f', 'qcow2', '-o', options, 'i.qcow2', '5M')
            ours(d, 'create', '-q', '-f', 'qcow2', '-o', options, 'i.qcow2',
                 '3M')
            ours(d, 'convert', '--image-opts', '-O', 'raw',
                 named('i.qcow2', uri), 'out.raw')
            kept = more == 'data_file_raw=on' and pre in ('off', 'metadata')
            assert read(d, 'out.raw') == (before[:3 * MIB] if kept else
                                          bytes(3 * MIB)), options
            ours(d, 'convert', '-f', 'raw', '-O', 'qcow2', '-o', options,
                 'src.raw', 'i.qcow2')
            ours(d, 'convert', '--image-opts', '-O', 'raw',
                 named('i.qcow2', uri), 'out.raw')
        assert read(d, 'out.raw') == read(d, 'src.raw'), options
        if more == 'data_file_raw=on':
            assert read(d, 'disk')[:3 * MIB] == read(d, 'src.raw')
        assert tool(d, 'qemu-img', 'compare', '--image-opts',
                    'driver=raw,file.filename=src.raw',
                    named('i.qcow2', 'disk'))[0] == 0
        if os.path.exists(sock):
            os.unlink(sock)


def test_resize_on_an_export(d):
    """What was cut off does not come back, though storage still has it."""
    sock = d + '/nbd.sock'
    uri = 'nbd+unix:///x?socket=' + sock
    write_pattern(d + '/disk', 3 * MIB, seed=SEED)
    before = read(d, 'disk')
    with Sluiced(d, '--blockdev', 'file,node-name=n,discard=unmap,'
                 'filename=disk', '--nbd-server', 'addr.type=unix,'
                 'addr.path=' + sock, '--export',
                 'nbd,id=e,node-name=n,name=x,writable=on'):
        ours(d, 'create', '-q', '-f', 'qcow2', '-o',
             'data_file=%s,data_file_raw=on' % uri, 'i.qcow2', '3M')
        os.mkdir(d + '/other')
        with Sluiced(d + '/other', '--blockdev', 'driver=qcow2,node-name=q,'
                     'file.driver=file,file.filename=%s/i.qcow2,'
                     'data-file.driver=nbd,data-file.server.type=unix,'
                     'data-file.export=x,data-file.server.path=%s'
                     % (d, sock)) as s:
            for size in (MIB + 512, 3 * MIB):
                s.qmp.cmd('block_resize', {'node-name': 'q', 'size': size})
    assert read(d, 'disk') == before[:MIB + 512] + bytes(2 * MIB - 512)


def test_resize(d):
    """The data file has the size of the disk afterwards; what is new is zero,
    in a raw one by its own bytes, even where it was longer."""
    for raw, ext in itertools.product(('off', 'on'), ('off', 'on')):
        ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data,'
             'data_file_raw=%s,extended_l2=%s' % (raw, ext), 'i.qcow2', '1000k')
        subprocess.run(['qemu-io', '-c', 'write -P 5 0 1000k', 'i.qcow2'],
                       cwd=d, check=True, stdout=subprocess.DEVNULL)
        with open(d + '/i.data', 'ab') as f:
            f.write(b'junk' * 64 * KIB)          # nobody's
        want = b'\5' * 1000 * KIB
        for size, flags in ((1100 * KIB, []), (1300 * KIB, []),
                            (40 * MIB, []), (512 * KIB, ['--shrink']),
                            (700 * KIB + 512, [])):
            ours(d, 'resize', *flags, '--image-opts', named(), str(size))
            want = (want + bytes(max(0, min(size, 2 * MIB) - len(want))))[:size]
            assert os.stat(d + '/i.data').st_size == size, size
            assert tool(d, 'qemu-img', 'check', 'i.qcow2')[0] == 0
            for reader in (SLUICE, 'qemu-img'):
                assert tool(d, reader, 'dd', '-O', 'raw', 'bs=1M', 'count=2',
                            'if=' + ('json:{"driver": "qcow2", "file": '
                                     '{"driver": "file", "filename": '
                                     '"i.qcow2"}, "data-file": {"driver": '
                                     '"file", "filename": "i.data"}}'),
                            'of=out.raw')[0] == 0
                got = read(d, 'out.raw')[:2 * MIB]
                assert got.rstrip(b'\0') == want.rstrip(b'\0'), (size, raw)
            if raw == 'on':
                with open(d + '/i.data', 'rb') as f:
                    got = f.read(2 * MIB)
                assert got == want[:2 * MIB], size
                text = ours(d, 'map', '--output=json', '--image-opts', named())
                assert [e['present'] for e in json.loads(text)] == [True], text


def test_short_file(d):
    """What it lacks reads as zeroes, and is made up for by a writer."""
    ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data', 'i.qcow2',
         '1M')
    subprocess.run(['qemu-io', '-c', 'write -P 5 0 1M', 'i.qcow2'], cwd=d,
                   check=True, stdout=subprocess.DEVNULL)
    os.truncate(d + '/i.data', 100000)
    ours(d, 'convert', '--image-opts', named(), '-O', 'raw', 'out.raw')
    assert read(d, 'out.raw') == b'\5' * 100000 + bytes(MIB - 100000)
    assert os.stat(d + '/i.data').st_size == 100000
    with Sluiced(d, '--blockdev', NODE):
        assert os.stat(d + '/i.data').st_size == MIB


def test_names(d):
    """Nothing is opened but what an option names."""
    ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data', 'i.qcow2',
         '1M')
    text = refusal(d, 'map', 'i.qcow2')
    assert "'data-file' is required for this image" in text and \
        "(its header says 'i.data')" in text and \
        'data-file.filename=FILE' in text, text
    ours(d, 'create', '-q', '-f', 'qcow2', '-b', 'i.qcow2', '-F', 'qcow2',
         'top.qcow2')
    text = refusal(d, 'map', 'top.qcow2')
    assert "backing file: 'data-file' is required" in text, text
    ours(d, 'info', '--backing-chain', 'top.qcow2')
    ours(d, 'map', '--image-opts', 'driver=qcow2,file.filename=top.qcow2,'
         'backing.data-file.filename=i.data')
    ours(d, 'create', '-q', '-f', 'qcow2', 'plain.qcow2', '1M')
    both = [tool(d, t, 'map', '--image-opts', named('plain.qcow2'))
            for t in (SLUICE, 'qemu-img')]
    assert both[0] == both[1] and both[0][0] == 1, both
    text = refusal(d, 'map', '--image-opts', named('i.qcow2', 'i.qcow2'))
    assert 'cannot be the image itself' in text, text
    os.link(d + '/i.qcow2', d + '/other-name')
    text = refusal(d, 'map', '--image-opts', named('i.qcow2', 'other-name'))
    assert 'cannot be the image itself' in text, text
    text = refusal(d, 'map', '--image-opts', named('i.qcow2', 'nowhere'))
    assert "'nowhere': No such file" in text, text
    # No name at all: another extension now.
    with open(d + '/i.qcow2', 'r+b') as f:
        f.seek(f.read(512).index(b'\x44\x41\x54\x41'))
        f.write(b'\x12\x34\x56\x78')
    for words in ('info', 'check'):
        ours(d, words, 'i.qcow2')
    assert 'in another file\n' in refusal(d, 'map', 'i.qcow2')
    ours(d, 'map', '--image-opts', named())


def test_creation_spares_others(d):
    """The image, its base and what somebody uses are not emptied."""
    write_pattern(d + '/base.raw', MIB, seed=SEED)
    before = read(d, 'base.raw')
    for words, text in (
            (['-o', 'data_file=x'], 'lock'),
            (['-o', 'data_file=base.raw', '-b', 'base.raw', '-F', 'raw'],
             "The data file 'base.raw' is its backing file"),
            (['-o', 'data_file=./base.raw', '-b', 'base.raw', '-F', 'raw'],
             'is its backing file'),
            (['-o', 'data_file=' + './' * 200 + 'x,cluster_size=512'],
             'names do not fit'),
            (['-o', 'data_file=json:{}'], "Unknown protocol 'json'"),
            (['-o', 'data_file='], "Could not create ''"),
            (['-o', 'data_file=no/such/folder'], "'no/such/folder'"),
            (['-o', 'data_file=d2,data_file_raw=on,encrypt.format=luks,'
              'encrypt.key-secret=s', '--object', 'secret,id=s,data=x'],
             'Encryption and data-file-raw')):
        got = refusal(d, 'create', '-f', 'qcow2', *words, 'x', '1M')
        assert text in got, (words, got)
        assert os.listdir(d) == ['base.raw'] and read(d, 'base.raw') == before
    ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data', 'i.qcow2',
         '1M')
    with Sluiced(d, '--blockdev', NODE):
        for words in (['-f', 'raw', 'i.data'],
                      ['-f', 'qcow2', '-o', 'data_file=i.data', 'x'],
                      ['-f', 'qcow2', 'i.data']):
            assert 'lock' in refusal(d, 'create', *words, '1M')
        assert tool(d, 'qemu-io', '-c', 'write 0 512', '-f', 'raw',
                    'i.data')[0] == 1
        assert os.stat(d + '/i.data').st_size == MIB


def test_raw_without_backing(d):
    """A raw data file and a backing file exclude each other."""
    ours(d, 'create', '-q', '-f', 'qcow2', '-o',
         'data_file=i.data,data_file_raw=on', 'i.qcow2', '1M')
    ours(d, 'create', '-q', '-f', 'qcow2', 'base.qcow2', '1M')
    for t in (SLUICE, 'qemu-img'):
        assert tool(d, t, 'rebase', '-u', '-b', 'base.qcow2', '-F', 'qcow2',
                    '--image-opts', named())[0] == 1
    text = refusal(d, 'map', '--image-opts',
                   named() + ',backing.driver=qcow2,backing.file.filename='
                   'base.qcow2')
    assert 'raw cannot have a backing file' in text, text
    # A header that says both.
    with open(d + '/i.qcow2', 'r+b') as f:
        f.seek(8)
        f.write((600).to_bytes(8, 'big') + (10).to_bytes(4, 'big'))
        f.seek(600)
        f.write(b'base.qcow2')
    ours(d, 'info', 'i.qcow2')
    assert 'raw cannot have' in refusal(d, 'map', '--image-opts', named())
    ours(d, 'map', '--image-opts', named() + ',backing=')
    # The bit without a data file.
    with open(d + '/base.qcow2', 'r+b') as f:
        f.seek(88)
        f.write((2).to_bytes(8, 'big'))
    ours(d, 'info', 'base.qcow2')
    both = [tool(d, t, 'map', 'base.qcow2') for t in (SLUICE, 'qemu-img')]
    assert both[0] == both[1], both


def test_wrong_place(d):
    """A cluster that is not where it must be: refused by both, found and
    repaired by us."""
    for raw in ('off', 'on'):
        ours(d, 'create', '-q', '-f', 'qcow2', '-o',
             'data_file=i.data,data_file_raw=' + raw, 'i.qcow2', '1M')
        subprocess.run(['qemu-io', '-c', 'write -P 5 0 1M', 'i.qcow2'], cwd=d,
                       check=True, stdout=subprocess.DEVNULL)
        with open(d + '/i.qcow2', 'r+b') as f:
            head = f.read(48)
            f.seek(int.from_bytes(head[40:48], 'big'))
            l2 = int.from_bytes(f.read(8), 'big') & 0xfffffffffffe00
            f.seek(l2 + 3 * 8)
            f.write((1 << 63 | 65536).to_bytes(8, 'big'))
        for t in (SLUICE, 'qemu-img'):
            got = tool(d, t, 'convert', '--image-opts', named(), '-O', 'raw',
                       'out.raw')
            assert got[0] == 1, (t, got)
        status, text = tool(d, SLUICE, 'check', 'i.qcow2')
        assert status == 2 and 'not at its guest offset' in text, text
        status, text = tool(d, SLUICE, 'check', '-r', 'all', 'i.qcow2')
        assert status == 0, text
        ours(d, 'convert', '--image-opts', named(), '-O', 'raw', 'out.raw')
        want = bytearray(b'\5' * MIB)
        if raw == 'off':
            want[3 * 65536:4 * 65536] = bytes(65536)
        assert read(d, 'out.raw') == want
        assert tool(d, 'qemu-img', 'compare', 'out.raw', 'i.qcow2')[0] == 0


def test_chain_work(d):
    """Commit and rebase over and onto images with data files."""
    write_pattern(d + '/base.raw', MIB, seed=SEED)
    for options in ('data_file=mid.data', 'data_file=mid.data,extended_l2=on'):
        ours(d, 'create', '-q', '-f', 'qcow2', '-o', options, '-b', 'base.raw',
             '-F', 'raw', 'mid.qcow2')
        qemu_img('create', '-q', '-f', 'qcow2', '-o',
                 'data_file=%s/top.data' % d, '-b', 'mid.qcow2', '-F', 'qcow2',
                 d + '/top.qcow2')
        chain = named('top.qcow2', 'top.data') + \
            ',backing.data-file.filename=mid.data'
        for off, byte in ((100 * KIB, 1), (600 * KIB, 2)):
            subprocess.run(['qemu-io', '-c', 'write -P %d %d 60k' % (byte, off),
                            '--image-opts', chain], cwd=d, check=True,
                           stdout=subprocess.DEVNULL)
        ours(d, 'convert', '--image-opts', chain, '-O', 'raw', 'before.raw')
        ours(d, 'commit', '--image-opts', chain)
        for image, data in (('top', 'top'), ('mid', 'mid')):
            assert tool(d, 'qemu-img', 'check', '--image-opts',
                        named(image + '.qcow2', data + '.data'))[0] == 0
        assert tool(d, 'qemu-img', 'compare', 'before.raw',
                    'mid.qcow2')[0] == 0
        assert tool(d, 'qemu-img', 'compare', 'before.raw',
                    'top.qcow2')[0] == 0
        ours(d, 'rebase', '-b', 'base.raw', '-F', 'raw', '--image-opts', chain)
        assert tool(d, 'qemu-img', 'compare', 'before.raw',
                    'top.qcow2')[0] == 0
        ours(d, 'rebase', '-b', '', '--image-opts',
             named('top.qcow2', 'top.data'))
        os.rename(d + '/base.raw', d + '/away')
        assert tool(d, 'qemu-img', 'compare', 'before.raw',
                    'top.qcow2')[0] == 0
        os.rename(d + '/away', d + '/base.raw')


def test_encrypted(d):
    """Ciphertext in the data file, readable by both."""
    secret = ['--object', 'secret,id=s,data=pass']
    for maker, reader in ((SLUICE, 'qemu-img'), ('qemu-img', SLUICE)):
        write_pattern(d + '/src.raw', MIB, seed=SEED)
        for words in (['create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data,'
                       'encrypt.format=luks,encrypt.key-secret=s,'
                       'encrypt.iter-time=10', 'i.qcow2', '1M'],
                      ['convert', '-n', '--image-opts', '--target-image-opts',
                       'driver=raw,file.filename=src.raw',
                       named() + ',encrypt.key-secret=s']):
            got = tool(d, maker, words[0], *secret, *words[1:])
            while 'accurate CPU usage' in got[1]:  # the clock was too coarse
                got = tool(d, maker, words[0], *secret, *words[1:])
            assert got[0] == 0, got
        assert read(d, 'i.data') != read(d, 'src.raw')
        got = tool(d, reader, 'compare', *secret, '--image-opts',
                   'driver=raw,file.filename=src.raw',
                   named() + ',encrypt.key-secret=s')
        assert got[0] == 0, got


def test_snapshots(d):
    """Refused, in words where qemu-img gives a number."""
    ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data', 'i.qcow2',
         '1M')
    for words in (['-c', 'x'], ['-l']):
        both = [tool(d, t, 'snapshot', *words, '--image-opts', named())
                for t in (SLUICE, 'qemu-img')]
        assert both[0][0] == both[1][0] and '-95' not in both[0][1], both
        assert words == ['-c', 'x'] or both[0] == both[1], both


def test_daemon(d):
    """Node names, reopening, read-only, and what stays as it was."""
    ours(d, 'create', '-q', '-f', 'qcow2', '-o', 'data_file=i.data', 'i.qcow2',
         '1M')
    with Sluiced(d, '--blockdev', 'file,node-name=data,filename=i.data,'
                 'auto-read-only=on') as s:
        q = s.qmp

        def error(command, args):
            try:
                q.cmd(command, args)
            except QmpError as e:
                return str(e)
            raise AssertionError('%s did not fail' % command)

        node = {'driver': 'qcow2', 'node-name': 'n',
                'file': {'driver': 'file', 'filename': 'i.qcow2'}}
        assert "'data-file' is required" in error('blockdev-add', node)
        q.cmd('blockdev-add', {**node['file'], 'node-name': 'f'})
        assert 'cannot be the image' in error(
            'blockdev-add', {**node, 'file': 'f', 'data-file': 'f'})
        q.cmd('blockdev-del', {'node-name': 'f'})
        node['data-file'] = 'data'
        q.cmd('blockdev-add', node)
        assert 'in use' in error('blockdev-del', {'node-name': 'data'})
        for change, text in (
                ({'data-file': 'data'}, None), ({}, None),
                ({'data-file': {'driver': 'file', 'filename': 'x'}},
                 "Cannot change the option 'data-file.driver'"),
                ({'read-only': True}, None), ({'read-only': False}, None)):
            new = {'options': [{**node, **change}]}
            if text:
                assert text in error('blockdev-reopen', new)
            else:
                q.cmd('blockdev-reopen', new)
        nodes = {n['node-name']: n for n in q.cmd('query-named-block-nodes')}
        data = nodes['n']['image']['format-specific']['data']
        assert data['data-file'] == 'i.data' and not nodes['data']['ro'], data
        q.cmd('blockdev-del', {'node-name': 'n'})
        # Storage that cannot be written to: all of it is read-only then.
        q.cmd('blockdev-add', {'driver': 'file', 'node-name': 'ro',
                               'filename': 'i.data', 'read-only': True})
        node.update({'data-file': 'ro'})
        assert 'read-only' in error('blockdev-add', node)
        q.cmd('blockdev-add', {**node, 'auto-read-only': True})
        nodes = {n['node-name']: n for n in q.cmd('query-named-block-nodes')}
        assert nodes['n']['ro']
        q.cmd('blockdev-del', {'node-name': 'n'})
        # Both become writable, or none.
        q.cmd('blockdev-add', {**node, 'auto-read-only': True,
                               'read-only': True})
        assert 'read-only' in error('blockdev-reopen', {'options': [
            {**node, 'auto-read-only': True, 'read-only': False}]})
        nodes = q.cmd('query-named-block-nodes')
        assert all(n['ro'] for n in nodes if n['node-name'] != 'data'), nodes
        # Nobody is kept from reading, and nothing is locked for writing.
        assert tool(d, 'qemu-io', '-r', '-c', 'read 0 512', 'i.qcow2')[0] == 0


if __name__ == '__main__':
    run(globals())
