#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice amend beside qemu-img: the same words, and images of the other version
that read as before, by both programs."""
import os
import random
import shutil
import subprocess

from seed import SEED
from sluiced import SLUICE, qemu_img, run

KIB, MIB = 1 << 10, 1 << 20
ROUNDS = int(os.environ.get('ROUNDS', '12'))
SIZE = 4 * MIB


def tool(program, *words):
    """Status and both outputs, without the program's name."""
    p = subprocess.run([program, *words], capture_output=True, text=True,
                       check=False)
    text = (p.stdout + p.stderr).replace(os.path.basename(program) + ': ', '')
    return p.returncode, text.replace("'sluice ", "'qemu-img ")


def amend(path, *words):
    return tool(SLUICE, 'amend', '-f', 'qcow2', *words, path)


def compat(path):
    text = qemu_img('info', path)
    return text.split('compat: ')[1].split('\n')[0]


def first_line(answer):
    status, text = answer
    return status, text.split('\n')[0]


def test_words(d):
    """Refusals in QEMU's words; nothing has changed."""
    path, base = d + '/a.qcow2', d + '/base.raw'
    with open(base, 'wb') as f:
        f.truncate(MIB)
    data = d + '/data'
    for options, words in (
            ('compat=0.10', ['lazy_refcounts=on', 'backing_file=x',
                             'backing_fmt=qed', 'cluster_size=4096',
                             'zork=1', 'compat=7', 'data_file=x',
                             'lazy_refcounts=on,compat=0.10', 'size=1x']),
            ('compat=1.1,data_file=' + data,
             ['data_file_raw=on', 'compat=0.10']),
            ('compat=1.1,refcount_bits=64', ['compat=0.10']),
            ('compat=1.1,extended_l2=on', ['compat=0.10'])):
        with_base = 'data_file' not in options
        args = ['-b', base, '-F', 'raw'] if with_base else []
        qemu_img('create', '-q', '-f', 'qcow2', *args, '-o', options, path,
                 '1M')
        with open(path, 'rb') as f:
            before = f.read()
        for o in words:
            opened = ['--image-opts', 'driver=qcow2,file.filename=%s,'
                      'data-file.filename=%s' % (path, data)] \
                if not with_base else ['-f', 'qcow2', path]
            ours = first_line(tool(SLUICE, 'amend', '-o', o, *opened))
            theirs = first_line(tool('qemu-img', 'amend', '-o', o, *opened))
            assert ours == theirs, (options, o, ours, theirs)
            assert ours[0] == 1, (options, o)
        with open(path, 'rb') as f:
            assert f.read() == before, options
    for words in ([], ['-f', 'raw', '-o', 'size=1', base],
                  ['-f', 'raw', '-o', 'help'], ['-o', 'size=2M']):
        ours = first_line(tool(SLUICE, 'amend', *words))
        theirs = first_line(tool('qemu-img', 'amend', *words))
        assert ours == theirs, (words, ours, theirs)
    ours = tool(SLUICE, 'amend', '-f', 'qcow2', '-o', 'help')[1].splitlines()
    theirs = tool('qemu-img', 'amend', '-f', 'qcow2', '-o', 'help')[1]
    assert ours and all(line in theirs for line in ours), ours


def test_what_else_is_refused(d):
    """What version 2 could not say is not lost."""
    path = d + '/a.qcow2'
    for change in (['snapshot', '-c', 's', path],
                   ['bitmap', '--add', path, 'b']):
        qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
        qemu_img(*change)
        status, text = amend(path, '-o', 'compat=0.10')
        assert status == 1 and ('snapshots prevent' in text or
                                'dirty bitmaps' in text), text
        assert compat(path) == '1.1'
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', path, '1M')
    qemu_img('snapshot', '-c', 's', path)
    status, text = amend(path, '-o', 'compat=1.1')
    assert status == 1 and 'snapshots prevent' in text, text
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    status, text = amend(path, '-o', 'refcount_bits=64')
    assert status == 1 and 'convert' in text, text
    status, text = amend(path, '-o', 'size=512k')
    assert status == 1 and '--shrink' in text, text


