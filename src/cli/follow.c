/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Following jobs: the events say how each ends, polling only draws.
 *
 * The connection gets events from its first moment on.  So a job that is neither
 * in the list of jobs nor in the list of results never was, and one that ended
 * between two questions has left an event.
 */
#include "cli/follow.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"

#define POLL_MS 200
#define ACTIVE (-1)

struct followed {
    const char *id;
    char *type; /* NULL: not known */
    int status; /* ACTIVE, or what its end counts as */
    bool stopped_told;
};

struct follow {
    struct sluice_conn *conn;
    const struct follow_options *o;
    struct followed *jobs;
    unsigned n;
    struct progress *bar;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    interrupted = 1;
}

/* --- words --- */

/* " -s PATH" for the commands that messages name. Owned. */
static char *socket_option(const struct follow *f)
{
    if (!f->o->socket) {
        return g_strdup("");
    }
    g_autofree char *quoted = cli_shell_word(f->o->socket);
    return g_strdup_printf(" -s %s", quoted);
}

/* The last entry of query-job-results about @id; owned by the caller. NULL also
 * when the daemon does not answer. */
static json_t *find_result(struct follow *f, const char *id)
{
    json_t *list = client_execute(f->conn, "query-job-results", NULL);
    json_t *entry, *found = NULL;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *name = client_text(entry, "id");
        if (name && strcmp(name, id) == 0) {
            found = entry;
        }
    }
    json_incref(found);
    json_decref(list);
    return found;
}

static void tell_failed(struct follow *f, const struct followed *j,
                        const json_t *result, const char *error)
{
    const json_t *fault = json_object_get(result, "fault");
    g_autofree char *text = fault ? client_fault_text(fault) : g_strdup(error);

    cli_error("job '%s' failed: %s", j->id, text ? text : "unknown error");
    if (f->o->again) {
        fprintf(stderr,
                "What was copied stays. When the cause is removed, "
                "'%s' goes on there.\n",
                f->o->again);
    }
}

static void tell_cancelled(struct follow *f, const struct followed *j)
{
    bool stream = j->type && strcmp(j->type, "stream") == 0;

    if (f->o->tell && !f->o->as_json) {
        printf("job '%s' was cancelled\n", j->id);
        fflush(stdout);
    } else {
        cli_error("job '%s' was cancelled", j->id);
    }
    if (stream) {
        fprintf(stderr,
                "What was copied stays, and the base is still needed. "
                "'%s' goes on there.\n",
                f->o->again ? f->o->again : "sluice pull DEVICE");
    }
}

static void tell_interrupted(struct follow *f)
{
    g_autofree char *at = socket_option(f);

    for (unsigned i = 0; i < f->n; i++) {
        const char *id = f->jobs[i].id;

        if (f->jobs[i].status == ACTIVE) {
            cli_error("interrupted; job '%s' goes on in the daemon", id);
            fprintf(stderr,
                    "'sluice job%s wait %s' watches it again, "
                    "'sluice job%s cancel %s' ends it.\n",
                    at, id, at, id);
        }
    }
}

/* --- ends --- */

static void job_ended(struct follow *f, struct followed *j, const char *outcome,
                      const json_t *result, const char *error)
{
    if (strcmp(outcome, "completed") == 0) {
        j->status = FOLLOW_COMPLETED;
        if (f->o->tell && !f->o->as_json) {
            cli_end_line();
            printf("job '%s' completed\n", j->id);
            fflush(stdout);
        }
        return;
    }
    cli_end_line();
    if (strcmp(outcome, "cancelled") == 0) {
        j->status = FOLLOW_CANCELLED;
        tell_cancelled(f, j);
    } else {
        j->status = FOLLOW_FAILED;
        tell_failed(f, j, result, error);
    }
}

/* The job of @id that has not ended yet, or NULL. */
static struct followed *find_followed(struct follow *f, const char *id)
{
    for (unsigned i = 0; id && i < f->n; i++) {
        if (f->jobs[i].status == ACTIVE && strcmp(f->jobs[i].id, id) == 0) {
            return &f->jobs[i];
        }
    }
    return NULL;
}

static void print_line(const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);

    puts(text);
    fflush(stdout);
    free(text);
}

