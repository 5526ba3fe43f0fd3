#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A real guest: a Debian kernel under QEMU (no KVM needed) whose root disk is an
overlay that streams while it boots: QED over a raw template, and qcow2 over a
compressed one.

The root disk is ext4 with busybox and random files.  The guest checks every
file, writes new ones, syncs, checks again and powers off.  It boots while the
stream runs; after the daemon was killed in the middle and started again, when
the base is deleted as soon as the stream has ended; and, from QED, once more
from the overlay alone.
"""
import glob
import hashlib
import os
import random
import re
import shutil
import subprocess

from seed import SEED
from sluiced import Sluiced, Skip, qemu_img, run, run_tool
from waiting import until

MIB = 1 << 20
BOOT_LIMIT = 300        # seconds of rest
MODULES = ('virtio_pci', 'virtio_blk')

INITRAMFS_INIT = '''#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
for m in $(/bin/busybox cat /modules/order); do
    /bin/busybox insmod /modules/$m
done
n=0
while [ ! -b /dev/vda ] && [ $n -lt 6000 ]; do
    /bin/busybox sleep 0.1; n=$((n + 1))
done
/bin/busybox mount -t ext4 /dev/vda /root || echo GUEST-FAILED mount
exec /bin/busybox switch_root /root /sbin/init
'''

# Runs as process 1 on the streamed disk.
DISK_INIT = '''#!/bin/busybox sh
export PATH=/bin
busybox mount -t proc none /proc
busybox mount -t devtmpfs none /dev
fail() { echo "GUEST-FAILED $*"; busybox sync; busybox poweroff -f; }
cd /data
busybox sha256sum -c SUMS >/tmp/log 2>&1 || fail "files of the template"
for s in /written/*.sums; do
    [ -e "$s" ] || continue
    (cd /written && busybox sha256sum -c "$s" >/tmp/log 2>&1) ||
        fail "files of an earlier boot: $s"
done
boot=$(busybox ls /written | busybox grep -c sums)
cd /written
for i in 1 2 3 4; do
    busybox dd if=/dev/urandom of=b$boot.$i bs=64k count=16 2>/dev/null ||
        fail "writing"
    busybox sha256sum b$boot.$i >>/tmp/sums
done
busybox cp /tmp/sums /written/$boot.sums
busybox rm -f /tmp/sums
busybox sync
echo 3 >/proc/sys/vm/drop_caches
busybox sha256sum -c /written/$boot.sums >/tmp/log 2>&1 || fail "read back"
busybox rm -f /tmp/log
busybox mount -o remount,ro / || fail "remount"
echo GUEST-DONE boot $boot
busybox poweroff -f
'''


def find_kernel():
    kernels = sorted(glob.glob('/boot/vmlinuz-*-cloud-amd64'))
    for program, package in (('qemu-system-x86_64', 'qemu-system-x86'),
                             ('busybox', 'busybox-static'), ('cpio', 'cpio'),
                             ('mkfs.ext4', 'e2fsprogs')):
        if shutil.which(program) is None:
            raise Skip('%s (package %s) is missing' % (program, package))
    if not kernels or not os.access(kernels[-1], os.R_OK):
        raise Skip('a kernel (package linux-image-cloud-amd64) is missing')
    return kernels[-1]


def module_files(version):
    """The modules of MODULES and what they need, in order of loading."""
    top = '/lib/modules/' + version
    depends = {}
    with open(os.path.join(top, 'modules.dep'), encoding='utf-8') as f:
        for line in f:
            name, _, needs = line.partition(':')
            depends[name] = needs.split()
    files = []
    for module in MODULES:
        path = [p for p in depends
                if os.path.basename(p).split('.')[0].replace('-', '_') == module]
        for p in reversed(depends[path[0]]):
            if p not in files:
                files.append(p)
        files.append(path[0])
    return [os.path.join(top, p) for p in files]


def write_script(path, text):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)
    os.chmod(path, 0o755)


def make_initramfs(d, kernel):
    tree = os.path.join(d, 'initramfs')
    for name in ('bin', 'dev', 'root', 'modules'):
        os.makedirs(os.path.join(tree, name))
    shutil.copy(shutil.which('busybox'), os.path.join(tree, 'bin/busybox'))
    order = []
    for path in module_files(kernel.split('vmlinuz-')[1]):
        shutil.copy(path, os.path.join(tree, 'modules'))
        order.append(os.path.basename(path))
    with open(os.path.join(tree, 'modules/order'), 'w', encoding='utf-8') as f:
        f.write('\n'.join(order) + '\n')
    write_script(os.path.join(tree, 'init'), INITRAMFS_INIT)
    out = os.path.join(d, 'initrd')
    with open(out, 'wb') as f:
        names = subprocess.run(['find', '.'], cwd=tree, check=True,
                               stdout=subprocess.PIPE).stdout
        subprocess.run(['cpio', '-o', '-H', 'newc', '--quiet'], cwd=tree,
                       input=names, stdout=f, check=True)
    return out


def make_template(d):
    tree = os.path.join(d, 'tree')
    for name in ('bin', 'sbin', 'dev', 'proc', 'tmp', 'data', 'written'):
        os.makedirs(os.path.join(tree, name))
    shutil.copy(shutil.which('busybox'), os.path.join(tree, 'bin/busybox'))
    os.symlink('busybox', os.path.join(tree, 'bin/sh'))
    write_script(os.path.join(tree, 'sbin/init'), DISK_INIT)
    rnd = random.Random(SEED)
    with open(os.path.join(tree, 'data/SUMS'), 'w', encoding='utf-8') as sums:
        for i in range(24):
            data = rnd.randbytes(rnd.randrange(1, MIB))
            with open(os.path.join(tree, 'data/f%d' % i), 'wb') as f:
                f.write(data)
            sums.write('%s  f%d\n' % (hashlib.sha256(data).hexdigest(), i))
    # Not looked at by the guest: what the stream has to carry meanwhile.
    with open(os.path.join(tree, 'ballast'), 'wb') as f:
        f.write(rnd.randbytes(48 * MIB))
    base = os.path.join(d, 'template.raw')
    with open(base, 'wb') as f:
        f.truncate(128 * MIB)
    run_tool('mkfs.ext4', '-q', '-F', '-E', 'root_owner=0:0', '-d', tree, base)
    shutil.rmtree(tree)
    return base


class Machine:
    """One boot of the guest on the daemon's NBD socket."""

    def __init__(self, d, kernel, initrd):
        self.log = os.path.join(d, 'console')
        with open(self.log, 'wb') as out:
            self.proc = subprocess.Popen(
                ['qemu-system-x86_64', '-accel', 'tcg', '-m', '256',
                 '-nodefaults', '-display', 'none', '-no-reboot',
                 '-serial', 'stdio', '-kernel', kernel, '-initrd', initrd,
                 '-append', 'console=ttyS0 quiet panic=-1',
                 '-drive', 'if=none,id=d,format=raw,cache=none,'
                 'file=nbd+unix:///disk?socket=%s/nbd.sock' % d,
                 '-device', 'virtio-blk-pci,drive=d'],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def finish(self, boot, meanwhile=lambda: None):
        try:
            until(lambda: meanwhile() or self.proc.poll() is not None,
                  'boot %d' % boot, BOOT_LIMIT)
        finally:
            self.proc.kill()
            self.proc.wait()
        with open(self.log, encoding='utf-8', errors='replace') as f:
            text = f.read()
        assert re.search(r'GUEST-DONE boot %d' % boot, text), text[-2000:]


def daemon(d, top):
    fmt = top.rsplit('.', 1)[1]
    return Sluiced(d, '--nbd-server', 'addr.type=unix,addr.path=%s/nbd.sock' % d,
                   '--drive', 'id=disk,file=%s,format=%s,copy-on-read=on'
                   % (top, fmt),
                   '--export', 'type=nbd,id=e,node-name=disk,name=disk,'
                   'writable=on')


def offset(s):
    job, = s.qmp.cmd('query-block-jobs')
    return job['offset']


def hold(s):
    """The stream gets not much further than 8 MiB: however slow the guest
    boots, it does so while the stream runs."""
    if offset(s) > 8 * MIB:
        s.qmp.cmd('block-job-set-speed', device='disk', speed=4096)


def boots(d, base, base_fmt, fmt, alone):
    """Boot from an overlay of @fmt over @base; @alone: once more without it."""
    kernel = find_kernel()
    initrd = make_initramfs(d, kernel)
    top = os.path.join(d, 'disk.' + fmt)
    qemu_img('create', '-q', '-f', fmt, '-b', base, '-F', base_fmt, top)

    s = daemon(d, top)
    try:
        s.qmp.cmd('block-stream', {'device': 'disk', 'job-id': 'disk',
                                   'speed': 2 * MIB})
        Machine(d, kernel, initrd).finish(0, lambda: hold(s))
        held = offset(s)
        s.qmp.cmd('block-job-set-speed', device='disk', speed=2 * MIB)
        until(lambda: offset(s) > held + 4 * MIB, 'another 4 MiB')
    finally:
        s.kill()

    with daemon(d, top) as s:
        machine = Machine(d, kernel, initrd)
        s.qmp.cmd('block-stream', {'device': 'disk', 'job-id': 'disk'})
        event = s.qmp.wait_event('BLOCK_JOB_COMPLETED', device='disk')
        assert 'error' not in event['data'], event
        os.unlink(base)
        machine.finish(1)

    if alone:
        with daemon(d, top) as s:
            Machine(d, kernel, initrd).finish(2)
    # The killed daemon's last second may have left clusters that nobody points
    # to (3); nothing worse.
    p = subprocess.run(['qemu-img', 'check', '-f', fmt, top], text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       check=False)
    assert p.returncode in (0, 3), p.stdout


def test_boots_while_streaming_qed(d):
    find_kernel()
    boots(d, make_template(d), 'raw', 'qed', alone=True)


def test_boots_while_streaming_qcow2_from_compressed(d):
    find_kernel()
    raw = make_template(d)
    base = os.path.join(d, 'template.qcow2')
    qemu_img('convert', '-q', '-c', '-O', 'qcow2', raw, base)
    os.unlink(raw)
    boots(d, base, 'qcow2', 'qcow2', alone=False)


if __name__ == '__main__':
    run(globals())
