/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Starting jobs that go on after the daemon's end: a record in the journal comes
 * before the job, and from the record it is started again.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct control;

/* A start by a command, or again. */
struct job_start {
    const json_t *args;     /* of the command, checked */
    const char *checkpoint; /* for struct job_params; borrowed */
    bool resumed;
};

/* Start the job that a command's arguments describe, without a record. */
typedef int job_co_start_fn(struct control *c, const struct job_start *s,
                            GError **err);
/* Of the commands that start such jobs; each in the file of its command. */
CO_FN int stream_co_command(struct control *c, const struct job_start *s,
                            GError **err);
CO_FN int commit_co_command(struct control *c, const struct job_start *s,
                            GError **err);
CO_FN int mirror_co_command(struct control *c, const struct job_start *s,
                            GError **err);
CO_FN int drive_mirror_co_command(struct control *c, const struct job_start *s,
                                  GError **err);

/* Record the job of @command (its QMP name) and start it by @co_begin. */
CO_FN int job_start_co_run(struct control *c, const char *command,
                           job_co_start_fn *co_begin, const json_t *args,
                           GError **err);
/* job-again.c: a journal_co_restart_fn. */
CO_FN int job_start_co_again(struct control *c, const char *command,
                             const json_t *args, const char *checkpoint,
                             GError **err);
