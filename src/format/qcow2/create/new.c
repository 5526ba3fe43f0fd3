/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A new image in the file:
 *
 *   header, refcount table, refcount blocks, L1 table, encryption header;
 *   with preallocation also L2 tables, and the data
 *
 * All but the first cluster first, durable, and then the first: a file that
 * begins with the magic is a whole image.
 */
#include "format/qcow2/create/create.h"
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "loop/io.h"

#define FILL_CHUNK (UINT64_C(1) << 20)

/* Where everything goes; offsets and counts in clusters unless named. */
struct layout {
    const struct qcow2_create *c;
    struct qcow2_shape shape;
    unsigned order;   /* of refcounts */
    uint64_t cluster; /* bytes */
    uint64_t reftable, reftable_n;
    uint64_t blocks, blocks_n;
    uint64_t l1, l1_n, l1_entries;
    uint64_t crypt, crypt_n;
    uint64_t l2, l2_n; /* preallocated */
    uint64_t data, data_n;
    uint64_t end;
    bool reused;      /* storage holds something: no holes */
    bool data_reused; /* that of the data file does */
};

static uint64_t qcow2_new_clusters_of(const struct layout *l, uint64_t bytes)
{
    return (bytes + l->cluster - 1) / l->cluster;
}

static uint64_t counts_of_block(const struct layout *l)
{
    return l->cluster * 8 >> l->order;
}

/* Refcount blocks count themselves and their table: until that comes out even.
 */
static void layout_refcounts(struct layout *l, uint64_t others)
{
    uint64_t blocks = 0, table = 0, need;

    do {
        need = others + blocks + table;
        blocks = (need + counts_of_block(l) - 1) / counts_of_block(l);
        table = qcow2_new_clusters_of(l, blocks * 8);
    } while (others + blocks + table != need);
    l->blocks_n = blocks;
    l->reftable_n = table;
}

static int layout_make(struct layout *l, const struct qcow2_create *c,
                       GError **err)
{
    /* Of a raw data file all clusters are data. */
    bool prealloc = c->preallocation != QCOW2_PREALLOC_OFF || c->data_raw;

    *l = (struct layout) {
        .c = c, .cluster = c->cluster_size,
        .order = (unsigned) g_bit_storage(c->refcount_bits) - 1,
        .shape = {
            .version = (uint8_t) c->version,
            .cluster_bits = (uint8_t) (g_bit_storage(c->cluster_size) - 1),
            .extended = c->extended, .data_file = c->data_file,
        },
    };
    g_assert(l->cluster > 0);
    l->l1_entries = qcow2_l1_entries(c->size, l->shape.cluster_bits,
                                     c->extended);
    l->l1_n = qcow2_new_clusters_of(l, l->l1_entries * 8);
    l->crypt_n = qcow2_new_clusters_of(l, qcow2_crypt_header_bytes(c->crypt));
    l->l2_n = prealloc ? l->l1_entries : 0;
    l->data_n = prealloc && !c->data_file ? qcow2_new_clusters_of(l, c->size)
                                          : 0;
    layout_refcounts(l, 1 + l->l1_n + l->crypt_n + l->l2_n + l->data_n);
    if (l->reftable_n * l->cluster > QCOW2_REFTABLE_BYTES_MAX) {
        return err_set(err, EFBIG,
                       "The image size is too large for file "
                       "format 'qcow2' (try using a larger cluster size)");
    }
    l->reftable = 1;
    l->blocks = l->reftable + l->reftable_n;
    l->l1 = l->blocks + l->blocks_n;
    l->crypt = l->l1 + l->l1_n;
    l->l2 = l->crypt + l->crypt_n;
    l->data = l->l2 + l->l2_n;
    l->end = l->data + l->data_n;
    return 0;
}

/* --- tables, one cluster at a time --- */

/* Refcount block @i: one reference to each cluster below the end. */
static void fill_block(const struct layout *l, uint64_t i, uint8_t *buf)
{
    uint64_t per = counts_of_block(l);
    uint64_t n = min_u64(l->end - i * per, per);
    unsigned bits = 1u << l->order;

    memset(buf, 0, l->cluster);
    for (uint64_t k = 0; k < n; k++) {
        if (bits >= 8) {
            buf[(k + 1) * (bits / 8) - 1] = 1; /* big-endian: its last byte */
        } else {
            buf[k * bits / 8] |= (uint8_t)(1u << k * bits % 8);
        }
    }
}

