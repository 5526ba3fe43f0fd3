/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Jobs: long operations with a state machine, progress, speed and events.
 *
 * States and verbs are tables in job.c (those of QEMU's job.c); every
 * transition is asserted, traced and sent to the listener.  A job runs as one
 * coroutine on its graph's loop and belongs to a `struct jobs`, the list that
 * the control plane queries.  Verbs are called on that loop.
 *
 *   created -> running -> waiting -> pending -> concluded -> null
 *   running <-> paused, running -> ready <-> standby, ready -> waiting,
 *   created, running, ready, waiting, pending -> aborting -> concluded
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "graph/background.h"
#include "graph/node.h"
#include "job/bottleneck.h"

enum job_state {
    JOB_UNDEFINED,
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
    JOB_STATE_COUNT
};
enum job_verb {
    JOB_CANCEL,
    JOB_PAUSE,
    JOB_RESUME,
    JOB_SET_SPEED,
    JOB_COMPLETE,
    JOB_FINALIZE,
    JOB_DISMISS,
    JOB_CHANGE,
    JOB_VERB_COUNT
};
enum on_error {
    ON_ERROR_REPORT,
    ON_ERROR_IGNORE,
    ON_ERROR_STOP,
    ON_ERROR_ENOSPC,
    ON_ERROR_AUTO,
    ON_ERROR_COUNT
};
enum io_status { IO_STATUS_OK, IO_STATUS_FAILED, IO_STATUS_NOSPACE };

struct job;
struct job_group;
struct job_fault;
struct copy;
struct job_results;
struct jobs;
struct names;

struct job_driver {
    const char *type; /* "stream" */
    size_t job_size;  /* of the struct that begins with struct job */
    bool is_plain;    /* no block job: only job-* and query-jobs know it */
    /* The work. 0 or -errno (then @err). Calls job_co_pause_point() often. */
    CO_FN_PTR int (*co_run)(struct job *j, GError **err);
    /* After success and before the event, once finalized: change the graph.
     * May fail; then the job aborts. */
    CO_FN_PTR int (*co_prepare)(struct job *j, GError **err);
    /* Release everything; always called, success or not. */
    CO_FN_PTR void (*co_clean)(struct job *j);
    void (*set_speed)(struct job *j, uint64_t speed);
    /* What keeps it from being faster. May be left out. */
    enum job_bottleneck (*held_by)(const struct job *j);
    /* A verb arrived (pause, cancel): reach the pause point soon. */
    void (*kick)(struct job *j);
    /* Cancelled, and not over within LET_GO_NS; called again and again until it
     * is: whatever of it waits for storage that does not answer is to end. No
     * yield. May be left out. */
    void (*let_go)(struct job *j);
    CO_FN_PTR int (*co_complete)(struct job *j, GError **err);
    /* Cancelled without force when it is ready: end well, without the change of
     * the graph. No yield. May be left out: then it is cancelled. */
    void (*cancel_softly)(struct job *j);
    /* Of a mirror: when guests' changes reach the target. No yield. */
    int (*set_copy_mode)(struct job *j, bool write_blocking, GError **err);
    /* Add to what query-block-jobs says of it, @o. No yield. May be left
     * out. */
    void (*describe)(const struct job *j, json_t *o);
};

struct job {
    char *id;
    char *device; /* as query-block-jobs shows it (= id) */
    const struct job_driver *drv;
    struct jobs *jobs;
    enum job_state state;
    bool auto_finalize, auto_dismiss, internal;
    uint64_t speed; /* bytes/s, 0 = unlimited */
    struct background_limits limits;
    struct background *background; /* the driver makes it; freed with the job */
    struct copy *copy;             /* job/copy/copy-job.h; NULL: none runs */
    uint64_t offset, len;          /* bytes of virtual size */
    uint64_t start_ns;
    bool busy, backend_paused, cancelled, force_cancel;
    enum io_status io_status;
    int result; /* 0 or -errno once it ended */
    GError *error;
    struct job_fault *fault; /* the last I/O error, or NULL; see result.h */
    struct job_int *priv;
};

/* What happened, for the control plane to send. No yield. @name is the QMP
 * event, @data its data (borrowed), keys in QEMU's order. */
typedef void (*job_event_fn)(const char *name, json_t *data, void *arg);

struct jobs *jobs_new(struct loop *l, job_event_fn fn, void *arg);
/* All jobs must be gone. NULL is fine. */
void jobs_free(struct jobs *js);
/* Jobs take their ids out of @names, as @owner. Before there are any; @names
 * outlives them. */
void jobs_set_names(struct jobs *js, struct names *names, void *owner);
/* Called when @j has ended and its effect is durable and live, before the
 * event says so: the place to settle a journal. @by_shutdown: it was cancelled
 * by jobs_co_cancel_all() only, and may be resumed by the next daemon. */
struct job_settle {
    CO_FN_PTR void (*co_settle)(struct job *j, bool by_shutdown, void *arg);
    /* Called before @j lets guests go on on another image, while they wait: from
     * now on that is the disk, durably. On failure they stay. */
    CO_FN_PTR int (*co_switching)(struct job *j, GError **err, void *arg);
    void *arg;
};
void jobs_set_settle(struct jobs *js, const struct job_settle *settle);
struct job *jobs_find(struct jobs *js, const char *id);
void jobs_foreach(struct jobs *js, void (*fn)(struct job *j, void *arg),
                  void *arg);
/* How the jobs ended that are no longer in the list; see result.h. */
const struct job_results *jobs_results(const struct jobs *js);
/* Force-cancel all and wait for them: shutdown. */
CO_FN void jobs_co_cancel_all(struct jobs *js);

struct job_params {
    const char *id; /* required; checked for form and uniqueness */
    uint64_t speed;
    bool auto_finalize, auto_dismiss;
    struct background_limits limits; /* BACKGROUND_LIMITS */
    /* Where to keep what need not be copied again after a crash; NULL: nowhere.
     * Not every job keeps something. */
    const char *checkpoint;
    bool resumed; /* the job of an earlier daemon goes on */
};
/* Make a job in state created, its `len` to be set before the caller yields:
 * "Invalid job ID 'X'", "Job ID 'X' already in use". Owned by @js. */
int job_new(struct jobs *js, const struct job_driver *drv,
            const struct job_params *p, struct job **ret_job, GError **err);
/* Jobs that end together: their graphs change when all have done their work,
 * and when one fails or is cancelled all are. Whoever makes the group holds it
 * until the jobs have joined. */
struct job_group *job_group_new(void);
void job_group_unref(struct job_group *g);
/* Before it is started. @g may be NULL. */
void job_join(struct job *j, struct job_group *g);
/* Begin co_run. */
void job_start(struct job *j);
/* A job whose start failed after job_new(): created -> null. */
void job_drop(struct job *j);

/* Verbs of the control plane; each checks the verb table:
 * "Job 'j' in state 'running' cannot accept command verb 'complete'". */
int job_user_pause(struct job *j, GError **err);
int job_user_resume(struct job *j, GError **err);
int job_user_cancel(struct job *j, bool force, GError **err);
int job_user_set_speed(struct job *j, int64_t speed, GError **err);
int job_user_set_limits(struct job *j, const struct background_limits *l,
                        GError **err);
CO_FN int job_user_co_complete(struct job *j, GError **err);
/* block-job-change; @type: what the caller takes the job for. */
int job_user_set_copy_mode(struct job *j, const char *type, bool write_blocking,
                           GError **err);
int job_user_finalize(struct job *j, GError **err);
int job_user_dismiss(struct job *j, GError **err);

/* For drivers, inside co_run. Sleeps while paused; -ECANCELED if cancelled. */
CO_FN int job_co_pause_point(struct job *j);
/* So far everything is done. */
void job_progress(struct job *j, uint64_t offset);
enum job_bottleneck job_held_by(const struct job *j);
bool job_is_cancelled(const struct job *j);
/* Was it cancelled by jobs_co_cancel_all() alone: does the next daemon go on? */
bool job_ends_with_daemon(const struct job *j);
/* running -> ready: it may be completed. */
void job_set_ready(struct job *j);
/* For drivers: struct job_settle.co_switching. */
CO_FN int job_co_switching(struct job *j, GError **err);
/* Apply an on-error policy: sends BLOCK_JOB_ERROR; for stop pauses the job and
 * sets io_status. 0: ignore it and go on; -EAGAIN: try again behind the next
 * pause point, which sleeps until the job is resumed; -errnum: give up. */
int job_apply_policy(struct job *j, enum on_error policy, bool is_read,
                     int errnum);

/* The tables. */
bool job_state_may_follow(enum job_state from, enum job_state to);
bool job_verb_allowed(enum job_state s, enum job_verb v);
const char *job_state_name(enum job_state s);
const char *job_verb_name(enum job_verb v);
/* One element of query-block-jobs / query-jobs; caller owns. */
json_t *job_describe_block(const struct job *j);
json_t *job_describe(const struct job *j);
/* Send an event that belongs to no job of the list: BLOCK_JOB_COMPLETED of
 * work done by single steps. */
void jobs_send_completed(struct jobs *js, const char *type, const char *device,
                         uint64_t len, uint64_t offset);
/* Add "error" to @o if @j failed. */
void job_add_error(const struct job *j, json_t *o);
/* Wait until @j is concluded or gone. The job may be freed on return. */
CO_FN void job_co_wait_concluded(struct job *j);
