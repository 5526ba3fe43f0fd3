/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading what is below an overlay: from there, or from reads in flight. */
#pragma once
#include "graph/model/in-flight.h"

/* Read the clusters from the chain below; zeroes past its end. Wakes joiners.
 * @flags: IO_BACKGROUND or 0. Returns what joiners get, too. */
CO_FN int inflight_co_read(struct inflight *f, unsigned flags);
/* Read [@off, ...) of the chain below @n as a reader of @n sees it where @n
 * itself has nothing: from in-flight reads where they hold the bytes, else from
 * below; zeroes past the end of what is below. */
CO_FN int inflight_co_read_below(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags);