static void tell_stopped(struct follow *f, struct followed *j)
{
    json_t *result = find_result(f, j->id);
    const json_t *fault = json_object_get(result, "fault");

    if (fault) {
        g_autofree char *text = client_fault_text(fault);
        g_autofree char *at = socket_option(f);

        cli_error("job '%s' is stopped: %s", j->id, text);
        if (f->o->retry_s) {
            fprintf(stderr, "It is tried again every %u s.\n", f->o->retry_s);
        } else {
            fprintf(stderr,
                    "When the cause is removed, 'sluice job%s resume %s' lets "
                    "it go on.\n",
                    at, j->id);
        }
        j->stopped_told = true;
    }
    json_decref(result);
}

/* The job of an event "stopped by an error" goes on after a while. */
static void retry_stopped(struct follow *f, struct followed *j,
                          const json_t *data)
{
    if (!f->o->retry_s || g_strcmp0(client_text(data, "action"), "stop") != 0) {
        return;
    }
    if (!j->stopped_told) {
        cli_end_line();
        tell_stopped(f, j);
    }
    g_usleep(f->o->retry_s * G_USEC_PER_SEC);
    client_run(f->conn, "block-job-resume",
               json_pack("{s:s}", "device", j->id));
}

static void follow_event(struct follow *f, const json_t *event)
{
    const json_t *data = json_object_get(event, "data");
    const char *name = client_text(event, "event");
    struct followed *j = find_followed(f, client_text(data, "device"));

    if (!name || !j) {
        return;
    }
    if (f->o->as_json) {
        print_line(event);
    }
    if (!j->type) {
        j->type = g_strdup(client_text(data, "type"));
    }
    if (f->o->on_event) {
        f->o->on_event(f->conn, name, data, f->o->arg);
    }
    if (strcmp(name, "BLOCK_JOB_ERROR") == 0) {
        retry_stopped(f, j, data);
    } else if (strcmp(name, "BLOCK_JOB_CANCELLED") == 0) {
        job_ended(f, j, "cancelled", NULL, NULL);
    } else if (strcmp(name, "BLOCK_JOB_COMPLETED") == 0) {
        const char *error = client_text(data, "error");
        json_t *result = error ? find_result(f, j->id) : NULL;

        job_ended(f, j, error ? "failed" : "completed", result, error);
        json_decref(result);
    }
}

static void tell_unknown(struct follow *f, const char *id)
{
    cli_error("there is no job '%s', and none of that name has ended lately",
              id);
    client_hint_jobs(f->conn, id);
}

/* A job that is no longer there, or over and not yet dismissed. */
static void follow_past(struct follow *f, struct followed *j)
{
    json_t *result = find_result(f, j->id);

    if (!result || strcmp(client_text(result, "outcome"), "stopped") == 0) {
        tell_unknown(f, j->id);
        j->status = FOLLOW_FAILED;
    } else {
        if (f->o->as_json) {
            print_line(result);
        }
        g_free(j->type);
        j->type = g_strdup(client_text(result, "type"));
        job_ended(f, j, client_text(result, "outcome"), result,
                  client_text(result, "error"));
    }
    json_decref(result);
}

/* --- progress --- */

/* What the bar says instead of the speed; NULL when the job runs. */
static const char *job_pause(struct follow *f, struct followed *j,
                             const json_t *job)
{
    const char *io = client_text(job, "io-status");

    if (!json_is_true(json_object_get(job, "paused"))) {
        j->stopped_told = j->stopped_told && f->o->retry_s;
        return NULL;
    }
    if (io && strcmp(io, "ok") != 0) {
        if (!j->stopped_told) {
            tell_stopped(f, j);
        }
        return "stopped by an error";
    }
    return "paused";
}

static const json_t *find_in(const json_t *list, const char *id)
{
    const json_t *job;
    size_t i;

    json_array_foreach(list, i, job) {
        const char *name = client_text(job, "device");
        if (name && strcmp(name, id) == 0) {
            return job;
        }
    }
    return NULL;
}

static char *bar_title(const struct follow *f)
{
    const struct followed *j = f->jobs;

    if (f->n > 1) {
        return g_strdup_printf("%u jobs", f->n);
    }
    return g_strdup_printf("%s %s",
                           f->o->what ? f->o->what
                           : j->type  ? j->type
                                      : "job",
                           j->id);
}

