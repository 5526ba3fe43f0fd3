/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The simulated machine that images are on. */
#include "crash.h"
#include <string.h>
#include "filter/filter.h"
#include "filter/throttle/throttle.h"
#include "format/format.h"
#include "graph/graph-int.h"
#include "guest.h"
#include "job/job.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/storage.h"

struct world world;

static const struct node_driver *const drivers[] = {
    &file_driver,         &raw_driver,
    &qed_driver,          &qcow2_driver,
    &cow_driver,          &commit_top_driver,
    &copy_on_read_driver, &throttle_driver,
    &mirror_top_driver,   &copy_before_write_driver,
    &far_driver,          NULL
};

struct run {
    void (*fn)(void *arg);
    void *arg;
};

static bool is_backup(const json_t *data)
{
    return g_strcmp0(json_string_value(json_object_get(data, "device")),
                     BACKUP_JOB) == 0;
}

static void on_event(const char *name, json_t *data, void *arg)
{
    if (is_backup(data)) {
        if (g_str_equal(name, "BLOCK_JOB_COMPLETED") &&
            !json_object_get(data, "error")) {
            cover(COVER_BACKUP);
        }
        return;
    }
    if (world.config->far && g_str_equal(name, "BLOCK_JOB_COMPLETED") &&
        json_object_get(data, "error")) {
        cover(COVER_FAR_STREAM);
    }
    if (g_str_equal(name, "BLOCK_JOB_CANCELLED")) {
        world.job_cancelled = true;
    }
    if (g_str_equal(name, "BLOCK_JOB_COMPLETED") && !world.moved &&
        !json_object_get(data, "error") && !world.job_done) {
        world.job_done = sim_mark(world.sim, "completed", 0);
    }
}

static void on_notice(const char *text)
{
    world.lost = world.lost || strstr(text, "are lost");
}

static CO_FN void world_entry(void *arg)
{
    struct run *run = arg;

    world.graph = graph_new(world.loop, drivers);
    world.graph->early_always = true;
    graph_set_notice(world.graph, on_notice);
    world.jobs = jobs_new(world.loop, on_event, NULL);
    if (world.config->throttle) {
        json_t *none = json_object();

        g_assert(throttle_group_add(world.graph, "g", none, NULL) == 0);
        json_decref(none);
    }
    run->fn(run->arg);
    jobs_free(world.jobs);
    if (world.config->throttle) {
        g_assert(throttle_group_del(world.graph, "g", NULL) == 0);
    }
    graph_co_free(world.graph);
    loop_stop(world.loop);
}

void world_run(const struct crash_config *c, uint64_t seed,
               void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = SIM_OPTIONS(seed);
    struct run run = { fn, arg };

    world = (struct world) { .config = c };
    far_reset(seed);
    if (loop_new(&opts, &world.loop, NULL) < 0) {
        g_error("no simulated machine");
    }
    world.sim = loop_sim(world.loop);
    g_random_set_seed((guint32)seed); /* of uuids */
    sim_set_shares(world.sim, c->shares);
    sim_set_block(world.sim, 4096);
    if (seed % 2) { /* they may outlive a pass */
        sim_set_latency(world.sim, SIM_READ, 10000, 30000000);
        sim_set_latency(world.sim, SIM_FALLOCATE, 10000, 3000000);
    }
    co_start(world.loop, world_entry, &run);
    loop_run(world.loop);
    while (loop_turn(world.loop, false)) {
    }
    g_assert(co_count(world.loop) == 0);
    loop_free(world.loop);
}
