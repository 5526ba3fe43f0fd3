/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * External snapshots: overlays that take the place of disks in use, several at
 * one point in time.
 *
 *   overlays_co_prepare   flush: guests need not wait for that
 *   overlays_co_put       check -> drain all -> flush -> put each overlay above
 *                         its disk -> let guests go on
 *   overlays_co_finish    the disks below become read-only
 *
 * What was acknowledged before is in the old image, what comes later in the
 * overlay (N1); all are switched or none (N3).
 */
#pragma once
#include <glib.h>
#include "base/annot.h"

struct node;

struct overlay_step {
    struct node *disk;    /* the image that guests use; no filter */
    struct node *overlay; /* open, writable, without a backing file */
};

/* Does @overlay fit above @disk? Texts: those of QEMU 7.2. */
int overlay_check(const struct overlay_step *s, GError **err);
/* Before and after overlays_co_put(), while guests go on: whoever drains the disks
 * for it does so between. */
CO_FN void overlays_co_prepare(const struct overlay_step *steps, unsigned n);
CO_FN void overlays_co_finish(const struct overlay_step *steps, unsigned n);
/* All of @n or none; on failure the graph is as it was. The nodes are the
 * caller's. */
CO_FN int overlays_co_put(const struct overlay_step *steps, unsigned n,
                          GError **err);
