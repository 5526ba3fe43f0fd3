/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The iothreads of a daemon: data loops beside its own, each on a thread and with
 * a graph, jobs and exports of its own (struct control).  The list of them is on the
 * control loop, and so is everything here that does not say otherwise.
 *
 * A daemon that was made for one data loop (struct control_params) has iothreads
 * that are nothing but names of that loop.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct control;

/* Of object @props, which has no "id" and "qom-type". */
CO_FN int iothread_co_add(struct control *c, const char *id,
                          const json_t *props, GError **err);
/* Of one of its properties: -EINVAL as QEMU words it. Any thread. */
int iothread_check_number(const char *name, const json_t *value, GError **err);
/* -EBUSY: nodes, jobs or exports are there. -ENOENT. */
CO_FN int iothread_co_del(struct control *c, const char *id, GError **err);
/* The data loop of that iothread; -ENOENT "Cannot find iothread X". It is there until
 * the caller yields, and longer while control_hold() holds it. */
int iothread_find(struct control *c, const char *id, struct control **ret,
                  GError **err);
/* What polls on it polls by @props from now on; nothing where there is none of that
 * id. */
CO_FN void iothread_co_set(struct control *c, const char *id,
                           const json_t *props);
/* [IOThreadInfo]; caller owns. */
json_t *iothreads_describe(struct control *c);

/* All data loops, that of the daemon first, held until
 * iothreads_let_go(). */
GPtrArray *iothreads_hold_all(struct control *c);
void iothreads_let_go(GPtrArray *all);

/* For the end of the daemon: end all that runs on iothreads, at the same time. No
 * more are made. */
CO_FN void iothreads_co_stop(struct control *c);
/* Behind that, when no command is under way: end the threads. */
void iothreads_free(struct control *c);
