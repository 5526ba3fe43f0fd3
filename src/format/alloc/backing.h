/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What formats with a backing file share. */
#pragma once
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct node;

/* What no cluster of @n holds: the backing file's bytes, zeroes past its
 * end. */
CO_FN int format_co_read_backing(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags);
