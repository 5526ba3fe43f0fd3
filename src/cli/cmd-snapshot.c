/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice snapshot: list, make, apply and delete snapshots inside an image. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/job-options.h"
#include "cli/print.h"
#include "graph/image.h"
#include "graph/node.h"

struct snapshot {
    struct image_spec image;
    int action; /* 'l', 'a', 'c', 'd'; 0: nothing is done */
    const char *name;
};

static int set_action(struct snapshot *s, int action, const char *name)
{
    if (s->action) {
        return cli_usage_error("snapshot", "Cannot mix '-l', '-a', '-c', '-d'");
    }
    s->action = action;
    s->name = name;
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int snapshot_parse_args(int argc, char **argv, struct snapshot *s)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             FORCE_SHARE_OPTION,
                                             { NULL, 0, NULL, 0 } };
    int c, r = 0;

    while (r == 0 && (c = getopt_long(argc, argv, ":la:c:d:hqUf:", options,
                                      NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'l': r = set_action(s, 'l', NULL); break;
        case 'a':
        case 'c':
        case 'd': r = set_action(s, c, optarg); break;
        case 'f': s->image.format = optarg; break;
        case 'q': break;
        case 'U': s->image.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: s->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("snapshot", optarg); break;
        default: r = cli_option_error("snapshot", c, argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("snapshot", "Expecting one image file name");
    }
    s->image.name = argv[optind];
    return r;
}

/* The id of the first one of that name, or NULL. */
static const char *find_id(const json_t *snapshots, const char *name)
{
    const json_t *s;
    size_t i;

    json_array_foreach(snapshots, i, s) {
        const char *n = json_string_value(json_object_get(s, "name"));

        if (n && strcmp(n, name) == 0) {
            return json_string_value(json_object_get(s, "id"));
        }
    }
    return NULL;
}

static CO_FN int snapshot_co_act(const struct snapshot *s, struct node *n,
                                 const json_t *list, GError **err)
{
    g_autoptr(GError) why = NULL;
    int r;

    switch (s->action) {
    case 'c':
        r = node_co_snapshot(n, SNAPSHOT_CREATE, s->name, &why);
        if (r < 0 && cli_is_qemu_img()) {
            return err_set(err, -r, "Could not create snapshot '%s': %d (%s)",
                           s->name, r, g_strerror(-r));
        }
        return r == 0 ? 0
                      : err_set(err, -r, "Could not create snapshot '%s': %s",
                                s->name, why ? why->message : g_strerror(-r));
    case 'a':
        r = node_co_snapshot(n, SNAPSHOT_APPLY, s->name, &why);
        return r == 0 ? 0
                      : err_set(err, -r,
                                "Could not apply snapshot '%s': "
                                "%s",
                                s->name,
                                r == -ENOENT
                                    ? "Failed to load snapshot: No such file "
                                      "or directory"
                                    : why->message);
    case 'd':
        /* By name alone: the id of one can be the name of another. */
        if (!find_id(list, s->name)) {
            return err_set(err, ENOENT,
                           "Could not delete snapshot '%s': "
                           "snapshot not found",
                           s->name);
        }
        r = node_co_snapshot(n, SNAPSHOT_DELETE, find_id(list, s->name), &why);
        return r == 0 ? 0
                      : err_set(err, -r,
                                "Could not delete snapshot '%s': "
                                "%s",
                                s->name, why->message);
    case 'l': print_snapshots(list); return 0;
    default: return 0;
    }
}

static CO_FN int snapshot_co_run(struct graph *g, void *arg)
{
    struct snapshot *s = arg;
    g_autoptr(GError) err = NULL;
    json_t *info = json_object();
    struct node *n;
    int r;

    s->image.flags |= s->action == 'l' || !s->action ? NODE_NO_BACKING
                                                     : NODE_RDWR;
    s->image.is_overlay = true;
    r = image_co_open_spec(g, &s->image, &n, &err);
    if (r == 0) {
        r = node_co_info(n, info, &err);
        if (r == 0) {
            r = snapshot_co_act(s, n, json_object_get(info, "snapshots"), &err);
        }
        node_co_unref(n);
    }
    json_decref(info);
    if (r < 0) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_snapshot(int argc, char **argv)
{
    struct snapshot s = { 0 };
    int status;

    if (wants_daemon(argc, argv)) {
        return live_snapshot(argc, argv);
    }
    status = snapshot_parse_args(argc, argv, &s);
    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(snapshot_co_run, &s);
}
