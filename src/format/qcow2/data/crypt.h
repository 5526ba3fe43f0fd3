/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* luks.c: encrypted images. */
#pragma once
#include "format/qcow2/qcow2.h"

/* Take the options "encrypt.*" and unlock; crypt_method says which. */
CO_FN int qcow2_co_crypt_open(struct qcow2_image *img, struct opts *o,
                              unsigned flags, GError **err);
void qcow2_crypt_close(struct qcow2_image *img);
CO_FN int qcow2_co_crypt_read(struct qcow2_image *img, uint64_t off,
                              uint64_t host, struct iov iov, unsigned flags);
CO_FN int qcow2_co_crypt_write(struct qcow2_image *img, uint64_t off,
                               uint64_t host, struct iov iov, unsigned flags);
/* The range of its header in the file; 0, 0: none. */
void qcow2_crypt_range(const struct qcow2_image *img, uint64_t *ret_host,
                       uint64_t *ret_len);
/* Members of ImageInfo's format-specific data that they add. */
void qcow2_crypt_info(const struct qcow2_image *img, json_t *data);
