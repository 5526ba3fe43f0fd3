/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections over memory, with both loops in one: bounds of the output queue
 * and the order of what is sent.
 */
#include <string.h>

#include "base/err.h"
#include "control/control-int.h"
#include "loop/channel.h"
#include "loop/loop.h"

enum { EVENTS = 100000, PIPE = 4096 };

struct env {
    struct loop *loop;
    struct control *control;
    struct channel *client;
    GString *got;
    unsigned events, lost, answers, quits;
    void (*body)(struct env *e);
};

static void on_quit(void *arg)
{
    struct env *e = arg;

    e->quits++;
}

static CO_FN void client_co_send(struct env *e, const char *text)
{
    g_autofree char *copy = g_strdup(text);
    struct iovec store;

    g_assert_cmpint(
        channel_co_write(e->client, iov_one(&store, copy, strlen(copy)), 0), ==,
        0);
}

/* The next message; NULL at the end. */
static CO_FN json_t *client_co_read(struct env *e)
{
    char *nl;

    while (!(nl = strstr(e->got->str, "\r\n"))) {
        char buf[65536];
        ssize_t n = channel_co_read(e->client, buf, sizeof(buf), 0);

        if (n <= 0) {
            return NULL;
        }
        g_string_append_len(e->got, buf, n);
    }
    {
        size_t len = (size_t)(nl - e->got->str);
        json_t *msg = json_loadb(e->got->str, len, 0, NULL);

        g_assert_nonnull(msg);
        g_string_erase(e->got, 0, (gssize)len + 2);
        return msg;
    }
}

/* Read one message and count it. False at the end. */
static CO_FN bool client_co_count(struct env *e)
{
    json_t *msg = client_co_read(e);
    const char *name = json_string_value(json_object_get(msg, "event"));

    if (!msg) {
        return false;
    }
    if (!name) {
        e->answers++;
    } else if (g_str_equal(name, "SLUICE_EVENTS_LOST")) {
        json_t *data = json_object_get(msg, "data");

        e->lost += (unsigned)json_integer_value(json_object_get(data, "count"));
    } else {
        e->events++;
    }
    json_decref(msg);
    return true;
}

static CO_FN void env_entry(void *arg)
{
    struct env *e = arg;
    struct channel *ends[2];
    g_autoptr(GError) err = NULL;

    g_assert_cmpint(control_co_start(e->control, &err), ==, 0);
    control_co_ready(e->control);
    channel_new_pair(e->loop, PIPE, ends);
    e->client = ends[0];
    control_add_session(e->control, ends[1], SESSION_QMP);
    json_decref(client_co_read(e));
    client_co_send(e, "{'execute':'qmp_capabilities'}");
    g_assert_true(client_co_count(e));
    e->body(e);
    control_co_stop(e->control);
    channel_free(e->client);
    loop_stop(e->loop);
}

static void run(struct env *e, void (*body)(struct env *e))
{
    struct loop_options o = { .engine = IO_ENGINE_THREADS, .workers = 1 };
    g_autoptr(GError) err = NULL;
    struct control_params p = { .quit = on_quit, .quit_arg = e };

    g_assert_cmpint(loop_new(&o, &e->loop, &err), ==, 0);
    p.loop = p.data = e->loop;
    e->control = control_new(&p);
    e->got = g_string_new("");
    e->body = body;
    co_start(e->loop, env_entry, e);
    loop_run(e->loop);
    g_assert_cmpuint(co_count(e->loop), ==, 0);
    control_free(e->control);
    loop_free(e->loop);
    g_string_free(e->got, TRUE);
}

/* A client that stops reading: what it gets later and what it is told it
 * missed add up, and memory stayed bounded meanwhile. */
static CO_FN void events_co_body(struct env *e)
{
    json_t *data = json_pack("{s:s,s:s}", "status", "running", "id", "job");

    for (unsigned i = 0; i < EVENTS; i++) {
        control_emit(e->control, "JOB_STATUS_CHANGE", data);
        if (i % 1000 == 0) {
            co_relax();
        }
    }
    json_decref(data);
    while (e->events + e->lost < EVENTS) {
        g_assert_true(client_co_count(e));
    }
    /* About 4 MiB of events were kept. */
    g_assert_cmpuint(e->events, >, 20000);
    g_assert_cmpuint(e->events, <, 60000);
    client_co_send(e, "{'execute':'query-status'}");
    g_assert_true(client_co_count(e));
    g_assert_cmpuint(e->answers, ==, 2);
}

static void test_events_lost(void)
{
    struct env e = {};

    run(&e, events_co_body);
    g_assert_cmpuint(e.events + e.lost, ==, EVENTS);
}

/* Commands sent without reading the answers: all are answered, in order. */
static CO_FN void pipeline_co_body(struct env *e)
{
    for (unsigned i = 0; i < 20; i++) {
        client_co_send(e, "{'execute':'query-commands'}");
    }
    client_co_send(e, "{'execute':'quit','id':7}");
    while (e->answers < 22) {
        g_assert_true(client_co_count(e));
    }
    while (e->events < 1) {
        g_assert_true(client_co_count(e));
    }
}

static void test_pipeline(void)
{
    struct env e = {};

    run(&e, pipeline_co_body);
    g_assert_cmpuint(e.quits, ==, 1);
}

/* The client is gone while its answers wait. */
static CO_FN void gone_co_body(struct env *e)
{
    for (unsigned i = 0; i < 10; i++) {
        client_co_send(e, "{'execute':'query-qmp-schema'}");
    }
    channel_shutdown(e->client);
    while (control_session_count(e->control) > 0) {
        co_relax();
    }
}

static void test_gone(void)
{
    struct env e = {};

    run(&e, gone_co_body);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/session/events-lost", test_events_lost);
    g_test_add_func("/session/pipeline", test_pipeline);
    g_test_add_func("/session/gone", test_gone);
    return g_test_run();
}
