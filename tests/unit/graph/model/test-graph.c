/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names, permissions, filters, chains, freezing, blockers, drain. */
#include "fake.h"
#include "graph/open/open.h"

#define C 4096

static void expect_error(GError **err, const char *text)
{
    char *message;

    g_assert_nonnull(*err);
    message = err_dup_message(*err);
    g_assert_cmpstr(message, ==, text);
    g_free(message);
    g_clear_error(err);
}

static void expect_text(char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("'%s' does not hold '%s'", text, part);
    }
    g_free(text);
}

static void find_empty(struct device *d, void *arg)
{
    if (d->empty) {
        *(struct device **)arg = d;
    }
}

static CO_FN void names_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *a = fake_co_open(g, "{'driver': 'ram', 'node-name': 'a'}");
    struct node *anon = fake_co_open(g, "{'driver': 'fake'}");
    struct device *d = NULL, *empty = NULL;
    GError *err = NULL;

    g_assert_true(node_find(g, "a", NULL) == a);
    g_assert_true(g_str_has_prefix(anon->name, "#block") && anon->auto_named);
    g_assert_null(node_find(g, "x", &err));
    expect_error(&err, "Cannot find device='' nor node-name='x'");
    g_assert_null(node_find_any(g, "x", &err));
    expect_error(&err, "Cannot find device='x' nor node-name='x'");
    expect_text(fake_co_open_fails(g, "{'driver': 'ram', 'node-name': 'a'}"),
                "Duplicate nodes with node-name='a'");
    expect_text(fake_co_open_fails(g, "{'driver': 'ram', 'node-name': '1'}"),
                "Invalid node-name: '1'");
    expect_text(fake_co_open_fails(g, "{'node-name': 'b'}"),
                "Parameter 'driver' is missing");
    expect_text(fake_co_open_fails(g, "{'driver': 'zzz'}"),
                "Parameter 'driver' does not accept value 'zzz'");
    expect_text(fake_co_open_fails(g, "{'driver': 'ram', 'zz': 1}"),
                "Block protocol 'ram' doesn't support the option 'zz'");
    expect_text(fake_co_open_fails(g, "{'driver': 'pass', 'file': 'zz'}"),
                "Cannot find device='zz' nor node-name='zz'");
    expect_text(fake_co_open_fails(g, "{'driver': 'fake', 'backing': "
                                      "{'driver': 'ram', 'zz': 1}}"),
                "Could not open backing file: Block protocol 'ram' doesn't "
                "support the option 'zz'");
    g_assert_cmpint(device_co_new(g, "virtio0", a, &d, &err), ==, 0);
    g_assert_true(node_find_any(g, "virtio0", NULL) == a);
    g_assert_true(device_of_node(a) == d);
    g_assert_cmpint(device_new_empty(g, "cd0", &err), ==, 0);
    g_assert_null(device_find(g, "cd0"));
    g_assert_null(node_find_any(g, "cd0", &err));
    expect_error(&err, "Device 'cd0' has no medium");
    g_assert_cmpint(device_new_empty(g, "cd0", &err), ==, -EEXIST);
    expect_error(&err, "Device with id 'cd0' already exists");
    expect_text(fake_co_open_fails(g, "{'driver': 'ram', 'node-name': 'cd0'}"),
                "node-name=cd0 is conflicting with a device id");
    graph_foreach_device(g, find_empty, &empty);
    g_assert_cmpstr(empty->id, ==, "cd0");
    device_co_free(empty);
    g_assert_false(device_is_empty(g, "cd0"));
    expect_text(fake_co_open_fails(g, "{'driver': 'ram', "
                                      "'node-name': 'virtio0'}"),
                "node-name=virtio0 is conflicting with a device id");
    g_assert_cmpuint(g->nodes->len, ==, 2);
    device_co_free(d);
    node_co_unref(a);
    node_co_unref(anon);
    graph_co_free(g);
}

static char *job_describe(void *arg)
{
    return g_strdup("stream job 'j'");
}

