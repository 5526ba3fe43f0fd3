/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to the drives of --drive and drive_add: the parts of one. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/options.h"

struct control;
struct graph;
struct node;

/* The options that are about the device, not about the image. */
struct drive {
    char *id, *interface;
    bool copy_on_read, stream, read_only;
    bool empty;            /* no medium */
    bool set_hang;         /* one of the next two was given */
    int on_hang;           /* 1: error */
    int64_t hang_timeout;  /* s */
    char *throttle_group;  /* NULL: the drive's id */
    json_t *limits;        /* ThrottleLimits as strings; NULL: none */
    json_t *stream_limits; /* arguments of block-stream, or NULL */
    char *mirror;          /* name of an image that follows it, or NULL */
};

/* --- drive-image.c --- */

/* Options of the image's node, from what @o says of file, driver and format;
 * what is left of @o belongs to the node, too, and is added.  Sets @d->stream
 * for blkstream:NAME, @d->mirror for blkmirror:NAME:TARGET and @d->empty where nothing names an image.  Owned. */
CO_FN int drive_co_take_image(struct graph *g, struct opts *o, struct drive *d,
                              json_t **ret_node, GError **err);

/* --- drive-throttle.c --- */

/* throttling.NAME, and the older names (bps=, iops_rd_max= ...). */
int drive_take_throttle(struct opts *o, struct drive *d, GError **err);
/* Put a throttle filter over *@n, which it takes over, in the group that @d
 * names; the group is made, or gets the limits of this drive. */
CO_FN int drive_co_throttle(struct graph *g, const struct drive *d,
                            struct node **n, GError **err);
/* Add the limits of the drive whose top node is @top, in the names of
 * BlockDeviceInfo, to @info; nothing where it has none. */
void drive_describe_limits(const struct node *top, json_t *info);
/* Put filter @options, whose "file" becomes *@n, over *@n. */
CO_FN int drive_co_add_filter(struct graph *g, json_t *options, struct node **n,
                              GError **err);
