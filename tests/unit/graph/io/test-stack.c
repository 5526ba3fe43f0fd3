/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real drivers together: QED over a file over a raw base in a file, cached
 * and with direct I/O, many writers against a model, reopened in between.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include "base/err.h"
#include "fake.h"
#include "filter/filter.h"
#include "format/format.h"
#include "graph/image.h"
#include "storage/storage.h"

#define SIZE (3 * 1024 * 1024 + 5 * 512)
#define BASE_SIZE (2 * 1024 * 1024 + 1536)
#define CELL 1536 /* one writer's bytes: 3 sectors */
#define CELLS (SIZE / CELL)
#define WRITERS 8

static const struct node_driver *const drivers[] = {
    &file_driver, &raw_driver, &qed_driver, &copy_on_read_driver, NULL,
};

struct stack {
    struct graph *g;
    struct node *top;
    struct backend *u;
    char *dir, *base, *overlay;
    const char *options;
    uint8_t *model;
    guint32 seed;
    unsigned running;
};

static void expect_ok(int ret, GError *err)
{
    g_assert_no_error(err);
    g_assert_cmpint(ret, ==, 0);
}

static void stack_make_base(struct stack *s)
{
    GRand *rand = g_rand_new_with_seed(s->seed);

    s->model = g_malloc0(SIZE);
    for (unsigned i = 0; i < BASE_SIZE; i++) {
        /* Every other 100 KiB is zeroes. */
        s->model[i] = i / 102400 % 2 ? 0 : (uint8_t)g_rand_int(rand);
    }
    g_rand_free(rand);
    g_assert_true(
        g_file_set_contents(s->base, (const char *)s->model, BASE_SIZE, NULL));
}

static CO_FN void stack_co_create(struct stack *s)
{
    struct graph *g = graph_new(co_loop(co_self()), drivers);
    json_t *o = json_pack("{s:i, s:s, s:s, s:i}", "size", SIZE, "backing_file",
                          "base.raw", "backing_fmt", "raw", "cluster_size",
                          65536);
    GError *err = NULL;

    expect_ok(image_co_create(g, &qed_driver, s->overlay, o, &err), err);
    json_decref(o);
    graph_co_free(g);
}

static CO_FN void stack_co_open(struct stack *s)
{
    char **parts = g_strsplit(s->options, "IMAGE", 2);
    char *text = g_strjoinv(s->overlay, parts);
    json_t *o = json_loads(text, 0, NULL);
    GError *err = NULL;

    g_strfreev(parts);
    g_assert_nonnull(o);
    s->g = graph_new(co_loop(co_self()), drivers);
    expect_ok(node_co_open(s->g, o, NODE_RDWR, &s->top, &err), err);
    expect_ok(backend_co_new(s->top, "guest", PERM_CONSISTENT_READ | PERM_WRITE,
                             PERM_ALL, NULL, NULL, &s->u, &err),
              err);
    json_decref(o);
    g_free(text);
}

static CO_FN void stack_co_close(struct stack *s)
{
    backend_co_free(s->u);
    node_co_unref(s->top);
    graph_co_free(s->g);
}

static CO_FN void stack_co_check_cell(struct stack *s, unsigned cell)
{
    uint8_t buf[CELL];
    struct iovec store;

    g_assert_cmpint(backend_co_preadv(s->u, (uint64_t)cell * CELL,
                                      iov_one(&store, buf, CELL), 0),
                    ==, 0);
    for (unsigned i = 0; i < CELL; i++) {
        if (buf[i] != s->model[cell * CELL + i]) {
            g_error("seed %u: byte %u is %02x, not %02x", s->seed,
                    cell * CELL + i, buf[i], s->model[cell * CELL + i]);
        }
    }
}

struct stack_writer {
    struct stack *s;
    unsigned id;
};

