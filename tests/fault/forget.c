/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Storage that fails a flush once and says yes to the next: a server of another
 * machine, or a kernel that tells of a lost page only once.  The linker leads the
 * driver's flush of a file here (--wrap), so the driver itself never learns of it.
 */
#include <errno.h>
#include "fault.h"
#include "graph/node.h"

CO_FN int __real_file_io_co_flush(struct node *n);
CO_FN int __wrap_file_io_co_flush(struct node *n);

static uint64_t count, bad;

void forget_inject(unsigned nth)
{
    bad = nth ? count + nth : 0;
}

uint64_t forget_count(void)
{
    return count;
}

int __wrap_file_io_co_flush(struct node *n)
{
    /* What is only read is flushed in vain, and nobody minds. */
    return node_is_writable(n) && ++count == bad ? -EIO
                                                 : __real_file_io_co_flush(n);
}
