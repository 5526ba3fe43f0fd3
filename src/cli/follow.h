/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Waiting for jobs of a running daemon. */
#pragma once
#include <jansson.h>
#include <stdbool.h>

struct sluice_conn;

/* Exit statuses of what waits for jobs. Of several jobs a failure counts most,
 * then a cancel. */
enum {
    FOLLOW_COMPLETED = 0,
    FOLLOW_FAILED = 1,
    FOLLOW_CANCELLED = 3,
    FOLLOW_INTERRUPTED = 130,
};

struct follow_options {
    const char *what;   /* before the bar: "pulling"; NULL: the job's type */
    const char *socket; /* --socket as it was given, for messages; or NULL */
    const char *again;  /* the command that goes on after a cancel, or NULL */
    const char *hint;   /* a line after a start that was refused, or NULL */
    /* Sees each event of a job that is followed; may run commands. Or NULL. */
    void (*on_event)(struct sluice_conn *conn, const char *name,
                     const json_t *data, void *arg);
    void *arg;
    unsigned retry_s; /* resume a job that an error stopped after so many
                         seconds, and tell its first error; 0: it stays so */
    bool as_json;     /* print the events instead, a line each */
    bool tell;        /* say how each job ended, also when it is well */
    bool quiet;       /* draw nothing */
};

/* Wait until each of the jobs @ids (NULL-terminated, not empty) has ended, also
 * those that did so before; draw their progress; say of each that did not
 * complete what became of it and how to go on. SIGINT ends the waiting, not the
 * jobs. Returns the exit status. */
int follow_jobs(struct sluice_conn *conn, const char *const *ids,
                const struct follow_options *o);
