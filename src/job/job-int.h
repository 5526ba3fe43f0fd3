/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of jobs share; private to job/. */
#pragma once
#include "job/eta.h"
#include "job/job.h"
#include "loop/co.h"
#include "loop/loop.h"

struct job_results;
struct jobs {
    struct loop *loop;
    job_event_fn fn;
    void *arg;
    struct job_settle settle;
    GPtrArray *list; /* struct job, oldest first */
    struct job_results *results;
    struct co_queue changed; /* a job left the list */
    bool shutting_down;
};
struct job_int {
    unsigned refs; /* the list's and those of waiters */
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

/* Tell the control plane, unless the job is internal; @data is taken over. */
void job_send(struct job *j, const char *name, json_t *data);
/* May @v be asked of it in its state? */
int job_check_verb(const struct job *j, enum job_verb v, GError **err);
/* Look whether `finish_by` can be kept, and go on looking. A timer's. */
void job_deadline_check(void *arg);
/* False: nothing is known. */
bool job_eta(const struct job *j, struct eta_answer *ret);
