/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running coroutines from plain tests, on each engine. */
#pragma once
#include <glib.h>
#include "loop/co.h"
#include "loop/loop.h"

/* Run @fn(@arg) as a coroutine on a new loop and wait for its end, and for that
 * of every coroutine it started. */
void run_with(const struct loop_options *opts, void (*fn)(void *arg),
              void *arg);
/* The same on an engine of @kind. */
void run_on(enum io_engine_kind kind, void (*fn)(void *arg), void *arg);

/* Run @fn once for each engine that works here. */
void add_for_real_engines(const char *path, void (*fn)(void *arg));

/* The same for the @n tests of @t, as @folder "/" name. */
struct engine_test {
    const char *name;
    void (*fn)(void *arg);
};
void add_tests_for_real_engines(const char *folder, const struct engine_test *t,
                                unsigned n);
