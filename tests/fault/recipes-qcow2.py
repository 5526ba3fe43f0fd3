#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes for blkdebug on qcow2: the configurations and the qemu-io lines that
the qemu_tools's own tests of qcow2 use, on "blkdebug:CONFIG:IMAGE" as they are, once
by qemu-io and once by the daemon's monitor command of that name.  What both
print is compared word by word, but for the times.

Sluice changes refcounts and tables with the flush, not with the write: for the
events of those the write succeeds and the flush has the error; the rows in
question say so.  Whatever happens, both images pass the same check afterwards.
"""
import os
import re
import shutil
import subprocess

from sluiced import Sluiced, qemu_img, run, run_tool

ERRORS = {5: 'Input/output error', 28: 'No space left on device'}


def plain(text):
    """Without what differs from run to run."""
    lines = [l for l in text.splitlines()
             if ' ops; ' not in l and not l.startswith('blkdebug: ')]
    return '\n'.join(re.sub(r'^qemu-io: ', '', l) for l in lines)


def play_qemu(name, lines, fmt):
    cmd = ['qemu-io', '-f', fmt]
    for l in lines:
        cmd += ['-c', l]
    p = subprocess.run(cmd + [name], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    return plain(p.stdout)


def play_ours(d, name, lines, fmt):
    with Sluiced(d, '--drive', 'id=n,format=%s,file=%s' % (fmt, name)) as s:
        texts = [s.qmp.hmp('qemu-io n "%s"' % l) for l in lines]
    return plain(''.join(texts))


def write_rules(path, *rules):
    """Each rule: (kind, {...})."""
    with open(path, 'w', encoding='ascii') as f:
        for kind, values in rules:
            f.write('[%s]\n' % kind)
            f.writelines('%s = "%s"\n' % i for i in values.items())
            f.write('\n')


def inject(event, errno, once):
    return ('inject-error', {'event': event, 'errno': errno,
                             'immediately': 'off', 'once': once})


def check(path):
    """0: good, 3: leaks, of which an error may leave some."""
    return subprocess.run(['qemu-img', 'check', '-q', path],
                          check=False).returncode in (0, 3)


class Kitchen:
    """Two images that are made in the same way, one for each."""

    def __init__(self, d, *create, size='64M', before=(), prepare=None,
                 fmt='qcow2'):
        self.d, self.create, self.size, self.fmt = d, create, size, fmt
        self.before, self.prepare = before, prepare
        self.conf = d + '/blkdebug.conf'

    def make(self, who):
        path = '%s/%s.%s' % (self.d, who, self.fmt)
        if os.path.exists(path):
            os.unlink(path)
        qemu_img('create', '-q', '-f', self.fmt, *self.create, path, self.size)
        for line in self.before:
            run_tool('qemu-io', '-f', self.fmt, '-c', line, path)
        if self.prepare:
            self.prepare(path)
        return path

    def ours(self, lines, rules=()):
        path = self.make('ours')
        write_rules(self.conf, *rules)
        conf = self.conf if rules else ''
        text = play_ours(self.d, 'blkdebug:%s:%s' % (conf, path), lines,
                         self.fmt)
        assert check(path), (rules, text)
        return text

    def both(self, lines, *rules):
        """The same words by both; at least one of them is of an error."""
        ours = self.ours(lines, rules)
        path = self.make('qemu_tools')
        conf = self.conf if rules else ''
        qemu_tools = play_qemu('blkdebug:%s:%s' % (conf, path), lines, self.fmt)
        assert ours == qemu_tools, (rules, ours, qemu_tools)
        assert check(path)
        qemu_img('compare', '-q', path, '%s/ours.%s' % (self.d, self.fmt))
        return ours


WRITE = ('write -P 1 0 128k', 'flush', 'write -P 2 0 128k', 'flush',
         'read -P 2 0 128k')


def test_events_of_data(d):
    """Each once and for good, for a broken disk and for a full one."""
    k = Kitchen(d)
    for event in ('write_aio', 'cluster_alloc', 'refblock_alloc', 'pwritev'):
        for errno, text in ERRORS.items():
            out = k.both(WRITE, inject(event, errno, 'on'))
            assert out.startswith('write failed: %s\n' % text), out
            out = k.ours(WRITE, [inject(event, errno, 'off')])
            assert out.count(text) > 2, out
    # Tables of new clusters are known: nobody has to load them.
    out = k.both(WRITE, inject('l2_load', 5, 'on'))
    assert 'failed' not in out


def test_events_of_reads(d):
    k = Kitchen(d, before=('write -P 7 0 256k',))
    lines = ('read -P 7 0 128k', 'read -P 7 0 128k', 'write -P 8 0 64k',
             'flush', 'read -P 8 0 64k')
    for event in ('read_aio', 'l2_load'):
        for errno, text in ERRORS.items():
            out = k.both(lines, inject(event, errno, 'on'))
            assert out.startswith('read failed: %s\n' % text), out


def test_events_of_reading_from_below(d):
    base = d + '/base'
    with open(base, 'wb') as f:
        f.write(b'\x11' * (1 << 20))
    k = Kitchen(d, '-b', base, '-F', 'raw', size='1M')
    lines = ('write -P 3 4k 4k', 'write -P 3 4k 4k', 'flush',
             'read -P 0x11 0 4k', 'read -P 3 4k 4k', 'read -P 0x11 8k 56k')
    for event in ('cow_read', 'cow_write', 'read_backing_aio'):
        for errno, text in ERRORS.items():
            out = k.both(lines, inject(event, errno, 'on'))
            assert out.startswith('write failed: %s\n' % text), out


def test_events_of_pointers(d):
    """With the flush, here; and the flush that follows writes them."""
    k = Kitchen(d)
    for event in ('l1_update', 'l2_update', 'l2_alloc_write',
                  'refblock_update_part'):
        for errno, text in ERRORS.items():
            out = k.ours(WRITE, [inject(event, errno, 'on')])
            assert out.startswith('wrote'), (event, out)
            assert out.count(text) == 1, (event, out)
            assert 'flush failed: ' + text in out, (event, out)
            assert out.endswith('read 131072/131072 bytes at offset 0'), out
            out = k.ours(WRITE[:2], [inject(event, errno, 'off')])
            assert out.endswith('flush failed: ' + text), (event, out)


def test_events_of_more_refcounts(d):
    """Clusters so small that blocks of refcounts, and then their table, have to
    be made on the way."""
    k = Kitchen(d, '-o', 'cluster_size=512,refcount_bits=64', size='16M')
    lines = ('write -P 1 0 4M', 'flush', 'flush', 'write -P 2 4M 1M', 'flush',
             'read -P 1 0 4M', 'read -P 2 4M 1M')
    for event in ('refblock_alloc_write', 'refblock_alloc_write_blocks',
                  'refblock_alloc_write_table', 'refblock_alloc_switch_table',
                  'refblock_alloc_hookup'):
        small = event in ('refblock_alloc_write', 'refblock_alloc_hookup')
        first = ('write -P 1 0 1M', 'flush') + lines if small else lines
        out = k.ours(first, [inject(event, 28, 'on')])
        assert out.count('failed: ' + ERRORS[28]) == 1, (event, out)
        assert 'verification' not in out, out
        assert out.endswith('read 1048576/1048576 bytes at offset 4194304')


def test_events_of_a_larger_table(d):
    k = Kitchen(d, '-o', 'cluster_size=512', size='1M',
                before=('write -P 1 0 1M',))
    for event in ('l1_grow_alloc_table', 'l1_grow_write_table',
                  'l1_grow_activate_table'):
        out = k.ours(('truncate 16M', 'length', 'truncate 16M', 'length',
                      'read -P 1 0 1M', 'read -P 0 15M 1M'),
                     [inject(event, 5, 'on')])
        assert ERRORS[5] in out and '\n1 MiB\n16 MiB\n' in out, (event, out)
        assert 'verification' not in out, out


def test_events_of_snapshots(d):
    """Tables that a snapshot shares are copied first."""
    k = Kitchen(d, before=('write -P 1 0 128k',),
                prepare=lambda p: qemu_img('snapshot', '-c', 's', p))
    for event in ('l2_alloc_cow_read', 'l2_alloc_write'):
        out = k.ours(WRITE, [inject(event, 5, 'on')])
        assert out.count('flush failed: ' + ERRORS[5]) == 1, (event, out)
        assert out.endswith('read 131072/131072 bytes at offset 0'), out
        assert qemu_img('snapshot', '-l', d + '/ours.qcow2').count('\n') > 2


def test_events_of_compressed_clusters(d):
    k = Kitchen(d)
    lines = ('write -c -P 5 0 64k', 'write -c -P 5 0 64k', 'flush',
             'read -P 5 0 64k', 'read -P 5 0 64k')
    # (The qemu_tools's cluster is lost then.)
    for event in ('write_compressed', 'l2_update_compressed',
                  'cluster_alloc_bytes'):
        out = k.ours(lines, [inject(event, 28, 'on')])
        assert out.startswith('write failed: ' + ERRORS[28]), (event, out)
        assert out.count('failed') == 1 and 'verification' not in out, out
    k.before = ('write -c -P 5 0 64k',)
    out = k.both(('read -P 5 0 64k', 'read -P 5 0 64k'),
                 inject('read_compressed', 5, 'on'))
    assert out.startswith('read failed: ' + ERRORS[5]), out


def test_states_count_over_formats(d):
    """The third write fails, after reads that do not count."""
    k = Kitchen(d)
    states = [('set-state', {'event': 'write_aio', 'state': i,
                             'new_state': i + 1}) for i in (1, 2)]
    lines = ('write -P 1 0 64k', 'read -P 1 0 64k', 'write -P 2 64k 64k',
             'read -P 2 64k 64k', 'write -P 3 128k 64k', 'read -P 0 128k 64k',
             'write -P 3 128k 64k', 'read -P 3 128k 64k')
    out = k.both(lines, *states, ('inject-error', {
        'event': 'write_aio', 'state': 3, 'errno': 28, 'once': 'on'}))
    assert out.count('write failed: ' + ERRORS[28]) == 1, out


def overlaps(base):
    """Writes while another to the same clusters is held: (lines, reads)."""
    spots = [(0x018000, 0x2000, ((0x012000, 0x2000), (0x01c000, 0x2000))),
             (0x028000, 0x2000, ((0x02a000, 0x4000),)),
             (0x06e000, 0x4000, ((0x060000, 0x8000), (0x074000, 0x8000))),
             (0x0a0000, 0x20000, ((0x0a8000, 0x1000), (0x0b0000, 0x10000))),
             (0x120000, 0x10000, ((0x110000, 0x20000),))]
    lines, reads, value = [], [], 0
    for at, n, others in spots:
        lines += ['break write_aio A', 'aio_write -q -P %d 0x%x 0x%x'
                  % (value + 10, at, n), 'wait_break A']
        for o, m in others:
            value += 1
            lines.append('aio_write -q -P %d 0x%x 0x%x' % (value + 100, o, m))
        lines += ['resume A', 'aio_flush']
        value += 1
        # Where two wrote either may have won; elsewhere nothing was lost.
        alone = [(o, m, v) for (o, m), v in
                 zip(others, range(value - len(others) + 100, 300))
                 if o >= at + n or o + m <= at]
        reads += ['read -q -P %d 0x%x 0x%x' % (v, o, m) for o, m, v in alone]
        start = at & ~0xffff
        if start < min(at, *(o for o, _ in others)):
            reads.append('read -q -P %d 0x%x 0x800' % (base, start))
    return lines, reads


def test_writes_that_meet_in_a_cluster(d):
    base = d + '/base'
    with open(base, 'wb') as f:
        f.write(b'\x55' * (2 << 20))
    below = ('-b', base, '-F', 'raw')
    for fmt, create, value in (
            ('qcow2', (), 0), ('qcow2', below, 0x55), ('qed', (), 0),
            ('qed', below, 0x55),
            ('qcow2', ('-o', 'extended_l2=on,cluster_size=64k'), 0)):
        k = Kitchen(d, *create, size='2M', fmt=fmt)
        lines, reads = overlaps(value)
        assert len(reads) > 5
        out = k.ours(lines + ['flush'] + reads)
        assert out == '', (create, out)
        path = k.make('qemu_tools')
        assert play_qemu('blkdebug::' + path, lines + reads, fmt) == out


def test_forms_of_options(d):
    """Rules in the options of a drive, dotted; and a filter over a node that is
    there already, an image or its file."""
    for fmt in ('qcow2', 'qed'):
        path = '%s/disk.%s' % (d, fmt)
        qemu_img('create', '-q', '-f', fmt, path, '64M')
        run_tool('qemu-io', '-f', fmt, '-c', 'write -q -P 42 0x38000 512', path)
        options = 'file.driver=blkdebug,file.image.filename=%s,' \
            'file.inject-error.0.event=l2_load,file.inject-error.0.errno=28,' \
            'file.inject-error.0.once=on,file.inject-error.1.event=read_aio,' \
            'file.inject-error.1.state=2,file.set-state.0.event=read_aio,' \
            'file.set-state.0.new_state=2' % path
        lines = ['read -P 42 0x38000 512'] * 3
        qemu_tools = ['qemu-io', '--image-opts', 'driver=%s,%s' % (fmt, options)]
        for line in lines:
            qemu_tools += ['-c', line]
        theirs = subprocess.run(qemu_tools, stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.STDOUT, check=False).stdout
        with Sluiced(d, '--drive', 'id=n,format=%s,%s' % (fmt, options)) as s:
            ours = ''.join(s.qmp.hmp('qemu-io n "%s"' % l) for l in lines)
        assert plain(ours) == plain(theirs), (fmt, ours, theirs)
        assert 'No space' in ours and 'Input/output' in ours, ours
        debug = {'driver': 'blkdebug', 'image': 'below', 'inject-error': [
            {'event': 'read_aio', 'state': 42, 'errno': 28}],
            'set-state': [{'event': 'read_aio', 'state': 1, 'new_state': 42}]}
        with Sluiced(d) as s:
            s.qmp.cmd('blockdev-add', {'driver': fmt, 'node-name': 'below',
                                       'file': {'driver': 'file',
                                                'filename': path}})
            s.qmp.cmd('blockdev-add', {'driver': 'raw', 'node-name': 'n',
                                       'file': debug})
            out = [s.qmp.hmp('qemu-io -d n "read -q 0 512"') for _ in range(3)]
            assert out == [''] + ['read failed: %s\n' % ERRORS[28]] * 2, out


def test_breakpoints_by_event(d):
    """A request is held at each place that a write comes by; what is removed
    holds nobody."""
    k = Kitchen(d, before=('write -P 1 0 64k',))
    for event, line in (('write_aio', 'aio_write -q -P 9 0 64k'),
                        ('read_aio', 'aio_read -q -P 1 0 64k'),
                        ('cluster_alloc', 'aio_write -q -P 9 1M 64k'),
                        ('flush_to_os', None), ('pwritev', 'aio_write -q -P 9 '
                                                '2M 64k')):
        if line is None:
            continue
        out = k.both(('break %s A' % event, line, 'wait_break A', 'length',
                      'break %s B' % event, 'remove_break B', 'resume A',
                      'aio_flush', line, 'aio_flush'))
        assert out == '64 MiB', (event, out)
    out = k.ours(('break l2_update A', 'aio_write -q -f -P 9 1M 64k',
                  'wait_break A', 'read -q -P 9 1M 64k', 'resume A',
                  'aio_flush'))
    assert out == '', out


if __name__ == '__main__':
    if shutil.which('qemu-io') is None:
        print('1..0 # SKIP qemu-io is not installed')
        raise SystemExit(77)
    run(globals())
