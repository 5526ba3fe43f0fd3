/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The directory of persistent dirty bitmaps, to which a header extension leads
 * and which counts only while autoclear bit 0 is set.  Big-endian.
 *
 *   extension: 0 bitmaps u32   8 directory bytes u64   16 its offset u64
 *   entry:     0 table offset u64   8 table entries u32   12 flags u32
 *             16 type u8   17 granularity bits u8   18 name length u16
 *             20 extra length u32, extra data, name, padded to 8
 *   table:     one entry for each cluster of bits: its offset, or 0 with bit 0
 *              for what all bits of it are
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap.h"
#include "loop/io.h"

enum {
    EXT_BYTES = 24,
    ENTRY_BYTES = 24,
    DIR_MAX = 64 << 20,
    TYPE_DIRTY = 1,
};
#define TABLE_RESERVED UINT64_C(0xff000000000001fe)

void qcow2_bitmap_free(struct qcow2_bitmap *b)
{
    if (b) {
        g_free(b->name);
        g_free(b->bits);
        g_free(b);
    }
}

static void free_bitmap(gpointer b)
{
    qcow2_bitmap_free(b);
}

GHashTable *qcow2_bitmaps_set(const GPtrArray *list)
{
    GHashTable *set = g_hash_table_new(NULL, NULL);

    for (guint i = 0; i < list->len; i++) {
        g_hash_table_add(set, g_ptr_array_index(list, i));
    }
    return set;
}

void qcow2_bitmaps_replace(struct qcow2_bitmaps *bs, GPtrArray *list)
{
    GPtrArray *old = bs->list;
    g_autoptr(GHashTable) kept = qcow2_bitmaps_set(list);

    g_ptr_array_set_free_func(old, NULL);
    for (guint i = 0; i < old->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(old, i);

        if (!g_hash_table_contains(kept, b)) {
            qcow2_bitmap_free(b);
        }
    }
    g_ptr_array_unref(old);
    g_ptr_array_set_free_func(list, free_bitmap);
    bs->list = g_ptr_array_ref(list);
}

bool qcow2_bitmap_is_broken(const struct qcow2_bitmap *b)
{
    return !b->bits && (b->flags & QCOW2_BITMAP_IN_USE);
}

