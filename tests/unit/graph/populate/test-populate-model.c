/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Populate against a model: guests and populates work on one overlay at once,
 * over a base that answers late, in an order that a seed decides.
 *
 * Each guest owns stripes of the disk and is the only one to change them, so it
 * knows every byte that it must read there, whatever the others do to the rest
 * of the same clusters.  Stripes may be smaller or larger than clusters.  Reads
 * and populates go everywhere.  Operations fail now and then; what a failed
 * write left, old bytes or new, is found out by reading and must stay.
 */
#include <glib.h>
#include <stdlib.h>
#include <string.h>
#include "coro.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/model/in-flight.h"
#include "graph/node.h"
#include "graph/populate.h"
#include "loop/loop.h"
#include "ram.h"

#define KIB 1024u
#define GUESTS 4
#define COPIERS 2
#define OPS_EACH 150
#define OP_MAX (100 * KIB)

struct model {
    GRand *rand;
    struct graph *g;
    struct ram_disk *d_top, *d_mid, *d_base;
    struct node *top, *mid, *base;
    uint64_t size, stripe;
    uint8_t *shadow;
    unsigned fault_percent;
    bool calm;         /* no more delays or faults */
    unsigned failures; /* seen by guests and copiers */
    struct co_latch running;
};
struct guest {
    struct model *m;
    unsigned id;
};

static uint64_t rand_below(struct model *m, uint64_t n)
{
    return n ? (uint64_t)(g_rand_double(m->rand) * n) : 0;
}

static bool rand_percent(struct model *m, unsigned percent)
{
    return rand_below(m, 100) < percent;
}

/* Lateness: of anything, by a random number of turns. */
static CO_FN int model_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                               uint64_t len, bool after)
{
    struct model *m = d->arg;
    unsigned most = d == m->d_top ? 6 : 40;

    if (m->calm || (op == RAM_STATUS && !rand_percent(m, 20))) {
        return 0;
    }
    for (unsigned i = rand_below(m, most); i > 0; i--) {
        co_relax();
    }
    if (!after && op != RAM_STATUS && rand_percent(m, m->fault_percent)) {
        return d == m->d_top ? -ENOSPC : -EIO;
    }
    return 0;
}

static void pick_range(struct model *m, uint64_t *off, uint64_t *len)
{
    *off = rand_below(m, m->size);
    *len = 1 + rand_below(m, MIN(OP_MAX, m->size - *off));
    if (rand_percent(m, 50)) {
        *off -= *off % 512;
        *len = MIN(*len + 511 - (*len + 511) % 512, m->size - *off);
    }
}

/* A piece of a stripe that @g owns. */
static void pick_own(struct guest *g, uint64_t *off, uint64_t *len)
{
    struct model *m = g->m;
    uint64_t count = (m->size + m->stripe - 1) / m->stripe;
    uint64_t s, end;

    do {
        s = rand_below(m, (count + GUESTS - 1) / GUESTS) * GUESTS + g->id;
    } while (s >= count);
    end = MIN((s + 1) * m->stripe, m->size);
    *off = s * m->stripe;
    if (rand_percent(m, 60)) {
        *off += rand_below(m, end - *off);
        end = *off + 1 + rand_below(m, end - *off);
    }
    *len = end - *off;
}

static CO_FN int model_co_read(struct model *m, uint64_t off, uint8_t *buf,
                               uint64_t len)
{
    struct iovec v[2] = { { buf, len / 2 }, { buf + len / 2, len - len / 2 } };
    struct iov iov = { v, 2, 0, len };

    if (len < 2) {
        iov = iov_one(v, buf, len);
    }
    if (!m->calm && rand_percent(m, 60)) {
        struct node *base = m->mid && rand_percent(m, 30) ? m->base : NULL;

        return node_co_read_populate(m->top, base, off, iov, 0);
    }
    return node_co_preadv(m->top, off, iov, 0);
}

static void check(struct guest *g, uint64_t off, uint64_t len,
                  const uint8_t *buf)
{
    struct model *m = g->m;

    for (uint64_t i = 0; i < len; i++) {
        if ((off + i) / m->stripe % GUESTS == g->id &&
            buf[i] != m->shadow[off + i]) {
            g_error("guest %u, offset 0x%" G_GINT64_MODIFIER "x: reads 0x%02x, "
                    "wrote 0x%02x",
                    g->id, off + i, buf[i], m->shadow[off + i]);
        }
    }
}

