/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice pull: populate a device of a running daemon from its base. */
#include <getopt.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"

struct pull {
    struct job_options job;
    const char *base, *backing_file;
};

/* 0, or an exit status of at least 1; -1: help was printed. */
static int pull_parse_args(int argc, char **argv, struct pull *p)
{
    static const struct option options[] = {
        { "base", required_argument, NULL, 'b' },
        { "backing-file", required_argument, NULL, 'B' },
        JOB_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    const struct job_own_option own[] = {
        { 'b', .text = &p->base },
        { 'B', .text = &p->backing_file },
        { 0 },
    };
    const struct job_command_line line = {
        .command = "pull",
        .letters = "hs:b:",
        .options = options,
        .own = own,
    };

    return job_options_parse(&line, argc, argv, &p->job);
}

static json_t *stream_arguments(const struct pull *p)
{
    json_t *args = json_pack("{s:s}", "device", p->job.device);

    client_set_string(args, "base", p->base);
    client_set_string(args, "backing-file", p->backing_file);
    client_set_string(args, "on-error", p->job.on_error);
    return args;
}

static int pull_run(const struct pull *p)
{
    const char *socket = p->job.socket;
    g_autofree char *device = cli_shell_word(p->job.device);
    g_autofree char *at = socket ? cli_shell_word(socket) : NULL;
    g_autofree char *again = g_strdup_printf(
        "sluice pull%s%s %s", at ? " -s " : "", at ? at : "", device);
    struct follow_options f = {
        .what = "pulling",
        .again = again,
        .hint = p->base ? "--base takes the name of an image below the "
                          "device, as its chain has it."
                        : NULL,
    };

    return job_options_run(&p->job, "block-stream", stream_arguments(p), &f);
}

int cmd_pull(int argc, char **argv)
{
    struct pull p = { 0 };
    int status;

    job_options_init(&p.job);
    status = pull_parse_args(argc, argv, &p);
    if (status == 0) {
        status = pull_run(&p);
    }
    job_options_clear(&p.job);
    return MAX(status, 0);
}