struct qcow2_bitmap *qcow2_bitmap_find(const struct qcow2_image *img,
                                       const char *name)
{
    const GPtrArray *list = img->bitmaps->list;

    for (guint i = 0; i < list->len; i++) {
        struct qcow2_bitmap *b = g_ptr_array_index(list, i);

        if (!strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

void qcow2_bitmaps_place(const struct qcow2_image *img, uint64_t *ret_host,
                         uint64_t *ret_len)
{
    const struct qcow2_bitmaps *bs = img->bitmaps;
    bool any = bs && bs->list->len;

    *ret_host = any ? bs->dir_offset : 0;
    *ret_len = any ? bs->dir_bytes : 0;
}

/* --- the directory --- */

static uint64_t entry_bytes(const uint8_t *p)
{
    return round_up(ENTRY_BYTES + (uint64_t) get_be32(p + 20) +
                    get_be16(p + 18), 8);
}

static int entry_validate(struct qcow2_image *img, const uint8_t *p,
                          uint64_t at, GError **err)
{
    uint64_t table = get_be64(p);
    uint32_t n = get_be32(p + 8), flags = get_be32(p + 12);

    if (get_be32(p + 20) != 0 || p[16] != TYPE_DIRTY || flags & ~UINT32_C(7)) {
        return node_corrupt(img->node, err, at, "a bitmap is of type %u with "
                            "flags 0x%x and %u bytes of extra data: not one "
                            "that is known", p[16], flags, get_be32(p + 20));
    }
    if (get_be16(p + 18) == 0 || get_be16(p + 18) > QCOW2_BITMAP_NAME_MAX) {
        return node_corrupt(img->node, err, at + 18, "the name of a bitmap has "
                            "%u bytes", get_be16(p + 18));
    }
    if (memchr(p + ENTRY_BYTES, 0, get_be16(p + 18))) {
        return node_corrupt(img->node, err, at + ENTRY_BYTES, "the name of a "
                            "bitmap has a zero byte");
    }
    if (p[17] < QCOW2_BITMAP_GRANULARITY_MIN ||
        p[17] > QCOW2_BITMAP_GRANULARITY_MAX) {
        return node_corrupt(img->node, err, at + 17, "a bitmap has a "
                            "granularity of %u bits", p[17]);
    }
    if (n == 0 || n > QCOW2_BITMAP_BYTES_MAX >> img->cluster_bits || !table ||
        table & (qcow2_cluster_size(img) - 1) || table >> 56) {
        return node_corrupt(img->node, err, at, "a bitmap has a table of %u "
                            "entries at %" PRIu64, n, table);
    }
    return 0;
}

static int dir_decode(struct qcow2_image *img, const uint8_t *dir, uint32_t n,
                      GError **err)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    uint64_t at = 0, end = bs->dir_bytes;

    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = dir + at;
        struct qcow2_bitmap *b;
        int ret;

        if (end - at < ENTRY_BYTES || end - at < entry_bytes(p)) {
            return node_corrupt(img->node, err, bs->dir_offset + at,
                                "the bitmap directory of %u entries ends in "
                                "entry %u", n, i);
        }
        ret = entry_validate(img, p, bs->dir_offset + at, err);
        if (ret < 0) {
            return ret;
        }
        b = g_new0(struct qcow2_bitmap, 1);
        b->table_offset = get_be64(p);
        b->table_size = get_be32(p + 8);
        b->flags = get_be32(p + 12);
        b->granularity_bits = p[17];
        b->name = g_strndup((const char *) p + ENTRY_BYTES, get_be16(p + 18));
        g_ptr_array_add(bs->list, b);
        at += entry_bytes(p);
    }
    return 0;
}

static CO_FN int dir_co_read(struct qcow2_image *img, uint32_t n, GError **err)
{
    struct qcow2_bitmaps *bs = img->bitmaps;
    uint8_t *dir = io_buf_get(bs->dir_bytes);
    struct iovec v;
    int ret;

    if (!dir) {
        return err_set(err, ENOMEM, "Could not allocate %" PRIu64 " bytes for "
                       "the bitmap directory", bs->dir_bytes);
    }
    ret = node_co_preadv(qcow2_file(img), bs->dir_offset,
                         iov_one(&v, dir, bs->dir_bytes), 0);
    ret = ret < 0 ? err_set_errno(err, -ret, "Could not read the bitmap "
                                  "directory") : dir_decode(img, dir, n, err);
    io_buf_put(dir, bs->dir_bytes);
    return ret;
}

uint8_t *qcow2_bitmaps_encode(const GPtrArray *list, uint64_t *ret_bytes)
{
    uint64_t bytes = 0, at = 0;
    uint8_t *dir;

    for (guint i = 0; i < list->len; i++) {
        const struct qcow2_bitmap *b = g_ptr_array_index(list, i);
        bytes += round_up(ENTRY_BYTES + strlen(b->name), 8);
    }
    dir = g_malloc0(MAX(bytes, 1));
    for (guint i = 0; i < list->len; i++) {
        const struct qcow2_bitmap *b = g_ptr_array_index(list, i);
        uint8_t *p = dir + at;

        put_be64(p, b->table_offset);
        put_be32(p + 8, b->table_size);
        put_be32(p + 12, b->flags);
        p[16] = TYPE_DIRTY;
        p[17] = b->granularity_bits;
        put_be16(p + 18, (uint16_t) strlen(b->name));
        memcpy(p + ENTRY_BYTES, b->name, strlen(b->name));
        at += entry_bytes(p);
    }
    *ret_bytes = bytes;
    return dir;
}

int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err)
{
    const struct qcow2_ext *e = qcow2_exts_find(img->exts, QCOW2_EXT_BITMAPS);
    struct qcow2_bitmaps *bs = g_new0(struct qcow2_bitmaps, 1);
    uint32_t n;

    img->bitmaps = bs;
    bs->list = g_ptr_array_new_with_free_func(free_bitmap);
    if (!e || !(img->hdr.autoclear & QCOW2_A_BITMAPS)) {
        return 0; /* whoever wrote last did not know of them */
    }
    if (e->len != EXT_BYTES) {
        return node_corrupt(img->node, err, img->hdr.header_length,
                            "the extension for bitmaps has %u bytes", e->len);
    }
    n = get_be32(e->data);
    bs->dir_bytes = get_be64(e->data + 8);
    bs->dir_offset = get_be64(e->data + 16);
    if (n == 0 || n > QCOW2_BITMAPS_MAX || get_be32(e->data + 4) != 0 ||
        bs->dir_bytes == 0 || bs->dir_bytes > DIR_MAX || bs->dir_offset == 0 ||
        bs->dir_offset & (qcow2_cluster_size(img) - 1) ||
        bs->dir_offset >= qcow2_file(img)->size) {
        return node_corrupt(img->node, err, bs->dir_offset, "a bitmap "
                            "directory of %u entries and %" PRIu64 " bytes "
                            "cannot be there", n, bs->dir_bytes);
    }
    return dir_co_read(img, n, err);
}

