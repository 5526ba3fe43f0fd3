/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice convert: copy images into one of another format.  The words, texts
 * and exit status are those that scripts know; when it ends with 0 the target
 * is durable.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/create-options.h"
#include "cli/image.h"
#include "cli/internal.h"
#include "cli/target.h"
#include "cli/transfer.h"
#include "graph/io.h"
#include "graph/node.h"

#define SECTOR 512
#define SPARSE_DEFAULT 4096
#define SPARSE_MAX (UINT64_C(16) << 20)
#define PARALLEL_MAX 16

struct convert {
    char **source_names;
    int n_sources;
    const char *source_format, *snapshot, *backing, *backing_format;
    bool source_opts, list_options, has_options;
    unsigned source_flags;
    struct target target;
    bool target_is_zero, sparse_given, quiet, bitmaps, skip_broken;
    struct transfer_params params;
    /* While it runs. */
    struct node **sources;
};

enum {
    OPT_TARGET_IMAGE_OPTS = OPT_OTHER,
    OPT_TARGET_IS_ZERO,
    OPT_SALVAGE,
    OPT_BITMAPS,
    OPT_SKIP_BROKEN,
};

static int parse_sparse(struct convert *c, const char *text)
{
    uint64_t size;
    int r = cli_parse_size("buffer size for sparse output", text, 0, INT64_MAX,
                           &size);

    if (r == 0 && (size % SECTOR || size > SPARSE_MAX)) {
        cli_error("Invalid buffer size for sparse output specified. Valid "
                  "sizes are multiples of %d up to %" G_GUINT64_FORMAT
                  ". Select 0 to disable sparse detection (fully allocates "
                  "output).",
                  SECTOR, SPARSE_MAX);
        return 1;
    }
    c->params.sparse = size;
    c->sparse_given = true;
    return r;
}

static int parse_parallel(struct convert *c, const char *text)
{
    uint64_t n;

    if (cli_parse_number(text, &n) < 0 || n < 1 || n > PARALLEL_MAX) {
        cli_error("Invalid number of coroutines. Allowed number of coroutines "
                  "is between 1 and %d",
                  PARALLEL_MAX);
        return 1;
    }
    c->params.parallel = (unsigned)n;
    return 0;
}

static int convert_parse_cache(const char *what, const char *text,
                               unsigned *flags)
{
    if (image_parse_cache(text, flags) < 0) {
        cli_error("Invalid %s option: %s", what, text);
        return 1;
    }
    return 0;
}

static int convert_parse_option(struct convert *c, int opt, char **argv)
{
    switch (opt) {
    case 'f': c->source_format = optarg; break;
    case 'O': c->target.format = optarg; break;
    case 'B': c->backing = optarg; break;
    case 'F': c->backing_format = optarg; break;
    case 'o':
        c->has_options = true;
        return create_options_add(c->target.options, optarg, &c->list_options);
    case 'c': c->params.compressed = true; break;
    case 'C': c->params.copy_offload = true; break;
    case 'W': c->params.out_of_order = true; break;
    case 'm': return parse_parallel(c, optarg);
    case 'S': return parse_sparse(c, optarg);
    case 'n': c->target.exists = true; break;
    case 'p': c->params.progress = true; break;
    case 'q': c->quiet = true; break;
    case 'U': c->source_flags |= NODE_FORCE_SHARE; break;
    case 'r':
        return cli_parse_size("rate limit", optarg, 0, INT64_MAX,
                              &c->params.rate);
    case 't': return convert_parse_cache("cache", optarg, &c->target.cache);
    case 'T':
        return convert_parse_cache("source cache", optarg, &c->source_flags);
    case 'l': c->snapshot = optarg; break;
    case OPT_IMAGE_OPTS: c->source_opts = true; break;
    case OPT_OBJECT: return image_add_object("convert", optarg);
    case OPT_TARGET_IMAGE_OPTS: c->target.is_opts = true; break;
    case OPT_TARGET_IS_ZERO: c->target_is_zero = true; break;
    case OPT_BITMAPS: c->bitmaps = true; break;
    case OPT_SKIP_BROKEN: c->skip_broken = true; break;
    case OPT_SALVAGE: c->params.salvage = true; break;
    default: return cli_option_error("convert", opt, argv);
    }
    return 0;
}

/* The formats lay both out, each in its own way. */
static bool compresses_what_is_preallocated(const struct convert *c)
{
    const char *how = create_options_get(c->target.options, "preallocation");

    return c->params.compressed && how && strcmp(how, "off") != 0;
}

