/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The copy-on-read and throttle filters over RAM disks. */
#include <errno.h>
#include <glib.h>
#include <jansson.h>
#include <string.h>
#include "filter/filter.h"
#include "filter/throttle/throttle.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/loop.h"
#include "coro.h"
#include "ram.h"

#define KIB 1024u
#define CLUSTER (64 * KIB)
#define SIZE (4 * CLUSTER)

static const struct node_driver *const drivers[] = { &ram_driver,
                                                     &copy_on_read_driver,
                                                     &throttle_driver, NULL };

struct env {
    struct graph *g;
    struct ram_disk *d_top, *d_mid, *d_base;
    struct node *top, *mid, *base;
    struct latch base_latch;
};

static CO_FN int latch_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                               uint64_t len, bool after)
{
    if (op == RAM_READ && !after) {
        latch_co_wait(d->arg);
    }
    return 0;
}

static CO_FN struct node *co_open(struct env *e, const char *json, int expect)
{
    json_t *o = json_loads(json, 0, NULL);
    GError *err = NULL;
    struct node *n = NULL;
    int r;

    g_assert_nonnull(o);
    r = node_co_open(e->g, o, NODE_RDWR, &n, &err);
    if (expect == 0) {
        g_assert_no_error(err);
    } else {
        g_assert_nonnull(err);
        g_test_message("%s", err->message);
        g_error_free(err);
    }
    g_assert_cmpint(r, ==, expect);
    json_decref(o);
    return n;
}

static CO_FN void env_co_init(struct env *e)
{
    *e = (struct env) { 0 };
    e->d_top = ram_disk_new("top", SIZE, CLUSTER);
    e->d_mid = ram_disk_new("mid", SIZE, CLUSTER);
    e->d_base = ram_disk_new("base", SIZE, 0);
    ram_disk_fill(e->d_base, 0, SIZE, 1);
    ram_disk_fill(e->d_mid, CLUSTER, CLUSTER, 2);
    e->d_base->co_hook = latch_co_hook;
    e->d_base->arg = &e->base_latch;
    e->g = graph_new(loop_current(), drivers);
    e->base = co_open(e,
                      "{\"driver\": \"ram\", \"node-name\": \"base\","
                      " \"disk\": \"base\"}",
                      0);
    e->mid = co_open(e,
                     "{\"driver\": \"ram\", \"node-name\": \"mid\","
                     " \"disk\": \"mid\","
                     " \"backing\": \"base\"}",
                     0);
    e->top = co_open(e,
                     "{\"driver\": \"ram\", \"node-name\": \"top\","
                     " \"disk\": \"top\","
                     " \"backing\": \"mid\"}",
                     0);
}

static CO_FN void env_co_done(struct env *e)
{
    node_co_unref(e->top);
    node_co_unref(e->mid);
    node_co_unref(e->base);
    graph_co_free(e->g);
    ram_disk_free(e->d_top);
    ram_disk_free(e->d_mid);
    ram_disk_free(e->d_base);
}

/* @perm: besides reading. */
static CO_FN struct backend *co_backend_perm(struct node *n, unsigned perm)
{
    GError *err = NULL;
    struct backend *u = NULL;

    backend_co_new(n, "guest", PERM_CONSISTENT_READ | perm, PERM_ALL, NULL,
                   NULL, &u, &err);
    g_assert_no_error(err);
    return u;
}

static CO_FN struct backend *co_backend(struct node *n)
{
    return co_backend_perm(n, PERM_WRITE);
}

/* A request of a backend, in a coroutine of its own. */
struct req {
    struct backend *u;
    bool is_write, done;
    uint64_t off;
    size_t len;
    uint8_t *buf;
    int result;
    GString *log; /* gets @tag when it ends */
    char tag;
    struct co_latch latch;
};

static CO_FN void req_entry(void *arg)
{
    struct req *r = arg;
    struct iovec store;
    struct iov iov = iov_one(&store, r->buf, r->len);

    r->result = r->is_write ? backend_co_pwritev(r->u, r->off, iov, 0)
                            : backend_co_preadv(r->u, r->off, iov, 0);
    if (r->log) {
        g_string_append_c(r->log, r->tag);
    }
    r->done = true;
    co_latch_done(&r->latch);
}

static struct req *req_start(struct backend *u, bool is_write, uint64_t off,
                             size_t len, GString *log, char tag)
{
    struct req *r = g_new0(struct req, 1);

    *r = (struct req) {
        .u = u,
        .is_write = is_write,
        .off = off,
        .len = len,
        .buf = g_malloc0(len),
        .log = log,
        .tag = tag,
    };
    co_latch_add(&r->latch);
    co_start(loop_current(), req_entry, r);
    return r;
}

static CO_FN void req_co_finish(struct req *r)
{
    co_latch_co_wait(&r->latch);
    g_assert_cmpint(r->result, ==, 0);
    g_free(r->buf);
    g_free(r);
}

static CO_FN void co_request(struct backend *u, bool is_write, uint64_t off,
                             size_t len)
{
    req_co_finish(req_start(u, is_write, off, len, NULL, 0));
}

/* --- copy-on-read --- */

