#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tour in README.md works as it is pasted."""
import os
import re
import shutil
import signal
import subprocess

from manpages import PAGES
from sluiced import SLUICE, TOP, Skip, run


def test_tour(d):
    for tool in ('qemu-io', 'qemu-img', 'nbdinfo', 'nbdcopy'):
        if not shutil.which(tool):
            raise Skip(tool)
    with open(TOP + '/README.md', encoding='utf-8') as f:
        blocks = re.findall(r'^```sh\n(.*?)^```', f.read(), re.M | re.S)
    assert len(blocks) >= 7 and 'make' in blocks[0], blocks[:1]
    blocks[0] = 'export PATH="%s:$PATH"\n' % os.path.dirname(SLUICE)
    script = '\n'.join(blocks)
    env = dict(os.environ, TMPDIR=d)
    p = subprocess.Popen(['bash', '-euxo', 'pipefail', '-c', script], cwd=d,
                         env=env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors='replace', start_new_session=True)
    try:
        out = p.communicate()[0]
    finally:
        stop_daemons(d)
    assert p.returncode == 0, out
    assert 'No errors were found' in out, out
    assert 'copy.raw' in out, out


def test_examples_of_the_manual(d):
    """Those of sluice(1), one behind another."""
    page = read(PAGES['sluice.1.rst'])
    part = page.split('\nEXAMPLES\n')[1].split('\nEXIT STATUS\n')[0]
    blocks = re.findall(r'::\n\n((?:   .*\n|\n)+)', part)
    assert len(blocks) >= 5, blocks
    script = ''.join(re.sub(r'^   ', '', b, flags=re.M) for b in blocks)
    commands = set(re.findall(r'^(?:.*\| )?sluice (\w+)', script, re.M))
    assert len(commands) >= 15, commands
    env = dict(os.environ, SLUICED=os.path.dirname(SLUICE) + '/sluiced',
               PATH=os.path.dirname(SLUICE) + ':' + os.environ['PATH'])
    p = subprocess.Popen(['bash', '-euxo', 'pipefail', '-c', script], cwd=d,
                         env=env, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors='replace', start_new_session=True)
    try:
        out = p.communicate()[0]
    finally:
        stop_daemons(d)
    assert p.returncode == 0, out
    assert 'Images are identical.' in out, out


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def stop_daemons(folder):
    """What a tour that failed left behind."""
    for root, _, names in os.walk(folder):
        for name in {'sluiced.pid', 'pid'} & set(names):
            with open(os.path.join(root, name), encoding='ascii') as f:
                text = f.read().strip()
            if text.isdigit():
                os.kill(int(text), signal.SIGKILL)


if __name__ == '__main__':
    run(globals())