/* What cannot go together. */
static int convert_check_args(const struct convert *c)
{
    const char *text = NULL;

    if (c->source_opts && c->source_format) {
        text = "--image-opts and --format are mutually exclusive";
    } else if (c->params.copy_offload && c->params.compressed) {
        text = "Cannot enable copy offloading when -c is used";
    } else if (c->params.copy_offload && c->sparse_given) {
        text = "Cannot enable copy offloading when -S is used";
    } else if (c->params.copy_offload && c->params.salvage) {
        text = "Cannot use copy offloading in salvaging mode";
    } else if (compresses_what_is_preallocated(c)) {
        text = "Compression and preallocation not supported at the same time";
    } else if (c->target_is_zero && !c->target.exists) {
        text = "--target-is-zero requires use of -n flag";
    } else if (c->target.is_opts && !c->target.exists) {
        text = "--target-image-opts requires use of -n flag";
    } else if (c->target.exists && c->has_options) {
        text = "-o has no effect when skipping image creation";
    } else if (c->target_is_zero &&
               create_options_get(c->target.options, "backing_file")) {
        text = "Cannot use --target-is-zero when the destination image has a "
               "backing file";
    } else if (c->skip_broken && !c->bitmaps) {
        text = "Use of --skip-broken-bitmaps requires --bitmaps";
    } else if (c->n_sources > 1 && c->bitmaps) {
        text = "Copying bitmaps only possible with single source";
    } else if (c->n_sources > 1 && c->snapshot) {
        text = "No support for concatenating multiple snapshot";
    } else if (c->n_sources > 1 &&
               create_options_get(c->target.options, "backing_file")) {
        text = "Having a backing file for the target makes no sense when "
               "concatenating multiple input images";
    }
    if (text) {
        cli_error("%s", text);
    }
    return text ? 1 : 0;
}

/* 0, an exit status, or -1 after help. */
static int convert_parse_args(int argc, char **argv, struct convert *c)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "source-format", required_argument, NULL, 'f' },
        { "target-image-opts", no_argument, NULL, OPT_TARGET_IMAGE_OPTS },
        { "target-is-zero", no_argument, NULL, OPT_TARGET_IS_ZERO },
        { "bitmaps", no_argument, NULL, OPT_BITMAPS },
        { "skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN },
        { "salvage", no_argument, NULL, OPT_SALVAGE },
        { NULL, 0, NULL, 0 }
    };
    int opt, r = 0;

    while (r == 0 &&
           (opt = getopt_long(argc, argv, ":hf:O:B:F:o:cCWm:S:npqUr:t:T:l:",
                              options, NULL)) != -1) {
        if (opt == 'h') {
            cli_print_help();
            return -1;
        }
        r = convert_parse_option(c, opt, argv);
    }
    if (r == 0 && c->list_options) {
        c->target.format = c->target.format ? c->target.format : "raw";
        c->target.name = optind < argc ? argv[argc - 1] : NULL;
        return 0;
    }
    if (r == 0 && argc - optind < 2) {
        cli_error("Must specify image file name");
        return 1;
    }
    if (!c->target.format && !c->target.is_opts) {
        c->target.format = "raw";
    }
    create_options_set_backing(c->target.options, c->backing,
                               c->backing_format);
    c->params.progress = c->params.progress && !c->quiet;
    c->source_names = argv + optind;
    c->n_sources = argc - optind - 1;
    c->target.name = argv[argc - 1];
    return r ? r : convert_check_args(c);
}

static CO_FN int convert_co_open_sources(struct graph *g, struct convert *c,
                                         GError **err)
{
    int r = 0;

    for (int i = 0; i < c->n_sources && r == 0; i++) {
        struct image_spec spec = {
            .name = c->source_names[i],
            .format = c->source_format,
            .is_opts = c->source_opts,
            .flags = c->source_flags,
        };
        r = image_co_open_spec(g, &spec, &c->sources[i], err);
        if (r < 0) {
            break;
        }
        c->params.n_sources++;
        if (c->snapshot) {
            r = internal_co_load_snapshot(c->sources[i], c->snapshot, err);
        }
        uint64_t size = round_up(node_size(c->sources[i]), SECTOR);
        if (size > INT64_MAX - c->params.size) {
            r = err_set(err, EFBIG, "The images together are too large");
        }
        c->params.size += size;
    }
    c->params.sources = c->target.sources = c->sources;
    c->target.n_sources = c->params.n_sources;
    return r;
}

