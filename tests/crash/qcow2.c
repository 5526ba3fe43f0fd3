/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2 for the simulator: a reading of the metadata of its own, that counts
 * who refers to each cluster and compares with the refcounts (M1, M4).
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "crash.h"
#include "format/format.h"
#include <zlib.h>

#define OFFSET UINT64_C(0x00fffffffffffe00)
#define COPIED (UINT64_C(1) << 63)
#define COMPRESSED (UINT64_C(1) << 62)
#define I_DIRTY 1
#define I_DATA_FILE 4
#define I_EXTENDED 16
#define A_KNOWN UINT64_C(3)

struct walk {
    const struct sim_image *img;
    uint64_t file, size; /* the file's */
    uint64_t cluster, data_file;
    unsigned bits, refcount_bits, entry;
    uint64_t l1, l1_size, table, table_clusters, snapshots;
    unsigned n_snapshots;
    uint64_t incompat;
    GHashTable *refs;    /* cluster -> count */
    GHashTable *classes; /* cluster -> rec_class, or NULL */
    char *bad;
};

static uint64_t be64_at(const struct walk *w, uint64_t off)
{
    uint8_t buf[8];

    sim_image_read(w->img, w->file, off, buf, 8);
    return get_be64(buf);
}

static uint32_t be32_at(const struct walk *w, uint64_t off)
{
    return (uint32_t)(be64_at(w, off) >> 32);
}

/* False: no image. */
static bool walk_begin_at(struct walk *w, const struct sim_image *img,
                          const char *path)
{
    *w = (struct walk) { .img = img, .file = sim_image_find(img, path) };
    if (!w->file || be32_at(w, 0) != 0x514649fb) {
        return false;
    }
    w->size = sim_image_size(img, w->file);
    w->bits = be32_at(w, 20);
    w->cluster = UINT64_C(1) << w->bits;
    w->l1_size = be32_at(w, 36);
    w->l1 = be64_at(w, 40);
    w->table = be64_at(w, 48);
    w->table_clusters = be32_at(w, 56);
    w->n_snapshots = be32_at(w, 60);
    w->snapshots = be64_at(w, 64);
    w->refcount_bits = 16;
    if (be32_at(w, 4) >= 3) {
        w->incompat = be64_at(w, 72);
        w->refcount_bits = 1u << be32_at(w, 96);
    }
    w->data_file = w->incompat & I_DATA_FILE;
    w->entry = w->incompat & I_EXTENDED ? 16 : 8;
    return true;
}

static bool walk_begin(struct walk *w, const struct sim_image *img)
{
    return walk_begin_at(w, img, "/top");
}

static void refer(struct walk *w, uint64_t off, uint64_t len, enum rec_class c)
{
    uint64_t first = off / w->cluster, last = (off + len - 1) / w->cluster;

    /* The last cluster of a file need not be whole. */
    if (!w->bad && off + len >= w->size + w->cluster) {
        w->bad = g_strdup_printf("qcow2: a structure at %#" PRIx64 " lies past "
                                 "the end of the file",
                                 off);
    }
    for (uint64_t i = first; i <= last; i++) {
        gpointer key = GSIZE_TO_POINTER(i);

        g_hash_table_insert(
            w->refs, key,
            GSIZE_TO_POINTER(
                GPOINTER_TO_SIZE(g_hash_table_lookup(w->refs, key)) + 1));
        if (w->classes) {
            g_hash_table_insert(w->classes, key, GUINT_TO_POINTER(c));
        }
    }
}

static uint64_t refcount(const struct walk *w, uint64_t off)
{
    uint64_t i = off / w->cluster;
    uint64_t per = w->cluster * 8 / w->refcount_bits;
    uint64_t block, bit = i % per * w->refcount_bits, value = 0;
    uint8_t byte;

    if (i / per >= w->table_clusters * w->cluster / 8) {
        return 0;
    }
    block = be64_at(w, w->table + i / per * 8) & ~UINT64_C(0x1ff);
    if (!block) {
        return 0;
    }
    for (unsigned k = 0; k < MAX(w->refcount_bits / 8, 1); k++) {
        sim_image_read(w->img, w->file, block + bit / 8 + k, &byte, 1);
        value = value << 8 | byte;
    }
    return w->refcount_bits < 8
               ? value >> bit % 8 & ((1u << w->refcount_bits) - 1)
               : value;
}

