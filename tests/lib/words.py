# SPDX-License-Identifier: LGPL-2.1-or-later
"""Messages of the image tool beside those of qemu-img."""
import re

# Lines that say what to do; QEMU has none of them.
HELP = (r"(Did you mean '|Possible are: |'-o help' with |"
        r'If that is what it is, say so with -F |If it was moved, |'
        r'Say it with -F, for example -F qcow2)')


def without_help(text):
    """@text without what is otherwise on purpose (sluice(1), DIFFERENCES): lines
    that say what to do, a file that is named twice, a number of an error."""
    lines = [re.sub(r"(Did you mean '[^']*'\? )", '', l)
             for l in text.splitlines()]
    text = '\n'.join(l for l in lines if l and not re.match(HELP, l))
    text = re.sub(r"(Could not open '[^']*'): \1", r'\1', text)
    text = re.sub(r"(new backing file ('[^']*'): )Could not open \2: ", r'\1',
                  text)
    return text + ('\n' if text else '')
