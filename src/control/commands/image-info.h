/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What query-named-block-nodes and `sluice info` say about an image. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct node;

/* ImageInfo of @n; with @chain the images below in backing-image. Filters are
 * described as what they filter, under their own driver's name. On failure
 * NULL. Caller owns. Yields. */
CO_FN json_t *image_co_describe(struct node *n, bool chain, GError **err);
/* BlockDeviceInfo of @n. */
CO_FN json_t *image_co_describe_node(struct node *n, bool flat, GError **err);
