/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The qcow2 header, its extensions and table entries: every field at and beyond
 * its limits. */
#include <glib.h>
#include <stddef.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "wire/qcow2.h"

#define FILE_SIZE (UINT64_C(8) << 20)

static const struct qcow2_header good = {
    .version = 3,
    .backing_offset = 600,
    .backing_len = 100,
    .cluster_bits = 16,
    .size = 10 << 20,
    .l1_size = 1,
    .l1_offset = 0x30000,
    .reftable_offset = 0x10000,
    .reftable_clusters = 1,
    .incompat = QCOW2_I_COMPRESSION,
    .compat = UINT64_C(1) << 63,
    .autoclear = 6,
    .refcount_order = 4,
    .header_length = 112,
    .compression_type = QCOW2_ZSTD,
};

static void test_roundtrip(void)
{
    static const uint8_t want[12] = { 'Q', 'F', 'I', 0xfb, 0, 0, 0, 3 };
    uint8_t buf[128], again[128];
    g_autoptr(GError) err = NULL;
    struct qcow2_header h;

    memset(buf, 0xee, sizeof(buf));
    memset(again, 0xee, sizeof(again));
    qcow2_header_encode(&good, buf);
    g_assert_cmpmem(buf, 8, want, 8);
    g_assert_cmpint(buf[105], ==, 0xee); /* beyond our fields */
    g_assert_true(qcow2_probe(buf, sizeof(buf)));
    g_assert_cmpint(qcow2_header_decode(buf, sizeof(buf), &h, &err), ==, 0);
    qcow2_header_encode(&h, again);
    g_assert_cmpmem(again, sizeof(again), buf, sizeof(buf));
    for (size_t len = 0; len < QCOW2_HEADER_V3; len++) {
        g_assert_cmpint(qcow2_header_decode(buf, len, &h, &err), ==, -EINVAL);
        g_clear_error(&err);
    }
    put_be32(buf + 4, 4);
    g_assert_cmpint(qcow2_header_decode(buf, sizeof(buf), &h, &err), ==,
                    -ENOTSUP);
    g_clear_error(&err);
    put_be32(buf + 4, 2); /* what version 2 does not have is implied */
    g_assert_cmpint(qcow2_header_decode(buf, QCOW2_HEADER_V2, &h, &err), ==, 0);
    g_assert_cmpint(h.header_length, ==, 72);
    g_assert_cmpint(h.refcount_order, ==, 4);
    g_assert_true(h.incompat == 0 && h.compat == 0 && h.autoclear == 0);
    memset(again, 0xee, sizeof(again));
    qcow2_header_encode(&h, again);
    g_assert_cmpint(again[72], ==, 0xee);
    buf[3] = 1;
    g_assert_false(qcow2_probe(buf, sizeof(buf)));
}

#define FIELD(name) \
    offsetof(struct qcow2_header, name), \
        sizeof(((struct qcow2_header *)NULL)->name)

