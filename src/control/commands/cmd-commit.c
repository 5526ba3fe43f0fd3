/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* block-commit: which images of a chain are merged. */
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/job-args.h"
#include "control/commands/job-start.h"
#include "control/control-int.h"
#include "job/commit/commit.h"
#include "job/mirror/mirror.h"

/* The name of @n as "top" may say it. */
static bool is_called(const struct node *n, const char *filename)
{
    return node_filename(n) && g_str_equal(node_filename(n), filename);
}

static int find_top(struct control *c, const json_t *args,
                    struct commit_params *p, GError **err)
{
    const char *top = arg_str(args, "top");
    const char *top_node = arg_str(args, "top-node");

    p->top = p->node;
    if (top && top_node) {
        return err_set(err, EINVAL,
                       "'top-node' and 'top' are mutually exclusive");
    }
    if (top_node) {
        p->top = node_find(c->graph, top_node, err);
        if (!p->top) {
            return -ENOENT;
        }
        if (!node_chain_contains(p->node, p->top)) {
            return err_set(err, EINVAL,
                           "'%s' is not in this backing file chain", top_node);
        }
    } else if (top && !is_called(node_image(p->node, NULL), top)) {
        p->top = node_chain_find_file(p->node, top);
        if (!p->top) {
            return err_set(err, ENOENT, "Top image file %s not found", top);
        }
    }
    p->top = node_image(p->top, NULL);
    return 0;
}

/* The image at the bottom of the chain from @n down; NULL: @n is alone. */
static struct node *lowest_below(struct node *n)
{
    struct node *lowest = NULL;

    while ((n = node_skip_filters(node_backing(n)))) {
        lowest = n;
    }
    return lowest;
}

static int find_base(struct control *c, const json_t *args,
                     struct commit_params *p, GError **err)
{
    const char *base = arg_str(args, "base");
    const char *base_node = arg_str(args, "base-node");

    if (base && base_node) {
        return err_set(err, EINVAL,
                       "'base-node' and 'base' are mutually exclusive");
    }
    if (base_node) {
        p->base = node_find(c->graph, base_node, err);
        if (!p->base) {
            return -ENOENT;
        }
        if (!node_chain_contains(p->top, p->base)) {
            return err_set(err, EINVAL,
                           "'%s' is not in this backing file chain", base_node);
        }
        p->base = node_skip_filters(p->base);
    } else if (base) {
        p->base = node_chain_find_file(p->top, base);
        if (!p->base) {
            return err_set(err, ENOENT, "Can't find '%s' in the backing chain",
                           base);
        }
    } else {
        p->base = lowest_below(p->top);
        if (!p->base) {
            return err_set(err, EINVAL, "There is no backing image");
        }
    }
    return p->top == p->base
               ? err_set(err, EINVAL, "cannot commit an image into itself")
               : 0;
}

/* Do guests write to what is merged? */
static bool is_active(const struct commit_params *p)
{
    unsigned perm, shared;

    node_cumulative_perms(p->top, &perm, &shared);
    return (perm & PERM_WRITE) || p->top == node_image(p->node, NULL);
}

/* A mirror into an image of the disk's own chain. */
static CO_FN int commit_co_start_active(struct control *c,
                                        const struct commit_params *p,
                                        GError **err)
{
    const struct mirror_params m = {
        .job = p->job,
        .is_commit = true,
        .node = p->top,
        .target = p->base,
        .bottom = node_overlay_of(p->top, p->base),
        .unmap = true,
        .filter_node_name = p->filter_node_name,
        .on_source_error = p->on_error,
        .on_target_error = p->on_error,
    };
    struct job *job;

    if (p->backing_file) {
        return err_set(err, EINVAL,
                       p->top == node_image(p->node, NULL)
                           ? "'backing-file' specified, but 'top' is the "
                             "active layer"
                           : "'backing-file' specified, but 'top' has a "
                             "writer on it");
    }
    return mirror_co_start(c->jobs, &m, &job, err);
}

CO_FN int commit_co_command(struct control *c, const struct job_start *s,
                            GError **err)
{
    const json_t *args = s->args;
    const char *device = arg_str(args, "device");
    struct commit_params p = {
        .job = job_args_params(c, args),
        .node = node_find_any(c->graph, device, NULL),
        .backing_file = arg_str(args, "backing-file"),
        .filter_node_name = arg_str(args, "filter-node-name"),
        .on_error = job_args_on_error(args, "on-error"),
    };
    struct job *job;
    int r;

    if (!p.node) {
        return err_set_class(err, ERR_DEVICE_NOT_FOUND, ENOENT,
                             "Device '%s' not found", device);
    }
    p.job.checkpoint = s->checkpoint;
    p.job.resumed = s->resumed;
    r = job_args_speed(args, &p.job.speed, err);
    if (r == 0) {
        r = job_args_limits(args, &p.job.limits, err);
    }
    if (r == 0) {
        r = find_top(c, args, &p, err);
    }
    if (r == 0) {
        r = find_base(c, args, &p, err);
    }
    if (r < 0) {
        /* An earlier daemon may have done it all but for its last record. */
        return r == -ENOENT && s->resumed ? -EALREADY : r;
    }
    return is_active(&p) ? commit_co_start_active(c, &p, err)
                         : commit_co_start(c->jobs, &p, &job, err);
}

CO_FN int cmd_co_block_commit(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    return job_start_co_run(c, "block-commit", commit_co_command, args, err);
}

/* --- the human monitor --- */

struct by_hand {
    struct control *c;
    json_t *args; /* of block-commit */
};

/* What is wrong in the names is for block-commit to say. */
static CO_FN void name_image_below_entry(void *arg)
{
    struct by_hand *h = arg;
    struct graph *graph = h->c->graph;
    struct commit_params p = {};
    struct node *below;

    if (graph) {
        p.node = node_find_any(graph, arg_str(h->args, "device"), NULL);
    }
    if (!p.node || find_top(h->c, h->args, &p, NULL) < 0) {
        return;
    }
    below = node_skip_filters(node_backing(p.top));
    if (below) {
        json_object_set_new(h->args, "base-node",
                            json_string(node_name(below)));
    }
}

/* As in QEMU the image goes into the next one below it, when block-commit
 * would go down to the lowest, which other disks may share. */
CO_FN int hmp_co_commit(struct control *c, const json_t *args, GString *out,
                        GError **err)
{
    struct by_hand h = { c, json_deep_copy(args) };
    json_t *ret = NULL;
    int r;

    if (!arg_str(args, "base")) {
        control_co_on_data(c, name_image_below_entry, &h);
    }
    r = control_co_execute(c, "block-commit", h.args, &ret, err);
    json_decref(h.args);
    json_decref(ret);
    return r;
}
