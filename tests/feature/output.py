#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is printed: it arrives or is an error, nothing in it moves a terminal,
and no passphrase is in it."""
import os
import re
import shutil
import subprocess

from sluiced import SLUICE, SLUICED, Skip, Sluiced, run

ESCAPE = '\x1b]0;title\x07\x1b[2J\u009b31m\x7f'
SHOWN = r'\x1b]0;title\x07\x1b[2J\xc2\x9b31m\x7f'


def call(d, program, *args, stdout=subprocess.PIPE):
    p = subprocess.run([program, *args], cwd=d, stdout=stdout, check=False,
                       stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    return p.returncode, p.stdout, p.stderr


def test_full(d):
    """Every command that prints."""
    call(d, SLUICE, 'create', '-q', '-f', 'qcow2', 'a', '1M')
    rows = [['--help'], ['--version'], ['info', 'a'], ['create', '--help'],
            ['info', '--output=json', 'a'], ['map', 'a'], ['check', 'a'],
            ['map', '--output=json', 'a'], ['measure', '--size', '1'],
            ['create', '-f', 'raw', 'b', '1M'], ['resize', 'a', '+1M'],
            ['create', '-f', 'qcow2', '-o', 'help', 'b'],
            ['commit', '--help'], ['compare', 'a', 'a']]
    for args in rows:
        with open('/dev/full', 'wb') as full:
            status, _, err = call(d, SLUICE, *args, stdout=full)
        assert status == (2 if args[0] == 'compare' else 1), (args, status)
        assert err == b'sluice: Could not write to standard output: ' \
            b'No space left on device\n', (args, err)
        status, _, _ = call(d, SLUICE, *args)
        assert status == 0, args
    with open('/dev/full', 'wb') as full:
        for args in (['--help'], ['--version'], ['-T', 'help']):
            assert call(d, SLUICED, *args, stdout=full)[0] == 1, args
    # A failure that there was anyway keeps its status.
    with open('/dev/full', 'wb') as full:
        assert call(d, SLUICE, 'check', '-f', 'raw', 'b', stdout=full)[0] == 63


def clean(text):
    assert not re.search(rb'[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]', text), \
        text


def make_tagged(d):
    """An image whose snapshot and bitmap have such names."""
    if not shutil.which('qemu-img'):
        raise Skip('qemu-img (qemu-utils) is missing')
    for args in (['create', '-q', '-f', 'qcow2', 'a', '1M'],
                 ['snapshot', '-c', ESCAPE, 'a'],
                 ['bitmap', '--add', 'a', ESCAPE],
                 ['create', '-q', '-f', 'qcow2', '-u', '-b', ESCAPE, '-F',
                  'raw', 'o', '1M']):
        p = subprocess.run(['qemu-img', *args], cwd=d, check=True)
        assert p.returncode == 0


def test_escapes(d):
    make_tagged(d)
    for args in (['info', 'a'], ['snapshot', '-l', 'a'], ['info', 'o'],
                 ['info', '--backing-chain', 'o'], ['map', 'o'],
                 ['check', 'a'], ['snapshot', '-d', ESCAPE + 'x', 'a'],
                 ['convert', '-l', ESCAPE + 'x', 'a', 'out'],
                 ['bitmap', '--remove', 'a', ESCAPE + 'x'],
                 ['info', ESCAPE], ['create', '-f', 'qcow2', 'x', ESCAPE]):
        _, out, err = call(d, SLUICE, *args)
        clean(out)
        clean(err)
    assert call(d, SLUICE, 'info', 'a')[1].count(SHOWN.encode()) == 2
    assert SHOWN.encode() in call(d, SLUICE, 'info', 'o')[1]
    # The daemon's words, and what it tells people.
    _, _, err = call(d, SLUICED, '--blockdev',
                     'driver=qcow2,node-name=n,file.driver=file,'
                     'file.filename=' + ESCAPE)
    clean(err)
    os.rename(d + '/o', d + '/' + ESCAPE[:5])
    with Sluiced(d, '--blockdev', '{"driver": "qcow2", "node-name": "n", '
                 '"backing": null, "file": {"driver": "file", "filename": "'
                 + ESCAPE[:5].replace('\x1b', '\\u001b') + '"}}') as s:
        text = s.qmp.hmp('info block') + s.qmp.hmp('info named-block-nodes')
        clean(text.replace('\r', '').encode())
        clean(s.qmp.hmp('qemu-io n ' + '"' + ESCAPE + '"').encode())


def test_secrets(d):
    """Whatever is wrong with it."""
    word = 'hunter2'
    rows = ['secret,id=s,data=x,' + word, 'secret,id=s,data=%s,y=1' % word,
            'secret,id=s,data=x,%s=1' % word, 'secret,data=' + word,
            'secret,id=s,format=base64,data=%s!' % word,
            'secret,data=%s,id=!' % word,
            '{"qom-type": "secret", "id": "s", "data": "%s' % word,
            '{"qom-type": "secret", "id": "s", "data": "x" %s}' % word,
            '{"qom-type": "secret", "id": "s", "data": ["%s"]}' % word,
            '{"qom-type": "secret", "id": "s", "data": "x", "%s": 1}' % word]
    call(d, SLUICE, 'create', '-q', '-f', 'qcow2', 'a', '1M')
    for row in rows:
        for args in ([SLUICED, '--object', row],
                     [SLUICE, 'info', '--object', row, 'a']):
            status, out, err = call(d, *args)
            assert status == 1 and err, (args, err)
            assert word.encode() not in out + err, (args, err)
    # Other mistakes are still told.
    err = call(d, SLUICED, '--object', 'secret,id=s')[2]
    assert b"needs one of 'data' and 'file'" in err, err
    err = call(d, SLUICED, '--object', 'zork,id=s')[2]
    assert b"does not accept value 'zork'" in err, err


if __name__ == '__main__':
    run(globals())
