/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter-env.h"
#include "filter/filter.h"
#include "sim/sim.h"

static const struct node_driver *const drivers[] = { &ram_driver,
                                                     &copy_on_read_driver,
                                                     &throttle_driver, NULL };

static CO_FN int latch_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                               uint64_t len, bool after)
{
    if (op == RAM_READ && !after) {
        latch_co_wait(d->arg);
    }
    return 0;
}

struct node *co_open(struct env *e, const char *json, int expect)
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

void env_co_init(struct env *e)
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

void env_co_done(struct env *e)
{
    node_co_unref(e->top);
    node_co_unref(e->mid);
    node_co_unref(e->base);
    graph_co_free(e->g);
    ram_disk_free(e->d_top);
    ram_disk_free(e->d_mid);
    ram_disk_free(e->d_base);
}

struct backend *co_backend_perm(struct node *n, unsigned perm)
{
    GError *err = NULL;
    struct backend *u = NULL;

    backend_co_new(n, "guest", PERM_CONSISTENT_READ | perm, PERM_ALL, NULL,
                   NULL, &u, &err);
    g_assert_no_error(err);
    return u;
}

struct backend *co_backend(struct node *n)
{
    return co_backend_perm(n, PERM_WRITE);
}

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

struct req *req_start(struct backend *u, bool is_write, uint64_t off,
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

void req_co_finish(struct req *r)
{
    co_latch_co_wait(&r->latch);
    g_assert_cmpint(r->result, ==, 0);
    g_free(r->buf);
    g_free(r);
}

void co_request(struct backend *u, bool is_write, uint64_t off, size_t len)
{
    req_co_finish(req_start(u, is_write, off, len, NULL, 0));
}

/* On the simulated machine, whose clock moves only while all wait. */
static void run(gconstpointer entry)
{
    struct loop_options opts = SIM_OPTIONS(1);

    coro_run_on(&opts, (void (*)(void *))entry, NULL);
}

void filter_test_add(const char *name, void (*entry)(void *arg))
{
    g_autofree char *path = g_strconcat("/filter/", name, NULL);

    g_test_add_data_func(path, (gconstpointer)entry, run);
}