static CO_FN void stack_co_change(struct stack *s, unsigned cell, GRand *rand)
{
    uint8_t *at = s->model + cell * CELL;
    uint64_t off = (uint64_t)cell * CELL;
    int what = g_rand_int_range(rand, 0, 12);
    struct iovec store;

    if (what < 7) {
        /* Part of the cell, at any byte. */
        unsigned skip = (unsigned)g_rand_int_range(rand, 0, CELL);
        unsigned len = (unsigned)g_rand_int_range(rand, 1,
                                                  (gint32)(CELL - skip + 1));

        memset(at + skip, g_rand_int_range(rand, 0, 256), len);
        g_assert_cmpint(backend_co_pwritev(s->u, off + skip,
                                           iov_one(&store, at + skip, len),
                                           what == 0 ? IO_FUA : 0),
                        ==, 0);
    } else if (what < 10) {
        memset(at, 0, CELL);
        g_assert_cmpint(backend_co_zero(s->u, off, CELL, IO_MAY_UNMAP), ==, 0);
    } else if (what < 11) {
        g_assert_cmpint(backend_co_flush(s->u), ==, 0);
    }
}

static CO_FN void stack_writer_entry(void *arg)
{
    struct stack_writer *w = arg;
    struct stack *s = w->s;
    GRand *rand = g_rand_new_with_seed(s->seed + w->id);

    for (int i = 0; i < 60; i++) {
        unsigned cell = (unsigned)g_rand_int_range(rand, 0, CELLS / WRITERS) *
                            WRITERS +
                        w->id;

        stack_co_change(s, cell, rand);
        stack_co_check_cell(s, cell);
    }
    g_rand_free(rand);
    s->running--;
}

static CO_FN void stack_entry(void *arg)
{
    struct stack *s = arg;
    struct stack_writer w[WRITERS];

    stack_make_base(s);
    stack_co_create(s);
    for (unsigned round = 0; round < 3; round++) {
        stack_co_open(s);
        s->running = WRITERS;
        for (unsigned i = 0; i < WRITERS; i++) {
            w[i] = (struct stack_writer) { s, i };
            co_start(s->g->loop, stack_writer_entry, &w[i]);
        }
        while (s->running > 0) {
            co_sleep(1000000);
        }
        /* A large zero and a trim over it: never the base again. */
        if (round == 1) {
            g_assert_cmpint(backend_co_zero(s->u, 700000, 300000, 0), ==, 0);
            memset(s->model + 700000, 0, 300000);
            g_assert_cmpint(backend_co_discard(s->u, 720896, 131072), ==, 0);
        }
        stack_co_close(s);
        s->seed++;
        stack_co_open(s);
        for (unsigned cell = 0; cell < CELLS; cell++) {
            stack_co_check_cell(s, cell);
        }
        stack_co_close(s);
    }
}

static void test_stack(gconstpointer options)
{
    struct stack s = { .options = options };

    s.dir = g_dir_make_tmp("test-stack-XXXXXX", NULL);
    s.base = g_build_filename(s.dir, "base.raw", NULL);
    s.overlay = g_build_filename(s.dir, "top.qed", NULL);
    s.seed = (guint32)g_test_rand_int();
    g_test_message("seed %u", s.seed);
    fake_run(stack_entry, &s);
    g_unlink(s.base);
    g_unlink(s.overlay);
    g_rmdir(s.dir);
    g_free(s.base);
    g_free(s.overlay);
    g_free(s.dir);
    g_free(s.model);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func(
        "/stack/cached",
        "{\"driver\": \"qed\", \"file\": {\"driver\": \"file\", "
        "\"filename\": \"IMAGE\"}}",
        test_stack);
    g_test_add_data_func(
        "/stack/direct",
        "{\"driver\": \"qed\", \"cache\": {\"direct\": true}, \"file\": "
        "{\"driver\": \"file\", \"filename\": \"IMAGE\"}}",
        test_stack);
    g_test_add_data_func(
        "/stack/copy-on-read",
        "{\"driver\": \"copy-on-read\", \"file\": {\"driver\": \"qed\", "
        "\"file\": {\"driver\": \"file\", \"filename\": \"IMAGE\"}}}",
        test_stack);
    return g_test_run();
}