static CO_FN void perms_entry(void *arg)
{
    static const struct backend_ops job = { .describe = job_describe };
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram', 'node-name': 'n'}");
    struct node *ro = fake_co_open(g, "{'driver': 'ram', 'read-only': true}");
    struct node *f;
    struct backend *j = NULL, *u = NULL;
    GError *err = NULL;
    unsigned perm, shared;
    struct iovec store;
    char b = 0;

    backend_co_new(n, "job", PERM_CONSISTENT_READ, PERM_CONSISTENT_READ, &job,
                   NULL, &j, &err);
    g_assert_no_error(err);
    g_assert_cmpint(
        backend_co_new(n, "guest", PERM_WRITE, PERM_ALL, NULL, NULL, &u, &err),
        ==, -EPERM);
    expect_error(&err,
                 "Permission conflict on node 'n': permissions 'write' "
                 "are both required by guest (uses node 'n' as 'root' child) "
                 "and unshared by stream job 'j' (uses node 'n' as 'root' "
                 "child).");
    /* Through a filter the same. */
    f = fake_co_open(g, "{'driver': 'pass', 'node-name': 'f', 'file': 'n'}");
    g_assert_cmpint(
        backend_co_new(f, "guest", PERM_WRITE, PERM_ALL, NULL, NULL, &u, &err),
        ==, -EPERM);
    expect_error(&err,
                 "Permission conflict on node 'n': permissions 'write' "
                 "are both required by node 'f' (uses node 'n' as 'file' "
                 "child) and unshared by stream job 'j' (uses node 'n' as "
                 "'root' child).");
    node_cumulative_perms(n, &perm, &shared);
    g_assert_cmpuint(perm, ==, PERM_CONSISTENT_READ);
    backend_co_free(j);
    backend_co_new(f, "guest", PERM_WRITE, PERM_CONSISTENT_READ, NULL, NULL, &u,
                   &err);
    g_assert_no_error(err);
    g_assert_cmpuint(ram_of(n)->perm, ==, PERM_WRITE);
    g_assert_cmpuint(ram_of(n)->shared, ==, PERM_CONSISTENT_READ);
    g_assert_cmpint(backend_co_set_perms(u, 0, PERM_ALL, &err), ==, 0);
    g_assert_cmpuint(ram_of(n)->perm, ==, 0);
    g_assert_cmpint(backend_co_pwritev(u, 0, iov_one(&store, &b, 1), 0), ==,
                    -EACCES);
    g_assert_cmpint(backend_co_preadv(u, 65536, iov_one(&store, &b, 1), 0), ==,
                    -EIO);
    g_assert_cmpint(backend_co_preadv(u, UINT64_MAX, iov_one(&store, &b, 1), 0),
                    ==, -EIO);
    /* The driver's no (image locks) is the answer, and nothing stays. */
    ram_of(n)->refuse_write = true;
    g_assert_cmpint(backend_co_set_perms(u, PERM_WRITE, PERM_ALL, &err), ==,
                    -EAGAIN);
    expect_error(&err, "Failed to get \"write\" lock");
    node_cumulative_perms(n, &perm, &shared);
    g_assert_cmpuint(perm, ==, 0);
    backend_co_free(u);
    g_assert_cmpint(
        backend_co_new(ro, "guest", PERM_WRITE, PERM_ALL, NULL, NULL, &u, &err),
        ==, -EACCES);
    expect_error(&err, "Block node is read-only");
    node_co_unref(f);
    node_co_unref(ro);
    node_co_unref(n);
    graph_co_free(g);
}

static void backend_changed(void *arg)
{
    ++*(unsigned *)arg;
}

