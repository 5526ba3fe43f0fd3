/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A loop on a thread of its own. */
#pragma once
#include <glib.h>

struct loop;
struct loop_options;
struct loop_thread;

/* Waits until the loop is there; it runs until loop_thread_stop(). Returns 0 or
 * -errno with @err. */
int loop_thread_start(const struct loop_options *opts,
                      struct loop_thread **ret_thread, GError **err);
struct loop *loop_thread_loop(const struct loop_thread *t);
/* As the kernel numbers it. */
int loop_thread_id(const struct loop_thread *t);
/* All coroutines of the loop must have ended. Waits for the thread; frees @t.
 * NULL is fine. */
void loop_thread_stop(struct loop_thread *t);
