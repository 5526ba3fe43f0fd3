/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty bitmaps in memory, and which bitmaps are busy; see graph/bitmap.h. */
#include <string.h>
#include "base/err.h"
#include "graph/model/bitmap.h"

/* As large as those of images may be. */
#define BITS_MAX (UINT64_C(512) << 20)

static void bitmap_free(struct bitmap *b)
{
    dirty_map_free(b->map);
    g_free(b->name);
    g_free(b);
}

/* Storage grows by writes, and filters follow what is below them. */
static void bitmap_fit(const struct node *n, struct bitmap *b)
{
    if (dirty_map_size(b->map) != n->size) {
        dirty_map_resize(b->map, n->size);
    }
}

struct bitmap *node_bitmap_add(struct node *n, const char *name,
                               uint32_t granularity, bool recording,
                               GError **err)
{
    struct dirty_map *map = dirty_map_new_within(n->size, granularity, BITS_MAX,
                                                 err);
    struct bitmap *b;

    if (!map) {
        return NULL;
    }
    b = g_new0(struct bitmap, 1);
    b->name = g_strdup(name);
    b->map = map;
    b->recording = recording;
    if (!n->priv->bitmaps) {
        n->priv->bitmaps = g_ptr_array_new();
    }
    g_ptr_array_add(n->priv->bitmaps, b);
    return b;
}

static void node_bitmap_take(struct node *n, struct bitmap *b)
{
    g_ptr_array_remove(n->priv->bitmaps, b);
    if (n->priv->bitmaps->len == 0) {
        g_ptr_array_unref(g_steal_pointer(&n->priv->bitmaps));
    }
}

void node_bitmap_remove(struct node *n, struct bitmap *b)
{
    node_bitmap_take(n, b);
    bitmap_free(b);
}

struct bitmap *node_bitmap_at(const struct node *n, unsigned i)
{
    const GPtrArray *list = n->priv->bitmaps;

    for (unsigned k = 0; list && k < list->len; k++) {
        struct bitmap *b = g_ptr_array_index(list, k);

        if (b->name && i-- == 0) {
            bitmap_fit(n, b);
            return b;
        }
    }
    return NULL;
}

struct bitmap *node_bitmap_find(const struct node *n, const char *name)
{
    struct bitmap *b;

    for (unsigned i = 0; (b = node_bitmap_at(n, i)); i++) {
        if (strcmp(b->name, name) == 0) {
            return b;
        }
    }
    return NULL;
}

void bitmaps_mark_slowly(struct node *n, uint64_t off, uint64_t len)
{
    const GPtrArray *list = n->priv->bitmaps;

    for (unsigned i = 0; i < list->len; i++) {
        struct bitmap *b = g_ptr_array_index(list, i);

        if (b->recording) {
            bitmap_fit(n, b);
            dirty_map_set(b->map, off, len);
        }
    }
}

void node_bitmaps_free(struct node *n)
{
    GPtrArray *list = g_steal_pointer(&n->priv->bitmaps);

    for (unsigned i = 0; list && i < list->len; i++) {
        bitmap_free(g_ptr_array_index(list, i));
    }
    if (list) {
        g_ptr_array_unref(list);
    }
    g_clear_pointer(&n->priv->busy_bitmaps, g_hash_table_destroy);
}

/* --- without a name --- */

struct bitmap *bitmap_record_begin(struct node *n, uint32_t granularity)
{
    return node_bitmap_add(n, NULL, granularity, true, NULL);
}

struct dirty_map *bitmap_record_end(struct node *n, struct bitmap *b)
{
    struct dirty_map *map;

    bitmap_fit(n, b);
    map = g_steal_pointer(&b->map);
    node_bitmap_remove(n, b);
    return map;
}

/* --- busy --- */

bool node_bitmap_is_busy(const struct node *n, const char *name)
{
    return n->priv->busy_bitmaps &&
           g_hash_table_contains(n->priv->busy_bitmaps, name);
}

static void busy_add(struct node *n, const char *name, int more)
{
    GHashTable *t = n->priv->busy_bitmaps;
    int count = GPOINTER_TO_INT(g_hash_table_lookup(t, name)) + more;

    g_assert(count >= 0);
    if (count == 0) {
        g_hash_table_remove(t, name);
    } else {
        g_hash_table_insert(t, g_strdup(name), GINT_TO_POINTER(count));
    }
}

void bitmap_hold(struct node *n, const char *name)
{
    if (!n->priv->busy_bitmaps) {
        n->priv->busy_bitmaps = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                      g_free, NULL);
    }
    busy_add(n, name, 1);
}

void bitmap_release(struct node *n, const char *name)
{
    busy_add(n, name, -1);
}
