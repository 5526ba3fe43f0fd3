#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks in use from the command line: sluice copy, backup, commit --live, snapshot
--live, switch and graph."""
import json
import os
import subprocess
import xml.dom.minidom

from sluiced import SLUICE, Sluiced, make_chain, qemu_img, run
from terminal import Terminal

MIB = 1 << 20
SIZE = 8 * MIB


def sluice(s, command, *args, cwd=None):
    return subprocess.run([SLUICE, command, '-s', s.socket] + list(args),
                          text=True, stdin=subprocess.DEVNULL, cwd=cwd,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def good(s, command, *args, cwd=None):
    p = sluice(s, command, *args, cwd=cwd)
    assert p.returncode == 0 and not p.stderr, p
    return p.stdout


class Disk(Sluiced):
    """A daemon with device disk0: top.qed over base.raw."""

    def __init__(self, d):
        self.base, self.top = make_chain(d, SIZE)
        super().__init__(d, '--drive', 'id=disk0,file=%s,format=qed' % self.top)

    def file(self):
        return self.qmp.cmd('query-block')[0]['inserted']['file']


def same(a, fa, b, fb):
    qemu_img('compare', '-U', '-f', fa, '-F', fb, a, b)


def test_copy(d):
    """The device goes on in the target; relative names are the caller's."""
    with Disk(d) as s:
        good(s, 'copy', 'disk0', 'moved.qed', cwd=d)
        assert s.file() == d + '/moved.qed', s.file()
    same(d + '/moved.qed', 'qed', s.top, 'qed')


def test_copy_that_is_kept(d):
    with Disk(d) as s:
        out = good(s, 'copy', '--keep', '-f', 'raw', '--output', 'json',
                   'disk0', d + '/copy.raw')
        events = [json.loads(l)['event'] for l in out.splitlines()]
        assert events == ['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED'], events
        assert s.file() == s.top
        good(s, 'copy', '--keep', '-n', '--sync', 'full', '--copy-mode',
             'write-blocking', '-f', 'raw', 'disk0', d + '/copy.raw')
    same(d + '/copy.raw', 'raw', s.top, 'qed')


def test_copy_on_a_terminal(d):
    with Disk(d) as s:
        with Terminal(SLUICE, 'copy', '-s', s.socket, '--speed', '64k',
                      'disk0', d + '/moved.qed') as t:
            t.expect(r'\rcopying disk0 \[')
            assert sluice(s, 'job', 'speed', 'disk0', '0').returncode == 0
            t.expect(r'100\.0%[^\n]*\n$')
            assert t.wait() == 0


def test_copy_over_the_same_base(d):
    with Disk(d) as s:
        good(s, 'copy', '--sync', 'top', 'disk0', d + '/moved.qed')
        info = json.loads(qemu_img('info', '-U', '--output=json',
                                   d + '/moved.qed'))
        assert info['full-backing-filename'] == s.base, info


def test_backup(d):
    """Of the disk as it is, then of what has changed since, by a bitmap."""
    with Disk(d) as s:
        s.qmp.cmd('block-dirty-bitmap-add', node='disk0', name='b')
        good(s, 'backup', '-f', 'qcow2', 'disk0', 'copy.qcow2', cwd=d)
        s.qmp.hmp('qemu-io disk0 "write -P 7 1M 64k"')
        good(s, 'backup', '-f', 'qcow2', '--bitmap', 'b', '--cbw-timeout', '60',
             'disk0', d + '/more.qcow2')
        assert s.file() == s.top
        p = sluice(s, 'backup', '--cbw-timeout', 'x', 'disk0', d + '/x')
        assert p.returncode == 1 and 'expects seconds' in p.stderr, p
        p = sluice(s, 'backup', '--bitmap', 'c', 'disk0', d + '/x')
        assert p.returncode == 1 and 'c' in p.stderr, p
        assert not os.path.exists(d + '/x')
    same(d + '/copy.qcow2', 'qcow2', s.base, 'raw')
    used = json.loads(qemu_img('map', '--output=json', d + '/more.qcow2'))
    assert sum(e['length'] for e in used if e['data']) == 64 << 10, used


