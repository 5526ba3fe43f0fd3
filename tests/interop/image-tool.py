#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The image commands against qemu-img: same output, same exit status.

Every row runs both tools with the same words in two folders that were made the
same way, and compares what they print and return, and what they leave behind.
"""
import os
import shutil
import subprocess
import sys
import tempfile

from words import stand_in

QEMU_IMG = shutil.which('qemu-img')

# A row that begins with ~ compares the exit status alone: our words differ for
# a reason (a field that they do not name, a limit that they do not have).
ROWS = {
    'create': [
        'create -f raw new.raw 1M',
        'create -f raw new.raw 1000',
        'create -f qed new.qed 5M',
        'create -f qed -o cluster_size=4k,table_size=2 new.qed 5M',
        '~create -f qed -o cluster_size=64M,table_size=16 new.qed 1T',
        'create -f qed -b base.raw -F raw new.qed',
        'create -f qed -b base.raw -F raw new.qed 20M',
        'create -f qed -o backing_file=base.raw,backing_fmt=raw new.qed',
        'create -q -f qed -b o.qed -F qed new.qed',
        'create -u -f qed -b missing.raw -F raw new.qed 1M',
        'create -f qed new.qed',
        'create -f qed -b missing.raw -F raw new.qed',
        'create -f nope new.qed 1M',
        'create -f qed -o foo=1 new.qed 1M',
        'create -f qed new.qed 1x',
        'create -f qed -o cluster_size=1000 new.qed 1M',
        'create -f qed -o table_size=3 new.qed 1M',
        '~create -f qed -o cluster_size=4k,table_size=1 new.qed 8G',
    ],
    'info': [
        'info o.qed', 'info -f qed o.qed', 'info base.raw',
        'info --output=json o.qed', 'info --output=json base.raw',
        'info --backing-chain o.qed', 'info --backing-chain --output=json o.qed',
        'info missing', 'info -f qed base.raw', 'info -U o.qed',
    ],
    'map': [
        'map o.qed', 'map --output=json o.qed', 'map base.raw',
        'map --output=json base.raw', 'map -f qed --output=json o.qed',
        'map --output=json -s 1M -l 2M o.qed', 'map --output=json small.qed',
        'map -f qed base.raw',
    ],
    'check': [
        'check o.qed', 'check -f qed o.qed', 'check --output=json o.qed',
        'check base.raw', 'check missing', 'check -f qed base.raw',
        'check -q o.qed', 'check leak.qed', 'check --output=json leak.qed',
        '~check bad.qed',
    ],
    'resize': [
        'resize -f qed o.qed 20M', 'resize -f qed o.qed +1M',
        'resize -q -f qed o.qed +1M', 'resize -f qed o.qed 1M',
        'resize -f raw base.raw 1M', 'resize --shrink -f raw base.raw 1M',
        'resize -f raw base.raw -- -1G', 'resize -f raw base.raw +1000',
        'resize small.qed +1M',
    ],
    'rebase': [
        '~rebase o.qed', 'rebase -b two.raw o.qed',
        'rebase -b two.raw -F raw o.qed', 'rebase -b two.raw -F nope o.qed',
        'rebase -b missing.raw -F raw o.qed', 'rebase -b base.raw -F raw o.qed',
        'rebase -T none -t none -b two.raw -F raw o.qed',
        'rebase -t bad -b two.raw -F raw o.qed',
        'rebase -T bad -b two.raw -F raw o.qed',
        '~rebase -b o.qed -F qed o.qed',
        'rebase -U -b base.raw -F raw o.qed', 'rebase -p -u o.qed',
        'rebase -u -b missing.raw -F raw o.qed', 'rebase -b base.raw -F raw o.qed',
        '~rebase -b two.raw -F raw base.raw',
        'rebase -f raw -b two.raw -F raw base.raw',
    ],
    'commit': [
        '~commit base.raw', 'commit -b nope o.qed', 'commit -t bad o.qed',
        'commit -r x o.qed', 'commit -f raw o.qed', 'commit -b o.qed o.qed',
        'commit -q -d o.qed', 'commit -r 1G -d o.qed',
        'commit -d -b base.raw o.qed', 'commit -d -b ./base.raw small.qed',
        'commit -p -q -d o.qed', '~commit o.qed x', 'commit -d missing',
    ],
}


def qemu(*words, **kw):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, **kw)


def corrupt(path, leak):
    """Append an unused cluster, or send an L2 entry past the end."""
    with open(path, 'r+b') as f:
        if leak:
            f.seek(0, os.SEEK_END)
            f.write(bytes(65536))
            return
        f.seek(65536)
        l2 = int.from_bytes(f.read(8), 'little')
        f.seek(l2 + 16 * 8)
        f.write((1 << 40).to_bytes(8, 'little'))


def make_folder(root):
    os.makedirs(root)
    qemu(QEMU_IMG, 'create', '-q', '-f', 'raw', 'base.raw', '10M', cwd=root)
    qemu('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 64k', '-c',
         'write -P 2 1M 1M', 'base.raw', cwd=root)
    qemu(QEMU_IMG, 'create', '-q', '-f', 'qed', '-b', 'base.raw', '-F', 'raw',
         'o.qed', cwd=root)
    qemu('qemu-io', '-f', 'qed', '-c', 'write -P 5 1M 128k', '-c',
         'write -z 2M 64k', 'o.qed', cwd=root)
    qemu(QEMU_IMG, 'create', '-q', '-f', 'qed', '-b', 'base.raw', '-F', 'raw',
         'small.qed', '3M', cwd=root)
    qemu(QEMU_IMG, 'create', '-q', '-f', 'raw', 'two.raw', '8M', cwd=root)
    qemu('qemu-io', '-f', 'raw', '-c', 'write -P 1 0 64k', '-c',
         'write -P 3 2M 1M', 'two.raw', cwd=root)
    for name in ('leak.qed', 'bad.qed'):
        qemu(QEMU_IMG, 'create', '-q', '-f', 'qed', name, '4M', cwd=root)
        qemu('qemu-io', '-f', 'qed', '-c', 'write -P 3 0 2M', name, cwd=root)
        corrupt(os.path.join(root, name), name == 'leak.qed')


def clean_json(text):
    """Disk usage depends on the moment, not on the tool."""
    return '\n'.join(l for l in text.splitlines()
                     if 'actual-size' not in l and 'disk size' not in l)


def run(tool, words, folder):
    p = subprocess.run([tool] + words, cwd=folder, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True)
    return p.returncode, clean_json(p.stdout), p.stderr.strip()


def image_fields(folder, name):
    """What qemu-img thinks of an image that was made or changed."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        return None
    p = subprocess.run([QEMU_IMG, 'info', '--output=json', '-f',
                        'raw' if name.endswith('.raw') else 'qed', name],
                       cwd=folder, stdout=subprocess.PIPE, text=True)
    return clean_json(p.stdout)


