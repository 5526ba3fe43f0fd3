/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice commit --live: merge images of a disk in use into one below them. */
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"

struct live_commit {
    struct job_options job;
    const char *base, *top; /* or NULL */
};

enum { OPT_LIVE = 256, OPT_TOP };

/* 0, or an exit status of at least 1; -1: help was printed. */
static int live_commit_parse_args(int argc, char **argv, struct live_commit *m)
{
    static const struct option options[] = {
        { "live", no_argument, NULL, OPT_LIVE },
        { "top", required_argument, NULL, OPT_TOP },
        JOB_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    const struct job_own_option own[] = {
        { OPT_LIVE },
        { 'b', .text = &m->base },
        { OPT_TOP, .text = &m->top },
        { 0 },
    };
    const struct job_command_line line = {
        .command = "commit",
        .letters = "hs:b:",
        .options = options,
        .own = own,
    };

    return job_options_parse(&line, argc, argv, &m->job);
}

static json_t *commit_arguments(const struct live_commit *m)
{
    json_t *args = json_pack("{s:s}", "device", m->job.device);

    client_set_string(args, "base", m->base);
    client_set_string(args, "top", m->top);
    client_set_string(args, "on-error", m->job.on_error);
    return args;
}

/* Of the image that guests write to the end has to be asked for. */
static void commit_on_event(struct sluice_conn *conn, const char *name,
                            const json_t *data, void *arg)
{
    const char *id = json_string_value(json_object_get(data, "device"));

    if (strcmp(name, "BLOCK_JOB_READY") == 0) {
        json_decref(client_execute(conn, "block-job-complete",
                                   json_pack("{s:s}", "device", id)));
    }
}

int live_commit(int argc, char **argv)
{
    struct live_commit m = { 0 };
    struct follow_options f = {
        .what = "merging",
        .on_event = commit_on_event,
        .hint = "-b and --top take names of images of the device's chain, as "
                "the chain has them.",
    };
    int status;

    job_options_init(&m.job);
    status = live_commit_parse_args(argc, argv, &m);
    if (status == 0) {
        status = job_options_run(&m.job, "block-commit", commit_arguments(&m),
                                 &f);
    }
    job_options_clear(&m.job);
    return MAX(status, 0);
}
