/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The job of x-blockdev-amend: change what kind of image a node is. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"
#include "job/job.h"

struct amend_params {
    struct job_params job;
    struct node *node; /* writable */
    json_t *options;   /* what node_co_amend() takes; borrowed */
};

/* Begin. -EBUSY: another job has the node. */
int amend_start(struct jobs *js, const struct amend_params *p,
                struct job **ret_job, GError **err);
