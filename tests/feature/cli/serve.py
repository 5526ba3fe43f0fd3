#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice serve: one image behind an NBD socket, in one line."""
import subprocess

from sluiced import SLUICE, run


def sluice(*args):
    return subprocess.run([SLUICE] + list(args), text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)


def test_format_from_the_name(d):
    for ending in ('qcow2', 'qed', 'cow', 'raw'):
        p = sluice('serve', '--dry-run', 'a.' + ending)
        assert p.returncode == 0, p
        assert 'file=a.%s,format=%s' % (ending, ending) in p.stdout, p
    p = sluice('serve', '--dry-run', 'a.img')
    assert p.returncode == 1 and '-f' in p.stderr, p


if __name__ == '__main__':
    run(globals())
