#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""sluice monitor, on a terminal and from a pipe."""
import os
import re
import subprocess

from sluiced import SLUICE, Sluiced, make_chain, run
from terminal import CTRL_C, CTRL_D, TAB, UP, Terminal
from waiting import until

MIB = 1 << 20
PROMPT = r'\(sluice\) '


def daemon(d):
    top = make_chain(d, MIB)[1]
    return Sluiced(d, '--blockdev', 'driver=qed,node-name=disk0,'
                   'file.driver=file,file.filename=' + top)


def excuse_libedit(d):
    """el_set() keeps copies of the names of keys, which el_end() forgets.  Its
    frames are in a stack only where that is unwound in the slow way."""
    with open(d + '/leaks', 'w', encoding='ascii') as f:
        f.write('leak:libedit.so\n')
    return {'LSAN_OPTIONS': 'suppressions=%s/leaks:print_suppressions=0' % d,
            'ASAN_OPTIONS': 'fast_unwind_on_malloc=0'}


def monitor(s):
    return Terminal(SLUICE, 'monitor', '-s', s.socket,
                    env=excuse_libedit(os.path.dirname(s.socket)))


def ready(t):
    """Wait for the prompt, and until the editor has the terminal."""
    t.expect(PROMPT)
    until(lambda: t.is_raw() or not t.open, 'the editor')


def piped(s, text):
    return subprocess.run([SLUICE, 'monitor', '-s', s.socket], input=text,
                          text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)


def test_editing_and_history(d):
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        # Typed wrong, and mended: back over "x", to the front, to the end.
        t.type('nfo versionx\x7f\x01i\x05\n')
        t.expect(r'\d+\.\d+\.\d+')
        ready(t)
        t.type('info block-jobs\n')
        t.expect('No active jobs')
        ready(t)
        t.type(UP + UP + '\n')
        t.expect(r'\d+\.\d+\.\d+')
        ready(t)
        t.type(CTRL_D)
        assert t.wait() == 0


def test_completion(d):
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        t.type('block_re' + TAB)
        t.expect('size ')
        t.type('dis' + TAB)
        t.expect('k0 ')
        t.type('2M\n')
        ready(t)
        size, = [n['image']['virtual-size']
                 for n in s.qmp.cmd('query-named-block-nodes')
                 if n['node-name'] == 'disk0']
        assert size == 2 * MIB, size
        # Several fit: what they share is typed, a second TAB lists them.
        t.type('info bl' + TAB)
        t.expect('ock')
        t.type(TAB)
        t.expect(r'block  block-jobs  block-stream  blockstats\r\n')
        t.expect(PROMPT + 'info block')
        t.type('-j' + TAB + '\n')
        t.expect('No active jobs')
        ready(t)
        t.type('{"execute": "query-na' + TAB)
        t.expect('med-block-nodes"')
        t.type('}\n')
        t.expect(r'"node-name": "disk0"')
        ready(t)
        t.type(CTRL_D)
        assert t.wait() == 0


def test_events_while_typing(d):
    """They stand in lines of their own, and what was typed comes back."""
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        t.type('info ver')
        t.expect('info ver')
        s.qmp.cmd('block-stream', device='disk0', job_id='j')
        t.expect(r'\r\x1b\[KJOB_STATUS_CHANGE ')
        t.expect(r'BLOCK_JOB_COMPLETED [^\n]*\r\n')
        t.expect(r'"status":"null"[^\n]*\r\n')
        t.expect(PROMPT + 'info ver')
        t.type('sion\n')
        t.expect(r'\d+\.\d+\.\d+')
        ready(t)
        t.type(CTRL_D)
        assert t.wait() == 0


def test_interrupt(d):
    """Ctrl-C takes the line away; without a line the monitor ends, and the
    terminal is as it was."""
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        t.type('block_resize disk0')
        t.expect('disk0')
        t.type(CTRL_C)
        t.expect(r'\x1b\[K')
        t.type('info version\n')
        t.expect(r'\d+\.\d+\.\d+')
        ready(t)
        t.type(CTRL_C)
        assert t.wait() == 0
        assert 'unknown command' not in t.text, t.text


def test_quit_leaves_the_daemon_alone(d):
    with daemon(d) as s:
        for word in ('quit', 'q', 'exit'):
            with monitor(s) as t:
                ready(t)
                t.type(word + '\n')
                assert t.wait() == 0
            p = piped(s, word + '\ninfo version\n')
            assert p.returncode == 0 and not p.stdout, p
        assert s.qmp.cmd('query-status')['running']
        p = piped(s, 'quit --daemon\n')
        assert p.returncode == 0, p
        assert s.wait() == 0


def test_quit_of_the_daemon_on_a_terminal(d):
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        t.type('quit --daemon\n')
        assert t.wait() == 0
        assert 'went away' not in t.text, t.text
        assert s.wait() == 0


def test_the_daemon_goes_away(d):
    with daemon(d) as s, monitor(s) as t:
        ready(t)
        t.type('info')
        t.expect('info')
        s.kill()
        t.expect('the daemon went away')
        assert t.wait() == 1


def test_names_move_no_terminal(d):
    """A file name with an escape sequence, as a header can hold one."""
    path = d + '/a\x1b[31mb.raw'
    with open(path, 'wb') as f:
        f.truncate(MIB)
    with Sluiced(d, '--drive', 'id=x,format=raw,file=' + path) as s:
        p = piped(s, 'info block\n')
        assert 'a\\x1b[31mb.raw' in p.stdout and '\x1b' not in p.stdout, p


def test_piped(d):
    with daemon(d) as s:
        p = piped(s, 'info version\n{"execute": "query-version"}\nzork')
        assert re.match(r'sluice-\d+\.\d+', p.stdout), p
        assert '"package"' in p.stdout and 'zork' in p.stdout + p.stderr, p


if __name__ == '__main__':
    run(globals())
