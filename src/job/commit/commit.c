/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* block-commit on images that no guest writes to: the job. */
#include "job/commit/commit.h"
#include "base/err.h"
#include "graph/io.h"
#include "job/commit/commit-chain.h"
#include "job/copy/checkpoint.h"
#include "job/copy/copy-job.h"
#include "job/pivot.h"
#include "job/result.h"

struct commit_job {
    struct job job; /* first */
    struct graph *graph;
    struct commit_chain chain;
    char *backing_file;
    enum on_error on_error;
    int ignored; /* first error that was passed over, -errno */
    struct checkpoint_keeper keeper;
};

/* --- what need not be copied again --- */

static bool commit_is_same(void *arg, uint64_t off, uint64_t len)
{
    const struct commit_job *c = arg;

    return off + len <= c->job.offset && !c->ignored;
}

static CO_FN int commit_co_make_durable(void *arg)
{
    struct commit_job *c = arg;

    return backend_co_flush(c->chain.base_backend);
}

static CO_FN int commit_co_open_checkpoint(struct commit_job *c,
                                           const struct commit_params *p,
                                           GError **err)
{
    g_autoptr(GPtrArray) images = g_ptr_array_new();
    struct node *end = node_skip_filters(node_backing(p->base));
    int ret;

    if (!p->job.checkpoint) {
        return 0;
    }
    for (struct node *n = p->top; n && n != end;
         n = node_skip_filters(node_backing(n))) {
        g_ptr_array_add(images, n);
    }
    c->keeper.choice = (struct checkpoint_choice) { commit_is_same, c };
    c->keeper.co_flush = commit_co_make_durable;
    ret = checkpoint_co_open(p->job.checkpoint, node_size(p->top),
                             (struct node *const *)images->pdata, images->len,
                             p->job.resumed, &c->keeper.cp, err);
    if (ret < 0) {
        c->keeper.cp = NULL;
    } else if (!checkpoint_can_resume(c->keeper.cp)) {
        g_clear_pointer(&c->keeper.cp, checkpoint_co_close);
    }
    return ret;
}

/* --- the copy engine's view --- */

static CO_FN int commit_co_scan(void *arg, uint64_t off, uint64_t max,
                                bool *ret_need, bool *ret_zero,
                                uint64_t *ret_len)
{
    struct commit_job *c = arg;

    uint64_t size = node_size(c->chain.top);

    /* What is behind the end of the top is made zero again. */
    if (c->keeper.cp && off < size &&
        !checkpoint_run(c->keeper.cp, off, MIN(max, size - off), &max)) {
        *ret_need = *ret_zero = false;
        *ret_len = max;
        return 0;
    }
    return commit_chain_co_scan(&c->chain, off, max, ret_need, ret_zero,
                                ret_len);
}

static CO_FN int commit_co_copy(void *arg, uint64_t off, uint64_t len,
                                bool zero, struct copy_result *res)
{
    struct commit_job *c = arg;

    return commit_chain_co_copy(&c->chain, off, len, zero, res);
}

static void commit_progress(void *arg, uint64_t offset)
{
    struct commit_job *c = arg;

    job_progress(&c->job, offset);
}

static CO_FN int commit_co_error(void *arg, uint64_t off, bool is_read,
                                 int errnum)
{
    struct commit_job *c = arg;
    int ret;

    /* Of those that are ignored the first is what the job fails with. */
    if (!c->ignored) {
        job_set_fault(&c->job, is_read ? c->chain.top : c->chain.base, off,
                      is_read, errnum);
    }
    ret = job_apply_policy(&c->job, c->on_error, is_read, errnum);
    if (ret == 0 && !c->ignored) {
        c->ignored = -errnum;
    }
    return ret;
}

static const struct copy_ops commit_copy_ops = {
    .co_scan = commit_co_scan,
    .co_copy = commit_co_copy,
    .progress = commit_progress,
    .co_error = commit_co_error,
    .co_pause_point = job_copy_co_pause_point,
};

