/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs on the disk of a guest, and disks that take its place. */
#include "guest.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/overlay.h"
#include "job/backup/backup.h"
#include "job/commit/commit.h"
#include "job/mirror/mirror.h"
#include "job/stream/stream.h"
#include "loop/loop.h"

static CO_FN void job_wait_entry(void *arg)
{
    struct guest *g = arg;
    struct job *j = jobs_find(world.jobs, "j");

    if (j) {
        job_co_wait_concluded(j);
    }
    co_latch_done(&g->jobs);
}

int guest_co_stream(struct guest *g, bool wait, struct node *base)
{
    struct stream_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .node = backend_node(g->u),
        .base = base,
    };
    struct job *j;
    int ret = stream_co_start(world.jobs, &p, &j, NULL);

    if (ret < 0) {
        return ret;
    }
    if (wait) {
        job_co_wait_concluded(j);
    } else {
        co_latch_add(&g->jobs);
        co_start(world.loop, job_wait_entry, g);
    }
    return 0;
}

/* What is below the middle of the chain, or NULL. */
static struct node *guest_base(struct guest *g)
{
    struct node *n = node_backing(node_skip_filters(backend_node(g->u)));

    n = n ? node_backing(node_skip_filters(n)) : NULL;
    return n ? node_skip_filters(n) : NULL;
}

int guest_co_stream_to(struct guest *g)
{
    struct node *base = guest_base(g);
    uint64_t before = world.job_done;
    int ret;

    if (!base) {
        return -EINVAL;
    }
    world.job_done = 0;
    ret = guest_co_stream(g, true, base);
    if (ret == 0 && world.job_done) {
        g->o->mid_gone = world.job_done;
        cover(COVER_STREAM_TO);
    }
    world.job_done = before;
    return ret;
}

int guest_co_commit(struct guest *g)
{
    struct node *top = node_skip_filters(backend_node(g->u));
    struct commit_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .node = top,
        .top = node_skip_filters(node_backing(top)),
        .base = guest_base(g),
    };
    uint64_t before = world.job_done;
    struct job *j;
    int ret = p.base ? 0 : -EINVAL;

    world.job_done = 0;
    if (ret == 0) {
        ret = commit_co_start(world.jobs, &p, &j, NULL);
    }
    if (ret == 0) {
        job_co_wait_concluded(j);
        if (world.job_done) {
            g->o->mid_gone = world.job_done;
            cover(COVER_COMMIT);
        }
    }
    world.job_done = before;
    return ret;
}

/* Can the base be the disk? Then it has the size of the disk. */
static bool can_move(struct node *base)
{
    const struct crash_config *c = world.config;

    return base && !c->mid && !c->bitmap && !world.over &&
           c->base_size <= c->size;
}

/* Can "/over" be? One file of the same format then says it all. */
static bool can_overlay(void)
{
    const struct crash_config *c = world.config;

    return c->format != &format_cow && !c->data_file && !c->bitmap &&
           !world.over && !world.moved;
}

int guest_co_merge(struct guest *g, bool stay)
{
    struct node *top = node_skip_filters(backend_node(g->u));
    struct mirror_params p = {
        .job = { .id = "j", .auto_finalize = true, .auto_dismiss = true },
        .is_commit = true,
        .node = top,
        .target = node_skip_filters(node_backing(top)),
        .bottom = top,
        .unmap = true,
    };
    uint64_t before = world.job_done;
    struct job *j;
    int ret = can_move(p.target) ? 0 : -EINVAL;

    world.job_done = 0;
    if (ret == 0) {
        ret = mirror_co_start(world.jobs, &p, &j, NULL);
    }
    while (ret == 0 && (j = jobs_find(world.jobs, "j")) &&
           j->state != JOB_READY) {
        co_sleep(100000);
    }
    if (ret == 0 && j) {
        ret = stay ? job_user_cancel(j, false, NULL)
                   : job_user_co_complete(j, NULL);
        job_co_wait_concluded(j);
    }
    if (ret == 0 && world.job_done) {
        cover(stay ? COVER_MERGE : COVER_MOVE);
        world.moved = !stay;
        g->o->moved = stay ? 0 : world.job_done;
    }
    world.job_done = before;
    return ret;
}

int guest_co_overlay(struct guest *g)
{
    struct overlay_step s = { node_skip_filters(backend_node(g->u)), NULL };
    json_t *o = json_pack("{s:I, s:s, s:s}", "size", (json_int_t)s.disk->size,
                          "backing_file", "/top", "backing_fmt",
                          node_driver_name(s.disk));
    int ret = can_overlay() ? 0 : -EINVAL;

    if (ret == 0) {
        ret = image_co_create(world.graph, s.disk->drv, "/over", o, NULL);
    }
    json_decref(o);
    if (ret == 0) {
        o = world_over_options(s.disk);
        ret = node_co_open(world.graph, o, NODE_RDWR, &s.overlay, NULL);
        json_decref(o);
    }
    if (ret == 0) {
        node_ref(s.disk);
        overlays_co_prepare(&s, 1);
        ret = overlays_co_put(&s, 1, NULL);
        if (ret == 0) {
            overlays_co_finish(&s, 1);
        }
        node_co_unref(s.overlay);
        node_co_unref(s.disk);
    }
    if (ret == 0) {
        cover(COVER_OVERLAY);
        world.over = true;
        g->o->over = sim_mark(world.sim, "overlay", 0);
    }
    return ret;
}

int guest_co_backup(struct guest *g)
{
    struct node *disk = node_skip_filters(backend_node(g->u));
    struct backup_params p = {
        .job = { .id = BACKUP_JOB,
                 .auto_finalize = true,
                 .auto_dismiss = true },
        .node = disk,
        .sync = BACKUP_BITMAP,
        .bitmap = "b",
        .bitmap_node = disk,
    };
    json_t *o = json_pack("{s:s, s:{s:s, s:s}}", "driver", "raw", "file",
                          "driver", "file", "filename", "/copy");
    struct job *j;
    int ret = g->o->config->bitmap
                  ? node_co_open(world.graph, o, NODE_RDWR, &p.target, NULL)
                  : -EINVAL;

    json_decref(o);
    if (ret < 0) {
        return ret;
    }
    ret = backup_co_create(world.jobs, &p, &j, NULL);
    if (ret == 0) {
        job_start(j);
        job_co_wait_concluded(j);
    }
    node_co_unref(p.target);
    return ret;
}

int guest_co_cancel(struct guest *g, struct op *op)
{
    struct job *j = jobs_find(world.jobs, "j");
    int ret = 0;

    if (!j) {
        ret = guest_co_stream(g, false, NULL);
        co_sleep(g_rand_int_range(g->rnd, 0, 3000) * UINT64_C(1000));
        j = jobs_find(world.jobs, "j");
    }
    if (ret == 0 && j) {
        world.job_cancelled = false;
        job_user_cancel(j, false, NULL);
        co_latch_co_wait(&g->jobs);
        if (world.job_cancelled) {
            cover(COVER_CANCEL);
        }
    }
    return ret;
}
