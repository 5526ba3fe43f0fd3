#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `make install` puts in place, and the service."""
import os
import re
import shutil
import subprocess

from manpages import PAGES
from sluiced import SLUICED, TOP, Skip, run
from waiting import until

BUILD = os.path.dirname(SLUICED)


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def service():
    """The unit as {key: [values]}."""
    text = read(BUILD + '/scripts/sluiced.service').replace('\\\n', ' ')
    out = {}
    for line in text.splitlines():
        if '=' in line and not line.startswith('#'):
            key, value = line.split('=', 1)
            out.setdefault(key, []).append(value)
    return out


def test_install(d):
    if not shutil.which('meson'):
        raise Skip('meson')
    if not os.access(BUILD + '/meson-logs', os.W_OK):
        raise Skip('the right to write to the build folder')
    p = subprocess.run(['meson', 'install', '-C', BUILD, '--no-rebuild',
                        '--destdir', d], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True)
    assert p.returncode == 0, p.stdout
    there = [os.path.relpath(os.path.join(root, n), d)
             for root, _, names in os.walk(d) for n in names]
    wanted = ['bin/sluice', 'bin/sluiced', 'libsluice.so.0',
              'include/sluice/sluice.h', 'pkgconfig/libsluice.pc',
              'lib/systemd/system/sluiced.service',
              'doc/sluice/architecture.rst', 'doc/sluice/testing.rst',
              'doc/sluice/control-commands.rst', 'doc/sluice/README.md']
    if shutil.which('rst2man') or shutil.which('rst2man.py'):
        for page in list(PAGES) + ['sluice-qmp.7.rst']:
            name = page[:-4]
            wanted.append('man/man%s/%s' % (name[-1], name))
    for w in wanted:
        assert any(t.endswith(w) for t in there), (w, there)
    prog = [os.path.join(d, t) for t in there if t.endswith('bin/sluice')][0]
    lib = [os.path.dirname(os.path.join(d, t)) for t in there
           if t.endswith('libsluice.so.0')][0]
    env = dict(os.environ, LD_LIBRARY_PATH=lib)
    p = subprocess.run([prog, '--version'], env=env, stdout=subprocess.PIPE,
                       text=True)
    assert p.returncode == 0 and 'sluice' in p.stdout, p


def test_service_fits_the_programs(d):
    unit = service()
    line = unit['ExecStart'][0]
    known = set(re.findall(r'--[a-z-]+', subprocess.run(
        [SLUICED, '--help'], stdout=subprocess.PIPE, text=True,
        check=True).stdout))
    used = set(re.findall(r'(?<=\s)--[a-z-]+', line))
    assert used <= known, used - known
    default = re.search(r'DEFAULT_SOCKET "([^"]+)"',
                        read(TOP + '/src/cli/client.c')).group(1)
    assert 'path=%s,' % default in line, (default, line)
    runtime = unit['RuntimeDirectory'][0]
    state = unit['StateDirectory'][0].split()
    assert default.startswith('/run/%s/' % runtime)
    policy = re.search(r'--backing-policy beneath=(\S+)', line).group(1)
    assert policy == '/var/lib/' + state[0], policy
    journal = re.search(r'--state-dir (\S+)', line).group(1)
    assert journal in ['/var/lib/' + s for s in state], journal
    assert unit['PIDFile'][0] in line


def test_service_command_runs(d):
    """The service's own command line, with its folders moved here."""
    line = service()['ExecStart'][0].replace('$SLUICED_ARGS', '')
    words = line.replace('/run/sluice', d).replace('/var/lib/sluice', d).split()
    os.mkdir(d + '/jobs')
    subprocess.run([SLUICED] + words[1:], check=True, stdin=subprocess.DEVNULL)
    pid = int(read(d + '/sluiced.pid'))
    try:
        assert os.path.exists(d + '/control.sock')
    finally:
        os.kill(pid, 15)
    until(lambda: not os.path.exists(d + '/sluiced.pid'), 'the end')


def test_service_is_valid(d):
    if not shutil.which('systemd-analyze'):
        raise Skip('systemd-analyze')
    path = d + '/sluiced.service'
    text = read(BUILD + '/scripts/sluiced.service')
    # The programs and pages are not installed here.
    text = re.sub(r'ExecStart=\S+', 'ExecStart=' + SLUICED, text)
    text = re.sub(r'Documentation=.*', '', text)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    p = subprocess.run(['systemd-analyze', 'verify', '--man=no', path],
                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True)
    bad = [l for l in p.stdout.splitlines() if 'sluiced.service' in l]
    if not bad and p.returncode:
        raise Skip('a system that systemd-analyze can look at: '
                   + p.stdout.strip()[:200])
    assert not bad, p.stdout


if __name__ == '__main__':
    run(globals())
