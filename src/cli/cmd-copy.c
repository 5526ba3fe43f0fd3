/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice copy: copy a disk in use to another image, and let its guests go on
 * there, or leave a consistent copy.
 *
 * The daemon's mirror does the work.  It begins in the background; when it says
 * that guests write faster than it copies, it is told to make each change on
 * both sides, so that it ends whatever guests do.
 */
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"

struct copy_command {
    struct job_options job;
    const char *format, *sync, *copy_mode; /* or NULL */
    bool exists, keep;
};

enum { OPT_SYNC = 256, OPT_COPY_MODE, OPT_KEEP };

/* 0, or an exit status of at least 1; -1: help was printed. */
static int copy_parse_args(int argc, char **argv, struct copy_command *k)
{
    static const struct option options[] = {
        { "format", required_argument, NULL, 'f' },
        { "sync", required_argument, NULL, OPT_SYNC },
        { "copy-mode", required_argument, NULL, OPT_COPY_MODE },
        { "keep", no_argument, NULL, OPT_KEEP },
        JOB_OPTIONS,
        { NULL, 0, NULL, 0 }
    };
    const struct job_own_option own[] = {
        { 'f', .text = &k->format },
        { 'n', .flag = &k->exists },
        { OPT_SYNC, .text = &k->sync },
        { OPT_COPY_MODE, .text = &k->copy_mode },
        { OPT_KEEP, .flag = &k->keep },
        { 0 },
    };
    const struct job_command_line line = {
        .command = "copy",
        .letters = "hs:f:n",
        .options = options,
        .own = own,
        .target = true,
    };

    return job_options_parse(&line, argc, argv, &k->job);
}

static json_t *mirror_arguments(const struct copy_command *k)
{
    g_autofree char *target = name_for_daemon(k->job.target);
    json_t *args = json_pack("{s:s, s:s, s:s, s:s}", "device", k->job.device,
                             "target", target, "sync",
                             k->sync ? k->sync : "full", "mode",
                             k->exists ? "existing" : "absolute-paths");

    client_set_string(args, "format", k->format);
    client_set_string(args, "copy-mode", k->copy_mode);
    client_set_string(args, "on-source-error", k->job.on_error);
    client_set_string(args, "on-target-error", k->job.on_error);
    return args;
}

static void copy_tell(struct sluice_conn *conn, const char *command,
                      json_t *args)
{
    json_decref(client_execute(conn, command, args));
}

static void copy_on_event(struct sluice_conn *conn, const char *name,
                          const json_t *data, void *arg)
{
    const struct copy_command *k = arg;
    const char *id = json_string_value(json_object_get(data, "device"));

    if (strcmp(name, "BLOCK_JOB_READY") == 0) {
        copy_tell(conn, k->keep ? "block-job-cancel" : "block-job-complete",
                  json_pack("{s:s}", "device", id));
    } else if (strcmp(name, "BLOCK_JOB_FALLS_BEHIND") == 0 && !k->copy_mode) {
        copy_tell(conn, "block-job-change",
                  json_pack("{s:s, s:s, s:s}", "id", id, "type", "mirror",
                            "copy-mode", "write-blocking"));
    } else if (strcmp(name, "BLOCK_JOB_FALLS_BEHIND") == 0) {
        cli_error("guests write faster than job '%s' copies; without "
                  "--copy-mode it would wait for the target with each write",
                  id);
    }
}

int cmd_copy(int argc, char **argv)
{
    struct copy_command k = { 0 };
    struct follow_options f = {
        .what = "copying",
        .on_event = copy_on_event,
        .arg = &k,
    };
    int status;

    job_options_init(&k.job);
    status = copy_parse_args(argc, argv, &k);
    if (status == 0) {
        status = job_options_run(&k.job, "drive-mirror", mirror_arguments(&k),
                                 &f);
    }
    job_options_clear(&k.job);
    return MAX(status, 0);
}