/* @n offsets of clusters from @first on, as from entry @at. */
static void fill_offsets(const struct layout *l, uint64_t at, uint64_t n,
                         uint64_t first, uint64_t flags, uint8_t *buf)
{
    memset(buf, 0, l->cluster);
    for (uint64_t k = 0; k < l->cluster / 8 && at + k < n; k++) {
        put_be64(buf + k * 8, (first + at + k) * l->cluster | flags);
    }
}

/* Could host clusters read as other bytes than zeroes before they are written?
 * They can where storage held something before, and where a hole is
 * decrypted. */
static bool places_are_foreign(const struct layout *l)
{
    const struct qcow2_create *c = l->c;

    return (l->crypt_n > 0 && !c->data_raw) ||
           ((c->data_file ? l->data_reused && !c->data_raw : l->reused) &&
            c->preallocation == QCOW2_PREALLOC_METADATA);
}

/* Can an entry say that its host cluster reads as zeroes whatever it holds? */
static bool has_zero_flag(const struct layout *l)
{
    return l->shape.version > 2 && !l->shape.extended;
}

/* L2 table @i. With extended entries no subcluster is allocated yet, unless the
 * data file is raw. */
static void fill_l2(const struct layout *l, uint64_t i, uint8_t *buf)
{
    uint64_t per = l->cluster / (l->shape.extended ? 16 : 8);
    uint64_t n = qcow2_new_clusters_of(l, l->c->size);
    uint64_t flags = QCOW2_COPIED | (places_are_foreign(l) && has_zero_flag(l)
                                         ? QCOW2_ZERO_FLAG
                                         : 0);

    memset(buf, 0, l->cluster);
    for (uint64_t k = 0; k < per && i * per + k < n; k++) {
        uint64_t host = (l->data_n ? l->data : 0) + i * per + k;

        qcow2_desc_put(&l->shape, buf, (uint32_t)k,
                       (struct qcow2_desc) { host * l->cluster | flags,
                                             l->c->data_raw ? UINT32_MAX : 0 });
    }
}

enum part { PART_REFTABLE, PART_BLOCKS, PART_L1, PART_L2, PARTS };

static void part_fill(const struct layout *l, enum part p, uint64_t i,
                      uint8_t *buf)
{
    uint64_t per = l->cluster / 8;

    switch (p) {
    case PART_REFTABLE:
        fill_offsets(l, i * per, l->blocks_n, l->blocks, 0, buf);
        break;
    case PART_BLOCKS: fill_block(l, i, buf); break;
    case PART_L1:
        fill_offsets(l, i * per, l->l2_n, l->l2, QCOW2_COPIED, buf);
        break;
    default: fill_l2(l, i, buf);
    }
}

static CO_FN int tables_co_write(struct node *file, const struct layout *l)
{
    /* An empty L1 table is a hole in a new file. */
    const struct {
        uint64_t at, n;
    } parts[PARTS] = {
        [PART_REFTABLE] = { l->reftable, l->reftable_n },
        [PART_BLOCKS] = { l->blocks, l->blocks_n },
        [PART_L1] = { l->l1, l->l2_n || l->reused ? l->l1_n : 0 },
        [PART_L2] = { l->l2, l->l2_n },
    };
    uint8_t *buf = io_buf_get(l->cluster);
    struct iovec v;
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    for (enum part p = 0; p < PARTS; p++) {
        for (uint64_t i = 0; i < parts[p].n && ret == 0; i++) {
            part_fill(l, p, i, buf);
            ret = node_co_pwritev(file, (parts[p].at + i) * l->cluster,
                                  iov_one(&v, buf, l->cluster), 0);
        }
    }
    io_buf_put(buf, l->cluster);
    return ret;
}

/* --- data --- */

static CO_FN int data_co_fill(struct node *file, uint64_t off, uint64_t len)
{
    uint8_t *buf = io_buf_get(FILL_CHUNK);
    struct iovec v;
    int ret = 0;

    memset(buf, 0, FILL_CHUNK);
    for (uint64_t at = 0; at < len && ret == 0; at += FILL_CHUNK) {
        ret = node_co_pwritev(
            file, off + at, iov_one(&v, buf, min_u64(len - at, FILL_CHUNK)), 0);
    }
    io_buf_put(buf, FILL_CHUNK);
    return ret;
}