static const struct field {
    size_t at, len;
    uint64_t value;
    int ret;
    uint64_t where;
} fields[] = {
    { FIELD(cluster_bits), 0, -EINVAL, 20 },
    { FIELD(cluster_bits), 8, -EINVAL, 20 },
    { FIELD(cluster_bits), 22, -EINVAL, 20 },
    { FIELD(cluster_bits), 64, -EINVAL, 20 },
    { FIELD(cluster_bits), UINT32_MAX, -EINVAL, 20 },
    { FIELD(cluster_bits), 9, -EINVAL, 8 },   /* the name is outside now */
    { FIELD(cluster_bits), 21, -EINVAL, 48 }, /* tables not aligned now */
    { FIELD(header_length), 0, -EINVAL, 100 },
    { FIELD(header_length), 103, -EINVAL, 100 },
    { FIELD(header_length), 108, -EINVAL, 100 },
    { FIELD(header_length), 65544, -EINVAL, 100 },
    { FIELD(header_length), UINT32_MAX & ~7u, -EINVAL, 100 },
    { FIELD(header_length), 608, -EINVAL, 8 }, /* over the name */
    { FIELD(refcount_order), 0, 0, 0 },
    { FIELD(refcount_order), 6, 0, 0 },
    { FIELD(refcount_order), 7, -EINVAL, 96 },
    { FIELD(refcount_order), UINT32_MAX, -EINVAL, 96 },
    { FIELD(crypt_method), 2, 0, 0 },
    { FIELD(crypt_method), 3, -EINVAL, 32 },
    { FIELD(compression_type), 0, -EINVAL, 104 }, /* its bit is set */
    { FIELD(compression_type), 2, -EINVAL, 104 },
    { FIELD(incompat), 0, -EINVAL, 104 },
    { FIELD(incompat), 0x18, 0, 0 },
    { FIELD(backing_offset), 0, 0, 0 },
    { FIELD(backing_offset), 8, -EINVAL, 8 },
    { FIELD(backing_offset), 65536, -EINVAL, 16 },
    { FIELD(backing_offset), 65537, -EINVAL, 8 },
    { FIELD(backing_offset), UINT64_MAX, -EINVAL, 8 },
    { FIELD(backing_len), 0, 0, 0 },
    { FIELD(backing_len), 1023, 0, 0 },
    { FIELD(backing_len), 1024, -EINVAL, 16 },
    { FIELD(backing_len), UINT32_MAX, -EINVAL, 16 },
    { FIELD(size), 0, 0, 0 },
    { FIELD(size), 512 << 20, 0, 0 },
    { FIELD(size), (512 << 20) + 1, -EINVAL, 36 }, /* L1 too small */
    { FIELD(size), INT64_MAX, -EFBIG, 0 },
    { FIELD(size), UINT64_C(1) << 63, -EINVAL, 24 },
    { FIELD(size), UINT64_MAX, -EINVAL, 24 },
    { FIELD(l1_size), 0, -EINVAL, 36 },
    { FIELD(l1_size), (32 << 20) / 8, -EINVAL, 40 }, /* beyond the file */
    { FIELD(l1_size), (32 << 20) / 8 + 1, -EINVAL, 36 },
    { FIELD(l1_size), UINT32_MAX, -EINVAL, 36 },
    { FIELD(l1_offset), 0, -EINVAL, 40 },
    { FIELD(l1_offset), 1, -EINVAL, 40 },
    { FIELD(l1_offset), FILE_SIZE, -EINVAL, 40 },
    { FIELD(l1_offset), FILE_SIZE - 65536, 0, 0 },
    { FIELD(l1_offset), UINT64_MAX << 16, -EINVAL, 40 },
    { FIELD(reftable_offset), 0, -EINVAL, 48 },
    { FIELD(reftable_offset), 512, -EINVAL, 48 },
    { FIELD(reftable_offset), UINT64_C(1) << 63, -EINVAL, 48 },
    { FIELD(reftable_clusters), 0, 0, 0 },
    { FIELD(reftable_clusters), 128, -EINVAL, 48 }, /* beyond the file */
    { FIELD(reftable_clusters), 129, -EINVAL, 56 },
    { FIELD(reftable_clusters), UINT32_MAX, -EINVAL, 56 },
    { FIELD(n_snapshots), 1, 0, 0 },
    { FIELD(n_snapshots), 65537, 0, 0 },
    { FIELD(n_snapshots), UINT32_MAX, 0, 0 }, /* the disk can be read */
    { FIELD(snapshots_offset), 512, 0, 0 },
    { FIELD(snapshots_offset), UINT64_MAX, 0, 0 },
};

static void test_fields(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(fields); i++) {
        const struct field *f = &fields[i];
        struct qcow2_header h = good;
        g_autoptr(GError) err = NULL;
        uint64_t where = 0;
        int ret;

        memcpy((uint8_t *)&h + f->at, &f->value, f->len); /* little-endian */
        ret = qcow2_header_validate(&h, FILE_SIZE, &where, &err);
        g_test_message("field at %zu value %" G_GUINT64_FORMAT ": %s", f->at,
                       f->value, err ? err->message : "good");
        g_assert_cmpint(ret, ==, f->ret);
        g_assert_cmpuint(where, ==, f->where);
        g_assert_true((err != NULL) == (ret < 0));
    }
}

/* No field, however set, makes the validation trip. */
static void test_random(void)
{
    guint32 seed = g_test_rand_int();
    GRand *r = g_rand_new_with_seed(seed);

    g_test_message("seed %u", seed);
    for (int round = 0; round < 200000; round++) {
        uint8_t buf[128];
        struct qcow2_header h;
        uint64_t where;

        qcow2_header_encode(&good, buf);
        for (int k = g_rand_int_range(r, 1, 4); k > 0; k--) {
            static const uint8_t odd[] = { 0, 1, 0x7f, 0x80, 0xff };
            buf[g_rand_int_range(r, 8, 112)] =
                odd[g_rand_int_range(r, 0, G_N_ELEMENTS(odd))];
        }
        if (qcow2_header_decode(buf, sizeof(buf), &h, NULL) == 0 &&
            qcow2_header_validate(&h, FILE_SIZE, &where, NULL) == 0) {
            g_assert_cmpuint((uint64_t)h.l1_size * 8, <=, FILE_SIZE);
            /* A table of no entries may stand anywhere: nobody reads it. */
            g_assert_true(h.l1_size == 0 || h.l1_offset <= FILE_SIZE);
        }
    }
    g_rand_free(r);
}

