/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockdev-backup and drive-backup: commands, and actions of transactions. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/commands/new-image.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "graph/bitmap.h"
#include "job/backup/backup.h"

#define SECOND_NS UINT64_C(1000000000)

static const char *const sync_names[] = {
    [BACKUP_FULL] = "full",
    [BACKUP_TOP] = "top",
    [BACKUP_NONE] = "none",
    [BACKUP_BITMAP] = "bitmap",
    NULL,
};
static const char *const mode_names[] = {
    [BACKUP_ON_SUCCESS] = "on-success",
    [BACKUP_NEVER] = "never",
    [BACKUP_ALWAYS] = "always",
    NULL,
};

/* Which of @names the schema let pass. */
static unsigned name_index(const char *name, const char *const *names)
{
    unsigned i = 0;

    while (strcmp(names[i], name) != 0) {
        i++;
        g_assert(names[i]);
    }
    return i;
}

/* --- what is copied --- */

static int take_sync(const json_t *args, struct backup_params *p, GError **err)
{
    const char *sync = arg_str(args, "sync");
    const char *mode = arg_str(args, "bitmap-mode");
    bool incremental = strcmp(sync, "incremental") == 0;

    p->bitmap = arg_str(args, "bitmap");
    if ((incremental || strcmp(sync, "bitmap") == 0) && !p->bitmap) {
        return err_set(err, EINVAL,
                       "must provide a valid bitmap name for '%s' sync mode",
                       sync);
    }
    if (incremental && mode && strcmp(mode, "on-success") != 0) {
        return err_set(err, EINVAL,
                       "Bitmap sync mode must be 'on-success' when using sync "
                       "mode 'incremental'");
    }
    p->sync = incremental ? BACKUP_BITMAP : name_index(sync, sync_names);
    /* Without a backing file the top image is the disk. */
    if (p->sync == BACKUP_TOP && !node_backing(node_skip_filters(p->node))) {
        p->sync = BACKUP_FULL;
    }
    p->bitmap_mode = mode ? name_index(mode, mode_names) : BACKUP_ON_SUCCESS;
    return 0;
}

/* The node from @n down through filters that has the bitmap. */
static struct node *find_bitmap_node(struct node *n, const char *name)
{
    while (n && bitmap_find(n, name, ~0u, NULL, NULL) < 0) {
        n = node_filtered(n);
    }
    return n;
}

static int check_bitmap(const json_t *args, const struct backup_params *p,
                        GError **err)
{
    const char *sync = arg_str(args, "sync");

    if (!p->bitmap_node) {
        return err_set(err, ENOENT, "Bitmap '%s' could not be found",
                       p->bitmap);
    }
    if (!arg_str(args, "bitmap-mode") && strcmp(sync, "incremental") != 0) {
        return err_set(err, EINVAL,
                       "Bitmap sync mode must be given when providing a "
                       "bitmap");
    }
    if (p->sync == BACKUP_NONE) {
        return err_set(err, EINVAL,
                       "sync mode 'none' does not produce meaningful bitmap "
                       "outputs");
    }
    if (p->bitmap_mode == BACKUP_NEVER && p->sync != BACKUP_BITMAP) {
        return err_set(err, EINVAL,
                       "Bitmap sync mode 'never' has no meaningful effect when "
                       "combined with sync mode '%s'",
                       sync);
    }
    return bitmap_find(p->bitmap_node, p->bitmap, BITMAP_MAY_BE_READ_ONLY, NULL,
                       err);
}

static int take_bitmap(const json_t *args, struct backup_params *p,
                       GError **err)
{
    if (p->bitmap) {
        p->bitmap_node = find_bitmap_node(p->node, p->bitmap);
        return check_bitmap(args, p, err);
    }
    return arg_str(args, "bitmap-mode")
               ? err_set(err, EINVAL,
                         "Cannot specify bitmap sync mode without a bitmap")
               : 0;
}

/* --- how --- */

static int take_perf(const json_t *args, struct backup_params *p, GError **err)
{
    const json_t *perf = json_object_get(args, "x-perf");
    int64_t workers = arg_int(perf, "max-workers", 64);
    int64_t chunk = arg_int(perf, "max-chunk", 0);

    if (workers < 1 || workers > INT32_MAX) {
        return err_set(err, EINVAL, "max-workers must be between 1 and %d",
                       INT32_MAX);
    }
    if (chunk < 0) {
        return err_set(err, EINVAL,
                       "max-chunk must be zero (which means no limit) or "
                       "positive");
    }
    p->max_workers = (uint32_t)workers;
    p->max_chunk = (uint64_t)chunk;
    return 0;
}

static int take_how(struct control *c, const json_t *args,
                    struct backup_params *p, GError **err)
{
    int ret;

    p->job = job_args_params(c, args);
    p->compress = arg_bool(args, "compress", false);
    p->break_snapshot = g_strcmp0(arg_str(args, "on-cbw-error"),
                                  "break-snapshot") == 0;
    p->timeout_ns = (uint64_t)arg_int(args, "cbw-timeout", 0) * SECOND_NS;
    p->filter_node_name = arg_str(args, "filter-node-name");
    p->on_source_error = job_args_on_error(args, "on-source-error");
    p->on_target_error = job_args_on_error(args, "on-target-error");
    ret = take_perf(args, p, err);
    if (ret == 0) {
        ret = job_args_speed(args, &p->job.speed, err);
    }
    return ret < 0 ? ret : job_args_limits(args, &p->job.limits, err);
}

