/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The filters that jobs put into a chain, with QEMU's names.  No options of a
 * user open them.
 *
 *   commit_top  above the image that a commit merges down: everything passes
 *               through, it gives the job a name in the graph
 *   mirror_top  above the disk that a job copies while guests write to it: each
 *               change goes to the watcher first (graph/watch.h).  Nobody else
 *               writes to what is below, past it.
 */
#include "filter/filter.h"
#include "graph/driver.h"
#include "graph/watch.h"

struct watch_state {
    const struct watch_ops *ops;
    void *arg;
};

static const char *const watch_option_names[] = { "file", NULL };

static CO_FN int watch_co_open(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    int ret = node_co_open_file(n, o, err);

    if (ret == 0) {
        n->size = node_file(n)->size;
    }
    return ret;
}

const struct node_driver commit_top_driver = {
    .name = "commit_top",
    .kind = NODE_FILTER,
    .is_internal = true,
    .state_size = sizeof(struct watch_state),
    .option_names = watch_option_names,
    .co_open = watch_co_open,
};

static CO_FN int watch_co_change(struct node *n, struct watched *w)
{
    const struct watch_state *s = n->state;

    w->filter = n;
    return s->ops ? s->ops->co_change(s->arg, w) : watched_co_do(w);
}

static CO_FN int watch_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                  unsigned flags)
{
    struct watched w = {
        .kind = WATCHED_WRITE,
        .off = off,
        .len = iov.len,
        .iov = iov,
        .flags = flags,
    };

    return watch_co_change(n, &w);
}

static CO_FN int watch_co_zero(struct node *n, uint64_t off, uint64_t len,
                               unsigned flags)
{
    struct watched w = {
        .kind = WATCHED_ZERO,
        .off = off,
        .len = len,
        .flags = flags,
    };

    return watch_co_change(n, &w);
}

static CO_FN int watch_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct watched w = { .kind = WATCHED_DISCARD, .off = off, .len = len };

    return watch_co_change(n, &w);
}

static void watch_set(struct node *n, const struct watch_ops *ops, void *arg)
{
    struct watch_state *s = n->state;

    s->ops = ops;
    s->arg = arg;
}

const struct node_driver mirror_top_driver = {
    .name = "mirror_top",
    .kind = NODE_FILTER,
    .is_internal = true,
    .state_size = sizeof(struct watch_state),
    .option_names = watch_option_names,
    .handles_fua = true,
    .co_open = watch_co_open,
    .co_pwritev = watch_co_pwritev,
    .co_zero = watch_co_zero,
    .co_discard = watch_co_discard,
    .set_watch = watch_set,
};