/* Draw what the jobs have done together. False when the daemon is gone. */
static bool follow_poll(struct follow *f)
{
    json_t *list = client_execute(f->conn, "query-block-jobs", NULL);
    uint64_t done = 0, total = 0;
    const char *pause = NULL;
    const json_t *eta = NULL;

    for (unsigned i = 0; list && i < f->n; i++) {
        struct followed *j = &f->jobs[i];
        const json_t *job = find_in(list, j->id);

        if (job) {
            const char *p = job_pause(f, j, job);
            pause = p ? p : pause;
            eta = f->n == 1 ? json_object_get(job, "eta") : NULL;
            done += (uint64_t)json_integer_value(
                json_object_get(job, "offset"));
            total += (uint64_t)json_integer_value(json_object_get(job, "len"));
        }
    }
    if (total > 0 && !f->bar && !f->o->as_json && !f->o->quiet) {
        g_autofree char *title = bar_title(f);
        f->bar = progress_new(title, false);
    }
    if (total > 0) {
        progress_note(f->bar, pause);
        progress_eta(f->bar, eta);
        progress_update(f->bar, done, total);
        progress_eta(f->bar, NULL);
    }
    json_decref(list);
    return list != NULL;
}

/* --- the wait --- */

static bool all_ended(const struct follow *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        if (f->jobs[i].status == ACTIVE) {
            return false;
        }
    }
    return true;
}

/* One event, if there is one within @timeout_ms. 1, 0, -errno. */
static int follow_take_event(struct follow *f, int timeout_ms)
{
    json_t *event;
    char *text;
    int r = sluice_wait_event(f->conn, timeout_ms, &text);

    if (r > 0) {
        event = json_loads(text, 0, NULL);
        follow_event(f, event);
        json_decref(event);
        sluice_free(text);
    }
    return r;
}

/* Which of them run? Of the others the end has just been told by an event, or
 * is past. False when the daemon is gone. */
static bool follow_begin(struct follow *f)
{
    json_t *list = client_execute(f->conn, "query-block-jobs", NULL);
    int r;

    for (unsigned i = 0; list && i < f->n; i++) {
        const json_t *job = find_in(list, f->jobs[i].id);

        f->jobs[i].type = g_strdup(client_text(job, "type"));
    }
    do {
        r = list ? follow_take_event(f, 0) : 0;
    } while (r > 0);
    for (unsigned i = 0; list && i < f->n; i++) {
        const json_t *job = find_in(list, f->jobs[i].id);
        const char *status = client_text(job, "status");

        if (f->jobs[i].status == ACTIVE &&
            (!job || (status && strcmp(status, "concluded") == 0))) {
            follow_past(f, &f->jobs[i]);
        }
    }
    json_decref(list);
    return list && r == 0;
}

/* One event, or a look at the progress. False when the daemon is gone. */
static bool follow_step(struct follow *f)
{
    int r = follow_take_event(f, POLL_MS);

    return r != 0 ? r > 0 : follow_poll(f);
}

static int worst_status(const struct follow *f)
{
    int status = FOLLOW_COMPLETED;

    for (unsigned i = 0; i < f->n; i++) {
        int s = f->jobs[i].status;

        if (s == FOLLOW_FAILED || status == FOLLOW_COMPLETED) {
            status = s;
        }
    }
    return status;
}

static int follow_run(struct follow *f)
{
    bool alive = follow_begin(f) && (all_ended(f) || follow_poll(f));

    while (alive && !interrupted && !all_ended(f)) {
        alive = follow_step(f);
    }
    if (all_ended(f)) {
        int status = worst_status(f);

        if (status == FOLLOW_COMPLETED && f->n == 1) {
            progress_note(f->bar, NULL);
            progress_update(f->bar, 1, 1);
        }
        return status;
    }
    if (interrupted) {
        tell_interrupted(f);
        return FOLLOW_INTERRUPTED;
    }
    cli_error("the daemon went away; what became of the jobs is not known");
    fprintf(stderr, "With --state-dir they go on when it starts again.\n");
    return FOLLOW_FAILED;
}

int follow_jobs(struct sluice_conn *conn, const char *const *ids,
                const struct follow_options *o)
{
    /* A second Ctrl-C ends what waits for a daemon that does not answer. */
    struct sigaction sa = { .sa_handler = on_interrupt,
                            .sa_flags = SA_RESETHAND };
    struct follow f = { .conn = conn, .o = o };
    int status;

    f.n = g_strv_length((char **)ids);
    f.jobs = g_new0(struct followed, f.n);
    for (unsigned i = 0; i < f.n; i++) {
        f.jobs[i].id = ids[i];
        f.jobs[i].status = ACTIVE;
    }
    sigaction(SIGINT, &sa, NULL);
    status = follow_run(&f);
    progress_free(f.bar);
    for (unsigned i = 0; i < f.n; i++) {
        g_free(f.jobs[i].type);
    }
    g_free(f.jobs);
    return status;
}
