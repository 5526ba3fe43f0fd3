/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "populate-env.h"
#include <jansson.h>
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/model/in-flight.h"
#include "graph/node.h"
#include "loop/loop.h"

static const struct node_driver *const drivers[] = { &ram_driver, NULL };

static CO_FN int faults_co_hook(struct ram_disk *d, enum ram_op op,
                                uint64_t off, uint64_t len, bool after)
{
    struct faults *f = d->arg;

    if (after) {
        return 0;
    }
    if (f->latched[op] > 0) {
        if (--f->latched[op] == 0) {
            /* The last one that is held. */
            f->latch[op].shut = true;
            latch_co_wait(&f->latch[op]);
        }
    } else if (f->latch[op].shut && f->latch[op].waiting == 0) {
        latch_co_wait(&f->latch[op]);
    }
    if (f->fail_times[op] > 0) {
        f->fail_times[op]--;
        return f->fail[op];
    }
    return 0;
}

static CO_FN struct ram_disk *disk_co_new(const char *name, uint64_t size,
                                          uint32_t cluster, struct faults *f)
{
    struct ram_disk *d = ram_disk_new(name, size, cluster);

    d->co_hook = faults_co_hook;
    d->arg = f;
    return d;
}

void env_co_init(struct env *e, uint64_t top_size, uint64_t mid_size,
                 uint64_t base_size)
{
    *e = (struct env) { 0 };
    e->d_top = disk_co_new("top", top_size, CLUSTER, &e->f_top);
    if (mid_size) {
        e->d_mid = disk_co_new("mid", mid_size, 16 * KIB, &e->f_mid);
    }
    e->d_base = disk_co_new("base", base_size, 0, &e->f_base);
    ram_disk_fill(e->d_base, 0, base_size, 1);
    e->expect = g_malloc0(top_size);
}

static CO_FN struct node *env_co_open_node(struct env *e, const char *name,
                                           const char *backing, unsigned flags)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:s*}", "driver", "ram", "node-name",
                          name, "disk", name, "backing", backing);
    GError *err = NULL;
    struct node *n = NULL;
    int r = node_co_open(e->g, o, flags, &n, &err);

    g_assert_no_error(err);
    g_assert_cmpint(r, ==, 0);
    json_decref(o);
    return n;
}

/* What a disk shows where the one above it has nothing. */
static void expect_from(struct env *e, const struct ram_disk *d)
{
    for (uint64_t off = 0; off < e->d_top->size; off += d->unit) {
        uint64_t len = MIN(d->unit, e->d_top->size - off);
        uint64_t have = off < d->size ? MIN(len, d->size - off) : 0;

        memset(e->expect + off + have, 0, len - have);
        if (have && ram_disk_state(d, off) != RAM_ABSENT) {
            memcpy(e->expect + off, d->data + off, have);
        }
    }
}

static CO_FN void open_co_chain(struct env *e, unsigned flags)
{
    expect_from(e, e->d_base);
    if (e->d_mid) {
        expect_from(e, e->d_mid);
    }
    expect_from(e, e->d_top);
    e->g = graph_new(loop_current(), drivers);
    e->base = env_co_open_node(e, "base", NULL, 0);
    if (e->d_mid) {
        e->mid = env_co_open_node(e, "mid", "base", 0);
    }
    e->top = env_co_open_node(e, "top", e->d_mid ? "mid" : "base", flags);
}

void env_co_open(struct env *e)
{
    open_co_chain(e, NODE_RDWR);
}

void env_co_open_rdonly(struct env *e)
{
    open_co_chain(e, 0);
}

void env_co_close(struct env *e)
{
    g_assert_false(inflight_any(e->top));
    node_co_unref(e->top);
    if (e->mid) {
        node_co_unref(e->mid);
    }
    node_co_unref(e->base);
    graph_co_free(e->g);
    ram_disk_free(e->d_top);
    if (e->d_mid) {
        ram_disk_free(e->d_mid);
    }
    ram_disk_free(e->d_base);
    g_free(e->expect);
}

static void assert_same(const uint8_t *got, const uint8_t *want, uint64_t off,
                        uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != want[i]) {
            g_error("offset 0x%" G_GINT64_MODIFIER "x reads 0x%02x, "
                    "expected 0x%02x",
                    off + i, got[i], want[i]);
        }
    }
}

void env_co_verify(struct env *e)
{
    g_assert_false(inflight_any(e->top));
    g_assert_cmpint(env_co_do(e, OP_READ, 0, e->d_top->size, 0), ==, 0);
}

static CO_FN void op_entry(void *arg)
{
    struct op *op = arg;
    struct node *top = op->e->top;
    struct iovec store;
    struct iov iov = iov_one(&store, op->buf, op->len);

    switch (op->kind) {
    case OP_READ: op->result = node_co_preadv(top, op->off, iov, 0); break;
    case OP_COR:
        op->result = node_co_read_populate(top, op->base, op->off, iov, 0);
        break;
    case OP_WRITE: op->result = node_co_pwritev(top, op->off, iov, 0); break;
    case OP_ZERO: op->result = node_co_zero(top, op->off, op->len, 0); break;
    case OP_DISCARD: op->result = node_co_discard(top, op->off, op->len); break;
    case OP_POPULATE:
        op->result = node_co_populate(top, op->base, op->off, op->len, 0,
                                      &op->populated);
        break;
    }
    op->done = true;
    co_latch_done(&op->latch);
}

struct op *op_start(struct env *e, enum op_kind kind, uint64_t off,
                    uint64_t len, unsigned seed)
{
    struct op *op = g_new0(struct op, 1);

    op->e = e;
    op->kind = kind;
    op->off = off;
    op->len = len;
    op->buf = g_malloc(len);
    memset(op->buf, 0xa5, len);
    if (kind == OP_WRITE) {
        ram_fill_buf(op->buf, off, len, seed);
        memcpy(e->expect + off, op->buf, len);
    } else if (kind == OP_ZERO) {
        memset(e->expect + off, 0, len);
    }
    co_latch_add(&op->latch);
    co_start(loop_current(), op_entry, op);
    return op;
}

int op_co_finish(struct op *op)
{
    int r;

    co_latch_co_wait(&op->latch);
    r = op->result;
    if (r == 0 && (op->kind == OP_READ || op->kind == OP_COR)) {
        assert_same(op->buf, op->e->expect + op->off, op->off, op->len);
    }
    g_free(op->buf);
    g_free(op);
    return r;
}

int env_co_do(struct env *e, enum op_kind kind, uint64_t off, uint64_t len,
              unsigned seed)
{
    return op_co_finish(op_start(e, kind, off, len, seed));
}
