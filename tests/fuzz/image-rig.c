/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See image-rig.h. */
#include "image-rig.h"
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "format/format.h"
#include "fuzz.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "loop/loop.h"
#include "storage/storage.h"

enum {
    FLAG_PATCHES = IMAGE_RIG_PATCHES,
    FLAG_RDWR = 2,
    FLAG_REPAIR = 4,
    FLAG_BIG_OFFSETS = 8,
    FLAG_BASE = 16,
};
enum {
    OPS_MAX = IMAGE_RIG_OPS_MAX,
    LEN_MAX = 128 << 10,
    PATCHES_MAX = 64,
    HEADER_MAX = 128
};
/* Sizes up to this are set: a disk that grows over a base writes zeroes. */
#define SIZE_MAX_TRUNCATE (UINT64_C(64) << 20)
#define PATH "/image"
#define OVERLAY "/overlay"
#define DATA_FILE "/data"

static const struct node_driver *const drivers[] = {
    &file_driver, &raw_driver, &qed_driver, &qcow2_driver, &cow_driver, NULL
};

struct image {
    const struct image_format *format;
    unsigned flags;
    unsigned n_ops;
    struct fuzz_input ops, bytes;
};

static void put_patched(const struct image_format *f, struct fuzz_input *in)
{
    uint64_t size = (uint64_t)fuzz_u16(in) << 10;
    uint8_t head[HEADER_MAX] = {};
    size_t len;
    const uint8_t *p = fuzz_take(in, f->header_len, &len);

    for (size_t i = 0; i < len; i++) {
        head[i] = p[i];
    }
    memcpy(head, f->magic, sizeof(f->magic));
    fuzz_put_file(PATH, head, f->header_len, size);
    for (unsigned i = 0; i < PATCHES_MAX && in->len > 0; i++) {
        uint64_t at = (fuzz_u32(in) & 0xffffff) * 8ull;
        uint64_t what = GUINT64_TO_LE(fuzz_u64(in));

        if (at + 8 <= size) {
            fuzz_patch_file(PATH, at, &what, sizeof(what));
        }
    }
}

static void put_bytes(const struct image_format *f, struct fuzz_input *in)
{
    g_autofree uint8_t *buf = g_memdup2(in->data, in->len);

    if (in->len >= 4) {
        memcpy(buf, f->magic, sizeof(f->magic));
    }
    fuzz_put_file(PATH, buf, in->len, 0);
}

/* Work on the image as a whole, by the upper half of the kinds. */
static CO_FN void one_co_manage(struct node *n, unsigned kind, uint64_t off,
                                unsigned more)
{
    static const char *const names[] = { "a", "1", "", "none" };
    const char *name = names[more % G_N_ELEMENTS(names)];

    if (!node_is_writable(n)) {
        return;
    }
    switch (kind % 4) {
    case 0: node_co_truncate(n, off % SIZE_MAX_TRUNCATE, NULL); break;
    case 1:
        if (n->drv->co_snapshot) {
            static const enum snapshot_op ops[] = {
                SNAPSHOT_CREATE,
                SNAPSHOT_APPLY,
                SNAPSHOT_DELETE,
            };

            node_co_snapshot(n, ops[more / 4 % G_N_ELEMENTS(ops)], name, NULL);
        }
        break;
    case 2:
        if (n->drv->co_make_empty && node_backing(n)) {
            node_co_make_empty(n, NULL);
        }
        break;
    default: node_co_drain_begin(n); node_drain_end(n);
    }
}

static CO_FN void one_co_op(struct node *n, struct fuzz_input *in, bool big)
{
    unsigned kind = fuzz_u8(in);
    uint64_t off = fuzz_u32(in), len = fuzz_u16(in);
    unsigned more = fuzz_u8(in);
    g_autofree uint8_t *buf = NULL;
    struct extent ext;
    struct iovec v;

    len |= (uint64_t)(more & 1) << 16;
    if (kind & 0x80) {
        one_co_manage(n, kind, off, more);
        return;
    }
    if (big) {
        off <<= more >> 2;
    }
    if (off >= n->size) {
        off = n->size ? off % n->size : 0;
    }
    len = MIN(len, n->size - off);
    buf = g_malloc(len + 1);
    memset(buf, 0xa5, len + 1);
    switch (kind % 8) {
    case 0:
    case 1: node_co_preadv(n, off, iov_one(&v, buf, len), 0); break;
    case 2:
    case 3:
        node_co_pwritev(n, off, iov_one(&v, buf, len),
                        (more & 2 ? IO_FUA : 0) |
                            (more & 4 ? IO_COMPRESSED : 0));
        break;
    case 4: node_co_zero(n, off, len, more & 2 ? IO_MAY_UNMAP : 0); break;
    case 5: node_co_discard(n, off, len); break;
    case 6: node_co_flush(n); break;
    default:
        if (len > 0 && node_co_status(n, off, len, &ext) == 0) {
            g_assert_cmpuint(ext.len, >, 0);
            g_assert_cmpuint(ext.len, <=, len);
        }
    }
}

