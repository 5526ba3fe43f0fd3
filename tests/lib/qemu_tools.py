# SPDX-License-Identifier: LGPL-2.1-or-later
"""The qemu_tools's daemon, run in the same frame: it takes the same commands."""
import sluiced
from sluiced import Sluiced


class Qsd(Sluiced):
    def __init__(self, directory, *args):
        saved = sluiced.SLUICED
        sluiced.SLUICED = 'qemu-storage-daemon'
        try:
            super().__init__(directory, *args)
        finally:
            sluiced.SLUICED = saved
