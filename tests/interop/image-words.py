#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines that qemu-img and sluice both run: exit status, output and
errors side by side.

Ours runs by a link that is called qemu-img, so that it speaks as that program.
Both run in folders that were made the same way, the rows of a group one after
another on the same images.  Disk usage and dates are made equal; the rest must
be.  A row that begins with ~ compares the exit status
alone: there our words differ, and sluice(1) or the row's neighbours say why.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

from words import stand_in

QEMU_IMG = shutil.which('qemu-img')

# What is done to an empty folder before each group.
SCRIPT = r'''
qemu-img create -q -f raw base.raw 10M
qemu-io -f raw -c 'write -P 1 0 64k' -c 'write -P 2 1M 1M' base.raw
qemu-img create -q -f qed -b base.raw -F raw o.qed
qemu-io -f qed -c 'write -P 5 1M 128k' -c 'write -z 2M 64k' o.qed
qemu-img create -q -f qed n.qed 4M
qemu-io -f qed -c 'write -P 5 1M 128k' n.qed
qemu-img create -q -f qcow2 p.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 1M 128k' p.qcow2
qemu-img create -q -f qcow2 -b base.raw -F raw o.qcow2
qemu-io -f qcow2 -c 'write -P 5 1M 128k' -c 'write -z 2M 64k' o.qcow2
qemu-img create -q -f qcow2 -b o.qcow2 -F qcow2 t.qcow2 12M
qemu-io -f qcow2 -c 'write -P 9 3M 64k' t.qcow2
qemu-img create -q -f qcow2 -b ../o.qcow2 -F qcow2 sub/s.qcow2
qemu-img create -q -f qcow2 -o compat=0.10 v2.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 1M 128k' v2.qcow2
qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k ext.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 1M 6k' ext.qcow2
qemu-img create -q -f qcow2 -o lazy_refcounts=on,refcount_bits=1 lazy.qcow2 4M
qemu-img create -q -f qcow2 -o compression_type=zstd zs.qcow2 4M
qemu-img convert -c -f raw -O qcow2 base.raw comp.qcow2
qemu-img create -q -f qcow2 snap.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 1M 128k' snap.qcow2
qemu-img snapshot -c one snap.qcow2
qemu-io -f qcow2 -c 'write -P 6 1M 64k' snap.qcow2
qemu-img snapshot -c two snap.qcow2
qemu-img create -q -f qcow2 bm.qcow2 4M
qemu-img bitmap --add bm.qcow2 b0
qemu-img bitmap --add -g 32k bm.qcow2 b1
qemu-img bitmap --disable bm.qcow2 b1
qemu-img create -q -f qcow2 -o data_file=df.raw df.qcow2 4M
qemu-io -f qcow2 -c 'write -P 5 1M 128k' df.qcow2
qemu-img create -q -f qcow2 -o data_file=dfr.raw,data_file_raw=on dfr.qcow2 4M
qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 4M
# It measures time, which fails where the clock is coarse.
for i in 1 2 3 4 5; do qemu-img create -q -f qcow2 --object \
secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,\
encrypt.iter-time=10 luks.qcow2 4M && break; done
cp p.qcow2 leak.qcow2
cp p.qcow2 bad.qcow2
cp p.qcow2 plain.img
truncate -s 100001 odd.img
cp o.qcow2 overlay.img
cp n.qed leak.qed
'''

