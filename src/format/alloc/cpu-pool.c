/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Long computations off the loop.  A slot that becomes free is handed to the
 * first waiter, so that no later caller can take it.
 */
#include "format/alloc/cpu-pool.h"
#include <glib.h>

enum { AT_ONCE_MIN = 2, AT_ONCE_MAX = 8 };

/* Asking costs a few system calls. */
static unsigned at_once(void)
{
    static gsize known;

    if (g_once_init_enter(&known)) {
        g_once_init_leave(
            &known, CLAMP(g_get_num_processors(), AT_ONCE_MIN, AT_ONCE_MAX));
    }
    return (unsigned)known;
}

void cpu_pool_co_run(struct cpu_pool *o, void (*fn)(void *arg), void *arg)
{
    if (o->running < at_once()) {
        o->running++;
    } else {
        co_queue_co_wait(&o->waiters); /* woken with the slot of another
                                        * caller */
    }
    co_in_pool(fn, arg);
    if (!co_queue_wake_one(&o->waiters)) {
        o->running--;
    }
}
