/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice pull: populate a device of a running daemon from its base. */
#include <getopt.h>
#include <stdio.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/follow.h"
#include "cli/limit-options.h"

struct pull {
    const char *socket, *device, *base, *backing_file, *on_error, *job_id;
    uint64_t speed;
    json_t *limits; /* object */
    bool no_wait, json;
};

static int parse_speed(const char *text, uint64_t *ret)
{
    g_autoptr(GError) err = NULL;

    if (size_parse(text, 0, ret, &err) < 0) {
        return cli_usage_error("pull", "--speed: %s", err->message);
    }
    return 0;
}

/* 0, or an exit status of at least 1; -1: help was printed. */
static int pull_parse_args(int argc, char **argv, struct pull *p)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "base", required_argument, NULL, 'b' },
        { "backing-file", required_argument, NULL, 'B' },
        { "speed", required_argument, NULL, 'S' },
        LIMIT_OPTIONS,
        { "on-error", required_argument, NULL, 'e' },
        { "job-id", required_argument, NULL, 'j' },
        { "no-wait", no_argument, NULL, 'n' },
        { "output", required_argument, NULL, 'o' },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:b:", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 's': p->socket = optarg; break;
        case 'b': p->base = optarg; break;
        case 'B': p->backing_file = optarg; break;
        case 'S': r = parse_speed(optarg, &p->speed); break;
        case OPT_LATENCY_TARGET:
        case OPT_FLOOR:
        case OPT_FINISH_BY:
            r = limit_option("pull", c, optarg, p->limits);
            break;
        case 'e': p->on_error = optarg; break;
        case 'j': p->job_id = optarg; break;
        case 'n': p->no_wait = true; break;
        case 'o': r = cli_parse_output("pull", optarg, &p->json); break;
        default: r = cli_bad_option("pull", argv); break;
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
    json_t *args = json_pack("{s:s,s:s}", "device", p->device, "job-id",
                             p->job_id ? p->job_id : p->device);

    if (p->base) {
        json_object_set_new(args, "base", json_string(p->base));
    }
    if (p->backing_file) {
        json_object_set_new(args, "backing-file", json_string(p->backing_file));
    }
    if (p->on_error) {
        json_object_set_new(args, "on-error", json_string(p->on_error));
    }
    if (p->speed) {
        json_object_set_new(args, "speed", json_integer((json_int_t)p->speed));
    }
    json_object_update(args, p->limits);
    return args;
}

static int follow_pull(struct sluice_conn *conn, const struct pull *p)
{
    const char *ids[] = { p->job_id ? p->job_id : p->device, NULL };
    g_autofree char *device = cli_shell_word(p->device);
    g_autofree char *at = p->socket ? cli_shell_word(p->socket) : NULL;
    g_autofree char *again = g_strdup_printf(
        "sluice pull%s%s %s", at ? " -s " : "", at ? at : "", device);
    const struct follow_options o = {
        .what = "pulling",
        .socket = p->socket,
        .again = again,
        .as_json = p->json,
    };

    return follow_jobs(conn, ids, &o);
}

static int pull_run(const struct pull *p)
{
    struct sluice_conn *conn = client_connect(p->socket);
    int status = 0;

    if (!conn) {
        return 1;
    }
    json_t *reply = client_execute(conn, "block-stream", stream_arguments(p));
    if (!reply) {
        status = 1;
        if (!client_hint_device(conn, p->device) && p->base) {
            fprintf(stderr, "--base takes the name of an image below the "
                            "device, as its chain has it.\n");
        }
    } else if (!p->no_wait) {
        status = follow_pull(conn, p);
    }
    json_decref(reply);
    sluice_disconnect(conn);
    return status;
}

int cmd_pull(int argc, char **argv)
{
    struct pull p = { .limits = json_object() };
    int status = pull_parse_args(argc, argv, &p);

    if (status == 0) {
        status = pull_run(&p);
    }
    json_decref(p.limits);
    return MAX(status, 0);
}
