/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads through long chains: what is known of who answers is right whatever is
 * written, zeroed, inserted and taken out anywhere, and saves the walk. */
#include "fake.h"

#define IMAGES 24
#define SIZE (1u << 20)
#define BLOCK 4096u
#define BLOCKS (SIZE / BLOCK)

struct world {
    struct graph *g;
    struct node *image[IMAGES]; /* 0 is the lowest */
    struct backend *user[IMAGES];
    unsigned below[IMAGES];    /* number of the image, or IMAGES: none */
    int bytes[IMAGES][BLOCKS]; /* what each block holds; -1: nothing */
};

/* Everybody may write anywhere: readers here expect it. */
static CO_FN void link_loosen(struct node *n)
{
    GError *err = NULL;

    edge_co_set_perms(node_child(n, "backing"), 0, PERM_ALL, &err);
    g_assert_no_error(err);
}

static CO_FN void world_co_init(struct world *w)
{
    static const unsigned clusters[] = { 4096, 4096, 8192, 65536 };

    w->g = fake_graph();
    for (unsigned i = 0; i < IMAGES; i++) {
        g_autofree char *below = i ? g_strdup_printf("'n%u'", i - 1)
                                   : g_strdup("null");

        w->image[i] = fake_co_open(
            w->g,
            "{'driver': 'fake', 'node-name': 'n%u', 'size': %u, 'cluster': %u, "
            "'backing': %s}",
            i, SIZE, clusters[g_test_rand_int_range(0, 4)], below);
        if (i) {
            link_loosen(w->image[i]);
        }
        w->user[i] = fake_co_backend(
            w->image[i], PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL);
        w->below[i] = i ? i - 1 : IMAGES;
        memset(w->bytes[i], 0xff, sizeof(w->bytes[i]));
    }
}

static CO_FN void world_co_end(struct world *w)
{
    for (unsigned i = 0; i < IMAGES; i++) {
        backend_co_free(w->user[i]);
        node_co_unref(w->image[i]);
    }
    graph_co_free(w->g);
}

/* What block @b of image @i reads as. */
static int world_find(const struct world *w, unsigned i, unsigned b)
{
    while (i < IMAGES && w->bytes[i][b] < 0) {
        i = w->below[i];
    }
    return i < IMAGES ? w->bytes[i][b] : 0;
}

static CO_FN void world_co_check(struct world *w, unsigned i, unsigned from,
                                 unsigned to)
{
    g_autofree uint8_t *buf = g_malloc((size_t)(to - from) * BLOCK);
    struct iovec v;

    g_assert_cmpint(backend_co_preadv(w->user[i], from * BLOCK,
                                      iov_one(&v, buf, (to - from) * BLOCK), 0),
                    ==, 0);
    for (unsigned b = from; b < to; b++) {
        int want = world_find(w, i, b);

        for (unsigned at = 0; at < BLOCK; at++) {
            g_assert_cmpint(buf[(b - from) * BLOCK + at], ==, want);
        }
    }
}

/* A write brings the rest of its clusters along; zeroes that are there already
 * need not be kept. */
static void world_note(struct world *w, unsigned i, unsigned from, unsigned to,
                       int value)
{
    unsigned per = w->image[i]->priv->limits.cluster_size / BLOCK;
    unsigned first = from / per * per, end = (to + per - 1) / per * per;

    for (unsigned b = first; b < MIN(end, BLOCKS); b++) {
        if (fake_of(w->image[i])->map[b / per] == FAKE_NONE) {
            continue;
        }
        w->bytes[i][b] = b >= from && b < to ? value : world_find(w, i, b);
    }
}

static CO_FN void world_co_change(struct world *w)
{
    unsigned i = (unsigned)g_test_rand_int_range(0, IMAGES);
    unsigned from = (unsigned)g_test_rand_int_range(0, BLOCKS);
    unsigned to = from + 1 + (unsigned)g_test_rand_int_range(0, 4);
    bool zero = g_test_rand_int_range(0, 4) == 0;
    int value = zero ? 0 : g_test_rand_int_range(1, 256);

    to = MIN(to, BLOCKS);
    if (zero) {
        g_assert_cmpint(
            backend_co_zero(w->user[i], from * BLOCK, (to - from) * BLOCK, 0),
            ==, 0);
    } else {
        fake_co_write(w->user[i], from * BLOCK, (to - from) * BLOCK, value);
    }
    world_note(w, i, from, to, value);
}

/* The link of an image leads past some of those below it, or back. */
static CO_FN void world_co_relink(struct world *w)
{
    unsigned i = (unsigned)g_test_rand_int_range(1, IMAGES);
    unsigned to = (unsigned)g_test_rand_int_range(0, (int)i);
    GError *err = NULL;

    edge_co_replace(node_child(w->image[i], "backing"), w->image[to], &err);
    g_assert_no_error(err);
    w->below[i] = to;
}

static CO_FN void model_entry(void *arg)
{
    struct world *w = g_new0(struct world, 1);

    world_co_init(w);
    for (unsigned round = 0; round < 600; round++) {
        unsigned i = g_test_rand_bit()
                         ? IMAGES - 1
                         : (unsigned)g_test_rand_int_range(0, IMAGES);
        unsigned from = (unsigned)g_test_rand_int_range(0, BLOCKS);
        unsigned len = (unsigned)g_test_rand_int_range(1, 40);

        world_co_check(w, i, from, MIN(from + len, BLOCKS));
        world_co_change(w);
        if (round % 50 == 49) {
            world_co_relink(w);
            world_co_check(w, IMAGES - 1, 0, BLOCKS);
        }
    }
    for (unsigned i = 0; i < IMAGES; i++) {
        world_co_check(w, i, 0, BLOCKS);
    }
    world_co_end(w);
    g_free(w);
}

static unsigned world_asked(const struct world *w)
{
    unsigned asked = 0;

    for (unsigned i = 1; i < IMAGES - 2; i++) {
        asked += fake_of(w->image[i])->statuses;
    }
    return asked;
}

/* After the first touch none is asked but who answers. */
static CO_FN void walk_entry(void *arg)
{
    struct world *w = g_new0(struct world, 1);
    unsigned asked;

    world_co_init(w);
    fake_co_write(w->user[0], 0, SIZE, 7);
    world_note(w, 0, 0, BLOCKS, 7);
    world_co_check(w, IMAGES - 1, 0, BLOCKS);
    asked = world_asked(w);
    g_assert_cmpuint(asked, >=, IMAGES - 3);
    world_co_check(w, IMAGES - 1, 0, BLOCKS);
    for (unsigned b = 0; b < BLOCKS; b++) {
        world_co_check(w, IMAGES - 1, b, b + 1);
    }
    /* What guests write above changes nothing. */
    fake_co_write(w->user[IMAGES - 1], 0, BLOCK, 9);
    world_note(w, IMAGES - 1, 0, 1, 9);
    world_co_check(w, IMAGES - 1, 0, BLOCKS);
    g_assert_cmpuint(world_asked(w), ==, asked);
    /* What is written in between is seen. */
    fake_co_write(w->user[IMAGES / 2], 8 * BLOCK, BLOCK, 5);
    world_note(w, IMAGES / 2, 8, 9, 5);
    world_co_check(w, IMAGES - 1, 0, BLOCKS);
    world_co_end(w);
    g_free(w);
}

static void test_model(void)
{
    fake_run(model_entry, NULL);
}

static void test_walk(void)
{
    fake_run(walk_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/chain-map/model", test_model);
    g_test_add_func("/chain-map/walk", test_walk);
    return g_test_run();
}
