/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Storage with limits: alignment, largest transfer, growth, flushes. */
#include "fake.h"

static CO_FN void align_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram', 'align': 512, "
                                     "'mem-align': 512, 'max': 4096, "
                                     "'size': 100000}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    GRand *rand = g_rand_new_with_seed((guint32)g_test_rand_int());
    uint8_t *model = g_malloc0(100000), *buf = g_malloc(20001);

    for (int i = 0; i < 300; i++) {
        uint64_t off = (uint64_t)g_rand_int_range(rand, 0, 80000);
        size_t len = (size_t)g_rand_int_range(rand, 1, 20000);
        struct iovec v[2] = { { buf + 1, len / 3 },
                              { buf + 1 + len / 3, len - len / 3 } };

        memset(buf, i, 20001);
        memset(model + off, i, len);
        g_assert_cmpint(
            backend_co_pwritev(u, off, (struct iov) { v, 2, 0, len }, 0), ==,
            0);
        off = (uint64_t)g_rand_int_range(rand, 0, 80000);
        g_assert_cmpint(
            backend_co_preadv(u, off, (struct iov) { v, 2, 0, len }, 0), ==, 0);
        g_assert_cmpint(memcmp(buf + 1, model + off, len), ==, 0);
    }
    g_assert_cmpint(memcmp(ram_of(n)->bytes, model, 100000), ==, 0);
    g_rand_free(rand);
    g_free(model);
    g_free(buf);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

struct small {
    struct backend *u;
    unsigned id, *left;
};

static CO_FN void small_entry(void *arg)
{
    struct small *s = arg;

    fake_co_write(s->u, s->id * 10, 10, (int)s->id);
    --*s->left;
}

/* Read-modify-write of one block by many at once loses nothing. */
static CO_FN void rmw_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram', 'align': 4096}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    struct small s[200];
    unsigned left = 200;

    for (unsigned i = 0; i < 200; i++) {
        s[i] = (struct small) { u, i, &left };
        co_start(g->loop, small_entry, &s[i]);
    }
    while (left > 0) {
        co_relax();
    }
    for (unsigned i = 0; i < 200; i++) {
        fake_co_expect(u, i * 10, 10, (int)i);
    }
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

static CO_FN void grow_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram', 'size': 1000}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    uint8_t buf[100];
    struct iovec store;
    struct iov iov = iov_one(&store, buf, sizeof(buf));

    memset(buf, 7, sizeof(buf));
    /* Users may not go past the end, drivers may. */
    g_assert_cmpint(backend_co_pwritev(u, 950, iov, 0), ==, -EIO);
    g_assert_cmpint(node_co_pwritev(n, 2000, iov, 0), ==, 0);
    g_assert_cmpuint(n->size, ==, 2100);
    g_assert_cmpint(node_co_preadv(n, 2050, iov, 0), ==, 0);
    g_assert_cmpint(buf[49], ==, 7);
    g_assert_cmpint(buf[50], ==, 0);
    g_assert_cmpint(node_co_pwritev(n, UINT64_MAX - 10, iov, 0), ==, -EIO);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

struct far {
    struct node *n, *src; /* @src: clone from there */
    bool done;
};

static CO_FN void far_entry(void *arg)
{
    struct far *f = arg;
    uint8_t buf[4096];
    struct iovec store;

    memset(buf, 9, sizeof(buf));
    g_assert_cmpint(
        f->src
            ? node_co_copy_in(f->n, 8192, f->src, 0, sizeof(buf), 0)
            : node_co_pwritev(f->n, 8192, iov_one(&store, buf, sizeof(buf)), 0),
        ==, 0);
    f->done = true;
}

/* A write inside storage of an odd length leaves it as long as it was, and
 * does not cut off what others write behind it meanwhile. */
static CO_FN void tail_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram', 'align': 4096, "
                                     "'size': 5000}");
    struct node *src = fake_co_open(g, "{'driver': 'ram', 'align': 4096}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);

    memset(ram_of(src)->bytes, 9, 4096);
    fake_co_write(u, 4500, 500, 1);
    g_assert_cmpuint(n->size, ==, 5000);
    g_assert_cmpint(backend_co_zero(u, 4900, 100, 0), ==, 0);
    g_assert_cmpuint(n->size, ==, 5000);
    fake_co_expect(u, 4500, 400, 1);
    fake_co_expect(u, 4900, 100, 0);
    for (unsigned i = 0; i < 16; i++) {
        struct far f = { .n = n, .src = i % 2 ? src : NULL };
        unsigned turns = i / 2;

        g_assert_cmpint(node_co_truncate(n, 5000, NULL), ==, 0);
        co_start(g->loop, far_entry, &f);
        for (unsigned t = 0; t < turns; t++) {
            co_relax();
        }
        fake_co_write(u, 4000, 1000, 2);
        fake_co_wait(&f.done);
        g_assert_cmpuint(n->size, ==, 8192 + 4096);
        fake_co_expect(u, 4000, 1000, 2);
        fake_co_expect(u, 5000, 8192 - 5000, 0);
        fake_co_expect(u, 8192, 4096, 9);
    }
    backend_co_free(u);
    node_co_unref(src);
    node_co_unref(n);
    graph_co_free(g);
}

static CO_FN void flush_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram'}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    struct iovec store;
    char b = 1;

    /* What an earlier opener wrote may not be durable yet. */
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    g_assert_cmpuint(ram_of(n)->flushes, ==, 1);
    fake_co_write(u, 0, 1, 1);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    g_assert_cmpuint(ram_of(n)->flushes, ==, 2);
    /* FUA on a driver that has none. */
    g_assert_cmpint(backend_co_pwritev(u, 0, iov_one(&store, &b, 1), IO_FUA),
                    ==, 0);
    g_assert_cmpuint(ram_of(n)->flushes, ==, 3);
    /* A failure is kept, whatever storage would say the next time (G6). */
    fake_co_write(u, 0, 1, 1);
    ram_of(n)->fail_flush = -ENOSPC;
    g_assert_cmpint(backend_co_flush(u), ==, -ENOSPC);
    ram_of(n)->fail_flush = 0;
    g_assert_cmpint(backend_co_flush(u), ==, -EIO);
    fake_co_write(u, 0, 1, 1);
    g_assert_cmpint(backend_co_flush(u), ==, -EIO);
    g_assert_cmpuint(ram_of(n)->flushes, ==, 4);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

#define TEST(name) \
    static void test_##name(void) \
    { \
        fake_run(name##_entry, NULL); \
    }
TEST(align)
TEST(rmw)
TEST(grow)
TEST(tail)
TEST(flush)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/align/model", test_align);
    g_test_add_func("/align/read-modify-write", test_rmw);
    g_test_add_func("/align/grow", test_grow);
    g_test_add_func("/align/tail", test_tail);
    g_test_add_func("/align/flush", test_flush);
    return g_test_run();
}
