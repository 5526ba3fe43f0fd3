/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/hold.h"

/* What a link was like before it was loosened. */
struct loose_edge {
    struct edge *edge; /* frozen, or of a node that is blocked */
    unsigned perm, shared;
};

static char *hold_describe(void *arg)
{
    const struct job_hold *h = arg;

    return g_strdup(h->by);
}

const struct backend_ops job_hold_ops_active = {
    .describe = hold_describe,
    .role = "active node",
};
const struct backend_ops job_hold_ops_middle = {
    .describe = hold_describe,
    .role = "intermediate node",
};
const struct backend_ops job_hold_ops_base = {
    .describe = hold_describe,
    .role = "base",
};

const struct backend_ops job_hold_ops_target = {
    .describe = hold_describe,
    .role = "target",
};

void job_hold_init(struct job_hold *h, const char *type, const char *by)
{
    *h = (struct job_hold) {
        .by = g_strdup(by),
        .reason = g_strdup_printf("block device is in use by block job: %s",
                                  type),
        .blockers = g_ptr_array_new(),
        .blocked = g_ptr_array_new(),
        .backends = g_ptr_array_new(),
        .loose = g_array_new(FALSE, FALSE, sizeof(struct loose_edge)),
    };
}

/* A blocked node is referenced: blockers must not outlive it. */
static void hold_block(struct job_hold *h, struct node *n, unsigned but)
{
    const unsigned all = (1u << BLOCK_OP_COUNT) - 1;

    g_ptr_array_add(h->blocked, node_ref(n));
    g_ptr_array_add(
        h->blockers,
        node_block(n, all & ~(1u << BLOCK_OP_OVERLAY | but), h->reason));
}

void job_hold_block(struct job_hold *h, struct node *n)
{
    hold_block(h, n, 0);
}

void job_hold_block_but(struct job_hold *h, struct node *n, enum block_op op)
{
    hold_block(h, n, 1u << op);
}

void job_hold_forbid_overlays(struct job_hold *h, struct node *n)
{
    g_ptr_array_add(h->blockers,
                    node_block(n, 1u << BLOCK_OP_OVERLAY, h->reason));
}

CO_FN int job_hold_co_use(struct job_hold *h, struct node *n, unsigned perm,
                          unsigned shared, const struct backend_ops *ops,
                          struct backend **ret_u, GError **err)
{
    struct backend *u;
    int ret = backend_co_new(n, h->by, perm, shared, ops, h, &u, err);

    if (ret < 0) {
        return ret;
    }
    g_ptr_array_add(h->backends, u);
    if (ret_u) {
        *ret_u = u;
    }
    return 0;
}

CO_FN int job_hold_co_loosen(struct job_hold *h, struct node *top,
                             struct node *base, GError **err)
{
    int ret = 0;

    for (struct node *n = top; n != base && ret == 0;
         n = node_skip_filters(node_backing(n))) {
        struct edge *e = node_child(n, "backing");
        struct loose_edge was = { .edge = e };

        edge_get_perms(e, true, &was.perm, &was.shared);
        g_array_append_val(h->loose, was);
        ret = edge_co_set_perms(e, 0, PERM_ALL, err);
    }
    return ret;
}

static CO_FN void hold_co_tighten(struct job_hold *h)
{
    while (h->loose && h->loose->len > 0) {
        struct loose_edge was = g_array_index(h->loose, struct loose_edge,
                                              h->loose->len - 1);

        g_array_set_size(h->loose, h->loose->len - 1);
        (void)edge_co_set_perms(was.edge, was.perm, was.shared, NULL);
    }
}

CO_FN void job_hold_co_leave(struct job_hold *h)
{
    /* The latest first, each taken off the list before anything yields. */
    while (h->backends && h->backends->len > 0) {
        backend_co_free(
            g_ptr_array_steal_index(h->backends, h->backends->len - 1));
    }
    hold_co_tighten(h);
}

CO_FN void job_hold_co_release(struct job_hold *h)
{
    struct job_hold old = *h;

    if (!old.by) {
        return;
    }
    job_hold_co_leave(h);
    *h = (struct job_hold) { 0 };
    for (unsigned i = 0; i < old.blockers->len; i++) {
        node_unblock(g_ptr_array_index(old.blockers, i));
    }
    for (unsigned i = 0; i < old.blocked->len; i++) {
        node_co_unref(g_ptr_array_index(old.blocked, i));
    }
    g_ptr_array_free(old.blockers, TRUE);
    g_ptr_array_free(old.blocked, TRUE);
    g_ptr_array_free(old.backends, TRUE);
    g_array_free(old.loose, TRUE);
    g_free(old.reason);
    g_free(old.by);
}