static CO_FN void guest_co_read(struct guest *g)
{
    uint64_t off, len;
    g_autofree uint8_t *buf = NULL;

    pick_range(g->m, &off, &len);
    buf = g_malloc(len);
    if (model_co_read(g->m, off, buf, len) == 0) {
        check(g, off, len, buf);
    } else {
        g->m->failures++;
    }
}

/* Any mixture of @old and @new is allowed; from now on it is what is there. */
static CO_FN void guest_co_find_out(struct guest *g, uint64_t off, uint64_t len,
                                    const uint8_t *new)
{
    struct model *m = g->m;
    g_autofree uint8_t *buf = g_malloc(len);

    while (model_co_read(m, off, buf, len) < 0) {
        m->failures++;
    }
    for (uint64_t i = 0; i < len; i++) {
        if (buf[i] != m->shadow[off + i] && buf[i] != (new ? new[i] : 0)) {
            g_error("guest %u, offset 0x%" G_GINT64_MODIFIER "x: neither old "
                    "nor new: 0x%02x",
                    g->id, off + i, buf[i]);
        }
        m->shadow[off + i] = buf[i];
    }
}

static CO_FN void guest_co_change(struct guest *g)
{
    struct model *m = g->m;
    unsigned what = rand_below(m, 10);
    g_autofree uint8_t *buf = NULL;
    struct iovec store;
    uint64_t off, len;
    int r;

    pick_own(g, &off, &len);
    buf = g_malloc0(len);
    if (what < 6) {
        memset(buf, 1 + rand_below(m, 255), len);
        r = node_co_pwritev(m->top, off, iov_one(&store, buf, len), 0);
    } else if (what < 8) {
        r = node_co_zero(m->top, off, len, what == 6 ? IO_MAY_UNMAP : 0);
    } else {
        r = node_co_discard(m->top, off, len);
        guest_co_find_out(g, off, len, buf);
        return;
    }
    if (r < 0) {
        m->failures++;
        guest_co_find_out(g, off, len, buf);
    } else {
        memcpy(m->shadow + off, buf, len);
    }
}

static CO_FN void guest_entry(void *arg)
{
    struct guest *g = arg;

    for (unsigned i = 0; i < OPS_EACH; i++) {
        if (rand_percent(g->m, 50)) {
            guest_co_read(g);
        } else {
            guest_co_change(g);
        }
    }
    co_latch_done(&g->m->running);
}

static CO_FN void copier_entry(void *arg)
{
    struct model *m = arg;

    for (unsigned i = 0; i < OPS_EACH / 4; i++) {
        uint64_t off, len;
        int r;

        pick_range(m, &off, &len);
        if (rand_percent(m, 10)) {
            off = 0;
            len = m->size;
        }
        r = node_co_populate(m->top,
                             m->mid && rand_percent(m, 50) ? m->base : NULL,
                             off, len, IO_BACKGROUND, NULL);
        m->failures += r < 0;
        for (unsigned t = rand_below(m, 30); t > 0; t--) {
            co_relax();
        }
    }
    co_latch_done(&m->running);
}

/* --- one run --- */

static CO_FN struct ram_disk *model_co_disk(struct model *m, const char *name,
                                            uint64_t size, uint32_t cluster)
{
    struct ram_disk *d = ram_disk_new(name, size, cluster);

    d->co_hook = model_co_hook;
    d->arg = m;
    return d;
}

/* Data, holes and, with clusters, nothing, in random runs. */
static void scatter(struct model *m, struct ram_disk *d, unsigned seed)
{
    for (uint64_t off = 0; off < d->size;) {
        uint64_t len = d->unit * (1 + rand_below(m, d->cluster ? 3 : 200));
        unsigned what = rand_below(m, d->cluster ? 3 : 2);

        len = MIN(len, d->size - off);
        if (what == 0) {
            ram_disk_fill(d, off, len, seed);
        } else {
            ram_disk_set(d, off, len, what == 1 ? RAM_ZEROES : RAM_ABSENT);
        }
        off += len;
    }
}

static CO_FN void model_co_init(struct model *m, unsigned seed)
{
    static const uint32_t clusters[] = { 4 * KIB, 16 * KIB, 64 * KIB };
    uint32_t cluster, tail;

    *m = (struct model) { .rand = g_rand_new_with_seed(seed), .calm = true };
    cluster = clusters[rand_below(m, G_N_ELEMENTS(clusters))];
    tail = rand_percent(m, 50) ? rand_below(m, cluster) : 0;
    m->size = (uint64_t)cluster * (8 + rand_below(m, 24)) + tail;
    m->stripe = rand_percent(m, 50)
                    ? 700 + rand_below(m, cluster / 2)
                    : (uint64_t)cluster * (1 + rand_below(m, 2));
    m->fault_percent = rand_percent(m, 50) ? 0 : 4;
    m->shadow = g_malloc0(m->size);
    m->d_top = model_co_disk(m, "top", m->size, cluster);
    m->d_top->no_zero_clusters = rand_percent(m, 25);
    m->d_base = model_co_disk(m, "base", 1 + rand_below(m, m->size + cluster),
                              0);
    scatter(m, m->d_base, 1);
    if (rand_percent(m, 50)) {
        m->d_mid = model_co_disk(m, "mid", 1 + rand_below(m, m->size + cluster),
                                 clusters[rand_below(m, 3)]);
        scatter(m, m->d_mid, 2);
    }
}

