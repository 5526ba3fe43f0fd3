/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of a job that leaves images out of a chain: an overlay's header and
 * its backing edge lead past them from then on.  Under stream and commit.
 *
 * The steps and their order stand in doc/invariants.rst ("Pivot").  Before
 * them the caller has made durable whatever the overlay will read without the
 * images that go (P1), and it holds the chain: nobody else changes it.
 */
#pragma once
#include <glib.h>
#include "base/annot.h"
#include "graph/node.h"

struct pivot {
    struct node *overlay; /* no filter */
    struct node *bottom;  /* the lowest image that goes, or @overlay; no
                           * filter */
};

/* What stays below: where the backing edge of @bottom leads, filters of others
 * included; NULL: nothing. */
struct node *pivot_base(const struct pivot *p);

/* Will the header of the overlay be able to say what its backing file is?
 * @backing_file: what it shall say; NULL: worked out. To be asked before the
 * job begins. */
CO_FN int pivot_co_check_name(const struct pivot *p, const char *backing_file,
                              GError **err);
/* Steps 4 to 6: rewrite the header, durably. @u: the caller's backend on the
 * overlay. On failure the old reference stands (P3). */
CO_FN int pivot_co_change_header(const struct pivot *p, struct backend *u,
                                 const char *backing_file, GError **err);
/* Step 7: the live graph, between node_co_drain_requests_begin() of the overlay
 * and node_drain_end(). Its links are not frozen any more. Waits for no disk
 * but for what image locks need. The old child stays referenced by *@ret_old,
 * so that it is closed after the drain; NULL: there was none. */
CO_FN int pivot_co_switch(const struct pivot *p, struct node **ret_old,
                          GError **err);
