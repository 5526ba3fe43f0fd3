/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The throttle filter and its groups over RAM disks. */
#include "filter-env.h"
#include "filter/throttle/throttle.h"

static void group_add(struct env *e, const char *id, const char *props)
{
    json_t *o = json_loads(props, 0, NULL);
    GError *err = NULL;

    throttle_group_add(e->g, id, o, &err);
    g_assert_no_error(err);
    json_decref(o);
}

static void group_set(struct env *e, const char *id, const char *limits)
{
    json_t *o = json_loads(limits, 0, NULL);
    GError *err = NULL;

    throttle_group_set(e->g, id, o, &err);
    g_assert_no_error(err);
    json_decref(o);
}

static CO_FN void throttle_group_entry(void *arg)
{
    struct env e;
    struct node *n;
    GError *err = NULL;
    json_t *o;

    env_co_init(&e);
    g_assert_false(throttle_group_exists(e.g, "g0"));
    group_add(&e, "g0", "{\"x-bps-total\": 1000, \"x-bps-total-max\": 2000}");
    group_add(&e, "g1", "{\"limits\": {\"iops-write\": 7}}");
    g_assert_true(throttle_group_exists(e.g, "g0"));
    g_assert_cmpint(throttle_group_add(e.g, "g0", NULL, &err), ==, -EEXIST);
    g_clear_error(&err);
    o = throttle_group_get(e.g, "g0");
    g_assert_cmpint(json_integer_value(json_object_get(o, "bps-total-max")), ==,
                    2000);
    json_decref(o);
    co_open(&e, "{\"driver\": \"throttle\", \"file\": \"top\"}", -EINVAL);
    co_open(&e,
            "{\"driver\": \"throttle\", \"file\": \"top\","
            " \"throttle-group\": \"none\"}",
            -ENOENT);
    n = co_open(&e,
                "{\"driver\": \"throttle\", \"file\": \"top\","
                " \"throttle-group\": \"g0\"}",
                0);
    g_assert_cmpint(throttle_group_del(e.g, "g0", &err), ==, -EBUSY);
    g_assert_cmpstr(err->message, ==,
                    "object 'g0' is in use, can not be deleted");
    g_clear_error(&err);
    node_co_unref(n);
    g_assert_cmpint(throttle_group_del(e.g, "g0", NULL), ==, 0);
    g_assert_cmpint(throttle_group_del(e.g, "g1", NULL), ==, 0);
    g_assert_cmpint(throttle_group_del(e.g, "g1", &err), ==, -ENOENT);
    g_clear_error(&err);
    env_co_done(&e);
}

/* One byte a second: what comes second waits for days unless let go. */
static CO_FN void throttle_release_entry(void *arg)
{
    struct env e;
    struct node *n;
    struct backend *u;
    struct req *r;

    env_co_init(&e);
    group_add(&e, "g", "{\"x-bps-total\": 1}");
    n = co_open(&e,
                "{\"driver\": \"throttle\", \"file\": \"top\","
                " \"throttle-group\": \"g\"}",
                0);
    u = co_backend(n);
    co_request(u, true, 0, CLUSTER);
    r = req_start(u, false, 0, 512, NULL, 0);
    coro_co_settle();
    g_assert_false(r->done);
    /* A drain of what lies below lets it go. */
    node_co_drain_begin(e.base);
    g_assert_true(r->done);
    node_drain_end(e.base);
    req_co_finish(r);
    /* So do wider limits. */
    r = req_start(u, true, 0, 512, NULL, 0);
    coro_co_settle();
    g_assert_false(r->done);
    group_set(&e, "g", "{\"bps-total\": 0}");
    coro_co_settle();
    g_assert_true(r->done);
    req_co_finish(r);
    /* And after the drain it throttles as before. */
    group_set(&e, "g", "{\"bps-total\": 1}");
    co_request(u, false, 0, CLUSTER);
    r = req_start(u, false, 0, 512, NULL, 0);
    coro_co_settle();
    g_assert_false(r->done);
    node_co_drain_begin(n);
    g_assert_true(r->done);
    node_drain_end(n);
    req_co_finish(r);
    backend_co_free(u);
    node_co_unref(n);
    g_assert_cmpint(throttle_group_del(e.g, "g", NULL), ==, 0);
    env_co_done(&e);
}

/* Two members, one with many requests: they pass in turn. */
static CO_FN void throttle_fair_entry(void *arg)
{
    struct env e;
    struct node *a, *b;
    struct backend *ua, *ub;
    struct req *r[9];
    GString *log = g_string_new(NULL);
    uint64_t start, took;

    env_co_init(&e);
    group_add(&e, "g", "{\"x-iops-total\": 100}");
    a = co_open(&e,
                "{\"driver\": \"throttle\", \"file\": \"top\","
                " \"throttle-group\": \"g\"}",
                0);
    b = co_open(&e,
                "{\"driver\": \"throttle\", \"file\": \"mid\","
                " \"throttle-group\": \"g\"}",
                0);
    ua = co_backend_perm(a, 0);
    ub = co_backend_perm(b, 0);
    for (unsigned i = 0; i < 11; i++) {
        co_request(ua, false, 0, 512);
    }
    start = loop_clock_ns(loop_current());
    for (unsigned i = 0; i < 6; i++) {
        r[i] = req_start(ua, false, 0, 512, log, 'a');
    }
    coro_co_settle();
    for (unsigned i = 6; i < 9; i++) {
        r[i] = req_start(ub, false, 0, 512, log, 'b');
    }
    for (unsigned i = 0; i < 9; i++) {
        req_co_finish(r[i]);
    }
    /* In turn while both have some; one every 10 ms of the simulated clock,
     * since the bucket was full at the beginning. */
    took = loop_clock_ns(loop_current()) - start;
    g_test_message("%s in %" G_GUINT64_FORMAT " ns", log->str, took);
    g_assert_cmpstr(log->str, ==, "abababaaa");
    g_assert_cmpuint(took, >=, 80000000);
    g_assert_cmpuint(took, <, 91000000);
    g_string_free(log, TRUE);
    backend_co_free(ua);
    backend_co_free(ub);
    node_co_unref(a);
    node_co_unref(b);
    g_assert_cmpint(throttle_group_del(e.g, "g", NULL), ==, 0);
    env_co_done(&e);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    filter_test_add("throttle/group", throttle_group_entry);
    filter_test_add("throttle/release", throttle_release_entry);
    filter_test_add("throttle/fair", throttle_fair_entry);
    return g_test_run();
}
