/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockdev-mirror; drive-mirror, which makes or opens the target; and
 * block-job-change. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/commands/job-start.h"
#include "control/commands/new-image.h"
#include "control/control-int.h"
#include "control/journal/journal.h"
#include "job/mirror/mirror.h"

/* Of bitmaps, as QEMU has them. */
#define GRANULARITY_MIN 512
#define GRANULARITY_MAX (64 << 20)

static int take_granularity(const json_t *args, struct mirror_params *p,
                            GError **err)
{
    int64_t g = arg_int(args, "granularity", 0);

    if (g != 0 && (g < GRANULARITY_MIN || g > GRANULARITY_MAX)) {
        return err_set(err, EINVAL,
                       "Parameter 'granularity' expects a value in range "
                       "[512B, 64MB]");
    }
    if (g & (g - 1)) {
        return err_set(err, EINVAL,
                       "Parameter 'granularity' expects a power of 2");
    }
    p->granularity = (uint32_t)g;
    return 0;
}

/* May the target take the place of @replaced, and nobody notice? */
static int check_replaced(const struct mirror_params *p,
                          const struct node *replaced, const char *device,
                          GError **err)
{
    struct node *n = p->node;

    while (n != replaced && node_filtered(n)) {
        n = node_filtered(n);
    }
    if (n != replaced) {
        return err_set(err, EINVAL,
                       "Cannot replace '%s' by a node mirrored from '%s', "
                       "because it cannot be guaranteed that doing so would "
                       "not lead to an abrupt change of visible data",
                       node_name(replaced), device);
    }
    return node_size(replaced) == node_size(p->target)
               ? 0
               : err_set(err, EINVAL,
                         "cannot replace image with a mirror image of "
                         "different size");
}

static int take_replaces(struct control *c, const json_t *args,
                         struct mirror_params *p, GError **err)
{
    const char *replaces = arg_str(args, "replaces");

    if (!replaces) {
        return 0;
    }
    p->replaces = node_find(c->graph, replaces, NULL);
    return p->replaces
               ? check_replaced(p, p->replaces, arg_str(args, "device"), err)
               : err_set(err, ENOENT, "Failed to find node with node-name='%s'",
                         replaces);
}

/* What is copied; @p->node is known. */
static void mirror_take_sync(const json_t *args, struct mirror_params *p)
{
    const char *sync = arg_str(args, "sync");

    p->only_new = strcmp(sync, "none") == 0;
    /* Without a backing file the top image is the disk. */
    if (strcmp(sync, "top") == 0 && node_backing(node_skip_filters(p->node))) {
        p->bottom = node_skip_filters(p->node);
    }
}

/* What does not depend on the nodes. */
static int take_plain(struct control *c, const struct job_start *s,
                      struct mirror_params *p, GError **err)
{
    const json_t *args = s->args;
    int64_t buf_size = arg_int(args, "buf-size", 0);
    const char *copy_mode = arg_str(args, "copy-mode");
    int r;

    *p = (struct mirror_params) {
        .job = job_args_params(c, args),
        .unmap = arg_bool(args, "unmap", true),
        .target_is_zero = arg_bool(args, "target-is-zero", false),
        .write_blocking = g_strcmp0(copy_mode, "write-blocking") == 0,
        .filter_node_name = arg_str(args, "filter-node-name"),
        .on_source_error = job_args_on_error(args, "on-source-error"),
        .on_target_error = job_args_on_error(args, "on-target-error"),
    };
    p->job.checkpoint = s->checkpoint;
    p->job.resumed = s->resumed;
    r = job_args_speed(args, &p->job.speed, err);
    if (r == 0) {
        r = job_args_limits(args, &p->job.limits, err);
    }
    if (r == 0 && buf_size < 0) {
        r = err_set(err, EINVAL,
                    "Parameter 'buf-size' expects a non-negative value");
    }
    p->buf_size = (uint64_t)buf_size;
    return r == 0 ? take_granularity(args, p, err) : r;
}

CO_FN int mirror_co_command(struct control *c, const struct job_start *s,
                            GError **err)
{
    const json_t *args = s->args;
    struct mirror_params p;
    struct job *job;
    int r = take_plain(c, s, &p, err);

    if (r < 0) {
        return r;
    }
    p.node = node_find_any(c->graph, arg_str(args, "device"), err);
    if (!p.node) {
        return -ENOENT;
    }
    p.target = node_find_any(c->graph, arg_str(args, "target"), err);
    if (!p.target) {
        return -ENOENT;
    }
    mirror_take_sync(args, &p);
    r = take_replaces(c, args, &p, err);
    return r < 0 ? r : mirror_co_start(c->jobs, &p, &job, err);
}

/* What was written since a mirror of sync none began is not known after a
 * crash. */
