/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The driver "rbd": an image of a Ceph cluster as a node.
 *
 * librbd does the work (rbd-image.h); here is what a node needs beside that: a
 * cluster that does not answer holds up nobody for ever (rbd-op.h), and holes
 * are known without reading them (rbd-status.c).
 *
 * A snapshot is for reading, and never changes.  Who writes to an image takes
 * its exclusive lock, where it has one.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "graph/driver.h"
#include "loop/loop.h"
#include "storage/rbd/rbd-node.h"
#include "storage/storage.h"
#include "storage/trace.h"

#define NS_PER_S UINT64_C(1000000000)
/* How long a cluster that does not answer may hold up the end of a node. */
#define CLOSE_TIMEOUT_NS (5 * NS_PER_S)
/* Beyond what librbd itself allows for opening an image. */
#define OPEN_GRACE_NS (1 * NS_PER_S)
#define LOCK_TIMEOUT_NS (60 * NS_PER_S)
/* Memory of one request. */
#define TRANSFER_MAX (32u << 20)

static const char *const rbd_reference_options[] = {
    "pool", "namespace", "image", "snapshot", "user", "server", NULL
};

static void set_text(json_t *o, const char *name, const char *value)
{
    if (value) {
        json_object_set_new(o, name, json_string(value));
    }
}

/* Where it was opened by more than a header may say, its name tells that
 * (rbd_check_name). */
static void rbd_reference(const struct node *n, json_t *o)
{
    const struct rbd_state *s = n->state;
    const struct rbd_name *name = &s->options.target.name;

    set_text(o, "pool", name->pool);
    set_text(o, "namespace", name->name_space);
    set_text(o, "image", name->image);
    set_text(o, "snapshot", name->snapshot);
    set_text(o, "user", name->user);
}

static int rbd_check_name(const char *name, GError **err)
{
    return rbd_name_check_header(name, err);
}

static void rbd_describe(struct node *n)
{
    const struct rbd_state *s = n->state;

    g_free(n->filename);
    n->filename = rbd_name_format(&s->options.target.name);
}

/* --- what blocks, on threads --- */

/* What a thread needs to open, close, check or lock an image. */
struct work {
    struct rbd_target *target; /* NULL where @image is enough */
    bool writable;
    unsigned timeout_s;
    struct rbd_image *image; /* referenced, or NULL */
    GError *err;
};

static void work_free(void *arg)
{
    struct work *w = arg;

    if (w->image) {
        rbd_image_unref(w->image);
    }
    rbd_target_free(w->target);
    g_clear_error(&w->err);
    g_free(w);
}

static int64_t work_open(void *arg)
{
    struct work *w = arg;

    w->image = rbd_image_open(w->target, w->writable, w->timeout_s, &w->err);
    return w->image ? 0 : -w->err->code;
}

static int64_t work_close(void *arg)
{
    struct work *w = arg;

    rbd_image_unref(w->image);
    w->image = NULL;
    return 0;
}

static int64_t work_lock(void *arg)
{
    struct work *w = arg;

    return rbd_image_lock(w->image, &w->err);
}

static int64_t work_unlock(void *arg)
{
    struct work *w = arg;

    rbd_image_unlock(w->image);
    return 0;
}

static int64_t work_check(void *arg)
{
    struct work *w = arg;

    return rbd_image_check(w->image, &w->target->name, &w->err);
}

/* Run @fn on @w, whose end this is unless *@ret_work. */
static CO_FN int rbd_work_co_run(struct node *n, int64_t (*fn)(void *arg),
                                 struct work *w, enum rbd_op_kind kind,
                                 uint64_t timeout_ns, struct work **ret_work,
                                 GError **err)
{
    struct rbd_state *s = n->state;
    bool abandoned;
    int r = (int)rbd_co_call(&s->waits, kind, timeout_ns, fn, work_free, w,
                             &abandoned);

    if (abandoned) {
        *ret_work = NULL;
        return err_set_errno(err, -r, "the cluster does not answer");
    }
    if (r < 0 && w->err) {
        g_propagate_error(err, g_steal_pointer(&w->err));
    } else if (r < 0) {
        err_set_errno(err, -r, "the cluster cannot be asked");
    }
    *ret_work = w;
    return r;
}

