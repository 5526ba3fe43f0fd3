/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockdev-mirror. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/control-int.h"
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

static int take_nodes(struct control *c, const json_t *args,
                      struct mirror_params *p, GError **err)
{
    const char *sync = arg_str(args, "sync");
    const char *replaces = arg_str(args, "replaces");

    p->node = node_find_any(c->graph, arg_str(args, "device"), err);
    if (!p->node) {
        return -ENOENT;
    }
    p->target = node_find_any(c->graph, arg_str(args, "target"), err);
    if (!p->target) {
        return -ENOENT;
    }
    if (replaces) {
        p->replaces = node_find(c->graph, replaces, NULL);
        if (!p->replaces) {
            return err_set(err, ENOENT,
                           "Failed to find node with node-name='%s'", replaces);
        }
        if (p->replaces->size != p->target->size) {
            return err_set(err, EINVAL,
                           "cannot replace image with a mirror image of "
                           "different size");
        }
    }
    p->only_new = strcmp(sync, "none") == 0;
    /* Without a backing file the top image is the disk. */
    if (strcmp(sync, "top") == 0 && node_backing(node_skip_filters(p->node))) {
        p->bottom = node_skip_filters(p->node);
    }
    return 0;
}

CO_FN int cmd_co_blockdev_mirror(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    int64_t buf_size = arg_int(args, "buf-size", 0);
    const char *copy_mode = arg_str(args, "copy-mode");
    struct mirror_params p = {
        .job = job_args_params(c, args),
        .unmap = true,
        .target_is_zero = arg_bool(args, "target-is-zero", false),
        .write_blocking = g_strcmp0(copy_mode, "write-blocking") == 0,
        .filter_node_name = arg_str(args, "filter-node-name"),
        .on_source_error = job_args_on_error(args, "on-source-error"),
        .on_target_error = job_args_on_error(args, "on-target-error"),
    };
    struct job *job;
    int r = job_args_speed(args, &p.job.speed, err);

    if (r == 0) {
        r = job_args_limits(args, &p.job.limits, err);
    }
    if (r == 0 && buf_size < 0) {
        r = err_set(err, EINVAL,
                    "Parameter 'buf-size' expects a non-negative value");
    }
    p.buf_size = (uint64_t)buf_size;
    if (r == 0) {
        r = take_granularity(args, &p, err);
    }
    if (r == 0) {
        r = take_nodes(c, args, &p, err);
    }
    return r < 0 ? r : mirror_co_start(c->jobs, &p, &job, err);
}