/* What the target's backing file holds already. Where it is part of the
 * source's chain all above it is copied, else the source's own layer alone:
 * then its backing file must read as the target's. */
static void find_target_base(struct convert *c)
{
    struct node *backing = node_backing(c->params.target);
    const char *name = create_options_get(c->target.options, "backing_file");
    struct node *source = c->sources[0], *base = NULL;

    if (!name || !*name) {
        return;
    }
    c->params.has_backing = true;
    c->params.backing_size = backing ? node_size(backing) : UINT64_MAX;
    if (backing && node_filename(backing)) {
        base = node_chain_find_file(source, node_filename(backing));
    }
    if (!base || base == source) {
        base = node_backing(source);
    }
    c->params.base = base;
}

/* Where the target may hold anything: try to zero it at once. */
static CO_FN void convert_co_make_zero(struct convert *c)
{
    struct node *n = c->params.target;

    if (!c->params.target_is_zero && !c->params.has_backing &&
        !node_backing(n) && c->params.size > 0 && c->params.sparse > 0 &&
        node_get_limits(n)->fast_zero) {
        c->params.target_is_zero = node_co_zero(n, 0, c->params.size,
                                                IO_MAY_UNMAP | IO_FAST) == 0;
    }
}

/* What the images themselves must support; after the target is open. */
CO_FN_LOOKS static int check_target(const struct convert *c, GError **err)
{
    struct node *n = c->params.target;

    if (c->params.compressed && !node_get_limits(n)->compressed_unit) {
        return err_set(err, ENOTSUP,
                       "Compression not supported for this file format");
    }
    if (c->bitmaps && !node_can(n, NODE_CAN_BITMAP)) {
        return err_set(err, ENOTSUP,
                       "Format driver '%s' does not support "
                       "bitmaps",
                       node_driver_name(n));
    }
    return 0;
}

static CO_FN int convert_co_transfer(struct graph *g, struct convert *c,
                                     bool zero, GError **err)
{
    int r = check_target(c, err);

    if (r < 0) {
        return r;
    }
    find_target_base(c);
    c->params.target_is_zero = (zero || c->target_is_zero) &&
                               !c->params.has_backing;
    convert_co_make_zero(c);
    r = transfer_co_run(g, &c->params);
    if (r == 0 && c->bitmaps) {
        r = internal_co_copy_bitmaps(c->sources[0], c->params.target,
                                     c->skip_broken, err);
    }
    return r;
}

static CO_FN int convert_co_images(struct graph *g, struct convert *c,
                                   GError **err)
{
    int r = convert_co_open_sources(g, c, err);
    bool zero = false;

    if (r == 0 && c->bitmaps) {
        r = internal_co_check_bitmaps(c->sources[0], c->skip_broken, err);
    }
    if (r == 0) {
        r = target_co_check(g, &c->target, err);
    }
    if (r == 0) {
        r = target_co_open(g, &c->target, c->params.size, &c->params.target,
                           &zero, err);
    }
    if (r == 0) {
        r = convert_co_transfer(g, c, zero, err);
        node_co_unref(c->params.target);
    }
    return r;
}

static CO_FN int convert_co_list_options(struct graph *g,
                                         const struct convert *c)
{
    g_autoptr(GError) err = NULL;
    const struct node_driver *drv = create_options_driver(g, c->target.format,
                                                          &err);

    if (!drv) {
        cli_gerror(err);
        return 1;
    }
    return create_options_print(drv, c->target.name);
}

static CO_FN int convert_co_run(struct graph *g, void *arg)
{
    struct convert *c = arg;
    g_autoptr(GError) err = NULL;

    if (c->list_options) {
        return convert_co_list_options(g, c);
    }
    c->sources = g_new0(struct node *, (size_t)c->n_sources);
    int r = convert_co_images(g, c, &err);
    for (unsigned i = 0; i < c->params.n_sources; i++) {
        node_co_unref(c->sources[i]);
    }
    g_free(c->sources);
    if (err) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_convert(int argc, char **argv)
{
    struct convert c = {
        .target = { .options = json_object() },
        .params = { .sparse = SPARSE_DEFAULT },
    };
    int status = convert_parse_args(argc, argv, &c);

    if (status == 0) {
        status = image_run(convert_co_run, &c);
    }
    json_decref(c.target.options);
    return MAX(status, 0);
}