/* --- the job --- */

static CO_FN int commit_co_run(struct job *j, GError **err)
{
    struct commit_job *c = (struct commit_job *)j;
    struct copy_params params = {
        .end = j->len,
        .cluster = node_get_limits(c->chain.base)->cluster_size,
        .is_far = node_is_remote(c->chain.base) || node_is_remote(c->chain.top),
    };
    int ret = job_co_pause_point(j);

    if (ret == 0) {
        ret = commit_chain_co_grow(&c->chain, err);
    }
    if (ret < 0) {
        return ret;
    }
    ret = job_co_copy(&c->job, c->graph, &commit_copy_ops, params);
    /* What was passed over must never lose the image that has it (S7). */
    return ret < 0 ? ret : c->ignored;
}

static CO_FN int commit_co_prepare(struct job *j, GError **err)
{
    struct commit_job *c = (struct commit_job *)j;

    return commit_chain_co_pivot(&c->chain, c->backing_file, err);
}

static CO_FN void commit_co_clean(struct job *j)
{
    struct commit_job *c = (struct commit_job *)j;

    checkpoint_keeper_co_stop(&c->keeper,
                              c->chain.top && job_ends_with_daemon(j));
    commit_chain_co_release(&c->chain);
    g_clear_pointer(&c->backing_file, g_free);
}

static void commit_let_go(struct job *j)
{
    struct commit_job *c = (struct commit_job *)j;

    commit_chain_let_go(&c->chain);
}

static const struct job_driver commit_driver = {
    .type = "commit",
    .job_size = sizeof(struct commit_job),
    .co_run = commit_co_run,
    .co_prepare = commit_co_prepare,
    .co_clean = commit_co_clean,
    .set_speed = job_copy_set_speed,
    .held_by = job_copy_held_by,
    .kick = job_copy_kick,
    .let_go = commit_let_go,
};

/* --- start --- */

static CO_FN int commit_co_check(const struct commit_params *p,
                                 struct node *overlay, GError **err)
{
    const struct pivot pivot = { overlay, node_overlay_of(p->top, p->base) };
    struct node *end = node_chain_next(p->base);
    int ret;

    for (struct node *n = overlay; n && n != end; n = node_chain_next(n)) {
        ret = node_check_op(n, BLOCK_OP_COMMIT, err);
        if (ret < 0) {
            return ret;
        }
    }
    ret = chain_check_no_other_overlay(overlay, p->base, err);
    return ret < 0 ? ret : pivot_co_check_name(&pivot, p->backing_file, err);
}

int commit_co_start(struct jobs *js, const struct commit_params *p,
                    struct job **ret_job, GError **err)
{
    struct node *overlay = node_overlay_of(p->node, p->top);
    g_autofree char *by = NULL;
    struct commit_job *c;
    struct job *j;
    int ret = commit_co_check(p, overlay, err);

    if (ret < 0) {
        return ret;
    }
    ret = job_new(js, &commit_driver, &p->job, &j, err);
    if (ret < 0) {
        return ret;
    }
    c = (struct commit_job *)j;
    c->graph = node_graph(p->top);
    c->on_error = p->on_error;
    c->backing_file = g_strdup(p->backing_file);
    by = g_strdup_printf("commit job '%s'", j->id);
    ret = commit_co_open_checkpoint(c, p, err);
    if (ret == 0) {
        ret = commit_chain_co_hold(&c->chain, overlay, p->top, p->base,
                                   p->filter_node_name, by, err);
    }
    if (ret < 0) {
        commit_co_clean(j);
        job_drop(j);
        return ret;
    }
    j->len = commit_chain_len(&c->chain);
    j->background = background_new(c->graph, &j->limits);
    background_join_chain(j->background, p->top, node_chain_next(p->base));
    checkpoint_keeper_start(&c->keeper, graph_loop(c->graph));
    job_start(j);
    *ret_job = j;
    return 0;
}
