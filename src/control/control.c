/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Beginning and end of the control plane, and events.
 */
#include "control/control.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "control/commands/job-start.h"
#include "control/control-int.h"
#include "control/release-hook.h"
#include "control/drivers.h"
#include "control/journal/journal.h"
#include "control/qemu-io/qemuio.h"
#include "export/export.h"
#include "graph/memory.h"
#include "job/job.h"
#include "loop/loop.h"

/* How long connections get to take their last answers, and to end. */
#define DRAIN_TIMEOUT_NS 1000000000ull
/* How long requests may go on before servers that do not answer are let go:
 * those of bases, whose requests lose nothing, and those that are written
 * to. */
#define BASES_TIMEOUT_NS 1000000000ull
#define WRITES_TIMEOUT_NS 10000000000ull

struct control *control_new(const struct control_params *p)
{
    struct control *c = g_new0(struct control, 1);

    c->loop = p->loop;
    c->data = p->data;
    c->notice = p->notice;
    c->policy = p->policy;
    c->memory = p->memory ? p->memory : MEMORY_DEFAULT;
    c->chain_limit = p->chain_limit;
    c->beneath = g_strdup(p->beneath);
    c->release_hook = g_strdup(p->release_hook);
    c->state_dir = g_strdup(p->state_dir);
    c->resume_jobs = p->resume_jobs;
    c->quit = p->quit;
    c->quit_arg = p->quit_arg;
    c->chardevs = p->chardevs;
    c->chardevs_arg = p->chardevs_arg;
    c->sessions = g_ptr_array_new();
    c->objects = json_object();
    c->cursors = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return c;
}

void control_free(struct control *c)
{
    if (!c) {
        return;
    }
    g_assert(c->sessions->len == 0);
    g_ptr_array_free(c->sessions, TRUE);
    json_decref(c->objects);
    g_hash_table_destroy(c->cursors);
    g_free(c->beneath);
    g_free(c->release_hook);
    g_free(c->state_dir);
    g_free(c);
}

/* --- events --- */

struct event {
    struct control *c;
    json_t *json;
};

static void deliver(void *arg)
{
    struct event *ev = arg;

    for (unsigned i = 0; i < ev->c->sessions->len; i++) {
        session_send_event(ev->c->sessions->pdata[i], ev->json);
    }
    json_decref(ev->json);
    g_free(ev);
}

void control_emit(struct control *c, const char *name, json_t *data)
{
    const struct schema_event *decl = schema_find_event(name);
    struct event *ev = g_new0(struct event, 1);
    g_autoptr(GError) err = NULL;
    gint64 now = g_get_real_time();

    g_assert(decl);
    if (schema_check(decl->data, data, &err) < 0) {
        g_autofree char *msg = err_dup_message(err);

        /* Still worth sending; the tests look for this line. */
        fprintf(stderr, "sluiced: event %s does not fit its schema: %s\n", name,
                msg);
    }
    ev->c = c;
    /* A deep copy: the event belongs to the other thread from here on. */
    ev->json = json_pack("{s:{s:I,s:I},s:s}", "timestamp", "seconds",
                         (json_int_t)(now / 1000000), "microseconds",
                         (json_int_t)(now % 1000000), "event", name);
    if (data && json_object_size(data) > 0) {
        json_object_set_new(ev->json, "data", json_deep_copy(data));
    }
    if (c->loop == loop_current()) {
        deliver(ev); /* before the answer to the command that is the cause */
    } else {
        loop_post(c->loop, deliver, ev);
    }
}

static void on_event(const char *name, json_t *data, void *arg)
{
    struct control *c = arg;

    control_emit(c, name, data);
    if (c->release_hook && strcmp(name, "BLOCK_BASE_RELEASED") == 0) {
        release_hook_run(c->release_hook, data);
    }
}

/* --- beginning and end --- */

struct start {
    struct control *c;
    GError **err;
    int result;
};

static CO_FN void start_entry(void *arg)
{
    struct start *s = arg;
    struct control *c = s->c;

    c->graph = graph_new(c->data, node_drivers);
    graph_set_notice(c->graph, c->notice);
    memory_budget_set_total(graph_memory(c->graph), c->memory);
    if (c->chain_limit) {
        graph_set_max_depth(c->graph, c->chain_limit);
    }
    graph_set_backing_policy(c->graph, c->policy, c->beneath);
    c->qemuio = qemuio_new(c->graph);
    c->jobs = jobs_new(c->data, on_event, c);
    c->exports = exports_new(c->graph, on_event, c);
    graph_set_events(c->graph, on_event, c);
    if (c->state_dir) {
        s->result = journal_co_open(c, c->state_dir, job_start_co_again,
                                    &c->journal, s->err);
    }
}

int control_co_start(struct control *c, GError **err)
{
    struct start s = { .c = c, .err = err };

    control_co_cross(c, start_entry, &s);
    return s.result;
}

static CO_FN void resume_entry(void *arg)
{
    struct control *c = arg;

    journal_co_resume(c->journal);
}

void control_co_ready(struct control *c)
{
    control_co_on_data(c, resume_entry, c);
    c->ready = true;
    co_queue_wake_all(&c->ready_waiters);
}

void control_quit(struct control *c, const char *reason)
{
    json_t *data;

    if (c->quitting) {
        return;
    }
    c->quitting = true;
    data = json_pack("{s:b,s:s}", "guest", 0, "reason", reason);
    control_emit(c, "SHUTDOWN", data);
    json_decref(data);
    c->quit(c->quit_arg);
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
    journal_co_close(c->journal);
    c->journal = NULL;
    c->graph = NULL;
}

void control_co_stop(struct control *c)
{
    uint64_t deadline = loop_clock_ns(c->loop) + DRAIN_TIMEOUT_NS;

    control_co_cross(c, stop_entry, c);
    c->ready = true;
    co_queue_wake_all(&c->ready_waiters);
    for (unsigned i = 0; i < c->sessions->len; i++) {
        session_finish(c->sessions->pdata[i]);
    }
    while (c->sessions->len > 0) {
        if (!co_queue_co_wait_until(&c->session_ended, deadline)) {
            for (unsigned i = 0; i < c->sessions->len; i++) {
                session_shutdown(c->sessions->pdata[i]);
            }
            deadline = UINT64_MAX;
        }
    }
    /* Let what was posted on the way run before the loop goes. */
    co_relax();
}

unsigned control_session_count(const struct control *c)
{
    return c->sessions->len;
}
