/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice add: open an image in a running daemon and serve it.
 *
 * A device is a node of that name, and an export with the same id.  With
 * --copy-on-read the named node is the filter, and the image below it is
 * "NAME-image".  When one step of `add` fails those before it are undone.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/serve-format.h"
#include "graph/node.h"

struct served {
    const char *socket, *name, *image, *format, *nbd_socket;
    unsigned cache; /* NODE_CACHE_DIRECT, NODE_NO_FLUSH */
    bool read_only, copy_on_read, stream;
    char *image_node; /* of the image itself */
};

enum { OPT_STREAM = OPT_OTHER, OPT_COR, OPT_CACHE, OPT_NBD };

/* --- add: what was said --- */

static int add_take_option(struct served *d, int c, char **argv)
{
    switch (c) {
    case 's': d->socket = optarg; break;
    case 'f': d->format = optarg; break;
    case 'r': d->read_only = true; break;
    case OPT_STREAM: d->stream = true; break;
    case OPT_COR: d->copy_on_read = true; break;
    case OPT_NBD: d->nbd_socket = optarg; break;
    case OPT_CACHE:
        if (image_parse_cache(optarg, &d->cache) < 0) {
            return cli_usage_error("add",
                                   "unknown cache mode '%s'; known are "
                                   "writeback, none, unsafe",
                                   optarg);
        }
        break;
    default: return cli_bad_option("add", argv);
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int add_parse_args(int argc, char **argv, struct served *d)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "socket", required_argument, NULL, 's' },
        { "format", required_argument, NULL, 'f' },
        { "read-only", no_argument, NULL, 'r' },
        { "stream", no_argument, NULL, OPT_STREAM },
        { "copy-on-read", no_argument, NULL, OPT_COR },
        { "cache", required_argument, NULL, OPT_CACHE },
        { "nbd-socket", required_argument, NULL, OPT_NBD },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, "hs:f:r", options, NULL)) != -1) {
        if (c == 'h') {
            cli_print_help();
            return -1;
        }
        r = add_take_option(d, c, argv);
    }
    if (r) {
        return r;
    }
    if (optind + 2 != argc) {
        return cli_usage_error("add", "expecting a device name and an image");
    }
    d->name = argv[optind];
    d->image = argv[optind + 1];
    if (!d->format) {
        d->format = format_of_name(d->image);
    }
    if (!d->format) {
        return cli_usage_error("add", UNKNOWN_FORMAT, d->image);
    }
    if (d->read_only && (d->stream || d->copy_on_read)) {
        return cli_usage_error("add",
                               "--stream and --copy-on-read write to the "
                               "image: they exclude --read-only");
    }
    return 0;
}

/* --- add: steps --- */

/* The file, by its full name: the daemon has another working folder. */
static json_t *file_options(const struct served *d)
{
    g_autofree char *path = g_canonicalize_filename(d->image, NULL);
    struct stat st;

    if (stat(path, &st) < 0) {
        cli_error("cannot open '%s': %s", d->image, g_strerror(errno));
        return NULL;
    }
    json_t *file = json_pack("{s:s, s:s}", "driver",
                             S_ISBLK(st.st_mode) ? "host_device" : "file",
                             "filename", path);
    if (!file) {
        cli_error("the name of '%s' is not UTF-8", d->image);
    }
    return file;
}

static bool open_image(struct sluice_conn *conn, const struct served *d)
{
    json_t *file = file_options(d);

    if (!file) {
        return false;
    }
    return client_run(conn, "blockdev-add",
                      json_pack("{s:s, s:s, s:b, s:{s:b, s:b}, s:o}", "driver",
                                d->format, "node-name", d->image_node,
                                "read-only", d->read_only, "cache", "direct",
                                (d->cache & NODE_CACHE_DIRECT) != 0, "no-flush",
                                (d->cache & NODE_NO_FLUSH) != 0, "file", file));
}

static bool check_has_base(struct sluice_conn *conn, const struct served *d)
{
    json_t *list = client_execute(conn, "query-named-block-nodes", NULL);
    json_t *node;
    bool found = false;
    size_t i;

    json_array_foreach(list, i, node) {
        const char *name = json_string_value(
            json_object_get(node, "node-name"));
        if (name && strcmp(name, d->image_node) == 0) {
            found = json_object_get(node, "backing_file") != NULL;
        }
    }
    json_decref(list);
    if (!found) {
        cli_error("--stream: '%s' has no backing file to copy from", d->image);
    }
    return found;
}

