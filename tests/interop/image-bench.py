#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice bench beside qemu-img bench: words, and what is on the disk after; and
create with the options of file systems."""
import os
import re
import subprocess

from sluiced import SLUICE, qemu_img, run

MIB = 1 << 20


def tool(program, *words):
    p = subprocess.run([program, *words], capture_output=True, text=True,
                       check=False)
    text = (p.stdout + p.stderr).replace(os.path.basename(program) + ': ', '')
    return p.returncode, re.sub(r'in \d+\.\d{3} sec', 'in N sec', text)


def both(d, *words, size=MIB):
    """Run both on images of their own; the answer, which must be one."""
    answers = []
    for program in SLUICE, 'qemu-img':
        path = os.path.join(d, 'disk.raw')
        with open(path, 'wb') as f:
            f.write(b'\1' * size)
        status, text = tool(program, 'bench', *words, path)
        text = text.split('\nTry ')[0]
        with open(path, 'rb') as f:
            answers.append((status, text, f.read()))
    assert answers[0][:2] == answers[1][:2], (words, answers[0][:2],
                                              answers[1][:2])
    assert answers[0][2] == answers[1][2], words
    return answers[0]


RAW = ['-f', 'raw']


def test_words_and_disk(d):
    for words in (
            [], ['-c', '10', '-d', '1', '-s', '512'],
            ['-c', '10', '-S', '8192', '-s', '4k'],
            ['-w', '-c', '20', '-s', '4k', '-S', '16k', '-d', '4'],
            ['-w', '-c', '300', '-d', '7', '--pattern', '0x5a'],
            ['-w', '-c', '100', '-d', '8', '--flush-interval', '10'],
            ['-w', '-c', '100', '-d', '8', '--flush-interval=10',
             '--no-drain'],
            ['-w', '-c', '8', '-s', '1k', '-t', 'writethrough'],
            ['-c', '4', '-i', 'threads'], ['-c', '4', '-U'],
            ['-c', '0'], ['-s', '2M', '-c', '3']):
        status, text, _ = both(d, *RAW, *words)
        if '-s' not in words or '2M' not in words:
            assert status == 0, (words, text)


def test_refused(d):
    for words in (
            ['--flush-interval=100'], ['-i', 'nope'], ['-t', 'nope'],
            ['-w', '-d', '8', '--flush-interval=4'], ['--pattern', '256'],
            ['-c', 'x'], ['-d', 'x'], ['-s', 'x'],
            ['-o', 'x'], ['--flush-interval=x', '-w'], ['a', 'b'],
            ['-o', '2M', '-c', '3']):
        status, text, _ = both(d, *RAW, *words)
        assert status == 1, (words, text)


def test_formats(d):
    path = d + '/a.qcow2'
    qemu_img('create', '-q', '-f', 'qcow2', path, '1M')
    status, text = tool(SLUICE, 'bench', '-f', 'qcow2', '-w', '-c', '256',
                        '--pattern', '7', path)
    assert status == 0, text
    qemu_img('check', '-q', path)
    subprocess.run(['qemu-io', '-r', '-f', 'qcow2', '-c', 'read -P 7 0 1020k',
                    path], check=True, stdout=subprocess.DEVNULL)
    status, text = tool(SLUICE, 'bench', '-f', 'qcow2', '-w', '-U', path)
    assert status == 1, text
    assert tool(SLUICE, 'bench', '-f', 'qcow2', '-q', '-c', '1',
                path) == (0, '')
    for words in ['-s', '0'], ['-S', '0']:
        assert tool(SLUICE, 'bench', *words, path)[0] == 1, words


def test_create_for_file_systems(d):
    """Hints of file systems: taken by every format, and announced."""
    for fmt in 'raw', 'qcow2', 'qed':
        for option in 'nocow=on', 'extent_size_hint=65536', 'nocow=off':
            path = '%s/a.%s' % (d, fmt)
            status, text = tool(SLUICE, 'create', '-f', fmt, '-o', option,
                                path, '1M')
            assert status == 0 and option in text, text
            assert qemu_img('info', path).count('1 MiB')
        assert option.split('=')[0] in tool(SLUICE, 'create', '-f', fmt,
                                            '-o', 'help', 'x')[1]
    status, text = tool(SLUICE, 'create', '-f', 'qcow2', '-o',
                        'extent_size_hint=5G', path, '1M')
    assert status == 1 and 'too large' in text, text
    status, text = tool(SLUICE, 'convert', '-f', 'qed', '-O', 'qcow2', '-o',
                        'nocow=on', path, d + '/b.qcow2')
    assert status == 1 or os.path.exists(d + '/b.qcow2'), text
    ours = tool(SLUICE, 'create', '-f', 'qcow2', '-o', 'nocow=on', path,
                '1M')[1]
    theirs = tool('qemu-img', 'create', '-f', 'qcow2', '-o', 'nocow=on', path,
                  '1M')[1]
    assert set(theirs.split()) - {'extent_size_hint=1048576'} <= \
        set(ours.split()), (ours, theirs)


def test_help_of_create(d):
    """Called as qemu-img: storage has more, where it is known which."""
    link = d + '/qemu-img'
    os.symlink(SLUICE, link)
    for fmt in 'qcow2', 'qed':
        ours = tool(link, 'create', '-f', fmt, '-o', 'help')
        theirs = tool('qemu-img', 'create', '-f', fmt, '-o', 'help')
        assert ours[0] == theirs[0] == 0
        assert ours[1].split('\n\n')[1] == theirs[1].split('\n\n')[1], ours
        assert 'nocow' not in ours[1]
        assert 'nocow' in tool(link, 'create', '-f', fmt, '-o', 'help', 'x')[1]


if __name__ == '__main__':
    run(globals())