static CO_FN void cor_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    cor = co_open(&e,
                  "{\"driver\": \"copy-on-read\", \"node-name\": \"cor\","
                  " \"file\": \"top\"}",
                  0);
    g_assert_cmpuint(cor->size, ==, SIZE);
    g_assert_true(node_child(cor, "file")->perm & PERM_WRITE_UNCHANGED);
    u = co_backend(cor);
    co_request(u, false, 100, 100);
    g_assert_cmpint(ram_disk_state(e.d_top, 0), ==, RAM_DATA);
    g_assert_cmpint(ram_disk_state(e.d_top, CLUSTER), ==, RAM_ABSENT);
    g_assert_cmpint(backend_co_cache(u, CLUSTER, 1), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, CLUSTER), ==, RAM_DATA);
    co_request(u, true, 2 * CLUSTER, 512);
    g_assert_cmpint(backend_co_zero(u, 3 * CLUSTER, CLUSTER, 0), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 3 * CLUSTER), ==, RAM_ZEROES);
    g_assert_cmpint(backend_co_discard(u, 2 * CLUSTER, CLUSTER), ==, 0);
    g_assert_cmpint(ram_disk_state(e.d_top, 2 * CLUSTER), ==, RAM_ZEROES);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

static CO_FN void cor_bottom_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    co_open(&e,
            "{\"driver\": \"copy-on-read\", \"file\": \"top\","
            " \"bottom\": \"no\"}",
            -ENOENT);
    co_open(&e,
            "{\"driver\": \"copy-on-read\", \"file\": \"mid\","
            " \"bottom\": \"top\"}",
            -EINVAL);
    cor = co_open(&e,
                  "{\"driver\": \"copy-on-read\", \"node-name\": \"cor\","
                  " \"file\": \"top\", \"bottom\": \"mid\"}",
                  0);
    u = co_backend(cor);
    co_request(u, false, 0, SIZE);
    for (uint64_t off = 0; off < SIZE; off += CLUSTER) {
        g_assert_cmpint(ram_disk_state(e.d_top, off), ==,
                        off == CLUSTER ? RAM_DATA : RAM_ABSENT);
    }
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

/* Nothing to copy from: it only passes on. */
static CO_FN void cor_no_backing_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;

    env_co_init(&e);
    cor = co_open(&e, "{\"driver\": \"copy-on-read\", \"file\": \"base\"}", 0);
    u = co_backend_perm(cor, 0);
    co_request(u, false, 0, SIZE);
    g_assert_cmpint(backend_co_cache(u, 0, SIZE), ==, 0);
    g_assert_cmpuint(e.d_base->count[RAM_WRITE], ==, 0);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

struct drainer {
    struct node *n;
    bool drained;
};

static CO_FN void drain_entry(void *arg)
{
    struct drainer *d = arg;

    node_co_drain_begin(d->n);
    d->drained = true;
}

/* A drain waits for the copy, whoever reads. */
static CO_FN void cor_drain_entry(void *arg)
{
    struct env e;
    struct node *cor;
    struct backend *u;
    struct req *r;
    struct drainer d;

    env_co_init(&e);
    cor = co_open(&e, "{\"driver\": \"copy-on-read\", \"file\": \"top\"}", 0);
    u = co_backend(cor);
    e.base_latch.shut = true;
    r = req_start(u, false, 0, 100, NULL, 0);
    coro_co_settle();
    d = (struct drainer) { e.top };
    co_start(loop_current(), drain_entry, &d);
    coro_co_settle();
    g_assert_false(d.drained);
    latch_open(&e.base_latch);
    coro_co_settle();
    g_assert_true(d.drained);
    g_assert_cmpint(ram_disk_state(e.d_top, 0), ==, RAM_DATA);
    node_drain_end(e.top);
    req_co_finish(r);
    backend_co_free(u);
    node_co_unref(cor);
    env_co_done(&e);
}

/* --- throttle --- */

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
    uint64_t start;

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
    /* Who was first is chance; then they take turns. */
    g_test_message("%s", log->str);
    g_assert_true(g_str_has_prefix(log->str, "ababab") ||
                  g_str_has_prefix(log->str, "bababa"));
    g_assert_cmpuint(loop_clock_ns(loop_current()) - start, >=, 80000000);
    g_string_free(log, TRUE);
    backend_co_free(ua);
    backend_co_free(ub);
    node_co_unref(a);
    node_co_unref(b);
    g_assert_cmpint(throttle_group_del(e.g, "g", NULL), ==, 0);
    env_co_done(&e);
}

static void run(gconstpointer entry)
{
    coro_run((void (*)(void *))entry, NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*entry)(void *arg);
    } tests[] = {
        { "copy-on-read", cor_entry },
        { "copy-on-read/bottom", cor_bottom_entry },
        { "copy-on-read/no-backing", cor_no_backing_entry },
        { "copy-on-read/drain", cor_drain_entry },
        { "throttle/group", throttle_group_entry },
        { "throttle/release", throttle_release_entry },
        { "throttle/fair", throttle_fair_entry },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        char *path = g_strconcat("/filter/", tests[i].name, NULL);

        g_test_add_data_func(path, (gconstpointer)tests[i].entry, run);
        g_free(path);
    }
    return g_test_run();
}
