# SPDX-License-Identifier: LGPL-2.1-or-later
"""A row about a real guest that boots from an overlay whose base, a compressed
qcow2, is behind a web server far away."""
import json
import os
import sys
import tempfile
import time

from harness import MIB, TOP, Missing, Sample, file_options, remove, run
from rows import Case, both, row
from sluiced import Skip

sys.path.insert(0, os.path.join(TOP, 'tests', 'interop'))
import guest  # noqa: E402 pylint: disable=wrong-import-position


class Template:
    """The guest's disk, kernel and first file system, made once."""

    def __init__(self, ctx):
        self.kernel = guest.find_kernel()
        self.dir = tempfile.mkdtemp(dir=ctx.dir)
        self.initrd = guest.make_initramfs(self.dir, self.kernel)
        raw = guest.make_template(self.dir)
        self.size = os.path.getsize(raw)
        self.disk = os.path.join(self.dir, 'template.qcow2')
        run('qemu-img', 'convert', '-c', '-O', 'qcow2', raw, self.disk)
        os.unlink(raw)


def boot_options(top, url):
    """The guest's node, 'disk', keeps what it reads."""
    base = {'driver': 'qcow2', 'read-only': True,
            'file': {'driver': 'http', 'read-only': True, 'url': url}}
    return ['--blockdev', json.dumps(
                {'driver': 'qcow2', 'node-name': 'top',
                 'file': file_options(top), 'backing': base}),
            '--blockdev', json.dumps(
                {'driver': 'copy-on-read', 'node-name': 'disk', 'file': 'top'})]


def boot(ctx, template, who, rtt, stream):
    """Seconds until the guest has checked its files and powers off; bytes that
    were fetched by then."""
    top = ctx.overlay(None, template.size, fmt='qcow2')
    folder = tempfile.mkdtemp(dir=ctx.dir)
    try:
        with ctx.far_web(template.disk, rtt, counts=True) as web:
            with ctx.daemon(who, *boot_options(top, web.url)) as d:
                d.serve('disk')
                os.symlink(d.nbd, os.path.join(folder, 'nbd.sock'))
                if stream:
                    d.qmp.cmd('block-stream', device='top', job_id='j')
                start = time.monotonic()
                guest.Machine(folder, template.kernel, template.initrd).finish(0)
                took = time.monotonic() - start
                return Sample(took, fetched=web.sent() / MIB)
    finally:
        remove(top)


@row('guest-boot', 'a guest boots from a compressed qcow2, 10 ms away (HTTP)')
def guest_boot(ctx):
    try:
        template = Template(ctx)
    except Skip as e:
        raise Missing(str(e)) from None
    state = {}

    def measure(who, stream):
        state[who, stream] = boot(ctx, template, who, 10, stream)
        return state[who, stream]

    def fetched(who, stream):
        return Sample(state[who, stream].extra['fetched'])

    for name, stream in (('alone', False), ('while it streams', True)):
        yield Case(name, 's', both(measure, stream), better='low',
                   goal=1)
        yield Case('... fetched by then', 'MiB', both(fetched, stream),
                   better='low', goal=None if stream else 1)