/* --- extensions --- */

static void test_exts(void)
{
    GArray *a = qcow2_exts_new(), *b = qcow2_exts_new(), *c;
    uint8_t buf[1024];
    uint64_t where = 0;
    size_t n, m = 0;

    qcow2_exts_add_feature_names(a);
    qcow2_exts_set(a, 0x12345678, "unknown", 7);
    qcow2_exts_set(a, 0x12345678 + 1, "", 0);
    qcow2_exts_set(a, QCOW2_EXT_FORMAT, "raw", 3);
    qcow2_exts_set(a, QCOW2_EXT_BITMAPS, "0123456789abcdef01234567", 24);
    n = qcow2_exts_encode(a, buf, sizeof(buf));
    g_assert_cmpuint(n, ==, qcow2_exts_size(a));
    g_assert_cmpuint(get_be32(buf), ==, QCOW2_EXT_FORMAT);
    g_assert_cmpint(qcow2_exts_decode(b, buf, n, 0, &where, NULL), ==, 0);
    g_assert_cmpuint(b->len, ==, 5);
    g_assert_cmpmem(qcow2_exts_find(b, 0x12345678)->data, 7, "unknown", 7);
    /* Names of features give way, one by one; nothing else does. */
    for (size_t room = n; room-- > 0;) {
        memset(buf, 0xee, sizeof(buf));
        m = qcow2_exts_encode(a, buf, room);
        g_assert_cmpuint(m, <=, room);
        g_assert_cmpint(buf[room], ==, 0xee);
        if (m == 0) {
            break;
        }
        c = qcow2_exts_new();
        g_assert_cmpint(qcow2_exts_decode(c, buf, m, 0, &where, NULL), ==, 0);
        g_assert_cmpuint(c->len, >=, 4);
        g_array_unref(c);
    }
    g_assert_cmpuint(qcow2_exts_size(a) - (8 + 8 * 48), >,
                     m); /* all but the names must fit */
    qcow2_exts_set(a, QCOW2_EXT_FORMAT, NULL, 0);
    g_assert_null(qcow2_exts_find(a, QCOW2_EXT_FORMAT));
    g_array_unref(a);
    g_array_unref(b);
}

static void test_exts_bad(void)
{
    uint8_t buf[64] = { 0 };
    GArray *a = qcow2_exts_new();
    g_autoptr(GError) err = NULL;
    uint64_t where = 0;

    put_be32(buf, 0x1234);
    for (uint32_t len = 50; len < 60; len++) {
        int ret;

        put_be32(buf + 4, len);
        ret = qcow2_exts_decode(a, buf, sizeof(buf), 104, &where, &err);
        g_assert_cmpint(ret, ==, len > 56 ? -EINVAL : 0);
        g_assert_cmpuint(where, ==, 104);
        g_clear_error(&err);
    }
    put_be32(buf + 4, UINT32_MAX);
    g_assert_cmpint(qcow2_exts_decode(a, buf, sizeof(buf), 0, &where, NULL), ==,
                    -EINVAL);
    g_array_set_size(a, 0);
    for (int i = 0; i < 2; i++) {
        put_be32(buf + 16 * i, QCOW2_EXT_FORMAT);
        put_be32(buf + 16 * i + 4, 3);
        buf[16 * i + 8] = (uint8_t)('a' + i);
    }
    g_assert_null(qcow2_exts_doubled(a));
    g_assert_cmpint(qcow2_exts_decode(a, buf, sizeof(buf), 0, &where, NULL), ==,
                    0);
    /* The last one counts. */
    g_assert_cmpuint(a->len, ==, 1);
    g_assert_true(qcow2_exts_doubled(a) ==
                  qcow2_exts_find(a, QCOW2_EXT_FORMAT));
    g_assert_cmpint(qcow2_exts_doubled(a)->data[0], ==, 'b');
    g_array_unref(a);
}

