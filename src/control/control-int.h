/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to control/: the state, and who may touch which part. */
#pragma once
#include "control/control.h"
#include "control/schema/schema.h"
#include "loop/co.h"

struct exports;
struct names;
struct jobs;
struct journal;
struct qemuio;
struct session;

/*
 * A data loop, and what the control plane has there: what handlers of commands
 * see.  The first is the daemon's own and has what is of the control loop, too;
 * the others are those of iothreads.
 */
struct control {
    /* Set at the start, then constant. */
    struct control *main; /* the first of them */
    struct loop *loop, *data;
    char *iothread;      /* id; NULL: the daemon's own data loop */
    unsigned number;     /* 0, 1, ...: of no other data loop, ever */
    struct names *names; /* of all; owners are struct control */
    bool iothreads_real; /* main only, as the next; control/iothread.h */
    enum io_engine_kind engine;
    enum backing_policy policy;
    unsigned chain_limit;
    uint64_t memory; /* bytes */
    char *beneath, *state_dir;
    char *release_hook; /* or NULL */
    void (*notice)(const char *text);
    bool resume_jobs;
    void (*quit)(void *arg);
    void *quit_arg;
    const struct chardev_ops *chardevs; /* or NULL */
    void *chardevs_arg;

    /* Control loop only. */
    struct co_latch holds; /* who has found this one and goes on to use it */
    /* Main only. */
    GPtrArray *iothreads; /* struct iothread, owned */
    struct co_mutex iothreads_changing;
    bool iothreads_ended;   /* no more are made */
    unsigned last_iothread; /* number */
    GPtrArray *sessions;    /* of struct session, borrowed */
    struct co_queue ready_waiters, session_ended;
    bool ready, quitting;

    /* Data loop only. */
    bool stopping;          /* commands are refused */
    struct co_latch visits; /* those that run */
    struct graph *graph;
    struct jobs *jobs;
    struct exports *exports;
    struct journal *journal; /* of main; NULL: no state directory */
    struct qemuio *qemuio;
    json_t *objects; /* main only: id -> ObjectOptions: commands/objects.h */
    GHashTable *cursors; /* device -> uint64_t: incremental streams */
};

/* --- cross.c --- */
/* Run @fn(@arg) as a coroutine of the data loop of @c, wait here. */
CO_FN void control_co_cross(struct control *c, void (*fn)(void *arg),
                            void *arg);
/* The same; control_co_stop() waits for it. */
CO_FN void control_co_on_data(struct control *c, void (*fn)(void *arg),
                              void *arg);

/* From a data loop: run @fn(@arg, @c) on the control loop, with the data loop of
 * @name, a node or device. False: there is no such name. */
CO_FN bool control_co_find_and_run(struct control *c, const char *name,
                                   void (*co_fn)(struct control *c, void *arg),
                                   void *arg);
/* On the data loop of @c: -ESHUTDOWN, where no commands run any more. */
int control_check_stopping(const struct control *c, GError **err);
/* On the control loop: @c stays until control_let_go(). Returns @c. */
struct control *control_hold(struct control *c);
/* The same with the data loop of @name, a node or device; that of the daemon where
 * there is none. */
struct control *control_hold_owner(struct control *c, const char *name);
void control_let_go(struct control *c);

/* --- execute.c --- */
/* The command @cmd on the data loop of @c, whatever @args name. Elsewise as
 * control_co_execute(). */
CO_FN int control_co_run_on(struct control *c, const struct schema_command *cmd,
                            const json_t *args, json_t **ret, GError **err);

/* --- data.c --- */
/* On the data loop of @c, which has nothing yet. */
void control_make_data(struct control *c);
struct control *control_new_iothread(struct control *main, const char *id,
                                     struct loop *data);
CO_FN void control_co_start_iothread(struct control *c);
/* After control_co_stop_data(). NULL is fine. */
void control_free_iothread(struct control *c);
/* Close exports, cancel jobs, close all nodes of @c. */
CO_FN void control_co_stop_data(struct control *c);

/* --- events.c --- */
/* Send an event to all connections. Any loop, no yield. @data is
 * borrowed; it must fit what the schema declares for @name. */
void control_emit(struct control *c, const char *name, json_t *data);
/* The same, as graphs, jobs and exports call it; @arg: struct control. */
void control_on_event(const char *name, json_t *data, void *arg);

/* --- session/session.c --- */
/* Queue an event, dropping it when the connection reads too slowly. */
void session_send_event(struct session *s, json_t *event);
/* Read no more; end when what is queued has been sent. */
void session_finish(struct session *s);
/* End at once, whatever is queued. */
void session_shutdown(struct session *s);

/* --- version.c --- */
/* VersionInfo; caller owns. */
json_t *control_version(void);

/* --- session/hmp.c --- */
/* Run one line of the human monitor; what it prints is appended to @out. */
CO_FN void hmp_co_execute(struct control *c, const char *line, GString *out);

/* --- arguments, after schema_check() --- */
static inline const char *arg_str(const json_t *args, const char *name)
{
    return json_string_value(json_object_get(args, name));
}
static inline bool arg_bool(const json_t *args, const char *name, bool dflt)
{
    const json_t *v = json_object_get(args, name);

    return v ? json_is_true(v) : dflt;
}
static inline int64_t arg_int(const json_t *args, const char *name,
                              int64_t dflt)
{
    const json_t *v = json_object_get(args, name);

    return v ? json_integer_value(v) : dflt;
}