ROWS = {
    'info': '''
info o.qed
info -f qed o.qed
info base.raw
info p.qcow2
info o.qcow2
info t.qcow2
info v2.qcow2
info ext.qcow2
info lazy.qcow2
info zs.qcow2
info comp.qcow2
info snap.qcow2
info bm.qcow2
info luks.qcow2
info df.qcow2
info dfr.qcow2
info sub/s.qcow2
info --output=json p.qcow2
info --output=json o.qcow2
info --output=json v2.qcow2
info --output=json snap.qcow2
info --output=json bm.qcow2
info --output=json luks.qcow2
info --output=json df.qcow2
info --output=json dfr.qcow2
info --output=json ext.qcow2
info --output=json sub/s.qcow2
info --backing-chain t.qcow2
info --backing-chain --output=json t.qcow2
info --backing-chain sub/s.qcow2
info -f raw p.qcow2
info -f qcow2 base.raw
info -f nope base.raw
info missing.qcow2
info
info a b
info --output=xml p.qcow2
info --nope p.qcow2
info -f
info --image-opts driver=qcow2,file.filename=p.qcow2
info --image-opts file.filename=p.qcow2
~info --image-opts driver=qcow2
info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"p.qcow2"}}'
info -U p.qcow2
info bad.qcow2
info odd.img
info --output=json odd.img
info --backing-chain ./t.qcow2
info --backing-chain --output=json ./sub/../t.qcow2
info --image-opts -f qcow2 driver=qcow2,file.filename=p.qcow2
''',
    'check': '''
check p.qcow2
check o.qcow2
check t.qcow2
check v2.qcow2
check ext.qcow2
check comp.qcow2
check snap.qcow2
check bm.qcow2
check df.qcow2
check lazy.qcow2
check pre.qcow2
~check bad.qcow2
~check leak.qcow2
~check -q leak.qcow2
check --output=json p.qcow2
~check --output=json bad.qcow2
check --output=json leak.qcow2
check --output=json comp.qcow2
~check -r leaks leak.qcow2
~check -r all bad.qcow2
~check bad.qcow2
check base.raw
check -f qcow2 base.raw
check missing
check
check -r nope p.qcow2
check -T bad p.qcow2
check -T none p.qcow2
check leak.qed
check --output=json -r all n.qed
check --output=json base.raw
check -r leaks -q p.qcow2
''',
    'map': '''
map p.qcow2
map o.qcow2
map t.qcow2
map v2.qcow2
map ext.qcow2
map comp.qcow2
map snap.qcow2
map --image-opts driver=qcow2,file.filename=df.qcow2,data-file.filename=df.raw
~map pre.qcow2
map base.raw
map --output=json p.qcow2
map --output=json o.qcow2
map --output=json t.qcow2
~map --output=json ext.qcow2
map --output=json comp.qcow2
map --output=json --image-opts driver=qcow2,file.filename=df.qcow2,data-file.filename=df.raw
~map --output=json pre.qcow2
map --output=json v2.qcow2
map --output=json sub/s.qcow2
map --output=json -s 1M -l 64k t.qcow2
map --output=json -s 1M p.qcow2
map --output=json --start-offset=1000 --max-length=5000 p.qcow2
map --output=json -s 5M p.qcow2
map --output=json -s 4M p.qcow2
map -s x p.qcow2
map -l x p.qcow2
map --output=json -l 0 p.qcow2
map ./t.qcow2
map missing
map
~map luks.qcow2
~map --output=json luks.qcow2
map --output=json n.qed
''',
    'create': '''
create -f raw x.raw 1M
create -f raw x.raw 1000
create x.raw 1M
create -f raw -o preallocation=off x.raw 1M
create -f raw -o preallocation=falloc x.raw 1M
create -f raw -o preallocation=full x.raw 1M
~create -f raw -o preallocation=bad x.raw 1M
create -f raw -o size=1M x.raw
create -f raw -b base.raw -F raw x.raw
create -f qcow2 x.qcow2 1M
create -f qcow2 x.qcow2 1G
create -q -f qcow2 x.qcow2 1G
create -f qcow2 -o compat=0.10 x.qcow2 1M
create -f qcow2 -o compat=1.1,lazy_refcounts=on x.qcow2 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on x.qcow2 1M
create -f qcow2 -o cluster_size=4k x.qcow2 1M
create -f qcow2 -o cluster_size=3k x.qcow2 1M
create -f qcow2 -o cluster_size=4M x.qcow2 1M
create -f qcow2 -o cluster_size=256 x.qcow2 1M
create -f qcow2 -o extended_l2=on x.qcow2 1M
create -f qcow2 -o extended_l2=on,cluster_size=8k x.qcow2 1M
create -f qcow2 -o extended_l2=on,compat=0.10 x.qcow2 1M
create -f qcow2 -o refcount_bits=1 x.qcow2 1M
create -f qcow2 -o refcount_bits=3 x.qcow2 1M
create -f qcow2 -o refcount_bits=128 x.qcow2 1M
create -f qcow2 -o refcount_bits=8,compat=0.10 x.qcow2 1M
create -f qcow2 -o compression_type=zstd x.qcow2 1M
create -f qcow2 -o compression_type=lzma x.qcow2 1M
create -f qcow2 -o compression_type=zstd,compat=0.10 x.qcow2 1M
create -f qcow2 -o preallocation=metadata x.qcow2 1M
create -f qcow2 -o preallocation=falloc x.qcow2 1M
create -f qcow2 -o preallocation=full x.qcow2 1M
create -f qcow2 -o preallocation=metadata -b base.raw -F raw x.qcow2
create -f qcow2 -o data_file=x.data x.qcow2 1M
create -f qcow2 -o data_file=x.data,data_file_raw=on x.qcow2 1M
create -f qcow2 -o data_file_raw=on x.qcow2 1M
create -f qcow2 -o data_file=x.data,data_file_raw=on -b base.raw -F raw x.qcow2
create -f qcow2 -b base.raw -F raw x.qcow2
create -f qcow2 -b base.raw -F raw x.qcow2 20M
create -f qcow2 -b base.raw x.qcow2
create -f qcow2 -b o.qcow2 x.qcow2
create -f qcow2 -b o.qcow2 -F qcow2 x.qcow2
create -f qcow2 -b o.qcow2 -F nope x.qcow2
create -f qcow2 -b o.qcow2 -F raw x.qcow2
create -f qcow2 -F qcow2 x.qcow2 1M
create -f qcow2 -b missing -F qcow2 x.qcow2
create -f qcow2 -b missing -F qcow2 x.qcow2 1M
create -u -f qcow2 -b missing -F qcow2 x.qcow2 1M
create -u -f qcow2 -b missing -F qcow2 x.qcow2
create -f qcow2 -o backing_file=base.raw,backing_fmt=raw x.qcow2
create -f qcow2 -o backing_file=base.raw -b o.qcow2 -F raw x.qcow2
create -f qcow2 -o nope=1 x.qcow2 1M
create -f qcow2 x.qcow2
create -f qcow2
create
create -f qcow2 x.qcow2 1M extra
create -f qcow2 x.qcow2 -1
create -f qcow2 x.qcow2 1Z
create -f qcow2 x.qcow2 0
create -f qcow2 x.qcow2 9E
create -f qcow2 x.qcow2 100E
create -f qcow2 /nonexistent/x.qcow2 1M
~create -f qcow2 sub 1M
create -f nope x.qcow2 1M
~create -f qcow2 -o help
~create -f qcow2 -o help x.qcow2
~create -f raw -o help
create -f qed -o help
~create -f qed -o help x.qed
~create -f qed -o '?'
create -f nope -o help
create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s --object secret,id=s,data=abc x.qcow2 1M
create -f qcow2 -o encrypt.format=luks x.qcow2 1M
~create -f qcow2 -o encryption=on x.qcow2 1M
create -f qed x.qed 1G
create -f qed -b base.raw -F raw x.qed
create -f qcow2 -b base.raw -F raw sub/x.qcow2
create -f qcow2 -b ../base.raw -F raw sub/x.qcow2
create -f qcow2 -o size=3M x.qcow2
create -f raw x.raw +1M
create -f raw x.raw ' 1M'
create -f raw x.raw '1M '
create -f raw x.raw 9223372036854775808
create -f file x.raw 1M
~create -f nbd x.raw 1M
create -f qcow2 -o lazy_refcounts x.qcow2 1M
create -f qcow2 -o nolazy_refcounts,cluster_size=4k x.qcow2 1M
create -f qcow2 -o lazy_refcounts=maybe x.qcow2 1M
create -f qcow2 -o lazy_refcounts=y x.qcow2 1M
create -f qcow2 -o ,cluster_size=4k x.qcow2 1M
create -f qcow2 -o cluster_size=4k, x.qcow2 1M
create -f qcow2 -o '' x.qcow2 1M
create -f qcow2 -o cluster_size x.qcow2 1M
create -f qcow2 -o cluster_size=abc x.qcow2 1M
create -f qcow2 -o cluster_size=-1 x.qcow2 1M
create -f qcow2 -o refcount_bits=x x.qcow2 1M
create -f qcow2 -o refcount_bits=16k x.qcow2 1M
create -f qcow2 -o compat=1.0 x.qcow2 1M
~create -f qcow2 -o cluster_size=4k,help
create -f qcow2 -b '' -F raw x.qcow2 1M
create -f qcow2 -b x1.qcow2 -F qcow2 x1.qcow2 1M
create -f qcow2 -b p.qcow2 -F qcow2 p.qcow2
info p.qcow2
create -f qcow2 -u -b 'a,b=c' -F raw x.qcow2 1M
info x.qcow2
create -f qcow2 -u -o backing_file=a,,b,backing_fmt=raw x.qcow2 1M
info x.qcow2
create -f qcow2 -b o.qcow2 -F qcow2 -o backing_fmt=raw,backing_file=base.raw x.qcow2
create -f qcow2 -o size=3M x.qcow2 4M
''',
    'resize': '''
resize p.qcow2 8M
resize p.qcow2 8M
resize p.qcow2 +1M
resize p.qcow2 -1M
resize --shrink p.qcow2 -1M
resize --shrink p.qcow2 1M
resize -q p.qcow2 +1M
resize -f qcow2 o.qcow2 20M
resize -f qcow2 t.qcow2 30M
resize --preallocation=metadata p.qcow2 +1M
resize --preallocation=falloc p.qcow2 +1M
resize --preallocation=full p.qcow2 +1M
resize --preallocation=off p.qcow2 +1M
resize --preallocation=bad p.qcow2 +1M
resize --preallocation=metadata p.qcow2 1M
resize -f raw base.raw 11M
resize -f raw --preallocation=falloc base.raw +1M
resize -f raw --preallocation=full base.raw +1M
resize -f raw --preallocation=metadata base.raw +1M
resize -f raw base.raw 1M
resize -f raw --shrink base.raw 1M
resize n.qed 5M
resize n.qed 1M
~resize --shrink n.qed 1M
resize plain.img 8M
resize v2.qcow2 8M
resize snap.qcow2 8M
resize ext.qcow2 8M
resize --image-opts driver=qcow2,file.filename=df.qcow2,data-file.filename=df.raw 8M
resize --image-opts driver=qcow2,file.filename=dfr.qcow2,data-file.filename=dfr.raw 8M
resize bm.qcow2 8M
resize --shrink bm.qcow2 1M
resize p.qcow2
resize --shrink 1M
resize
resize missing 1M
resize p.qcow2 1x
resize p.qcow2 0
resize --shrink p.qcow2 -- -100G
~resize p.qcow2 +9E
resize --image-opts driver=qcow2,file.filename=p.qcow2 100M
resize p.qcow2 -- +1M
~resize base.raw 10M
resize p.qcow2 4M -f qcow2
''',
    'snapshot': '''
snapshot -l snap.qcow2
snapshot -l p.qcow2
snapshot snap.qcow2
snapshot -c three snap.qcow2
snapshot -l snap.qcow2
snapshot -a one snap.qcow2
snapshot -d one snap.qcow2
snapshot -d nope snap.qcow2
snapshot -a nope snap.qcow2
snapshot -d 2 snap.qcow2
snapshot -l snap.qcow2
snapshot -l n.qed
snapshot -c x n.qed
snapshot -l base.raw
snapshot -c x -d y snap.qcow2
snapshot -q -c y snap.qcow2
snapshot -U -l snap.qcow2
snapshot
snapshot -l missing
snapshot -c x o.qcow2
snapshot -l o.qcow2
snapshot -c 1 snap.qcow2
snapshot -d 1 snap.qcow2
~check snap.qcow2
info snap.qcow2
''',
    'usage': '''
zork
zork --help
compare p.qcow2 nope
compare nope p.qcow2
compare -f nope base.raw p.qcow2
amend p.qcow2
amend -o compat=0.9 p.qcow2
amend -f qcow2 -o cluster_size=4k p.qcow2
amend -f qcow2 -o foo=1 p.qcow2
amend -f raw -o size=1M base.raw
dd if=base.raw
dd if=base.raw of=o bs=0
dd if=base.raw of=o foo=1
dd if=nope of=o
measure
measure --size 1x
measure -O nope --size 1M
measure -O qcow2 -o foo=1 --size 1M
measure --size 1M base.raw
measure -f raw --size 1M
info --image-opts driver=qcow2,file=nope
info --image-opts driver=qcow2,file.filename=p.qcow2,foo=bar
info --image-opts driver=qcow2,file.filename=p.qcow2,file.foo=bar
info nbd+unix:///x?socket=nope
convert -S 3 base.raw out
convert -m 17 base.raw out
convert -l snapshot.foo=1 p.qcow2 out
convert -c -C base.raw out
create -f qcow2 -b missing x.qcow2
create -f qcow2 -o refcount_bits=-1 x.qcow2 1M
create -f qcow2 -o encryption=off x.qcow2 1M
create -f qcow2 -o ,, x.qcow2 1M
''',
    'bitmap': '''
bitmap --add p.qcow2 x
bitmap --add p.qcow2 x
bitmap --add -g 32k p.qcow2 y
bitmap --add -g 3 p.qcow2 z
bitmap --remove p.qcow2 nope
bitmap --disable p.qcow2 x
bitmap --enable p.qcow2 x
bitmap --clear p.qcow2 x
bitmap --merge y p.qcow2 x
bitmap --merge nope p.qcow2 x
bitmap --remove p.qcow2 x
bitmap p.qcow2 x
bitmap --add p.qcow2
~bitmap --add n.qed x
~bitmap --add base.raw x
~bitmap --add v2.qcow2 x
bitmap -b bm.qcow2 -F qcow2 --merge b0 p.qcow2 y
bitmap --add --disable p.qcow2 q
bitmap --add -f qcow2 p.qcow2 w
info p.qcow2
~check p.qcow2
''',
}


