/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Dirty bitmaps of both kinds, by name. */
#include "graph/bitmap.h"
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/model/bitmap.h"

#define NAME_MAX_BYTES 1023
#define GRANULARITY_MAX (UINT64_C(1) << 31)

/* --- looking --- */

static bool persistent_at(const struct node *n, unsigned i,
                          struct bitmap_look *ret)
{
    *ret = (struct bitmap_look) { 0 };
    if (!n->drv->bitmap_at || !n->drv->bitmap_at(n, i, ret)) {
        return false;
    }
    ret->persistent = true;
    ret->busy = node_bitmap_is_busy(n, ret->name);
    return true;
}

bool bitmap_at(const struct node *n, unsigned i, struct bitmap_look *ret)
{
    unsigned in_memory = 0;
    const struct bitmap *b;

    for (; (b = node_bitmap_at(n, in_memory)); in_memory++) {
        if (in_memory == i) {
            *ret = (struct bitmap_look) {
                .granularity = dirty_map_granularity(b->map),
                .recording = b->recording,
                .busy = node_bitmap_is_busy(n, b->name),
            };
            g_strlcpy(ret->name, b->name, sizeof(ret->name));
            return true;
        }
    }
    return persistent_at(n, i - in_memory, ret);
}

static bool bitmap_exists(const struct node *n, const char *name,
                          struct bitmap_look *ret)
{
    for (unsigned i = 0; bitmap_at(n, i, ret); i++) {
        if (strcmp(ret->name, name) == 0) {
            return true;
        }
    }
    return false;
}

int bitmap_find(const struct node *n, const char *name, unsigned use,
                struct bitmap_look *ret, GError **err)
{
    struct bitmap_look look = { 0 };

    ret = ret ? ret : &look;
    if (!bitmap_exists(n, name, ret)) {
        return err_set(err, ENOENT, "Dirty bitmap '%s' not found", name);
    }
    if (ret->busy && !(use & BITMAP_MAY_BE_BUSY)) {
        return err_set(err, EBUSY,
                       "Bitmap '%s' is currently in use by another operation "
                       "and cannot be used",
                       name);
    }
    if (ret->persistent && !node_is_writable(n) &&
        !(use & BITMAP_MAY_BE_READ_ONLY)) {
        return err_set(err, EACCES,
                       "Bitmap '%s' is readonly and cannot be modified", name);
    }
    if (ret->inconsistent && !(use & BITMAP_MAY_BE_INCONSISTENT)) {
        err_set(err, EINVAL, "Bitmap '%s' is inconsistent and cannot be used",
                name);
        err_hint(err, "Try block-dirty-bitmap-remove to delete this bitmap "
                      "from disk");
        return -EINVAL;
    }
    return 0;
}

/* --- changing --- */

static int check_new(const struct node *n, const char *name,
                     uint64_t granularity, GError **err)
{
    struct bitmap_look look = { 0 };

    if (!*name) {
        return err_set(err, EINVAL, "Bitmap name cannot be empty");
    }
    if (granularity &&
        (granularity < 512 || (granularity & (granularity - 1)))) {
        return err_set(err, EINVAL,
                       "Granularity must be power of 2 and at least 512");
    }
    if (granularity > GRANULARITY_MAX) {
        return err_set(err, EINVAL, "Granularity must be at most 2 GiB");
    }
    if (bitmap_exists(n, name, &look)) {
        return err_set(err, EEXIST, "Bitmap already exists: %s", name);
    }
    if (strlen(name) > NAME_MAX_BYTES) {
        return err_set(err, EINVAL, "Bitmap name too long: %s", name);
    }
    return 0;
}

static uint32_t default_granularity(const struct node *n)
{
    uint32_t cluster = node_get_limits(n)->cluster_size;

    return cluster ? CLAMP(cluster, 4096, 65536) : 65536;
}

CO_FN int bitmap_co_add(struct node *n, const char *name, uint64_t granularity,
                        bool persistent, bool disabled, GError **err)
{
    const struct bitmap_args args = { .granularity = granularity,
                                      .disabled = disabled };
    int ret = check_new(n, name, granularity, err);

    if (ret < 0) {
        return ret;
    }
    if (persistent && !node_can(n, NODE_CAN_BITMAP)) {
        return err_set_errno(err, ENOTSUP,
                             "Can't store persistent bitmaps to %s", n->name);
    }
    if (persistent) {
        return node_co_bitmap(n, BITMAP_ADD, name, &args, err);
    }
    granularity = granularity ? granularity : default_granularity(n);
    return node_bitmap_add(n, name, (uint32_t)granularity, !disabled, err)
               ? 0
               : -EFBIG;
}

CO_FN int bitmap_co_remove(struct node *n, const char *name, GError **err)
{
    struct bitmap *b = node_bitmap_find(n, name);
    const struct bitmap_args args = { 0 };
    int ret = bitmap_find(n, name, BITMAP_MAY_BE_INCONSISTENT, NULL, err);

    if (ret == 0 && b) {
        node_bitmap_remove(n, b);
        return 0;
    }
    return ret < 0 ? ret : node_co_bitmap(n, BITMAP_REMOVE, name, &args, err);
}

CO_FN int bitmap_co_set_recording(struct node *n, const char *name, bool on,
                                  GError **err)
{
    struct bitmap *b = node_bitmap_find(n, name);
    const struct bitmap_args args = { 0 };
    int ret = bitmap_find(n, name, 0, NULL, err);

    if (ret == 0 && b) {
        b->recording = on;
        return 0;
    }
    return ret < 0 ? ret
                   : node_co_bitmap(n, on ? BITMAP_ENABLE : BITMAP_DISABLE,
                                    name, &args, err);
}

CO_FN int bitmap_co_merge(struct node *n, const char *name,
                          const struct dirty_map *bits, GError **err)
{
    struct bitmap *b = node_bitmap_find(n, name);
    const struct bitmap_args args = { .bits = bits };

    if (b) {
        dirty_map_merge(b->map, bits);
        return 0;
    }
    return node_co_bitmap(n, BITMAP_MERGE, name, &args, err);
}

CO_FN int bitmap_co_assign(struct node *n, const char *name,
                           const struct dirty_map *bits, GError **err)
{
    struct bitmap *b = node_bitmap_find(n, name);
    const struct bitmap_args args = { .bits = bits };

    if (!b) {
        return node_co_bitmap(n, bits ? BITMAP_ASSIGN : BITMAP_CLEAR, name,
                              &args, err);
    }
    dirty_map_clear(b->map, 0, n->size);
    if (bits) {
        dirty_map_merge(b->map, bits);
    }
    return 0;
}

CO_FN int bitmap_co_read(struct node *n, const char *name,
                         struct dirty_map **ret_bits, GError **err)
{
    const struct bitmap *b = node_bitmap_find(n, name);
    struct bitmap_args args = { 0 };
    int ret;

    if (b) {
        *ret_bits = dirty_map_copy(b->map);
        return 0;
    }
    args.ret_bits = ret_bits;
    ret = n->drv->co_bitmap
              ? n->drv->co_bitmap(n, BITMAP_READ, name, &args, err)
              : err_set(err, ENOENT, "Dirty bitmap '%s' not found", name);
    return ret;
}
