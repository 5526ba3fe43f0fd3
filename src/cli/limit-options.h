/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options by which commands say what a job leaves to guests:
 * --latency-target, --floor, --finish-by. */
#pragma once
#include <jansson.h>

/* For an array of struct option, and what getopt_long() returns for them. */
enum { OPT_LATENCY_TARGET = 512, OPT_FLOOR, OPT_FINISH_BY };
#define LIMIT_OPTIONS \
    { "latency-target", required_argument, NULL, OPT_LATENCY_TARGET }, \
        { "floor", required_argument, NULL, OPT_FLOOR }, \
    { \
        "finish-by", required_argument, NULL, OPT_FINISH_BY \
    }

/* Put option @c with its @text into @limits, an object, as block-stream takes
 * it. 0, or 1 after a usage error of @command. */
int limit_option(const char *command, int c, const char *text, json_t *limits);
