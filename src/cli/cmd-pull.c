/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice pull: populate a device of a running daemon from its base. */
#include <getopt.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"

struct pull {
    struct job_options job;
    const char *device, *base, *backing_file;
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
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:b:", options, NULL)) != -1) {
        switch (c) {
        case 'b': p->base = optarg; break;
        case 'B': p->backing_file = optarg; break;
        default: r = job_option("pull", c, optarg, argv, &p->job); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("pull", "expecting one device name");
    }
    p->device = argv[optind];
    return r;
}

static json_t *stream_arguments(const struct pull *p)
{
    json_t *args = json_pack("{s:s}", "device", p->device);

    client_set_string(args, "base", p->base);
    client_set_string(args, "backing-file", p->backing_file);
    client_set_string(args, "on-error", p->job.on_error);
    return args;
}

static int pull_run(const struct pull *p)
{
    const char *socket = p->job.socket;
    g_autofree char *device = cli_shell_word(p->device);
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

    return job_options_run(&p->job, "block-stream", stream_arguments(p),
                           p->device, &f);
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
