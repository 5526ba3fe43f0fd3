/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which state may follow which, and which verb is taken in which: those of
 * QEMU, so that its tools find what they know.  And how a job tells of itself:
 * what all files of jobs use. */
#include "base/err.h"
#include "job/job-int.h"
#include "job/trace.h"

#define S(x) (1u << JOB_##x)
static const struct {
    const char *name;
    unsigned next;  /* states that may follow */
    unsigned verbs; /* verbs that it takes */
} states[JOB_STATE_COUNT] = {
#define V(x) (1u << JOB_##x)
#define V_LIVE (V(CANCEL) | V(PAUSE) | V(RESUME) | V(SET_SPEED) | V(CHANGE))
    [JOB_UNDEFINED] = { "undefined", S(CREATED), 0 },
    [JOB_CREATED] = { "created", S(RUNNING) | S(ABORTING) | S(NULL), V_LIVE },
    [JOB_RUNNING] = { "running",
                      S(PAUSED) | S(READY) | S(WAITING) | S(ABORTING), V_LIVE },
    [JOB_PAUSED] = { "paused", S(RUNNING), V_LIVE },
    [JOB_READY] = { "ready", S(STANDBY) | S(WAITING) | S(ABORTING),
                    V_LIVE | V(COMPLETE) },
    [JOB_STANDBY] = { "standby", S(READY), V_LIVE | V(COMPLETE) },
    [JOB_WAITING] = { "waiting", S(PENDING) | S(ABORTING), V(CANCEL) },
    [JOB_PENDING] = { "pending", S(ABORTING) | S(CONCLUDED),
                      V(CANCEL) | V(FINALIZE) },
    [JOB_ABORTING] = { "aborting", S(CONCLUDED), 0 },
    [JOB_CONCLUDED] = { "concluded", S(NULL), V(DISMISS) },
    [JOB_NULL] = { "null", 0, 0 },
};
static const char *const verb_names[JOB_VERB_COUNT] = {
    [JOB_CANCEL] = "cancel",     [JOB_PAUSE] = "pause",
    [JOB_RESUME] = "resume",     [JOB_SET_SPEED] = "set-speed",
    [JOB_COMPLETE] = "complete", [JOB_FINALIZE] = "finalize",
    [JOB_DISMISS] = "dismiss",   [JOB_CHANGE] = "change",
};

const char *job_state_name(enum job_state s)
{
    return states[s].name;
}

const char *job_verb_name(enum job_verb v)
{
    return verb_names[v];
}

bool job_state_may_follow(enum job_state from, enum job_state to)
{
    return states[from].next & 1u << to;
}

bool job_verb_allowed(enum job_state s, enum job_verb v)
{
    return states[s].verbs & 1u << v;
}

int job_check_verb(const struct job *j, enum job_verb v, GError **err)
{
    trace_job_verb(j->id, job_state_name(j->state), job_verb_name(v));
    if (job_verb_allowed(j->state, v)) {
        return 0;
    }
    return err_set(err, EPERM,
                   "Job '%s' in state '%s' cannot accept command verb '%s'",
                   j->id, job_state_name(j->state), job_verb_name(v));
}

void job_send(struct job *j, const char *name, json_t *data)
{
    if (!j->internal && j->jobs->fn) {
        j->jobs->fn(name, data, j->jobs->arg);
    }
    json_decref(data);
}
