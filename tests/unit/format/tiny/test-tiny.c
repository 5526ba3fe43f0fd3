/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The smallest format that allocates, on the simulated machine, in memory: the
 * random model over a base with reopening; then what it lacks is populated, and
 * it stands alone.
 */
#include <string.h>
#include "graph/populate.h"
#include "model.h"
#include "tiny.h"
#include "util.h"

enum { DISK = (3 << 20) + 5 * 512, BASE = DISK - 100000 };

static CO_FN struct node *tiny_co_open_image(struct graph *g, unsigned flags,
                                             bool over_base)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", "tiny", "file",
                          "driver", "file", "filename", "/top");
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    if (over_base) {
        json_object_set_new(o, "backing",
                            json_pack("{s:s,s:{s:s,s:s}}", "driver", "raw",
                                      "file", "driver", "file", "filename",
                                      "/base"));
    }
    node_co_open(g, o, flags, &n, &err);
    g_assert_no_error(err);
    json_decref(o);
    return n;
}

static CO_FN void base_co_write(struct graph *g, uint8_t *shadow)
{
    json_t *o = json_pack("{s:s,s:s}", "driver", "file", "filename", "/base");
    struct node *n;

    make_as(g, NULL, "/base", NULL);
    node_co_open(g, o, NODE_RDWR, &n, NULL);
    model_fill(shadow, BASE, 3);
    g_assert_cmpint(do_write(n, 0, shadow, BASE, 0), ==, 0);
    node_co_unref(n);
    json_decref(o);
}

static CO_FN void model_run(struct graph *g, bool over_base)
{
    g_autofree uint8_t *shadow = g_malloc0(DISK), *buf = g_malloc(DISK);
    uint32_t seed = g_test_rand_int() & 0x7fffffff;
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    struct node *n;

    g_test_message("seed %u", seed);
    if (over_base) {
        base_co_write(g, shadow);
    }
    make_as(g, &tiny_driver, "/top", json_pack("{s:i}", "size", DISK));
    for (unsigned round = 0; round < 4; round++) {
        n = tiny_co_open_image(g, NODE_RDWR, over_base);
        for (unsigned i = 0; i < 100; i++) {
            model_co_step(n, shadow, DISK, rand, buf);
        }
        model_co_compare(n, shadow, DISK, buf);
        node_co_unref(n);
        n = tiny_co_open_image(g, 0, over_base);
        model_co_compare(n, shadow, DISK, buf);
        node_co_unref(n);
    }
    if (over_base) {
        n = tiny_co_open_image(g, NODE_RDWR, true);
        g_assert_cmpint(node_co_populate(n, NULL, 0, DISK, 0, NULL), ==, 0);
        node_co_unref(n);
    }
    n = tiny_co_open_image(g, 0, false);
    model_co_compare(n, shadow, DISK, buf);
    node_co_unref(n);
}

static CO_FN void plain_run(struct graph *g)
{
    model_run(g, false);
}

static CO_FN void overlay_run(struct graph *g)
{
    model_run(g, true);
}

static void test_plain(void)
{
    run_graph_on_sim(g_test_rand_int(), plain_run);
}

static void test_overlay(void)
{
    run_graph_on_sim(g_test_rand_int(), overlay_run);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    run_graph_add(&tiny_driver);
    g_test_add_func("/tiny/plain", test_plain);
    g_test_add_func("/tiny/overlay", test_overlay);
    return g_test_run();
}
