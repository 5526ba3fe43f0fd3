/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A window onto scattered memory: @len bytes, beginning @skip bytes into the
 * vector @v.  A value: slicing allocates nothing and never fails.  The vector
 * and the memory are borrowed; both outlive every slice of them.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct iov {
    const struct iovec *v;
    unsigned n;  /* elements in @v */
    size_t skip; /* bytes of v[0] before the window; < v[0].iov_len if len>0 */
    size_t len;  /* bytes in the window */
};

/* The window over one buffer; @store must live as long as the result. */
struct iov iov_one(struct iovec *store, void *buf, size_t len);

/* Bytes [@off, @off+@len) of @w. */
struct iov iov_slice(struct iov w, size_t off, size_t len);

/* Write up to @max plain vectors that cover a prefix of @w into @out.
 * Returns how many; *@ret_len is the bytes they cover. */
unsigned iov_export(struct iov w, struct iovec *out, unsigned max,
                    size_t *ret_len);

void iov_from_buf(struct iov w, size_t off, const void *buf, size_t len);
void iov_to_buf(struct iov w, size_t off, void *buf, size_t len);
void iov_memset(struct iov w, size_t off, int c, size_t len);
bool iov_is_zero(struct iov w);
/* Is every one of @len bytes zero? */
bool buf_is_zero(const void *buf, size_t len);
/* The address of the window when it is contiguous, else NULL. */
void *iov_contiguous(struct iov w);
/* Do all parts of the window begin and end at multiples of @align, a power of
 * two? */
bool iov_is_aligned(struct iov w, uint32_t align);
