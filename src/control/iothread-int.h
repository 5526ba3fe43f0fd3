/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Between the list of iothreads and what makes and deletes them. */
#pragma once
#include "loop/loop.h"

struct control;
struct loop_thread;

struct iothread {
    char *id;
    struct control *c;          /* that of the daemon, where @thread is NULL */
    struct loop_thread *thread; /* or NULL: only a name */
    struct loop_polling polling;
};

/* NULL: there is none of that id. Control loop. */
struct iothread *iothread_lookup(struct control *c, const char *id);
