# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's storage daemon, run in the same frame: it takes the same commands."""
import sluiced
from qmp import Qmp
from sluiced import Sluiced


class QemuQmp(Qmp):
    """QEMU greets twice who connects while its monitor starts."""

    def answer(self):
        msg = super().answer()
        return super().answer() if 'QMP' in msg else msg


class Qsd(Sluiced):
    client = QemuQmp

    def __init__(self, directory, *args):
        saved = sluiced.SLUICED
        sluiced.SLUICED = 'qemu-storage-daemon'
        try:
            super().__init__(directory, *args)
        finally:
            sluiced.SLUICED = saved
