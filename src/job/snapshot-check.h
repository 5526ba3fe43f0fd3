/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Would a change of what lies below an image change its internal snapshots?
 *
 * A snapshot shows the backing chain wherever it holds nothing itself, and it
 * is not populated when the disk is.  Whoever cuts the chain, or changes what
 * it holds, asks here first.  Images without snapshots, or with snapshots that
 * hold all they show, are not concerned.
 *
 * The caller sees to it that no snapshot of the image is made or deleted
 * meanwhile.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct node;

/* What is about to happen. */
struct chain_change {
    const char *verb; /* "streamed", for the text */
    /* Does [@off, @off+@max), as the chain below the image shows it, change?
     * *@ret_len, > 0: how far the answer holds. 0 or -errno. */
    CO_FN_PTR int (*co_changes)(void *arg, uint64_t off, uint64_t max,
                                bool *ret_changes, uint64_t *ret_len);
    void *arg;
};

/* 0; -EBUSY with the names of the snapshots of @image that would change, and
 * what to do; other -errno when that cannot be told. */
CO_FN int snapshots_co_check(struct node *image,
                             const struct chain_change *change, GError **err);
/* The change: what is below @image, down to but not including @base (NULL:
 * all), is cut out of the chain. */
CO_FN int snapshots_co_check_cut(struct node *image, struct node *base,
                                 const char *verb, GError **err);
/* The change: what is below @image may change anywhere. */
CO_FN int snapshots_co_check_any(struct node *image, const char *verb,
                                 GError **err);
/* The change: what @top, which is @image or above it, and the chain below it
 * hold above @base is written into @base. */
CO_FN int snapshots_co_check_merge(struct node *image, struct node *top,
                                   struct node *base, const char *verb,
                                   GError **err);
