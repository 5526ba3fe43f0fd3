/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a storage answers for of the time that a guest waits: its own part and
 * all waits, but not what other storages took, nor limits that were set. */
#include <glib.h>
#include "fake.h"
#include "graph/background/control.h"
#include "graph/io.h"

#define MS UINT64_C(1000000)
#define KIB UINT64_C(1024)

/* --- storage that takes its time, and a filter that does --- */

static uint64_t slow_ns, filter_ns, excused_ns;

static CO_FN int slow_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    co_sleep(slow_ns);
    iov_memset(iov, 0, 5, iov.len);
    return 0;
}

static CO_FN int slow_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    n->size = 64 * KIB;
    return 0;
}

static const struct node_driver slow_driver = {
    .name = "slow",
    .kind = NODE_PROTOCOL,
    .state_size = 1,
    .co_open = slow_co_open,
    .co_preadv = slow_co_preadv,
};

static CO_FN int filter_co_open(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    return node_co_open_file(n, o, err);
}

/* Reads twice: from its file, then from the other storage. */
static struct node *other;

static CO_FN int filter_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                  unsigned flags)
{
    int ret;

    co_sleep(filter_ns);
    node_demand_excuse(n, flags, excused_ns);
    ret = node_co_preadv(node_file(n), off, iov, flags);
    if (ret == 0 && other) {
        slow_ns *= 4;
        ret = node_co_preadv(other, off, iov, flags);
        slow_ns /= 4;
    }
    return ret;
}

static const struct node_driver filter_driver = {
    .name = "filter",
    .kind = NODE_FILTER,
    .state_size = 1,
    .co_open = filter_co_open,
    .co_preadv = filter_co_preadv,
};

static const struct node_driver *const drivers[] = { &slow_driver,
                                                     &filter_driver, NULL };

/* --- --- */

/* The one request that @n's storage has seen took about @ns. */
static void expect_seen(struct node *n, uint64_t ns)
{
    const struct latency *h = &node_storage(n)->priv->control->limit.seen;

    g_assert_cmpuint(h->total, ==, 1);
    g_assert_cmpuint(latency_quantile(h, 100), >=, ns - ns / 16);
    /* A busy machine stretches it. */
    g_assert_cmpuint(latency_over(h, 3 * ns), ==, 0);
}

static void forget(struct node *n)
{
    latency_clear(&node_storage(n)->priv->control->limit.seen);
}

static CO_FN void demand_entry(void *arg)
{
    struct graph *g = graph_new(loop_current(), drivers);
    struct node *top = fake_co_open(g, "{'driver': 'filter', 'file': "
                                       "{'driver': 'slow'}}");
    struct backend *u = fake_co_backend(top, 0, PERM_ALL);
    uint8_t buf[512];
    struct iovec v;

    other = NULL;
    slow_ns = 20 * MS;
    filter_ns = excused_ns = 0;
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==, 0);
    expect_seen(top, 20 * MS);
    forget(top);
    /* Background work is not looked at. */
    g_assert_cmpint(
        backend_co_preadv(u, 0, iov_one(&v, buf, 512), IO_BACKGROUND), ==, 0);
    g_assert_cmpuint(node_storage(top)->priv->control->limit.seen.total, ==, 0);
    /* What it waited above the storage is the storage's, too ... */
    filter_ns = 300 * MS;
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==, 0);
    expect_seen(top, 320 * MS);
    forget(top);
    /* ... unless that was for another reason ... */
    excused_ns = 300 * MS;
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==, 0);
    expect_seen(top, 20 * MS);
    forget(top);
    /* ... or for another storage. */
    filter_ns = excused_ns = 0;
    other = fake_co_open(g, "{'driver': 'slow'}");
    g_assert_cmpint(backend_co_preadv(u, 0, iov_one(&v, buf, 512), 0), ==, 0);
    expect_seen(top, 20 * MS);
    expect_seen(other, 80 * MS);
    node_co_unref(other);
    backend_co_free(u);
    node_co_unref(top);
    graph_co_free(g);
}

static void test_demand(void)
{
    fake_run(demand_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/background/demand", test_demand);
    return g_test_run();
}
