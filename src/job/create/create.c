/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writing a new image as a job: preallocation and storage that is far away may
 * take their time.
 *
 * It is no block job: it works on no device, so only the job-* commands and
 * query-jobs know it, as QEMU has it.
 */
#include "job/create/create.h"
#include "base/err.h"
#include "graph/image.h"

struct create_job {
    struct job job;
    struct graph *graph;
    const struct node_driver *drv;
    json_t *options, *storage;
    char *path;
};

static CO_FN int create_co_open_storage(struct create_job *c,
                                        struct node **ret_node, GError **err)
{
    const char *name = json_string_value(c->storage);

    if (!name) {
        return node_co_open(c->graph, c->storage, NODE_RDWR, ret_node, err);
    }
    *ret_node = node_find_any(c->graph, name, err);
    if (!*ret_node) {
        return -ENOENT;
    }
    node_ref(*ret_node);
    return 0;
}

static CO_FN int create_co_into_node(struct create_job *c, GError **err)
{
    struct node *storage;
    int r = create_co_open_storage(c, &storage, err);

    if (r == 0) {
        r = image_co_create_in(storage, c->drv, c->options, err);
        node_co_unref(storage);
    }
    return r;
}

static CO_FN int create_co_run(struct job *j, GError **err)
{
    struct create_job *c = (struct create_job *)j;
    int r = c->path
                ? image_co_create(c->graph, c->drv, c->path, c->options, err)
                : create_co_into_node(c, err);

    if (r == 0) {
        job_progress(j, j->len);
    }
    return r;
}

static CO_FN void create_co_clean(struct job *j)
{
    struct create_job *c = (struct create_job *)j;

    json_decref(c->options);
    json_decref(c->storage);
    g_free(c->path);
}

static const struct job_driver create_driver = {
    .type = "create",
    .job_size = sizeof(struct create_job),
    .is_plain = true,
    .co_run = create_co_run,
    .co_clean = create_co_clean,
};

int create_start(struct jobs *js, const struct create_params *p,
                 struct job **ret_job, GError **err)
{
    struct create_job *c;
    struct job *job;
    int r = job_new(js, &create_driver, &p->job, &job, err);

    if (r < 0) {
        return r;
    }
    c = (struct create_job *)job;
    c->graph = p->graph;
    c->drv = p->drv;
    c->options = json_incref(p->options);
    c->storage = json_incref(p->storage);
    c->path = g_strdup(p->path);
    job->len = 1;
    *ret_job = job;
    job_start(job);
    return 0;
}
