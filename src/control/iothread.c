/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/iothread.h"
#include <inttypes.h>
#include "base/err.h"
#include "control/control-int.h"
#include "control/iothread-int.h"
#include "export/export.h"
#include "job/job.h"
#include "loop/loop.h"
#include "loop/thread.h"

static void iothread_free(struct iothread *t)
{
    if (t->thread) {
        loop_thread_stop(t->thread);
        control_free_iothread(t->c);
    }
    g_free(t->id);
    g_free(t);
}

/* --- polling --- */

static struct loop_polling polling_of(const json_t *props)
{
    return (struct loop_polling) {
        .max_ns = (uint64_t)arg_int(props, "poll-max-ns", LOOP_POLL_MAX_NS),
        .grow = (uint64_t)arg_int(props, "poll-grow", 0),
        .shrink = (uint64_t)arg_int(props, "poll-shrink", 0),
    };
}

static CO_FN void set_polling_entry(void *arg)
{
    loop_set_polling(loop_current(), arg);
}

void iothread_co_set(struct control *c, const char *id, const json_t *props)
{
    struct iothread *t = iothread_lookup(c, id);
    struct loop_polling polling = polling_of(props);
    struct control *held;

    if (!t) {
        return;
    }
    t->polling = polling;
    if (t->thread) {
        held = control_hold(t->c);
        co_call_on(held->data, set_polling_entry, &polling);
        control_let_go(held);
    }
}

/* --- adding --- */

static int make(struct control *main, struct iothread *t, GError **err)
{
    struct loop_options options = { .engine = main->engine,
                                    .polling = t->polling };

    if (!main->iothreads_real) {
        t->c = main;
        return 0;
    }
    if (loop_thread_start(&options, &t->thread, err) < 0) {
        return -EAGAIN;
    }
    t->c = control_new_iothread(main, t->id, loop_thread_loop(t->thread));
    return 0;
}

int iothread_check_number(const char *name, const json_t *value, GError **err)
{
    return json_is_integer(value) && json_integer_value(value) >= 0
               ? 0
               : err_set(err, EINVAL,
                         "%s value must be in range [0, %" PRId64 "]", name,
                         INT64_MAX);
}

static int check_props(const json_t *props, GError **err)
{
    const char *name;
    json_t *value;
    int r = 0;

    json_object_foreach((json_t *)props, name, value) {
        r = r == 0 ? iothread_check_number(name, value, err) : r;
    }
    return r;
}

static CO_FN int add_co_locked(struct control *main, const char *id,
                               const json_t *props, GError **err)
{
    struct iothread *t;
    int r = check_props(props, err);

    if (r < 0) {
        return r;
    }
    if (main->iothreads_ended) {
        return err_set(err, ESHUTDOWN, "The daemon is shutting down");
    }
    t = g_new0(struct iothread, 1);
    t->id = g_strdup(id);
    t->polling = polling_of(props);
    r = make(main, t, err);
    if (r < 0) {
        iothread_free(t);
        return r;
    }
    if (t->thread) {
        control_co_start_iothread(t->c);
    }
    g_ptr_array_add(main->iothreads, t);
    return 0;
}

int iothread_co_add(struct control *c, const char *id, const json_t *props,
                    GError **err)
{
    int r;

    co_mutex_co_lock(&c->main->iothreads_changing);
    r = add_co_locked(c->main, id, props, err);
    co_mutex_unlock(&c->main->iothreads_changing);
    return r;
}

/* --- deleting --- */

struct idle_check {
    struct control *c;
    bool is_idle;
};

static void count_job(struct job *j, void *arg)
{
    (*(unsigned *)arg)++;
}

/* From here on, where it is idle, nothing comes any more. */
static CO_FN void idle_check_entry(void *arg)
{
    struct idle_check *k = arg;
    struct control *c = k->c;
    unsigned n_jobs = 0;

    co_latch_co_wait(&c->visits);
    jobs_foreach(c->jobs, count_job, &n_jobs);
    k->is_idle = n_jobs == 0 && !exports_are_any(c->exports) &&
                 graph_is_empty(c->graph);
    c->stopping = k->is_idle;
}

static CO_FN int del_co_locked(struct control *c, const char *id, GError **err)
{
    struct iothread *t = iothread_lookup(c, id);
    struct idle_check k;

    if (!t || c->main->iothreads_ended) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    if (!t->thread) {
        g_ptr_array_remove(c->main->iothreads, t);
        iothread_free(t);
        return 0;
    }
    k = (struct idle_check) { .c = control_hold(t->c) };
    control_co_cross(t->c, idle_check_entry, &k);
    control_let_go(t->c);
    if (!k.is_idle) {
        return err_set(err, EBUSY, "object '%s' is in use, can not be deleted",
                       id);
    }
    g_ptr_array_remove(c->main->iothreads, t);
    /* Whoever has found it is told that it ends. */
    co_latch_co_wait(&t->c->holds);
    control_co_stop_data(t->c);
    iothread_free(t);
    return 0;
}

int iothread_co_del(struct control *c, const char *id, GError **err)
{
    int r;

    co_mutex_co_lock(&c->main->iothreads_changing);
    r = del_co_locked(c, id, err);
    co_mutex_unlock(&c->main->iothreads_changing);
    return r;
}

/* --- the end --- */

struct stop {
    struct control *c;
    struct co_latch *all;
};

static CO_FN void stop_one_entry(void *arg)
{
    struct stop *s = arg;

    control_co_stop_data(s->c);
    co_latch_done(s->all);
}

void iothreads_co_stop(struct control *c)
{
    GPtrArray *list = c->main->iothreads;
    struct co_latch all = { 0 };
    g_autofree struct stop *stops = NULL;

    co_mutex_co_lock(&c->main->iothreads_changing);
    c->main->iothreads_ended = true;
    co_mutex_unlock(&c->main->iothreads_changing);
    stops = g_new0(struct stop, list->len);
    for (guint i = 0; i < list->len; i++) {
        struct iothread *t = g_ptr_array_index(list, i);

        if (t->thread) {
            stops[i] = (struct stop) { t->c, &all };
            co_latch_add(&all);
            co_start(c->main->loop, stop_one_entry, &stops[i]);
        }
    }
    co_latch_co_wait(&all);
}

void iothreads_free(struct control *c)
{
    GPtrArray *list = c->main->iothreads;

    for (guint i = 0; i < list->len; i++) {
        iothread_free(g_ptr_array_index(list, i));
    }
    g_ptr_array_set_size(list, 0);
}
