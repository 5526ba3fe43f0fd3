/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Several steps of one kind at once, in coroutines, with one result. */
#pragma once
#include "base/annot.h"

struct loop;

/* Run fn(@arg, 0) ... fn(@arg, @n - 1) on @l, at most @workers at once, each in
 * a coroutine; waits for all. The first error, after which no more begin. */
CO_FN int parallel_co_for(struct loop *l, unsigned n, unsigned workers,
                          int (*fn)(void *arg, unsigned i), void *arg);
