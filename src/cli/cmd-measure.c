/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice measure: how much space will an image need?  The format's driver says
 * what its tables take for a disk of that size; the clusters that a source
 * holds are counted here.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "base/options.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/create-options.h"
#include "cli/image.h"
#include "cli/internal.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"

#define SECTOR 512

struct measure {
    struct image_spec source; /* name NULL: --size */
    const char *format, *snapshot;
    json_t *options;
    uint64_t size;
    uint64_t bitmaps; /* bytes, of the source's; UINT64_MAX: none */
    bool has_size, json, list_options;
};

enum { OPT_SIZE = OPT_OTHER };

static int measure_parse_option(struct measure *m, int opt, char **argv)
{
    switch (opt) {
    case 'f': m->source.format = optarg; break;
    case 'O': m->format = optarg; break;
    case 'l': m->snapshot = optarg; break;
    case 'o': return create_options_add(m->options, optarg, &m->list_options);
    case 'U': m->source.flags |= NODE_FORCE_SHARE; break;
    case OPT_IMAGE_OPTS: m->source.is_opts = true; break;
    case OPT_OBJECT: return image_add_object("measure", optarg);
    case OPT_OUTPUT: return cli_parse_output("measure", optarg, &m->json);
    case OPT_SIZE:
        m->has_size = true;
        return cli_parse_size("image size", optarg, 0, INT64_MAX, &m->size);
    default: return cli_option_error("measure", opt, argv);
    }
    return 0;
}

/* What cannot go together. */
static int measure_check_args(const struct measure *m, int words)
{
    const char *text = NULL;

    if (words > 1) {
        text = "At most one filename argument is allowed.";
    } else if (words == 0 &&
               (m->source.is_opts || m->source.format || m->snapshot)) {
        text = "--image-opts, -f, and -l require a filename argument.";
    } else if (words == 0 && !m->has_size) {
        text = "Either --size N or one filename must be specified.";
    } else if (words == 1 && m->has_size) {
        text = "--size N cannot be used together with a filename.";
    } else if (m->source.is_opts && m->source.format) {
        text = "--image-opts and --format are mutually exclusive";
    }
    if (text) {
        cli_error("%s", text);
    }
    return text ? 1 : 0;
}

/* 0, an exit status, or -1 after help. */
static int measure_parse_args(int argc, char **argv, struct measure *m)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "output", required_argument, NULL, OPT_OUTPUT },
        { "size", required_argument, NULL, OPT_SIZE },
        { NULL, 0, NULL, 0 }
    };
    int opt, r = 0;

    while (r == 0 && (opt = getopt_long(argc, argv, ":hf:O:o:l:U", options,
                                        NULL)) != -1) {
        if (opt == 'h') {
            cli_print_help();
            return -1;
        }
        r = measure_parse_option(m, opt, argv);
    }
    if (r == 0) {
        r = measure_check_args(m, argc - optind);
        m->source.name = argv[optind];
    }
    return r;
}

/* The bytes of clusters of @cluster bytes that must be written for @n; it has
 * no cluster where its chain reads as zeroes by its maps alone. */
static CO_FN int measure_co_data(struct node *n, uint64_t cluster,
                                 uint64_t *ret_bytes, GError **err)
{
    uint64_t off = 0;

    *ret_bytes = 0;
    while (off < node_size(n)) {
        struct extent ext;
        int r = node_co_status_above(n, NULL, off, node_size(n) - off, &ext);

        if (r < 0) {
            return err_set_errno(err, -r, "Unable to get block status");
        }
        if (!(ext.flags & STATUS_ZERO) && ext.depth) {
            uint64_t from = round_down(off, cluster);

            off = round_up(off + ext.len, cluster);
            *ret_bytes += off - from;
        } else {
            off += ext.len;
        }
    }
    return 0;
}

static uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

/* What copies of the bitmaps of @source take in clusters of the new image: bits
 * and a table each, and the directory. */
static uint64_t bitmaps_size(const json_t *bitmaps, uint64_t disk,
                             uint64_t cluster)
{
    uint64_t total = 0, directory = 0;
    const json_t *bitmap;
    size_t i;

    json_array_foreach(bitmaps, i, bitmap) {
        uint64_t granularity = (uint64_t)json_integer_value(
            json_object_get(bitmap, "granularity"));
        const char *name = json_string_value(json_object_get(bitmap, "name"));
        uint64_t bits = ceil_div(disk, MAX(granularity, 1));
        uint64_t clusters = ceil_div(ceil_div(bits, 8), cluster);

        total += (clusters + ceil_div(clusters * 8, cluster)) * cluster;
        directory += round_up(24 + (name ? strlen(name) : 0), 8);
    }
    return total + round_up(directory, cluster);
}

