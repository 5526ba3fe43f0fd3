#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `make install` puts in place, and the service."""
import grp
import json
import os
import re
import shutil
import stat
import subprocess

from manpages import PAGES
from sluiced import SANITIZED, SLUICED, TOP, Skip, run
from waiting import until

BUILD = os.path.dirname(SLUICED)
LDCONFIG = '/usr/sbin:/sbin'
# What README's tour runs: of a blank system with make, and of packages.
EVERYWHERE = {'make', 'cd', 'cp', 'dd', 'rm', 'cmp', 'kill', 'export',
              'while', 'sluice'}
TOOL_PACKAGE = {'nbdinfo': 'libnbd-bin', 'nbdcopy': 'libnbd-bin',
                'qemu-io': 'qemu-utils', 'qemu-img': 'qemu-utils'}


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
              'share/bash-completion/completions/sluice',
              'share/bash-completion/completions/sluiced',
              'share/zsh/site-functions/_sluice',
              'doc/sluice/architecture.rst', 'doc/sluice/testing.rst',
              'doc/sluice/control-commands.rst', 'doc/sluice/README.md']
    if shutil.which('rst2man') or shutil.which('rst2man.py'):
        for page in list(PAGES) + ['sluice-qmp.7.rst']:
            name = page[:-4]
            wanted.append('man/man%s/%s' % (name[-1], name))
    for w in wanted:
        assert any(t.endswith(w) for t in there), (w, there)
    programs_start(d, there)
    library_is_found(d, there)


def programs_start(d, there):
    """They need nothing that only their build knows."""
    env = {'PATH': '/usr/bin:/bin'}
    for name in ('bin/sluice', 'bin/sluiced'):
        prog = [os.path.join(d, t) for t in there if t.endswith(name)][0]
        p = subprocess.run([prog, '--version'], env=env, text=True,
                           stdout=subprocess.PIPE)
        assert p.returncode == 0 and 'sluice' in p.stdout, p


def library_is_found(d, there):
    """Where it lies the linker looks, and pkg-config leads there."""
    lib = [os.path.dirname(os.path.join(d, t)) for t in there
           if t.endswith('libsluice.so.0')][0]
    place = '/' + os.path.relpath(lib, d)
    if shutil.which('ldconfig', path=LDCONFIG):
        out = subprocess.run(['ldconfig', '-N', '-X', '-v'], text=True,
                             env={'PATH': LDCONFIG}, stdout=subprocess.PIPE,
                             stderr=subprocess.DEVNULL).stdout
        dirs = re.findall(r'^(/[^:]+):', out, re.M)
        real = {os.path.realpath(p) for p in dirs}
        if os.path.isdir(place):
            assert os.path.realpath(place) in real, (place, dirs)
    if not shutil.which('pkg-config') or not shutil.which('cc') or SANITIZED:
        return
    where = subprocess.run(['pkg-config', '--variable', 'pc_path',
                            'pkg-config'], text=True, check=True,
                           stdout=subprocess.PIPE).stdout.strip().split(':')
    assert place + '/pkgconfig' in where, (place, where)
    env = dict(os.environ, PKG_CONFIG_SYSROOT_DIR=d)
    env['PKG_CONFIG_PATH'] = ':'.join(d + p for p in where)
    flags = subprocess.run(['pkg-config', '--cflags', '--libs', 'libsluice'],
                           env=env, text=True, check=True,
                           stdout=subprocess.PIPE).stdout.split()
    with open(d + '/prog.c', 'w', encoding='ascii') as f:
        f.write('#include <sluice/sluice.h>\n'
                'int main(void) { sluice_free(0); return 0; }\n')
    subprocess.run(['cc', d + '/prog.c', '-o', d + '/prog'] + flags, check=True)
    subprocess.run([d + '/prog'], check=True,
                   env={'LD_LIBRARY_PATH': lib})


