/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs that copy: a run of the copy engine (job/copy/copy.h) as a part of a
 * job, and what of struct job_driver and struct copy_ops follows from that.
 */
#pragma once
#include <stdint.h>
#include "base/annot.h"
#include "job/copy/copy.h"
#include "job/job.h"

struct graph;

/* Run the engine for @j; @ops are called with @j.  Of @p speed, background and
 * memory are filled in here: they are the job's and the graph's.  0 or -errno,
 * as copy_co_run(). */
CO_FN int job_co_copy(struct job *j, struct graph *g,
                      const struct copy_ops *ops, struct copy_params p);

/* For struct copy_ops. */
CO_FN int job_copy_co_pause_point(void *arg);
/* For struct job_driver: harmless while nothing is copied. */
void job_copy_set_speed(struct job *j, uint64_t speed);
void job_copy_kick(struct job *j);
enum job_bottleneck job_copy_held_by(const struct job *j);
