/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation, private to create.c, measure.c and new.c. */
#pragma once
#include "format/qcow2/qcow2.h"
#include "graph/image.h"

/* Take the options of creation, checked but for names and size. The caller
 * clears @c, after a failure too. */
int qcow2_create_take(struct opts *o, struct qcow2_create *c, GError **err);
void qcow2_create_clear(struct qcow2_create *c);

/* Make the data file that @c names, empty and of the size of the disk. After 0
 * close it. */
CO_FN int qcow2_co_data_file_create(const struct qcow2_create *c,
                                    struct node *file, struct new_storage *s,
                                    GError **err);

/* Write the image that @c, which is valid, describes into the empty @file.
 * Durable on success. */
CO_FN int qcow2_co_write_new(struct node *file, const struct qcow2_create *c,
                             GError **err);