static CO_FN int mirror_co_record(struct control *c, const char *command,
                                  job_co_start_fn *co_begin, const json_t *args,
                                  GError **err)
{
    const struct job_start s = { .args = args };

    return g_str_equal(arg_str(args, "sync"), "none")
               ? co_begin(c, &s, err)
               : job_start_co_run(c, command, co_begin, args, err);
}

CO_FN int cmd_co_blockdev_mirror(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    return mirror_co_record(c, "blockdev-mirror", mirror_co_command, args, err);
}

/* --- drive-mirror --- */

/* The disk that is copied, if nothing is in the way of that. */
static int take_drive(struct control *c, const json_t *args,
                      struct mirror_params *p, GError **err)
{
    int r;

    p->node = node_find_any(c->graph, arg_str(args, "device"), err);
    if (!p->node) {
        return -ENOENT;
    }
    /* Before a file is made. */
    r = node_check_op(p->node, BLOCK_OP_MIRROR, err);
    if (r == 0) {
        r = node_check_op(node_skip_filters(p->node), BLOCK_OP_MIRROR, err);
    }
    if (r == 0 && arg_str(args, "replaces") && !arg_str(args, "node-name")) {
        r = err_set(err, EINVAL,
                    "a node-name must be provided when replacing a named node "
                    "of the graph");
    }
    return r;
}

/* What the target stands on in the end: the image below the disk, with sync
 * top; the disk's own, with sync none; NULL: nothing. */
static struct node *mirror_target_base(const struct mirror_params *p)
{
    struct node *source = node_skip_filters(p->node);

    return p->only_new ? source : p->bottom ? node_backing(source) : NULL;
}

/* The target of sync top stands on the base from the beginning; that of sync
 * none cannot stand on a disk that guests write to. */
static CO_FN int target_co_put_on_base(const struct mirror_params *p,
                                       struct node *target, GError **err)
{
    return p->only_new || node_backing(target)
               ? 0
               : edge_co_attach(target, mirror_target_base(p), "backing",
                                PERM_CONSISTENT_READ,
                                PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                                err);
}

/* Make or open the target, with what it stands on. */
static CO_FN int mirror_target_co_get(const struct job_start *s,
                                      struct mirror_params *p,
                                      struct new_image *img, GError **err)
{
    const json_t *args = s->args;
    struct node *disk = node_skip_filters(p->node),
                *base = mirror_target_base(p);
    /* What an earlier daemon made is there by now. */
    bool make = g_strcmp0(arg_str(args, "mode"), "existing") != 0;
    bool exists = s->resumed || !make;
    struct new_image_spec spec = {
        .file = arg_str(args, "target"),
        .format = arg_str(args, "format"),
        .node_name = arg_str(args, "node-name"),
        .with_backing = exists && p->bottom,
    };
    int r;

    if (make && !spec.format) {
        spec.format = node_driver_name(disk);
    }
    if (exists) {
        r = new_image_co_open(disk, &spec, img, err);
    } else {
        r = new_image_co_make(disk, &spec, node_skip_filters(base), "target",
                              img, err);
        p->target_is_zero |= img->is_zero;
    }
    p->source_below = p->only_new && r == 0 &&
                      node_can(img->node, NODE_CAN_HAVE_BACKING);
    return r < 0 || exists || !base ? r
                                    : target_co_put_on_base(p, img->node, err);
}

CO_FN int drive_mirror_co_command(struct control *c, const struct job_start *s,
                                  GError **err)
{
    const json_t *args = s->args;
    struct new_image img = { 0 };
    struct mirror_params p;
    struct job *job;
    int r = take_plain(c, s, &p, err);

    if (r == 0) {
        r = take_drive(c, args, &p, err);
    }
    if (r < 0) {
        return r;
    }
    mirror_take_sync(args, &p);
    node_ref(p.node);
    r = mirror_target_co_get(s, &p, &img, err);
    p.target = img.node;
    if (r == 0) {
        r = take_replaces(c, args, &p, err);
    }
    if (r == 0) {
        r = mirror_co_start(c->jobs, &p, &job, err);
    }
    new_image_co_end(&img, r == 0);
    node_co_unref(p.node);
    return r;
}

CO_FN int cmd_co_drive_mirror(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    return job_start_co_run(c, "drive-mirror", drive_mirror_co_command, args,
                            err);
}

CO_FN int cmd_co_block_job_change(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id"), *mode = arg_str(args, "copy-mode");
    struct job *j = jobs_find(c->jobs, id);
    json_t *changes;
    int r;

    if (!j) {
        return err_set_class(err, ERR_DEVICE_NOT_ACTIVE, ENOENT,
                             "Block job '%s' not found", id);
    }
    r = job_user_set_copy_mode(j, arg_str(args, "type"),
                               g_str_equal(mode, "write-blocking"), err);
    if (r == 0) {
        changes = json_pack("{s:s}", "copy-mode", mode);
        journal_co_change(c->journal, id, changes);
        json_decref(changes);
    }
    return r;
}
