/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The job of blockdev-create: write a new, empty image. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"
#include "job/job.h"

struct create_params {
    struct job_params job;
    struct graph *graph;
    const struct node_driver *drv;
    json_t *options;  /* what its images take, borrowed (image.h) */
    const char *path; /* of a file to make, or NULL: then */
    json_t *storage;  /* the storage to write into: a node's name, or options of
                       * a new one; borrowed */
};

/* Begin. "Driver 'X' does not support blockdev-create" is for the caller to
 * say. */
int create_start(struct jobs *js, const struct create_params *p,
                 struct job **ret_job, GError **err);