/* --- the action --- */

struct backup_state {
    struct node *target;    /* referenced */
    struct job *job;        /* made and not started */
    struct new_image image; /* of drive-backup */
};

static CO_FN int blockdev_backup_co_prepare(struct action *a, GError **err)
{
    struct graph *g = a->control->graph;
    struct backup_state *s = a->state;
    struct node *n = node_find_any(g, arg_str(a->args, "device"), err);

    if (!n) {
        return -ENOENT;
    }
    a->disk = node_ref(n);
    n = node_find_any(g, arg_str(a->args, "target"), err);
    if (!n) {
        return -ENOENT;
    }
    s->target = node_ref(n);
    return 0;
}

static CO_FN int backup_action_co_do(struct action *a, GError **err)
{
    struct backup_state *s = a->state;
    struct backup_params p = {
        .node = a->disk,
        .target = s->target,
        .group = a->group,
    };
    int ret = take_sync(a->args, &p, err);

    if (ret == 0) {
        ret = take_bitmap(a->args, &p, err);
    }
    if (ret == 0) {
        ret = take_how(a->control, a->args, &p, err);
    }
    return ret < 0 ? ret : backup_co_create(a->control->jobs, &p, &s->job, err);
}

static CO_FN void backup_action_co_undo(struct action *a)
{
    struct backup_state *s = a->state;

    backup_co_drop(g_steal_pointer(&s->job));
}

static CO_FN void backup_action_co_commit(struct action *a)
{
    struct backup_state *s = a->state;

    job_start(s->job);
}

static CO_FN void backup_action_co_end(struct action *a, bool success)
{
    struct backup_state *s = a->state;

    if (s->target) {
        node_co_unref(s->target);
    }
    new_image_co_end(&s->image, success);
}

const struct action_type backup_action = {
    .name = "blockdev-backup",
    .state_size = sizeof(struct backup_state),
    .groups = true,
    .co_prepare = blockdev_backup_co_prepare,
    .co_do = backup_action_co_do,
    .co_undo = backup_action_co_undo,
    .co_commit = backup_action_co_commit,
    .co_end = backup_action_co_end,
};

/* --- drive-backup --- */

/* What a new target stands on: for sync top the image below the disk, for none
 * the disk itself; NULL: nothing. */
static struct node *target_base(const json_t *args, struct node *disk)
{
    const char *sync = arg_str(args, "sync");

    return strcmp(sync, "none") == 0  ? disk
           : strcmp(sync, "top") == 0 ? node_backing(disk)
                                      : NULL;
}

/* Make or open the target, on what it stands on. */
static CO_FN int target_co_get(const json_t *args, struct node *disk,
                               struct new_image *img, GError **err)
{
    struct node *base = target_base(args, disk);
    bool exists = g_strcmp0(arg_str(args, "mode"), "existing") == 0;
    struct new_image_spec spec = {
        .file = arg_str(args, "target"),
        .format = arg_str(args, "format"),
        .with_backing = exists && base != disk,
    };
    int r;

    if (exists) {
        r = new_image_co_open(disk, &spec, img, err);
    } else {
        spec.format = spec.format ? spec.format : node_driver_name(disk);
        r = new_image_co_make(disk, &spec, node_skip_filters(base), "target",
                              img, err);
    }
    if (r < 0 || !base || node_backing(img->node)) {
        return r;
    }
    return node_can(img->node, NODE_CAN_HAVE_BACKING)
               ? edge_co_attach(
                     img->node, base, "backing", PERM_CONSISTENT_READ,
                     PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, err)
               : 0;
}

static CO_FN int drive_backup_co_prepare(struct action *a, GError **err)
{
    struct backup_state *s = a->state;
    struct node *n = node_find_any(a->control->graph,
                                   arg_str(a->args, "device"), err);
    struct backup_params p = { .node = n };
    int ret = n ? 0 : -ENOENT;

    /* Before a file is made. */
    if (ret == 0) {
        ret = node_check_op(n, BLOCK_OP_BACKUP, err);
    }
    if (ret == 0) {
        ret = node_check_op(node_skip_filters(n), BLOCK_OP_BACKUP, err);
    }
    if (ret == 0) {
        ret = take_sync(a->args, &p, err);
    }
    if (ret == 0) {
        ret = take_how(a->control, a->args, &p, err);
    }
    if (ret < 0) {
        return ret;
    }
    a->disk = node_ref(n);
    ret = target_co_get(a->args, node_skip_filters(n), &s->image, err);
    s->target = ret == 0 ? node_ref(s->image.node) : NULL;
    return ret;
}

const struct action_type drive_backup_action = {
    .name = "drive-backup",
    .state_size = sizeof(struct backup_state),
    .groups = true,
    .co_prepare = drive_backup_co_prepare,
    .co_do = backup_action_co_do,
    .co_undo = backup_action_co_undo,
    .co_commit = backup_action_co_commit,
    .co_end = backup_action_co_end,
};

CO_FN int cmd_co_drive_backup(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    return action_co_run(c, &drive_backup_action, args, err);
}

CO_FN int cmd_co_blockdev_backup(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    return action_co_run(c, &backup_action, args, err);
}