def main():
    if not QEMU_IMG:
        print('skip: qemu-img (qemu-utils) is missing')
        return 77
    total = sum(len(rows) for rows in ROWS.values())
    print('1..%d' % total)
    num = 0
    failed = False
    top = tempfile.mkdtemp(prefix='image-tool-')
    program = stand_in(top)
    for group, rows in ROWS.items():
        folders = [os.path.join(top, group, tool) for tool in ('theirs', 'ours')]
        for f in folders:
            make_folder(f)
        for row in rows:
            num += 1
            words = row.lstrip('~').split()
            theirs = run(QEMU_IMG, words, folders[0])
            ours = run(program, words, folders[1])
            if row[0] == '~':
                theirs, ours = theirs[:1], ours[:1]
            diffs = [(a, b) for a, b in zip(theirs, ours) if a != b]
            # What a failed command leaves: nothing here, debris there.
            for name in () if theirs[0] else ('new.qed', 'new.raw', 'o.qed', 'base.raw'):
                a, b = (image_fields(f, name) for f in folders)
                if a != b:
                    diffs.append((a, b))
            for f in folders:
                for name in ('new.qed', 'new.raw'):
                    if os.path.exists(os.path.join(f, name)):
                        os.unlink(os.path.join(f, name))
            print('%s %d %s' % ('not ok' if diffs else 'ok', num, row))
            for a, b in diffs:
                failed = True
                print('# theirs: %r\n# ours:   %r' % (a, b))
    shutil.rmtree(top)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
