/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice bitmap: the dirty bitmaps inside an image, one or more actions. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "graph/image.h"
#include "graph/node.h"

#define ACTIONS_MAX 64

static const char *const action_names[] = {
    [BITMAP_ADD] = "add",         [BITMAP_REMOVE] = "remove",
    [BITMAP_CLEAR] = "clear",     [BITMAP_ENABLE] = "enable",
    [BITMAP_DISABLE] = "disable", [BITMAP_MERGE] = "merge",
};

struct action {
    enum bitmap_op op;
    const char *source; /* BITMAP_MERGE */
};

struct bitmap {
    struct image_spec image, source; /* source.name NULL: none */
    const char *name;
    uint64_t granularity;
    struct action actions[ACTIONS_MAX];
    unsigned n_actions;
    unsigned said; /* bits 1 << op */
};

/* Their values are OPT_OTHER + op. */
static const struct option bitmap_options[] = {
    IMAGE_OPTIONS,
    { "add", no_argument, NULL, OPT_OTHER + BITMAP_ADD },
    { "remove", no_argument, NULL, OPT_OTHER + BITMAP_REMOVE },
    { "clear", no_argument, NULL, OPT_OTHER + BITMAP_CLEAR },
    { "enable", no_argument, NULL, OPT_OTHER + BITMAP_ENABLE },
    { "disable", no_argument, NULL, OPT_OTHER + BITMAP_DISABLE },
    { "merge", required_argument, NULL, OPT_OTHER + BITMAP_MERGE },
    { "granularity", required_argument, NULL, 'g' },
    { "source-file", required_argument, NULL, 'b' },
    { "source-format", required_argument, NULL, 'F' },
    { NULL, 0, NULL, 0 }
};

static int add_action(struct bitmap *b, enum bitmap_op op, const char *source)
{
    if (b->n_actions == ACTIONS_MAX) {
        return cli_usage_error("bitmap", "More than %d actions", ACTIONS_MAX);
    }
    b->actions[b->n_actions++] = (struct action) { op, source };
    b->said |= 1u << op;
    return 0;
}

static int bitmap_take_option(struct bitmap *b, int c, char **argv)
{
    switch (c) {
    case 'b': b->source.name = optarg; return 0;
    case 'F': b->source.format = optarg; return 0;
    case 'f': b->image.format = optarg; return 0;
    case 'g':
        return cli_parse_size("granularity", optarg, 1, INT64_MAX,
                              &b->granularity);
    case OPT_IMAGE_OPTS: b->image.is_opts = true; return 0;
    case OPT_OBJECT: return image_add_object("bitmap", optarg);
    default:
        if (c >= OPT_OTHER && c <= OPT_OTHER + (int)BITMAP_MERGE) {
            return add_action(b, (enum bitmap_op)(c - OPT_OTHER), optarg);
        }
        return cli_option_error("bitmap", c, argv);
    }
}

/* Do the words fit together? */
static const char *complaint(const struct bitmap *b, int n_words)
{
    return n_words != 2    ? "Expecting filename and bitmap name"
           : !b->n_actions ? "Need at least one of --add, --remove, --clear, "
                             "--enable, --disable, or --merge"
           : b->granularity && !(b->said & (1u << BITMAP_ADD))
               ? "granularity only supported with --add"
           : b->source.format && !b->source.name ? "-F only supported with -b"
           : b->source.name && !(b->said & (1u << BITMAP_MERGE))
               ? "Merge bitmap source file only supported with --merge"
               : NULL;
}

/* 0, an exit status, or -1 after help. */
static int bitmap_parse_args(int argc, char **argv, struct bitmap *b)
{
    const char *what;
    int c, r = 0;

    while (r == 0 && (c = getopt_long(argc, argv, ":b:f:F:g:h", bitmap_options,
                                      NULL)) != -1) {
        if (c == 'h') {
            cli_print_help();
            return -1;
        }
        r = bitmap_take_option(b, c, argv);
    }
    if (r != 0) {
        return r;
    }
    what = complaint(b, argc - optind);
    if (what) {
        cli_error("%s", what);
        return 1;
    }
    b->image.name = argv[optind];
    b->name = argv[optind + 1];
    return 0;
}

static CO_FN int bitmap_co_act(const struct bitmap *b, const struct action *a,
                               struct node *n, struct node *source,
                               GError **err)
{
    struct bitmap_args args = {
        .granularity = a->op == BITMAP_ADD ? b->granularity : 0,
        .disabled = a->op == BITMAP_ADD && (b->said & (1u << BITMAP_DISABLE)),
        .from = a->op == BITMAP_MERGE ? (source ? source : n) : NULL,
        .from_name = a->source,
    };
    int r = node_co_bitmap(n, a->op, b->name, &args, err);

    if (r < 0) {
        err_prefix(err, "Operation %s on bitmap %s failed", action_names[a->op],
                   b->name);
    }
    return r;
}

static CO_FN int bitmap_co_actions(const struct bitmap *b, struct graph *g,
                                   struct node *n, GError **err)
{
    struct node *source = NULL;
    int r = b->source.name ? image_co_open_spec(g, &b->source, &source, err)
                           : 0;

    for (unsigned i = 0; r == 0 && i < b->n_actions; i++) {
        r = bitmap_co_act(b, &b->actions[i], n, source, err);
    }
    if (source) {
        node_co_unref(source);
    }
    return r;
}

static CO_FN int bitmap_co_run(struct graph *g, void *arg)
{
    struct bitmap *b = arg;
    g_autoptr(GError) err = NULL;
    struct node *n;
    int r;

    b->image.flags |= NODE_RDWR;
    b->image.is_overlay = true;
    b->source.flags |= NODE_NO_BACKING;
    r = image_co_open_spec(g, &b->image, &n, &err);
    if (r == 0) {
        r = bitmap_co_actions(b, g, n, &err);
        node_co_unref(n);
    }
    if (r < 0) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_bitmap(int argc, char **argv)
{
    struct bitmap b = { 0 };
    int status = bitmap_parse_args(argc, argv, &b);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(bitmap_co_run, &b);
}
