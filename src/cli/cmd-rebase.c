/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sluice rebase: give an overlay another backing file.
 *
 * Safe mode changes nothing that a guest sees.  What the overlay lacks and the
 * two backing chains do not agree on is copied into the overlay; overlay and
 * its mapping are made durable; only then is the header rewritten.  So a crash
 * at any point leaves the old reference or the new one, and the same content.
 * -u only rewrites the header.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "cli/copy-run.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/reference.h"
#include "job/copy/copy.h"
#include "job/snapshot-check.h"
#include "loop/io.h"

#define SECTOR 512

struct rebase {
    struct copy_run copy_run; /* first */
    struct image_spec image;
    const char *backing; /* NULL or "": none */
    const char *backing_format;
    unsigned source_flags; /* to open the new backing file with */
    bool unsafe, progress, quiet;

    struct node *top, *new_base; /* new_base NULL: none */
    bool in_chain;               /* new_base is part of the old chain */
    bool has_old;                /* the image has a backing file now */
    struct backend *top_backend, *new_backend;
    uint64_t cluster; /* of top; bytes */
};

static int rebase_parse_cache(const char *what, unsigned *flags)
{
    if (image_parse_cache(optarg, flags) < 0) {
        cli_error("Invalid %s option: %s", what, optarg);
        return 1;
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int rebase_parse_args(int argc, char **argv, struct rebase *b)
{
    static const struct option options[] = { IMAGE_OPTIONS,
                                             FORCE_SHARE_OPTION,
                                             { NULL, 0, NULL, 0 } };
    int c, r = 0;

    while (r == 0 && (c = getopt_long(argc, argv, ":hf:F:b:upt:T:qU", options,
                                      NULL)) != -1) {
        switch (c) {
        case 'h': cli_print_help(); return -1;
        case 'f': b->image.format = optarg; break;
        case 'F': b->backing_format = optarg; break;
        case 'b': b->backing = optarg; break;
        case 'u': b->unsafe = true; break;
        case 'p': b->progress = true; break;
        case 't': r = rebase_parse_cache("cache", &b->image.flags); break;
        case 'T':
            r = rebase_parse_cache("source cache", &b->source_flags);
            break;
        case 'q': b->quiet = true; break;
        case 'U': b->source_flags |= NODE_FORCE_SHARE; break;
        case OPT_IMAGE_OPTS: b->image.is_opts = true; break;
        case OPT_OBJECT: r = image_add_object("rebase", optarg); break;
        default: r = cli_option_error("rebase", c, argv); break;
        }
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("rebase", "Expecting one image file name");
    }
    if (r == 0 && !b->unsafe && !b->backing) {
        return cli_usage_error("rebase", "Must specify backing file (-b) or "
                                         "use unsafe mode (-u)");
    }
    b->image.name = argv[optind];
    return r;
}

static bool rebase_has_backing(const struct rebase *b)
{
    return b->backing && *b->backing;
}

/* --- what differs --- */

/* One extent of the chain of @n as its reader sees it; past its end zeroes. */
static CO_FN int scan_co_zero(struct node *n, uint64_t off, uint64_t max,
                              bool *ret_zero, uint64_t *ret_len)
{
    struct extent ext;
    int r;

    *ret_zero = true;
    *ret_len = max;
    if (!n || off >= node_size(n)) {
        return 0;
    }
    r = node_co_status_above(n, NULL, off, MIN(max, node_size(n) - off), &ext);
    *ret_zero = ext.flags & STATUS_ZERO;
    *ret_len = ext.len;
    return r;
}

/* Runs of the chains end anywhere, what the overlay can take is whole clusters:
 * one that begins equal and ends otherwise is to be looked at. */
static void scan_align(const struct rebase *b, uint64_t off, uint64_t max,
                       bool *need, uint64_t *len)
{
    uint64_t end = off + *len, cluster = b->cluster;

    if (*len == max) {
        return;
    }
    if (!*need && round_down(end, cluster) > off) {
        *len = round_down(end, cluster) - off;
    } else {
        *need = *need || end % cluster;
        *len = MIN(max, round_up(end, cluster) - off);
    }
}

/* Whether both chains may differ in what follows @off. */
static CO_FN int scan_co_compare(struct rebase *b, uint64_t off, uint64_t max,
                                 bool *ret_need, uint64_t *ret_len)
{
    struct extent ext;
    bool old_zero, new_zero;
    uint64_t len;
    int r;

    if (b->in_chain) {
        /* Nothing between top and new base has it: both read the same. */
        r = node_co_status_above(b->top, b->new_base, off, max, &ext);
        if (r < 0 || ext.depth == 0) {
            *ret_need = false;
            *ret_len = ext.len;
            return r;
        }
        max = ext.len;
    }
    old_zero = !b->has_old;
    len = max;
    r = b->has_old ? scan_co_zero(b->top, off, max, &old_zero, &len) : 0;
    if (r == 0) {
        r = scan_co_zero(b->new_base, off, len, &new_zero, ret_len);
    }
    *ret_need = r == 0 && !(old_zero && new_zero);
    return r;
}

static CO_FN int rebase_co_scan(void *arg, uint64_t off, uint64_t max,
                                bool *ret_need, bool *ret_zero,
                                uint64_t *ret_len)
{
    struct rebase *b = arg;
    struct extent ext;
    int r = node_co_status(b->top, off, max, &ext);

    *ret_zero = false;
    if (r < 0 || (ext.flags & STATUS_ALLOCATED)) {
        *ret_need = false;
        *ret_len = ext.len;
        return r;
    }
    /* Without an old chain it is zeroes that are kept: no need to look. */
    *ret_zero = !b->has_old;
    r = scan_co_compare(b, off, ext.len, ret_need, ret_len);
    if (r == 0) {
        scan_align(b, off, ext.len, ret_need, ret_len);
    }
    return r;
}

static CO_FN int rebase_co_read_new(struct rebase *b, uint64_t off, char *buf,
                                    uint64_t len)
{
    uint64_t size = b->new_base ? node_size(b->new_base) : 0;
    uint64_t have = off < size ? MIN(len, size - off) : 0;

    memset(buf + have, 0, len - have);
    return have ? copy_run_co_read(b->new_backend, off, buf, have) : 0;
}

/* Keep [@off, @off+@len), which only the old chain has as @buf says. Zeroing a
 * part of a cluster would be nothing to do while the old chain reads so. */
static CO_FN int rebase_co_keep(struct rebase *b, uint64_t off, char *buf,
                                uint64_t len)
{
    bool whole = off % b->cluster == 0 &&
                 (len % b->cluster == 0 || off + len == node_size(b->top));

    if (whole && buf_is_zero(buf, len)) {
        return backend_co_zero(b->top_backend, off, len, IO_MAY_UNMAP);
    }
    return copy_run_co_write(b->top_backend, off, buf, len);
}

static uint64_t unit_length(const struct rebase *b, uint64_t off, uint64_t max)
{
    return MIN(max, b->copy_run.cluster - off % b->copy_run.cluster);
}

static CO_FN int rebase_co_differences(struct rebase *b, uint64_t off,
                                       char *old, const char *fresh,
                                       uint64_t len, struct copy_result *res)
{
    uint64_t at = 0, run = 0;
    int r = 0;

    while (r == 0 && at + run < len) {
        uint64_t from = at + run;
        uint64_t unit = unit_length(b, off + from, len - from);
        bool differs = memcmp(old + from, fresh + from, unit) != 0;

        run += differs ? unit : 0;
        if (run && (!differs || at + run == len)) {
            r = rebase_co_keep(b, off + at, old + at, run);
            res->copied += run;
            at += run;
            run = 0;
        }
        at += differs ? 0 : unit;
    }
    return r;
}

static CO_FN int rebase_co_copy(void *arg, uint64_t off, uint64_t len,
                                bool zero, struct copy_result *res)
{
    struct rebase *b = arg;
    char *old, *fresh;
    int r;

    if (zero) {
        return backend_co_zero(b->top_backend, off, len, IO_MAY_UNMAP);
    }
    old = io_buf_get(len);
    fresh = io_buf_get(len);
    res->is_read = true;
    r = copy_run_co_read(b->top_backend, off, old, len);
    if (r == 0) {
        r = rebase_co_read_new(b, off, fresh, len);
    }
    if (r == 0) {
        res->is_read = false;
        r = rebase_co_differences(b, off, old, fresh, len, res);
    }
    io_buf_put(fresh, len);
    io_buf_put(old, len);
    return r;
}

static const struct copy_ops rebase_copy_ops = {
    .co_scan = rebase_co_scan,
    .co_copy = rebase_co_copy,
    .progress = copy_run_progress,
    .co_error = copy_run_co_error,
    .co_pause_point = copy_run_co_pause_point,
};

/* --- the new backing file --- */

/* The file of @top must not come back below itself: the chain would be a loop
 * once the header says so. */
static CO_FN int rebase_co_check_loop(const struct rebase *b, GError **err)
{
    const struct node *storage = node_storage(b->top);

    return storage && image_co_is_part_of(b->new_base, node_filename(storage))
               ? err_set(err, ELOOP,
                         "'%s' is part of the chain of '%s': the new "
                         "chain would be a loop",
                         b->image.name, b->backing)
               : 0;
}

static CO_FN int rebase_co_open_new(struct rebase *b, struct graph *g,
                                    GError **err)
{
    g_autofree char *path = image_backing_path(node_filename(b->top),
                                               b->backing);
    struct image_spec spec = { .name = path,
                               .format = b->backing_format,
                               .flags = b->source_flags };
    int r;

    b->new_base = node_chain_find_file(b->top, path);
    if (b->new_base) {
        node_ref(b->new_base);
        b->in_chain = true;
        return strcmp(node_driver_name(b->new_base), b->backing_format) == 0
                   ? reference_co_check(b->top, b->backing, b->backing_format,
                                        b->new_base, err)
                   : err_set(err, EINVAL,
                             "'%s' is part of the chain already, there "
                             "its format is %s, not %s",
                             b->backing, node_driver_name(b->new_base),
                             b->backing_format);
    }
    r = image_co_open_bare(g, &spec, &b->new_base, err);
    if (r < 0) {
        b->new_base = NULL;
        cli_prefix_once(err, "Could not open new backing file", b->backing);
        return r;
    }
    return rebase_co_check_loop(b, err);
}

/* An image without a backing file has nothing to do to read as zeroes, so none
 * of its formats would record them: the new one comes below it at once. */
static CO_FN int rebase_co_attach(struct rebase *b, GError **err)
{
    b->has_old = node_backing(b->top) != NULL;
    if (b->has_old || !b->new_base) {
        return 0;
    }
    return edge_co_attach(b->top, b->new_base, "backing", PERM_CONSISTENT_READ,
                          PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, err);
}

/* --- internal snapshots --- */

/* Two chains, where nothing is known but what reads as zeroes. */
static CO_FN int replace_co_changes(void *arg, uint64_t off, uint64_t max,
                                    bool *ret_changes, uint64_t *ret_len)
{
    const struct rebase *b = arg;
    bool old_zero, new_zero = false;
    uint64_t len;
    int r = scan_co_zero(b->has_old ? node_backing(b->top) : NULL, off, max,
                         &old_zero, &len);

    if (r == 0) {
        r = scan_co_zero(b->new_base, off, len, &new_zero, ret_len);
    }
    *ret_changes = !(old_zero && new_zero);
    return r;
}

/* What is copied is copied for the disk alone. */
static CO_FN int rebase_co_check_snapshots(struct rebase *b, GError **err)
{
    static const char verb[] = "rebased";
    const struct chain_change change = { verb, replace_co_changes, b };

    if (b->new_base && !b->in_chain) {
        return snapshots_co_check(b->top, &change, err);
    }
    return snapshots_co_check_cut(b->top, b->new_base, verb, err);
}

static CO_FN int rebase_co_take(struct rebase *b, struct graph *g, GError **err)
{
    int r = rebase_has_backing(b) ? rebase_co_open_new(b, g, err) : 0;

    if (r == 0) {
        r = rebase_co_attach(b, err);
    }
    if (r == 0) {
        r = rebase_co_check_snapshots(b, err);
    }
    if (r == 0) {
        r = backend_co_new(b->top, "rebase", PERM_CONSISTENT_READ | PERM_WRITE,
                           PERM_CONSISTENT_READ, NULL, NULL, &b->top_backend,
                           err);
    }
    if (r == 0 && b->new_base) {
        r = backend_co_new(b->new_base, "rebase", PERM_CONSISTENT_READ,
                           PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, NULL,
                           NULL, &b->new_backend, err);
    }
    return r;
}

/* Copy what differs and make it durable, its mapping included. */
static CO_FN int rebase_co_copy_all(struct rebase *b, struct graph *g,
                                    GError **err)
{
    int r = rebase_co_take(b, g, err);

    if (r == 0) {
        b->copy_run.total = node_size(b->top);
        b->cluster = MAX(node_get_limits(b->top)->cluster_size, SECTOR);
        b->copy_run.cluster = (uint32_t)MIN(b->cluster, COPY_RUN_CHUNK);
        r = copy_run_co_run(&b->copy_run, &rebase_copy_ops, g, err);
    }
    if (r == 0) {
        r = backend_co_flush(b->top_backend);
        if (r < 0) {
            err_set_errno(err, -r, "Could not flush '%s'", b->image.name);
        }
    }
    backend_co_free(b->new_backend);
    backend_co_free(b->top_backend);
    return r;
}

static CO_FN int rebase_co_header(struct rebase *b, GError **err)
{
    g_autoptr(GError) why = NULL;
    const char *name = rebase_has_backing(b) ? b->backing : NULL;
    int r;

    r = node_co_change_backing(b->top, name, name ? b->backing_format : NULL,
                               &why);
    if (r == -ENOSPC) {
        err_set(err, ENOSPC,
                "Could not change the backing file to '%s': No "
                "space left in the file header",
                b->backing);
    } else if (r < 0) {
        err_set(err, -r, "Could not change the backing file to '%s': %s",
                b->backing ? b->backing : "(null)",
                r == -ENOTSUP ? "Operation not supported" : why->message);
    }
    return r;
}

/* Before anything is copied: will the header be able to say it? */
static CO_FN int rebase_co_check(const struct rebase *b, struct graph *g,
                                 GError **err)
{
    if (b->backing_format && !graph_find_driver(g, b->backing_format)) {
        return err_set(err, EINVAL, "Invalid format name: '%s'",
                       b->backing_format);
    }
    if (!node_can(b->top, NODE_CAN_CHANGE_BACKING)) {
        return err_set(err, ENOTSUP,
                       "Could not change the backing file to "
                       "'%s': Operation not supported",
                       b->backing ? b->backing : "(null)");
    }
    if (rebase_has_backing(b) && !b->backing_format) {
        err_set(err, EINVAL,
                "Could not change the backing file to '%s': backing format "
                "must be specified",
                b->backing);
        err_hint(err, "Say it with -F, for example -F qcow2.");
        return -EINVAL;
    }
    return rebase_has_backing(b)
               ? reference_co_check(b->top, b->backing, b->backing_format, NULL,
                                    err)
               : 0;
}

static CO_FN int rebase_co_run(struct graph *g, void *arg)
{
    struct rebase *b = arg;
    g_autoptr(GError) err = NULL;
    int r;

    b->image.flags |= NODE_RDWR | (b->unsafe ? (unsigned)NODE_NO_BACKING : 0);
    b->image.is_overlay = true;
    r = image_co_open_spec(g, &b->image, &b->top, &err);
    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    percent_begin(&b->copy_run.percent, b->progress && !b->quiet);
    r = rebase_co_check(b, g, &err);
    if (r == 0 && !b->unsafe) {
        r = rebase_co_copy_all(b, g, &err);
    }
    if (r == 0) {
        r = rebase_co_header(b, &err);
    }
    if (r == 0) {
        percent_update(&b->copy_run.percent, 1, 1);
    }
    percent_end(&b->copy_run.percent);
    if (b->new_base) {
        node_co_unref(b->new_base);
    }
    node_co_unref(b->top);
    if (r < 0) {
        cli_gerror(err);
    }
    return r < 0 ? 1 : 0;
}

int cmd_rebase(int argc, char **argv)
{
    struct rebase b = { 0 };
    int status = rebase_parse_args(argc, argv, &b);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(rebase_co_run, &b);
}
