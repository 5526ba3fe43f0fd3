/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice jobs: list the jobs of a running daemon; sluice job: act on one. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"

struct job_args {
    const char *command, *socket;
    bool json, force;
};

/* Options that both take. 0, exit status, or -1 after help. */
static int jobs_parse_args(int argc, char **argv, struct job_args *a)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "output", required_argument, NULL, 'o' },
        { "force", no_argument, NULL, 'f' },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:f", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 's': a->socket = optarg; break;
        case 'o': r = cli_parse_output(a->command, optarg, &a->json); break;
        case 'f': a->force = true; break;
        default: r = cli_bad_option(a->command, argv); break;
        }
    }
    return r;
}

static const char *jobs_get_str(const json_t *obj, const char *key)
{
    const char *s = json_string_value(json_object_get(obj, key));

    return s ? s : "-";
}

static void print_job(const json_t *job)
{
    json_int_t done = json_integer_value(json_object_get(job, "offset"));
    json_int_t len = json_integer_value(json_object_get(job, "len"));
    json_int_t speed = json_integer_value(json_object_get(job, "speed"));
    g_autofree char *done_text = size_format((uint64_t)done);
    g_autofree char *len_text = size_format((uint64_t)len);
    g_autofree char *speed_text = size_format((uint64_t)speed);

    printf("%-16s %-8s %-10s %5.1f%%  %s of %s", jobs_get_str(job, "device"),
           jobs_get_str(job, "type"), jobs_get_str(job, "status"),
           len ? (double)done * 100 / (double)len : 100.0, done_text, len_text);
    if (speed) {
        printf("  limit %s/s", speed_text);
    }
    if (json_object_get(job, "error")) {
        printf("  error: %s", jobs_get_str(job, "error"));
    }
    printf("\n");
}

int cmd_jobs(int argc, char **argv)
{
    struct job_args a = { .command = "jobs" };
    int status = jobs_parse_args(argc, argv, &a);
    json_t *job;
    size_t i;

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    if (optind != argc) {
        return cli_usage_error("jobs", "unexpected argument '%s'",
                               argv[optind]);
    }
    struct sluice_conn *conn = client_connect(a.socket);
    if (!conn) {
        return 1;
    }
    json_t *list = client_execute(conn, "query-block-jobs", NULL);
    sluice_disconnect(conn);
    if (!list) {
        return 1;
    }
    if (a.json) {
        char *text = json_dumps(list, JSON_INDENT(4));
        puts(text);
        free(text);
    } else if (json_array_size(list) == 0) {
        printf("No active jobs\n");
    }
    json_array_foreach(list, i, job) {
        if (!a.json) {
            print_job(job);
        }
    }
    json_decref(list);
    return 0;
}

/* The verbs of `sluice job`, and the command each sends. */
static const struct verb {
    const char *name, *command, *key;
    bool takes_speed;
} verbs[] = {
    { "pause", "block-job-pause", "device", false },
    { "resume", "block-job-resume", "device", false },
    { "cancel", "block-job-cancel", "device", false },
    { "complete", "block-job-complete", "device", false },
    { "finalize", "job-finalize", "id", false },
    { "dismiss", "job-dismiss", "id", false },
    { "speed", "block-job-set-speed", "device", true },
};

static const struct verb *find_verb(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (strcmp(verbs[i].name, name) == 0) {
            return &verbs[i];
        }
    }
    return NULL;
}

static int run_verb(const struct job_args *a, const struct verb *v,
                    const char *id, uint64_t speed)
{
    json_t *args = json_pack("{s:s}", v->key, id);

    if (v->takes_speed) {
        json_object_set_new(args, "speed", json_integer((json_int_t)speed));
    }
    if (a->force && strcmp(v->name, "cancel") == 0) {
        json_object_set_new(args, "force", json_true());
    }
    struct sluice_conn *conn = client_connect(a->socket);
    json_t *reply = NULL;
    if (conn) {
        reply = client_execute(conn, v->command, args);
    } else {
        json_decref(args);
    }
    int status = reply ? 0 : 1;
    json_decref(reply);
    sluice_disconnect(conn);
    return status;
}

/* `sluice job wait ID` */
static int wait_job(const struct job_args *a, const char *id)
{
    struct sluice_conn *conn = client_connect(a->socket);
    int status = conn ? client_follow_job(conn, id, a->json) : 1;

    sluice_disconnect(conn);
    return status;
}

int cmd_job(int argc, char **argv)
{
    struct job_args a = { .command = "job" };
    int status = jobs_parse_args(argc, argv, &a);
    g_autoptr(GError) err = NULL;
    uint64_t speed = 0;

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    if (argc - optind < 2) {
        return cli_usage_error("job", "expecting a verb and a job id");
    }
    const char *verb = argv[optind], *id = argv[optind + 1];
    if (strcmp(verb, "wait") == 0 && argc - optind == 2) {
        return wait_job(&a, id);
    }
    const struct verb *v = find_verb(verb);
    if (!v) {
        return cli_usage_error("job", "unknown verb '%s'", verb);
    }
    if (argc - optind != (v->takes_speed ? 3 : 2)) {
        return cli_usage_error("job", "'%s' takes a job id%s", verb,
                               v->takes_speed ? " and bytes per second" : "");
    }
    if (v->takes_speed && size_parse(argv[optind + 2], 0, &speed, &err) < 0) {
        return cli_usage_error("job", "%s", err->message);
    }
    return run_verb(&a, v, id, speed);
}
