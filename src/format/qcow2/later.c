/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refusals of what the driver cannot do yet: encryption, external data
 * files, writing compressed.  Whoever adds one of them takes its part away.
 */
#include "base/err.h"
#include "format/qcow2/qcow2.h"

int qcow2_co_write_packed(struct qcow2_image *img, uint64_t off,
                          struct iov iov, unsigned flags)
{
    return -ENOTSUP;
}

int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                            unsigned flags, GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}

int qcow2_co_crypt_open(struct qcow2_image *img, struct opts *o,
                        unsigned flags, GError **err)
{
    return img->hdr.crypt_method == QCOW2_CRYPT_NONE ? 0
        : err_set(err, ENOTSUP, "Encrypted qcow2 images are not supported");
}

void qcow2_crypt_close(struct qcow2_image *img)
{
}

int qcow2_co_crypt_write(struct qcow2_image *img, uint64_t off, uint64_t host,
                         struct iov iov, unsigned flags)
{
    return -ENOTSUP;
}

void qcow2_crypt_place(const struct qcow2_image *img, uint64_t *ret_host,
                       uint64_t *ret_len)
{
    *ret_host = *ret_len = 0;
}

int qcow2_co_crypt_read(struct qcow2_image *img, uint64_t off, uint64_t host,
                        struct iov iov, unsigned flags)
{
    return -ENOTSUP;
}

void qcow2_crypt_info(const struct qcow2_image *img, json_t *data)
{
}

int qcow2_co_snapshots_open(struct qcow2_image *img, GError **err)
{
    return 0;
}

unsigned qcow2_n_snapshots(const struct qcow2_image *img)
{
    return 0;
}

const struct qcow2_snapshot *qcow2_snapshot_at(const struct qcow2_image *img,
                                               unsigned i)
{
    return NULL;
}

uint64_t qcow2_snapshots_bytes(const struct qcow2_image *img)
{
    return 0;
}

void qcow2_snapshots_close(struct qcow2_image *img)
{
}

void qcow2_snapshots_info(const struct qcow2_image *img, json_t *info)
{
}

int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err)
{
    return 0;
}

int qcow2_co_bitmaps_begin_writes(struct qcow2_image *img, GError **err)
{
    return 0;
}

int qcow2_co_bitmaps_end_writes(struct qcow2_image *img)
{
    return 0;
}

void qcow2_bitmaps_mark(struct qcow2_image *img, uint64_t off, uint64_t len)
{
}

void qcow2_bitmaps_close(struct qcow2_image *img)
{
}

int qcow2_co_bitmaps_info(struct qcow2_image *img, json_t *data, GError **err)
{
    return 0;
}

int qcow2_crypt_take_options(struct opts *o,
                             struct qcow2_crypt_options **ret_options,
                             GError **err)
{
    return 0; /* whoever asks for it learns that the option is unknown */
}

void qcow2_crypt_options_free(struct qcow2_crypt_options *c)
{
}

int qcow2_crypt_method(const struct qcow2_crypt_options *c)
{
    return QCOW2_CRYPT_NONE;
}

uint64_t qcow2_crypt_header_bytes(const struct qcow2_crypt_options *c)
{
    return 0;
}

int qcow2_co_crypt_create(const struct qcow2_crypt_options *c,
                          struct node *file, uint64_t host, GError **err)
{
    return err_set(err, ENOTSUP, "Encrypted qcow2 images are not supported");
}

int qcow2_co_data_file_create(const struct qcow2_create *c, struct node *file,
                              GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}
