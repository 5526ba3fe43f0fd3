/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice remove: take away from a running daemon what sluice add made; see
 * cmd-add.c for what that is. */
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"

struct removal {
    const char *socket, *name;
    bool force;
};

/* 0, an exit status, or -1 after help. */
static int remove_parse_args(int argc, char **argv, struct removal *d)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "force", no_argument, NULL, 'f' },
        { NULL, 0, NULL, 0 }
    };
    int c;

    while ((c = getopt_long(argc, argv, "hs:f", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 's': d->socket = optarg; break;
        case 'f': d->force = true; break;
        default: return cli_bad_option("remove", argv);
        }
    }
    if (optind + 1 != argc) {
        return cli_usage_error("remove", "expecting one device name");
    }
    d->name = argv[optind];
    return 0;
}

static int remove_export(struct sluice_conn *conn, const struct removal *d)
{
    if (!client_has(conn, "query-block-exports", "id", d->name)) {
        return 0;
    }
    if (!client_run(conn, "block-export-del",
                    json_pack("{s:s, s:s}", "id", d->name, "mode",
                              d->force ? "hard" : "safe"))) {
        fprintf(stderr, "--force cuts its clients off.\n");
        return 1;
    }
    return client_wait_export_gone(conn, d->name) ? 0 : 1;
}

static int remove_nodes(struct sluice_conn *conn, const struct removal *d)
{
    g_autofree char *image = g_strconcat(d->name, "-image", NULL);

    if (!client_run(conn, "blockdev-del",
                    json_pack("{s:s}", "node-name", d->name))) {
        return 1;
    }
    if (client_has(conn, "query-named-block-nodes", "node-name", image) &&
        !client_run(conn, "blockdev-del",
                    json_pack("{s:s}", "node-name", image))) {
        return 1;
    }
    return 0;
}

static int remove_device(struct sluice_conn *conn, const struct removal *d)
{
    if (!client_has(conn, "query-named-block-nodes", "node-name", d->name)) {
        bool drive = client_has(conn, "query-block", "device", d->name);

        cli_error(drive ? "'%s' was made by --drive and stays until the daemon "
                          "ends"
                        : "there is no device '%s'",
                  d->name);
        (void)client_hint_device(conn, d->name);
        return 1;
    }
    if (client_has(conn, "query-block-jobs", "device", d->name)) {
        cli_error("job '%s' runs on it", d->name);
        fprintf(stderr,
                "'sluice job wait %s' waits for its end, 'sluice job "
                "cancel %s' ends it.\n",
                d->name, d->name);
        return 1;
    }
    int status = remove_export(conn, d);
    return status ? status : remove_nodes(conn, d);
}

int cmd_remove(int argc, char **argv)
{
    struct removal d = { 0 };
    int status = remove_parse_args(argc, argv, &d);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    struct sluice_conn *conn = client_connect(d.socket);
    if (!conn) {
        return 1;
    }
    status = remove_device(conn, &d);
    sluice_disconnect(conn);
    return status;
}