static CO_FN void filters_entry(void *arg)
{
    static const struct backend_ops ops = { .changed = backend_changed };
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake', 'node-name': 'n'}");
    struct node *f;
    struct backend *u = NULL;
    GError *err = NULL;
    unsigned changes = 0;

    backend_co_new(n, "guest", PERM_CONSISTENT_READ | PERM_WRITE,
                   PERM_CONSISTENT_READ, &ops, &changes, &u, &err);
    g_assert_no_error(err);
    fake_co_write(u, 0, 100, 1);
    f = fake_co_open(g, "{'driver': 'pass', 'node-name': 'f', 'file': 'n'}");
    g_assert_cmpint(node_co_insert_filter(n, f, &err), ==, 0);
    g_assert_true(backend_node(u) == f && node_skip_filters(f) == n);
    g_assert_cmpuint(changes, ==, 1);
    g_assert_cmpuint(n->priv->perm, ==, PERM_CONSISTENT_READ | PERM_WRITE);
    g_assert_cmpuint(f->size, ==, n->size);
    fake_co_expect(u, 0, 100, 1);
    fake_co_write(u, 50, 100, 2);
    g_assert_cmpint(backend_co_zero(u, 0, C, 0), ==, 0);
    fake_co_expect(u, 0, C, 0);
    g_assert_cmpint(node_co_remove_filter(f, &err), ==, 0);
    g_assert_true(backend_node(u) == n);
    g_assert_null(f->parents);
    node_co_unref(f);
    fake_co_expect(u, 0, C, 0);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

/* A refused replace leaves everything as it was. */
static CO_FN void replace_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *a = fake_co_open(g, "{'driver': 'fake', 'node-name': 'a'}");
    struct node *b = fake_co_open(g, "{'driver': 'fake', 'node-name': 'b'}");
    struct backend *u = fake_co_backend(a, PERM_WRITE, PERM_ALL);
    struct backend *other = fake_co_backend(b, 0, PERM_CONSISTENT_READ);
    GError *err = NULL;

    g_assert_cmpint(node_co_replace(a, b, NULL, &err), ==, -EPERM);
    g_clear_error(&err);
    g_assert_true(backend_node(u) == a);
    g_assert_cmpuint(a->priv->perm, ==, PERM_WRITE);
    g_assert_cmpuint(a->refs, ==, 2);
    g_assert_cmpuint(b->refs, ==, 2);
    backend_co_free(other);
    fake_of(b)->fail_perms = true;
    g_assert_cmpint(node_co_replace(a, b, NULL, &err), ==, -EAGAIN);
    g_clear_error(&err);
    g_assert_true(backend_node(u) == a);
    fake_of(b)->fail_perms = false;
    g_assert_cmpint(node_co_replace(a, b, NULL, &err), ==, 0);
    g_assert_true(backend_node(u) == b);
    g_assert_cmpuint(u->quiesced, ==, 0);
    fake_co_write(u, 0, 10, 3);
    /* A snapshot: b gets a overlay whose backing it becomes.  While the overlay
     * is used nobody may write to b; while it is not, b is left alone. */
    other = fake_co_backend(a, PERM_CONSISTENT_READ, PERM_ALL);
    g_assert_cmpint(edge_co_attach(a, b, "backing", PERM_CONSISTENT_READ,
                                   PERM_CONSISTENT_READ, &err),
                    ==, -EPERM);
    g_clear_error(&err);
    backend_co_free(other);
    g_assert_cmpint(edge_co_attach(a, b, "backing", PERM_CONSISTENT_READ,
                                   PERM_CONSISTENT_READ, &err),
                    ==, 0);
    g_assert_cmpuint(node_child(a, "backing")->perm, ==, 0);
    g_assert_cmpint(backend_co_new(a, "late", PERM_CONSISTENT_READ, PERM_ALL,
                                   NULL, NULL, &other, &err),
                    ==, -EPERM);
    g_clear_error(&err);
    g_assert_cmpuint(node_child(a, "backing")->perm, ==, 0);
    g_assert_cmpint(node_co_replace(b, a, NULL, &err), ==, 0);
    g_assert_cmpuint(node_child(a, "backing")->perm, ==, PERM_CONSISTENT_READ);
    fake_co_expect(u, 0, 10, 3);
    g_assert_cmpint(edge_co_attach(b, a, "backing", 0, PERM_ALL, &err), ==,
                    -EINVAL);
    expect_error(&err, "Making 'a' a backing child of 'b' would create a "
                       "cycle");
    backend_co_free(u);
    node_co_unref(a);
    node_co_unref(b);
    graph_co_free(g);
}

