/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice commit: merge an overlay down into an image of its backing chain.
 *
 * Order: the base grows first, durably (C4); what the images above the base
 * hold is copied into it; the base is flushed, data and mapping; only then the
 * overlay is emptied (C1).  At every point the overlay reads as before, for
 * what was copied is the same above and below.
 *
 * While it runs the base is out of the chain, with a node that holds nothing in
 * its place: what those above it do not have is left alone, and the base can be
 * written by us and nobody else.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/job-options.h"
#include "cli/copy-run.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/copy/copy.h"
#include "job/snapshot-check.h"
#include "loop/io.h"

struct commit {
    struct copy_run copy_run; /* first */
    struct image_spec image;
    const char *base_name;      /* NULL: the next one */
    bool keep, progress, quiet; /* keep: do not empty the overlay */

    struct node *top, *base, *nothing;
    struct backend *top_backend, *base_backend;
};

/* 0, an exit status, or -1 after help. */
static int commit_parse_args(int argc, char **argv, struct commit *m)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             { NULL, 0, NULL, 0 } };
    int c, r = 0;

    while (r == 0 && (c = getopt_long(argc, argv, ":f:ht:b:dpqr:", options,
                                      NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': m->image.format = optarg; break;
        case 't':
            if (image_parse_cache(optarg, &m->image.flags) < 0) {
                cli_error("Invalid cache option: %s", optarg);
                r = 1;
            }
            break;
        /* What lies between is not valid any more: keeping is all one can. */
        case 'b':
            m->base_name = optarg;
            m->keep = true;
            break;
        case 'd': m->keep = true; break;
        case 'p': m->progress = true; break;
        case 'q': m->quiet = true; break;
        case 'r':
            r = cli_parse_size("rate limit", optarg, 0, INT64_MAX,
                               &m->copy_run.speed);
            break;
        case OPT_IMAGE_OPTS: m->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("commit", optarg); break;
        default: r = cli_option_error("commit", c, argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("commit", "Expecting one image file name");
    }
    m->image.name = argv[optind];
    return r;
}

/* --- the copy --- */

static CO_FN int offline_commit_co_scan(void *arg, uint64_t off, uint64_t max,
                                        bool *ret_need, bool *ret_zero,
                                        uint64_t *ret_len)
{
    struct commit *m = arg;
    struct extent ext;
    int r = node_co_status_above(m->top, m->nothing, off, max, &ext);

    *ret_need = r == 0 && ext.depth > 0;
    *ret_zero = ext.flags & STATUS_ZERO;
    *ret_len = ext.len;
    return r;
}

static CO_FN int offline_commit_co_copy(void *arg, uint64_t off, uint64_t len,
                                        bool zero, struct copy_result *res)
{
    struct commit *m = arg;
    void *buf;
    int r;

    if (zero) {
        return backend_co_zero(m->base_backend, off, len, IO_MAY_UNMAP);
    }
    buf = io_buf_get(len);
    r = copy_run_co_read(m->top_backend, off, buf, len);
    res->is_read = r < 0;
    if (r == 0) {
        r = copy_run_co_write(m->base_backend, off, buf, len);
        res->copied = len;
    }
    io_buf_put(buf, len);
    return r;
}

static const struct copy_ops commit_copy_ops = {
    .co_scan = offline_commit_co_scan,
    .co_copy = offline_commit_co_copy,
    .progress = copy_run_progress,
    .co_error = copy_run_co_error,
    .co_pause_point = copy_run_co_pause_point,
};

/* --- the graph --- */

static CO_FN int commit_co_find_base(struct commit *m, GError **err)
{
    if (m->base_name) {
        m->base = node_chain_find_file(m->top, m->base_name);
        if (!m->base) {
            return err_set(err, EINVAL,
                           "Did not find '%s' in the backing "
                           "chain of '%s'",
                           m->base_name, m->image.name);
        }
    } else {
        m->base = node_skip_filters(node_backing(m->top));
        if (!m->base) {
            return err_set(err, EINVAL, "Image does not have a backing file");
        }
    }
    node_ref(m->base);
    return 0;
}

/* Put a node that holds nothing where the base is, and take the base. */
static CO_FN int commit_co_take_base(struct commit *m, struct graph *g,
                                     GError **err)
{
    struct node *overlay = node_overlay_of(m->top, m->base);
    json_t *options = json_pack("{s:s,s:I,s:b}", "driver", "null-co", "size",
                                (json_int_t)node_size(m->base), "read-zeroes",
                                1);
    int r = node_co_open(g, options, 0, &m->nothing, err);

    json_decref(options);
    if (r < 0) {
        m->nothing = NULL;
        return r;
    }
    r = edge_co_replace(node_child(overlay, "backing"), m->nothing, err);
    if (r == 0) {
        r = node_co_set_read_only(m->base, false, err);
    }
    if (r == 0) {
        r = backend_co_new(
            m->base, "commit", PERM_CONSISTENT_READ | PERM_WRITE | PERM_RESIZE,
            PERM_CONSISTENT_READ, NULL, NULL, &m->base_backend, err);
    }
    if (r == 0) {
        r = backend_co_new(m->top, "commit", PERM_CONSISTENT_READ,
                           PERM_CONSISTENT_READ, NULL, NULL, &m->top_backend,
                           err);
    }
    return r < 0 ? r : node_co_forget_base(overlay, err);
}

static CO_FN int commit_co_flush_base(struct commit *m, GError **err)
{
    int r = backend_co_flush(m->base_backend);

    return r == 0 ? 0
                  : err_set_errno(err, -r, "Could not flush '%s'",
                                  node_filename(m->base));
}

static CO_FN int commit_co_grow_base(struct commit *m, GError **err)
{
    int r;

    if (node_size(m->base) >= node_size(m->top)) {
        return 0;
    }
    r = node_co_truncate(m->base, node_size(m->top), err);
    return r < 0 ? r : commit_co_flush_base(m, err);
}

static CO_FN int commit_co_empty_top(struct commit *m, GError **err)
{
    g_autoptr(GError) why = NULL;
    int r = m->keep ? 0 : node_co_make_empty(m->top, &why);

    if (r == -ENOTSUP) {
        return 0; /* it stays as it is: the same content, only twice */
    }
    if (r < 0) {
        err_set(err, -r, "Failed to empty %s: %s", m->image.name, why->message);
    }
    return r;
}

static CO_FN int commit_co_merge(struct commit *m, struct graph *g,
                                 GError **err)
{
    int r = commit_co_find_base(m, err);

    if (r == 0) {
        r = snapshots_co_check_merge(m->top, m->top, m->base, "committed", err);
    }
    if (r == 0) {
        r = commit_co_take_base(m, g, err);
    }
    if (r == 0) {
        r = commit_co_grow_base(m, err);
    }
    if (r == 0) {
        m->copy_run.total = node_size(m->top);
        m->copy_run.cluster = node_get_limits(m->base)->cluster_size;
        r = copy_run_co_run(&m->copy_run, &commit_copy_ops, g, err);
    }
    if (r == 0) {
        r = commit_co_flush_base(m, err);
    }
    backend_co_free(m->top_backend);
    if (r == 0) {
        r = commit_co_empty_top(m, err);
    }
    backend_co_free(m->base_backend);
    return r;
}

static CO_FN int offline_commit_co_run(struct graph *g, void *arg)
{
    struct commit *m = arg;
    g_autoptr(GError) err = NULL;
    int r;

    m->image.flags |= NODE_RDWR;
    m->image.is_overlay = true;
    r = image_co_open_spec(g, &m->image, &m->top, &err);
    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    percent_begin(&m->copy_run.percent, m->progress && !m->quiet);
    r = commit_co_merge(m, g, &err);
    if (r == 0) {
        percent_update(&m->copy_run.percent, 1, 1);
    }
    percent_end(&m->copy_run.percent);
    if (m->base) {
        node_co_unref(m->base);
    }
    if (m->nothing) {
        node_co_unref(m->nothing);
    }
    node_co_unref(m->top);
    if (r < 0) {
        cli_gerror(err);
    } else if (!m->quiet) {
        printf("Image committed.\n");
    }
    return r < 0 ? 1 : 0;
}

int cmd_commit(int argc, char **argv)
{
    struct commit m = { 0 };
    int status;

    if (wants_daemon(argc, argv)) {
        return live_commit(argc, argv);
    }
    status = commit_parse_args(argc, argv, &m);
    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(offline_commit_co_run, &m);
}
