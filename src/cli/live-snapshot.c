/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands for a disk in use that are over at once: sluice snapshot --live, and
 * sluice switch.
 */
#include <getopt.h>
#include <glib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/job-options.h"
#include "cli/print.h"

struct live_snapshot {
    const char *socket, *device, *format;
    int action; /* 'l', 'c', 'd', OPT_OVERLAY */
    const char *name;
    bool exists; /* the overlay */
};

enum { OPT_LIVE = 256, OPT_OVERLAY };

static int live_set_action(struct live_snapshot *s, int action,
                           const char *name)
{
    if (s->action) {
        return cli_usage_error("snapshot",
                               "expecting one of -l, -c, -d, --overlay");
    }
    s->action = action;
    s->name = name;
    return 0;
}

/* 0, or an exit status of at least 1; -1: help was printed. */
static int live_snapshot_parse_args(int argc, char **argv,
                                    struct live_snapshot *s)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "live", no_argument, NULL, OPT_LIVE },
        { "overlay", required_argument, NULL, OPT_OVERLAY },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:f:nlc:d:", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 's': s->socket = optarg; break;
        case 'f': s->format = optarg; break;
        case 'n': s->exists = true; break;
        case OPT_LIVE: break;
        case 'l':
        case 'c':
        case 'd':
        case OPT_OVERLAY: r = live_set_action(s, c, optarg); break;
        default: r = cli_bad_option("snapshot", argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("snapshot", "expecting one device name");
    }
    s->device = argv[optind];
    return r;
}

/* Run a command about @device. Returns the exit status. */
static int live_run(struct sluice_conn *conn, const char *device,
                    const char *command, json_t *args)
{
    json_t *reply = client_execute(conn, command, args);

    if (!reply) {
        client_hint_device(conn, device);
        return 1;
    }
    json_decref(reply);
    return 0;
}

static int live_list(struct sluice_conn *conn, const char *device)
{
    json_t *list = client_execute(conn, "query-block", NULL), *d;
    const json_t *found = NULL;
    size_t i;

    json_array_foreach(list, i, d) {
        if (g_strcmp0(json_string_value(json_object_get(d, "device")),
                      device) == 0) {
            found = json_object_get(json_object_get(d, "inserted"), "image");
        }
    }
    if (found) {
        print_snapshots(json_object_get(found, "snapshots"));
    } else if (list) {
        cli_error("there is no device '%s' with an image", device);
        client_hint_device(conn, device);
    }
    json_decref(list);
    return found ? 0 : 1;
}

static int live_overlay(struct sluice_conn *conn, const struct live_snapshot *s)
{
    g_autofree char *file = name_for_daemon(s->name);
    json_t *args = json_pack("{s:s, s:s, s:s, s:s}", "device", s->device,
                             "snapshot-file", file, "format",
                             s->format ? s->format : "qcow2", "mode",
                             s->exists ? "existing" : "absolute-paths");

    return live_run(conn, s->device, "blockdev-snapshot-sync", args);
}

static int live_snapshot_run(struct sluice_conn *conn,
                             const struct live_snapshot *s)
{
    json_t *args;

    if (s->action == OPT_OVERLAY) {
        return live_overlay(conn, s);
    }
    if (s->action != 'c' && s->action != 'd') {
        return live_list(conn, s->device);
    }
    args = json_pack("{s:s, s:s}", "device", s->device, "name", s->name);
    return live_run(conn, s->device,
                    s->action == 'c' ? "blockdev-snapshot-internal-sync"
                                     : "blockdev-snapshot-delete-internal-sync",
                    args);
}

int live_snapshot(int argc, char **argv)
{
    struct live_snapshot s = { 0 };
    int status = live_snapshot_parse_args(argc, argv, &s);
    struct sluice_conn *conn;

    if (status != 0) {
        return MAX(status, 0);
    }
    conn = client_connect(s.socket);
    if (!conn) {
        return 1;
    }
    status = live_snapshot_run(conn, &s);
    sluice_disconnect(conn);
    return status;
}

/* --- sluice switch --- */

int cmd_switch(int argc, char **argv)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "format", required_argument, NULL, 'f' },
        { NULL, 0, NULL, 0 }
    };
    const char *socket = NULL, *format = NULL;
    g_autofree char *image = NULL;
    struct sluice_conn *conn;
    json_t *args;
    int c, status;

    while ((c = getopt_long(argc, argv, "hs:f:", options, NULL)) != -1) {
        switch (c) {
        case 'h': return cli_print_help();
        case 's': socket = optarg; break;
        case 'f': format = optarg; break;
        default: return cli_bad_option("switch", argv);
        }
    }
    if (optind + 2 != argc) {
        return cli_usage_error("switch",
                               "expecting a device name and an image");
    }
    conn = client_connect(socket);
    if (!conn) {
        return 1;
    }
    image = name_for_daemon(argv[optind + 1]);
    args = json_pack("{s:s, s:s}", "device", argv[optind], "image", image);
    if (format) {
        json_object_set_new(args, "format", json_string(format));
    }
    status = live_run(conn, argv[optind], "block_switch", args);
    sluice_disconnect(conn);
    return status;
}
