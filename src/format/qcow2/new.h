/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation, private to create.c and new.c. */
#pragma once
#include "format/qcow2/qcow2.h"

/* Write the image that @c, which is valid, describes into the empty @file.
 * Durable on success. */
CO_FN int qcow2_co_write_new(struct node *file, const struct qcow2_create *c,
                             GError **err);
