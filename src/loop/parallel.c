/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Workers that take the next number until there is none: loop/parallel.h. */
#include "loop/parallel.h"
#include <glib.h>
#include "loop/co.h"

struct parallel {
    unsigned n, next;
    int ret;
    int (*fn)(void *arg, unsigned i);
    void *arg;
    struct co_latch running;
};

static CO_FN void parallel_co_work(struct parallel *p)
{
    while (p->next < p->n && p->ret == 0) {
        int ret = p->fn(p->arg, p->next++);
        if (ret < 0 && p->ret == 0) {
            p->ret = ret;
        }
    }
}

static CO_FN void parallel_entry(void *arg)
{
    struct parallel *p = arg;

    parallel_co_work(p);
    co_latch_done(&p->running);
}

int parallel_co_for(struct loop *l, unsigned n, unsigned workers,
                    int (*fn)(void *arg, unsigned i), void *arg)
{
    struct parallel p = { .n = n, .fn = fn, .arg = arg };

    for (unsigned i = 1; i < MIN(n, workers); i++) {
        co_latch_add(&p.running);
        co_start(l, parallel_entry, &p);
    }
    parallel_co_work(&p);
    co_latch_co_wait(&p.running);
    return p.ret;
}