static CO_FN void chain_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *base = fake_co_open(g, "{'driver': 'fake', "
                                        "'node-name': 'base'}");
    struct node *f = fake_co_open(g, "{'driver': 'pass', 'node-name': 'f', "
                                     "'file': 'base'}");
    struct node *mid = fake_co_open(g, "{'driver': 'fake', 'node-name': 'mid', "
                                       "'backing': 'f'}");
    struct node *top = fake_co_open(g, "{'driver': 'fake', 'node-name': 'top', "
                                       "'backing': 'mid'}");
    struct node *twin = fake_co_open(g, "{'driver': 'fake', "
                                        "'node-name': 'twin', "
                                        "'backing': 'mid'}");
    struct node *other = fake_co_open(g, "{'driver': 'fake', "
                                         "'node-name': 'other'}");
    GError *err = NULL;

    g_assert_true(node_backing(top) == mid && node_backing(mid) == f);
    g_assert_null(node_backing(f));
    g_assert_true(node_chain_contains(top, f) &&
                  node_chain_contains(top, base));
    g_assert_false(node_chain_contains(mid, top));
    g_assert_true(node_overlay_of(top, base) == mid);
    g_assert_null(node_overlay_of(mid, mid));
    g_assert_true(node_chain_contains(top, top));

    g_assert_cmpint(chain_freeze(top, f, "job", &err), ==, 0);
    g_assert_cmpint(edge_co_replace(top->children, other, &err), ==, -EPERM);
    expect_error(&err, "Cannot change frozen 'backing' link from 'top' to "
                       "'other'");
    g_assert_cmpint(chain_freeze(mid, base, "second", &err), ==, -EPERM);
    expect_error(&err, "Cannot change 'backing' link from 'mid' to 'f'");
    g_assert_cmpuint(f->children->frozen, ==, 0);
    chain_unfreeze(top, f);

    /* Two overlays of one image: each has its own first link, and what is below
     * stays as it is until both are done. */
    g_assert_cmpint(chain_freeze_shared(top, base, "one", &err), ==, 0);
    g_assert_cmpint(chain_freeze_shared(top, base, "two", &err), ==, -EPERM);
    g_clear_error(&err);
    g_assert_cmpint(chain_freeze_shared(twin, base, "two", &err), ==, 0);
    g_assert_cmpint(chain_freeze(twin, f, "three", &err), ==, -EPERM);
    g_clear_error(&err);
    chain_unfreeze(top, base);
    g_assert_cmpint(edge_co_replace(mid->children, other, &err), ==, -EPERM);
    g_clear_error(&err);
    chain_unfreeze(twin, base);
    node_co_unref(twin);

    g_assert_cmpint(edge_co_replace(top->children, other, &err), ==, 0);
    g_assert_true(node_backing(top) == other);

    top->monitor_owned = mid->monitor_owned = true;
    other->monitor_owned = f->monitor_owned = true;
    g_assert_cmpint(node_check_deletable(other, &err), ==, -EBUSY);
    expect_error(&err, "Node 'other' is busy: node is used as backing hd of "
                       "'top'");
    g_assert_cmpint(node_check_deletable(base, &err), <, 0);
    g_clear_error(&err);
    g_assert_cmpint(node_check_deletable(top, &err), ==, 0);
    struct blocker *b = node_block(
        top, 1u << BLOCK_OP_DELETE | 1u << BLOCK_OP_STREAM,
        "block device is in use by block job: "
        "stream");
    g_assert_cmpint(node_check_op(top, BLOCK_OP_STREAM, &err), ==, -EBUSY);
    expect_error(&err, "Node 'top' is busy: block device is in use by block "
                       "job: stream");
    g_assert_cmpint(node_check_op(top, BLOCK_OP_RESIZE, &err), ==, 0);
    node_unblock(b);
    g_assert_cmpint(node_check_op(top, BLOCK_OP_STREAM, &err), ==, 0);
    top->monitor_owned = mid->monitor_owned = false;
    other->monitor_owned = f->monitor_owned = false;
    node_co_unref(other);
    node_co_unref(top);
    node_co_unref(mid);
    node_co_unref(f);
    node_co_unref(base);
    graph_co_free(g);
}

/* --- drain --- */

struct io {
    struct backend *u;
    bool started, done;
};

static CO_FN void io_entry(void *arg)
{
    struct io *io = arg;

    io->started = true;
    fake_co_write(io->u, 0, C, 1);
    io->done = true;
}

struct drainer {
    struct node *n;
    bool quiet;
};

static CO_FN void drain_entry(void *arg)
{
    struct drainer *d = arg;

    node_co_drain_begin(d->n);
    d->quiet = true;
}

static CO_FN void settle_co(void)
{
    for (int i = 0; i < 20; i++) {
        co_relax();
    }
}

