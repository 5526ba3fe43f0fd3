# SPDX-License-Identifier: LGPL-2.1-or-later
"""Chains of many qcow2 images, made in a moment.

One image with one cluster of data is made by qemu-img; the others are copies
of it with another backing name, another place of that cluster and other bytes
in it.
"""
import os
import struct
import subprocess

CLUSTER = 65536


def qemu_img(*args):
    subprocess.run(('qemu-img', *args), check=True)


def qemu_io(*args):
    subprocess.run(('qemu-io', *args), check=True, stdout=subprocess.DEVNULL)


def name_of(i):
    return 'l%05d' % i


class Template:
    """An image over name_of(0), of which one cluster is data."""

    def __init__(self, d, size):
        path = os.path.join(d, 'template')
        qemu_img('create', '-q', '-f', 'qcow2', '-u', '-b', name_of(0),
                 '-F', 'qcow2', '-o', 'cluster_size=%d' % CLUSTER, path,
                 str(size))
        qemu_io('-c', 'write -q -P 1 0 %d' % CLUSTER,
                'json:{"driver": "qcow2", "backing": null, '
                '"file": {"driver": "file", "filename": "%s"}}' % path)
        with open(path, 'rb') as f:
            self.bytes = f.read()
        os.unlink(path)
        self.name_at, = struct.unpack_from('>Q', self.bytes, 8)
        l1, = struct.unpack_from('>Q', self.bytes, 40)
        self.l2 = self._pointer(l1)
        self.data = self._pointer(self.l2)

    def _pointer(self, at):
        return struct.unpack_from('>Q', self.bytes, at)[0] & \
            0x00fffffffffffe00

    def write(self, path, below, cluster, value):
        image = bytearray(self.bytes)
        name = name_of(below).encode()
        image[self.name_at:self.name_at + len(name)] = name
        entry = bytes(image[self.l2:self.l2 + 8])
        image[self.l2:self.l2 + 8] = bytes(8)
        at = self.l2 + 8 * cluster
        image[at:at + 8] = entry
        image[self.data:self.data + CLUSTER] = bytes([value]) * CLUSTER
        with open(path, 'wb') as f:
            f.write(image)


def make(d, images, size, rnd):
    """name_of(0), which holds everything, <- ... <- name_of(images - 1), each
    with one cluster of its own. What each cluster of the top holds."""
    assert size % CLUSTER == 0 and size <= CLUSTER // 8 * CLUSTER
    base = os.path.join(d, name_of(0))
    qemu_img('create', '-q', '-f', 'qcow2', '-o', 'cluster_size=%d' % CLUSTER,
             base, str(size))
    qemu_io('-f', 'qcow2', '-c', 'write -q -P 255 0 %d' % size, base)
    holds = [255] * (size // CLUSTER)
    template = Template(d, size)
    for i in range(1, images):
        cluster, value = rnd.randrange(len(holds)), rnd.randrange(1, 255)
        template.write(os.path.join(d, name_of(i)), i - 1, cluster, value)
        holds[cluster] = value
    return holds
