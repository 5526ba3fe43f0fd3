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
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "graph/bitmap.h"
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

static void qcow2_bitmap_dir_free_bitmap(gpointer b)
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
    g_ptr_array_set_free_func(list, qcow2_bitmap_dir_free_bitmap);
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

void qcow2_bitmaps_range(const struct qcow2_image *img, uint64_t *ret_host,
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
    return round_up(ENTRY_BYTES + (uint64_t)get_be32(p + 20) + get_be16(p + 18),
                    8);
}

/* NULL, or what is wrong with the entry in @p, all of which is in memory. */
static char *entry_flaw(const struct qcow2_image *img, const uint8_t *p)
{
    uint64_t table = get_be64(p);
    uint32_t n = get_be32(p + 8), flags = get_be32(p + 12);

    if (get_be32(p + 20) != 0 || p[16] != TYPE_DIRTY || flags & ~UINT32_C(7)) {
        return g_strdup_printf("is of type %u with flags 0x%x and %u bytes of "
                               "extra data: not one that is known",
                               p[16], flags, get_be32(p + 20));
    }
    if (get_be16(p + 18) == 0 || get_be16(p + 18) > QCOW2_BITMAP_NAME_MAX) {
        return g_strdup_printf("has a name of %u bytes", get_be16(p + 18));
    }
    if (memchr(p + ENTRY_BYTES, 0, get_be16(p + 18))) {
        return g_strdup("has a zero byte in its name");
    }
    if (p[17] < QCOW2_BITMAP_GRANULARITY_MIN ||
        p[17] > QCOW2_BITMAP_GRANULARITY_MAX) {
        return g_strdup_printf("has a granularity of %u bits", p[17]);
    }
    if (n == 0 || n > QCOW2_BITMAP_BYTES_MAX >> img->cluster_bits || !table ||
        table & (qcow2_cluster_size(img) - 1) || table >> 56) {
        return g_strdup_printf("has a table of %u entries at offset %" PRIu64,
                               n, table);
    }
    return NULL;
}

static void PRINTF_LIKE(3, 4)
    qcow2_bitmap_dir_flaw(qcow2_flaw_fn *tell, void *arg, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    tell(arg, true, text);
}

static struct qcow2_bitmap *qcow2_bitmap_dir_entry_decode(const uint8_t *p)
{
    struct qcow2_bitmap *b = g_new0(struct qcow2_bitmap, 1);

    b->table_offset = get_be64(p);
    b->table_size = get_be32(p + 8);
    b->flags = get_be32(p + 12);
    b->granularity_bits = p[17];
    b->name = g_strndup((const char *)p + ENTRY_BYTES, get_be16(p + 18));
    return b;
}

/* Directory @dir of @end bytes and @n entries: what makes sense of it goes to
 * @list. */
static void dir_decode(const struct qcow2_image *img, const uint8_t *dir,
                       uint64_t end, uint32_t n, GPtrArray *list,
                       qcow2_flaw_fn *tell, void *arg)
{
    uint64_t at = 0;

    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *p = dir + at;
        g_autofree char *why = NULL;

        if (end - at < ENTRY_BYTES || end - at < entry_bytes(p)) {
            qcow2_bitmap_dir_flaw(
                tell, arg,
                "the bitmap directory of %u entries ends in entry "
                "%u",
                n, i);
            return;
        }
        why = entry_flaw(img, p);
        if (why) {
            qcow2_bitmap_dir_flaw(tell, arg, "bitmap directory entry %u %s", i,
                                  why);
        } else {
            g_ptr_array_add(list, qcow2_bitmap_dir_entry_decode(p));
        }
        at += entry_bytes(p);
    }
}

