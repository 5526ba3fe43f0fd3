/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Is the backing file still the one that this overlay was made over (S6, W7)?
 *
 * Its size is remembered, and when it was last changed: in seconds, because
 * archives store no finer time.  The time is remembered only where the backing
 * file has no backing file of its own, because an overlay is populated while
 * other images are based on it.  What is not known, or is no longer valid, is
 * recorded by the next writable open.
 */
#include <inttypes.h>
#include "base/err.h"
#include "format/cow/overlay.h"
#include "graph/image.h"

/* Into the fields of @h. */
static CO_FN void base_co_look(struct node *base, struct cow_header *h)
{
    struct stat st;

    h->known |= COW_KNOWS_BASE;
    h->known &= ~(unsigned)COW_KNOWS_TIME;
    h->base_size = base->size;
    h->base_time = 0;
    if (!node_backing(base) && node_co_stat(base, &st) == 0 &&
        S_ISREG(st.st_mode)) {
        h->known |= COW_KNOWS_TIME;
        h->base_time = st.st_mtim.tv_sec;
    }
}

static int base_compare(const struct overlay *o, const struct node *base,
                        const struct cow_header *now, GError **err)
{
    const struct cow_header *was = &o->hdr;
    const char *name = base->filename ? base->filename : base->name;
    int ret = 0;

    if (was->base_size != now->base_size) {
        ret = err_set(err, ESTALE,
                      "Backing file '%s' has %" PRIu64 " bytes, "
                      "had %" PRIu64 " when '%s' was made over it",
                      name, now->base_size, was->base_size,
                      node_title(o->node));
    } else if ((was->known & now->known & COW_KNOWS_TIME) &&
               was->base_time != now->base_time) {
        ret = err_set(err, ESTALE,
                      "Backing file '%s' was changed since '%s' "
                      "was made over it",
                      name, node_title(o->node));
    }
    if (ret < 0) {
        err_hint(err, "If it shows the same disk as then, 'sluice rebase -u' "
                      "to the same name takes it as it is.");
    }
    return ret;
}

int cow_co_chain_opened(struct node *n, GError **err)
{
    struct overlay *o = cow_of(n);
    struct node *base = node_skip_filters(node_backing(n));
    struct cow_header now = o->hdr;

    if (!base || o->complete || (n->flags & NODE_CHECK)) {
        return 0;
    }
    base_co_look(base, &now);
    if (o->hdr.known & COW_KNOWS_BASE) {
        return base_compare(o, base, &now, err);
    }
    if (o->group) {
        group_co_lock(o->group);
        now = o->hdr;
        base_co_look(base, &now);
        (void)cow_co_header_write(o, &now); /* or next time */
        group_unlock(o->group);
    }
    return 0;
}

int cow_co_forget_base(struct node *n, GError **err)
{
    struct overlay *o = cow_of(n);
    struct cow_header h;
    int ret = 0;

    if (!o->group) {
        return 0;
    }
    group_co_lock(o->group);
    h = o->hdr; /* as it is now that nobody else changes it */
    if (h.known & (COW_KNOWS_BASE | COW_KNOWS_TIME)) {
        h.known &= ~(unsigned)(COW_KNOWS_BASE | COW_KNOWS_TIME);
        ret = cow_co_header_write(o, &h);
    }
    group_unlock(o->group);
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not write the overlay's header");
}