/* Run @fn on image @im, of which this has a reference. */
static CO_FN int image_co_run(struct node *n, int64_t (*fn)(void *arg),
                              struct rbd_image *im, enum rbd_op_kind kind,
                              uint64_t timeout_ns, GError **err)
{
    struct rbd_state *s = n->state;
    struct work *w = g_new0(struct work, 1);
    int r;

    w->image = im;
    w->target = rbd_target_copy(&s->options.target);
    r = rbd_work_co_run(n, fn, w, kind, timeout_ns, &w, err);
    if (w) {
        work_free(w);
    }
    return r;
}

static CO_FN void image_co_close(struct node *n, struct rbd_image *im)
{
    (void)image_co_run(n, work_close, im, RBD_OP_OTHER, CLOSE_TIMEOUT_NS, NULL);
}

/* --- open and close --- */

static void rbd_hang_event(bool hanging, unsigned requests, void *arg)
{
    struct node *n = arg;
    const struct rbd_state *s = n->state;
    json_t *data = json_pack("{s:s,s:b,s:s,s:I}", "node-name", n->name,
                             "hanging", hanging, "action",
                             s->options.fail_on_hang ? "error" : "wait",
                             "requests", (json_int_t)requests);

    trace_rbd_hang(n->filename, hanging, requests);
    node_event(n, "BLOCK_NODE_HANG", data);
    json_decref(data);
}

static CO_FN int open_co_image(struct node *n, unsigned flags,
                               struct rbd_image **ret, GError **err)
{
    const struct rbd_state *s = n->state;
    struct work *w = g_new0(struct work, 1);
    uint64_t timeout_s = s->options.open_timeout_s;
    int r;

    w->target = rbd_target_copy(&s->options.target);
    w->writable = flags & NODE_RDWR;
    w->timeout_s = (unsigned)timeout_s;
    r = rbd_work_co_run(n, work_open, w, RBD_OP_OTHER,
                        timeout_s * NS_PER_S + OPEN_GRACE_NS, &w, err);
    if (r == 0) {
        *ret = g_steal_pointer(&w->image);
    }
    if (w) {
        work_free(w);
    }
    return r;
}

static CO_FN void rbd_co_close(struct node *n)
{
    struct rbd_state *s = n->state;

    if (s->image) {
        (void)rbd_io_co_settle_size(n);
        image_co_close(n, g_steal_pointer(&s->image));
    }
    rbd_waits_done(&s->waits);
    extents_clear(&s->extents);
    rbd_options_clear(&s->options);
}

static int check_writable(const struct rbd_name *name, unsigned flags,
                          GError **err)
{
    return (flags & NODE_RDWR) && name->snapshot
               ? err_set(err, EROFS, "rbd snapshots are read-only")
               : 0;
}

static CO_FN int rbd_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct rbd_state *s = n->state;
    int r;

    extents_init(&s->extents);
    rbd_waits_init(&s->waits);
    r = rbd_options_take(o, n->graph, &s->options, err);
    if (r == 0) {
        r = check_writable(&s->options.target.name, flags, err);
    }
    if (r == 0) {
        s->options.target.no_cache = flags & NODE_CACHE_DIRECT;
        s->writable = flags & NODE_RDWR;
        rbd_describe(n);
        r = open_co_image(n, flags, &s->image, err);
        if (r < 0) {
            err_prefix(err, "Could not open '%s'", n->filename);
        }
    }
    if (r < 0) {
        rbd_co_close(n);
        return r;
    }
    n->size = s->size = s->image->version.size;
    s->waits.hang_event = rbd_hang_event;
    s->waits.hang_arg = n;
    rbd_waits_set_hang(&s->waits, s->options.hang_timeout_ns,
                       s->options.fail_on_hang);
    trace_rbd_open(n->filename, n->size, s->image->features);
    return 0;
}

