/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads of storage that is far away, by several at once: what is under way is
 * not asked for a second time, whoever wants it.
 *
 * For storage that nobody writes to here.  Who joins gets its bytes from the
 * memory of who reads, when they are there, and is told when that fails; so
 * nothing is kept and nothing is copied for those who come alone.
 */
#pragma once
#include "base/annot.h"
#include "base/iov.h"

struct node;

/* How what nobody reads now is read. */
struct far_reader {
    CO_FN_PTR int (*co_read)(struct node *n, uint64_t off, struct iov iov,
                             unsigned flags);
};

/* Read [@off, @off+iov.len) of @n, by joining others or by @reader. 0 or
 * -errno. */
CO_FN int join_co_read(struct node *n, uint64_t off, struct iov iov,
                       unsigned flags, const struct far_reader *reader);
