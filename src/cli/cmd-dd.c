/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice dd: copy part of an image into a new one.  Operands as dd has them;
 * count= counts from where skip= ends.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/target.h"
#include "cli/transfer.h"
#include "graph/node.h"

#define SECTOR 512
#define SPARSE 4096

struct dd {
    struct image_spec source;
    struct target target;
    uint64_t block, count, skip;
    bool has_count;
};

static int parse_operand(struct dd *d, const char *text)
{
    const char *value = strchr(text, '=');
    size_t len = value ? (size_t)(value++ - text) : strlen(text);
    g_autofree char *name = g_strndup(text, len);

    if (!value) {
        cli_error("unrecognized operand %s", text);
        return 1;
    }
    if (strcmp(name, "if") == 0) {
        d->source.name = value;
    } else if (strcmp(name, "of") == 0) {
        d->target.name = value;
    } else if (strcmp(name, "bs") == 0) {
        return cli_parse_size("bs", value, 1, INT32_MAX, &d->block);
    } else if (strcmp(name, "count") == 0) {
        d->has_count = true;
        return cli_parse_size("count", value, 0, INT64_MAX, &d->count);
    } else if (strcmp(name, "skip") == 0) {
        return cli_parse_size("skip", value, 0, INT64_MAX, &d->skip);
    } else {
        cli_error("unrecognized operand %s", name);
        return 1;
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int dd_parse_args(int argc, char **argv, struct dd *d)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             FORCE_SHARE_OPTION,
                                             { NULL, 0, NULL, 0 } };
    int opt, r = 0;

    while (r == 0 &&
           (opt = getopt_long(argc, argv, ":hf:O:U", options, NULL)) != -1) {
        switch (opt) {
        case 'h': cli_print_help(); return -1;
        case 'f': d->source.format = optarg; break;
        case 'O': d->target.format = optarg; break;
        case 'U': d->source.flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: d->source.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("dd", optarg); break;
        default: r = cli_option_error("dd", opt, argv); break;
        }
    }
    for (int i = optind; i < argc && r == 0; i++) {
        r = parse_operand(d, argv[i]);
    }
    if (r == 0 && (!d->source.name || !d->target.name)) {
        cli_error("Must specify both input and output files");
        return 1;
    }
    if (r == 0 && d->source.is_opts && d->source.format) {
        cli_error("--image-opts and --format are mutually exclusive");
        return 1;
    }
    return r;
}

/* a * b, at most @max. */
static uint64_t product_up_to(uint64_t a, uint64_t b, uint64_t max)
{
    return b && a > max / b ? max : MIN(a * b, max);
}

static CO_FN int dd_co_images(struct graph *g, struct dd *d,
                              struct node *source, GError **err)
{
    uint64_t size = node_size(source);
    uint64_t skip = product_up_to(d->skip, d->block, INT64_MAX);
    struct transfer_params p = {
        .sources = &source,
        .n_sources = 1,
        .skip = MIN(skip, size),
        .sparse = SPARSE,
    };

    p.size = size - p.skip;
    if (d->has_count) {
        p.size = product_up_to(d->count, d->block, p.size);
    }
    p.limit = p.size;
    p.size = round_up(p.size, SECTOR);
    d->target.sources = &source;
    d->target.n_sources = 1;
    int r = target_co_check(g, &d->target, err);
    if (r == 0) {
        r = target_co_open(g, &d->target, p.size, &p.target, &p.target_is_zero,
                           err);
    }
    if (r < 0) {
        return r;
    }
    if (skip > size) {
        cli_error("%s: cannot skip to specified offset", d->source.name);
    }
    r = transfer_co_run(g, &p);
    node_co_unref(p.target);
    return r;
}

static CO_FN int dd_co_run(struct graph *g, void *arg)
{
    struct dd *d = arg;
    struct node *source;
    g_autoptr(GError) err = NULL;
    int r = image_co_open_spec(g, &d->source, &source, &err);

    if (r == 0) {
        r = dd_co_images(g, d, source, &err);
        node_co_unref(source);
    }
    if (err) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_dd(int argc, char **argv)
{
    struct dd d = {
        .block = SECTOR,
        .target = { .format = "raw",
                    .options = json_object(),
                    .purpose = "creating output image" },
    };
    int status = dd_parse_args(argc, argv, &d);

    if (status == 0) {
        status = image_run(dd_co_run, &d);
    }
    json_decref(d.target.options);
    return MAX(status, 0);
}
