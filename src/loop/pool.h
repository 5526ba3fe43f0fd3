/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Threads that run requests which block.  One pool a loop; threads start when
 * work waits and nobody is idle, and stay.  A file whose requests hang takes a
 * part of the threads only.  Private to loop/.
 */
#pragma once
#include "loop/engine.h"

struct pool;

/* @max_threads 0: the default. */
struct pool *pool_new(struct loop *l, unsigned max_threads);
/* Nothing may be queued or running. NULL is fine. */
void pool_free(struct pool *p);
/* Run io_req_execute() on @r, then complete it on the loop. */
void pool_submit(struct pool *p, struct io_req *r);