/* COPIED says that the refcount is 1: wrong, a writer would share. */
static void check_copied(struct walk *w, uint64_t entry, const char *what)
{
    uint64_t off = entry & OFFSET, count = refcount(w, off);

    if (!w->bad && !(w->incompat & I_DIRTY) && (entry & COPIED) && count != 1) {
        w->bad = g_strdup_printf("qcow2: %s %#" PRIx64 " is marked as not "
                                 "shared, but counted %" PRIu64 " times",
                                 what, off, count);
    }
}

/* In a data file every cluster is at its guest offset. */
static void check_place(struct walk *w, uint64_t entry, uint64_t guest)
{
    uint64_t off = entry & OFFSET;

    if (!w->bad && ((off || (entry & COPIED)) && off != guest)) {
        w->bad = g_strdup_printf("qcow2: the cluster of %#" PRIx64
                                 " is at %#" PRIx64 " of the data file",
                                 guest, off);
    }
}

/* The table for what begins at @guest. */
static void walk_l2(struct walk *w, uint64_t table, uint64_t guest, bool active)
{
    g_autofree uint8_t *buf = g_malloc(w->cluster);

    sim_image_read(w->img, w->file, table, buf, w->cluster);
    for (uint64_t i = 0; i < w->cluster && !w->bad; i += w->entry) {
        uint64_t e = get_be64(buf + i);

        if (e & COMPRESSED) {
            unsigned shift = 62 - (w->bits - 8);
            uint64_t off = e & ((UINT64_C(1) << shift) - 1);
            uint64_t sectors = (e & ~(COPIED | COMPRESSED)) >> shift;

            refer(w, off & ~UINT64_C(511), (sectors + 1) * 512, CLASS_DATA);
        } else if (w->data_file) {
            check_place(w, e, guest + i / w->entry * w->cluster);
        } else if (e & OFFSET) {
            if (active) {
                check_copied(w, e, "data cluster");
            }
            refer(w, e & OFFSET, w->cluster, CLASS_DATA);
        }
    }
}

static void walk_l1(struct walk *w, uint64_t l1, uint64_t n, bool active)
{
    if (n == 0) {
        return;
    }
    refer(w, l1, n * 8, CLASS_L1);
    for (uint64_t i = 0; i < n && !w->bad; i++) {
        uint64_t e = be64_at(w, l1 + i * 8);

        if (!(e & OFFSET)) {
            continue;
        }
        if (active) {
            check_copied(w, e, "L2 table");
        }
        refer(w, e & OFFSET, w->cluster, CLASS_L2);
        walk_l2(w, e & OFFSET, i * (w->cluster / w->entry) * w->cluster,
                active);
    }
}

static void walk_refcounts(struct walk *w)
{
    uint64_t n = w->table_clusters * w->cluster / 8;

    refer(w, w->table, w->table_clusters * w->cluster, CLASS_REFCOUNT);
    for (uint64_t i = 0; i < n && !w->bad; i++) {
        uint64_t block = be64_at(w, w->table + i * 8) & ~UINT64_C(0x1ff);

        if (block) {
            refer(w, block, w->cluster, CLASS_REFCOUNT);
        }
    }
}

static void walk_snapshots(struct walk *w)
{
    uint64_t at = w->snapshots;

    for (unsigned i = 0; i < w->n_snapshots && !w->bad; i++) {
        uint64_t extra = be32_at(w, at + 36), l1 = be64_at(w, at);
        uint32_t lens = be32_at(w, at + 12);

        walk_l1(w, l1, be32_at(w, at + 8), false);
        at += 40 + extra + (lens >> 16) + (lens & 0xffff);
        at = (at + 7) & ~UINT64_C(7);
    }
    if (w->n_snapshots) {
        refer(w, w->snapshots, at - w->snapshots, CLASS_L1);
    }
}

