/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What each data loop has: a graph, jobs, exports; its beginning and its end. */
#include "base/names.h"
#include "control/control-int.h"
#include "control/drivers.h"
#include "control/journal/journal.h"
#include "control/qemu-io/qemuio.h"
#include "export/export.h"
#include "job/job.h"
#include "loop/loop.h"

/* How long requests may go on before servers that do not answer are let go:
 * those of bases, whose requests lose nothing, and those that are written
 * to. */
#define BASES_TIMEOUT_NS 1000000000ull
#define WRITES_TIMEOUT_NS 10000000000ull

void control_make_data(struct control *c)
{
    c->graph = graph_new(c->data, node_drivers);
    graph_set_names(c->graph, c->names, c);
    graph_set_notice(c->graph, c->notice);
    if (c->chain_limit) {
        graph_set_max_depth(c->graph, c->chain_limit);
    }
    graph_set_backing_policy(c->graph, c->policy, c->beneath);
    c->qemuio = qemuio_new(c->graph);
    c->jobs = jobs_new(c->data, control_on_event, c);
    jobs_set_names(c->jobs, c->names, c);
    c->exports = exports_new(c->graph, control_on_event, c);
    exports_set_names(c->exports, c->names, c);
    graph_set_events(c->graph, control_on_event, c);
}

static CO_FN void start_iothread_entry(void *arg)
{
    struct control *c = arg;

    control_make_data(c);
    graph_share(c->graph, c->main->graph);
    exports_share(c->exports, c->main->exports);
    journal_attach(c->journal, c->jobs);
}

void control_co_start_iothread(struct control *c)
{
    control_co_cross(c, start_iothread_entry, c);
}

struct control *control_new_iothread(struct control *main, const char *id,
                                     struct loop *data)
{
    struct control *c = g_new0(struct control, 1);

    c->main = main;
    c->loop = main->loop;
    c->data = data;
    c->iothread = g_strdup(id);
    c->number = ++main->last_iothread;
    c->names = main->names;
    c->notice = main->notice;
    c->policy = main->policy;
    c->chain_limit = main->chain_limit;
    c->beneath = g_strdup(main->beneath);
    c->release_hook = g_strdup(main->release_hook);
    c->resume_jobs = main->resume_jobs;
    c->journal = main->journal;
    c->cursors = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return c;
}

void control_free_iothread(struct control *c)
{
    if (c) {
        g_hash_table_destroy(c->cursors);
        g_free(c->iothread);
        g_free(c->beneath);
        g_free(c->release_hook);
        g_free(c);
    }
}

static void control_collect_device(struct device *d, void *arg)
{
    g_ptr_array_add(arg, d);
}

static void collect_owned(struct node *n, void *arg)
{
    if (node_is_monitor_owned(n)) {
        g_ptr_array_add(arg, n);
    }
}

static void bases_timed_out(void *arg)
{
    graph_interrupt_bases(arg);
}

static void writes_timed_out(void *arg)
{
    graph_interrupt(arg);
}

static CO_FN void stop_entry(void *arg)
{
    struct control *c = arg;
    struct loop_timer bases, writes;
    g_autoptr(GPtrArray) devices = g_ptr_array_new();
    g_autoptr(GPtrArray) nodes = g_ptr_array_new();

    if (!c->graph) {
        return;
    }
    c->stopping = true;
    loop_timer_init(&bases, c->data, bases_timed_out, c->graph);
    loop_timer_arm(&bases, loop_clock_ns(c->data) + BASES_TIMEOUT_NS);
    loop_timer_init(&writes, c->data, writes_timed_out, c->graph);
    loop_timer_arm(&writes, loop_clock_ns(c->data) + WRITES_TIMEOUT_NS);
    /* First: nothing ends while a breakpoint holds requests. */
    qemuio_co_free(c->qemuio);
    c->qemuio = NULL;
    exports_co_shutdown(c->exports);
    jobs_co_cancel_all(c->jobs);
    co_latch_co_wait(&c->visits);
    /* What they may have added. */
    exports_co_shutdown(c->exports);
    jobs_co_cancel_all(c->jobs);
    graph_foreach_device(c->graph, control_collect_device, devices);
    for (unsigned i = 0; i < devices->len; i++) {
        device_co_free(devices->pdata[i]);
    }
    graph_foreach_node(c->graph, collect_owned, nodes);
    for (unsigned i = 0; i < nodes->len; i++) {
        struct node *n = nodes->pdata[i];

        node_set_monitor_owned(n, false);
        node_co_unref(n);
    }
    exports_free(c->exports);
    jobs_free(c->jobs);
    graph_co_free(c->graph);
    loop_timer_cancel(&bases);
    loop_timer_cancel(&writes);
    if (c->main == c) {
        journal_co_close(c->journal);
    }
    c->journal = NULL;
    c->graph = NULL;
}

void control_co_stop_data(struct control *c)
{
    control_co_cross(c, stop_entry, c);
}