/* --- permissions --- */

static CO_FN int rbd_co_set_perms(struct node *n, unsigned perm,
                                  unsigned shared, GError **err)
{
    struct rbd_state *s = n->state;
    bool writes = perm & (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE);
    bool is_alone = writes && !(shared & PERM_WRITE);
    int r;

    s->perm = perm;
    s->shared = shared;
    if (!s->image || !s->writable || is_alone == s->image->has_lock) {
        return 0;
    }
    r = image_co_run(n, is_alone ? work_lock : work_unlock,
                     rbd_image_ref(s->image), RBD_OP_OTHER, LOCK_TIMEOUT_NS,
                     err);
    if (r < 0) {
        err_prefix(err, "Could not lock '%s'", n->filename);
    }
    return r;
}

/* Another handle, for reading or for writing; the old one has nothing under
 * way. */
static CO_FN int reopen_co_mode(struct node *n, unsigned flags, GError **err)
{
    struct rbd_state *s = n->state;
    struct rbd_image *is, *was = s->image;
    int r = check_writable(&s->options.target.name, flags, err);

    if (r == 0) {
        r = rbd_io_co_settle_size(n);
        if (r < 0) {
            return err_set_errno(err, -r, "Could not resize '%s'", n->filename);
        }
        r = open_co_image(n, flags, &is, err);
    }
    if (r < 0) {
        return r;
    }
    if (strcmp(is->version.id, was->version.id) ||
        is->version.size != s->size) {
        image_co_close(n, is);
        return err_set(err, ESTALE, "'%s' has changed", n->filename);
    }
    s->image = is;
    s->writable = flags & NODE_RDWR;
    image_co_close(n, was);
    extents_forget(&s->extents);
    s->extents.generation++;
    return rbd_co_set_perms(n, s->perm, s->shared, err);
}

static CO_FN int rbd_co_reopen(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    struct rbd_state *s = n->state;
    struct rbd_options is = {};
    g_autofree char *name = NULL;
    int r;

    if ((flags ^ n->flags) & NODE_RDWR) {
        return reopen_co_mode(n, flags, err); /* @o is empty */
    }
    r = rbd_options_take(o, n->graph, &is, err);
    if (r == 0) {
        name = rbd_name_format(&is.target.name);
        if (strcmp(name, n->filename)) {
            r = err_set(err, EINVAL, "Cannot change which image it is");
        }
    }
    if (r == 0) {
        s->options.fail_on_hang = is.fail_on_hang;
        s->options.hang_timeout_ns = is.hang_timeout_ns;
        rbd_waits_set_hang(&s->waits, is.hang_timeout_ns, is.fail_on_hang);
    }
    rbd_options_clear(&is);
    return r;
}

/* --- new images --- */

static int64_t work_create(void *arg)
{
    struct work *w = arg;

    return rbd_image_create(w->target, w->timeout_s, &w->err);
}

static int64_t work_remove(void *arg)
{
    struct work *w = arg;

    return rbd_image_remove(w->target, w->timeout_s, &w->err);
}

/* Without a node. */
static CO_FN int name_co_run(const char *name, int64_t (*fn)(void *arg),
                             GError **err)
{
    struct node n = {};
    struct rbd_state s = {};
    struct work *w = g_new0(struct work, 1);
    int r;

    w->target = g_new0(struct rbd_target, 1);
    w->timeout_s = OPEN_TIMEOUT_DEFAULT_S;
    n.state = &s;
    r = rbd_name_parse(name, &w->target->name, err);
    if (r == 0) {
        rbd_waits_init(&s.waits);
        r = rbd_work_co_run(&n, fn, w, RBD_OP_OTHER, 0, &w, err);
        rbd_waits_done(&s.waits);
    }
    if (w) {
        work_free(w);
    }
    return r;
}

