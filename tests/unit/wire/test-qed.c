/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The QED header: every field at and beyond its limits. */
#include <glib.h>
#include <string.h>
#include "base/err.h"
#include "wire/qed.h"

static const struct qed_header good = {
    .cluster_size = 65536,
    .table_size = 4,
    .header_size = 1,
    .features = QED_F_BACKING_FILE | QED_F_NO_PROBE,
    .compat_features = UINT64_C(1) << 63,
    .autoclear_features = 6,
    .l1_table_offset = 65536,
    .image_size = 10 << 20,
    .backing_name_offset = 64,
    .backing_name_size = 100,
};
#define FILE_SIZE (UINT64_C(1) << 20)

static void test_roundtrip(void)
{
    static const uint8_t want[16] = { 'Q', 'E', 'D', 0, 0, 0, 1, 0,
                                      4,   0,   0,   0, 1, 0, 0, 0 };
    uint8_t buf[QED_HEADER_LEN], again[QED_HEADER_LEN];
    g_autoptr(GError) err = NULL;
    struct qed_header h;

    qed_header_encode(&good, buf);
    g_assert_cmpmem(buf, 16, want, 16);
    g_assert_true(qed_probe(buf, sizeof(buf)));
    g_assert_cmpint(qed_header_decode(buf, sizeof(buf), &h, &err), ==, 0);
    qed_header_encode(&h, again);
    g_assert_cmpmem(again, sizeof(again), buf, sizeof(buf));
    for (size_t len = 0; len < QED_HEADER_LEN; len++) {
        g_assert_cmpint(qed_header_decode(buf, len, &h, &err), ==, -EINVAL);
        g_clear_error(&err);
    }
    buf[3] = 1;
    g_assert_false(qed_probe(buf, sizeof(buf)));
    g_assert_cmpint(qed_header_decode(buf, sizeof(buf), &h, &err), ==, -EINVAL);
}

#define FIELD(name) \
    offsetof(struct qed_header, name), sizeof(((struct qed_header *)NULL)->name)

static const struct field {
    size_t at, len;
    uint64_t value;
    int ret;
    uint64_t where;
} fields[] = {
    { FIELD(cluster_size), 0, -EINVAL, 4 },
    { FIELD(cluster_size), 1, -EINVAL, 4 },
    { FIELD(cluster_size), 2048, -EINVAL, 4 },
    { FIELD(cluster_size), 65535, -EINVAL, 4 },
    { FIELD(cluster_size), 65536 + 4096, -EINVAL, 4 },
    { FIELD(cluster_size), UINT32_C(1) << 27, -EINVAL, 4 },
    { FIELD(cluster_size), UINT32_MAX, -EINVAL, 4 },
    { FIELD(cluster_size), 64 << 20, -EINVAL, 8 }, /* tables too large */
    { FIELD(cluster_size), 32768, 0, 0 },
    { FIELD(cluster_size), 131072, -EINVAL, 40 }, /* L1 not aligned now */
    { FIELD(table_size), 0, -EINVAL, 8 },
    { FIELD(table_size), 3, -EINVAL, 8 },
    { FIELD(table_size), 32, -EINVAL, 8 },
    { FIELD(table_size), UINT32_MAX, -EINVAL, 8 },
    { FIELD(table_size), 1, 0, 0 },
    { FIELD(table_size), 8, 0, 0 },
    { FIELD(table_size), 16, -EINVAL, 40 }, /* past the file's end */
    { FIELD(header_size), 0, -EINVAL, 12 },
    { FIELD(header_size), 1025, -EINVAL, 12 },
    { FIELD(header_size), UINT32_MAX, -EINVAL, 12 },
    { FIELD(header_size), 2, -EINVAL, 40 }, /* over the L1 table */
    { FIELD(features), 0, 0, 0 },
    { FIELD(features), 7, 0, 0 },
    { FIELD(features), 8, -ENOTSUP, 16 },
    { FIELD(features), UINT64_C(1) << 63, -ENOTSUP, 16 },
    { FIELD(features), UINT64_MAX, -ENOTSUP, 16 },
    { FIELD(compat_features), UINT64_MAX, 0, 0 },
    { FIELD(autoclear_features), UINT64_MAX, 0, 0 },
    { FIELD(l1_table_offset), 0, -EINVAL, 40 },
    { FIELD(l1_table_offset), 65537, -EINVAL, 40 },
    { FIELD(l1_table_offset), FILE_SIZE - 4 * 65536, 0, 0 },
    { FIELD(l1_table_offset), FILE_SIZE - 3 * 65536, -EINVAL, 40 },
    { FIELD(l1_table_offset), FILE_SIZE, -EINVAL, 40 },
    { FIELD(l1_table_offset), UINT64_MAX - 65535, -EINVAL, 40 },
    { FIELD(l1_table_offset), UINT64_C(1) << 63, -EINVAL, 40 },
    { FIELD(image_size), 0, 0, 0 },
    { FIELD(image_size), 511, -EINVAL, 48 },
    { FIELD(image_size), 513, -EINVAL, 48 },
    { FIELD(image_size), UINT64_C(64) << 40, 0, 0 },
    { FIELD(image_size), (UINT64_C(64) << 40) + 512, -EINVAL, 48 },
    { FIELD(image_size), UINT64_MAX - 511, -EINVAL, 48 },
    { FIELD(backing_name_offset), 0, -EINVAL, 56 },
    { FIELD(backing_name_offset), 63, -EINVAL, 56 },
    { FIELD(backing_name_offset), 65436, 0, 0 },
    { FIELD(backing_name_offset), 65437, -EINVAL, 56 },
    { FIELD(backing_name_offset), UINT32_MAX, -EINVAL, 56 },
    { FIELD(backing_name_size), 0, 0, 0 },
    { FIELD(backing_name_size), 4095, 0, 0 },
    { FIELD(backing_name_size), 4096, -EINVAL, 60 },
    { FIELD(backing_name_size), UINT32_MAX, -EINVAL, 60 },
};