def test_library_folder_is_not_guessed(d):
    """Without dpkg-dev Meson would take lib64, where nobody looks."""
    if not shutil.which('meson'):
        raise Skip('meson')
    out = subprocess.run(['meson', 'introspect', '--buildoptions',
                          TOP + '/meson.build'], text=True, check=True,
                         stdout=subprocess.PIPE).stdout
    options = {o['name']: o['value'] for o in json.loads(out)}
    assert options['libdir'] == 'lib', options['libdir']


def test_demo_installs_what_the_tour_needs(d):
    """Each program of README's tour comes with Sluice, with what every system
    has, or with a package of the group `demo` (or `build`)."""
    text = read(TOP + '/README.md')
    blocks = re.findall(r'^```sh\n(.*?)^```', text, re.M | re.S)
    used = set(re.findall(r'^(?:while )?([a-z][a-z-]+)(?= |$)',
                          '\n'.join(blocks), re.M))
    packages = subprocess.run([TOP + '/scripts/install-packages', '--list',
                               'build', 'demo'], text=True, check=True,
                              stdout=subprocess.PIPE).stdout.split()
    for tool in used - EVERYWHERE:
        assert TOOL_PACKAGE[tool] in packages, tool


def test_demo_builds_the_programs_alone(d):
    if not shutil.which('make') or not shutil.which('ninja'):
        raise Skip('make and ninja')
    out = subprocess.run(['make', '-n', '-C', TOP, 'demo', 'BUILD=' + BUILD],
                         text=True, check=True, stdout=subprocess.PIPE).stdout
    line = [l for l in out.splitlines() if l.startswith('ninja')][0]
    targets = line.split()[5:]
    assert targets == ['sluice', 'sluiced'], line
    out = subprocess.run(['ninja', '-C', BUILD, '-t', 'inputs'] + targets,
                         text=True, check=True, stdout=subprocess.PIPE).stdout
    tests = [l for l in out.splitlines() if re.match(r'(\.\./)*tests/', l)]
    assert 'main.c' in out and not tests, tests


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
    name, access = service()['Environment'][0].split('=', 1)
    line = line.replace('${%s}' % name, access)
    words = line.replace('/run/sluice', d).replace('/var/lib/sluice', d).split()
    os.mkdir(d + '/jobs')
    subprocess.run([SLUICED] + words[1:], check=True, stdin=subprocess.DEVNULL)
    pid = int(read(d + '/sluiced.pid'))
    try:
        mode = os.stat(d + '/control.sock').st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600, oct(mode)
    finally:
        os.kill(pid, 15)
    until(lambda: not os.path.exists(d + '/sluiced.pid'), 'the end')


def test_service_lets_others_in(d):
    """The examples of its page and of its first lines, with a group that is
    here: its sockets are in reach, in a folder that others may enter."""
    unit = service()
    assert unit['RuntimeDirectoryMode'] == ['0755']
    assert 'CAP_CHOWN' in unit['CapabilityBoundingSet'][0]
    group = grp.getgrgid(os.getgid()).gr_name
    text = read(PAGES['sluiced.8.rst'])
    given = dict(re.findall(r'^   (SLUICED_\w+)=(.*)$', text, re.M))
    head = dict(re.findall(r'^#   (SLUICED_\w+)=(.*)$',
                           read(BUILD + '/scripts/sluiced.service'), re.M))
    assert given == head, (given, head)
    line = unit['ExecStart'][0].replace('${SLUICED_CONTROL}',
                                        given['SLUICED_CONTROL'])
    line = line.replace('$SLUICED_ARGS', given['SLUICED_ARGS'])
    line = re.sub(r'group=\w+', 'group=' + group, line)
    words = line.replace('/run/sluice', d).replace('/var/lib/sluice', d).split()
    os.mkdir(d + '/jobs')
    subprocess.run([SLUICED] + words[1:], check=True, stdin=subprocess.DEVNULL)
    pid = int(read(d + '/sluiced.pid'))
    try:
        for name in ('control.sock', 'nbd.sock'):
            st = os.stat(os.path.join(d, name))
            assert stat.S_IMODE(st.st_mode) == 0o660, oct(st.st_mode)
            assert st.st_gid == os.getgid()
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