static bool add_filter(struct sluice_conn *conn, const struct served *d)
{
    return client_run(conn, "blockdev-add",
                      json_pack("{s:s, s:s, s:s}", "driver", "copy-on-read",
                                "node-name", d->name, "file", d->image_node));
}

static bool nbd_server_runs(struct sluice_conn *conn, const struct served *d)
{
    char *path, *error = NULL;
    bool started;

    if (!d->nbd_socket) {
        return true; /* it should; the export will tell */
    }
    path = g_canonicalize_filename(d->nbd_socket, NULL);
    json_t *args = json_pack("{s:{s:s, s:{s:s}}}", "addr", "type", "unix",
                             "data", "path", path);
    char *text = json_dumps(args, 0);
    started = sluice_execute(conn, "nbd-server-start", text, NULL, &error) == 0;
    if (!started && strcmp(error, "NBD server already running") == 0) {
        started = true;
    } else if (!started) {
        cli_error("%s", error);
    }
    sluice_free(error);
    free(text);
    json_decref(args);
    g_free(path);
    return started;
}

static bool add_export(struct sluice_conn *conn, const struct served *d)
{
    if (client_run(conn, "block-export-add",
                   json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id",
                             d->name, "node-name", d->name, "name", d->name,
                             "writable", !d->read_only))) {
        return true;
    }
    if (!d->nbd_socket) {
        fprintf(stderr, "Where none listens yet, --nbd-socket PATH starts the "
                        "NBD server.\n");
    }
    return false;
}

static bool start_stream(struct sluice_conn *conn, const struct served *d)
{
    return client_run(
        conn, "block-stream",
        json_pack("{s:s, s:s}", "device", d->name, "job-id", d->name));
}

static void print_uri(struct sluice_conn *conn, const struct served *d)
{
    json_t *list = client_execute(conn, "query-nbd-exports", NULL);
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *id = json_string_value(json_object_get(entry, "id"));
        if (id && strcmp(id, d->name) == 0) {
            printf("%s\n", json_string_value(json_object_get(entry, "uri")));
        }
    }
    json_decref(list);
}

/* Steps of `add` that took place, for their undoing. */
enum { DID_IMAGE = 1, DID_FILTER = 2, DID_EXPORT = 4 };

static void undo(struct sluice_conn *conn, const struct served *d, unsigned did)
{
    if (did & DID_EXPORT) {
        client_run(conn, "block-export-del",
                   json_pack("{s:s, s:s}", "id", d->name, "mode", "hard"));
    }
    if (did & DID_FILTER) {
        client_run(conn, "blockdev-del",
                   json_pack("{s:s}", "node-name", d->name));
    }
    if (did & DID_IMAGE) {
        client_run(conn, "blockdev-del",
                   json_pack("{s:s}", "node-name", d->image_node));
    }
}

static int add_device(struct sluice_conn *conn, struct served *d)
{
    bool filter = d->stream || d->copy_on_read;
    unsigned did = 0;

    d->image_node = filter ? g_strconcat(d->name, "-image", NULL)
                           : g_strdup(d->name);
    bool ok = open_image(conn, d);
    if (ok) {
        did |= DID_IMAGE;
        ok = !d->stream || check_has_base(conn, d);
    }
    if (ok && filter && (ok = add_filter(conn, d))) {
        did |= DID_FILTER;
    }
    if (ok && (ok = nbd_server_runs(conn, d) && add_export(conn, d))) {
        did |= DID_EXPORT;
        ok = !d->stream || start_stream(conn, d);
    }
    if (ok) {
        print_uri(conn, d);
    } else {
        undo(conn, d, did);
    }
    g_free(d->image_node);
    return ok ? 0 : 1;
}

int cmd_add(int argc, char **argv)
{
    struct served d = { 0 };
    int status = add_parse_args(argc, argv, &d);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    g_assert(d.name && d.image); /* else it was a usage error */
    struct sluice_conn *conn = client_connect(d.socket);
    if (!conn) {
        return 1;
    }
    status = add_device(conn, &d);
    sluice_disconnect(conn);
    return status;
}