static void walk_bitmap(struct walk *w)
{
    struct bitmap_view b;

    if (!model_bitmap_find(w->img, w->file, &b)) {
        return;
    }
    refer(w, b.dir, b.dir_bytes, CLASS_L1);
    refer(w, b.table, b.entries * 8ull, CLASS_L1);
    for (uint32_t i = 0; i < b.entries && !w->bad; i++) {
        uint64_t e = bitmap_entry(w->img, w->file, &b, i);

        if (e & OFFSET) {
            refer(w, e & OFFSET, w->cluster, CLASS_L2);
        }
    }
}

static void walk_all(struct walk *w)
{
    w->refs = g_hash_table_new(NULL, NULL);
    refer(w, 0, w->cluster, CLASS_HEADER);
    walk_refcounts(w);
    walk_l1(w, w->l1, w->l1_size, true);
    walk_snapshots(w);
    walk_bitmap(w);
}

static void walk_end(struct walk *w)
{
    g_hash_table_destroy(w->refs);
}

static char *qcow2_check_rules(const struct state *st)
{
    GHashTableIter it;
    gpointer key, value;
    struct walk w;

    if (!walk_begin(&w, st->img)) {
        return NULL;
    }
    if (be32_at(&w, 4) >= 3 && (be64_at(&w, 88) & ~A_KNOWN) &&
        (w.bad = rules_autoclear(st, w.file)) != NULL) {
        return w.bad;
    }
    walk_all(&w);
    g_hash_table_iter_init(&it, w.refs);
    while (!w.bad && !(w.incompat & I_DIRTY) &&
           g_hash_table_iter_next(&it, &key, &value)) {
        uint64_t off = GPOINTER_TO_SIZE(key) * w.cluster;
        uint64_t count = refcount(&w, off);

        if (count < GPOINTER_TO_SIZE(value)) {
            w.bad = g_strdup_printf("qcow2: cluster %#" PRIx64 " is referred "
                                    "to %zu times, its refcount is %" PRIu64,
                                    off, GPOINTER_TO_SIZE(value), count);
        }
    }
    walk_end(&w);
    return w.bad;
}

/* --- what the records are --- */

/* By the image as it begins, and as it is after each write of tables. */
static void note_classes(struct sim_image *img, GHashTable *classes)
{
    struct walk w;

    if (walk_begin(&w, img)) {
        w.classes = classes;
        walk_all(&w);
        g_free(w.bad);
        walk_end(&w);
    }
}

static void qcow2_classify(struct history *h, const struct crash_config *c)
{
    struct sim_image *img = sim_image_copy(h->start);
    GHashTable *classes = g_hash_table_new(NULL, NULL);

    note_classes(img, classes);
    for (unsigned i = 0; i < h->n; i++) {
        const struct sim_record *r = &h->recs[i].r;

        if (r->op == SIM_CREATE) {
            sim_image_create(img, r->file);
            sim_image_link(img, r->path, r->file);
        } else if (r->op == SIM_WRITE && r->len <= c->cluster &&
                   sim_image_has(img, r->file)) {
            sim_image_write(img, r->file, r->off, r->data, r->len);
        } else if (r->op == SIM_FDATASYNC) {
            note_classes(img, classes);
        }
    }
    for (unsigned i = 0; i < h->n; i++) {
        const struct sim_record *r = &h->recs[i].r;

        if (r->op == SIM_WRITE && !g_strcmp0(r->path, "/top")) {
            h->recs[i].cls = (enum rec_class)GPOINTER_TO_UINT(
                g_hash_table_lookup(classes,
                                    GSIZE_TO_POINTER(r->off / c->cluster)));
        }
    }
    g_hash_table_destroy(classes);
    sim_image_free(img);
}

