# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sources of the manual pages: those in man/, and a driver's beside it."""
import glob
import os

from sluiced import TOP

PAGES = {os.path.basename(path): path for path in sorted(
    glob.glob(TOP + '/man/*.rst') +
    glob.glob(TOP + '/src/**/*.[1-8].rst', recursive=True))}
