/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What images hold beside the disk: snapshots to read from, bitmaps to copy. */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"

struct node;

/* Make @n, which is read-only, show the snapshot that @text names: an id or
 * else a name, or "snapshot.id=ID,snapshot.name=NAME" (either or both). */
CO_FN int internal_co_load_snapshot(struct node *n, const char *text,
                                    GError **err);

/* Before anything is made: can the bitmaps of @source be copied? One that is
 * inconsistent cannot; with @skip_broken it is left out, with a warning. */
CO_FN int internal_co_check_bitmaps(struct node *source, bool skip_broken,
                                    GError **err);
/* Copy them into @target. */
CO_FN int internal_co_copy_bitmaps(struct node *source, struct node *target,
                                   bool skip_broken, GError **err);
