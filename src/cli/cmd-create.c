/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice create: make an image, with or without a backing file. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/create-options.h"
#include "cli/image.h"
#include "graph/image.h"

#define SECTOR 512

struct create {
    const char *filename, *format, *backing, *backing_format;
    json_t *options; /* name -> value, strings */
    uint64_t size;
    bool has_size, no_open_backing, quiet, list_options;
};

/* 0, an exit status, or -1 after help. */
static int create_parse_args(int argc, char **argv, struct create *c)
{
    static const struct option options[] = {
        { "help", no_argument, NULL, 'h' },
        { "object", required_argument, NULL, OPT_OBJECT },
        { "format", required_argument, NULL, 'f' },
        { NULL, 0, NULL, 0 }
    };
    int opt, r = 0;

    while (r == 0 && (opt = getopt_long(argc, argv, ":hf:b:F:o:uq", options,
                                        NULL)) != -1) {
        switch (opt) {
        case 'h': cli_print_help(); return -1;
        case 'f': c->format = optarg; break;
        case 'b': c->backing = optarg; break;
        case 'F': c->backing_format = optarg; break;
        case 'o':
            r = create_options_add(c->options, optarg, &c->list_options);
            break;
        case 'u': c->no_open_backing = true; break;
        case 'q': c->quiet = true; break;
        case OPT_OBJECT: r = image_add_object("create", optarg); break;
        default: r = cli_option_error("create", opt, argv); break;
        }
    }
    if (r == 0 && !c->list_options && optind == argc) {
        return cli_usage_error("create", "Expecting image file name");
    }
    if (r == 0 && argc - optind > 2) {
        return cli_usage_error("create", "Unexpected argument: %s",
                               argv[optind + 2]);
    }
    create_options_set_backing(c->options, c->backing, c->backing_format);
    c->filename = argv[optind];
    c->has_size = r == 0 && argc - optind == 2;
    return c->has_size ? cli_parse_size("image size", argv[optind + 1], 0,
                                        INT64_MAX, &c->size)
                       : r;
}

/* "Backing file specified without backing format", and what it seems to be. */
static CO_FN int create_co_no_format(struct graph *g, const struct create *c,
                                     const char *backing, GError **err)
{
    g_autoptr(GError) why = NULL;
    const char *found;
    int r = c->no_open_backing ? -ENOENT
                               : image_co_backing_format(g, c->filename,
                                                         backing, &found, &why);

    if (why) {
        g_propagate_error(err, g_steal_pointer(&why));
        if (r != -ENOTSUP) { /* of a format that has no driver: says all */
            err_add_line(err, "Could not open backing image.");
        }
        return r;
    }
    err_set(err, EINVAL, "Backing file specified without backing format");
    if (r == 0) {
        err_add_line(err, "Detected format of %s.", found);
        err_hint(err, "If that is what it is, say so with -F %s.", found);
    } else {
        err_hint(err, "Say it with -F, for example -F raw.");
    }
    return -EINVAL;
}

/* *@ret_size is that of the backing file. */
static CO_FN int create_co_look_below(struct graph *g, const struct create *c,
                                      const char *backing, const char *fmt,
                                      uint64_t *ret_size, GError **err)
{
    int r = image_co_backing_size(g, c->filename, backing, fmt, ret_size, err);

    if (r < 0) {
        if (err && !strstr((*err)->message, backing)) {
            /* The format's driver knows no names. */
            err_prefix(err, "'%s'", backing);
        }
        if (r != -ELOOP) {
            err_add_line(err, "Could not open backing image.");
        }
    }
    return r;
}

/* What is below must be right; without a size of its own the new image gets
 * that of its backing file. */
