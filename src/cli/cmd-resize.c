/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice resize: change the size of the virtual disk. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/copy-run.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/io.h"

#define SECTOR 512
enum { OPT_SHRINK = OPT_OTHER, OPT_PREALLOCATION };

enum preallocation {
    PREALLOC_OFF,
    PREALLOC_METADATA,
    PREALLOC_FALLOC,
    PREALLOC_FULL
};
static const char *const resize_preallocation_names[] = {
    "off",
    "metadata",
    "falloc",
    "full",
};

struct resize {
    struct image_spec image;
    char sign;       /* '+', '-' or 0: absolute */
    uint64_t amount; /* bytes */
    bool shrink, quiet;
    unsigned preallocation; /* enum preallocation: of what is added */
};

static int parse_preallocation(struct resize *z)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(resize_preallocation_names); i++) {
        if (strcmp(optarg, resize_preallocation_names[i]) == 0) {
            z->preallocation = i;
            return 0;
        }
    }
    cli_error("Invalid preallocation mode '%s'", optarg);
    return 1;
}

static int parse_amount(struct resize *z, const char *size)
{
    if (*size == '+' || *size == '-') {
        z->sign = *size++;
    }
    if (size_parse(size, 0, &z->amount, NULL) < 0) {
        cli_error("Parameter 'size' expects a non-negative number below 2^64");
        fprintf(stderr,
                "Optional suffix k, M, G, T, P or E means kilo-, "
                "mega-, giga-, tera-, peta-\nand exabytes, respectively.\n");
        return 1;
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int resize_parse_args(int argc, char **argv, struct resize *z)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        { "format", required_argument, NULL, 'f' },
        { "shrink", no_argument, NULL, OPT_SHRINK },
        { "preallocation", required_argument, NULL, OPT_PREALLOCATION },
        { NULL, 0, NULL, 0 }
    };
    /* The last word may be -SIZE: it is taken off before getopt sees it. */
    const char *size = argc > 1 ? argv[--argc] : NULL;
    int c, r = 0;

    if (size && (g_str_equal(size, "-h") || g_str_equal(size, "--help"))) {
        cli_print_help();
        return -1;
    }
    while (r == 0 &&
           (c = getopt_long(argc, argv, ":hf:q", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': z->image.format = optarg; break;
        case OPT_SHRINK: z->shrink = true; break;
        case 'q': z->quiet = true; break;
        case OPT_IMAGE_OPTS: z->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("resize", optarg); break;
        case OPT_PREALLOCATION: r = parse_preallocation(z); break;
        default: return cli_option_error("resize", c, argv);
        }
    }
    if (r != 0) {
        return r;
    }
    if (!size || argc < 2) {
        return cli_usage_error("resize", "Not enough arguments");
    }
    if (optind + 1 != argc) {
        return cli_usage_error("resize", "Expecting image file name and size");
    }
    z->image.name = argv[optind];
    return parse_amount(z, size);
}

/* The new size in whole sectors. 0 or -EINVAL. */
static int new_size(const struct resize *z, uint64_t old, uint64_t *ret,
                    GError **err)
{
    uint64_t size = z->amount;

    if (z->sign == '+') {
        if (z->amount > INT64_MAX - old) {
            return err_set(err, EINVAL, "New image size is too large");
        }
        size = old + z->amount;
    } else if (z->sign == '-') {
        size = z->amount < old ? old - z->amount : 0;
    }
    if (size == 0) {
        return err_set(err, EINVAL, "New image size must be positive");
    }
    *ret = round_up(size, SECTOR);
    if (z->preallocation != PREALLOC_OFF && *ret <= old) {
        return err_set(err, EINVAL,
                       "Preallocation can only be used for growing images");
    }
    if (*ret < old && !z->shrink) {
        err_set(err, EINVAL,
                "Use the --shrink option to perform a shrink operation.");
        err_add_line(err,
                     "%s: warning: Shrinking an image will delete all data "
                     "beyond the shrunken image's end. Before performing such "
                     "an operation, make sure there is no important data "
                     "there.",
                     cli_program());
        return -EINVAL;
    }
    return 0;
}

/* --- preallocation --- */

/* Zeroes as data. */
static CO_FN int resize_data_co_write(struct backend *u, uint64_t off,
                                      uint64_t end)
{
    void *buf = io_buf_get(COPY_RUN_CHUNK);
    int r = buf ? 0 : -ENOMEM;

    if (buf) {
        memset(buf, 0, COPY_RUN_CHUNK);
    }
    while (r == 0 && off < end) {
        uint64_t len = MIN(COPY_RUN_CHUNK, end - off);

        r = copy_run_co_write(u, off, buf, len);
        off += len;
    }
    if (buf) {
        io_buf_put(buf, COPY_RUN_CHUNK);
    }
    return r;
}

/* Allocate what was added, from @off. */
static CO_FN int added_co_preallocate(const struct resize *z, struct node *n,
                                      struct backend *u, uint64_t off)
{
    const struct node_limits *l = node_get_limits(n);
    unsigned place = l->can_allocate ? IO_ALLOCATE : 0;

    if (l->cluster_size > 1 && z->preallocation != PREALLOC_FULL) {
        /* The rest of the cluster in which the disk ended: zeroing a part of
         * one that is not allocated gives it no place. */
        uint64_t end = MIN(round_up(off, l->cluster_size), node_size(n));
        int r = resize_data_co_write(u, off, end);

        if (r < 0 || end == node_size(n)) {
            return r;
        }
        off = end;
    }
    switch (z->preallocation) {
    case PREALLOC_METADATA:
        return backend_co_zero(u, off, node_size(n) - off,
                               place | IO_MAY_UNMAP);
    case PREALLOC_FALLOC:
        return backend_co_zero(u, off, node_size(n) - off, place);
    default: return resize_data_co_write(u, off, node_size(n));
    }
}

/* On failure the image is as large as it was: scripts try again. */
static CO_FN int resize_co_preallocate(const struct resize *z, struct node *n,
                                       uint64_t old, GError **err)
{
    struct backend *u;
    int r;

    if (z->preallocation == PREALLOC_OFF) {
        return 0;
    }
    r = backend_co_new(n, "resize", PERM_CONSISTENT_READ | PERM_WRITE,
                       PERM_CONSISTENT_READ, NULL, NULL, &u, err);
    if (r < 0) {
        return r;
    }
    r = added_co_preallocate(z, n, u, old);
    backend_co_free(u);
    if (r < 0) {
        node_co_truncate(n, old, NULL);
    }
    return r == 0 ? 0
                  : err_set_errno(err, -r,
                                  "Could not preallocate what was "
                                  "added to '%s'",
                                  z->image.name);
}

static int preallocation_check(const struct resize *z, const struct node *n,
                               GError **err)
{
    const struct node_limits *l = node_get_limits(n);

    if (z->preallocation == PREALLOC_OFF || l->can_allocate ||
        z->preallocation == PREALLOC_FULL ||
        (z->preallocation == PREALLOC_FALLOC && !l->cluster_size)) {
        return 0;
    }
    return err_set(err, ENOTSUP,
                   l->cluster_size ? "Unsupported preallocation mode '%s'"
                                   : "Unsupported preallocation mode: %s",
                   resize_preallocation_names[z->preallocation]);
}

static CO_FN int resize_co_node(const struct resize *z, struct node *n,
                                GError **err)
{
    uint64_t size = 0, old = node_size(n);
    int r = new_size(z, node_size(n), &size, err);

    if (r == 0) {
        r = preallocation_check(z, n, err);
    }
    if (r == 0 && size != node_size(n)) {
        r = node_co_truncate(n, size, err);
        if (r == 0) {
            r = resize_co_preallocate(z, n, old, err);
        }
    }
    if (r == 0) {
        r = node_co_flush(n);
        if (r < 0) {
            err_set_errno(err, -r, "Could not flush '%s'", z->image.name);
        }
    }
    return r;
}

static CO_FN int resize_co_run(struct graph *g, void *arg)
{
    struct resize *z = arg;
    struct node *n;
    g_autoptr(GError) err = NULL;
    int r;

    z->image.flags |= NODE_RDWR;
    r = image_co_open_spec(g, &z->image, &n, &err);
    if (r == 0) {
        r = resize_co_node(z, n, &err);
        node_co_unref(n);
    }
    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    if (!z->quiet) {
        printf("Image resized.\n");
    }
    return 0;
}

int cmd_resize(int argc, char **argv)
{
    struct resize z = { 0 };
    int status = resize_parse_args(argc, argv, &z);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(resize_co_run, &z);
}