static CO_FN int rbd_co_make(const char *name, GError **err)
{
    return name_co_run(name, work_create, err);
}

static CO_FN void rbd_co_unmake(const char *name)
{
    (void)name_co_run(name, work_remove, NULL);
}

/* --- the rest --- */

static CO_FN int rbd_co_check_identity(struct node *n, GError **err)
{
    struct rbd_state *s = n->state;
    int r = image_co_run(n, work_check, rbd_image_ref(s->image), RBD_OP_READ, 0,
                         err);

    if (r < 0) {
        err_prefix(err, "'%s' cannot be used any more", n->filename);
    }
    return r;
}

/* Of a snapshot: nothing else stays as it is. */
static char *rbd_node_version(struct node *n)
{
    const struct rbd_state *s = n->state;
    const struct rbd_image *im = s->image;

    return im->version.snap_id && *im->fsid && *im->version.id
               ? g_strdup_printf("rbd cluster %s pool %" PRId64
                                 " image %s snapshot %" PRIu64,
                                 im->fsid, im->pool_id, im->version.id,
                                 im->version.snap_id)
               : NULL;
}

static void rbd_limits(struct node *n, struct node_limits *l)
{
    l->max_transfer = TRANSFER_MAX;
}

static void rbd_interrupt(struct node *n)
{
    struct rbd_state *s = n->state;

    if (s->waits.lost) { /* NULL when it is closed */
        rbd_waits_interrupt(&s->waits);
    }
}

static void rbd_end_requests(struct node *n, int error)
{
    struct rbd_state *s = n->state;

    if (s->waits.lost) {
        rbd_waits_end(&s->waits, error, false);
    }
}

static void rbd_yank(struct node *n)
{
    struct rbd_state *s = n->state;

    if (s->waits.lost) {
        rbd_waits_end(&s->waits, -ECONNABORTED, true);
    }
}

static void rbd_set_hang(struct node *n, uint64_t timeout_ns, bool fail)
{
    struct rbd_state *s = n->state;

    s->options.hang_timeout_ns = timeout_ns;
    s->options.fail_on_hang = fail;
    rbd_waits_set_hang(&s->waits, timeout_ns, fail);
}

static const char *const rbd_name_prefixes[] = { "rbd:", NULL };

const struct node_driver rbd_driver = {
    .name = "rbd",
    .kind = NODE_PROTOCOL,
    .is_remote = true,
    .state_size = sizeof(struct rbd_state),
    .option_names = rbd_option_names,
    .reference_options = rbd_reference_options,
    .reference = rbd_reference,
    .name_prefixes = rbd_name_prefixes,
    .check_name = rbd_check_name,
    .co_make = rbd_co_make,
    .co_unmake = rbd_co_unmake,
    .co_open = rbd_co_open,
    .co_close = rbd_co_close,
    .co_reopen = rbd_co_reopen,
    .co_set_perms = rbd_co_set_perms,
    .co_check_identity = rbd_co_check_identity,
    .describe = rbd_describe,
    .version = rbd_node_version,
    .limits = rbd_limits,
    .co_preadv = rbd_io_co_preadv,
    .co_pwritev = rbd_io_co_pwritev,
    .co_zero = rbd_io_co_zero,
    .co_discard = rbd_io_co_discard,
    .co_flush = rbd_io_co_flush,
    .co_map = rbd_status_co_map,
    .co_truncate = rbd_io_co_truncate,
    .co_refresh_size = rbd_io_co_refresh_size,
    .interrupt = rbd_interrupt,
    .end_requests = rbd_end_requests,
    .yank = rbd_yank,
    .set_hang = rbd_set_hang,
};
