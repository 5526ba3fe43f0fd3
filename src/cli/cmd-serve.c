/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice serve: put one image behind an NBD socket, in one line.
 *
 * Becomes sluiced with the options that the line stands for; `--dry-run`
 * prints them, which is also how a person moves on to the daemon's own
 * options.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/limit-options.h"
#include "cli/image.h"
#include "cli/serve-format.h"
#include "control/commands/image-info.h"
#include "graph/node.h"

struct serve {
    const char *image, *format, *name, *socket, *port, *control, *cache;
    const char *pidfile, *engine;
    const char *mode, *owner, *group; /* of the Unix socket */
    bool stream, copy_on_read, read_only, daemonize, dry_run;
    json_t *limits; /* object: of the stream */
};

enum {
    OPT_NAME = 256,
    OPT_PORT,
    OPT_MODE,
    OPT_OWNER,
    OPT_GROUP,
    OPT_CONTROL,
    OPT_STREAM,
    OPT_COR,
    OPT_CACHE,
    OPT_PIDFILE,
    OPT_ENGINE,
    OPT_DRY_RUN
};

static const struct option serve_options[] = {
    { "help", no_argument, NULL, 'h' },
    { "format", required_argument, NULL, 'f' },
    { "name", required_argument, NULL, OPT_NAME },
    { "socket", required_argument, NULL, 'k' },
    { "port", required_argument, NULL, OPT_PORT },
    { "socket-mode", required_argument, NULL, OPT_MODE },
    { "socket-owner", required_argument, NULL, OPT_OWNER },
    { "socket-group", required_argument, NULL, OPT_GROUP },
    { "control", required_argument, NULL, OPT_CONTROL },
    { "stream", no_argument, NULL, OPT_STREAM },
    { "copy-on-read", no_argument, NULL, OPT_COR },
    LIMIT_OPTIONS,
    { "read-only", no_argument, NULL, 'r' },
    { "cache", required_argument, NULL, OPT_CACHE },
    { "daemonize", no_argument, NULL, 'd' },
    { "pidfile", required_argument, NULL, OPT_PIDFILE },
    { "io-engine", required_argument, NULL, OPT_ENGINE },
    { "dry-run", no_argument, NULL, OPT_DRY_RUN },
    { NULL, 0, NULL, 0 }
};

/* 0, an exit status, or -1 after help. */
static int serve_parse_args(int argc, char **argv, struct serve *s)
{
    int c;

    while ((c = getopt_long(argc, argv, "hf:k:rd", serve_options, NULL)) !=
           -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': s->format = optarg; break;
        case 'k': s->socket = optarg; break;
        case 'r': s->read_only = true; break;
        case 'd': s->daemonize = true; break;
        case OPT_NAME: s->name = optarg; break;
        case OPT_PORT: s->port = optarg; break;
        case OPT_MODE: s->mode = optarg; break;
        case OPT_OWNER: s->owner = optarg; break;
        case OPT_GROUP: s->group = optarg; break;
        case OPT_CONTROL: s->control = optarg; break;
        case OPT_STREAM: s->stream = true; break;
        case OPT_COR: s->copy_on_read = true; break;
        case OPT_LATENCY_TARGET:
        case OPT_FLOOR:
        case OPT_FINISH_BY:
            if (limit_option("serve", c, optarg, s->limits)) {
                return 1;
            }
            break;
        case OPT_CACHE: s->cache = optarg; break;
        case OPT_PIDFILE: s->pidfile = optarg; break;
        case OPT_ENGINE: s->engine = optarg; break;
        case OPT_DRY_RUN: s->dry_run = true; break;
        default: return cli_bad_option("serve", argv);
        }
    }
    if (optind + 1 != argc) {
        return cli_usage_error("serve", "expecting one image");
    }
    s->image = argv[optind];
    if (!s->format && !(s->format = format_of_name(s->image))) {
        return cli_usage_error("serve", UNKNOWN_FORMAT, s->image);
    }
    if (s->socket && s->port) {
        return cli_usage_error("serve", "give --socket or --port, not both");
    }
    if ((s->mode || s->owner || s->group) && !s->socket) {
        return cli_usage_error("serve", "--socket-mode, --socket-owner and "
                                        "--socket-group need --socket");
    }
    if (json_object_size(s->limits) && !s->stream) {
        return cli_usage_error("serve", "--latency-target, --floor and "
                                        "--finish-by go with --stream");
    }
    if (s->read_only && (s->stream || s->copy_on_read)) {
        return cli_usage_error("serve", "--stream and --copy-on-read write to "
                                        "the image: they exclude --read-only");
    }
    return 0;
}