static void test_patch(void)
{
    GArray *a = qcow2_exts_new();
    struct qcow2_ext e = { QCOW2_EXT_FORMAT, 5, (uint8_t *)"qcow2" };
    uint8_t buf[64], before[64];
    size_t n;

    memset(buf, 0, sizeof(buf));
    qcow2_exts_set(a, 0x1111, "other", 5);
    n = qcow2_exts_encode(a, buf, sizeof(buf));
    memcpy(before, buf, sizeof(buf));
    g_assert_false(qcow2_exts_patch(buf, sizeof(buf), &e));
    g_assert_false(qcow2_exts_patch(buf, 12, &e));
    g_assert_cmpmem(buf, sizeof(buf), before, sizeof(before));
    qcow2_exts_set(a, QCOW2_EXT_FORMAT, "raw", 3);
    n = qcow2_exts_encode(a, buf, sizeof(buf));
    g_assert_cmpuint(n, ==, 40);
    g_assert_true(qcow2_exts_patch(buf, n, &e));
    g_assert_cmpmem(buf + 8, 8, "qcow2\0\0", 8);
    e.len = 9;
    e.data = (uint8_t *)"ninebytes";
    g_assert_false(qcow2_exts_patch(buf, n, &e));
    g_array_unref(a);
}

static void test_names(void)
{
    GArray *a = qcow2_exts_new();
    uint8_t table[96] = { QCOW2_INCOMPATIBLE, 7, 's', 'p', 7, 'n' };
    g_autofree char *known = NULL, *own = NULL, *none = NULL;

    memset(table + 50, 'x', 46);
    table[48] = QCOW2_COMPATIBLE;
    table[49] = 63;
    known = qcow2_feature_names(a, QCOW2_INCOMPATIBLE, 3);
    g_assert_cmpstr(known, ==, "dirty bit, corrupt bit");
    qcow2_exts_set(a, QCOW2_EXT_FEATURES, table, sizeof(table));
    own = qcow2_feature_names(a, QCOW2_INCOMPATIBLE, 1 << 7 | 1 << 9);
    g_assert_cmpstr(own, ==, "sp?n, Unknown incompatible feature: 200");
    none = qcow2_feature_names(a, QCOW2_COMPATIBLE, UINT64_C(1) << 63);
    g_assert_cmpuint(strlen(none), ==, 46);
    g_free(own);
    qcow2_exts_set(a, QCOW2_EXT_FEATURES, table, 4);
    own = qcow2_feature_names(a, QCOW2_INCOMPATIBLE, 1 << 7);
    g_assert_cmpstr(own, ==, "sp");
    g_array_unref(a);
}

/* --- entries --- */

static void test_standard(void)
{
    struct qcow2_shape s = { 3, 16, false, false };
    struct qcow2_desc d = { 0, 0 };
    const uint64_t host = 0x50000;

    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_ABSENT);
    d.entry = QCOW2_ZERO_FLAG;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_ZERO);
    g_assert_false(qcow2_desc_has_host(&s, d));
    d.entry |= host | QCOW2_COPIED;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_ZERO);
    g_assert_true(qcow2_desc_has_host(&s, d));
    s.version = 2;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_INVALID);
    d.entry = host;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_DATA);
    d.entry = host + 512;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_INVALID);
    d.entry = QCOW2_COPIED;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_ABSENT);
    s.data_file = true;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_DATA);
    d.entry = QCOW2_COMPRESSED | 1000;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_INVALID);
    s.data_file = false;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_RUN_COMPRESSED);
}

static void test_extended(void)
{
    struct qcow2_shape s = { 3, 16, true, false };
    struct qcow2_desc d = { 0x50000 | QCOW2_COPIED,
                            UINT64_C(0xf0) << 32 | 0x0f };
    uint8_t table[64];

    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_DATA);
    g_assert_cmpint(qcow2_desc_run(&s, d, 1), ==, 3);
    g_assert_cmpint(qcow2_desc_kind(&s, d, 4), ==, QCOW2_ZERO);
    g_assert_cmpint(qcow2_desc_run(&s, d, 4), ==, 4);
    g_assert_cmpint(qcow2_desc_kind(&s, d, 8), ==, QCOW2_ABSENT);
    g_assert_cmpint(qcow2_desc_run(&s, d, 8), ==, 24);
    memset(table, 0xee, sizeof(table));
    qcow2_desc_put(&s, table, 1, d);
    g_assert_cmpuint(get_be64(table + 16), ==, d.entry);
    g_assert_cmpuint(qcow2_desc_get(&s, table, 1).bits, ==, d.bits);
    d.bits |= UINT64_C(1) << 32; /* data and zero at once */
    g_assert_cmpint(qcow2_desc_kind(&s, d, 20), ==, QCOW2_INVALID);
    d = (struct qcow2_desc) { 0, 1 }; /* data without a place */
    g_assert_cmpint(qcow2_desc_kind(&s, d, 0), ==, QCOW2_INVALID);
    d.bits = UINT64_C(1) << 63;
    g_assert_cmpint(qcow2_desc_kind(&s, d, 31), ==, QCOW2_ZERO);
}

