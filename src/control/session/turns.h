/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The order in which the commands of a connection run.
 *
 * Commands take turns: one begins when the one before it has been answered, so
 * that each finds what those before it have done, and answers come in order.
 * A command that says so itself (exec-oob) takes no turn: it begins at once,
 * whatever runs.  Of both kinds so many wait or run at most; then the caller
 * waits, and with it whatever else the client sends.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"
#include "loop/co.h"

struct loop;

/* As many of each kind as QEMU takes. */
enum { TURNS_MAX = 8 };

struct turns {
    struct loop *loop;
    /* Run and answer @msg; @err: it is none. Both are borrowed. */
    CO_FN_PTR void (*co_run)(void *arg, const json_t *msg, const GError *err);
    void *arg;
    GQueue waiting;       /* struct command */
    bool busy;            /* one has its turn */
    unsigned out_of_turn; /* that run */
    struct co_queue ended;
};

/* Run @msg (or answer @err) in its turn or, @at_once, now; waits for nothing but
 * room. Takes both over. */
CO_FN void turns_co_add(struct turns *t, json_t *msg, GError *err,
                        bool at_once);
/* Until nothing waits and nothing runs. */
CO_FN void turns_co_wait(struct turns *t);
