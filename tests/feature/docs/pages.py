#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual pages say what the programs do: every option, command, event and
symbol of one is in the other."""
import glob
import json
import os
import re
import shutil
import subprocess

from manpages import PAGES
from sluiced import SLUICE, SLUICED, TOP, Skip, Sluiced, run

BUILD = os.path.dirname(SLUICED)
REFERENCE = BUILD + '/src/control/control-commands.rst'
DRIVER_PAGE = {'host_device': 'file', 'null-co': 'null', 'null-aio': 'null',
               'https': 'http'}


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def driver_pages():
    return [path for name, path in PAGES.items()
            if name.startswith('sluice-') and name.endswith('.7.rst')]


def output(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True,
                          text=True).stdout


def options_in(text):
    """-x and --long-names of lines that begin with an option; what follows two
    blanks is prose."""
    found = set()
    for line in text.splitlines():
        head = re.match(r'\s*(-.*?)(?:  |$)', line)
        if head:
            found |= set(re.findall(r'(?<![\w-])(--?[A-Za-z][\w-]*)',
                                    head.group(1)))
    return found


def sections(text, pattern, mark):
    """{match: body} of headings of @pattern, underlined with @mark."""
    lines = text.splitlines()
    out, body = {}, None
    for i, line in enumerate(lines):
        under = lines[i + 1] if i + 1 < len(lines) else ''
        if line and under and len(set(under)) == 1 and under[0] in '=-':
            m = re.match(pattern, line) if under[0] == mark else None
            body = out.setdefault(m.group(1), [line]) if m else None
        elif body is not None:
            body.append(line)
    return {k: '\n'.join(v) for k, v in out.items()}


def same(what, program, page):
    assert program == page, '%s: not in the page: %s; not in the program: %s' \
        % (what, sorted(program - page), sorted(page - program))


def test_sluice(d):
    page = read(PAGES['sluice.1.rst'])
    documented = sections(page, r'sluice (\w+)', '-')
    shared = options_in(sections(page, r'(COMMANDS FOR A RUNNING DAEMON)', '=')
                        ['COMMANDS FOR A RUNNING DAEMON'])
    images = options_in(sections(page, r'(IMAGE COMMANDS)', '=')
                        ['IMAGE COMMANDS'])
    assert images == {'--image-opts', '--object'}, images
    commands = re.findall(r'^  (\w+)  ', output(SLUICE, '--help'), re.M)
    same('commands', set(commands), set(documented))
    listed = re.findall(r'^\| \*\*(\w+)\*\*  +\w', page, re.M)
    assert len(listed) == len(set(listed)), listed
    same('the opening list', set(commands), set(listed))
    for c in commands:
        text = output(SLUICE, c, '--help')
        mine = options_in(text) - {'-h', '--help'}
        there = options_in(documented[c]) - {'-h', '--help'}
        if '--socket' in mine and 'socket of the daemon' in text:
            there |= shared
        if '--image-opts' in mine:
            there |= images
        same(c, mine, there)


def test_differences_from_qemu_img(d):
    """What qemu-img has and sluice has not is told: commands and options."""
    if not shutil.which('qemu-img'):
        raise Skip('qemu-img')
    told = sections(read(PAGES['sluice.1.rst']), r'(DIFFERENCES) FROM',
                    '=')['DIFFERENCES']
    mine = re.findall(r'^  (\w+)  ', output(SLUICE, '--help'), re.M)
    syntax = output('qemu-img', '--help').split('Command syntax:')[1]
    syntax = syntax.split('Command parameters')[0].strip().splitlines()
    assert len(syntax) >= 14, syntax
    for line in syntax:
        command = line.split()[0]
        if command not in mine:
            assert '**%s**' % command in told, command
            continue
        option = r'(?<![\w-])(--?[A-Za-z][\w-]*)'
        missing = (set(re.findall(option, line)) -
                   set(re.findall(option, output(SLUICE, command, '--help'))))
        for o in missing:
            assert '**%s**' % o in told, (command, o)


def test_every_option_by_itself(d):
    """No sentence runs on from one option to the next: each text begins like one,
    and none ends with a comma."""
    texts = [(name, read(path)) for name, path in PAGES.items()]
    for name, text in texts + [('reference', read(REFERENCE))]:
        for m in re.finditer(r'^(?:-{1,2}\w[^\n]*?(?:  +|\n +)|``[^\n]*\n +)'
                             r'(\w[^\n]*(?:\n +[^\n]+)*)', text, re.M):
            body = m.group(1).strip()
            assert not body.endswith(','), (name, m.group(0))
            assert not re.match(r'(unless|so is|and every|the same\.|or )', body,
                                re.I), (name, m.group(0))


def test_reference_is_read_by_people(d):
    page = read(REFERENCE)
    assert 'Since 0.1' not in page
    job = sections(page, r'(BlockJobInfo) \(struct\)', '-')['BlockJobInfo']
    names = re.findall(r'^``([\w-]+)``', job, re.M)
    assert names[:3] == ['device', 'type', 'status'], names
    assert names.index('auto-finalize') > names.index('paused'), names


def test_sluiced(d):
    body = sections(read(PAGES['sluiced.8.rst']), r'(OPTIONS)$', '=')['OPTIONS']
    there = '\n'.join(l for l in body.splitlines() if l.startswith('-'))
    text = '\n'.join(l for l in output(SLUICED, '--help').splitlines()
                     if l.startswith('  -'))
    same('sluiced', options_in(text), options_in(there))


def type_members(by_name, name):
    return {m['name']: m['type'] for m in by_name[name]['members']}


def test_drivers(d):
    """Every option of every driver, and of exports and throttle groups."""
    with Sluiced(d) as s:
        by_name = {e['name']: e for e in s.qmp.cmd('query-qmp-schema')}
    node = by_name[by_name['blockdev-add']['arg-type']]
    common = read(PAGES['sluiced.8.rst'])
    for name in type_members(by_name, node['name']):
        assert '``%s' % name in common or name + '=' in common, name
    for v in node['variants']:
        page = 'sluice-%s.7.rst' % DRIVER_PAGE.get(v['case'], v['case'])
        text = read(PAGES[page])
        assert v['case'] in text, (page, v['case'])
        for option in type_members(by_name, v['type']):
            assert re.search(r'^(``[^\n]*, )?``%s``' % option, text, re.M), \
                '%s: option %s is missing' % (page, option)
    export = by_name[by_name['block-export-add']['arg-type']]
    for v in export['variants']:
        page = 'sluice-%s.7.rst' % v['case']
        text = read(PAGES[page])
        for name in (list(type_members(by_name, export['name'])) +
                     list(type_members(by_name, v['type']))):
            assert '\n``%s``' % name in text or ', ``%s``' % name in text, \
                '%s: option %s is missing' % (page, name)
    obj = by_name[by_name['object-add']['arg-type']]
    group = next(v for v in obj['variants'] if v['case'] == 'throttle-group')
    limits = type_members(by_name, group['type'])['limits']
    text = read(PAGES['sluice-throttle.7.rst'])
    for name in type_members(by_name, limits):
        assert '``%s``' % name in text, name


def test_no_option_is_invented(d):
    """What a driver's page defines is in the driver's table."""
    known = {}
    for path in glob.glob(TOP + '/src/*/**/*.c', recursive=True):
        for m in re.finditer(r'option\w*\[\] = \{([^;]*?)NULL', read(path)):
            names = set(re.findall(r'"([\w.-]+)"', m.group(1)))
            known[path] = known.get(path, set()) | names
    every = set().union(*known.values())
    for path in driver_pages():
        body = sections(read(path), r'(OPTIONS)$', '=').get('OPTIONS', '')
        for name in re.findall(r'^``([\w-]+)`` \(', body, re.M):
            assert name in every, (path, name)


def test_reference(d):
    page = read(REFERENCE)
    headings = set(re.findall(r'^(.+)\n-+$', page, re.M))
    with Sluiced(d) as s:
        commands = {c['name'] for c in s.qmp.cmd('query-commands')}
        events = {e['name'] for e in s.qmp.cmd('query-qmp-schema')
                  if e['meta-type'] == 'event'}
    assert commands <= headings, commands - headings
    events = {'%s (event)' % e for e in events}
    assert events <= headings, events - headings


def test_library(d):
    if not shutil.which('nm'):
        raise Skip('nm (binutils)')
    lib = BUILD + '/src/lib/libsluice.so'
    symbols = {l.split()[-1].split('@')[0]
               for l in output('nm', '-D', '--defined-only', lib).splitlines()
               if ' T ' in l}
    page = read(PAGES['libsluice.3.rst'])
    header = read(TOP + '/include/sluice/sluice.h')
    declared = set(re.findall(r'\b(sluice_\w+)\(', header))
    same('header', symbols, declared)
    same('libsluice(3)', symbols,
         set(re.findall(r'^   \S.*?\b(sluice_\w+)\(', page.split(
             'DESCRIPTION')[0], re.M)))
    for name in symbols:
        assert '\n**%s**\\()' % name in page, name


def test_library_example(d):
    """The program in libsluice(3) compiles and runs."""
    if not shutil.which('cc'):
        raise Skip('cc')
    page = read(PAGES['libsluice.3.rst']).split('EXAMPLE')[1]
    code = re.search(r'::\n\n((?:   .*\n|\n)+)', page).group(1)
    with open(d + '/prog.c', 'w', encoding='utf-8') as f:
        f.write('\n'.join(l[3:] for l in code.splitlines()) + '\n')
    if 'san' in os.path.basename(BUILD):
        raise Skip('a library without sanitizers')
    subprocess.run(['cc', '-Wall', '-Werror', '-I' + TOP + '/include',
                    d + '/prog.c', '-o', d + '/prog', '-L' + BUILD + '/src/lib',
                    '-lsluice', '-Wl,-rpath,' + BUILD + '/src/lib'], check=True)


def test_examples_open(d):
    """Every example with --blockdev, --drive, --object or --export on the
    pages is one that the daemon can read."""
    bad = []
    for path in PAGES.values():
        for m in re.finditer(r'^ +(--(?:blockdev|object|drive) [^\'\n]\S*)$',
                             read(path), re.M):
            name, arg = m.group(1).split(' ', 1)
            p = subprocess.run([SLUICED, name, arg, '--object',
                                'no-such-type,id=stop'], cwd=d,
                               stderr=subprocess.PIPE, text=True)
            # Files that are not there are fine, unknown words are not.
            if re.search('unexpected|does not accept|is missing|Invalid',
                         p.stderr.split('--object no-such-type')[0]):
                bad.append((path, arg, p.stderr))
    assert not bad, bad


def test_json_examples(d):
    """The JSON on the pages is JSON, and the schema accepts it."""
    with Sluiced(d) as s:
        n = 0
        for path in driver_pages():
            text = read(path)
            decoder = json.JSONDecoder()
            for m in re.finditer(r'\{ "execute"', text):
                msg, _ = decoder.raw_decode(text[m.start():])
                answer = s.qmp.execute(msg['execute'], msg['arguments'])
                desc = answer.get('error', {}).get('desc', '')
                assert not re.search(
                    'unexpected|does not accept|is missing|Invalid', desc), \
                    (path, msg, desc)
                n += 1
        assert n >= 7, n


def test_trace_list(d):
    listed = set(output(SLUICED, '-T', 'help').split())
    declared = set()
    for path in glob.glob(TOP + '/src/*/trace-events'):
        declared |= set(re.findall(r'^([a-z_0-9]+)\(', read(path), re.M))
    same('-T help', listed, declared)


def test_trace_prints(d):
    with Sluiced(d, '-T', 'node_open', '--blockdev', 'null-co,node-name=n') as s:
        pass
    assert re.search(r' node_open n driver null-co ', s.errors()), s.errors()


if __name__ == '__main__':
    run(globals())
