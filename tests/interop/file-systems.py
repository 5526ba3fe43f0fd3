#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run the tests of the file driver on ext4, xfs and btrfs: they differ in what
fallocate() can do, in how they report holes and in the alignment of direct
I/O.

usage: file-systems.py TEST-FILE
"""
import os
import shutil
import subprocess
import sys
import tempfile

MKFS = {
    'ext4': ['mkfs.ext4', '-q', '-F'],
    'xfs': ['mkfs.xfs', '-q', '-f'],
    'btrfs': ['mkfs.btrfs', '-q', '-f'],
}
SIZE = 512 * 1024 * 1024


def run_on(fs, program, work):
    """Returns an error text, or None."""
    image = os.path.join(work, fs + '.img')
    mnt = os.path.join(work, fs)
    os.mkdir(mnt)
    with open(image, 'wb') as f:
        f.truncate(SIZE)
    subprocess.run(MKFS[fs] + [image], check=True, stdout=subprocess.DEVNULL)
    mount = subprocess.run(['mount', '-o', 'loop', '-t', fs, image, mnt],
                           stderr=subprocess.PIPE, text=True, check=False)
    if mount.returncode:
        return 'skip', mount.stderr.strip()
    try:
        done = subprocess.run([program], env=dict(os.environ, TMPDIR=mnt),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False)
    finally:
        subprocess.run(['umount', mnt], check=True)
    if done.returncode:
        return 'fail', done.stdout[-3000:]
    return 'ok', ''


def main():
    if os.getuid() != 0:
        print('skipped: mounting file systems needs root')
        return 77
    program = os.path.abspath(sys.argv[1])
    failed = ran = 0
    with tempfile.TemporaryDirectory() as work:
        for fs in MKFS:
            if not shutil.which(MKFS[fs][0]):
                print('%s: skipped: no %s' % (fs, MKFS[fs][0]))
                continue
            verdict, text = run_on(fs, program, work)
            print('%s: %s %s' % (fs, verdict, text))
            ran += verdict != 'skip'
            failed += verdict == 'fail'
    if not ran:
        print('skipped: no file system could be mounted')
        return 77
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