static CO_FN struct node *model_co_open(struct model *m, struct ram_disk *d,
                                        struct node *below, unsigned flags)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:s*}", "driver", "ram", "node-name",
                          d->name, "disk", d->name, "backing",
                          below ? below->name : NULL);
    GError *err = NULL;
    struct node *n = NULL;

    node_co_open(m->g, o, flags, &n, &err);
    g_assert_no_error(err);
    json_decref(o);
    return n;
}

static CO_FN void model_co_close(struct model *m)
{
    g_assert_false(inflight_any(m->top));
    node_co_unref(m->top);
    if (m->mid) {
        node_co_unref(m->mid);
        ram_disk_free(m->d_mid);
    }
    node_co_unref(m->base);
    graph_co_free(m->g);
    ram_disk_free(m->d_top);
    ram_disk_free(m->d_base);
    g_rand_free(m->rand);
    g_free(m->shadow);
}

/* Everything is copied; the overlay alone now holds what the model says. */
static CO_FN void model_co_finish(struct model *m)
{
    g_autofree uint8_t *buf = g_malloc(m->size);
    GError *err = NULL;
    struct edge *e;

    m->calm = true;
    g_assert_cmpint(node_co_populate(m->top, NULL, 0, m->size, 0, NULL), ==, 0);
    for (uint64_t off = 0; off < m->size; off += m->d_top->cluster) {
        g_assert_cmpint(ram_disk_state(m->d_top, off), !=, RAM_ABSENT);
    }
    e = node_child(m->top, "backing");
    edge_co_detach(e);
    g_assert_no_error(err);
    g_assert_cmpint(model_co_read(m, 0, buf, m->size), ==, 0);
    for (unsigned i = 0; i < GUESTS; i++) {
        struct guest g = { m, i };

        check(&g, 0, m->size, buf);
    }
}

static CO_FN void model_entry(void *arg)
{
    struct guest guests[GUESTS];
    struct model m;

    model_co_init(&m, GPOINTER_TO_UINT(arg));
    m.g = graph_new(loop_current(),
                    (const struct node_driver *const[]) { &ram_driver, NULL });
    m.base = model_co_open(&m, m.d_base, NULL, 0);
    m.mid = m.d_mid ? model_co_open(&m, m.d_mid, m.base, 0) : NULL;
    m.top = model_co_open(&m, m.d_top, m.mid ? m.mid : m.base, NODE_RDWR);
    g_assert_cmpint(model_co_read(&m, 0, m.shadow, m.size), ==, 0);

    m.calm = false;
    for (unsigned i = 0; i < GUESTS; i++) {
        guests[i] = (struct guest) { &m, i };
        co_latch_add(&m.running);
        co_start(loop_current(), guest_entry, &guests[i]);
    }
    for (unsigned i = 0; i < COPIERS; i++) {
        co_latch_add(&m.running);
        co_start(loop_current(), copier_entry, &m);
    }
    co_latch_co_wait(&m.running);
    g_assert_true(m.fault_percent > 0 || m.failures == 0);
    model_co_finish(&m);
    model_co_close(&m);
}

static void test_seeds(gconstpointer arg)
{
    unsigned first = GPOINTER_TO_UINT(arg), count = 1;
    const char *env = g_getenv("SLUICE_TEST_SEED");

    if (env) {
        first = atoi(env);
    } else if (first == 0) {
        first = (unsigned)g_test_rand_int() | 1;
    } else {
        count = 25;
    }
    for (unsigned seed = first; seed < first + count; seed++) {
        g_test_message("seed %u (SLUICE_TEST_SEED replays it)", seed);
        coro_run(model_entry, GUINT_TO_POINTER(seed));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/graph/populate/model/fixed", GUINT_TO_POINTER(1),
                         test_seeds);
    g_test_add_data_func("/graph/populate/model/new", GUINT_TO_POINTER(0),
                         test_seeds);
    return g_test_run();
}
