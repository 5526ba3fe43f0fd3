/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running coroutines from plain tests, on each engine. */
#pragma once
#include <glib.h>
#include "loop/co.h"
#include "loop/loop.h"

/* Run @fn(@arg) as a coroutine on a new loop with @kind and wait for its end,
 * and for that of every coroutine it started. */
void run_on(enum io_engine_kind kind, uint64_t seed, void (*fn)(void *arg),
            void *arg);

/* Run @fn once for each engine that works here. */
void add_for_real_engines(const char *path, void (*fn)(void *arg));

/* Path of a name in a fresh directory, removed with all in it at exit. */
const char *scratch(const char *name);
