/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See job/copy/copy-job.h. */
#include "job/copy/copy-job.h"
#include "graph/memory.h"
#include "graph/node.h"

CO_FN int job_co_copy(struct job *j, struct graph *g,
                      const struct copy_ops *ops, struct copy_params p)
{
    int ret;

    p.speed = j->speed;
    p.background = j->background;
    p.memory = graph_memory(g);
    j->copy = copy_new(graph_loop(g), ops, j, &p);
    ret = copy_co_run(j->copy);
    g_clear_pointer(&j->copy, copy_free);
    return ret;
}

CO_FN int job_copy_co_pause_point(void *arg)
{
    return job_co_pause_point(arg);
}

void job_copy_set_speed(struct job *j, uint64_t speed)
{
    if (j->copy) {
        copy_set_speed(j->copy, speed);
    }
}

void job_copy_kick(struct job *j)
{
    if (j->copy) {
        copy_kick(j->copy);
    }
}

enum job_bottleneck job_copy_held_by(const struct job *j)
{
    return j->copy ? copy_held_by(j->copy) : JOB_HELD_BY_SOURCE;
}
