#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The completions for bash and zsh."""
import os
import shlex
import shutil
import subprocess

from sluiced import SLUICE, SLUICED, Skip, Sluiced, run

BUILD = os.path.dirname(SLUICED)
BASH = BUILD + '/scripts/sluice'
ZSH = BUILD + '/scripts/_sluice'
PATH = os.path.dirname(SLUICE) + ':' + os.environ['PATH']


def shell(d, *argv):
    return subprocess.run(argv, cwd=d, check=True, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          env=dict(os.environ, PATH=PATH)).stdout


def in_bash(d, line):
    """What bash would put in place of the last part of @line."""
    script = ('. %s; COMP_LINE=%s; COMP_POINT=${#COMP_LINE}; _sluice_bash; '
              'printf "%%s\\n" "${COMPREPLY[@]}"'
              % (shlex.quote(BASH), shlex.quote(line)))
    return [l for l in shell(d, 'bash', '-c', script).splitlines() if l]


def in_zsh(d, line):
    """The candidates that zsh is given, before it chooses those that fit."""
    words = line.split(' ')
    script = ('compadd() { shift $(( ${@[(i)--]} )); print -l -- "$@" }; '
              'compset() { }; _files() { print -- FILES }; '
              'words=(%s); CURRENT=%d; . %s'
              % (' '.join(shlex.quote(w) for w in words), len(words),
                 shlex.quote(ZSH)))
    return [l for l in shell(d, 'zsh', '-fc', script).splitlines() if l]


CASES = [
    ('sluice cov', None, []),
    ('sluice conv', ['convert'], ['convert', 'create', '--help']),
    ('sluice info --b', ['--backing-chain'], ['--backing-chain', '-f']),
    ('sluice info -f q', ['qcow2', 'qed'], ['raw', 'qcow2', 'qed', 'cow']),
    ('sluice info --output ', ['human', 'json'], ['human', 'json']),
    ('sluice create -f qcow2 -o clu', ['cluster_size='], ['cluster_size=']),
    ('sluice job p', ['pause'], ['pause', 'wait']),
    ('sluice pull --on-error s', ['stop'], ['stop', 'report']),
    ('sluice copy --sync ', ['full', 'top', 'none'], ['full', 'top', 'none']),
    ('sluice graph --output s', ['svg'], ['text', 'dot', 'svg']),
    ('sluice commit --li', ['--live'], ['--live', '--top']),
    ('sluice check -r ', ['leaks', 'all'], ['leaks', 'all']),
    ('sluiced --block', ['--blockdev'], ['--blockdev', '--drive']),
    ('sluiced --io-engine t', ['threads'], ['auto', 'threads']),
    ('sluiced --blockdev qco', ['qcow2'], ['qcow2']),
    ('sluiced --blockdev driver=qco', ['qcow2'], ['driver=qcow2']),
    ('sluiced --blockdev driver=qcow2,lazy', ['qcow2,lazy-refcounts='],
     ['driver=qcow2,lazy-refcounts=']),
    ('sluiced --nbd-server addr.type=u', ['unix'], ['addr.type=unix']),
    ('sluiced --object qom-type=sec', ['secret'], ['qom-type=secret']),
]


def test_bash(d):
    for line, want, _ in CASES:
        assert in_bash(d, line) == (want or []), (line, in_bash(d, line))


def test_bash_files(d):
    for name in ('disk.raw', 'disk.qed', 'other'):
        with open(d + '/' + name, 'w', encoding='ascii'):
            pass
    assert sorted(in_bash(d, 'sluice info di')) == ['disk.qed', 'disk.raw']
    assert in_bash(d, 'sluice dd if=oth') == ['other']
    assert in_bash(d, 'sluice create -b o') == ['other']


def test_zsh(d):
    if not shutil.which('zsh'):
        raise Skip('zsh is not installed')
    for line, _, wanted in CASES:
        got = in_zsh(d, line)
        for word in wanted:
            assert word in got, (line, word, got)
    assert in_zsh(d, 'sluice info di') == ['FILES']


def test_names_of_a_daemon(d):
    with Sluiced(d, '--blockdev', 'null-co,node-name=disk0') as s:
        line = 'sluice pull -s %s di' % s.socket
        assert in_bash(d, line) == ['disk0'], in_bash(d, line)
        if shutil.which('zsh'):
            assert 'disk0' in in_zsh(d, line)


if __name__ == '__main__':
    run(globals())
