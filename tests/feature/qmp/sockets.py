#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Mode, owner and group of the sockets that the daemon makes."""
import grp
import os
import socket
import stat
import subprocess

from sluiced import SLUICE, SLUICED, Skip, Sluiced, run

NOBODY = 65534
GROUP = grp.getgrgid(os.getgid()).gr_name
TRY = ('import socket, sys\n'
       's = socket.socket(socket.AF_UNIX)\n'
       's.connect(sys.argv[1])\n'
       'sys.exit(0 if s.recv(8) == b"NBDMAGIC" else 2)\n')


def seen(path):
    st = os.stat(path)
    assert stat.S_ISSOCK(st.st_mode), path
    return stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid


def start(s, path, **access):
    data = dict({'path': path}, **access)
    return s.qmp.execute('nbd-server-start',
                         {'addr': {'type': 'unix', 'data': data}})


def test_qmp(d):
    path = d + '/nbd.sock'
    me = (os.getuid(), os.getgid())
    with Sluiced(d) as s:
        for access, mode in (({}, 0o600), ({'mode': '0666'}, 0o666),
                             ({'mode': '640'}, 0o640),
                             ({'group': GROUP}, 0o660),
                             ({'group': str(os.getgid())}, 0o660),
                             ({'mode': '0600', 'group': GROUP,
                               'owner': str(os.getuid())}, 0o600)):
            assert 'return' in start(s, path, **access), access
            assert seen(path) == (mode,) + me, (access, seen(path))
            s.qmp.cmd('nbd-server-stop')
            assert not os.path.exists(path)


def test_umask_does_not_matter(d):
    old = os.umask(0o077)
    try:
        with Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/n.sock,'
                     'addr.mode=0666' % d):
            assert seen(d + '/n.sock')[0] == 0o666
    finally:
        os.umask(old)


def test_refused(d):
    path = d + '/nbd.sock'
    with Sluiced(d) as s:
        for access, word in (({'mode': '0888'}, 'octal'),
                             ({'mode': '010000'}, 'octal'),
                             ({'mode': ''}, 'octal'),
                             ({'owner': 'no such user'}, 'no such user'),
                             ({'group': 'no such group'}, 'no such group')):
            answer = start(s, path, **access)
            assert word in answer['error']['desc'], answer
            assert not os.path.exists(path), access
        # Nothing of the failed ones is left in the way.
        assert 'return' in start(s, path)


def test_may_not_give_away(d):
    """Who is not root gives no socket to another; nothing stays behind."""
    if os.getuid() != 0:
        raise Skip('root, to become another')
    os.chmod(d, 0o777)
    p = subprocess.run([SLUICED, '--nbd-server', 'addr.type=unix,addr.path='
                        'nbd.sock,addr.owner=0'], cwd=d, user=NOBODY,
                       group=NOBODY, extra_groups=[], text=True,
                       capture_output=True, check=False)
    if 'Permission denied' in p.stderr and 'sluiced:' not in p.stderr:
        raise Skip('a build folder that others may read')
    assert p.returncode == 1, p
    assert 'owner and group' in p.stderr and 'Root may' in p.stderr, p
    assert not os.path.exists(d + '/nbd.sock')


def test_another_user_gets_in(d):
    """The case of libvirt: a daemon of root, a client that is not."""
    if os.getuid() != 0:
        raise Skip('root, to become another')
    os.chmod(d, 0o755)
    path = d + '/nbd.sock'

    def attempt():
        return subprocess.run(['/usr/bin/python3', '-c', TRY, path],
                              user=NOBODY, group=NOBODY, extra_groups=[],
                              stderr=subprocess.DEVNULL,
                              check=False).returncode

    with Sluiced(d) as s:
        for access, let_in in (({}, False), ({'mode': '0660'}, False),
                               ({'group': str(NOBODY)}, True),
                               ({'owner': 'nobody'}, True)):
            assert 'return' in start(s, path, **access), access
            assert (attempt() == 0) == let_in, access
            s.qmp.cmd('nbd-server-stop')


def test_control_socket(d):
    control = d + '/c.sock'
    with Sluiced(d, '--chardev', 'socket,id=c,path=%s,server=on,wait=off,'
                 'mode=0660,group=%s' % (control, GROUP), '--monitor', 'c'):
        assert seen(control) == (0o660, os.getuid(), os.getgid())
        c = socket.socket(socket.AF_UNIX)
        c.connect(control)
        assert b'QMP' in c.recv(100)
        c.close()


def test_chardev_without_a_listening_socket(d):
    for options in ('host=127.0.0.1,port=0,server=on', 'path=x.sock'):
        p = subprocess.run([SLUICED, '--chardev',
                            'socket,id=c,mode=0660,' + options], cwd=d,
                           text=True, capture_output=True, check=False)
        assert p.returncode == 1 and 'server=on' in p.stderr, p


def test_serve(d):
    p = subprocess.run([SLUICE, 'serve', '--dry-run', '-k', 'a,b.sock',
                        '--socket-mode', '0666', '--socket-owner', 'me',
                        '--socket-group', 'us', 'x.raw'], text=True,
                       capture_output=True, check=True)
    assert ('addr.path=a,,b.sock,addr.mode=0666,addr.owner=me,addr.group=us'
            in p.stdout), p
    p = subprocess.run([SLUICE, 'serve', '--dry-run', '--socket-mode', '0666',
                        'x.raw'], text=True, capture_output=True, check=False)
    assert p.returncode == 1 and '--socket' in p.stderr, p


if __name__ == '__main__':
    run(globals())
