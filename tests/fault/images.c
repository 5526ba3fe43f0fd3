/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kinds of images: see fault.h. */
#include <fcntl.h>
#include <string.h>
#include "control/control-int.h"
#include "fault.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/io.h"

/* So much that few more clusters make the refcount table too small: it has one
 * cluster, blocks for 2 MiB. */
#define TABLE_FILL ((size_t)1990 << 10)

const struct kind kinds[] = {
    { "qed", "qed", NULL, false },
    { "qed-raw", "qed", "raw", false },
    { "qed-qed", "qed", "qed", false },
    { "qed-chain", "qed", "raw", true },
    { "raw", "raw", NULL, false },
    { "qcow2", "qcow2", NULL, false },
    { "qcow2-raw", "qcow2", "raw", false },
    { "qcow2-qcow2", "qcow2", "qcow2", false },
    { "qcow2-chain", "qcow2", "qed", true },
    { "qcow2-data", "qcow2", "raw", false, .data_file = true },
    { "qcow2-data-raw", "qcow2", NULL, false, .data_file = true,
      .data_raw = true },
    { "qcow2-small", "qcow2", NULL, false, .full_table = true },
    { "qcow2-blocks", "qcow2", NULL, false, .full_end = true },
    { "qcow2-bitmaps", "qcow2", "raw", false, .bitmaps = true },
    { "cow", "cow", NULL, false },
    { "cow-raw", "cow", "raw", false },
    { "cow-chain", "cow", "qed", true },
};
const unsigned n_kinds = G_N_ELEMENTS(kinds);

static json_t *file_options(const char *path)
{
    return json_pack("{s:s,s:s,s:s}", "driver", "file", "filename", path,
                     "discard", "unmap");
}

static CO_FN int image_co_make(struct control *c, const char *format,
                               const char *path, const char *backing,
                               const char *backing_format,
                               const struct kind *data, GError **err)
{
    const struct node_driver *drv = graph_find_driver(c->graph, format);
    json_t *o = json_pack("{s:i,s:s*,s:s*}", "size", DISK_BYTES, "backing_file",
                          backing, "backing_fmt",
                          backing ? backing_format : NULL);
    struct io_file *f;
    int r;

    g_assert(drv);
    if (data && data->data_file) {
        json_object_set_new(o, "data_file", json_sprintf("%s.data", path));
        json_object_set_new(o, "data_file_raw", json_boolean(data->data_raw));
    }
    if (drv->co_create) {
        /* One table for an area, or a little more. */
        if (drv->supports_backing) {
            json_object_set_new(o, "cluster_size", json_integer(4096));
        }
        if (data && (data->full_table || data->full_end)) {
            json_object_set_new(o, "cluster_size", json_integer(SECTOR));
            json_object_set_new(o, "refcount_bits", json_integer(64));
        }
        if (!strcmp(format, "qed")) {
            json_object_set_new(o, "table_size", json_integer(2));
        }
        r = image_co_create(c->graph, drv, path, o, err);
    } else {
        r = io_co_open(path, O_RDWR | O_CREAT, 0600, &f);
        if (r == 0) {
            r = io_co_truncate(f, DISK_BYTES);
            io_co_close(f);
        }
    }
    json_decref(o);
    return r;
}

int images_co_create(struct control *c, const struct kind *k, const char *path,
                     GError **err)
{
    return image_co_make(c, k->format, path, NULL, NULL, k, err);
}

/* Give the first @n sectors of each area the base's value. */
static CO_FN void image_co_fill(struct control *c, const char *format,
                                const char *path, unsigned n)
{
    json_t *o = json_pack("{s:s,s:o}", "driver", format, "file",
                          file_options(path));
    g_autofree uint8_t *buf = g_malloc((size_t)n * SECTOR);
    struct node *node;
    struct iovec v;
    int r = node_co_open(c->graph, o, NODE_RDWR, &node, NULL);

    g_assert(r == 0);
    for (unsigned a = 0; a < AREAS; a++) {
        disk_fill(buf, a * AREA_SECTORS, n, V_BASE);
        r = node_co_pwritev(node, disk_offset(a * AREA_SECTORS),
                            iov_one(&v, buf, (size_t)n * SECTOR), 0);
        g_assert(r == 0);
    }
    node_co_unref(node);
    json_decref(o);
}

