/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads of far storage that are joined: bytes, errors, and who asks whom. */
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "coro.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/loop.h"
#include "ram.h"

#define KIB 1024u
#define SIZE (256 * KIB)

static struct node_driver far_driver;
static const struct node_driver *const drivers[] = { &far_driver, NULL };

struct env {
    struct graph *g;
    struct ram_disk *disk;
    struct node *n;
    struct latch latch;
    int error;
};

static CO_FN int env_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                             uint64_t len, bool after)
{
    struct env *e = d->arg;

    if (op == RAM_READ && !after) {
        latch_co_wait(&e->latch);
        return e->error;
    }
    return 0;
}

static CO_FN void env_co_init(struct env *e, unsigned flags)
{
    json_t *o = json_pack("{s:s, s:s}", "driver", "far", "disk", "d");
    GError *err = NULL;

    *e = (struct env) { .latch.shut = true };
    far_driver = ram_driver;
    far_driver.name = "far";
    far_driver.kind = NODE_PROTOCOL;
    far_driver.supports_backing = false;
    far_driver.is_remote = true;
    e->disk = ram_disk_new("d", SIZE, 0);
    ram_disk_fill(e->disk, 0, SIZE, 1);
    e->disk->co_hook = env_co_hook;
    e->disk->arg = e;
    e->g = graph_new(loop_current(), drivers);
    node_co_open(e->g, o, flags, &e->n, &err);
    g_assert_no_error(err);
    json_decref(o);
}

static CO_FN void env_co_done(struct env *e)
{
    node_co_unref(e->n);
    graph_co_free(e->g);
    ram_disk_free(e->disk);
}

struct read {
    struct env *e;
    uint64_t off;
    size_t len;
    uint8_t *buf;
    int ret;
    bool is_done;
};

static CO_FN void read_entry(void *arg)
{
    struct read *r = arg;
    size_t half = r->len / 2;
    /* Memory in two pieces. */
    struct iovec v[2] = { { r->buf, half }, { r->buf + half, r->len - half } };

    r->ret = node_co_preadv(r->e->n, r->off,
                            (struct iov) { .v = v, .n = 2, .len = r->len }, 0);
    r->is_done = true;
}

static void read_start(struct env *e, struct read *r, uint64_t off, size_t len)
{
    *r = (struct read) { e, off, len, g_malloc(len) };
    co_start(loop_current(), read_entry, r);
}

static void read_check(struct read *r, int ret)
{
    g_assert_true(r->is_done);
    g_assert_cmpint(r->ret, ==, ret);
    if (ret == 0) {
        uint8_t *want = g_malloc(r->len);

        ram_fill_buf(want, r->off, r->len, 1);
        g_assert_cmpmem(r->buf, r->len, want, r->len);
        g_free(want);
    }
    g_free(r->buf);
}

static CO_FN void joined_entry(void *arg)
{
    static const struct {
        uint64_t off;
        size_t len;
    } wants[] = {
        { 0, 64 * KIB },         /* what is read */
        { 0, 64 * KIB },         /* the same */
        { 4 * KIB, 512 },        /* a part */
        { 63 * KIB, 2 * KIB },   /* it ends beyond: the rest is read */
        { 128 * KIB, 64 * KIB }, /* somewhere else */
        { 100 * KIB, 64 * KIB }, /* it begins before: read as a whole */
    };
    struct read r[G_N_ELEMENTS(wants)];
    struct env e;

    env_co_init(&e, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(wants); i++) {
        read_start(&e, &r[i], wants[i].off, wants[i].len);
    }
    coro_co_settle();
    g_assert_cmpuint(e.disk->count[RAM_READ], ==, 3);
    latch_open(&e.latch);
    coro_co_settle();
    for (unsigned i = 0; i < G_N_ELEMENTS(wants); i++) {
        read_check(&r[i], 0);
    }
    g_assert_cmpuint(e.disk->count[RAM_READ], ==, 4);
    g_assert_cmpuint(e.disk->bytes[RAM_READ], ==, 3 * 64 * KIB + KIB);
    /* It is over: the next one reads for itself. */
    read_start(&e, &r[0], 0, KIB);
    coro_co_settle();
    read_check(&r[0], 0);
    g_assert_cmpuint(e.disk->count[RAM_READ], ==, 5);
    env_co_done(&e);
}

/* Who joins a read that fails makes his own; not when it has waited in vain. */
static CO_FN void errors_entry(void *arg)
{
    static const int errors[] = { -EIO, -ETIMEDOUT };

    for (unsigned i = 0; i < G_N_ELEMENTS(errors); i++) {
        struct read r[3];
        struct env e;

        env_co_init(&e, 0);
        for (unsigned k = 0; k < G_N_ELEMENTS(r); k++) {
            read_start(&e, &r[k], 0, KIB);
        }
        coro_co_settle();
        e.error = errors[i];
        latch_open(&e.latch);
        coro_co_settle();
        for (unsigned k = 0; k < G_N_ELEMENTS(r); k++) {
            read_check(&r[k], errors[i]);
        }
        g_assert_cmpuint(e.disk->count[RAM_READ], ==, i == 0 ? 3 : 1);
        env_co_done(&e);
    }
}

/* Storage that is written to is read by each. */
static CO_FN void writable_entry(void *arg)
{
    struct read r[2];
    struct env e;

    env_co_init(&e, NODE_RDWR);
    read_start(&e, &r[0], 0, KIB);
    read_start(&e, &r[1], 0, KIB);
    coro_co_settle();
    g_assert_cmpuint(e.disk->count[RAM_READ], ==, 2);
    latch_open(&e.latch);
    coro_co_settle();
    read_check(&r[0], 0);
    read_check(&r[1], 0);
    env_co_done(&e);
}

static void run(gconstpointer entry)
{
    coro_run((void (*)(void *))entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/join/joined", joined_entry, run);
    g_test_add_data_func("/join/errors", errors_entry, run);
    g_test_add_data_func("/join/writable", writable_entry, run);
    return g_test_run();
}
