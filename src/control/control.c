/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Beginning and end of the control plane.
 */
#include "control/control.h"

#include "base/err.h"
#include "base/names.h"
#include "control/commands/job-start.h"
#include "control/control-int.h"
#include "control/iothread.h"
#include "control/journal/journal.h"
#include "graph/memory.h"
#include "loop/loop.h"

/* How long connections get to take their last answers, and to end. */
#define DRAIN_TIMEOUT_NS 1000000000ull

struct control *control_new(const struct control_params *p)
{
    struct control *c = g_new0(struct control, 1);

    c->main = c;
    c->loop = p->loop;
    c->data = p->data;
    c->names = names_new();
    c->iothreads_real = p->iothreads;
    c->engine = p->engine;
    c->iothreads = g_ptr_array_new();
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
    g_assert(c->sessions->len == 0 && c->iothreads->len == 0);
    g_ptr_array_free(c->sessions, TRUE);
    g_ptr_array_free(c->iothreads, TRUE);
    names_free(c->names);
    json_decref(c->objects);
    g_hash_table_destroy(c->cursors);
    g_free(c->beneath);
    g_free(c->release_hook);
    g_free(c->state_dir);
    g_free(c);
}

struct start {
    struct control *c;
    GError **err;
    int result;
};

static CO_FN void start_entry(void *arg)
{
    struct start *s = arg;
    struct control *c = s->c;

    control_make_data(c);
    memory_budget_set_total(graph_memory(c->graph), c->memory);
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

void control_co_stop(struct control *c)
{
    uint64_t deadline = loop_clock_ns(c->loop) + DRAIN_TIMEOUT_NS;

    iothreads_co_stop(c);
    control_co_stop_data(c);
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
    iothreads_free(c);
    /* Let what was posted on the way run before the loop goes. */
    co_relax();
}

unsigned control_session_count(const struct control *c)
{
    return c->sessions->len;
}
