/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Refusals of what the driver cannot do yet: external data files.
 */
#include "base/err.h"
#include "format/qcow2/qcow2.h"

int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                            unsigned flags, GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}

int qcow2_co_data_file_create(const struct qcow2_create *c, struct node *file,
                              GError **err)
{
    return err_set(err, ENOTSUP, "qcow2 images with an external data file are "
                   "not supported");
}
