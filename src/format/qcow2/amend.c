/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing what kind of image it is: version, lazy_refcounts, the word on the
 * data file.
 *
 * All of it is in the header and changes by one write of sector 0, so that a
 * crash leaves the old kind or the new one (M13).  Version 2 has no clusters that read
 * as zeroes by a flag: before it goes back to that they become absent or, over
 * a backing file, data that is a hole in the file, and are durable.  What else
 * version 2 does not have refuses the change.
 */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/create/create.h"
#include "format/qcow2/data/write.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"

/* No defaults: what is not said stays as it is. */
const struct create_option qcow2_amend_options[] = {
    QCOW2_OPTIONS_OF_AN_IMAGE(NULL, NULL),
    { NULL, NULL, NULL, NULL },
};

/* What the image shall be; as it is where nothing was said. */
struct amend {
    unsigned version;
    bool lazy, data_raw;
    char *data_file, *backing_file, *backing_format; /* or NULL */
    int64_t refcount_bits;
};

static void amend_clear(struct amend *a)
{
    g_free(a->data_file);
    g_free(a->backing_file);
    g_free(a->backing_format);
}

/* 0: not said. */
static int take_version(struct opts *o, unsigned *ret, GError **err)
{
    g_autofree char *text = NULL;
    int r = opts_take_str(o, "compat", &text, err);

    if (r <= 0) {
        return r;
    }
    *ret = g_str_equal(text, "0.10") || g_str_equal(text, "v2")  ? 2
           : g_str_equal(text, "1.1") || g_str_equal(text, "v3") ? 3
                                                                 : 0;
    if (*ret == 0) {
        err_set(err, EINVAL, "Unknown compatibility level %s", text);
        err_hint(err, "They are 0.10 (or v2) and 1.1 (or v3).");
        return -EINVAL;
    }
    return 1;
}

static int amend_take(struct opts *o, const struct qcow2_image *img,
                      struct amend *a, GError **err)
{
    bool says_lazy = opts_has(o, "lazy_refcounts");
    int r;

    *a = (struct amend) {
        .version = img->hdr.version,
        .lazy = img->hdr.compat & QCOW2_C_LAZY_REFCOUNTS,
        .data_raw = img->hdr.autoclear & QCOW2_A_DATA_RAW,
        .refcount_bits = INT64_C(1) << img->hdr.refcount_order,
    };
    if ((r = take_version(o, &a->version, err)) < 0 ||
        (r = opts_take_bool(o, "lazy_refcounts", &a->lazy, err)) < 0 ||
        (r = opts_take_bool(o, "data_file_raw", &a->data_raw, err)) < 0 ||
        (r = opts_take_str(o, "data_file", &a->data_file, err)) < 0 ||
        (r = opts_take_str(o, "backing_file", &a->backing_file, err)) < 0 ||
        (r = opts_take_str(o, "backing_fmt", &a->backing_format, err)) < 0 ||
        (r = opts_take_int(o, "refcount_bits", &a->refcount_bits, err)) < 0) {
        return r;
    }
    a->lazy = a->lazy && (a->version >= 3 || says_lazy);
    return opts_finish(o, err);
}

/* --- what cannot be --- */

static int check_backing(const struct qcow2_image *img, const struct amend *a,
                         GError **err)
{
    bool file = a->backing_file &&
                g_strcmp0(a->backing_file, img->backing_name) != 0;
    bool format = a->backing_format &&
                  g_strcmp0(a->backing_format, img->backing_format) != 0;

    if (!file && !format) {
        return 0;
    }
    err_set(err, EINVAL, "Cannot amend the backing file");
    err_hint(err, "You can use 'sluice rebase' instead.");
    return -EINVAL;
}

static int check_data_file(const struct qcow2_image *img, const struct amend *a,
                           GError **err)
{
    if (a->data_file && !img->shape.data_file) {
        return err_set(err, EINVAL,
                       "data-file can only be set for images that use an "
                       "external data file");
    }
    return a->data_raw && !(img->hdr.autoclear & QCOW2_A_DATA_RAW)
               ? err_set(err, EINVAL,
                         "data-file-raw cannot be set on existing images")
               : 0;
}

static int check_upgrade(const struct qcow2_image *img, GError **err)
{
    if (img->hdr.n_snapshots == 0) {
        return 0;
    }
    err_set(err, ENOTSUP, "Internal snapshots prevent upgrade of image");
    err_hint(err, "Those of version 2 may lack what version 3 needs. 'sluice "
                  "convert' makes a copy without them.");
    return -ENOTSUP;
}

