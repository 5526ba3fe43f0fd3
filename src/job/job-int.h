/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of jobs share; private to job/. */
#pragma once
#include "job/eta.h"
#include "job/job.h"
#include "loop/co.h"
#include "loop/loop.h"

struct job_results;
struct names;
struct jobs {
    struct loop *loop;
    struct names *names; /* shared with jobs of other loops; or NULL */
    void *names_owner;
    job_event_fn fn;
    void *arg;
    struct job_settle settle;
    GPtrArray *list; /* struct job, oldest first */
    struct job_results *results;
    struct co_queue changed; /* a job left the list */
    bool shutting_down;
};
struct job_group {
    unsigned refs, members;
    unsigned waiting;  /* have done their work */
    unsigned prepared; /* ... and what may fail of the end, too */
    bool failed;
    GPtrArray *jobs; /* struct job, borrowed: those that have not ended */
    struct co_queue changed;
};
struct job_int {
    struct job_group *group; /* or NULL */
    unsigned refs;           /* the list's and those of waiters */
    bool listed;
    bool finalize; /* the verb came */
    bool started, by_shutdown;
    struct loop_timer let_go; /* runs from cancel to the end */
    struct co_queue wake;     /* the job's coroutine waits for a verb */
    struct co_queue concluded;
    struct eta eta;
    struct loop_timer deadline; /* looks at finish-by */
    bool deadline_told;
};

/* --- job-group.c; nothing for a job without a group --- */

void job_group_leave(struct job *j);
/* @j failed: @cancel the others. */
void job_group_fail(struct job *j, void (*cancel)(struct job *other));
/* Count in @j, then wait until all are counted. False: one has failed. */
CO_FN bool job_group_co_wait(struct job *j, unsigned *count);
/* Something that job_group_co_wait() waits for has changed. */
void job_group_wake(struct job *j);
void job_group_finalize(struct job *j);

/* Tell the control plane, unless the job is internal; @data is taken over. */
void job_send(struct job *j, const char *name, json_t *data);
/* May @v be asked of it in its state? */
int job_check_verb(const struct job *j, enum job_verb v, GError **err);
/* Look whether `finish_by` can be kept, and go on looking. A timer's. */
void job_deadline_check(void *arg);
/* False: nothing is known. */
bool job_eta(const struct job *j, struct eta_answer *ret);
