/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dirty bitmaps that an export shows as contexts "qemu:dirty-bitmap:NAME".
 *
 * They are busy meanwhile, so nobody edits them.  One that does not record is
 * read once; one that does, which only an export that is written to may show,
 * anew for each request.
 */
#include <errno.h>
#include "base/err.h"
#include "export/nbd/nbd-int.h"
#include "graph/bitmap.h"

/* The node of the chain from @n down that has bitmap @name. */
static struct node *find_in_chain(struct node *n, const char *name)
{
    while (n && bitmap_find(n, name, ~0u, NULL, NULL) < 0) {
        n = node_chain_next(n);
    }
    return n;
}

/* @item: a name, or {node, name}. */
static struct node *find_bitmap(struct nbd_export *ne, const json_t *item,
                                const char **ret_name, GError **err)
{
    const char *name = json_string_value(item);
    const char *of = json_string_value(json_object_get(item, "node"));
    struct node *n;

    if (!name) {
        name = json_string_value(json_object_get(item, "name"));
        n = node_find_any(ne->e.exports->graph, of, NULL);
        if (!n) {
            err_set(err, ENOENT, "Node '%s' not found", of);
            return NULL;
        }
    } else {
        n = find_in_chain(backend_node(ne->e.backend), name);
        if (!n) {
            err_set(err, ENOENT, "Bitmap '%s' is not found", name);
        }
    }
    *ret_name = name;
    return n;
}

static int check_exported_bitmap(const struct nbd_export *ne,
                                 const struct node *n, const char *name,
                                 struct bitmap_look *look, GError **err)
{
    int ret = bitmap_find(n, name, BITMAP_MAY_BE_READ_ONLY, look, err);

    if (ret < 0) {
        return ret;
    }
    if (look->recording && node_is_writable(n) && !ne->e.writable) {
        return err_set(err, EINVAL,
                       "Enabled bitmap '%s' incompatible with readonly export",
                       name);
    }
    if (node_size(n) != node_size(backend_node(ne->e.backend))) {
        return err_set(err, EINVAL, "Bitmap '%s' is of a disk of another size",
                       name);
    }
    return 0;
}

static CO_FN int add_co_bitmap(struct nbd_export *ne, const json_t *item,
                               GError **err)
{
    struct nbd_bitmap *b = &ne->bitmaps[ne->n_bitmaps];
    struct bitmap_look look;
    const char *name;
    struct node *n = find_bitmap(ne, item, &name, err);
    int ret = n ? check_exported_bitmap(ne, n, name, &look, err) : -ENOENT;

    if (ret < 0) {
        return ret;
    }
    *b = (struct nbd_bitmap) {
        .node = node_ref(n),
        .name = g_strdup(name),
        .context = g_strconcat("qemu:dirty-bitmap:", name, NULL),
    };
    bitmap_hold(n, name);
    ne->n_bitmaps++;
    return look.recording ? 0 : bitmap_co_read(n, name, &b->bits, err);
}

/* Of a command line these come unchecked. */
static bool is_bitmap(const json_t *item)
{
    return json_is_string(item) ||
           (json_is_string(json_object_get(item, "node")) &&
            json_is_string(json_object_get(item, "name")));
}

static CO_FN int add_co_all(struct nbd_export *ne, const json_t *list,
                            GError **err)
{
    int ret = 0;

    if (json_array_size(list) > NBD_MAX_BITMAPS) {
        return err_set(err, EINVAL, "An export shows at most %u bitmaps",
                       NBD_MAX_BITMAPS);
    }
    for (size_t i = 0; i < json_array_size(list) && ret == 0; i++) {
        const json_t *item = json_array_get(list, i);

        ret = is_bitmap(item) ? add_co_bitmap(ne, item, err)
                              : err_set(err, EINVAL,
                                        "Invalid parameter type for 'bitmaps',"
                                        " expected: array of bitmap names");
    }
    return ret;
}

CO_FN int nbd_bitmaps_co_take(struct nbd_export *ne, struct opts *o,
                              GError **err)
{
    json_t *list = opts_take_any(o, "bitmaps");
    int ret = !list || json_is_array(list)
                  ? add_co_all(ne, list, err)
                  : err_set(err, EINVAL,
                            "Invalid parameter type for 'bitmaps',"
                            " expected: array of bitmap names");

    json_decref(list);
    return ret;
}

CO_FN void nbd_bitmaps_co_free(struct nbd_export *ne)
{
    while (ne->n_bitmaps > 0) {
        struct nbd_bitmap *b = &ne->bitmaps[--ne->n_bitmaps];

        bitmap_release(b->node, b->name);
        dirty_map_free(b->bits);
        g_free(b->name);
        g_free(b->context);
        node_co_unref(b->node);
    }
}

CO_FN int nbd_bitmap_co_bits(const struct nbd_bitmap *b,
                             struct dirty_map **ret_bits,
                             struct dirty_map **ret_own)
{
    int ret = b->bits ? 0 : bitmap_co_read(b->node, b->name, ret_own, NULL);

    *ret_bits = b->bits ? b->bits : ret == 0 ? *ret_own : NULL;
    return ret;
}
