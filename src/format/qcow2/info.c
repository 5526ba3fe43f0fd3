/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The facts of ImageInfo that are qcow2's own, in the order of QEMU. */
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/data/data.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/snapshot.h"

static const char *const compression_names[] = { "zlib", "zstd" };

int qcow2_co_info(struct node *n, json_t *info, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    const struct qcow2_header *h = &img->hdr;
    json_t *data = json_object();
    int ret;

    json_object_set_new(data, "compat",
                        json_string(h->version == 2 ? "0.10" : "1.1"));
    json_object_set_new(data, "compression-type",
                        json_string(compression_names[h->compression_type]));
    if (h->version > 2) {
        json_object_set_new(data, "lazy-refcounts",
                            json_boolean(h->compat & QCOW2_C_LAZY_REFCOUNTS));
    }
    ret = qcow2_co_bitmaps_info(img, data, err);
    json_object_set_new(data, "refcount-bits",
                        json_integer(1 << h->refcount_order));
    qcow2_crypt_info(img, data);
    if (h->incompat & QCOW2_I_DATA_FILE) {
        g_autofree char *name = qcow2_data_file_name(img);

        if (name) {
            json_object_set_new(data, "data-file", json_string(name));
        }
        json_object_set_new(data, "data-file-raw",
                            json_boolean(h->autoclear & QCOW2_A_DATA_RAW));
    }
    if (h->version > 2) {
        json_object_set_new(data, "corrupt",
                            json_boolean(h->incompat & QCOW2_I_CORRUPT));
        json_object_set_new(data, "extended-l2",
                            json_boolean(h->incompat & QCOW2_I_EXTENDED_L2));
    }
    json_object_set_new(info, "cluster-size",
                        json_integer((json_int_t)qcow2_cluster_size(img)));
    json_object_set_new(info, "dirty-flag",
                        json_boolean(h->incompat & QCOW2_I_DIRTY));
    if (h->crypt_method != QCOW2_CRYPT_NONE) {
        json_object_set_new(info, "encrypted", json_true());
    }
    json_object_set_new(info, "format-specific",
                        json_pack("{s:s,s:o}", "type", "qcow2", "data", data));
    qcow2_snapshots_info(img, info);
    return ret;
}
