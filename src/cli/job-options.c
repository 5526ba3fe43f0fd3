/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/job-options.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"
#include "cli/client.h"

void job_options_init(struct job_options *o)
{
    *o = (struct job_options) { .limits = json_object() };
}

void job_options_clear(struct job_options *o)
{
    json_decref(o->limits);
}

int job_option_speed(const char *command, const char *text, uint64_t *ret)
{
    g_autoptr(GError) err = NULL;

    if (size_parse(text, 0, ret, &err) < 0) {
        return cli_usage_error(command, "--speed: %s", err->message);
    }
    return 0;
}

/* Take option @c of @argv: one of all such commands. */
static int take_common(const char *command, int c, const char *text,
                       char **argv, struct job_options *o)
{
    switch (c) {
    case 'h': cli_print_help(); return -1;
    case 's': o->socket = text; return 0;
    case OPT_SPEED: return job_option_speed(command, text, &o->speed);
    case OPT_ON_ERROR: o->on_error = text; return 0;
    case OPT_JOB_ID: o->job_id = text; return 0;
    case OPT_NO_WAIT: o->no_wait = true; return 0;
    case OPT_JOB_OUTPUT: return cli_parse_output(command, text, &o->json);
    case OPT_LATENCY_TARGET:
    case OPT_FLOOR:
    case OPT_FINISH_BY: return limit_option(command, c, text, o->limits);
    default: return cli_bad_option(command, argv);
    }
}

static const struct job_own_option *find_own(const struct job_own_option *own,
                                             int c)
{
    while (own->c && own->c != c) {
        own++;
    }
    return own->c ? own : NULL;
}

static int job_options_take(const struct job_command_line *l, int c,
                            char **argv, struct job_options *o)
{
    const struct job_own_option *own = find_own(l->own, c);

    if (!own) {
        return take_common(l->command, c, optarg, argv, o);
    }
    if (own->text) {
        *own->text = optarg;
    }
    if (own->flag) {
        *own->flag = true;
    }
    return 0;
}

int job_options_parse(const struct job_command_line *l, int argc, char **argv,
                      struct job_options *o)
{
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, l->letters, l->options, NULL)) != -1) {
        r = job_options_take(l, c, argv, o);
    }
    if (r != 0) {
        return r;
    }
    if (optind + 1 + l->target != argc) {
        return cli_usage_error(
            l->command, l->target ? "expecting a device name and a target"
                                  : "expecting one device name");
    }
    o->device = argv[optind];
    o->target = l->target ? argv[optind + 1] : NULL;
    return 0;
}

static void job_options_add(const struct job_options *o, json_t *args)
{
    json_object_set_new(args, "job-id",
                        json_string(o->job_id ? o->job_id : o->device));
    if (o->speed) {
        json_object_set_new(args, "speed", json_integer((json_int_t)o->speed));
    }
    json_object_update(args, o->limits);
}

int job_options_run(const struct job_options *o, const char *command,
                    json_t *args, struct follow_options *f)
{
    const char *ids[] = { o->job_id ? o->job_id : o->device, NULL };
    struct sluice_conn *conn = client_connect(o->socket);
    json_t *reply;
    int status = 0;

    if (!conn) {
        json_decref(args);
        return 1;
    }
    job_options_add(o, args);
    f->socket = o->socket;
    f->as_json = o->json;
    reply = client_execute(conn, command, args);
    if (!reply) {
        status = 1;
        if (!client_hint_device(conn, o->device) && f->hint) {
            fprintf(stderr, "%s\n", f->hint);
        }
    } else if (!o->no_wait) {
        status = follow_jobs(conn, ids, f);
    }
    json_decref(reply);
    sluice_disconnect(conn);
    return status;
}

bool wants_daemon(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (g_str_has_prefix(argv[i], "-s") ||
            g_str_has_prefix(argv[i], "--socket") ||
            strcmp(argv[i], "--live") == 0) {
            return true;
        }
    }
    return false;
}

char *name_for_daemon(const char *name)
{
    size_t len = strcspn(name, ":/");

    return name[len] == ':' && len > 0 ? g_strdup(name)
                                       : g_canonicalize_filename(name, NULL);
}
