/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writes that do not wait for a base: graph/model/early.h. */
#pragma once
#include "graph/io/dispatch.h"
#include "graph/model/early.h"

/* Can what [@off, @off+@len) covers be kept, as whole sectors? */
bool early_fits(const struct node *n, uint64_t off, uint64_t len);
/* How much of a guest's write is to be made by itself, so that none of its ends
 * waits for a base: it touches one cluster, or whole ones. */
uint64_t early_split(struct node *n, uint64_t off, uint64_t len,
                     unsigned flags);
/* A guest writes @iov at @off, inside of one absent cluster, and holds that
 * range (TRACK_WRITE). True: it is kept, and the write is done. No yield. */
bool early_begin_write(struct node *n, uint64_t off, struct iov iov,
                       unsigned flags);
/* @iov at @off, which fits, inside of @e; the range is held. No yield. */
void early_put(struct early *e, uint64_t off, struct iov iov);
/* Read inside of @e, with what the guest did not write from the base. The
 * caller has a reference. */
CO_FN int early_co_read(struct early *e, uint64_t off, struct iov iov,
                        unsigned flags);
/* The driver has been given new content for [@off, @off+@len), whole clusters
 * that are held: what was kept there is out of date. No yield. */
void early_forget(struct node *n, uint64_t off, uint64_t len);
/* The same where the driver may have done nothing: what it still shows as absent
 * is kept. */
CO_FN int early_co_forget_mapped(struct node *n, uint64_t off, uint64_t len);
