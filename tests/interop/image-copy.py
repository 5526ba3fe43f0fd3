#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""convert, dd, compare and measure against qemu-img.

Every row runs both tools with the same words in two folders that were made the
same way; what they print and return is compared, and so is what they made: by
content, with qemu-img as the judge, and each tool must read the other's.
"""
import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from waiting import listens, until
from words import stand_in

SLUICE = os.path.abspath(os.environ['SLUICE'])
QEMU_IMG = shutil.which('qemu-img')

# ~ in front: only the exit status is compared, our words differ for a reason.
# ! in front: so is what was made, but not its allocation.
ROWS = [
    # usage and refusals
    'convert', 'convert base.raw', 'convert -O nope base.raw out',
    'convert -f nope base.raw out', 'convert missing out',
    'convert -n base.raw missing', 'convert -n base.raw small.raw',
    'convert -c -O raw base.raw out', 'convert -m 0 base.raw out',
    'convert -m 17 base.raw out', 'convert -m x base.raw out',
    'convert -S 1 base.raw out', 'convert -S -5 base.raw out',
    'convert -S 32M base.raw out', 'convert -S abc base.raw out',
    'convert -r abc base.raw out', 'convert -B base.raw -O raw base.raw out',
    'convert -B base.raw -O qed o.qed out', 'convert -o foo=1 base.raw out',
    'convert --target-is-zero base.raw out', 'convert -C -c base.raw out',
    'convert -C -S 4k base.raw out', 'convert -t nope base.raw out',
    'convert -T nope base.raw out', 'convert base.raw none/out',
    'convert -n -o size=1M base.raw out', '~convert base.raw base.raw',
    '~convert o.qed base.raw', '~convert -n base.raw base.raw',
    'convert -z base.raw out', 'convert -O',
    'convert --nope base.raw out', 'convert -n -O qed base.raw small.raw',
    'convert --image-opts -f raw driver=raw,file.filename=base.raw out',
    'convert --target-image-opts base.raw driver=raw,file.filename=out',
    'convert -B base.raw -F raw -O qed o.qed o.qed out',
    'convert -f qed base.raw out', 'convert -l foo base.raw out',
    'convert --bitmaps base.raw out', 'convert --skip-broken-bitmaps o.qed out',
    'convert --bitmaps q.qcow2 q.qcow2 out', 'convert -l s q.qcow2 q.qcow2 out',
    'convert -l snapshot.foo=x q.qcow2 out', 'convert --salvage -C base.raw out',
    "convert -O qcow2 -B '' o.qed out",
    "convert -O qcow2 -o '' base.raw out",
    'convert -c -O qcow2 -o preallocation=metadata base.raw out',
    'convert -n --target-image-opts -O raw base.raw driver=raw,file.filename=x',
    # copies
    'convert base.raw out', 'convert -f raw -O raw base.raw out',
    'convert -O qed base.raw out', 'convert o.qed out',
    'convert -f qed -O qed o.qed out', 'convert -W -m 16 -O qed o.qed out',
    'convert -W -m 1 o.qed out', 'convert -q -O qed base.raw out',
    'convert -U o.qed out', 'convert -r 1G -O qed base.raw out',
    'convert -t none -T none base.raw out', 'convert -t unsafe base.raw out',
    'convert -t writethrough o.qed out', 'convert -t directsync o.qed out',
    'convert -S 0 base.raw out', 'convert -S 0 -O qed base.raw out',
    'convert -S 64k zeroes.raw out', 'convert -S 512 zeroes.raw out',
    'convert zeroes.raw out', 'convert -O qed zeroes.raw out',
    'convert odd.raw out', 'convert -O qed odd.raw out',
    'convert base.raw odd.raw o.qed out', 'convert empty.raw out',
    'convert odd.raw odd.raw -O qed out', 'convert short.qed out',
    'convert -O qed short.qed out', 'convert -o size=3M base.raw out',
    'convert -O qed -o cluster_size=4k,table_size=2 o.qed out',
    'convert -B base.raw -F raw -O qed o.qed out',
    'convert -O qed -o backing_file=base.raw,backing_fmt=raw o.qed out',
    'convert -B base.raw -F raw -O qed base.raw out',
    'convert -B small.raw -F raw -O qed short.qed out',
    'convert --image-opts driver=qed,file.driver=file,file.filename=o.qed out',
    'convert --image-opts driver=raw,file.filename=base.raw,offset=1M,size=2M '
    'out',
    'convert -C base.raw out', 'convert --salvage o.qed out',
    # into what exists
    '!convert -n base.raw old.raw', '!convert -n -O qed o.qed old.qed',
    '!convert -n o.qed old.raw', '!convert -n -S 0 base.raw old.raw',
    '!convert -n --target-is-zero base.raw zero.raw',
    '!convert -n --target-image-opts o.qed driver=raw,file.filename=old.raw',
    '!convert -n -O qed base.raw over.qed',
    # compare
    '~compare', '~compare base.raw', 'compare base.raw missing',
    'compare missing base.raw', 'compare -f nope base.raw base.raw',
    'compare -T nope base.raw base.raw', 'compare -z', 'compare -f',
    'compare base.raw base.raw', 'compare base.raw o.qed',
    'compare -f qed -F raw o.qed base.raw', 'compare -q base.raw o.qed',
    'compare -s base.raw o.qed', 'compare -s base.raw base.raw',
    'compare -s o.qed o.qed', 'compare -s base.raw small.raw',
    'compare base.raw small.raw', 'compare small.raw base.raw',
    'compare empty.raw zero.raw', 'compare zero.raw empty.raw',
    'compare -q empty.raw zero.raw', 'compare -s empty.raw zero.raw',
    'compare -s zero.raw zeroes.raw', 'compare zeroes.raw empty.raw',
    'compare small.raw short.qed', 'compare -U o.qed short.qed',
    'compare odd.raw odd.raw', 'compare odd.raw base.raw',
    'compare -s zeroes.raw zeroes.raw', 'compare -T none o.qed o.qed',
    'compare empty.raw late.raw', 'compare late.raw empty.raw',
    'compare --image-opts driver=qed,file.filename=o.qed '
    'driver=raw,file.filename=base.raw',
    'compare --image-opts -f raw base.raw base.raw',
    # dd
    'dd', 'dd if=base.raw', 'dd of=out', 'dd if=missing of=out',
    'dd if=base.raw of=out bs=0', 'dd if=base.raw of=out bs=x',
    'dd if=base.raw of=out bs=3G', 'dd if=base.raw of=out count=x',
    'dd if=base.raw of=out skip=x', 'dd if=base.raw of=out foo=1',
    'dd if=base.raw of=out foo', 'dd -n if=base.raw of=out', 'dd -f',
    'dd if=base.raw of=none/out',
    '~dd if=base.raw of=base.raw2 -O nope', 'dd -f nope if=base.raw of=out',
    'dd if=base.raw of=out', 'dd -O qed if=base.raw of=out',
    'dd -f qed -O raw bs=64k if=o.qed of=out', 'dd bs=1M count=3 if=o.qed of=out',
    'dd bs=1000 count=3 if=base.raw of=out', 'dd bs=1M skip=1 if=o.qed of=out',
    'dd bs=1M skip=100 if=base.raw of=out', 'dd bs=64k skip=3 if=odd.raw of=out',
    'dd count=0 if=base.raw of=out', 'dd bs=1M count=30 if=base.raw of=out',
    '~dd bs=1M skip=8 count=2 if=base.raw of=out', 'dd -U if=o.qed of=out',
    'dd --image-opts if=driver=qed,file.filename=o.qed of=out',
    # addresses; @ stands for that of a server of server.raw
    'info @', 'info --output=json @', 'map --output=json @', 'check @',
    '~info nbd:unix:nbd.sock', 'convert nbd:unix:nbd.sock out', 'convert @ out',
    'convert -f raw -O qed @ out', 'convert base.raw @ out',
    'compare @ twin.raw', 'compare -s @ @', 'compare base.raw @',
    'dd bs=64k skip=4 if=@ of=out', 'measure @',
    '!convert base.raw @', '!convert -n o.qed @', '!convert -n -S 0 o.qed @',
    '!dd if=base.raw of=@', '~convert -O qed base.raw @',
    '~convert base.raw base.raw @', '~convert nbd:unix:none.sock out',
    # measure
    'measure', 'measure base.raw', 'measure --size 10G', 'measure --size 1000',
    'measure --size 0', 'measure --output=json base.raw', 'measure o.qed',
    'measure --size 1G base.raw', 'measure --size abc', 'measure --size 9E',
    '~measure --output=xx base.raw', 'measure -O nope --size 1',
    'measure -f nope base.raw', 'measure --size 1 -f raw', 'measure missing',
    'measure -o cluster_size=64k base.raw', 'measure base.raw small.raw',
    'measure -O raw -o preallocation=full base.raw', 'measure odd.raw',
    'measure -O qed --size 1G', 'measure -O raw --size 1E',
    'measure --image-opts driver=qed,file.filename=o.qed', 'measure -U o.qed',
    'measure --image-opts -f raw base.raw', 'measure -l foo base.raw',
    'measure --size 1G -o help', 'measure --size 1 -l foo',
    'measure -O qcow2 base.raw', 'measure -O qcow2 --size 10G',
    'measure -O qcow2 --size 0', 'measure -O qcow2 --size 1',
    'measure --output=json -O qcow2 --size 1T', 'measure -O qcow2 q.qcow2',
    'measure -O qcow2 -o cluster_size=4k,refcount_bits=64 --size 1T',
    'measure -O qcow2 -o cluster_size=512 --size 10G',
    'measure -O qcow2 -o cluster_size=2M --size 10G',
    'measure -O qcow2 -o cluster_size=1000 --size 10G',
    'measure -O qcow2 -o refcount_bits=1 --size 10G',
    'measure -O qcow2 -o refcount_bits=3 --size 1G',
    'measure -O qcow2 -o extended_l2=on --size 10G',
    'measure -O qcow2 -o extended_l2=on,cluster_size=16k o.qed',
    'measure -O qcow2 -o compat=0.10 --size 10G', 'measure q.qcow2',
    '~measure -O qcow2 -o compat=0.10,refcount_bits=8 --size 10G',
    '~measure -O qcow2 -o preallocation=metadata --size 10G',
    'measure -O qcow2 -o preallocation=full o.qed',
    'measure -O qcow2 -o preallocation=falloc --size 10M',
    'measure -O qcow2 -o backing_file=x,backing_fmt=raw o.qed',
    'measure -O qcow2 -o data_file=x --size 1G', 'measure -O qcow2 o.qed',
    'measure -O qcow2 -o size=1G base.raw', 'measure -O qcow2 odd.raw',
    'measure -O qcow2 -o foo=1 base.raw', 'measure -O qcow2 --size 1E',
    'measure -O qcow2 --size 9999T -o cluster_size=512',
    'measure -O qcow2 -o cluster_size=4k o.qed',
    'measure -O qcow2 -o cluster_size=2M short.qed',
    'measure --output=json -O qcow2 q.qcow2',
    # qcow2 sources
    'convert q.qcow2 out', 'convert -f qcow2 -O qed q.qcow2 out',
    'convert z.qcow2 out', 'compare q.qcow2 o.qed', 'compare -s q.qcow2 q.qcow2',
    'compare z.qcow2 base.raw', 'compare -s z.qcow2 base.raw',
    'convert -O qed -B base.raw -F raw q.qcow2 out', 'convert x.qcow2 out',
    'convert -W -m 16 z.qcow2 out', 'convert x.qcow2 z.qcow2 q.qcow2 out',
    'dd bs=1M skip=1 if=z.qcow2 of=out',
    # qcow2 targets
    'convert -O qcow2 base.raw out', 'convert -O qcow2 -W -m 16 o.qed out',
    'convert -f qcow2 -O qcow2 q.qcow2 out', 'convert -O qcow2 odd.raw out',
    'convert -O qcow2 -o cluster_size=4k z.qcow2 out',
    'convert -O qcow2 -o cluster_size=2M base.raw out',
    'convert -O qcow2 -o cluster_size=512 zeroes.raw out',
    'convert -O qcow2 -o compat=0.10 x.qcow2 out',
    'convert -O qcow2 -o extended_l2=on,cluster_size=128k o.qed out',
    'convert -O qcow2 -o refcount_bits=1 base.raw out',
    'convert -O qcow2 -o refcount_bits=64,cluster_size=1k base.raw out',
    'convert -O qcow2 -o lazy_refcounts=on o.qed out',
    'convert -O qcow2 -o preallocation=metadata o.qed out',
    '~convert -O qcow2 -o preallocation=falloc o.qed out',
    'convert -O qcow2 -o preallocation=full o.qed out',
    'convert -O qcow2 -S 0 base.raw out', 'convert -O qcow2 -S 128k o.qed out',
    'convert -O qcow2 -B base.raw -F raw q.qcow2 out',
    'convert -O qcow2 -B base.raw -F raw o.qed out',
    'convert -O qcow2 -B base.raw -F raw -o backing_file=small.raw o.qed out',
    'convert -O file o.qed out',
    'convert -O qcow2 -B small.raw -F raw short.qed out',
    'convert -O qcow2 -B base.raw -F raw -o compat=0.10 q.qcow2 out',
    'convert -O qcow2 -B z.qcow2 -F qcow2 -o extended_l2=on q.qcow2 out',
    'convert -O qcow2 -B base.raw q.qcow2 out',
    'convert -O qcow2 -o cluster_size=1000 base.raw out',
    'convert -O qcow2 -o foo=1 base.raw out', 'convert -C -O qcow2 o.qed out',
    'convert -O qcow2 base.raw q.qcow2 out', 'convert -O qcow2 empty.raw out',
    '!convert -n -O qcow2 base.raw old.qcow2',
    '!convert -n -O qcow2 o.qed old.qcow2',
    '!convert -n -O qcow2 -S 0 o.qed old.qcow2',
    '!convert -n -O qcow2 --target-is-zero base.raw new.qcow2',
    '!convert -n -O qcow2 -B base.raw -F raw q.qcow2 over.qcow2',
    'dd -O qcow2 bs=1M if=o.qed of=out', 'compare -s over.qcow2 q.qcow2',
    # compressed
    'convert -c -O qcow2 base.raw out', 'convert -c -O qcow2 o.qed out',
    'convert -c -W -m 16 -O qcow2 -o compression_type=zstd q.qcow2 out',
    'convert -c -O qcow2 -o cluster_size=4k odd.raw out',
    'convert -c -O qcow2 -o cluster_size=2M short.qed out',
    'convert -c -O qcow2 -o compat=0.10 zeroes.raw out',
    'convert -c -O qcow2 -o extended_l2=on z.qcow2 out',
    'convert -c -O qcow2 -B base.raw -F raw q.qcow2 out',
    '~convert -c -S 0 -O qcow2 base.raw out', 'convert -c -O qed base.raw out',
    # snapshots
    'convert -l one s.qcow2 out', 'convert -l 2 s.qcow2 out',
    'convert -l snapshot.name=two s.qcow2 out', 'convert s.qcow2 out',
    'convert -l snapshot.id=1 -O qcow2 s.qcow2 out',
    'convert -l snapshot.id=1,snapshot.name=one s.qcow2 out',
    'convert -l snapshot.id=1,snapshot.name=two s.qcow2 out',
    'convert -l none s.qcow2 out', 'measure -O qcow2 -l one s.qcow2',
    'measure -O qcow2 -l none s.qcow2', 'measure -l two s.qcow2',
    '!convert -O qcow2 small.raw @', '!convert -n -O qcow2 empty.raw @',
]
# A disk whose second MiB has a sector that cannot be read.
BAD = ('driver=raw,file.driver=blkdebug,file.image.driver=file,'
       'file.image.filename=base.raw,file.inject-error.0.event=none,'
       'file.inject-error.0.iotype=read,file.inject-error.0.errno=5,'
       'file.inject-error.0.sector=3000,file.inject-error.0.once=off')
ROWS += [
    '~convert --image-opts %s out' % BAD,
    '!convert --salvage --image-opts %s out' % BAD,
    '~compare --image-opts %s driver=raw,file.filename=base.raw' % BAD,
    '~dd --image-opts if=%s of=out' % BAD,
    '~convert d.qcow2 out', '~dd -f qcow2 if=d.qcow2 of=out',
    '~convert -p base.raw out', '~compare -p base.raw o.qed',
    '~convert -p -O qcow2 o.qed out',
]
PROGRESS = re.compile(r'(    \(\d+\.\d\d/100%\)\r)+([A-Z].*\n)?\n')
NBD = 'nbd+unix:///?socket=nbd.sock'



def tool(*words, cwd=None):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=cwd)


def make_image(folder, name, size, *writes, backing=None, options=None):
    fmt = name.rsplit('.', 1)[1]
    more = ['-b', backing, '-F', backing.rsplit('.', 1)[1]] if backing else []
    more += ['-o', options] if options else []
    tool(QEMU_IMG, 'create', '-q', '-f', fmt, *more, name, size, cwd=folder)
    if writes:
        args = [a for w in writes for a in ('-c', w)]
        tool('qemu-io', '-f', fmt, *args, name, cwd=folder)


def misplace_cluster(path):
    """An L2 entry that leads to no place that a cluster can have."""
    with open(path, 'r+b') as f:
        head = f.read(48)
        f.seek(int.from_bytes(head[40:48], 'big'))
        l2 = int.from_bytes(f.read(8), 'big') & 0xfffffffffffe00
        f.seek(l2 + 3 * 8)
        f.write((1 << 63 | 65536 + 512).to_bytes(8, 'big'))


def make_folder(folder):
    os.makedirs(folder)
    make_image(folder, 'base.raw', '10M', 'write -P 1 0 64k',
               'write -P 2 1M 1M', 'write -P 9 9M 100k')
    make_image(folder, 'o.qed', '10M', 'write -P 5 1M 128k', 'write -z 2M 64k',
               'write -z 9M 64k', 'write -P 6 5000k 3k', backing='base.raw')
    make_image(folder, 'small.raw', '3M', 'write -P 3 0 3M')
    make_image(folder, 'short.qed', '7M', 'write -P 4 2M 2M', 'write -z 0 1M',
               'write -z 5M 64k', backing='small.raw')
    make_image(folder, 'zeroes.raw', '4M', 'write -P 0 0 4M',
               'write -P 7 64k 1k', 'write -P 7 100k 4k', 'write -P 7 1M 70k',
               'write -P 7 3M 512')
    make_image(folder, 'empty.raw', '5M')
    make_image(folder, 'q.qcow2', '10M', 'write -P 5 1M 128k',
               'write -z 2M 64k', 'write -P 6 5000k 3k', backing='base.raw')
    make_image(folder, 'x.qcow2', '11M', 'write -P 5 1M 128k',
               'write -z 2M 64k', 'write -P 6 5000k 3k',
               options='extended_l2=on,cluster_size=128k')
    make_image(folder, 's.qcow2', '4M', 'write -P 1 0 1M', 'write -P 2 3M 64k')
    tool(QEMU_IMG, 'snapshot', '-c', 'one', 's.qcow2', cwd=folder)
    tool('qemu-io', '-c', 'write -P 3 64k 1M', 's.qcow2', cwd=folder)
    tool(QEMU_IMG, 'snapshot', '-c', 'two', 's.qcow2', cwd=folder)
    tool('qemu-io', '-c', 'write -P 4 0 128k', 's.qcow2', cwd=folder)
    tool(QEMU_IMG, 'convert', '-c', '-O', 'qcow2', '-o',
         'compression_type=zstd', 'base.raw', 'z.qcow2', cwd=folder)
    make_image(folder, 'd.qcow2', '1M', 'write -P 1 0 1M')
    misplace_cluster(os.path.join(folder, 'd.qcow2'))
    make_image(folder, 'late.raw', '8M', 'write -P 8 7M 64k')
    with open(os.path.join(folder, 'odd.raw'), 'wb') as f:
        f.write(bytes(range(256)) * 5000 + b'tail')
    make_targets(folder)
    os.mkdir(os.path.join(folder, 'kept'))
    copy_targets(folder, os.path.join(folder, 'kept'))
    make_image(folder, 'server.raw', '10M', 'write -P 9 1M 1M')
    shutil.copy(os.path.join(folder, 'server.raw'),
                os.path.join(folder, 'twin.raw'))


def serve(folder):
    """The address NBD, in that folder. The caller ends the process."""
    p = subprocess.Popen(['qemu-nbd', '-t', '-e', '8', '-f', 'raw', '-k',
                          os.path.join(folder, 'nbd.sock'), 'server.raw'],
                         cwd=folder, stderr=subprocess.DEVNULL)
    until(lambda: p.poll() is not None or
          listens(os.path.join(folder, 'nbd.sock')), 'the server')
    assert p.poll() is None, p.returncode
    return p


TARGETS = ('old.raw', 'old.qed', 'over.qed', 'old.qcow2', 'new.qcow2',
           'over.qcow2', 'zero.raw')


def copy_targets(source, folder):
    for name in TARGETS:
        shutil.copy(os.path.join(source, name), os.path.join(folder, name))


def make_targets(folder):
    """What rows with -n write into; copies stay aside."""
    make_image(folder, 'old.raw', '12M', 'write -P 0xff 0 12M')
    make_image(folder, 'old.qcow2', '12M', 'write -P 0xff 0 12M')
    make_image(folder, 'new.qcow2', '10M')
    make_image(folder, 'over.qcow2', '10M', 'write -P 0xff 5M 1M',
               backing='base.raw')
    make_image(folder, 'zero.raw', '10M')
    make_image(folder, 'old.qed', '12M', 'write -P 0xff 0 12M')
    make_image(folder, 'over.qed', '10M', 'write -P 0xff 5M 1M',
               backing='base.raw')


def run(program, words, folder):
    p = subprocess.run([program] + words, cwd=folder, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE)
    return p.returncode, p.stdout.decode(), p.stderr.decode().strip()


def image_format(words):
    """Of what a row makes."""
    if '-O' in words:
        return words[words.index('-O') + 1].replace('file', 'raw')
    return 'raw'


def facts(folder, name, fmt):
    """What is said of an image that was made, its place on the disk aside."""
    p = subprocess.run([QEMU_IMG, 'info', '--output=json', '-f', fmt, name],
                       cwd=folder, stdout=subprocess.PIPE, text=True)
    return '\n'.join(l for l in p.stdout.splitlines() if 'actual' not in l)


def hole_bytes(path):
    return os.stat(path).st_blocks * 512


def compare_made(folders, words, target, check_size):
    """Differences of the two targets, as a list of texts."""
    fmt = image_format(words)
    theirs, ours = (os.path.join(f, target) for f in folders)
    if not os.path.exists(theirs) or not os.path.exists(ours):
        same = os.path.exists(theirs) == os.path.exists(ours)
        return [] if same else ['only one of them made the target']
    diffs = []
    name = NBD if target == 'server.raw' else target
    # Theirs by us as by them, then ours by them as theirs.
    raws = []
    for program, folder in ((QEMU_IMG, folders[0]), (SLUICE, folders[0]),
                            (QEMU_IMG, folders[1])):
        raws.append(os.path.join(folder, 'judge%d.raw' % len(raws)))
        tool(program, 'convert', '-f', fmt, '-O', 'raw', name, raws[-1],
             cwd=folder)
    for what, raw in ('theirs read by us', raws[1]), ('ours', raws[2]):
        if not filecmp.cmp(raws[0], raw, shallow=False):
            diffs.append('content differs: ' + what)
    a, b = facts(folders[0], name, fmt), facts(folders[1], name, fmt)
    if a != b:
        diffs.append('theirs: %s\nours: %s' % (a, b))
    if fmt != 'raw':
        p = subprocess.run([QEMU_IMG, 'check', '-f', fmt, name],
                           cwd=folders[1], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT)
        if p.returncode:
            diffs.append('check: %r' % p.stdout)
    a, b = hole_bytes(theirs), hole_bytes(ours)
    # A file system may keep a few blocks more for one than for the other, and
    # fewer blocks are no harm unless all were asked for.
    if check_size and b > a + 128 * 1024 or '-S 0' in ' '.join(words) and (
            b < 10 << 20):
        diffs.append('space: theirs %d, ours %d' % (a, b))
    return diffs


def run_row(row, folders, program):
    words = shlex.split(row.lstrip('~!').replace('@', NBD))
    theirs = run(QEMU_IMG, words, folders[0])
    ours = run(program, words, folders[1])
    diffs = []
    if '-p' in words:
        diffs += ['no progress: %r' % out[1] for out in (theirs, ours)
                  if not PROGRESS.fullmatch(out[1])]
    if BAD in row and theirs[0] and words[0] != 'dd':
        # Where it is said to be depends on how much is read at once.
        diffs += ['no place: %r' % out[2] for out in (theirs, ours)
                  if not re.search(r'rror while reading (at byte|offset) \d+',
                                   out[2])]
    if row[0] == '~':
        theirs, ours = theirs[:1], ours[:1]
    diffs += ['theirs: %r\nours: %r' % (a, b)
             for a, b in zip(theirs, ours) if a != b]
    if theirs[0] == 0 and row[0] != '~' and words[0] in ('convert', 'dd'):
        target = words[-1].split('of=')[-1].replace(NBD, 'server.raw')
        diffs += compare_made(folders, words, target, row[0] != '!')
    if row[0] == '!' and NBD not in words[-1]:
        for f in folders:
            copy_targets(os.path.join(f, 'kept'), f)
    for f in folders:
        if os.path.exists(os.path.join(f, 'out')):
            os.unlink(os.path.join(f, 'out'))
    return diffs


def run_rows(folders, program):
    failed = False
    for num, row in enumerate(ROWS, 1):
        diffs = run_row(row, folders, program)
        print('%s %d %s' % ('not ok' if diffs else 'ok', num, row), flush=True)
        for d in diffs:
            failed = True
            print('\n'.join('# ' + line for line in d.splitlines()))
    return failed


def main():
    for name in 'qemu-img', 'qemu-io', 'qemu-nbd':
        if not shutil.which(name):
            print('skip: %s (qemu-utils) is missing' % name)
            return 77
    print('1..%d' % len(ROWS), flush=True)
    failed = False
    servers = []
    top = tempfile.mkdtemp(prefix='image-copy-')
    try:
        folders = [os.path.join(top, name) for name in ('theirs', 'ours')]
        for f in folders:
            make_folder(f)
            servers.append(serve(f))
        failed = run_rows(folders, stand_in(top))
    finally:
        for p in servers:
            p.terminate()
            p.wait()
        shutil.rmtree(top)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
