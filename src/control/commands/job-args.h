/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Arguments that all commands that start a job have. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "job/job.h"

struct control;

/* The id that a job with @args has: as told, or that of the device. */
const char *job_args_id(struct control *c, const json_t *args);
/* job-id, auto-finalize, auto-dismiss; borrowed from @args. The speed is
 * left 0, the limits are the defaults. */
struct job_params job_args_params(struct control *c, const json_t *args);
/* 0; -EINVAL "Parameter 'speed' expects a non-negative value". */
int job_args_speed(const json_t *args, uint64_t *ret_speed, GError **err);
/* Set those of latency-target, floor and finish-by that are in @args; the
 * others stay. -EINVAL: nothing has changed. */
int job_args_limits(const json_t *args, struct background_limits *limits,
                    GError **err);
/* Of argument @name; "report" when it is not there. */
enum on_error job_args_on_error(const json_t *args, const char *name);
