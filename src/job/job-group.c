/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs that end together; job.c says when. */
#include "job/job-int.h"

struct job_group *job_group_new(void)
{
    struct job_group *g = g_new0(struct job_group, 1);

    g->refs = 1;
    g->jobs = g_ptr_array_new();
    return g;
}

void job_group_unref(struct job_group *g)
{
    if (g && --g->refs == 0) {
        g_ptr_array_unref(g->jobs);
        g_free(g);
    }
}

void job_join(struct job *j, struct job_group *g)
{
    if (g) {
        g->refs++;
        g->members++;
        g_ptr_array_add(g->jobs, j);
        j->priv->group = g;
    }
}

void job_group_leave(struct job *j)
{
    struct job_group *g = g_steal_pointer(&j->priv->group);

    if (g) {
        g_ptr_array_remove(g->jobs, j);
        job_group_unref(g);
    }
}

void job_group_fail(struct job *j, void (*cancel)(struct job *other))
{
    struct job_group *g = j->priv->group;

    if (!g || g->failed) {
        return;
    }
    g->failed = true;
    for (unsigned i = 0; i < g->jobs->len; i++) {
        struct job *other = g_ptr_array_index(g->jobs, i);

        if (other != j && !other->cancelled) {
            cancel(other);
        }
    }
    job_group_wake(j);
}

CO_FN bool job_group_co_wait(struct job *j, unsigned *count)
{
    struct job_group *g = j->priv->group;

    ++*count;
    job_group_wake(j);
    j->busy = false;
    while (*count < g->members && !g->failed && !j->cancelled) {
        co_queue_co_wait(&g->changed);
    }
    j->busy = true;
    return !g->failed && !j->cancelled;
}

void job_group_wake(struct job *j)
{
    if (j->priv->group) {
        co_queue_wake_all(&j->priv->group->changed);
    }
}

void job_group_finalize(struct job *j)
{
    const struct job_group *g = j->priv->group;

    j->priv->finalize = true;
    for (unsigned i = 0; g && i < g->jobs->len; i++) {
        struct job *other = g_ptr_array_index(g->jobs, i);

        other->priv->finalize = true;
        co_queue_wake_all(&other->priv->wake);
    }
}
