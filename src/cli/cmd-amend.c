/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice amend: change what kind of image it is; what a guest sees stays. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/create-options.h"
#include "cli/image.h"
#include "graph/image.h"
#include "graph/node.h"

enum { OPT_FORCE = OPT_OTHER };

struct amend {
    struct image_spec image;
    json_t *options; /* name -> value, strings */
    bool help, said, quiet;
    struct percent percent;
};

static int amend_take_option(struct amend *a, int c, char **argv)
{
    switch (c) {
    case 'f': a->image.format = optarg; return 0;
    case 'o':
        a->said = true;
        return create_options_add(a->options, optarg, &a->help);
    case 'p': a->percent.on = true; return 0;
    case 'q': a->quiet = true; return 0;
    case 't':
        if (image_parse_cache(optarg, &a->image.flags) < 0) {
            cli_error("Invalid cache option: %s", optarg);
            return 1;
        }
        return 0;
    case OPT_FORCE: return 0; /* is for keys of LUKS */
    case OPT_IMAGE_OPTS: a->image.is_opts = true; return 0;
    case OPT_OBJECT: return image_add_object("amend", optarg);
    default: return cli_option_error("amend", c, argv);
    }
}

/* 0, an exit status, or -1 after help. */
static int amend_parse_args(int argc, char **argv, struct amend *a)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             { "force", no_argument, NULL,
                                               OPT_FORCE },
                                             { NULL, 0, NULL, 0 } };
    int c, r = 0;

    while (r == 0 &&
           (c = getopt_long(argc, argv, ":hf:o:pqt:", options, NULL)) != -1) {
        if (c == 'h') {
            cli_print_help();
            return -1;
        }
        r = amend_take_option(a, c, argv);
    }
    if (r == 0 && !a->said) {
        return cli_usage_error("amend", "Must specify options (-o)");
    }
    a->image.name = argv[optind];
    /* Help for a format needs no image. */
    if (r == 0 && a->help && a->image.format) {
        return 0;
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("amend", "Expecting one image file name");
    }
    return r;
}

static int amend_print_help(const struct node_driver *drv)
{
    if (!driver_amend_options(drv)) {
        cli_error("Format driver '%s' does not support option amendment",
                  driver_name(drv));
        return 1;
    }
    printf("Amend options for '%s':\n", driver_name(drv));
    create_options_print_list(driver_amend_options(drv), NULL);
    return 0;
}

static CO_FN int amend_co_image(struct amend *a, struct graph *g,
                                struct node *n, GError **err)
{
    const struct node_driver *drv = graph_find_driver(g, node_driver_name(n));
    int r = driver_amend_options(drv)
                ? create_options_check_amend(a->options, drv, err)
                : 0;

    if (r == 0) {
        percent_begin(&a->percent, a->percent.on && !a->quiet);
        r = node_co_amend(n, a->options, err);
        if (r == 0) {
            percent_update(&a->percent, 1, 1);
        }
        percent_end(&a->percent);
    }
    return r;
}

static CO_FN int offline_amend_co_run(struct graph *g, void *arg)
{
    struct amend *a = arg;
    const struct node_driver *drv = a->image.format
                                        ? graph_find_driver(g, a->image.format)
                                        : NULL;
    g_autoptr(GError) err = NULL;
    struct node *n;
    int r, status = 1;

    if (a->help && drv) {
        return amend_print_help(drv);
    }
    a->image.flags |= a->help ? NODE_NO_IO | NODE_NO_BACKING
                              : NODE_RDWR | NODE_NO_BACKING;
    r = image_co_open_spec(g, &a->image, &n, &err);
    if (r == 0 && a->help) {
        status = amend_print_help(graph_find_driver(g, node_driver_name(n)));
        node_co_unref(n);
        return status;
    }
    if (r == 0) {
        r = amend_co_image(a, g, n, &err);
        node_co_unref(n);
    }
    if (r < 0) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_amend(int argc, char **argv)
{
    struct amend a = { .options = json_object(), .image.is_overlay = true };
    int status = amend_parse_args(argc, argv, &a);

    if (status == 0) {
        status = image_run(offline_amend_co_run, &a);
    }
    json_decref(a.options);
    return MAX(status, 0);
}
