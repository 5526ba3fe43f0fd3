/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hold-driver.h"
#include "base/math.h"
#include "graph/driver.h"
#include "loop/co.h"

static bool held;
static int failing;
static uint64_t next_off, next_len;
static unsigned waiting;
static struct co_queue waiters;

void hold_set(bool on)
{
    held = on;
    if (!on) {
        co_queue_wake_all(&waiters);
    }
}

void hold_next_read(uint64_t off, uint64_t len)
{
    next_off = off;
    next_len = len;
}

void hold_fail(int errnum)
{
    failing = errnum;
}

unsigned hold_waiting(void)
{
    return waiting;
}

static CO_FN int hold_co_gate(void)
{
    waiting++;
    while (held) {
        co_queue_co_wait(&waiters);
    }
    waiting--;
    return -failing;
}

static CO_FN void hold_co_read_gate(uint64_t off, uint64_t len)
{
    if (ranges_overlap(off, len, next_off, next_len)) {
        next_len = 0;
        waiting++;
        co_queue_co_wait(&waiters);
        waiting--;
    }
}

static CO_FN int hold_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    return node_co_open_file(n, o, err);
}

static CO_FN int hold_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    int ret = hold_co_gate();

    hold_co_read_gate(off, iov.len);
    return ret < 0 ? ret : node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN int hold_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    int ret = hold_co_gate();

    return ret < 0 ? ret : node_co_pwritev(node_file(n), off, iov, flags);
}

static CO_FN int hold_co_flush(struct node *n)
{
    int ret = hold_co_gate();

    return ret < 0 ? ret : node_co_flush(node_file(n));
}

static const char *const option_names[] = { "file", NULL };

const struct node_driver hold_driver = {
    .name = "hold",
    .kind = NODE_FILTER,
    .option_names = option_names,
    .co_open = hold_co_open,
    .co_preadv = hold_co_preadv,
    .co_pwritev = hold_co_pwritev,
    .co_flush = hold_co_flush,
};