def test_what_it_changes(d):
    path, data = d + '/a.qcow2', d + '/data'
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    assert amend(path, '-o', 'lazy_refcounts=on') == (0, '')
    assert 'lazy refcounts: true' in qemu_img('info', path)
    assert amend(path, '-o', 'size=3M,lazy_refcounts=off') == (0, '')
    text = qemu_img('info', path)
    assert 'lazy refcounts: false' in text and '3 MiB' in text, text
    # Going back says no more of it than QEMU asks for.
    assert amend(path, '-o', 'lazy_refcounts=on') == (0, '')
    assert amend(path, '-o', 'compat=0.10') == (0, '')
    assert amend(path, '-o', 'compat=v2') == (0, '')
    assert amend(path, '-p', '-o', 'compat=v3')[1].endswith('(100.00/100%)\n')
    assert 'lazy refcounts: false' in qemu_img('info', path)
    qemu_img('check', path)
    qemu_img('create', '-q', '-f', 'qcow2', '-o',
             'data_file=%s,data_file_raw=on' % data, path, '1M')
    opened = 'driver=qcow2,file.filename=%s,data-file.filename=%s' % (path,
                                                                      data)
    for program in SLUICE, 'qemu-img':
        assert tool(program, 'amend', '--image-opts', '-o',
                    'data_file_raw=off,data_file=elsewhere', opened) == (0, '')
        text = qemu_img('info', path)
        assert 'data file raw: false' in text, text
        assert 'data file: elsewhere' in text, text


def make(rng, d):
    """An image of version 3 with all kinds of clusters; its path."""
    path, base = d + '/a.qcow2', d + '/base.raw'
    cluster = rng.choice([512, 4096, 65536, 65536])
    with open(base, 'wb') as f:
        f.write(rng.randbytes(SIZE // 2))
        f.truncate(SIZE)
    args = ['-b', base, '-F', 'raw'] if rng.random() < 0.7 else []
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=%d' % cluster,
             *args, path, str(SIZE))
    commands = []
    for _ in range(rng.randrange(1, 12)):
        off = rng.randrange(SIZE // 4096) * 4096
        length = min(rng.choice([4096, 65536, 300 * KIB]), SIZE - off)
        commands += ['-c', rng.choice([
            'write -P %d %d %d' % (rng.randrange(1, 256), off, length),
            'write -z %d %d' % (off, length),
            'write -zu %d %d' % (off, length),
            'discard %d %d' % (off, length)])]
    subprocess.run(['qemu-io', '-f', 'qcow2', *commands, path], check=True,
                   stdout=subprocess.DEVNULL)
    return path, args


def same(path, raw):
    qemu_img('check', '-q', path)
    qemu_img('compare', '-q', '-f', 'qcow2', '-F', 'raw', path, raw)
    status, text = tool(SLUICE, 'compare', '-f', 'qcow2', '-F', 'raw', path,
                        raw)
    assert status == 0, text


def test_there_and_back(d):
    rng = random.Random(SEED)
    zeroes = 0
    for i in range(ROUNDS):
        path, _ = make(rng, d)
        raw = d + '/before.raw'
        qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
        zeroes += '"zero": true, "data": false, "offset"' in qemu_img(
            'map', '--output', 'json', path)
        for version in '0.10', '1.1', '0.10', '1.1':
            program = SLUICE if version == '0.10' \
                else rng.choice([SLUICE, 'qemu-img'])
            status, text = tool(program, 'amend', '-f', 'qcow2', '-o',
                                'compat=' + version, path)
            assert status == 0, (i, version, text)
            assert compat(path) == version, (i, version)
            same(path, raw)
        # It can still be written to.
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c', 'write -P 5 0 1M',
                        path], check=True, stdout=subprocess.DEVNULL)
        qemu_img('check', '-q', path)


def test_faults(d):
    """A sector that cannot be written: the old kind or the new one, and the
    same disk."""
    rng = random.Random(SEED + 1)
    failed = 0
    for _ in range(ROUNDS):
        path, _ = make(rng, d)
        raw, kept = d + '/before.raw', d + '/kept.qcow2'
        qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, raw)
        shutil.copy(path, kept)
        cluster = int(qemu_img('info', path).split('cluster_size: ')[1]
                      .split('\n')[0]) // 512
        tables = [i * cluster for i in range(2, 10)]
        for sector in [0] + rng.sample(tables, 6):
            shutil.copy(kept, path)
            opened = (
                'driver=qcow2,file.driver=blkdebug,file.image.driver=file,'
                'file.image.filename=%s,file.inject-error.0.event=none,'
                'file.inject-error.0.iotype=write,'
                'file.inject-error.0.sector=%d' % (path, sector))
            status, text = tool(SLUICE, 'amend', '--image-opts', '-o',
                                'compat=0.10', opened)
            failed += status
            assert status == 0 or 'Could not' in text, text
            if sector == 0:
                assert status == 1, text
            code = subprocess.run(['qemu-img', 'check', '-q', path], check=False,
                                  capture_output=True).returncode
            assert code in (0, 3), code     # leaks are allowed
            qemu_img('compare', '-q', '-f', 'qcow2', '-F', 'raw', path, raw)
            assert (compat(path) == '0.10') == (status == 0)
            assert amend(path, '-o', 'compat=0.10')[0] == 0
            qemu_img('compare', '-q', '-f', 'qcow2', '-F', 'raw', path, raw)
    assert failed > ROUNDS, failed      # other sectors than the first, too


if __name__ == '__main__':
    run(globals())