void qcow2_bitmaps_close(struct qcow2_image *img)
{
    if (img->bitmaps) {
        g_ptr_array_unref(img->bitmaps->list);
        g_clear_pointer(&img->bitmaps, g_free);
    }
}

/* --- tables --- */

int qcow2_co_bitmap_table(struct qcow2_image *img,
                          const struct qcow2_bitmap *b, uint64_t **ret_table,
                          GError **err)
{
    size_t bytes = (size_t) b->table_size * 8;
    uint64_t *table = g_try_malloc(bytes);
    struct iovec v;
    int ret;

    if (!table) {
        return err_set(err, ENOMEM, "Could not allocate %zu bytes for the "
                       "table of bitmap '%s'", bytes, b->name);
    }
    ret = node_co_preadv(qcow2_file(img), b->table_offset,
                         iov_one(&v, table, bytes), 0);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not read the table of bitmap '%s'",
                      b->name);
    }
    for (uint32_t i = 0; i < b->table_size && ret == 0; i++) {
        table[i] = be64toh(table[i]);
        if (table[i] & TABLE_RESERVED ||
            (table[i] & QCOW2_BITMAP_OFFSET && table[i] & 1) ||
            table[i] & QCOW2_BITMAP_OFFSET & (qcow2_cluster_size(img) - 1)) {
            ret = node_corrupt(img->node, err, b->table_offset + i * 8ull,
                               "entry %u of the table of bitmap '%s' is 0x%"
                               PRIx64, i, b->name, table[i]);
        }
    }
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    *ret_table = table;
    return 0;
}

static CO_FN int bitmap_co_visit(struct qcow2_image *img,
                                 const struct qcow2_bitmap *b,
                                 int (*visit)(void *arg, uint64_t host,
                                              uint64_t len), void *arg)
{
    uint64_t *table;
    int ret = visit(arg, b->table_offset, (uint64_t) b->table_size * 8);

    if (ret == 0) {
        ret = qcow2_co_bitmap_table(img, b, &table, NULL);
        if (ret < 0) {
            return ret;
        }
        for (uint32_t i = 0; i < b->table_size && ret == 0; i++) {
            if (table[i] & QCOW2_BITMAP_OFFSET) {
                ret = visit(arg, table[i] & QCOW2_BITMAP_OFFSET,
                            qcow2_cluster_size(img));
            }
        }
        g_free(table);
    }
    return ret;
}

int qcow2_co_bitmaps_visit(struct qcow2_image *img,
                           int (*visit)(void *arg, uint64_t host,
                                        uint64_t len), void *arg)
{
    const struct qcow2_bitmaps *bs = img->bitmaps;
    int ret = 0;

    if (bs->list->len > 0) {
        ret = visit(arg, bs->dir_offset, bs->dir_bytes);
    }
    for (unsigned i = 0; i < bs->list->len && ret == 0; i++) {
        ret = bitmap_co_visit(img, g_ptr_array_index(bs->list, i), visit, arg);
    }
    return ret;
}

/* --- looking --- */

int qcow2_co_bitmaps_info(struct qcow2_image *img, json_t *data, GError **err)
{
    const GPtrArray *list = img->bitmaps->list;
    json_t *out;

    if (list->len == 0) {
        return 0;
    }
    out = json_array();
    for (unsigned i = 0; i < list->len; i++) {
        const struct qcow2_bitmap *b = g_ptr_array_index(list, i);
        g_autofree char *name = g_utf8_make_valid(b->name, -1);
        json_t *flags = json_array();

        if (b->flags & QCOW2_BITMAP_IN_USE) {
            json_array_append_new(flags, json_string("in-use"));
        }
        if (b->flags & QCOW2_BITMAP_AUTO) {
            json_array_append_new(flags, json_string("auto"));
        }
        json_array_append_new(out, json_pack(
            "{s:o,s:s,s:I}", "flags", flags, "name", name, "granularity",
            (json_int_t) (UINT64_C(1) << b->granularity_bits)));
    }
    json_object_set_new(data, "bitmaps", out);
    return 0;
}
