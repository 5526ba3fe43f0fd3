/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The option latency-target of jobs, as it is written. */
#pragma once
#include <glib.h>
#include "graph/background.h"

/* "5ms", "800us", "0.1s": that long; "2x": so many times what requests take
 * undisturbed; "off": no target. A bare number is milliseconds. -EINVAL */
int latency_target_parse(const char *text, struct latency_target *ret,
                         GError **err);
/* The same back; owned. */
char *latency_target_format(const struct latency_target *t);