static void test_compressed(void)
{
    for (uint8_t bits = 9; bits <= 21; bits++) {
        struct qcow2_shape s = { 3, bits, false, false };
        unsigned x = 62u - (bits - 8u);
        uint64_t most = UINT64_C(1) << MIN(x, 56u);
        uint32_t len;
        uint64_t off;

        for (uint32_t want = 1; want <= 1u << bits; want += 1 + want / 7) {
            static const uint64_t ats[] = { 513, 65535, 1 << 20 };
            for (size_t i = 0; i < G_N_ELEMENTS(ats); i++) {
                uint64_t e = qcow2_compressed_entry(&s, ats[i], want);

                g_assert_cmpuint(e, !=, 0);
                g_assert_cmpint(
                    qcow2_desc_kind(&s, (struct qcow2_desc) { e, 0 }, 0), ==,
                    QCOW2_RUN_COMPRESSED);
                qcow2_compressed_get(&s, e, &off, &len);
                g_assert_cmpuint(off, ==, ats[i]);
                g_assert_cmpuint(len, >=, want);
                g_assert_cmpuint(len, <, want + 512);
                g_assert_cmpuint((off + len) % 512, ==, 0);
            }
        }
        g_assert_cmpuint(qcow2_compressed_entry(&s, most, 1), ==, 0);
        g_assert_cmpuint(qcow2_compressed_entry(&s, most - 1, 1), !=, 0);
        g_assert_cmpuint(qcow2_compressed_entry(&s, 512, 0), ==, 0);
        g_assert_cmpuint(qcow2_compressed_entry(&s, 512, (2u << bits) + 512),
                         ==, 0);
    }
}

static void test_deltas(void)
{
    const struct qcow2_delta a = { 0x50000 | QCOW2_COPIED, 1, 0, 0, false };
    const struct qcow2_delta b = { 0x50000 | QCOW2_COPIED, 0, 6, 8, false };
    const struct qcow2_delta w = { 0, 0, 0xffffffff, 0, true };
    const struct qcow2_desc start = { 0, UINT64_C(8) << 32 };
    struct qcow2_desc ab, ba, once, merged;
    struct qcow2_delta m = a;

    ab = qcow2_delta_apply(qcow2_delta_apply(start, &a), &b);
    ba = qcow2_delta_apply(qcow2_delta_apply(start, &b), &a);
    g_assert_cmpuint(ab.entry, ==, ba.entry);
    g_assert_cmpuint(ab.bits, ==, ba.bits);
    g_assert_cmpuint(ab.bits, ==, UINT64_C(6) << 32 | 1);
    once = qcow2_delta_apply(ab, &b);
    g_assert_cmpuint(once.bits, ==, ab.bits);
    qcow2_delta_merge(&m, &b);
    merged = qcow2_delta_apply(start, &m);
    g_assert_cmpuint(merged.bits, ==, ab.bits);
    g_assert_cmpuint(merged.entry, ==, ab.entry);
    qcow2_delta_merge(&m, &w);
    merged = qcow2_delta_apply(ab, &m);
    g_assert_cmpuint(merged.entry, ==, 0);
    g_assert_cmpuint(merged.bits, ==, UINT64_C(0xffffffff) << 32);
    m = w; /* what comes after a whole one keeps it whole */
    qcow2_delta_merge(&m, &a);
    g_assert_true(m.whole);
    merged = qcow2_delta_apply(ab, &m);
    g_assert_cmpuint(merged.bits, ==, UINT64_C(0xfffffffe) << 32 | 1);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/qcow2/header/roundtrip", test_roundtrip);
    g_test_add_func("/qcow2/header/fields", test_fields);
    g_test_add_func("/qcow2/header/random", test_random);
    g_test_add_func("/qcow2/extensions/lists", test_exts);
    g_test_add_func("/qcow2/extensions/bad", test_exts_bad);
    g_test_add_func("/qcow2/extensions/patch", test_patch);
    g_test_add_func("/qcow2/extensions/names", test_names);
    g_test_add_func("/qcow2/entries/standard", test_standard);
    g_test_add_func("/qcow2/entries/extended", test_extended);
    g_test_add_func("/qcow2/entries/compressed", test_compressed);
    g_test_add_func("/qcow2/entries/deltas", test_deltas);
    return g_test_run();
}
