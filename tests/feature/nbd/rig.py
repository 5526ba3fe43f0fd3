# SPDX-License-Identifier: LGPL-2.1-or-later
"""The exports that all NBD tests here use.

  rw     160 MiB, writable, behind a hold node; data in its first MiB
  ro     1 MiB + 7 bytes, read-only
  chain  QED overlay of 8 MiB over raw, see make_files(); allocation-depth
"""
import copy
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(__file__), '../../lib'))
import nbdserver  # noqa: E402

MIB = 1 << 20
RW_SIZE = 160 * MIB
RO_SIZE = MIB + 7
CHAIN_SIZE = 8 * MIB


def pattern(off, length):
    """What the files hold at @off: depends on the place, never zero."""
    first = off // 251
    block = bytes(range(1, 252))
    n = length // 251 + 2
    return (block * n)[off - first * 251:][:length]


def make_files():
    folder = tempfile.mkdtemp(dir=nbdserver.FILES)

    def path(name):
        return os.path.join(folder, name)

    with open(path('rw'), 'wb') as f:
        f.write(pattern(0, MIB))
        f.truncate(RW_SIZE)
    with open(path('ro'), 'wb') as f:
        f.write(pattern(0, RO_SIZE))
    # Base: data in the first 4 MiB.  Overlay: 0xaa in 1-2 MiB and 6-7 MiB.
    with open(path('base'), 'wb') as f:
        f.write(pattern(0, 4 * MIB))
        f.truncate(CHAIN_SIZE)
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qed', '-b', path('base'),
                    '-F', 'raw', path('top')], check=True)
    subprocess.run(['qemu-io', '-f', 'qed', '-c', 'write -P 0xaa 1M 1M', '-c',
                    'write -P 0xaa 6M 1M', path('top')], check=True,
                   stdout=subprocess.DEVNULL)
    return folder


NODES = [
    {'driver': 'raw', 'node-name': 'rw-raw',
     'file': {'driver': 'file', 'filename': 'rw'}},
    {'driver': 'hold', 'node-name': 'rw', 'file': 'rw-raw'},
    {'driver': 'raw', 'node-name': 'ro', 'read-only': True,
     'file': {'driver': 'file', 'filename': 'ro'}},
    {'driver': 'qed', 'node-name': 'chain',
     'file': {'driver': 'file', 'filename': 'top'}},
]
EXPORTS = [
    {'id': 'rw', 'node_name': 'rw', 'writable': True},
    {'id': 'ro', 'node_name': 'ro', 'description': 'read-only one'},
    {'id': 'chain', 'node_name': 'chain', 'writable': True,
     'allocation_depth': True},
]


def make_server(**config):
    return nbdserver.Server(copy.deepcopy(NODES), EXPORTS,
                            folder=make_files(), **config)