/* A value inside a comma-separated option: commas are doubled. */
static char *quote(const char *value)
{
    g_auto(GStrv) parts = g_strsplit(value, ",", -1);

    return g_strjoinv(",,", parts);
}

static void add(GPtrArray *args, const char *name, char *value)
{
    g_ptr_array_add(args, g_strdup(name));
    g_ptr_array_add(args, value);
}

/* The modes of --cache that make each write durable before its answer: there
 * the export sees to that. */
static bool cache_is_writethrough(const char *mode)
{
    return mode && (g_str_equal(mode, "writethrough") ||
                    g_str_equal(mode, "directsync"));
}

/* What is left of a mode for the drive. */
static const char *drive_cache(const char *mode)
{
    return !cache_is_writethrough(mode)      ? mode
           : g_str_equal(mode, "directsync") ? "none"
                                             : "writeback";
}

/* What the stream leaves to guests, as options of the drive. */
static void add_limits(json_t *limits, GString *o)
{
    const char *name;
    json_t *value;

    json_object_foreach(limits, name, value) {
        if (json_is_string(value)) {
            g_autofree char *text = quote(json_string_value(value));
            g_string_append_printf(o, ",%s=%s", name, text);
        } else {
            g_string_append_printf(o, ",%s=%lld", name,
                                   (long long)json_integer_value(value));
        }
    }
}

static char *drive_option(const struct serve *s)
{
    g_autofree char *file = quote(s->image);
    GString *o = g_string_new(NULL);

    g_string_printf(o, "id=%s,file=%s,format=%s", s->name, file, s->format);
    if (s->read_only) {
        g_string_append(o, ",readonly=on");
    }
    if (s->cache) {
        g_string_append_printf(o, ",cache=%s", drive_cache(s->cache));
    }
    if (s->copy_on_read || s->stream) {
        g_string_append(o, ",copy-on-read=on");
    }
    if (s->stream) {
        g_string_append(o, ",stream=on");
        add_limits(s->limits, o);
    }
    return g_string_free(o, FALSE);
}

static void append_access(GString *o, const char *key, const char *value)
{
    if (value) {
        g_autofree char *quoted = quote(value);
        g_string_append_printf(o, ",addr.%s=%s", key, quoted);
    }
}

static char *nbd_option(const struct serve *s)
{
    g_autofree char *socket = s->socket ? quote(s->socket) : NULL;
    GString *o = g_string_new(NULL);

    if (!socket) {
        g_string_printf(o, "addr.type=inet,addr.host=127.0.0.1,addr.port=%s",
                        s->port ? s->port : "10809");
        return g_string_free(o, FALSE);
    }
    g_string_printf(o, "addr.type=unix,addr.path=%s", socket);
    append_access(o, "mode", s->mode);
    append_access(o, "owner", s->owner);
    append_access(o, "group", s->group);
    return g_string_free(o, FALSE);
}