static json_t *file_options(const char *format, const char *path)
{
    return json_pack("{s:s,s:{s:s,s:s}}", "driver", format, "file", "driver",
                     "file", "filename", path);
}

static void add_data_file(json_t *options)
{
    json_object_set_new(
        options, "data-file",
        json_pack("{s:s,s:s}", "driver", "file", "filename", DATA_FILE));
}

/* @o is taken. */
static CO_FN struct node *options_co_open(struct graph *g, json_t *o,
                                          unsigned flags)
{
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;
    int ret = node_co_open(g, o, flags, &n, &err);

    g_assert_true((ret < 0) == (err != NULL));
    json_decref(o);
    return ret < 0 ? NULL : n;
}

static CO_FN struct node *image_co_open(struct graph *g,
                                        const struct image *img, unsigned flags)
{
    json_t *o = file_options(img->format->name, PATH);

    flags |= NODE_NO_BACKING;
    if (img->format->data_files) {
        json_t *with = json_deep_copy(o);
        struct node *n;

        add_data_file(with);
        n = options_co_open(g, with, flags);
        if (n) {
            json_decref(o);
            return n;
        }
    }
    return options_co_open(g, o, flags);
}

/* A good overlay over the image. */
static CO_FN struct node *cow_co_open(struct graph *g, const struct image *img)
{
    const struct node_driver *drv = graph_find_driver(g, img->format->name);
    json_t *o = json_pack("{s:i,s:s,s:s}", "size", 1 << 20, "backing_file",
                          PATH, "backing_fmt", img->format->name);
    int ret = image_co_create(g, drv, OVERLAY, o, NULL);
    struct node *n;

    json_decref(o);
    if (ret < 0) {
        return NULL;
    }
    n = options_co_open(g, file_options(img->format->name, OVERLAY), NODE_RDWR);
    if (!n && img->format->data_files) {
        json_t *below = json_object();

        add_data_file(below);
        o = file_options(img->format->name, OVERLAY);
        json_object_set_new(o, "backing", below);
        n = options_co_open(g, o, NODE_RDWR);
    }
    return n;
}

static CO_FN void use_co(struct graph *g, struct image *img)
{
    struct node *n = img->flags & FLAG_BASE
                         ? cow_co_open(g, img)
                         : image_co_open(
                               g, img, img->flags & FLAG_RDWR ? NODE_RDWR : 0);

    if (!n) {
        return;
    }
    for (unsigned i = 0; i < img->n_ops; i++) {
        one_co_op(n, &img->ops, img->flags & FLAG_BIG_OFFSETS);
    }
    json_t *info = json_object();
    node_co_info(n, info, NULL);
    json_decref(info);
    node_co_unref(n);
}

static CO_FN bool check_co(struct graph *g, const struct image *img,
                           unsigned fix, struct check_result *res)
{
    struct node *n = image_co_open(g, img, NODE_CHECK | (fix ? NODE_RDWR : 0));
    int ret;

    if (!n) {
        return false;
    }
    *res = (struct check_result) {};
    ret = node_co_check(n, fix, res, NULL);
    node_co_unref(n);
    return ret == 0;
}

static CO_FN void image_entry(void *arg)
{
    struct image *img = arg;
    struct check_result res;
    struct graph *g;

    if (img->flags & FLAG_PATCHES) {
        put_patched(img->format, &img->bytes);
    } else {
        put_bytes(img->format, &img->bytes);
    }
    if (img->format->data_files) {
        uint8_t junk[4096];

        memset(junk, 0xd5, sizeof(junk));
        fuzz_put_file(DATA_FILE, junk, sizeof(junk), 40000);
        fuzz_put_file(DATA_FILE ".partial", junk, sizeof(junk), 40000);
    }
    g = graph_new(loop_current(), drivers);
    check_co(g, img, 0, &res);
    use_co(g, img);
    if ((img->flags & FLAG_REPAIR) &&
        check_co(g, img, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, &res) &&
        res.corruptions == res.corruptions_fixed && !res.check_errors) {
        g_assert_true(check_co(g, img, 0, &res));
        g_assert_cmpuint(res.corruptions, ==, 0);
        use_co(g, img);
    }
    graph_co_free(g);
}

int image_rig_run(const struct image_format *f, const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    struct image img = { .format = f };

    img.flags = fuzz_u8(&in);
    img.n_ops = fuzz_u8(&in);
    img.n_ops = MIN(img.n_ops, OPS_MAX);
    img.ops.data = fuzz_take(&in, img.n_ops * (size_t)8, &img.ops.len);
    img.bytes = in;
    fuzz_run(image_entry, &img);
    return 0;
}
