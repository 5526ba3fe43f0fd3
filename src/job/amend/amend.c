/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Amending an image as a job: before qcow2 goes back to version 2 all of its
 * zero clusters change.  Requests wait meanwhile; whoever needs the node as it
 * is (another job, a reopen) is refused.
 *
 * It is no block job, as QEMU has it.
 */
#include "job/amend/amend.h"
#include "base/err.h"
#include "graph/image.h"

struct amend_job {
    struct job job;
    struct node *node; /* a reference */
    struct blocker *blocker;
    json_t *options;
};

static CO_FN int amend_co_run(struct job *j, GError **err)
{
    struct amend_job *a = (struct amend_job *)j;
    int r = node_co_amend(a->node, a->options, err);

    if (r == 0) {
        job_progress(j, j->len);
    }
    return r;
}

static CO_FN void amend_co_clean(struct job *j)
{
    struct amend_job *a = (struct amend_job *)j;

    node_unblock(a->blocker);
    node_co_unref(a->node);
    json_decref(a->options);
}

static const struct job_driver amend_driver = {
    .type = "amend",
    .job_size = sizeof(struct amend_job),
    .is_plain = true,
    .co_run = amend_co_run,
    .co_clean = amend_co_clean,
};

int amend_start(struct jobs *js, const struct amend_params *p,
                struct job **ret_job, GError **err)
{
    struct amend_job *a;
    struct job *job;
    int r = node_check_op(p->node, BLOCK_OP_CHANGE, err);

    if (r == 0) {
        r = job_new(js, &amend_driver, &p->job, &job, err);
    }
    if (r < 0) {
        return r;
    }
    a = (struct amend_job *)job;
    a->node = node_ref(p->node);
    a->blocker = node_block(
        p->node, ((1u << BLOCK_OP_COUNT) - 1) & ~(1u << BLOCK_OP_RESIZE),
        "block device is in use by block job: amend");
    a->options = json_incref(p->options);
    job->len = 1;
    *ret_job = job;
    job_start(job);
    return 0;
}
