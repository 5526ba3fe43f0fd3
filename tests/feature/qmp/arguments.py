#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command of the schema, with arguments left out and with arguments that
its types admit: names that exist or not, empty ones, numbers at their limits.
Whatever is asked, the daemon answers, lives on and ends well."""
import json
import os
import random
import shutil
import tempfile

from qmp import QmpClosed
from seed import SEED
from sluiced import Sluiced, qemu_img, run

# These end or hand out what the test itself needs.
LEFT_OUT = {'quit', 'qmp_capabilities'}
NAMES = ['top', 'base', 'other', 'disk', 'f', 'nothing', '', 'j', 'tg', 'x']
IMAGES = ['base.raw', 'top.qcow2', 'other.qcow2', 't.qcow2', 'disk.qcow2',
          'next.qcow2']
FILES = ['next.qcow2', 'new.qcow2', 't.qcow2', 'base.raw', 'no/such', '']
NUMBERS = [0, 1, -1, 3, 512, 65536, 1 << 20, (1 << 63) - 1, -(1 << 63)]
FORMATS = ['qcow2', 'raw', 'qed', 'nonsense', '']
WORDS_OF_FILES = ('file', 'target', 'top', 'base', 'image', 'path')


class Maker:
    """Arguments of the schema's types."""

    def __init__(self, schema, rng):
        self.types = {t['name']: t for t in schema}
        self.rng = rng

    def text(self, name):
        rng = self.rng
        if name == 'format' or name == 'fmt':
            return rng.choice(FORMATS)
        if name == 'command-line':
            return rng.choice(['info block', 'qemu-io top "read 0 512"', '',
                               'commit top', 'snapshot_blkdev top'])
        if 'node' not in name and any(w in name for w in WORDS_OF_FILES):
            return rng.choice(FILES + NAMES)
        return rng.choice(NAMES)

    def value(self, name, kind, depth):
        t = self.types[kind]
        meta, rng = t['meta-type'], self.rng
        if meta == 'enum':
            return rng.choice([m['name'] for m in t['members']])
        if meta == 'array':
            return [self.value(name, t['element-type'], depth + 1)
                    for _ in range(rng.randrange(3 if depth < 4 else 1))]
        if meta == 'alternate':
            return self.value(name, rng.choice(t['members'])['type'], depth)
        if meta == 'object':
            return self.members(t, depth + 1)
        return {'string': lambda: self.text(name),
                'int': lambda: rng.choice(NUMBERS),
                'number': lambda: rng.choice(NUMBERS),
                'boolean': lambda: rng.random() < .5,
                'null': lambda: None}.get(t['json-type'], dict)()

    def members(self, t, depth, chosen=None):
        """@chosen: the optional members that are there; None: some."""
        rng, out = self.rng, {}
        for m in t.get('members', []):
            optional = 'default' in m
            if optional and (m['name'] not in chosen if chosen is not None
                             else rng.random() < (.8 if depth > 3 else .6)):
                continue
            out[m['name']] = self.value(m['name'], m['type'], depth)
        for v in t.get('variants', []):
            if v['case'] == out.get(t['tag']):
                out.update(self.members(self.types[v['type']], depth))
        return out

    def calls(self, command, more):
        t = self.types[command['arg-type']]
        optional = [m['name'] for m in t.get('members', []) if 'default' in m]
        for chosen in [[]] + [[o] for o in optional] + [None] * more:
            yield self.members(t, 1, chosen)


def start(d):
    """A daemon in a folder of its own: its images, as they were made, and
    what the commands make by relative names."""
    home = tempfile.mkdtemp(dir=d)
    if not os.path.exists(d + '/top.qcow2'):
        with open(d + '/base.raw', 'wb') as f:
            f.write(os.urandom(1 << 20))
        qemu_img('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw',
                 d + '/top.qcow2')
        for name in ('other.qcow2', 't.qcow2', 'disk.qcow2'):
            qemu_img('create', '-q', '-f', 'qcow2', d + '/' + name, '1M')
        qemu_img('create', '-q', '-f', 'qcow2', '-b', 'other.qcow2', '-F',
                 'qcow2', d + '/next.qcow2')
    for name in IMAGES:
        shutil.copy(os.path.join(d, name), home)
    return Sluiced(
        home, '--object', 'throttle-group,id=tg',
        '--blockdev', 'file,node-name=f,filename=base.raw',
        '--blockdev', 'raw,node-name=base,file=f',
        '--blockdev', 'qcow2,node-name=top,file.driver=file,'
        'file.filename=top.qcow2,backing=base',
        '--blockdev', 'qcow2,node-name=other,file.driver=file,'
        'file.filename=other.qcow2',
        '--drive', 'id=disk,file=disk.qcow2,format=qcow2')


def ask(s, told, name, args):
    line = json.dumps({'execute': name, 'arguments': args})
    told.append(line)
    try:
        s.qmp.send_raw(line + '\n')
        s.qmp.answer()
    except (QmpClosed, BrokenPipeError, ConnectionResetError):
        print('# the last commands:')
        for t in told[-20:]:
            print('# ' + t)
        raise


def test_a_snapshot_of_nothing(d):
    with start(d) as s:
        for args in ({}, {'device': ''}):
            err = s.qmp.execute('blockdev-snapshot-sync',
                                dict(args, **{'snapshot-file': 'x.qcow2'}))
            assert err['error']['desc'] == \
                "Cannot find device='' nor node-name=''", err


def test_a_switch_by_names_of_the_current_folder(d):
    with start(d) as s:
        args = {'device': 'other', 'image': 'next.qcow2', 'format': 'qcow2'}
        err = s.qmp.execute('block_switch', dict(args, device='disk'))
        assert "does not have 'disk.qcow2'" in err['error']['desc'], err
        assert s.qmp.execute('block_switch', args) == {'return': {}}


def test_every_command_lives_through_its_arguments(d):
    rng = random.Random(SEED)
    with start(d) as s:
        schema = s.qmp.cmd('query-qmp-schema')
    commands = [t for t in schema if t['meta-type'] == 'command' and
                t['name'] not in LEFT_OUT]
    maker = Maker(schema, rng)
    # The ones that leave out all they can meet an untouched daemon.
    for command in commands:
        if len(maker.types[command['arg-type']].get('members', [])) < 2:
            continue
        told = []
        with start(d) as s:
            for args in maker.calls(command, 3):
                ask(s, told, command['name'], args)


def test_any_commands_one_after_another(d):
    rng = random.Random(SEED + 1)
    for _ in range(4):
        told = []
        with start(d) as s:
            schema = s.qmp.cmd('query-qmp-schema')
            maker = Maker(schema, rng)
            calls = [(t['name'], args) for t in schema
                     if t['meta-type'] == 'command' and
                     t['name'] not in LEFT_OUT
                     for args in maker.calls(t, 2)]
            rng.shuffle(calls)
            for name, args in calls:
                ask(s, told, name, args)


if __name__ == '__main__':
    run(globals())