static CO_FN int data_co_preallocate(struct node *file, const struct layout *l,
                                     uint64_t off, uint64_t len)
{
    if (len > 0 && l->c->preallocation == QCOW2_PREALLOC_FALLOC) {
        return node_co_zero(file, off, len, 0); /* keeps the space */
    }
    if (len > 0 && places_are_foreign(l) && l->shape.version < 3) {
        return node_co_zero(file, off, len, IO_MAY_UNMAP);
    }
    return l->c->preallocation == QCOW2_PREALLOC_FULL
               ? data_co_fill(file, off, len)
               : 0;
}

/* The data file is there, whole and durable, before anything refers to it. */
static CO_FN int data_file_co_make(struct node *file, const struct layout *l,
                                   struct new_storage *data, GError **err)
{
    const struct qcow2_create *c = l->c;
    int ret = c->data_file ? qcow2_co_data_file_create(c, file, data, err) : 0;

    if (ret < 0 || !c->data_file) {
        return ret;
    }
    ret = data_co_preallocate(data->node, l, 0, c->size);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not write to '%s'", c->data_file);
    } else {
        ret = new_storage_co_sync(data, err);
    }
    if (ret < 0) {
        new_storage_co_close(data, false);
    }
    return ret;
}

/* --- the first cluster --- */

static GArray *make_exts(const struct layout *l)
{
    const struct qcow2_create *c = l->c;
    GArray *exts = qcow2_exts_new();
    uint8_t place[16];

    if (c->backing_format) {
        qcow2_exts_set(exts, QCOW2_EXT_FORMAT, c->backing_format,
                       (uint32_t)strlen(c->backing_format));
    }
    if (c->data_file) {
        qcow2_exts_set(exts, QCOW2_EXT_DATA_FILE, c->data_file,
                       (uint32_t)strlen(c->data_file));
    }
    if (l->crypt_n > 0) {
        put_be64(place, l->crypt * l->cluster);
        put_be64(place + 8, qcow2_crypt_header_bytes(c->crypt));
        qcow2_exts_set(exts, QCOW2_EXT_CRYPT, place, sizeof(place));
    }
    if (c->version > 2) {
        qcow2_exts_add_feature_names(exts);
    }
    return exts;
}

static struct qcow2_header make_header(const struct layout *l)
{
    const struct qcow2_create *c = l->c;

    return (struct qcow2_header) {
        .version = c->version,
        .cluster_bits = l->shape.cluster_bits,
        .size = c->size,
        .crypt_method = (uint32_t)qcow2_crypt_method(c->crypt),
        .l1_size = (uint32_t)l->l1_entries,
        .l1_offset = l->l1 * l->cluster,
        .reftable_offset = l->reftable * l->cluster,
        .reftable_clusters = (uint32_t)l->reftable_n,
        .incompat = (c->data_file ? QCOW2_I_DATA_FILE : 0) |
                    (c->compression ? QCOW2_I_COMPRESSION : 0) |
                    (c->extended ? QCOW2_I_EXTENDED_L2 : 0),
        .compat = c->lazy_refcounts ? QCOW2_C_LAZY_REFCOUNTS : 0,
        .autoclear = c->data_raw ? QCOW2_A_DATA_RAW : 0,
        .refcount_order = l->order,
        .header_length = c->version > 2 ? QCOW2_HEADER_OURS : QCOW2_HEADER_V2,
        .compression_type = (uint8_t)c->compression,
    };
}

/* Header, extensions and name into @buf of a cluster; the length in use, 0 when
 * they do not fit. All but the name stays in the first sector where it can. */
