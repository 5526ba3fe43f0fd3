/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * ImageInfo and BlockDeviceInfo.
 *
 * The asking yields, so a node found before may be gone after: callers hold a
 * reference, and the chain below is walked with references too.
 */
#include "control/commands/image-info.h"

#include <string.h>

#include "base/err.h"
#include "graph/bitmap.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"

/* What a header holds need not be UTF-8; what QMP sends must. */
static json_t *json_text(const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    return json_string(valid);
}

/* Move member @name of @from to @to, if it is there. */
static void move(json_t *to, json_t *from, const char *name)
{
    json_t *v = json_object_get(from, name);

    if (v) {
        json_object_set(to, name, v);
        json_object_del(from, name);
    }
}

/* What the driver of @n adds, and where it is silent that of its storage. */
static CO_FN int facts_co_collect(struct node *n, json_t *facts, GError **err)
{
    struct node *storage = node_storage(n);
    json_t *below;
    int r = 0;

    if (storage && storage != n) {
        below = json_object();
        node_ref(storage);
        r = node_co_info(storage, below, err);
        node_co_unref(storage);
        move(facts, below, "actual-size");
        json_decref(below);
    }
    return r == 0 ? node_co_info(n, facts, err) : r;
}

/* The name in @n's header as a path that can be opened. Caller frees. */
static char *full_backing_name(const struct node *n, const char *name)
{
    g_autofree char *dir = NULL;

    if (name[strcspn(name, ":/")] == ':' || g_path_is_absolute(name) ||
        !node_filename(n) || strstr(node_filename(n), "://") ||
        !strchr(node_filename(n), '/')) {
        return g_strdup(name);
    }
    dir = g_path_get_dirname(node_filename(n));
    return g_build_filename(dir, name, NULL);
}

static void add_backing_names(struct node *n, json_t *info)
{
    const char *fmt = NULL;
    const char *name = node_header_backing(n, &fmt);

    if (name && *name) {
        g_autofree char *full = full_backing_name(n, name);

        json_object_set_new(info, "full-backing-filename", json_text(full));
        json_object_set_new(info, "backing-filename", json_text(name));
    }
}

static json_t *assemble(struct node *n, json_t *facts, json_t *backing)
{
    json_t *info = json_object();
    const char *fmt = NULL;
    const char *name = node_header_backing(n, &fmt);

    if (backing) {
        json_object_set_new(info, "backing-image", backing);
    }
    if (name && fmt) {
        json_object_set_new(info, "backing-filename-format", json_text(fmt));
    }
    move(info, facts, "snapshots");
    json_object_set_new(info, "virtual-size",
                        json_integer((json_int_t)node_size(n)));
    json_object_set_new(
        info, "filename",
        json_string_nocheck(node_filename(n) ? node_filename(n) : ""));
    move(info, facts, "cluster-size");
    json_object_set_new(info, "format", json_string(node_driver_name(n)));
    move(info, facts, "actual-size");
    move(info, facts, "format-specific");
    move(info, facts, "encrypted");
    add_backing_names(n, info);
    if (!json_object_get(facts, "dirty-flag") &&
        json_object_get(info, "actual-size")) {
        json_object_set_new(facts, "dirty-flag", json_false());
    }
    json_object_update_missing(info, facts);
    return info;
}

json_t *image_co_describe(struct node *n, bool chain, GError **err)
{
    json_t *facts = json_object(), *backing = NULL, *info;
    struct node *below;
    int r = facts_co_collect(n, facts, err);

    below = chain && r == 0 && !node_is_filter(n) ? node_backing(n) : NULL;
    if (below) {
        node_ref(below);
        backing = image_co_describe(below, true, err);
        node_co_unref(below);
        r = backing ? 0 : -EIO;
    }
    info = r == 0 ? assemble(n, facts, backing) : NULL;
    json_decref(facts);
    return info;
}

static unsigned backing_depth(struct node *n)
{
    unsigned depth = 0;

    while ((n = node_backing(n))) {
        depth++;
    }
    return depth;
}

static const char *detect_zeroes(const struct node *n)
{
    const char *v = json_string_value(
        json_object_get(node_options(n), "detect-zeroes"));

    return v && (g_str_equal(v, "on") || g_str_equal(v, "unmap")) ? v : "off";
}

static json_t *assemble_node(struct node *n, json_t *image, bool flat)
{
    struct node *below = node_is_filter(n) ? NULL : node_backing(n);
    const char *file = node_filename(n) ? node_filename(n) : "";

    return json_pack(
        "{s:s*,s:i,s:s,s:o,s:i,s:b,s:s,s:i,s:s,s:i,s:i,s:I,s:b,s:i,s:i,"
        "s:{s:b,s:b,s:b},s:s}",
        "backing_file", below ? node_filename(below) : NULL, "iops_rd", 0,
        "detect_zeroes", detect_zeroes(n), "image", image, "iops_wr", 0, "ro",
        !node_is_writable(n), "node-name", node_name(n), "backing_file_depth",
        flat || !below ? 0 : (int)backing_depth(n), "drv", node_driver_name(n),
        "iops", 0, "bps_wr", 0, "write_threshold",
        (json_int_t)node_write_threshold(n), "encrypted", 0, "bps", 0, "bps_rd",
        0, "cache", "no-flush", (node_flags(n) & NODE_NO_FLUSH) != 0, "direct",
        (node_flags(n) & NODE_CACHE_DIRECT) != 0, "writeback", 1, "file", file);
}

/* How much bitmap @look marks; one that cannot be read marks nothing. */
static CO_FN uint64_t bitmap_co_count(struct node *n,
                                      const struct bitmap_look *look)
{
    struct dirty_map *bits;
    uint64_t count;

    if (look->inconsistent || bitmap_co_read(n, look->name, &bits, NULL) < 0) {
        return 0;
    }
    count = dirty_map_count(bits) * look->granularity;
    dirty_map_free(bits);
    return count;
}

/* BlockDirtyInfo of each bitmap of @n, the newest first, as QEMU tells them;
 * NULL: it has none. */
static CO_FN json_t *bitmaps_co_describe(struct node *n)
{
    json_t *list = NULL;
    struct bitmap_look look;

    for (unsigned i = 0; bitmap_at(n, i, &look); i++) {
        uint64_t count = bitmap_co_count(n, &look);
        json_t *o = json_pack("{s:o,s:b,s:b,s:b,s:I,s:I}", "name",
                              json_text(look.name), "recording", look.recording,
                              "persistent", look.persistent, "busy", look.busy,
                              "granularity", (json_int_t)look.granularity,
                              "count", (json_int_t)count);

        if (look.inconsistent) {
            json_object_set_new(o, "inconsistent", json_true());
        }
        list = list ? list : json_array();
        json_array_insert_new(list, 0, o);
    }
    return list;
}

json_t *image_co_describe_node(struct node *n, bool flat, GError **err)
{
    json_t *image = image_co_describe(n, !flat, err), *info, *bitmaps;

    if (!image) {
        return NULL;
    }
    bitmaps = bitmaps_co_describe(n);
    info = assemble_node(n, image, flat);
    if (bitmaps) {
        json_object_set_new(info, "dirty-bitmaps", bitmaps);
    }
    return info;
}
