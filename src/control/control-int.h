/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to control/: the state, and who may touch which part. */
#pragma once
#include "control/control.h"
#include "control/schema/schema.h"
#include "loop/co.h"

struct exports;
struct jobs;
struct journal;
struct qemuio;
struct session;

struct control {
    /* Set at the start, then constant. */
    struct loop *loop, *data;
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
    GPtrArray *sessions; /* of struct session, borrowed */
    struct co_queue ready_waiters, session_ended;
    bool ready, quitting;

    /* Data loop only. */
    bool stopping;          /* commands are refused */
    struct co_latch visits; /* those that run */
    struct graph *graph;
    struct jobs *jobs;
    struct exports *exports;
    struct journal *journal; /* NULL: no state directory */
    struct qemuio *qemuio;
    json_t *objects;     /* id -> ObjectOptions: commands/objects.h */
    GHashTable *cursors; /* device -> uint64_t: incremental streams */
};

/* --- execute.c --- */
/* Run @fn(@arg) as a coroutine of the data loop, wait here. */
CO_FN void control_co_cross(struct control *c, void (*fn)(void *arg),
                            void *arg);
/* The same; control_co_stop() waits for it. */
CO_FN void control_co_on_data(struct control *c, void (*fn)(void *arg),
                              void *arg);

/* --- control.c --- */
/* Send an event to all connections. Any of the two loops, no yield. @data is
 * borrowed; it must fit what the schema declares for @name. */
void control_emit(struct control *c, const char *name, json_t *data);

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
