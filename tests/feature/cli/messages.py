#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages say what to do: what was mistyped, what is missing, where to look."""
import os
import subprocess

from sluiced import SLUICE, SLUICED, Sluiced, qemu_img, run, write_pattern

MIB = 1 << 20


def fails(d, program, line, *words, without=()):
    """@line fails with status 1 or 2, and its message has @words."""
    p = subprocess.run([program] + line.split(), cwd=d, text=True,
                       stdin=subprocess.DEVNULL, capture_output=True,
                       check=False)
    assert p.returncode in (1, 2), (line, p)
    for word in words:
        assert word in p.stderr, (line, word, p.stderr)
    for word in without:
        assert word not in p.stderr, (line, word, p.stderr)
    return p.stderr


def sluice(d, line, *words, **more):
    return fails(d, SLUICE, line, *words, **more)


def sluiced(d, line, *words, **more):
    return fails(d, SLUICED, line, *words, **more)


def test_missing_files(d):
    write_pattern(d + '/base.raw', MIB)
    for command in ('info', 'map', 'check', 'compare base.raw',
                    'measure', 'snapshot -l'):
        err = sluice(d, command + ' bsae.raw', 'No such file or directory',
                     "Did you mean 'base.raw'?")
        assert err.count('Could not open') == 1, err
    sluice(d, 'info zork', 'No such file', without=['Did you mean'])
    sluice(d, 'info no/such/folder', 'No such file', without=['Did you mean'])


def test_commands_and_options(d):
    sluice(d, 'covnert a b', "did you mean 'convert'?")
    sluice(d, 'zork', 'create, ', ' monitor')
    sluice(d, 'info --forceshare a', "Did you mean '--force-share'?")
    sluice(d, 'pull --spede 1 a', "Did you mean '--speed'?")
    sluice(d, 'info --zork a', '--help', without=['Did you mean'])
    sluiced(d, '--blockdv x', "Did you mean '--blockdev'?")
    sluiced(d, '--zork', '--help')


def test_formats(d):
    write_pattern(d + '/base.raw', MIB)
    for line in ('info -f qcow3 base.raw', 'create -f qcow3 x 1M',
                 'convert -O qcow3 base.raw x', 'measure -O qcow3 base.raw',
                 'create -f qcow2 -b base.raw -F qcow3 x'):
        sluice(d, line, "'qcow3'", "Did you mean 'qcow2'?")
        assert not os.path.exists(d + '/x')
    sluice(d, 'info -f zork base.raw', 'Possible are:', 'qcow2', 'raw')
    sluiced(d, '--drive file=base.raw,format=qcow3', "Did you mean 'qcow2'?")
    sluiced(d, '--blockdev qcow3,node-name=a', "Did you mean 'qcow2'?")


def test_parameters(d):
    write_pattern(d + '/base.raw', MIB)
    sluice(d, 'create -f qcow2 -o clustersize=4k x 1M',
           "Did you mean 'cluster_size'?", '-o help')
    sluiced(d, '--blockdev file,node-name=a,filenam=base.raw,filename=b',
            "'filenam' is unexpected", "Did you mean 'filename'?")
    sluiced(d, '--object secert,id=a', "Did you mean 'secret'?")
    sluiced(d, '--drive file=base.raw,format=raw,cache=wirteback',
            "Did you mean 'writeback'?")
    sluiced(d, '--drive file=base.raw,format=raw,cache=zork',
            'Possible are: ', 'none')


def test_what_must_come_before(d):
    write_pattern(d + '/base.raw', MIB)
    sluiced(d, '--monitor x', '--chardev socket,id=x')
    sluiced(d, '--blockdev file,node-name=a,filename=base.raw '
            '--export nbd,id=a,node-name=a', '--nbd-server')


def test_backing_format(d):
    write_pattern(d + '/base.raw', MIB)
    sluice(d, 'create -f qcow2 -b base.raw x', 'Detected format of raw',
           '-F raw')
    assert not os.path.exists(d + '/x')


def test_snapshots_and_bitmaps(d):
    """The file, not a node that nobody named; words, not numbers."""
    write_pattern(d + '/base.raw', MIB)
    qemu_img('create', '-q', '-f', 'qcow2', d + '/a.qcow2', '1M')
    sluice(d, 'snapshot -f raw -c s base.raw', 'raw', 'snapshots',
           without=['-95', '#block'])
    qemu_img('bitmap', '--add', d + '/a.qcow2', 'b')
    sluice(d, 'bitmap --add a.qcow2 b', 'already exists: b', without=['#block'])
    sluice(d, 'bitmap --add -g 3 a.qcow2 c', without=['#block'])


def test_control_sockets(d):
    write_pattern(d + '/file', MIB)
    sluice(d, 'jobs -s no.sock', 'No such file', '--control')
    sluice(d, 'jobs -s file', 'No daemon listens there')
    with Sluiced(d, '--blockdev', 'null-co,node-name=disk0') as s:
        sluice(d, 'pull -s %s dsik0' % s.socket, "Did you mean 'disk0'?")
        sluice(d, 'pull -s %s --base zork disk0' % s.socket, '--base takes')


def test_backing_files(d):
    qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', 'gone.raw', '-F', 'raw',
             d + '/a.qcow2', '1M')
    for line in ('convert a.qcow2 x', 'info --backing-chain a.qcow2'):
        sluice(d, line, "'gone.raw': No such file", 'sluice rebase -u')
    err = sluice(d, 'rebase -u -b x a.qcow2', '-F')
    err = sluice(d, 'rebase -b gone2 -F raw a.qcow2', 'No such file')
    assert err.count("'gone2'") < 2, err


def test_nodes(d):
    sluiced(d, '--blockdev null-co,node-name=disk0 --nbd-server '
            'addr.type=unix,addr.path=n.sock --export '
            'nbd,id=a,node-name=dsik0', "Did you mean 'disk0'?")
    sluiced(d, '--blockdev null-co,node-name=disk0 --blockdev '
            'raw,node-name=x,file=dsik0', "Did you mean 'disk0'?")


def test_messages_name_files(d):
    """A chain that is too deep, a backing file of an unknown format: the nodes
    of a tool have no names that anybody gave."""
    write_pattern(d + '/x', MIB)
    qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', 'x', '-F', 'vdi',
             d + '/a.qcow2', '1M')
    sluice(d, 'info --backing-chain a.qcow2', 'a.qcow2', 'vdi',
           without=['#block'])


def test_by_another_name(d):
    """Messages begin with it; as qemu-img there are none of our hints."""
    write_pattern(d + '/base.raw', MIB)
    for name in ('tool', 'qemu-img'):
        os.symlink(os.path.abspath(SLUICE), d + '/' + name)
    err = fails(d, d + '/tool', 'info bsae.raw', "Did you mean 'base.raw'?")
    assert err.startswith('tool: Could not open'), err
    for line, want in (
            ('info bsae.raw', "Could not open 'bsae.raw': Could not open "
             "'bsae.raw': No such file or directory\n"),
            ('create -f qcow2 -b base.raw x', 'x: Backing file specified '
             'without backing format\nDetected format of raw.\n'),
            ('covnert a b', "Command not found: covnert\n"
             "Try 'qemu-img --help' for more information\n"),
            ('info --forceshare a', "unrecognized option '--forceshare'\n"
             "Try 'qemu-img --help' for more information\n")):
        err = fails(d, d + '/qemu-img', line)
        assert err == 'qemu-img: ' + want, err


if __name__ == '__main__':
    run(globals())