static CO_FN int create_co_backing(struct graph *g, struct create *c,
                                   GError **err)
{
    const char *backing = create_options_get(c->options, "backing_file");
    const char *fmt = create_options_get(c->options, "backing_fmt");
    uint64_t size;
    int r = create_options_check_backing(c->options, c->filename, err);

    if (r < 0 || !backing) {
        return r;
    }
    if (!fmt) {
        return create_co_no_format(g, c, backing, err);
    }
    if (c->no_open_backing) {
        return 0; /* the format says what it thinks of the driver */
    }
    if (!graph_find_driver(g, fmt)) {
        err_set(err, EINVAL, "Unknown driver '%s'", fmt);
        err_add_line(err, "Could not open backing image.");
        graph_hint_formats(g, fmt, err);
        return -EINVAL;
    }
    r = create_co_look_below(g, c, backing, fmt, &size, err);
    if (r == 0 && !c->has_size && !json_object_get(c->options, "size")) {
        c->has_size = true;
        c->size = size;
    }
    return r;
}

/* Put the size into the options, in whole sectors. */
static int create_size(struct create *c, GError **err)
{
    const char *said = create_options_get(c->options, "size");

    if (c->has_size && said) {
        return err_set(err, EINVAL,
                       "The image size must be specified only "
                       "once");
    }
    if (!c->has_size && !said) {
        return err_set(err, EINVAL, "Image creation needs a size parameter");
    }
    if (said) {
        size_parse(said, 0, &c->size, NULL); /* checked before */
    }
    if (c->size > INT64_MAX - SECTOR) {
        return err_set(err, EFBIG,
                       "The image size is too large for file "
                       "format '%s'",
                       c->format);
    }
    json_object_set_new(c->options, "size", json_integer((json_int_t)c->size));
    return 0;
}

/* Commas in names are doubled, so that -o takes what was printed. */
static void print_option_value(const char *name, const json_t *value)
{
    if (json_is_integer(value)) {
        printf(" %s=%" JSON_INTEGER_FORMAT, name, json_integer_value(value));
    } else if (value) {
        g_auto(GStrv) parts = g_strsplit(json_string_value(value), ",", 0);
        g_autofree char *text = g_strjoinv(",,", parts);

        printf(" %s=%s", name, text);
    }
}

/* "Formatting 'F', fmt=qed size=N backing_file=..." */
static void print_formatting(const struct create *c,
                             const struct node_driver *drv)
{
    printf("Formatting '%s', fmt=%s", c->filename, c->format);
    for (const struct create_option *o = driver_create_options(drv); o->name;
         o++) {
        print_option_value(o->name, json_object_get(c->options, o->name));
    }
    for (const struct create_option *o = storage_create_options(); o->name;
         o++) {
        print_option_value(o->name, json_object_get(c->options, o->name));
    }
    printf("\n");
}

/* Images are whole sectors long. */
static void round_size(struct create *c)
{
    json_t *size = json_object_get(c->options, "size");

    if (json_is_integer(size)) {
        uint64_t bytes = (uint64_t)json_integer_value(size);
        json_integer_set(size, (json_int_t)round_up(bytes, SECTOR));
    }
}

static CO_FN int create_co_image(struct graph *g, void *arg)
{
    struct create *c = arg;
    g_autoptr(GError) err = NULL;
    const struct node_driver *drv = create_options_driver(g, c->format, &err);
    int r = drv ? 0 : -EINVAL;

    if (r == 0 && c->list_options) {
        return create_options_print(drv, c->filename);
    }
    if (r == 0) {
        r = create_options_complete(c->options, drv, &err);
    }
    if (r == 0) {
        r = create_co_backing(g, c, &err);
    }
    if (r == 0) {
        r = create_size(c, &err);
    }
    if (r == 0) {
        if (!c->quiet) {
            print_formatting(c, drv);
            (void)cli_flush(); /* before what fails, in one file, too */
        }
        round_size(c);
        r = image_co_create(g, drv, c->filename, c->options, &err);
    }
    if (r < 0) {
        if (c->filename) {
            err_prefix(&err, "%s", c->filename);
        }
        cli_gerror(err);
        return 1;
    }
    return 0;
}

int cmd_create(int argc, char **argv)
{
    struct create c = { .format = "raw", .options = json_object() };
    int status = create_parse_args(argc, argv, &c);

    if (status == 0) {
        status = image_run(create_co_image, &c);
    }
    json_decref(c.options);
    return MAX(status, 0);
}