def be(f, n):
    return int.from_bytes(f.read(n), 'big')


def damage(root):
    """Refcounts that are wrong, in the way that each name says."""
    for name in ('leak', 'bad'):
        path = os.path.join(root, name + '.qcow2')
        os.truncate(path, os.path.getsize(path) + 65536)
        with open(path, 'r+b') as f:
            f.seek(48)
            f.seek(be(f, 8))
            block = be(f, 8)
            last = os.path.getsize(path) // 65536 - 1
            f.seek(block + 2 * (last if name == 'leak' else 5))
            f.write(b'\0\1' if name == 'leak' else b'\0\0')
    path = os.path.join(root, 'leak.qed')
    os.truncate(path, os.path.getsize(path) + 65536)


def make_folder(root, template):
    if not os.path.exists(template):
        os.makedirs(os.path.join(template, 'sub'))
        subprocess.run(['sh', '-e', '-c', SCRIPT], cwd=template, check=True,
                       stdout=subprocess.DEVNULL)
        damage(template)
    subprocess.run(['cp', '-a', template, root], check=True)


def normal(text):
    text = re.sub('"actual-size": \\d+', '"actual-size": N', text)
    text = re.sub('disk size: .*', 'disk size: N', text)
    text = re.sub('"(date-n?sec)": \\d+', r'"\1": N', text)
    # What theirs leaves in the column of a machine that counts instructions.
    text = re.sub(r'(00:00:00\.000) +0?$', r'\1', text, flags=re.M)
    return re.sub(r'\d{4}-\d\d-\d\d \d\d:\d\d:\d\d', 'DATE', text).rstrip()


