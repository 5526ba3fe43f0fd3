/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The control plane: what the daemon's main() needs of it.
 *
 * The control loop serves sockets and reads commands; a data loop owns a graph,
 * its jobs and its exports.  There is one data loop, and one more for each object
 * "iothread"; what a command names says which of them it is about.  It crosses
 * over as a coroutine of that loop and its answer comes back; events are posted
 * the other way.  The control loop and the first data loop may be the same.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"
#include "graph/node.h"
#include "loop/loop.h"

struct control;
struct channel;
struct loop;

/* The character devices of the program, for the commands on them. On the
 * control loop. */
struct chardev_ops {
    /* A list of ChardevInfo; the caller owns it. */
    json_t *(*list)(void *arg);
    /* Make one of ChardevBackend @backend. Nothing is called @id. */
    CO_FN_PTR int (*co_add)(void *arg, const char *id, const json_t *backend,
                            GError **err);
    /* One that is there, and that no monitor has. */
    void (*remove)(void *arg, const char *id);
};

struct control_params {
    struct loop *loop; /* of sockets; runs on the calling thread */
    struct loop *data; /* of the first graph */
    /* Objects "iothread" are threads of their own, with that engine; else names for
     * the loop that there is. */
    bool iothreads;
    enum io_engine_kind engine;
    enum backing_policy policy;
    unsigned chain_limit;     /* images; 0: the default of the graph */
    uint64_t memory;          /* the budget, bytes; 0: MEMORY_DEFAULT */
    const char *beneath;      /* folder, for BACKING_BENEATH */
    const char *state_dir;    /* of the job journal; NULL: none */
    bool resume_jobs;         /* start what the journal holds */
    const char *release_hook; /* for a shell, when a base was let go of */
    /* Tells the user what is no error; graph_set_notice(). On @data. */
    void (*notice)(const char *text);
    /* Somebody asked for the end. Called on @loop, at most once. */
    void (*quit)(void *arg);
    void *quit_arg;
    const struct chardev_ops *chardevs; /* NULL: there are none */
    void *chardevs_arg;
};

/* Strings are copied. */
struct control *control_new(const struct control_params *p);
/* After control_co_stop(). NULL is fine. */
void control_free(struct control *c);

/* Context of all that follow: the control loop. */

/* Make the graph and read the journal. */
CO_FN int control_co_start(struct control *c, GError **err);

/* Run one command as a connection would, arguments checked. *@ret may stay
 * NULL: then the answer is {}. @args NULL: {}. */
CO_FN int control_co_execute(struct control *c, const char *name,
                             const json_t *args, json_t **ret, GError **err);

/* A drive in the emulator's syntax, as JSON of strings; commands/drive.c. */
CO_FN int control_co_add_drive(struct control *c, const json_t *options,
                               GError **err);

/* Start-up is over: connections are served from now on, journalled jobs start
 * again where their nodes are. */
CO_FN void control_co_ready(struct control *c);

enum session_mode { SESSION_QMP, SESSION_QMP_PRETTY, SESSION_HMP };
/* Serve connection @ch, taking it over. */
void control_add_session(struct control *c, struct channel *ch,
                         enum session_mode mode);
unsigned control_session_count(const struct control *c);

/* Ask for the end, as the quit command does. */
void control_quit(struct control *c, const char *reason);
/* Close exports, cancel jobs, flush and close all nodes, end the connections.
 * Never fails; each step that waits for others is bounded. */
CO_FN void control_co_stop(struct control *c);