static int check_downgrade(const struct qcow2_image *img, GError **err)
{
    const struct qcow2_header *h = &img->hdr;

    if (h->refcount_order != 4) {
        return err_set(err, ENOTSUP, "compat=0.10 requires refcount_bits=16");
    }
    if (img->shape.data_file) {
        return err_set(err, ENOTSUP,
                       "Cannot downgrade an image with a data file");
    }
    if (h->n_snapshots > 0) {
        return err_set(err, ENOTSUP,
                       "Internal snapshots prevent downgrade of image");
    }
    if (img->bitmaps->list->len > 0) {
        return err_set(err, ENOTSUP,
                       "Cannot downgrade an image with dirty bitmaps");
    }
    if (img->crypt) {
        return err_set(err, ENOTSUP, "Cannot downgrade an encrypted image");
    }
    return h->incompat ? err_set(err, ENOTSUP,
                                 "Cannot downgrade an image with incompatible "
                                 "features 0x%" PRIx64 " set",
                                 h->incompat)
                       : 0;
}

static int amend_check(const struct qcow2_image *img, const struct amend *a,
                       GError **err)
{
    int r = check_backing(img, a, err);

    if (r == 0) {
        r = check_data_file(img, a, err);
    }
    if (r == 0 && a->refcount_bits != INT64_C(1) << img->hdr.refcount_order) {
        err_set(err, ENOTSUP, "refcount_bits cannot be changed");
        err_hint(err, "'sluice convert -o refcount_bits=N' makes a copy.");
        r = -ENOTSUP;
    }
    if (r == 0 && a->lazy && a->version < 3) {
        r = err_set(err, EINVAL,
                    "Lazy refcounts only supported with compatibility level "
                    "1.1 and above (use compat=1.1 or greater)");
    }
    if (r == 0 && a->version > img->hdr.version) {
        r = check_upgrade(img, err);
    }
    return r == 0 && a->version < img->hdr.version ? check_downgrade(img, err)
                                                   : r;
}

/* --- changing it --- */

/* No cluster says zero any more, durably. */
static CO_FN int zeroes_co_leave(struct qcow2_image *img)
{
    int ret = qcow2_co_zeroes_expand(img);

    return ret == 0 ? qcow2_co_settle(img) : ret;
}

/* Header and extensions of the kind that @a asks for. */
static GArray *amend_header(const struct qcow2_image *img,
                            const struct amend *a, struct qcow2_header *h)
{
    GArray *exts = qcow2_exts_copy(img->exts);

    *h = img->hdr;
    h->compat = a->lazy ? h->compat | QCOW2_C_LAZY_REFCOUNTS
                        : h->compat & ~QCOW2_C_LAZY_REFCOUNTS;
    if (!a->data_raw) {
        h->autoclear &= ~QCOW2_A_DATA_RAW;
    }
    if (a->data_file) {
        qcow2_exts_set(exts, QCOW2_EXT_DATA_FILE, a->data_file,
                       (uint32_t)strlen(a->data_file));
    }
    if (a->version < h->version) {
        h->header_length = QCOW2_HEADER_V2;
        h->compat = h->autoclear = 0;
        qcow2_exts_set(exts, QCOW2_EXT_FEATURES, NULL, 0);
    } else if (a->version > h->version) {
        h->header_length = QCOW2_HEADER_OURS;
        qcow2_exts_add_feature_names(exts);
    }
    h->version = a->version;
    return exts;
}

static CO_FN int amend_co_write(struct qcow2_image *img, const struct amend *a)
{
    struct qcow2_header h;
    GArray *exts;
    int ret;

    group_co_lock(img->group);
    exts = amend_header(img, a, &h);
    ret = qcow2_co_write_exts_apart(img, &h, exts);
    if (ret == 0) {
        ret = node_co_sync(img->node, qcow2_file(img));
    }
    group_unlock(img->group);
    g_array_unref(exts);
    return ret;
}

int qcow2_co_amend(struct node *n, struct opts *o, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct amend a;
    int ret = qcow2_check_writable(img, err);

    if (ret < 0) {
        return ret;
    }
    ret = amend_take(o, img, &a, err);
    if (ret == 0) {
        ret = amend_check(img, &a, err);
    }
    if (ret < 0) {
        amend_clear(&a);
        return ret;
    }
    qcow2_prepared_co_drop(img);
    if (a.version < img->hdr.version) {
        ret = zeroes_co_leave(img);
    }
    if (ret == 0) {
        ret = amend_co_write(img, &a);
    }
    amend_clear(&a);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not change the qcow2 image");
    }
    img->shape.version = (uint8_t)img->hdr.version;
    img->opts.lazy_refcounts = img->hdr.compat & QCOW2_C_LAZY_REFCOUNTS;
    return 0;
}