def run(tool, words, folder):
    p = subprocess.run([tool] + words, cwd=folder, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return p.returncode, normal(p.stdout), normal(p.stderr)


NEEDS = [('luks', 'luks|encrypt'), ('snapshot', r'snap|^snapshot'),
         ('bitmap', r'bm\.|^bitmap'), ('check', r'^check .*qcow2')]


def lacks(template, program):
    """What ours cannot do with qcow2 images, each asked for."""
    asked = {
        'check': 'check p.qcow2',
        'luks': 'create --object secret,id=s,data=abc -f qcow2 -o '
                'encrypt.format=luks,encrypt.key-secret=s x.qcow2 1M',
        'snapshot': 'snapshot -c x p.qcow2', 'bitmap': 'bitmap --add p.qcow2 x',
    }
    missing = set()
    for name, words in asked.items():
        folder = os.path.join(os.path.dirname(template), 'ask')
        make_folder(folder, template)
        if run(program, words.split(), folder)[0] != 0:
            missing.add(name)
        shutil.rmtree(folder)
    return missing


def compare(row, program, folders):
    words = shlex.split(row.lstrip('~'))
    theirs, ours = (run(t, words, f)
                    for t, f in zip((QEMU_IMG, program), folders))
    while 'accurate CPU usage' in theirs[2]:  # the clock was too coarse
        theirs = run(QEMU_IMG, words, folders[0])
    if row[0] == '~':
        theirs, ours = theirs[:1], ours[:1]
    for a, b in zip(theirs, ours):
        if a != b:
            yield '# theirs: %r\n# ours:   %r' % (a, b)


def main():
    if not QEMU_IMG or not shutil.which('qemu-io'):
        print('skip: qemu-img and qemu-io (qemu-utils) are missing')
        return 77
    top = tempfile.mkdtemp(prefix='image-words-')
    ours = stand_in(top)
    template = os.path.join(top, 'template')
    missing = lacks(template, ours)
    groups = {k: v.strip().splitlines() for k, v in ROWS.items()
              if len(sys.argv) < 2 or k in sys.argv[1:]}
    print('1..%d' % sum(len(rows) for rows in groups.values()))
    num, failed = 0, False
    for group, rows in groups.items():
        folders = [os.path.join(top, group + str(i)) for i in (0, 1)]
        for f in folders:
            make_folder(f, template)
        for row in rows:
            num += 1
            why = [n for n, words in NEEDS
                   if n in missing and re.search(words, row.lstrip('~'))]
            if why:
                print('ok %d %s # SKIP no %s' % (num, row, why[0]))
                continue
            found = list(compare(row, ours, folders))
            failed = failed or bool(found)
            print('%s %d %s' % ('not ok' if found else 'ok', num, row))
            print('\n'.join(found) + '\n' if found else '', end='')
        for f in folders:
            shutil.rmtree(f)
    shutil.rmtree(top)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
