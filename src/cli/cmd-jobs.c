/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice jobs: list the jobs of a running daemon; sluice job: act on some. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/suggest.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/limit-options.h"

struct job_args {
    const char *command, *socket;
    bool json, force, all, no_wait;
    json_t *limits; /* object; of "job" */
};

static const struct option jobs_options[] = {
    { "help", no_argument, NULL, 'h' },
    { "socket", required_argument, NULL, 's' },
    { "output", required_argument, NULL, 'o' },
    { "all", no_argument, NULL, 'a' },
    { NULL, 0, NULL, 0 }
};
static const struct option job_options[] = {
    { "help", no_argument, NULL, 'h' },
    { "socket", required_argument, NULL, 's' },
    { "output", required_argument, NULL, 'o' },
    { "force", no_argument, NULL, 'f' },
    { "no-wait", no_argument, NULL, 'n' },
    LIMIT_OPTIONS,
    { NULL, 0, NULL, 0 }
};

/* 0, exit status, or -1 after help. */
static int jobs_parse_args(int argc, char **argv, struct job_args *a,
                           const struct option *options, const char *letters)
{
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, letters, options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 's': a->socket = optarg; break;
        case 'o': r = cli_parse_output(a->command, optarg, &a->json); break;
        case 'f': a->force = true; break;
        case 'a': a->all = true; break;
        case 'n': a->no_wait = true; break;
        case OPT_LATENCY_TARGET:
        case OPT_FLOOR:
        case OPT_FINISH_BY:
            r = limit_option(a->command, c, optarg, a->limits);
            break;
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

/* "1:05 left (0:58 to 1:20)"; nothing when that cannot be told. */
static void print_eta(const json_t *eta)
{
    g_autofree char *text = eta ? progress_eta_text(eta) : NULL;

    if (text) {
        printf("  %s", text);
    }
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
    if (json_object_get(job, "held-by")) {
        printf("  held back by %s", jobs_get_str(job, "held-by"));
    }
    print_eta(json_object_get(job, "eta"));
    if (json_object_get(job, "error")) {
        printf("  error: %s", jobs_get_str(job, "error"));
    }
    printf("\n");
}

static void print_result(const json_t *result)
{
    const json_t *fault = json_object_get(result, "fault");
    g_autofree char *text = fault ? client_fault_text(fault) : NULL;
    const char *error = json_string_value(json_object_get(result, "error"));
    time_t when = (time_t)json_integer_value(json_object_get(result, "ended"));
    char date[32] = "";
    struct tm tm;

    if (when && localtime_r(&when, &tm)) {
        strftime(date, sizeof(date), "  %Y-%m-%d %H:%M:%S", &tm);
    }
    printf("%-16s %-8s %-10s%s", jobs_get_str(result, "id"),
           jobs_get_str(result, "type"), jobs_get_str(result, "outcome"), date);
    if (text || error) {
        printf("  %s", text ? text : error);
    }
    printf("\n");
}

/* How the last jobs ended, and those that an error has stopped. */
static void print_results(const json_t *list, bool all)
{
    const json_t *result;
    size_t i;

    json_array_foreach(list, i, result) {
        if (all || json_object_get(result, "ended") == NULL) {
            print_result(result);
        }
    }
}

static void print_jobs(const json_t *jobs, const json_t *results, bool all)
{
    const json_t *job;
    size_t i;

    if (json_array_size(jobs) == 0) {
        printf("No active jobs\n");
    }
    json_array_foreach(jobs, i, job) {
        print_job(job);
    }
    print_results(results, all);
}

int cmd_jobs(int argc, char **argv)
{
    struct job_args a = { .command = "jobs" };
    int status = jobs_parse_args(argc, argv, &a, jobs_options, "hs:a");

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
    json_t *jobs = client_execute(conn, "query-block-jobs", NULL);
    json_t *results = jobs ? client_execute(conn, "query-job-results", NULL)
                           : NULL;
    sluice_disconnect(conn);
    if (results && a.json) {
        char *text = json_dumps(a.all ? results : jobs, JSON_INDENT(4));
        puts(text);
        free(text);
    } else if (results) {
        print_jobs(jobs, results, a.all);
    }
    json_decref(jobs);
    status = results ? 0 : 1;
    json_decref(results);
    return status;
}

/* The verbs of `sluice job`, and the command each sends. */
static const struct verb {
    const char *name, *command, *key;
} verbs[] = {
    { "pause", "block-job-pause", "device" },
    { "resume", "block-job-resume", "device" },
    { "cancel", "block-job-cancel", "device" },
    { "complete", "block-job-complete", "device" },
    { "finalize", "job-finalize", "id" },
    { "dismiss", "job-dismiss", "id" },
    { "speed", "block-job-set-speed", "device" },
    { "limits", "block-job-set-limits", "device" },
    { "wait", NULL, NULL },
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

static int unknown_verb(const char *name)
{
    const char *names[G_N_ELEMENTS(verbs) + 1] = { NULL };
    const char *near;

    for (unsigned i = 0; i < G_N_ELEMENTS(verbs); i++) {
        names[i] = verbs[i].name;
    }
    near = suggest_word(name, names);
    if (near) {
        return cli_usage_error("job", "unknown verb '%s'; did you mean '%s'?",
                               name, near);
    }
    g_autofree char *list = g_strjoinv(", ", (char **)names);
    return cli_usage_error("job", "unknown verb '%s'; known are %s", name,
                           list);
}

/* Send one verb. @speed: of "speed" alone, else NULL. */
static int run_verb(struct sluice_conn *conn, const struct job_args *a,
                    const struct verb *v, const char *id, const uint64_t *speed)
{
    bool cancel = strcmp(v->name, "cancel") == 0;
    json_t *args = json_pack("{s:s}", v->key, id);

    if (speed) {
        json_object_set_new(args, "speed", json_integer((json_int_t)*speed));
    }
    if (a->force && cancel) {
        json_object_set_new(args, "force", json_true());
    }
    json_object_update(args, a->limits);
    json_t *reply = client_execute(conn, v->command, args);
    if (reply) {
        json_decref(reply);
        return 0;
    }
    if (cancel && !a->force) {
        fprintf(stderr, "--force cancels a paused job, too. ");
    }
    client_hint_jobs(conn, id);
    return 1;
}

/* A job that was cancelled ends soon after, or has completed before that. */
static int wait_after_cancel(struct sluice_conn *conn, const struct job_args *a,
                             const char *const *ids)
{
    const struct follow_options o = {
        .socket = a->socket, .as_json = a->json, .tell = true, .quiet = true
    };
    int status = follow_jobs(conn, ids, &o);

    return status == FOLLOW_CANCELLED ? 0 : status;
}

/* @words: the verb, ids, and with "speed" a number. */
static int job_run(struct sluice_conn *conn, const struct job_args *a,
                   const struct verb *v, const char *const *ids,
                   const uint64_t *speed)
{
    const struct follow_options o = { .socket = a->socket,
                                      .as_json = a->json,
                                      .tell = true };
    int status = 0;

    if (!v->command) {
        return follow_jobs(conn, ids, &o);
    }
    for (unsigned i = 0; ids[i]; i++) {
        status |= run_verb(conn, a, v, ids[i], speed);
    }
    if (status == 0 && strcmp(v->name, "cancel") == 0 && !a->no_wait) {
        status = wait_after_cancel(conn, a, ids);
    }
    return status;
}

/* The number of "speed", the last word, which is taken off. */
static int take_speed(int *argc, char **argv, uint64_t *ret)
{
    g_autoptr(GError) err = NULL;

    if (*argc - optind != 2) {
        return cli_usage_error("job", "'speed' takes a job id and bytes "
                                      "per second");
    }
    if (size_parse(argv[--*argc], 0, ret, &err) < 0) {
        return cli_usage_error("job", "%s", err->message);
    }
    argv[*argc] = NULL;
    return 0;
}

/* Of the options that say what to leave to guests: "limits" needs one, and has
 * them alone. */
static int check_limits(const struct verb *v, const json_t *limits)
{
    bool given = json_object_size(limits) > 0;

    if (strcmp(v->name, "limits") == 0) {
        return given
                   ? 0
                   : cli_usage_error("job", "'limits' takes --latency-target, "
                                            "--floor or --finish-by");
    }
    return given ? cli_usage_error("job", "--latency-target, --floor and "
                                          "--finish-by go with 'limits'")
                 : 0;
}

static int job_with_args(int argc, char **argv, const struct job_args *a)
{
    uint64_t number = 0, *speed = NULL;
    int status;

    if (argc - optind < 2) {
        return cli_usage_error("job", "expecting a verb and job ids");
    }
    const struct verb *v = find_verb(argv[optind++]);
    if (!v) {
        return unknown_verb(argv[optind - 1]);
    }
    status = check_limits(v, a->limits);
    if (status == 0 && strcmp(v->name, "speed") == 0) {
        speed = &number;
        status = take_speed(&argc, argv, speed);
    }
    if (status != 0) {
        return status;
    }
    struct sluice_conn *conn = client_connect(a->socket);
    if (!conn) {
        return 1;
    }
    status = job_run(conn, a, v, (const char *const *)argv + optind, speed);
    sluice_disconnect(conn);
    return status;
}

int cmd_job(int argc, char **argv)
{
    struct job_args a = { .command = "job", .limits = json_object() };
    int status = jobs_parse_args(argc, argv, &a, job_options, "hs:f");

    if (status == 0) {
        status = job_with_args(argc, argv, &a);
    }
    json_decref(a.limits);
    return MAX(status, 0);
}
