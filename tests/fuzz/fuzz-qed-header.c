/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The 64 bytes of a QED header: u64 size of the file, then the header. */
#include <string.h>
#include "fuzz.h"
#include "wire/qed.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };
    uint64_t file_size = fuzz_u64(&in), where = 0;
    uint8_t buf[QED_HEADER_LEN], again[QED_HEADER_LEN];
    g_autoptr(GError) err = NULL;
    struct qed_header h;

    qed_probe(in.data, in.len);
    if (qed_header_decode(in.data, in.len, &h, NULL) < 0) {
        if (in.len < sizeof(buf)) {
            return 0;
        }
        memcpy(buf, in.data, sizeof(buf));
        memcpy(buf, "QED", 4);
        g_assert_cmpint(qed_header_decode(buf, sizeof(buf), &h, NULL), ==, 0);
    } else {
        memcpy(buf, in.data, sizeof(buf));
    }
    qed_header_encode(&h, again);
    g_assert_cmpmem(buf, sizeof(buf), again, sizeof(again));
    if (qed_header_validate(&h, file_size, &where, &err) < 0) {
        g_assert_nonnull(err);
        g_assert_cmpuint(where, <, QED_HEADER_LEN);
        return 0;
    }
    /* What passes must be safe to compute with. */
    uint64_t table = qed_table_bytes(h.cluster_size, h.table_size);
    g_assert_cmpuint(table, <=, QED_TABLE_BYTES_MAX);
    g_assert_cmpuint(h.image_size, <=,
                     qed_max_image_size(h.cluster_size, h.table_size));
    g_assert_cmpuint(h.l1_table_offset % h.cluster_size, ==, 0);
    g_assert_cmpuint(h.l1_table_offset, <=, file_size);
    qed_geometry_validate(h.cluster_size, h.table_size, h.image_size, NULL);
    return 0;
}