static CO_FN void drained_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *base = fake_co_open(g, "{'driver': 'fake', "
                                        "'node-name': 'base'}");
    struct node *top = fake_co_open(g, "{'driver': 'fake', 'node-name': 'top', "
                                       "'backing': 'base'}");
    struct node *far = fake_co_open(g, "{'driver': 'fake'}");
    struct backend *u = fake_co_backend(top, PERM_WRITE, PERM_ALL);
    struct backend *other = fake_co_backend(far, PERM_WRITE, PERM_ALL);
    struct io first = { .u = u }, second = { .u = u }, elsewhere = { other };
    struct drainer d = { .n = top };

    fake_of(top)->hold_writes = true;
    co_start(g->loop, io_entry, &first);
    settle_co();
    co_start(g->loop, drain_entry, &d);
    settle_co();
    co_start(g->loop, io_entry, &second);
    co_start(g->loop, io_entry, &elsewhere);
    fake_co_wait(&elsewhere.done);
    g_assert_false(d.quiet || first.done);
    fake_release(top);
    fake_co_wait(&d.quiet);
    settle_co();
    /* Quiet: the first is done, the second waits for the end of the drain, and
     * drivers were told. */
    g_assert_true(first.done && second.started && !second.done);
    g_assert_cmpuint(u->stats.in_flight, ==, 0);
    g_assert_cmpuint(fake_of(top)->quiesced, ==, 1);
    g_assert_cmpuint(fake_of(base)->quiesced, ==, 1);
    g_assert_cmpuint(fake_of(far)->quiesced, ==, 0);
    /* Nests. */
    node_co_drain_begin(base);
    node_drain_end(top);
    settle_co();
    g_assert_false(second.done);
    g_assert_cmpuint(fake_of(top)->quiesced, ==, 0);
    g_assert_cmpuint(fake_of(base)->quiesced, ==, 1);
    node_drain_end(base);
    fake_co_wait(&second.done);
    g_assert_cmpuint(fake_of(base)->quiesced, ==, 0);
    backend_co_free(u);
    backend_co_free(other);
    node_co_unref(top);
    node_co_unref(base);
    node_co_unref(far);
    graph_co_free(g);
}

/* Two that drain the same node at once: the first may end before the second
 * is through, and neither goes on before the driver is quiet. */
static CO_FN void drain_twice_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake'}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    struct drainer first = { .n = n }, second = { .n = n };
    struct io io = { .u = u };

    fake_of(n)->hold_quiesce = true;
    co_start(g->loop, drain_entry, &first);
    settle_co();
    co_start(g->loop, drain_entry, &second);
    settle_co();
    g_assert_false(first.quiet || second.quiet);
    fake_release(n);
    fake_co_wait(&first.quiet);
    fake_co_wait(&second.quiet);
    g_assert_cmpuint(fake_of(n)->quiesced, ==, 1);
    co_start(g->loop, io_entry, &io);
    node_drain_end(n);
    settle_co();
    g_assert_false(io.done);
    /* A third stands in the middle of its beginning when the others end. */
    fake_of(n)->hold_writes = true;
    node_drain_end(n);
    settle_co();
    first.quiet = second.quiet = false;
    co_start(g->loop, drain_entry, &first);
    settle_co();
    co_start(g->loop, drain_entry, &second);
    settle_co();
    fake_release(n);
    fake_co_wait(&first.quiet);
    node_drain_end(n);
    fake_co_wait(&second.quiet);
    node_drain_end(n);
    g_assert_true(io.done);
    g_assert_cmpuint(fake_of(n)->quiesced, ==, 0);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

/* Who stopped requests alone does not end the silence of a driver that another
 * asked for later. */
static CO_FN void drain_kinds_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake'}");
    struct drainer other = { .n = n };

    node_co_drain_requests_begin(n);
    co_start(g->loop, drain_entry, &other);
    fake_co_wait(&other.quiet);
    g_assert_cmpuint(fake_of(n)->quiesced, ==, 1);
    node_drain_end(n);
    g_assert_cmpuint(fake_of(n)->quiesced, ==, 1);
    node_drain_end(n);
    g_assert_cmpuint(fake_of(n)->quiesced, ==, 0);
    node_co_unref(n);
    graph_co_free(g);
}

/* The first ends while the second still waits for a driver below. */
static CO_FN void drain_overlap_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *base = fake_co_open(g, "{'driver': 'fake', "
                                        "'node-name': 'base'}");
    struct node *top = fake_co_open(g, "{'driver': 'fake', "
                                       "'node-name': 'top'}");
    struct drainer second = { .n = top };

    node_co_drain_begin(top);
    g_assert_cmpint(edge_co_attach(top, base, "backing", PERM_CONSISTENT_READ,
                                   PERM_ALL, NULL),
                    ==, 0);
    fake_of(base)->hold_quiesce = true;
    co_start(g->loop, drain_entry, &second);
    settle_co();
    g_assert_false(second.quiet);
    node_drain_end(top);
    g_assert_cmpuint(fake_of(top)->quiesced, ==, 1);
    fake_release(base);
    fake_co_wait(&second.quiet);
    node_drain_end(top);
    g_assert_cmpuint(fake_of(top)->quiesced, ==, 0);
    g_assert_cmpuint(fake_of(base)->quiesced, ==, 0);
    node_co_unref(top);
    node_co_unref(base);
    graph_co_free(g);
}

