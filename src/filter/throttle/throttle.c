/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "throttle": requests wait for their throttle group, then pass.
 *
 * Zeroes and discards count as writes of their length; flushes and status
 * queries are free.  While the node is drained nothing waits, so that a drain
 * ends as soon as the requests below have.
 */
#include <glib.h>
#include "base/err.h"
#include "filter/filter.h"
#include "filter/throttle/throttle-int.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/loop.h"

struct throttle_state {
    struct throttle_member member;
};

static const char *const throttle_option_names[] = { "file", "throttle-group",
                                                     NULL };

static struct throttle_member *member_of(struct node *n)
{
    struct throttle_state *s = n->state;

    return &s->member;
}

/* The group that the options name; owned. */
static int throttle_take_group(struct opts *o, char **ret_id, GError **err)
{
    int r = opts_take_str(o, "throttle-group", ret_id, err);

    return r == 0 ? opts_missing("throttle-group", err) : r;
}

static CO_FN int throttle_co_open(struct node *n, struct opts *o,
                                  unsigned flags, GError **err)
{
    g_autofree char *id = NULL;
    int r = throttle_take_group(o, &id, err);

    if (r < 0) {
        return r;
    }
    r = node_co_open_file(n, o, err);
    if (r < 0) {
        return r;
    }
    n->size = node_file(n)->size;
    return throttle_member_join(member_of(n), n->graph, id, err);
}

static CO_FN void throttle_co_close(struct node *n)
{
    throttle_member_leave(member_of(n));
}

/* Changing the group is the only change there is. The node is drained. */
static CO_FN int throttle_co_reopen(struct node *n, struct opts *o,
                                    unsigned flags, GError **err)
{
    g_autofree char *id = NULL;
    int r = throttle_take_group(o, &id, err);

    if (r < 0) {
        return r;
    }
    return throttle_member_join(member_of(n), n->graph, id, err);
}

/* That a guest is held back by its own limit says nothing of the storage. */
static CO_FN void throttle_co_wait(struct node *n, bool is_write, uint64_t len,
                                   unsigned flags)
{
    struct loop *loop = graph_loop(n->graph);
    uint64_t begun = loop_clock_ns(loop);

    throttle_member_co_wait(member_of(n), is_write, len);
    node_demand_excuse(n, flags, loop_clock_ns(loop) - begun);
}

static CO_FN int throttle_co_preadv(struct node *n, uint64_t off,
                                    struct iov iov, unsigned flags)
{
    throttle_co_wait(n, false, iov.len, flags);
    return node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN int throttle_co_pwritev(struct node *n, uint64_t off,
                                     struct iov iov, unsigned flags)
{
    throttle_co_wait(n, true, iov.len, flags);
    return node_co_pwritev(node_file(n), off, iov, flags);
}

static CO_FN int throttle_co_zero(struct node *n, uint64_t off, uint64_t len,
                                  unsigned flags)
{
    throttle_member_co_wait(member_of(n), true, len);
    return node_co_zero(node_file(n), off, len, flags);
}

static CO_FN int throttle_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    throttle_member_co_wait(member_of(n), true, len);
    return node_co_discard(node_file(n), off, len);
}

static CO_FN void throttle_co_quiesce(struct node *n)
{
    throttle_member_drain_begin(member_of(n));
}

static void throttle_resume(struct node *n)
{
    throttle_member_drain_end(member_of(n));
}

const struct node_driver throttle_driver = {
    .name = "throttle",
    .kind = NODE_FILTER,
    .state_size = sizeof(struct throttle_state),
    .option_names = throttle_option_names,
    .co_open = throttle_co_open,
    .co_close = throttle_co_close,
    .co_reopen = throttle_co_reopen,
    .co_preadv = throttle_co_preadv,
    .co_pwritev = throttle_co_pwritev,
    .co_zero = throttle_co_zero,
    .co_discard = throttle_co_discard,
    .co_quiesce = throttle_co_quiesce,
    .resume = throttle_resume,
};
