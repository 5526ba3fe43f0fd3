/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A QED image: open, read, write, zero, check, repair, open again.
 *
 * Input: flags (1), count of operations (1), operations (8 each), then
 *   FLAG_PATCHES: size of the file in KiB (2), the header (64), patches of
 *     where / 8 (3) and what (8): tables in a sparse file from few bytes;
 *   else: the bytes of the image.
 * The magic is put right.  Whatever the image says: no crash, bounded memory
 * and time; and what a repair calls repaired is so in a second look.
 */
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "format/format.h"
#include "fuzz.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "loop/loop.h"
#include "storage/storage.h"

enum { FLAG_PATCHES = 1, FLAG_RDWR = 2, FLAG_REPAIR = 4, FLAG_BIG_OFFSETS = 8 };
enum { OPS_MAX = 32, LEN_MAX = 128 << 10, PATCHES_MAX = 64 };
#define PATH "/i.qed"

static const struct node_driver *const drivers[] = {
    &file_driver, &raw_driver, &qed_driver, NULL
};

struct image {
    unsigned flags;
    unsigned n_ops;
    struct fuzz_input ops, bytes;
};

static void put_patched(struct fuzz_input *in)
{
    uint64_t size = (uint64_t)fuzz_u16(in) << 10;
    uint8_t head[64] = {};
    size_t len;
    const uint8_t *p = fuzz_take(in, sizeof(head), &len);

    for (size_t i = 0; i < len; i++) {
        head[i] = p[i];
    }
    memcpy(head, "QED", 4);
    fuzz_put_file(PATH, head, sizeof(head), size);
    for (unsigned i = 0; i < PATCHES_MAX && in->len > 0; i++) {
        uint64_t at = (fuzz_u32(in) & 0xffffff) * 8ull;
        uint64_t what = GUINT64_TO_LE(fuzz_u64(in));

        if (at + 8 <= size) {
            fuzz_patch_file(PATH, at, &what, sizeof(what));
        }
    }
}

static void put_bytes(struct fuzz_input *in)
{
    g_autofree uint8_t *buf = g_memdup2(in->data, in->len);

    if (in->len >= 4) {
        memcpy(buf, "QED", 4);
    }
    fuzz_put_file(PATH, buf, in->len, 0);
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
    case 1:
        node_co_preadv(n, off, iov_one(&v, buf, len), 0);
        break;
    case 2:
    case 3:
        node_co_pwritev(n, off, iov_one(&v, buf, len),
                        more & 2 ? IO_FUA : 0);
        break;
    case 4:
        node_co_zero(n, off, len, more & 2 ? IO_MAY_UNMAP : 0);
        break;
    case 5:
        node_co_discard(n, off, len);
        break;
    case 6:
        node_co_flush(n);
        break;
    default:
        if (len > 0 && node_co_status(n, off, len, &ext) == 0) {
            g_assert_cmpuint(ext.len, >, 0);
            g_assert_cmpuint(ext.len, <=, len);
        }
    }
}

static CO_FN struct node *image_co_open(struct graph *g, unsigned flags)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", "qed", "file",
                          "driver", "file", "filename", PATH);
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;
    int ret = node_co_open(g, o, flags | NODE_NO_BACKING, &n, &err);

    g_assert_true((ret < 0) == (err != NULL));
    json_decref(o);
    return ret < 0 ? NULL : n;
}

static CO_FN void use_co(struct graph *g, struct image *img)
{
    struct node *n = image_co_open(g, img->flags & FLAG_RDWR ? NODE_RDWR : 0);

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

static CO_FN bool check_co(struct graph *g, unsigned fix,
                           struct check_result *res)
{
    struct node *n = image_co_open(g, NODE_CHECK | (fix ? NODE_RDWR : 0));
    int ret;

    if (!n) {
        return false;
    }
    *res = (struct check_result){};
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
        put_patched(&img->bytes);
    } else {
        put_bytes(&img->bytes);
    }
    g = graph_new(loop_current(), drivers);
    check_co(g, 0, &res);
    use_co(g, img);
    if ((img->flags & FLAG_REPAIR) &&
        check_co(g, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, &res) &&
        res.corruptions == res.corruptions_fixed && !res.check_errors) {
        g_assert_true(check_co(g, 0, &res));
        g_assert_cmpuint(res.corruptions, ==, 0);
        use_co(g, img);
    }
    graph_co_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    struct image img = {};

    img.flags = fuzz_u8(&in);
    img.n_ops = MIN(fuzz_u8(&in), OPS_MAX);
    img.ops.data = fuzz_take(&in, img.n_ops * (size_t)8, &img.ops.len);
    img.bytes = in;
    fuzz_run(image_entry, &img);
    return 0;
}
