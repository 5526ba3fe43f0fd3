/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who we are to an S3 server: a pair of keys, from options, from the
 * environment, or from a file as other S3 clients have it.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"

struct graph;
struct opts;

struct s3_credentials {
    char *key_id; /* NULL: nobody */
    GBytes *key;
    GBytes *token; /* NULL: none */
};

void s3_credentials_clear(struct s3_credentials *c);
/* @c is zero and the caller's to clear, also after a failure. */
CO_FN int s3_credentials_co_take(struct opts *o, struct graph *g,
                                 struct s3_credentials *c, GError **err);
