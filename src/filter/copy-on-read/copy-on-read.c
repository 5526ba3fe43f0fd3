/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "copy-on-read": what a guest reads from the backing chain stays in
 * the overlay.
 *
 * The filter only decides where populate (graph/populate.h) works: on the
 * overlay under it, down to "bottom", the lowest node whose data is to be
 * copied.  Both are looked up for each request, so they follow changes of the
 * graph.  Everything but reads and prefetch passes through; a read, too, where
 * other filters or a raw node stand between, once its range is populated.
 */
#include "filter/filter.h"
#include <glib.h>
#include "base/err.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/populate.h"

struct cor_state {
    struct node *bottom; /* referenced; NULL: the whole chain */
};

static const char *const cor_option_names[] = { "file", "bottom", NULL };

static int cor_find_bottom(struct node *n, struct opts *o, GError **err)
{
    struct cor_state *s = n->state;
    g_autofree char *name = NULL;
    struct node *bottom, *top = node_image(n, NULL);
    int r = opts_take_str(o, "bottom", &name, err);

    if (r <= 0) {
        return r;
    }
    bottom = node_find(n->graph, name, NULL);
    if (!bottom) {
        return err_set(err, ENOENT, "Bottom node '%s' not found", name);
    }
    if (node_is_filter(bottom)) {
        return err_set(err, EINVAL, "Bottom node '%s' is a filter", name);
    }
    if (bottom != top && !node_chain_contains(top, bottom)) {
        return err_set(err, EINVAL,
                       "Bottom node '%s' is not in the backing "
                       "chain of '%s'",
                       name, top->name);
    }
    s->bottom = node_ref(bottom);
    return 0;
}

static CO_FN int cor_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    int r = node_co_open_file(n, o, err);

    if (r < 0) {
        return r;
    }
    n->size = node_file(n)->size;
    return cor_find_bottom(n, o, err);
}

static CO_FN void cor_co_close(struct node *n)
{
    struct cor_state *s = n->state;

    if (s->bottom) {
        node_co_unref(s->bottom);
        s->bottom = NULL;
    }
}

/* Where copying stops: the node below the bottom one. */
static struct node *cor_base(struct node *n)
{
    const struct cor_state *s = n->state;

    return s->bottom ? node_backing(s->bottom) : NULL;
}

static CO_FN int cor_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    uint64_t at;
    struct node *top = node_image(n, &at);

    if (node_backing(top) && node_file(n) == top) {
        return node_co_read_populate(top, cor_base(n), off, iov, flags);
    }
    if (node_backing(top)) {
        /* Whether it could be kept or not, the read says what there is. */
        (void)node_co_populate(top, cor_base(n), at + off, iov.len,
                               flags & IO_DEMAND, NULL);
    }
    return node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN int cor_co_cache(struct node *n, uint64_t off, uint64_t len)
{
    uint64_t at;
    struct node *top = node_image(n, &at);

    return node_co_populate(top, cor_base(n), at + off, len, 0, NULL);
}

const struct node_driver copy_on_read_driver = {
    .name = "copy-on-read",
    .kind = NODE_FILTER,
    .filter_perm = PERM_WRITE_UNCHANGED,
    .state_size = sizeof(struct cor_state),
    .option_names = cor_option_names,
    .co_open = cor_co_open,
    .co_close = cor_co_close,
    .co_preadv = cor_co_preadv,
    .co_cache = cor_co_cache,
};
