/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Workers that take the next number until there is none: see format/each.h. */
#include "format/each.h"
#include <glib.h>
#include "loop/co.h"

struct each {
    unsigned n, next;
    int ret;
    int (*fn)(void *arg, unsigned i);
    void *arg;
    struct co_latch running;
};

static CO_FN void each_co_work(struct each *e)
{
    while (e->next < e->n && e->ret == 0) {
        int ret = e->fn(e->arg, e->next++);
        if (ret < 0 && e->ret == 0) {
            e->ret = ret;
        }
    }
}

static CO_FN void each_entry(void *arg)
{
    struct each *e = arg;

    each_co_work(e);
    co_latch_done(&e->running);
}

int each_co_run(struct loop *l, unsigned n, unsigned workers,
                int (*fn)(void *arg, unsigned i), void *arg)
{
    struct each e = { .n = n, .fn = fn, .arg = arg };

    for (unsigned i = 1; i < MIN(n, workers); i++) {
        co_latch_add(&e.running);
        co_start(l, each_entry, &e);
    }
    each_co_work(&e);
    co_latch_co_wait(&e.running);
    return e.ret;
}