int qcow2_co_bitmaps_read(struct qcow2_image *img, GPtrArray *list,
                          struct qcow2_bitmap_dir *ret, qcow2_flaw_fn *tell,
                          void *arg)
{
    const struct qcow2_ext *e = qcow2_exts_find(img->exts, QCOW2_EXT_BITMAPS);
    struct iovec v;
    uint8_t *dir;
    uint32_t n;
    int r;

    *ret = (struct qcow2_bitmap_dir) { 0, 0 };
    if (!e || !(img->hdr.autoclear & QCOW2_A_BITMAPS)) {
        return 0; /* whoever wrote last did not know of them */
    }
    if (e->len != EXT_BYTES) {
        qcow2_bitmap_dir_flaw(
            tell, arg, "the header extension for bitmaps has %u bytes", e->len);
        return 0;
    }
    n = get_be32(e->data);
    *ret = (struct qcow2_bitmap_dir) { get_be64(e->data + 16),
                                       get_be64(e->data + 8) };
    if (n == 0 || n > QCOW2_BITMAPS_MAX || get_be32(e->data + 4) != 0 ||
        ret->bytes == 0 || ret->bytes > DIR_MAX || ret->offset == 0 ||
        ret->offset & (qcow2_cluster_size(img) - 1) ||
        ret->offset >= qcow2_file(img)->size) {
        qcow2_bitmap_dir_flaw(tell, arg,
                              "a bitmap directory of %u entries and %" PRIu64
                              " bytes cannot be at offset %" PRIu64,
                              n, ret->bytes, ret->offset);
        *ret = (struct qcow2_bitmap_dir) { 0, 0 };
        return 0;
    }
    dir = io_buf_get(ret->bytes);
    if (!dir) {
        return -ENOMEM;
    }
    r = node_co_preadv(qcow2_file(img), ret->offset,
                       iov_one(&v, dir, ret->bytes), 0);
    if (r == 0) {
        dir_decode(img, dir, ret->bytes, n, list, tell, arg);
    }
    io_buf_put(dir, ret->bytes);
    return r;
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
        put_be16(p + 18, (uint16_t)strlen(b->name));
        memcpy(p + ENTRY_BYTES, b->name, strlen(b->name));
        at += entry_bytes(p);
    }
    *ret_bytes = bytes;
    return dir;
}

/* The first is kept for a message. */
static void qcow2_bitmap_dir_open_tell(void *arg, bool grave, const char *text)
{
    struct qcow2_image *img = arg;

    node_corrupt(img->node, NULL, img->hdr.header_length, "%s", text);
    if (!img->bitmaps->damage) {
        img->bitmaps->damage = g_strdup(text);
    }
}

int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err)
{
    struct qcow2_bitmaps *bs = g_new0(struct qcow2_bitmaps, 1);
    struct qcow2_bitmap_dir dir;
    int ret;

    img->bitmaps = bs;
    bs->list = g_ptr_array_new_with_free_func(qcow2_bitmap_dir_free_bitmap);
    ret = qcow2_co_bitmaps_read(img, bs->list, &dir, qcow2_bitmap_dir_open_tell,
                                img);
    if (ret == -ENOMEM) {
        return err_set(err, ENOMEM,
                       "Could not allocate memory for the bitmap "
                       "directory");
    }
    if (ret < 0) {
        g_autofree char *text = g_strdup_printf("the bitmap directory cannot "
                                                "be read: %s",
                                                g_strerror(-ret));
        qcow2_bitmap_dir_open_tell(img, true, text);
    }
    bs->dir_offset = dir.offset;
    bs->dir_bytes = dir.bytes;
    return 0;
}

void qcow2_bitmaps_close(struct qcow2_image *img)
{
    if (img->bitmaps) {
        g_ptr_array_unref(img->bitmaps->list);
        g_free(img->bitmaps->damage);
        g_clear_pointer(&img->bitmaps, g_free);
    }
}

/* --- tables --- */

int qcow2_co_bitmap_table(struct qcow2_image *img, const struct qcow2_bitmap *b,
                          uint64_t **ret_table, GError **err)
{
    size_t bytes = (size_t)b->table_size * 8;
    uint64_t *table = g_try_malloc(bytes);
    struct iovec v;
    int ret;

    if (!table) {
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the "
                       "table of bitmap '%s'",
                       bytes, b->name);
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
            ret = node_corrupt(
                img->node, err, b->table_offset + i * 8ull,
                "entry %u of the table of bitmap '%s' is 0x%" PRIx64, i,
                b->name, table[i]);
        }
    }
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    *ret_table = table;
    return 0;
}

/* --- looking --- */

bool qcow2_bitmap_at(const struct node *n, unsigned i, struct bitmap_look *ret)
{
    const struct qcow2_image *img = qcow2_image(n);
    const struct qcow2_bitmap *b;

    if (!img->bitmaps || i >= img->bitmaps->list->len) {
        return false;
    }
    b = g_ptr_array_index(img->bitmaps->list, i);
    g_strlcpy(ret->name, b->name, sizeof(ret->name));
    ret->granularity = UINT32_C(1) << b->granularity_bits;
    ret->inconsistent = qcow2_bitmap_is_broken(b);
    ret->recording = b->flags & QCOW2_BITMAP_AUTO && !ret->inconsistent;
    return true;
}

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
        json_array_append_new(
            out, json_pack("{s:o,s:s,s:I}", "flags", flags, "name", name,
                           "granularity",
                           (json_int_t)(UINT64_C(1) << b->granularity_bits)));
    }
    json_object_set_new(data, "bitmaps", out);
    return 0;
}
