/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a range holds: of one node, and of a chain. */
#include "graph/io/dispatch.h"
#include "graph/model/model.h"
#include "graph/trace.h"

/* Answers joined into one, at most. */
#define MERGE_MAX 16

/* What the child says of data that is there just as the node has it. */
static CO_FN int status_co_child(struct node *n, const struct mapping *m,
                                 struct extent *ext)
{
    int ret = node_co_status(m->child, m->host, m->len, ext);

    if (ret < 0 || node_is_filter(n)) {
        return ret;
    }
    ext->flags &= ~(unsigned)STATUS_EOF;
    /* There is nobody else to ask. */
    ext->flags |= STATUS_ALLOCATED | STATUS_OFFSET_VALID;
    ext->map_node = m->child;
    ext->map_offset = m->host;
    return 0;
}

static void status_of_map(struct node *n, uint64_t off, const struct mapping *m,
                          struct extent *ext)
{
    static const unsigned flags[] = {
        [MAP_ABSENT] = 0,
        [MAP_ZERO] = STATUS_ALLOCATED | STATUS_ZERO,
        [MAP_DATA] = STATUS_ALLOCATED | STATUS_DATA,
    };

    *ext = (struct extent) { .flags = flags[m->kind], .len = m->len };
    if (m->child || n->drv->kind == NODE_PROTOCOL) {
        ext->flags |= STATUS_OFFSET_VALID;
        ext->map_node = m->child ? m->child : n;
        ext->map_offset = m->child ? m->host : off;
    }
}

int status_co_node(struct node *n, uint64_t off, uint64_t len,
                   struct extent *ext)
{
    struct mapping m;
    int ret;

    g_assert(len > 0);
    if (off >= n->size) {
        *ext = (struct extent) {
            .flags = STATUS_ALLOCATED | STATUS_ZERO | STATUS_EOF,
            .len = len,
        };
        return 0;
    }
    ret = node_co_map(n, off, len, &m);
    if (ret == 0 && m.kind == MAP_DATA && m.like_child) {
        ret = status_co_child(n, &m, ext);
    } else if (ret == 0) {
        status_of_map(n, off, &m, ext);
    }
    return ret;
}

static bool extent_continues(const struct extent *a, const struct extent *b)
{
    return a->flags == b->flags && a->map_node == b->map_node &&
           a->depth == b->depth &&
           (!(a->flags & STATUS_OFFSET_VALID) ||
            a->map_offset + a->len == b->map_offset);
}

int node_co_status(struct node *n, uint64_t off, uint64_t len,
                   struct extent *ret_ext)
{
    int ret;

    if (len == 0 || off >= n->size) {
        return -EIO;
    }
    len = MIN(len, n->size - off);
    ret = status_co_node(n, off, len, ret_ext);
    if (ret < 0 || !n->drv->supports_backing) {
        return ret;
    }
    for (unsigned i = 1; i < MERGE_MAX && ret_ext->len < len; i++) {
        struct extent next;

        ret = status_co_node(n, off + ret_ext->len, len - ret_ext->len, &next);
        if (ret < 0 || !extent_continues(ret_ext, &next)) {
            break;
        }
        ret_ext->len += next.len;
    }
    if (off + ret_ext->len == n->size) {
        ret_ext->flags |= STATUS_EOF;
    }
    return 0;
}

/* What stands above the format says nothing of its own, but filters that inject
 * faults may refuse. */
static CO_FN int status_co_skip_filters(struct node **n, uint64_t off,
                                        uint64_t len)
{
    struct mapping m;
    int ret = 0;

    for (struct node *f = *n;
         f && *f->debuggers && node_is_filter(f) && ret == 0;
         f = node_file(f)) {
        if (off < f->size) {
            ret = node_co_map(f, off, len, &m);
        }
    }
    *n = node_skip_filters(*n);
    return ret;
}

/* From *@n, which may be @base, to the node that knows: *@off and *@len become
 * those of the range there. */
static CO_FN int status_co_pass(struct node **n, const struct node *base,
                                uint64_t *off, uint64_t *len)
{
    int ret = status_co_skip_filters(n, *off, *len);
    struct node *view = *n;

    while (ret == 0 && view && view != base && *off < view->size) {
        uint64_t size = view->size - *off;

        view = view_step(view, off);
        if (view) {
            *len = MIN(*len, size);
            ret = status_co_skip_filters(&view, *off, *len);
            *n = view;
        }
    }
    return ret;
}

/* The first node from @n down (not @base) that decides @off. */
static CO_FN int status_co_walk(struct node *n, struct node *base, uint64_t off,
                                uint64_t len, struct extent *ext)
{
    unsigned depth = 1;
    int ret;

    base = node_skip_filters(base);
    ret = status_co_pass(&n, base, &off, &len);
    for (; ret == 0 && n && n != base; depth++) {
        if (off >= n->size) {
            *ext = (struct extent) { .flags = STATUS_ZERO, .len = len };
            if (base) {
                ext->flags |= STATUS_ALLOCATED;
                ext->depth = depth;
            }
            return 0;
        }
        ret = status_co_node(n, off, len, ext);
        if (ret != 0) {
            return ret;
        }
        len = ext->len;
        if (!n->drv->supports_backing) {
            ext->flags |= STATUS_ALLOCATED;
        }
        if (ext->flags & STATUS_ALLOCATED) {
            ext->depth = depth;
            return 0;
        }
        n = node_backing(n);
        ret = status_co_pass(&n, base, &off, &len);
    }
    *ext = (struct extent) { .len = len, .flags = n ? 0 : STATUS_ZERO };
    return ret;
}

int node_co_status_above(struct node *n, struct node *base, uint64_t off,
                         uint64_t len, struct extent *ret_ext)
{
    int ret;

    if (len == 0 || off >= n->size) {
        return -EIO;
    }
    len = MIN(len, n->size - off);
    ret = status_co_walk(n, base, off, len, ret_ext);
    /* Only overlays answer from memory; storage is asked once. */
    for (unsigned i = 1;
         ret == 0 && i < MERGE_MAX && ret_ext->len < len && ret_ext->depth <= 1;
         i++) {
        struct extent next;

        if (!node_image(n, NULL)->drv->supports_backing ||
            status_co_walk(n, base, off + ret_ext->len, len - ret_ext->len,
                           &next) != 0 ||
            !extent_continues(ret_ext, &next)) {
            break;
        }
        ret_ext->len += next.len;
    }
    return ret;
}

bool status_co_is_zero(struct node *n, uint64_t off, uint64_t len)
{
    while (n && len > 0 && off < n->size) {
        struct extent ext;

        if (node_co_status_above(n, NULL, off, len, &ext) != 0 ||
            !(ext.flags & STATUS_ZERO)) {
            return false;
        }
        off += ext.len;
        len -= ext.len;
    }
    return true;
}
