/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What formats with a backing file share. */
#pragma once
#include <glib.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/iov.h"

struct node;

/* What no cluster of @n holds: the backing file's bytes, zeroes past its
 * end. */
CO_FN int format_co_read_backing(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags);
/* The name in the file below @n of its backing file, @len bytes at @off; no more
 * than the format allows. @len 0: it has none, NULL. Owned. -EINVAL: it holds a
 * zero byte, told as corruption of the image; -errno: it could not be read. */
CO_FN int format_co_read_backing_name(struct node *n, uint64_t off,
                                      uint32_t len, char **ret_name,
                                      GError **err);
