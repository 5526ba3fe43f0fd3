# SPDX-License-Identifier: LGPL-2.1-or-later
"""The image tool in the words of qemu-img."""
import os


def stand_in(folder):
    """A link in @folder by which sluice speaks as qemu-img; its path."""
    path = os.path.join(folder, 'qemu-img')
    os.symlink(os.path.abspath(os.environ['SLUICE']), path)
    return path
