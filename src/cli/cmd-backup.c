/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice backup: copy a disk in use as it is now, while its guests go on. */
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"

struct backup_command {
    struct job_options job;
    const char *format, *sync, *bitmap; /* or NULL */
    uint64_t cbw_timeout;               /* s */
    bool exists, compress;
};

enum { OPT_SYNC = 256, OPT_BITMAP, OPT_CBW_TIMEOUT };

static int take_timeout(const char *text, uint64_t *ret)
{
    return cli_parse_number(text, ret) == 0 && *ret <= UINT32_MAX
               ? 0
               : cli_usage_error(
                     "backup", "--cbw-timeout expects seconds, not '%s'", text);
}

/* 0, or an exit status of at least 1; -1: help was printed. */
static int backup_parse_args(int argc, char **argv, struct backup_command *b)
{
    static const struct option options[] = {
        { "format", required_argument, NULL, 'f' },
        { "sync", required_argument, NULL, OPT_SYNC },
        { "bitmap", required_argument, NULL, OPT_BITMAP },
        { "cbw-timeout", required_argument, NULL, OPT_CBW_TIMEOUT },
        JOB_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    const char *timeout = NULL;
    const struct job_own_option own[] = {
        { 'f', .text = &b->format },
        { 'n', .flag = &b->exists },
        { 'c', .flag = &b->compress },
        { OPT_SYNC, .text = &b->sync },
        { OPT_BITMAP, .text = &b->bitmap },
        { OPT_CBW_TIMEOUT, .text = &timeout },
        { 0 },
    };
    const struct job_command_line line = {
        .command = "backup",
        .letters = "hs:f:nc",
        .options = options,
        .own = own,
        .target = true,
    };
    int r = job_options_parse(&line, argc, argv, &b->job);

    return r == 0 && timeout ? take_timeout(timeout, &b->cbw_timeout) : r;
}

/* A bitmap alone means what has changed since the last backup by it. */
static json_t *backup_arguments(const struct backup_command *b)
{
    g_autofree char *target = name_for_daemon(b->job.target);
    const char *sync = b->sync ? b->sync : b->bitmap ? "incremental" : "full";
    json_t *args = json_pack("{s:s, s:s, s:s, s:s, s:b}", "device",
                             b->job.device, "target", target, "sync", sync,
                             "mode", b->exists ? "existing" : "absolute-paths",
                             "compress", b->compress);

    client_set_string(args, "format", b->format);
    client_set_string(args, "bitmap", b->bitmap);
    if (b->bitmap && strcmp(sync, "incremental") != 0) {
        client_set_string(args, "bitmap-mode", "on-success");
    }
    if (b->cbw_timeout) {
        json_object_set_new(args, "cbw-timeout",
                            json_integer((json_int_t)b->cbw_timeout));
        client_set_string(args, "on-cbw-error", "break-snapshot");
    }
    client_set_string(args, "on-source-error", b->job.on_error);
    client_set_string(args, "on-target-error", b->job.on_error);
    return args;
}

int cmd_backup(int argc, char **argv)
{
    struct backup_command b = { 0 };
    struct follow_options f = { .what = "backing up" };
    int status;

    job_options_init(&b.job);
    status = backup_parse_args(argc, argv, &b);
    if (status == 0) {
        status = job_options_run(&b.job, "drive-backup", backup_arguments(&b),
                                 &f);
    }
    job_options_clear(&b.job);
    return MAX(status, 0);
}
