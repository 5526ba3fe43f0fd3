#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Documents are valid markup and name only what is there."""
import glob
import os
import re
import subprocess

from manpages import PAGES
from sluiced import SLUICED, TOP, Skip, run

BUILD = os.path.dirname(SLUICED)
REFERENCE = BUILD + '/src/control/control-commands.rst'
DOCUMENTS = [TOP + '/' + name for name in (
    'README.md', 'HACKING.md', 'CONTRIBUTING.md', 'NEWS.md', 'SECURITY.md')] + \
    sorted(glob.glob(TOP + '/doc/*.rst'))
PLACES = ['', 'src/', 'doc/', 'tests/']
ID = r'\b([AGMSPND][1-9])\b'


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def sources(*endings):
    for top in ('src', 'tests', 'schema', 'tools', 'scripts', 'include'):
        for root, _, names in os.walk(os.path.join(TOP, top)):
            for name in sorted(names):
                path = os.path.join(root, name)
                if name.endswith(endings):
                    yield path


def test_rst(d):
    try:
        from docutils.core import publish_string
    except ImportError:
        raise Skip('docutils (python3-docutils)') from None
    for path in DOCUMENTS + list(PAGES.values()) + [REFERENCE]:
        if path.endswith('.rst'):
            publish_string(read(path), source_path=path, writer_name='manpage',
                           settings_overrides={'halt_level': 2,
                                               'report_level': 2,
                                               'syntax_highlight': 'none'})


def quoted(text):
    """Words in `code` or ``code``."""
    text = re.sub(r'^```.*?^```', '', text, flags=re.M | re.S)
    return re.findall(r'`([^`\n]+)`', text)


def exists(name):
    name = re.sub(r'NAME|NEXT', '*', name).rstrip('/')
    return any(glob.glob(os.path.join(TOP, place, name)) for place in PLACES)


def test_files_named(d):
    missing = []
    for path in DOCUMENTS:
        for word in quoted(read(path)):
            if not re.fullmatch(r'[A-Za-z][\w.*/-]*(\.(rst|c|h|py|md)|/[\w.*-]*)',
                                word) or word.startswith('build/'):
                continue
            if not exists(word):
                missing.append('%s: %s' % (os.path.relpath(path, TOP), word))
    assert not missing, missing


def test_hostile_rows(d):
    """Each row of the table has a test of that name where the table says."""
    rows = set()
    for line in read(TOP + '/doc/testing.rst').splitlines():
        m = re.match(r'((?:V[A-E]\d+ )+) +(\w[\w, -]*?)  ', line)
        if m and m.group(2) != 'none yet':
            code = ''.join(read('%s/tests/hostile/%s.py' % (TOP, name))
                           for name in re.findall(r'[\w-]+', m.group(2))
                           if name != 'dst')
            for row in m.group(1).split():
                assert re.search(r'def test_(\w+_)?%s_' % row, code), row
                rows.add(row)
    assert len(rows) > 30, rows


def test_flushes_explained(d):
    """Every file that flushes is in the table of flushes, or its folder is."""
    text = read(TOP + '/doc/testing.rst').split('All flushes there are')[1]
    words = set(re.findall(r'[\w/.-]+', text.split('A clean mark')[0]))
    src = TOP + '/src/'
    for path in sources('.c'):
        name = path[len(src):]
        if path.startswith(src) and not name.startswith('loop/') and re.search(
                r'\b\w*(co_flush|co_fsync\w*|fdatasync)\(', read(path)):
            folders = [name[:i] for i, c in enumerate(name) if c == '/']
            assert words & {name, os.path.basename(name), *folders}, name


def test_functions_named(d):
    code = '\n'.join(read(p) for p in sources('.c', '.h'))
    known = set(re.findall(r'\b(\w+)\(', code))
    missing = []
    for path in DOCUMENTS:
        for word in quoted(read(path)):
            m = re.fullmatch(r'(?:->)?(\w+)\(\.*\)', word)
            if m and m.group(1) not in known and \
                        not m.group(1).startswith('g_') and \
                    m.group(1) not in ('noun_verb', 'trace_name'):
                missing.append('%s: %s' % (os.path.relpath(path, TOP), word))
    assert not missing, missing


def test_pages_named(d):
    """Pages that a page refers to are made here or known to everybody."""
    own = {name[:-4] for name in PAGES}
    own.add('sluice-qmp.7')
    for path in list(PAGES.values()) + [REFERENCE]:
        for name, sec in re.findall(r'\*\*([\w-]+)\*\*\\\((\d)\)', read(path)):
            if 'sluice' in name:
                assert '%s.%s' % (name, sec) in own, (path, name)


def test_options_named(d):
    """make targets that documents name exist."""
    targets = set(re.findall(r'^([a-z][\w-]*):', read(TOP + '/Makefile'), re.M))
    for path in DOCUMENTS:
        for name in re.findall(r'(?:`|^    )make ([a-z][\w-]*)', read(path),
                               re.M):
            assert name in targets, (path, name)


def comments(path):
    text = read(path)
    if path.endswith(('.c', '.h')):
        return ' '.join(re.findall(r'/\*.*?\*/', text, re.S))
    return '\n'.join(re.findall(r'#.*', text) +
                     re.findall(r'""".*?"""', text, re.S))


def test_invariants_defined(d):
    defined = set(re.findall(r'^([A-Z][1-9]\d?)$',
                             read(TOP + '/doc/invariants.rst'), re.M))
    assert {'A1', 'G8', 'M6', 'S7', 'P2', 'D1'} <= defined, defined
    unknown = {}
    for path in list(sources('.c', '.h', '.py')) + DOCUMENTS:
        text = read(path) if path in DOCUMENTS else comments(path)
        for name in re.findall(ID, text):
            if name not in defined:
                unknown.setdefault(name, []).append(os.path.relpath(path, TOP))
    assert not unknown, unknown


def test_no_places_of_one_machine(d):
    """No absolute path of whoever wrote it."""
    p = subprocess.run(['grep', '-rnE', r'(^|[^\w./])/(work|home)/', TOP +
                        '/doc', TOP + '/man', TOP + '/README.md',
                        TOP + '/HACKING.md', TOP + '/scripts',
                        *PAGES.values()],
                       stdout=subprocess.PIPE, text=True)
    assert not p.stdout, p.stdout


if __name__ == '__main__':
    run(globals())
