/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The image that a command writes into: made anew, or already there. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct graph;
struct node;

struct target {
    const char *name, *format;
    const char *purpose; /* "error while PURPOSE"; NULL: converting FORMAT */
    bool is_opts;        /* --target-image-opts */
    bool exists;         /* -n: not made here */
    json_t *options;     /* of creation; name -> string */
    unsigned cache;      /* enum node_flags, from -t */
    struct node *const *sources; /* what must not be overwritten */
    unsigned n_sources;
};

/* Creation options that can be judged before anything is touched: the names
 * are the format's, a backing file has a format. */
CO_FN int target_co_check(struct graph *g, struct target *t, GError **err);
/* Make the image (unless it exists) of @size bytes and open it for writing.
 * *@ret_zero: it is known to read as zeroes, its backing file aside. */
CO_FN int target_co_open(struct graph *g, struct target *t, uint64_t size,
                         struct node **ret_node, bool *ret_zero, GError **err);