static CO_FN void read_entry(void *arg)
{
    struct io *io = arg;

    fake_co_expect(io->u, 0, 10, 0);
    io->done = true;
}

/* A filter that holds requests back lets go when somebody drains, above the
 * drained node or below it. */
static CO_FN void drain_filter_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake', 'node-name': 'n'}");
    struct node *f = fake_co_open(g, "{'driver': 'pass', 'file': 'n', "
                                     "'gate': true}");
    struct io io = { .u = fake_co_backend(f, 0, PERM_ALL) };
    struct node *const targets[] = { n, f };

    for (unsigned i = 0; i < G_N_ELEMENTS(targets); i++) {
        io.done = false;
        co_start(g->loop, read_entry, &io);
        settle_co();
        g_assert_false(io.done);
        node_co_drain_begin(targets[i]);
        g_assert_true(io.done);
        node_drain_end(targets[i]);
    }
    backend_co_free(io.u);
    node_co_unref(f);
    node_co_unref(n);
    graph_co_free(g);
}

static CO_FN void io_free_entry(void *arg)
{
    struct io *io = arg;

    backend_co_free(io->u);
    io->done = true;
}

/* backend_co_free() waits for what is in flight. */
static CO_FN void backend_free_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake'}");
    struct io io = { .u = fake_co_backend(n, PERM_WRITE, PERM_ALL) };
    struct io gone = { .u = io.u };

    fake_of(n)->hold_writes = true;
    co_start(g->loop, io_entry, &io);
    settle_co();
    co_start(g->loop, io_free_entry, &gone);
    settle_co();
    g_assert_false(gone.done);
    fake_release(n);
    fake_co_wait(&gone.done);
    g_assert_true(io.done);
    g_assert_cmpuint(n->refs, ==, 1);
    node_co_unref(n);
    graph_co_free(g);
}

static CO_FN void stats_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'fake'}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    const struct backend_stats *s = backend_get_stats(u);

    fake_of(n)->latency_ns = 2000000;
    fake_co_write(u, C, C, 1);
    fake_co_expect(u, C, C, 1);
    g_assert_cmpint(backend_co_flush(u), ==, 0);
    g_assert_cmpuint(s->ops[ACCT_WRITE], ==, 1);
    g_assert_cmpuint(s->bytes[ACCT_READ], ==, C);
    g_assert_cmpuint(s->ops[ACCT_FLUSH], ==, 1);
    g_assert_cmpuint(s->highest_write, ==, 2 * C);
    g_assert_cmpuint(s->time_ns[ACCT_WRITE], >=, 2000000);
    backend_co_free(u);
    node_co_unref(n);
    graph_co_free(g);
}

static CO_FN void reopen_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *ro = fake_co_open(g, "{'driver': 'raw', 'read-only': true, "
                                      "'file': {'driver': 'ram'}}");
    struct node *n = fake_co_open(g, "{'driver': 'raw', 'read-only': true, "
                                     "'auto-read-only': true, 'file': "
                                     "{'driver': 'ram'}}");
    GError *err = NULL;

    g_assert_false(node_is_writable(n) || node_is_writable(node_file(n)));
    g_assert_cmpint(node_co_set_read_only(ro, false, &err), ==, -EACCES);
    expect_error(&err, "Block node is read-only");
    node_co_set_read_only(n, false, &err);
    g_assert_no_error(err);
    g_assert_true(node_is_writable(n) && node_is_writable(node_file(n)));
    g_assert_true(ram_of(node_file(n))->perm & PERM_WRITE);
    node_co_set_read_only(n, true, &err);
    g_assert_no_error(err);
    g_assert_false(node_is_writable(n) || node_is_writable(node_file(n)));
    g_assert_false(ram_of(node_file(n))->perm & PERM_WRITE);
    node_co_unref(ro);
    node_co_unref(n);
    graph_co_free(g);
}