static CO_FN void clusters_co_fill(struct control *c, uint64_t off, size_t len,
                                   uint8_t with)
{
    json_t *o = json_pack("{s:s,s:o}", "driver", "qcow2", "file",
                          file_options("/top"));
    g_autofree uint8_t *buf = g_malloc0(len);
    struct node *node;
    struct iovec v;
    int r = node_co_open(c->graph, o, NODE_RDWR, &node, NULL);

    g_assert(r == 0);
    memset(buf, with, len);
    r = node_co_pwritev(node, off, iov_one(&v, buf, len), 0);
    g_assert(r == 0);
    node_co_unref(node);
    json_decref(o);
}

static CO_FN void bitmaps_co_add(struct control *c)
{
    json_t *o = json_pack("{s:s,s:o,s:n}", "driver", "qcow2", "file",
                          file_options("/top"), "backing");
    struct bitmap_args args = { .granularity = SECTOR };
    struct node *node;
    int r = node_co_open(c->graph, o, NODE_RDWR, &node, NULL);

    g_assert(r == 0);
    r = node_co_bitmap(node, BITMAP_ADD, "records", &args, NULL);
    g_assert(r == 0);
    args.disabled = true;
    r = node_co_bitmap(node, BITMAP_ADD, "rests", &args, NULL);
    g_assert(r == 0);
    node_co_unref(node);
    json_decref(o);
}

void images_co_make(struct control *c, const struct kind *k)
{
    const char *below = "/base", *below_format = k->base;

    if (k->base) {
        g_assert(image_co_make(c, k->base, "/base", NULL, NULL, NULL, NULL) ==
                 0);
        image_co_fill(c, k->base, "/base", AREA_SECTORS);
    }
    if (k->mid) {
        g_assert(image_co_make(c, k->format, "/mid", "/base", k->base, NULL,
                               NULL) == 0);
        image_co_fill(c, k->format, "/mid", AREA_SECTORS / 4);
        below = "/mid";
        below_format = k->format;
    }
    g_assert(image_co_make(c, k->format, "/top", k->base ? below : NULL,
                           below_format, k, NULL) == 0);
    if (k->full_table) { /* where the guest never looks */
        clusters_co_fill(c, AREA_SECTORS * SECTOR, TABLE_FILL, 1);
    }
    if (k->full_end) {
        clusters_co_fill(c, disk_offset((AREAS - 1) * AREA_SECTORS),
                         AREA_SECTORS * SECTOR, 0);
    }
    if (k->bitmaps) {
        bitmaps_co_add(c);
    }
}

void images_add_data(const struct kind *k, const char *path, json_t *options)
{
    g_autofree char *data = g_strconcat(path, ".data", NULL);

    if (k->data_file) {
        json_object_set_new(options, "data-file", file_options(data));
    }
}

const char *images_top(const struct rig *r, const char **ret_format)
{
    struct sim_image *live = sim_live(r->sim);
    bool ended = !strcmp(r->kind->format, "cow") &&
                 !sim_image_find(live, "/top") &&
                 sim_image_find(live, "/top.raw");

    *ret_format = ended ? "raw" : r->kind->format;
    return ended ? "/top.raw" : "/top";
}

json_t *images_options(const struct rig *r)
{
    const struct kind *k = r->kind;
    const char *format, *path = images_top(r, &format);
    json_t *o = json_pack("{s:s,s:s,s:s,s:o}", "driver", format, "node-name",
                          "top", "discard", "unmap", "file",
                          file_options(path));
    json_t *b;

    images_add_data(k, "/top", o);
    /* What was streamed has outlived its base. */
    if (!k->base || !sim_image_find(sim_live(r->sim), "/base") ||
        !strcmp(format, "raw")) {
        return o;
    }
    b = json_pack("{s:s,s:s,s:o}", "driver", k->base, "node-name", "base",
                  "file", file_options("/base"));
    if (k->mid) {
        b = json_pack("{s:s,s:s,s:o,s:o}", "driver", k->format, "node-name",
                      "mid", "file", file_options("/mid"), "backing", b);
    }
    json_object_set_new(o, "backing", b);
    return o;
}