static void test_fields(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        const struct field *f = &fields[i];
        g_autoptr(GError) err = NULL;
        struct qed_header h = good;
        uint32_t narrow = (uint32_t)f->value;
        uint64_t where = 0;
        int ret;

        if (f->len == 4) {
            memcpy((char *)&h + f->at, &narrow, 4);
        } else {
            memcpy((char *)&h + f->at, &f->value, 8);
        }
        ret = qed_header_validate(&h, FILE_SIZE, &where, &err);
        g_test_message("row %u: %s", i, err ? err->message : "good");
        g_assert_cmpint(ret, ==, f->ret);
        if (ret < 0) {
            g_assert_nonnull(err);
            g_assert_cmpuint(where, ==, f->where);
        }
    }
}

/* Names past the header are no matter when there is no backing file. */
static void test_no_backing(void)
{
    struct qed_header h = good;
    uint64_t where;

    h.features = 0;
    h.backing_name_offset = h.backing_name_size = UINT32_MAX;
    g_assert_cmpint(qed_header_validate(&h, FILE_SIZE, &where, NULL), ==, 0);
}

static void test_max_size(void)
{
    for (uint32_t c = QED_CLUSTER_MIN; c <= QED_CLUSTER_MAX; c *= 2) {
        for (uint32_t t = QED_TABLE_MIN; t <= QED_TABLE_MAX; t *= 2) {
            uint64_t max = qed_max_image_size(c, t);
            bool fits = (uint64_t)c * t <= QED_TABLE_BYTES_MAX;

            g_assert_cmpuint(max, >, 0);
            g_assert_cmpuint(max, <=, INT64_MAX);
            g_assert_cmpint(qed_geometry_validate(c, t, max & ~511ull, NULL),
                            ==, fits ? 0 : -EINVAL);
        }
    }
    g_assert_cmpuint(qed_max_image_size(65536, 4), ==, UINT64_C(64) << 40);
    g_assert_cmpuint(qed_max_image_size(4096, 1), ==, UINT64_C(1) << 30);
    g_assert_cmpint(qed_geometry_validate(0, 4, 0, NULL), ==, -EINVAL);
    g_assert_cmpint(qed_geometry_validate(UINT64_C(1) << 32, 4, 0, NULL), ==,
                    -EINVAL);
    g_assert_cmpint(qed_geometry_validate(65536, UINT64_C(1) << 34, 0, NULL),
                    ==, -EINVAL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/qed/roundtrip", test_roundtrip);
    g_test_add_func("/wire/qed/fields", test_fields);
    g_test_add_func("/wire/qed/no-backing", test_no_backing);
    g_test_add_func("/wire/qed/max-size", test_max_size);
    return g_test_run();
}