static void refcount_set(struct sim_image *img, const struct walk *w,
                         uint64_t off, uint16_t count)
{
    uint64_t i = off / w->cluster, per = w->cluster * 8 / w->refcount_bits;
    uint64_t block = be64_at(w, w->table + i / per * 8) & ~UINT64_C(0x1ff);
    uint64_t bytes = w->refcount_bits / 8;
    uint8_t buf[8];

    g_assert(block && bytes >= 2);
    put_be64(buf, count);
    sim_image_write(img, w->file, block + i % per * bytes, buf + 8 - bytes,
                    bytes);
}

/* Nobody closed it, and its refcounts lag: of the first L2 table and of two of
 * the clusters it leads to. */
static void qcow2_damage(struct sim_image *img, const struct crash_config *c,
                         bool worse)
{
    uint64_t table;
    struct walk w;
    uint8_t bits[8];

    g_assert(walk_begin(&w, img));
    table = be64_at(&w, w.l1) & OFFSET;
    if (!c->data_file) {
        refcount_set(img, &w, be64_at(&w, table) & OFFSET, 0);
        refcount_set(img, &w, be64_at(&w, table + w.entry) & OFFSET, 0);
    }
    refcount_set(img, &w, table, 0);
    if (worse) { /* or all of them are lost */
        put_be64(bits, 0);
        sim_image_write(img, w.file, w.table, bits, 8);
    }
    put_be64(bits, w.incompat | I_DIRTY);
    sim_image_write(img, w.file, 72, bits, 8);
}

static void qcow2_set_autoclear(struct sim_image *img)
{
    uint8_t bits[8];

    put_be64(bits, UINT64_C(1) << 40);
    sim_image_write(img, sim_image_find(img, "/top"), 88, bits, 8);
}

/* --- compressed clusters --- */

/* Where the descriptor of guest cluster @i is. */
static uint64_t entry_at(const struct walk *w, uint64_t i)
{
    uint64_t per = w->cluster / w->entry;
    uint64_t table = be64_at(w, w->l1 + i / per * 8) & OFFSET;

    g_assert(table);
    return table + i % per * w->entry;
}

static uint32_t deflate_into(uint8_t *out, uint32_t room, uint8_t *data,
                             uint32_t len)
{
    z_stream z = {
        .next_in = data, .avail_in = len, .next_out = out, .avail_out = room
    };

    g_assert(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) ==
             Z_OK);
    g_assert(deflate(&z, Z_FINISH) == Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

/* Streams of several clusters share one at the end of the file. */
static void qcow2_compress(struct sim_image *img, const char *path,
                           uint64_t first, unsigned n)
{
    uint64_t at;
    struct walk w;

    g_assert(walk_begin_at(&w, img, path));
    at = (w.size + w.cluster - 1) / w.cluster * w.cluster;
    refcount_set(img, &w, at, (uint16_t)n);
    sim_image_truncate(img, w.file, at + w.cluster);
    for (unsigned i = 0; i < n; i++) {
        g_autofree uint8_t *data = g_malloc(w.cluster);
        g_autofree uint8_t *out = g_malloc(w.cluster);
        uint64_t where = entry_at(&w, first + i), host = be64_at(&w, where);
        uint32_t len;
        uint8_t e[8];

        sim_image_read(img, w.file, host & OFFSET, data, w.cluster);
        refcount_set(img, &w, host & OFFSET, 0);
        len = deflate_into(out, (uint32_t)w.cluster / n, data,
                           (uint32_t)w.cluster);
        sim_image_write(img, w.file, at, out, len);
        put_be64(e, COMPRESSED | at |
                        ((at % 512 + len - 1) / 512) << (62 - (w.bits - 8)));
        sim_image_write(img, w.file, where, e, 8);
        at += len;
    }
}

static bool qcow2_is_whole(const struct sim_image *img)
{
    struct walk w;

    return walk_begin(&w, img);
}

const struct crash_format format_qcow2 = {
    .name = "qcow2",
    .drv = &qcow2_driver,
    .classify = qcow2_classify,
    .check_rules = qcow2_check_rules,
    .set_autoclear = qcow2_set_autoclear,
    .is_whole = qcow2_is_whole,
    .compress = qcow2_compress,
    .damage = qcow2_damage,
};