/* *@ret_size stays UINT64_MAX where the source cannot have bitmaps. */
static CO_FN int measure_co_bitmaps(struct node *source, uint64_t cluster,
                                    uint64_t *ret_size, GError **err)
{
    json_t *info = json_object(), *data;
    int r = node_co_info(source, info, err);

    data = json_object_get(json_object_get(info, "format-specific"), "data");
    if (g_strcmp0(json_string_value(json_object_get(data, "compat")), "1.1") ==
        0) {
        *ret_size = bitmaps_size(json_object_get(data, "bitmaps"),
                                 node_size(source), cluster);
    }
    json_decref(info);
    return r;
}

static int measure_ask(const struct measure *m, const struct node_driver *drv,
                       struct image_measure *res, GError **err)
{
    CLEANUP(opts_freep) struct opts *o = opts_new(m->options);
    int r = driver_measure(drv, o, res, err);

    return r < 0 ? r : opts_finish(o, err);
}

static CO_FN int measure_co_image(struct measure *m,
                                  const struct node_driver *drv,
                                  struct node *source,
                                  struct image_measure *res, GError **err)
{
    uint64_t size = source ? round_up(node_size(source), SECTOR) : m->size;

    json_object_set_new(m->options, "size", json_integer((json_int_t)size));
    int r = measure_ask(m, drv, res, err);
    if (r == 0 && source && res->cluster_size && !res->no_bitmaps) {
        r = measure_co_bitmaps(source, res->cluster_size, &m->bitmaps, err);
    }
    if (r == 0 && m->bitmaps > 0 && m->bitmaps != UINT64_MAX) {
        res->others = m->bitmaps;
        r = measure_ask(m, drv, res, err);
        m->bitmaps = res->others;
    }
    if (r < 0 || !source || !res->cluster_size || res->all) {
        return r;
    }
    return measure_co_data(source, res->cluster_size, &res->data, err);
}

static void print_measured(const struct measure *m,
                           const struct image_measure *res)
{
    uint64_t full = res->metadata + res->size;
    uint64_t required = res->metadata + (res->all ? res->size : res->data);

    if (m->json) {
        printf("{\n");
        if (m->bitmaps != UINT64_MAX) {
            printf("    \"bitmaps\": %" PRIu64 ",\n", m->bitmaps);
        }
        printf("    \"required\": %" PRIu64
               ",\n    \"fully-allocated\": %" PRIu64 "\n}\n",
               required, full);
        return;
    }
    printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n",
           required, full);
    if (m->bitmaps != UINT64_MAX) {
        printf("bitmaps size: %" PRIu64 "\n", m->bitmaps);
    }
}

static CO_FN int measure_co_format(struct graph *g, struct measure *m,
                                   const struct node_driver **ret_drv,
                                   GError **err)
{
    const struct node_driver *drv = create_options_driver(g, m->format, err);
    g_autoptr(GError) why = NULL;

    if (!drv) {
        return -EINVAL;
    }
    if (create_options_complete(m->options, drv, &why) < 0 ||
        (m->list_options &&
         err_set(&why, EINVAL, "Invalid parameter 'help'"))) {
        cli_gerror(why);
        return err_set(err, EINVAL, "Invalid options for file format '%s'",
                       m->format);
    }
    if (!driver_can_measure(drv)) {
        return err_set(err, ENOTSUP,
                       "Block driver '%s' does not support size "
                       "measurement",
                       m->format);
    }
    *ret_drv = drv;
    return 0;
}

static CO_FN int measure_co_run(struct graph *g, void *arg)
{
    struct measure *m = arg;
    const struct node_driver *drv = NULL;
    struct image_measure res = { 0 };
    struct node *source = NULL;
    g_autoptr(GError) err = NULL;
    int r = 0;

    if (m->source.name) {
        r = image_co_open_spec(g, &m->source, &source, &err);
    }
    if (r == 0 && m->snapshot) {
        r = internal_co_load_snapshot(source, m->snapshot, &err);
    }
    if (r == 0) {
        r = measure_co_format(g, m, &drv, &err);
    }
    if (r == 0) {
        r = measure_co_image(m, drv, source, &res, &err);
    }
    if (source) {
        node_co_unref(source);
    }
    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    print_measured(m, &res);
    return 0;
}

int cmd_measure(int argc, char **argv)
{
    struct measure m = {
        .format = "raw",
        .options = json_object(),
        .bitmaps = UINT64_MAX,
    };
    int status = measure_parse_args(argc, argv, &m);

    if (status == 0) {
        status = image_run(measure_co_run, &m);
    }
    json_decref(m.options);
    return MAX(status, 0);
}
