/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/snapshot-check.h"
#include <errno.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"

/* Names that an error text gives. */
#define NAMES_MAX 8
/* Questions after which others may run: answers may come from memory. */
#define RELAX_EVERY 64

/* --- one image --- */

struct check {
    struct snapshot_gaps gaps; /* first */
    const struct chain_change *change;
    GError **err;
    unsigned asked;
};

/* 1: the gap changes. */
static CO_FN int check_co_gap(struct snapshot_gaps *g, uint64_t off,
                              uint64_t len)
{
    struct check *c = (struct check *)g;

    while (len > 0) {
        bool changes = false;
        uint64_t part = len;
        int ret = c->change->co_changes(c->change->arg, off, len, &changes,
                                        &part);

        if (ret < 0) {
            return err_set_errno(c->err, -ret,
                                 "Could not tell what snapshot "
                                 "'%s' shows of the backing chain",
                                 g->name);
        }
        if (changes) {
            return 1;
        }
        g_assert(part > 0 && part <= len);
        off += part;
        len -= part;
        if (++c->asked % RELAX_EVERY == 0) {
            co_relax();
        }
    }
    return 0;
}

static int snapshot_check_refuse(const struct node *image, const char *verb,
                                 const GPtrArray *names, GError **err)
{
    g_autoptr(GString) list = g_string_new(NULL);

    for (unsigned i = 0; i < names->len && i < NAMES_MAX; i++) {
        g_string_append_printf(list, "%s'%s'", i ? ", " : "",
                               (char *)names->pdata[i]);
    }
    if (names->len > NAMES_MAX) {
        g_string_append_printf(list, " and %u more", names->len - NAMES_MAX);
    }
    err_set(err, EBUSY,
            "'%s' cannot be %s: its internal snapshots %s show "
            "parts of the backing chain, and would show other bytes afterwards",
            node_is_auto_named(image) && node_filename(image)
                ? node_filename(image)
                : node_name(image),
            verb, list->str);
    err_hint(err,
             "Delete these snapshots first, or copy the disk and each "
             "snapshot that is needed into images of their own (sluice convert "
             "-l NAME).");
    return -EBUSY;
}

int snapshots_co_check(struct node *image, const struct chain_change *change,
                       GError **err)
{
    struct check c = { { .co_gap = check_co_gap }, change, err, 0 };
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    int ret = 0;

    for (unsigned i = 0; ret >= 0; i++) {
        ret = node_co_snapshot_gaps(image, i, &c.gaps, err);
        if (ret > 0) {
            g_ptr_array_add(names, g_strdup(c.gaps.name));
        }
    }
    if (ret != -ENOENT) {
        return ret;
    }
    return names->len ? snapshot_check_refuse(image, change->verb, names, err)
                      : 0;
}

/* --- the changes --- */

struct span {
    struct node *top, *base;
};

/* A part of the chain goes: what it holds is gone; what it does not, the base
 * shows as before. */
static CO_FN int cut_co_changes(void *arg, uint64_t off, uint64_t max,
                                bool *ret_changes, uint64_t *ret_len)
{
    const struct span *s = arg;
    struct extent ext = { 0 };
    int ret;

    *ret_len = max;
    if (!s->top || off >= node_size(s->top)) {
        /* Zeroes, which a longer base would not show. */
        *ret_changes = s->base && s->top && off < node_size(s->base);
        return 0;
    }
    ret = node_co_status_above(s->top, s->base, off, max, &ext);
    if (ret == 0) {
        *ret_changes = s->base ? ext.depth > 0 : !(ext.flags & STATUS_ZERO);
        *ret_len = ext.len;
    }
    return ret;
}

int snapshots_co_check_cut(struct node *image, struct node *base,
                           const char *verb, GError **err)
{
    struct span s = { node_backing(image), base };
    const struct chain_change change = { verb, cut_co_changes, &s };

    return snapshots_co_check(image, &change, err);
}

static CO_FN int merge_co_changes(void *arg, uint64_t off, uint64_t max,
                                  bool *ret_changes, uint64_t *ret_len)
{
    const struct span *s = arg;
    struct extent ext = { 0 };
    int ret;

    *ret_len = max;
    if (off >= node_size(s->top)) {
        return 0;
    }
    ret = node_co_status_above(s->top, s->base, off, max, &ext);
    if (ret == 0) {
        *ret_changes = ext.depth > 0;
        *ret_len = ext.len;
    }
    return ret;
}

int snapshots_co_check_merge(struct node *image, struct node *top,
                             struct node *base, const char *verb, GError **err)
{
    struct span s = { top, base };
    const struct chain_change change = { verb, merge_co_changes, &s };

    return snapshots_co_check(image, &change, err);
}

static CO_FN int any_co_changes(void *arg, uint64_t off, uint64_t max,
                                bool *ret_changes, uint64_t *ret_len)
{
    *ret_changes = true;
    *ret_len = max;
    return 0;
}

int snapshots_co_check_any(struct node *image, const char *verb, GError **err)
{
    const struct chain_change change = { verb, any_co_changes, NULL };

    return snapshots_co_check(image, &change, err);
}
