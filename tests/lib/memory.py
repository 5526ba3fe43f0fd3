# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a program of this user has in its memory, freed or not."""
from sluiced import SANITIZED, Skip


def memory_of(pid):
    """All that it may write to."""
    if SANITIZED:
        raise Skip('a sanitizer keeps what was freed')
    out = []
    with open('/proc/%d/maps' % pid, encoding='ascii') as maps, \
            open('/proc/%d/mem' % pid, 'rb', 0) as mem:
        for line in maps:
            span, perm = line.split()[:2]
            if not perm.startswith('rw') or '[v' in line:
                continue
            start, end = [int(x, 16) for x in span.split('-')]
            try:
                mem.seek(start)
                out.append(mem.read(end - start))
            except (OSError, ValueError, OverflowError):
                pass
    return b'\0'.join(out)