static size_t fill_first(const struct layout *l, uint8_t *buf)
{
    struct qcow2_header h = make_header(l);
    GArray *exts = make_exts(l);
    size_t name = l->c->backing_file ? strlen(l->c->backing_file) : 0;
    size_t room = l->cluster == QCOW2_SECTOR ? l->cluster - name : QCOW2_SECTOR;
    size_t used;

    memset(buf, 0, l->cluster);
    room = room > h.header_length ? room - h.header_length : 0;
    used = qcow2_exts_encode(exts, buf + h.header_length, room);
    if (used == 0 && l->cluster > QCOW2_SECTOR) { /* a very long data_file */
        used = qcow2_exts_encode(exts, buf + h.header_length,
                                 l->cluster - h.header_length);
    }
    g_array_unref(exts);
    used += used ? h.header_length : 0;
    if (name && used) {
        h.backing_offset = used;
        h.backing_len = (uint32_t)name;
        if (name > l->cluster - used) {
            return 0;
        }
        memcpy(buf + used, l->c->backing_file, name);
    }
    qcow2_header_encode(&h, buf);
    return used ? used + name : 0;
}

static CO_FN int first_co_write(struct node *file, const struct layout *l,
                                uint8_t *buf, size_t len)
{
    struct iovec v;
    int ret = 0;

    len = round_up(len, QCOW2_SECTOR);
    if (len > QCOW2_SECTOR) {
        ret = node_co_pwritev(
            file, QCOW2_SECTOR,
            iov_one(&v, buf + QCOW2_SECTOR, len - QCOW2_SECTOR), 0);
    }
    if (ret == 0) {
        ret = BARRIER(CREATE_TABLES, node_co_flush(file));
    }
    if (ret == 0) {
        ret = node_co_pwritev(file, 0, iov_one(&v, buf, QCOW2_SECTOR), 0);
    }
    return ret;
}

/* Bring the file to its length. Devices and exports have theirs. */
static CO_FN int file_co_size(struct node *file, const struct layout *l,
                              GError **err)
{
    uint64_t size = l->end * l->cluster;
    int r = l->reused && size <= file->size ? 0
                                            : node_co_truncate(file, size, err);

    if (r < 0) {
        err_prefix(err, "Could not resize image");
    }
    return r;
}

static CO_FN int qcow2_new_parts_co_write(struct node *file,
                                          const struct layout *l, uint8_t *buf,
                                          size_t len, GError **err)
{
    int ret;

    if ((ret = file_co_size(file, l, err)) == 0 &&
        (l->crypt_n == 0 ||
         (ret = qcow2_co_crypt_create(l->c->crypt, file, l->crypt * l->cluster,
                                      err)) == 0)) {
        ret = data_co_preallocate(file, l, l->data * l->cluster,
                                  l->data_n * l->cluster);
        if (ret == 0) {
            ret = tables_co_write(file, l);
        }
        if (ret == 0) {
            ret = first_co_write(file, l, buf, len);
        }
        if (ret < 0) {
            err_set_errno(err, -ret, "Could not write the qcow2 image");
        }
    }
    return ret;
}

static CO_FN int qcow2_image_co_write(struct node *file, struct layout *l,
                                      GError **err)
{
    uint8_t *buf = io_buf_get(l->cluster);
    struct new_storage data = { 0 };
    size_t len;
    int ret;

    if (!buf) {
        return err_set(err, ENOMEM, "Could not allocate %" PRIu64 " bytes",
                       l->cluster);
    }
    len = fill_first(l, buf);
    if (len == 0) {
        ret = err_set(err, ENOSPC,
                      "The names do not fit the header of an "
                      "image with clusters of %" PRIu64 " bytes: use larger "
                      "ones",
                      l->cluster);
    } else {
        ret = data_file_co_make(file, l, &data, err);
        l->data_reused = !data.path;
        if (ret == 0) {
            ret = qcow2_new_parts_co_write(file, l, buf, len, err);
        }
        /* Now, while the data file can still be taken back. */
        if (ret == 0 && data.node) {
            ret = BARRIER(CREATE_HEADER, node_co_flush(file));
            if (ret < 0) {
                err_set_errno(err, -ret, "Could not flush '%s'",
                              file->filename);
            }
        }
        new_storage_co_close(&data, ret == 0);
    }
    io_buf_put(buf, l->cluster);
    return ret;
}

int qcow2_co_write_new(struct node *file, const struct qcow2_create *c,
                       GError **err)
{
    struct layout l;
    int ret = layout_make(&l, c, err);

    l.reused = file->size > 0;
    return ret < 0 ? ret : qcow2_image_co_write(file, &l, err);
}
