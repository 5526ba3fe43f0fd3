/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice resize: change the size of the virtual disk. */
#include <getopt.h>
#include <stdio.h>

#include "base/err.h"
#include "base/math.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "graph/io.h"
#include "graph/node.h"

#define SECTOR 512
enum { OPT_SHRINK = OPT_OTHER };

struct resize {
    struct image_spec image;
    char sign;          /* '+', '-' or 0: absolute */
    uint64_t amount;    /* bytes */
    bool shrink, quiet;
};

/* 0, an exit status, or -1 after help. */
static int parse_args(int argc, char **argv, struct resize *z)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        { "format", required_argument, NULL, 'f' },
        { "shrink", no_argument, NULL, OPT_SHRINK },
        { NULL, 0, NULL, 0 }
    };
    g_autoptr(GError) err = NULL;
    /* The last word may be -SIZE: it is taken off before getopt sees it. */
    const char *size = argc > 1 ? argv[--argc] : NULL;
    int c;

    if (size && (g_str_equal(size, "-h") || g_str_equal(size, "--help"))) {
        cli_print_help("resize");
        return -1;
    }
    while ((c = getopt_long(argc, argv, ":hf:q", options, NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help("resize"); return -1;
        case 'f': z->image.format = optarg; break;
        case OPT_SHRINK: z->shrink = true; break;
        case 'q': z->quiet = true; break;
        case OPT_IMAGE_OPTS: z->image.is_opts = true; break;
        case OPT_OBJECT:
            if (image_add_object("resize", optarg) != 0) {
                return 1;
            }
            break;
        default: return cli_option_error("resize", c, argv);
        }
    }
    if (!size || optind + 1 != argc) {
        return cli_usage_error("resize", "Expecting image file name and size");
    }
    z->image.name = argv[optind];
    if (*size == '+' || *size == '-') {
        z->sign = *size++;
    }
    if (size_parse(size, 0, &z->amount, &err) < 0) {
        return cli_usage_error("resize", "%s", err->message);
    }
    return 0;
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
    if (*ret < old && !z->shrink) {
        err_set(err, EINVAL,
                "Use the --shrink option to perform a shrink operation.");
        err_hint(err, "sluice: warning: Shrinking an image will delete all "
                 "data beyond the shrunken image's end. Before performing "
                 "such an operation, make sure there is no important data "
                 "there.");
        return -EINVAL;
    }
    return 0;
}

static CO_FN int resize_co_node(const struct resize *z, struct node *n,
                                GError **err)
{
    uint64_t size = 0;
    int r = new_size(z, n->size, &size, err);

    if (r == 0 && size != n->size) {
        r = node_co_truncate(n, size, err);
    } else if (r == 0 && !z->quiet) {
        /* The peer's words for nothing to do. */
        fprintf(stderr, "sluice: warning: Image already has this size\n");
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
    int status = parse_args(argc, argv, &z);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(resize_co_run, &z);
}
