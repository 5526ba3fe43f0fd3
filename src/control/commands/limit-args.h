/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The arguments by which commands say how a job meets guests. */
#pragma once
#include <glib.h>
#include <jansson.h>

struct background_limits;

/* Set those of latency-target, floor and finish-by that are in @args; the
 * others stay. */
int limit_args_take(const json_t *args, struct background_limits *limits,
                    GError **err);