/* The daemon's arguments, NULL-terminated; owned by the caller. */
static GPtrArray *daemon_args(const struct serve *s, const char *program)
{
    GPtrArray *args = g_ptr_array_new_with_free_func(g_free);

    g_ptr_array_add(args, g_strdup(program));
    if (s->engine) {
        add(args, "--io-engine", g_strdup(s->engine));
    }
    if (s->control) {
        g_autofree char *control = quote(s->control);
        add(args, "--chardev",
            g_strdup_printf("socket,id=control,path=%s,server=on,wait=off",
                            control));
        add(args, "--monitor", g_strdup("chardev=control"));
    }
    add(args, "--nbd-server", nbd_option(s));
    add(args, "--drive", drive_option(s));
    add(args, "--export",
        g_strdup_printf("type=nbd,id=%s-nbd,node-name=%s,name=%s,writable=%s%s",
                        s->name, s->name, s->name, s->read_only ? "off" : "on",
                        cache_is_writethrough(s->cache) ? ",writethrough=on"
                                                        : ""));
    g_ptr_array_add(args, g_strdup("--print-uris"));
    if (s->pidfile) {
        add(args, "--pidfile", g_strdup(s->pidfile));
    }
    if (s->daemonize) {
        g_ptr_array_add(args, g_strdup("--daemonize"));
    }
    g_ptr_array_add(args, NULL);
    return args;
}

/* The daemon that belongs to this program: $SLUICED, else beside it, else in
 * the path. */
static char *find_daemon(void)
{
    const char *named = g_getenv("SLUICED");
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);

    if (named) {
        return g_strdup(named);
    }
    if (self) {
        g_autofree char *dir = g_path_get_dirname(self);
        g_autofree char *beside = g_build_filename(dir, "sluiced", NULL);
        if (g_file_test(beside, G_FILE_TEST_IS_EXECUTABLE)) {
            return g_steal_pointer(&beside);
        }
    }
    return g_strdup("sluiced");
}

static void print_command(const GPtrArray *args)
{
    for (guint i = 0; g_ptr_array_index(args, i); i++) {
        g_autofree char *word = g_shell_quote(g_ptr_array_index(args, i));
        printf("%s%s", i ? " " : "", word);
    }
    printf("\n");
}

/* A stream of an image without a base would be over at once, and whoever asked
 * for it has most likely forgotten the base. */
static CO_FN int serve_co_check_base(struct graph *g, void *arg)
{
    const struct serve *s = arg;
    const struct image_spec spec = {
        .name = s->image,
        .format = s->format,
        .flags = NODE_NO_IO | NODE_NO_BACKING | NODE_FORCE_SHARE,
    };
    g_autoptr(GError) err = NULL;
    json_t *info = NULL;
    struct node *n;
    int r = image_co_open_spec(g, &spec, &n, &err);

    if (r == 0) {
        info = image_co_describe(n, false, &err);
        node_co_unref(n);
    }
    if (!info) {
        cli_gerror(err);
        r = 1;
    } else if (!json_object_get(info, "backing-filename")) {
        cli_error("--stream: '%s' has no backing file to copy from", s->image);
        fprintf(stderr,
                "Leave --stream out, or make an image with a base: sluice "
                "create -f %s -b BASE -F FORMAT IMAGE\n",
                g_str_equal(s->format, "raw") ? "qcow2" : s->format);
        r = 1;
    }
    json_decref(info);
    return r;
}

static int serve_run(const struct serve *s)
{
    if (s->stream && image_run(serve_co_check_base, (void *)s) != 0) {
        return 1;
    }
    g_autofree char *program = find_daemon();
    g_autoptr(GPtrArray) args = daemon_args(s, program);
    if (s->dry_run) {
        print_command(args);
        return 0;
    }
    execvp(program, (char **)args->pdata);
    cli_error("cannot start '%s': %s", program, g_strerror(errno));
    return 1;
}

int cmd_serve(int argc, char **argv)
{
    struct serve s = { .name = "disk0", .limits = json_object() };
    int status = serve_parse_args(argc, argv, &s);

    if (status == 0) {
        status = serve_run(&s);
    }
    json_decref(s.limits);
    return MAX(status, 0);
}