def test_refusals(d):
    with Disk(d) as s:
        p = sluice(s, 'copy', 'disk1', d + '/x')
        assert p.returncode == 1 and "mean 'disk0'" in p.stderr, p
        p = sluice(s, 'copy', 'disk0')
        assert p.returncode == 1 and 'a device name and a target' in p.stderr, p
        p = sluice(s, 'copy', '--sync', 'x', 'disk0', d + '/x')
        assert p.returncode == 1 and "does not accept value 'x'" in p.stderr, p
        qemu_img('create', '-q', '-f', 'qed', d + '/alone', str(SIZE))
        p = sluice(s, 'switch', 'disk0', d + '/alone')
        assert p.returncode == 1 and 'backing file' in p.stderr, p
        p = sluice(s, 'commit', '-b', 'nothing', 'disk0')
        assert p.returncode == 1 and "Can't find 'nothing'" in p.stderr and \
            '--top take names' in p.stderr, p
        p = sluice(s, 'graph', '--output', 'x')
        assert p.returncode == 1 and 'text, dot or svg' in p.stderr, p
        assert not os.path.exists(d + '/x')
        assert s.file() == s.top


def test_snapshots_and_commit(d):
    """Two overlays are put above the disk; the middle is merged down, then all
    of it."""
    with Disk(d) as s:
        assert good(s, 'snapshot', '--overlay', 'one', '-f', 'qed', 'disk0',
                    cwd=d) == ''
        good(s, 'snapshot', '--live', '--overlay', d + '/two', 'disk0')
        assert s.file() == d + '/two'
        good(s, 'commit', '--top', d + '/one', '-b', s.top, 'disk0')
        info = json.loads(qemu_img('info', '-U', '--output=json', d + '/two'))
        assert info['full-backing-filename'] == s.top, info
        good(s, 'snapshot', '-c', 'before', 'disk0')
        assert 'before' in good(s, 'snapshot', 'disk0')
        good(s, 'snapshot', '-d', 'before', 'disk0')
        assert 'before' not in good(s, 'snapshot', '-l', 'disk0')
        good(s, 'commit', '--live', 'disk0')
        assert s.file() == s.base


def test_switch(d):
    with Disk(d) as s:
        over = d + '/over'
        qemu_img('create', '-q', '-u', '-f', 'qcow2', '-b', s.top, '-F', 'qed',
                 over, str(SIZE))
        good(s, 'switch', '-f', 'qcow2', 'disk0', over)
        assert s.file() == over
        good(s, 'pull', 'disk0')


def test_graph(d):
    name = 'a"b\\c<&'
    with Disk(d) as s:
        s.qmp.cmd('blockdev-add', {
            'driver': 'null-co', 'node-name': 'lonely', 'size': MIB})
        over = os.path.join(d, name)
        good(s, 'snapshot', '--overlay', over, '-f', 'qed', 'disk0')
        lines = good(s, 'graph').splitlines()
        assert 'disk0 (device)' in lines, lines
        at = lines.index('disk0 (device)')
        assert lines[at + 1].startswith('  root: ') and \
            lines[at + 1].endswith(' (qed) ' + over), lines
        assert any(l.startswith('    backing: ') and 'read-only) ' + s.top in l
                   for l in lines), lines
        assert any(l.startswith('lonely (null-co') for l in lines), lines
        dot = good(s, 'graph', '--output', 'dot')
        assert dot.startswith('digraph block {') and \
            'a\\"b\\\\c<&' in dot and '[label="backing"]' in dot, dot
        svg = xml.dom.minidom.parseString(good(s, 'graph', '--output', 'svg'))
        boxes = svg.getElementsByTagName('rect')
        places = {(b.getAttribute('x'), b.getAttribute('y')) for b in boxes}
        assert len(places) == len(boxes) >= 7, places
        titles = [t.firstChild.data for t in svg.getElementsByTagName('title')]
        assert over in titles, titles
        texts = [t.firstChild.data for t in svg.getElementsByTagName('text')]
        assert 'lonely' in texts and 'disk0' in texts, texts


if __name__ == '__main__':
    run(globals())
