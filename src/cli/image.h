/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Images at rest: open, look at, change. Private to cli/. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/annot.h"

struct graph;
struct node;
struct node_driver;

/* Run @co_fn(@graph, @arg) as a coroutine on a loop of its own, with every
 * driver there is, and return what it returns. Not inside a coroutine. */
int image_run(int (*co_fn)(struct graph *g, void *arg), void *arg);

/* Open @filename. @format NULL: found by its magic, else raw: only for reading
 * (-EINVAL with NODE_RDWR: a guest could have written the magic). Prints like
 * the peer: "Could not open 'F': ...". The caller owns the reference. */
CO_FN int image_co_open(struct graph *g, const char *filename,
                        const char *format, unsigned flags,
                        struct node **ret_node, GError **err);

/* An image as a command line names it. */
struct image_spec {
    const char *name;    /* file, address; with @is_opts "driver=...,..." */
    const char *format;  /* -f; NULL as for image_co_open() */
    bool is_opts;        /* --image-opts */
    unsigned flags;      /* enum node_flags */
};
CO_FN int image_co_open_spec(struct graph *g, const struct image_spec *spec,
                             struct node **ret_node, GError **err);

/* -t, -T: add what cache mode @text asks for to *@flags (NODE_CACHE_DIRECT,
 * NODE_NO_FLUSH). "writethrough" is "writeback" here: all commands end with a
 * flush. 0 or -EINVAL. */
int image_parse_cache(const char *text, unsigned *flags);

/* The size of the image that a new one at @filename finds under backing name
 * @backing (relative to its folder), of format @format. */
CO_FN int image_co_backing_size(struct graph *g, const char *filename,
                                const char *backing, const char *format,
                                uint64_t *ret_size, GError **err);

/* The format that such a backing file seems to be of; static. */
CO_FN int image_co_backing_format(struct graph *g, const char *filename,
                                  const char *backing,
                                  const char **ret_format);
