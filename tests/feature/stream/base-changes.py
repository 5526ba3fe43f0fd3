#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A base that somebody writes to while it is copied from (S6): the job fails
and says so, and the overlay keeps its base. Permissions may change."""
import os

from qmp import QmpError
from sluiced import Sluiced, make_chain, qemu_img, run

MIB = 1 << 20


def daemon(d, top):
    return Sluiced(d, '--drive', 'id=v,file=%s,format=qed' % top)


def start(s):
    s.qmp.cmd('block-stream', {'job-id': 'j', 'device': 'v',
                               'speed': 4 * MIB})


def finish(s):
    try:
        s.qmp.cmd('block-job-set-speed', {'device': 'j', 'speed': 0})
    except QmpError:
        pass          # it may have noticed already
    return s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='j')['data']


def test_content(d):
    base, top = make_chain(d, 32 * MIB)
    with daemon(d, top) as s:
        start(s)
        with open(base, 'r+b') as f:
            f.seek(20 * MIB)
            f.write(b'other')
        data = finish(s)
        assert 'changed while it was in use' in data.get('error', ''), data
        assert base in data['error'], data
        assert s.qmp.cmd('query-block')[0]['inserted']['backing_file_depth'] == 1
    assert base in qemu_img('info', '-U', '-f', 'qed', top)
    qemu_img('check', '-f', 'qed', top)


def test_size(d):
    base, top = make_chain(d, 32 * MIB)
    with daemon(d, top) as s:
        start(s)
        os.truncate(base, 24 * MIB)
        data = finish(s)
        assert 'changed while it was in use' in data.get('error', ''), data
    assert base in qemu_img('info', '-f', 'qed', top)


def test_permissions_and_links(d):
    base, top = make_chain(d, 32 * MIB)
    with daemon(d, top) as s:
        start(s)
        os.chmod(base, 0o444)
        os.link(base, base + '.link')
        data = finish(s)
        assert 'error' not in data, data
    assert 'backing' not in qemu_img('info', '-f', 'qed', top)


if __name__ == '__main__':
    run(globals())