struct read_only {
    struct node *n;
    int ret;
    bool done;
};

static CO_FN void read_only_entry(void *arg)
{
    struct read_only *r = arg;

    r->ret = node_co_set_read_only(r->n, true, NULL);
    r->done = true;
}

/* Make @n read-only until it waits where it is held. */
static CO_FN void read_only_co_begin(struct read_only *r, struct node *n)
{
    *r = (struct read_only) { .n = n };
    co_start(graph_loop(n->graph), read_only_entry, r);
    fake_co_wait(&ram_of(n)->is_held);
}

static CO_FN void read_only_co_end(struct read_only *r)
{
    ram_release(r->n);
    fake_co_wait(&r->done);
}

/* A node has no user who writes when it has become read-only. */
static CO_FN void late_writer_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = fake_co_open(g, "{'driver': 'ram'}");
    struct backend *u = fake_co_backend(n, PERM_WRITE, PERM_ALL), *late = NULL;
    struct read_only r;
    GError *err = NULL;

    fake_co_write(u, 0, C, 1);
    backend_co_free(u);
    /* One comes while it is flushed: it stays writable. */
    ram_of(n)->hold_flush = true;
    read_only_co_begin(&r, n);
    u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    read_only_co_end(&r);
    g_assert_cmpint(r.ret, ==, -EBUSY);
    fake_co_write(u, 0, C, 2);
    backend_co_free(u);
    /* One comes after that: it is too late. */
    ram_of(n)->hold_reopen = true;
    read_only_co_begin(&r, n);
    backend_co_new(n, "late", PERM_WRITE, PERM_ALL, NULL, NULL, &late, &err);
    expect_error(&err, "Block node is read-only");
    read_only_co_end(&r);
    g_assert_cmpint(r.ret, ==, 0);
    g_assert_false(node_is_writable(n));
    node_co_unref(n);
    graph_co_free(g);
}

/* A long chain closes without eating the stack; one too long is refused. */
static CO_FN void depth_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n = NULL;
    struct backend *u;

    graph_set_max_depth(g, 64);
    for (int i = 0; i < 64; i++) {
        char *spec = n ? g_strdup_printf("'%s'", n->name) : g_strdup("null");
        struct node *next = fake_co_open(g,
                                         "{'driver': 'fake', 'node-name': "
                                         "'n%d', 'backing': %s}",
                                         i, spec);

        node_co_unref(n);
        n = next;
        g_free(spec);
    }
    expect_text(fake_co_open_fails(g, "{'driver': 'fake', 'node-name': 'n64', "
                                      "'backing': 'n63'}"),
                "is deeper than 64 images");
    u = fake_co_backend(n, PERM_WRITE, PERM_ALL);
    fake_fill(node_find(g, "n0", NULL), 0, C, 9);
    fake_co_write(u, 10, 10, 1);
    fake_co_expect(u, 20, 100, 9);
    backend_co_free(u);
    node_co_unref(n);
    g_assert_cmpuint(g->nodes->len, ==, 0);
    graph_co_free(g);
}

#define TEST(name) \
    static void test_##name(void) \
    { \
        fake_run(name##_entry, NULL); \
    }
TEST(names)
TEST(perms)
TEST(filters)
TEST(replace)
TEST(chain)
TEST(drained)
TEST(drain_twice)
TEST(drain_overlap)
TEST(drain_kinds)
TEST(drain_filter)
TEST(backend_free)
TEST(stats)
TEST(reopen)
TEST(late_writer)
TEST(depth)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/graph/names", test_names);
    g_test_add_func("/graph/perms", test_perms);
    g_test_add_func("/graph/filters", test_filters);
    g_test_add_func("/graph/replace", test_replace);
    g_test_add_func("/graph/chain", test_chain);
    g_test_add_func("/graph/drain", test_drained);
    g_test_add_func("/graph/drain-twice", test_drain_twice);
    g_test_add_func("/graph/drain-overlap", test_drain_overlap);
    g_test_add_func("/graph/drain-kinds", test_drain_kinds);
    g_test_add_func("/graph/drain-filter", test_drain_filter);
    g_test_add_func("/graph/backend-free", test_backend_free);
    g_test_add_func("/graph/stats", test_stats);
    g_test_add_func("/graph/reopen", test_reopen);
    g_test_add_func("/graph/late-writer", test_late_writer);
    g_test_add_func("/graph/depth", test_depth);
    return g_test_run();
}
