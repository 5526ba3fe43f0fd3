/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams over real images: whole ones, with a guest's writes, by hand, and
 * step by step. */
#include "stream-env.h"

static CO_FN void whole_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP);
    check_co(top, "before");
    stream_co((struct stream_params) { .node = top });
    expect(GOOD);
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    g_assert_cmpint(end_int("len"), ==, SIZE);
    g_assert_null(json_object_get(last_end, "error"));
    g_assert_null(node_backing(top));
    g_assert_null(top->parents);
    /* P2: the event says that nothing else is needed any more. */
    remove_file("base.raw");
    remove_file("mid.qed");
    check_co(top, "after");
    write_co(top, 4 * MIB, 100, 0x77);
    check_co(top, "written after");
    node_co_unref(top);
    reopen_co_check(NULL);
}

/* What we wrote ourselves into an image below, while it was writable, does not
 * make a changed base of it. */
static CO_FN void own_writes_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_NAMED);
    co_sleep(20000000); /* time stamps have the grain of a tick */
    stream_co((struct stream_params) { .node = named("mid") });
    expect(GOOD);
    g_assert_false(node_is_writable(named("mid")));
    stream_co((struct stream_params) { .node = top });
    expect(GOOD);
    check_co(top, "after");
    node_co_unref(top);
    reopen_co_check(NULL);
}

static CO_FN void noop_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_NAMED);
    stream_co((struct stream_params) { .node = top, .base = named("mid") });
    expect(GOOD);
    g_assert_cmpint(end_int("len"), ==, 0);
    g_assert_cmpint(end_int("offset"), ==, 0);
    g_assert_true(node_backing(top) == named("mid"));
    stream_co((struct stream_params) { .node = named("base") });
    expect(GOOD);
    g_assert_cmpint(end_int("len"), ==, 0);
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void by_hand_co_test(void)
{
    struct node *top;
    struct job *j;

    make_co_chain();
    top = open_co(TOP_NAMED);
    j = start_co((struct stream_params) { .node = top,
                                          .job = { .auto_dismiss = true } });
    g_assert_cmpuint(j->len, ==, SIZE);
    until_co_state(j, JOB_PENDING);
    co_sleep(10000000);
    expect("created running waiting pending BLOCK_JOB_PENDING");
    g_assert_true(node_backing(top) == named("mid"));
    g_assert_cmpstr(node_header_backing(top, NULL), ==, "mid.qed");
    must(job_user_finalize(j, NULL), NULL);
    job_co_wait_concluded(j);
    expect("BLOCK_JOB_COMPLETED concluded null");
    g_assert_null(node_backing(top));
    node_co_unref(top);
    reopen_co_check(NULL);
}

static CO_FN void busy_co_test(void)
{
    struct stream_params p = { .job = { .id = "j2" } };
    struct node *top;
    GError *err = NULL;
    struct job *j;

    make_co_chain();
    top = open_co(TOP_NAMED);
    j = start_co((struct stream_params) {
        .node = top, .filter_node_name = "cor", .job = { .speed = 1 } });
    g_assert_nonnull(named("cor"));
    until_co_state(j, JOB_RUNNING);
    p.node = top;
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Node 'top' is busy: "
           "block device is in use by block job: stream");
    p.node = named("mid");
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Node 'mid' is busy: "
           "block device is in use by block job: stream");
    p.node = named("cor");
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Node 'cor' is busy: "
           "block device is in use by block job: stream");
    p.node = top;
    p.base = top;
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Node 'top' is not a backing image of 'top'");
    p.base = NULL;
    p.bottom = named("cor");
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Node 'cor' is a filter, "
           "use a non-filter node as 'bottom'");
    p.bottom = NULL;
    p.backing_file = "x";
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "backing file specified, but streaming the entire chain");
    j = jobs_find(jobs, "j");
    must(job_user_cancel(j, false, NULL), NULL);
    job_co_wait_concluded(j);
    expect("created running aborting BLOCK_JOB_CANCELLED concluded null");
    g_assert_null(named("cor"));
    check_co(top, "cancelled");
    g_assert_true(node_backing(top) == named("mid"));
    /* And again, to the end. */
    stream_co((struct stream_params) { .node = top });
    expect(GOOD);
    node_co_unref(top);
    reopen_co_check(NULL);
}

struct guest {
    struct backend *backend;
    bool stop, stopped;
};

static CO_FN void guest_entry(void *arg)
{
    struct guest *g = arg;
    g_autoptr(GRand) r = g_rand_new_with_seed(seed + 1);
    uint8_t *buf = g_malloc(200 * KIB);
    struct iovec v;

    while (!g->stop) {
        uint64_t len = (uint64_t)g_rand_int_range(r, 1, 400) * 512;
        uint64_t off = (uint64_t)g_rand_int_range(
                           r, 0, (gint32)((SIZE - len) / 512)) *
                       512;

        if (g_rand_boolean(r)) {
            int c = g_rand_int_range(r, 0, 256);

            memset(buf, c, len);
            must(backend_co_pwritev(g->backend, off, iov_one(&v, buf, len), 0),
                 NULL);
            memset(want + off, c, len);
        } else {
            must(backend_co_preadv(g->backend, off, iov_one(&v, buf, len), 0),
                 NULL);
            g_assert_cmpmem(buf, len, want + off, len);
        }
        co_relax();
    }
    g_free(buf);
    g->stopped = true;
}

static CO_FN void guest_co_test(void)
{
    struct guest g = { 0 };
    GError *err = NULL;
    struct node *top;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.delay_ns = 2000000;
    must(backend_co_new(top, "guest", PERM_WRITE | PERM_CONSISTENT_READ,
                        PERM_ALL, NULL, NULL, &g.backend, &err),
         err);
    co_start(loop, guest_entry, &g);
    stream_co(
        (struct stream_params) { .node = top, .job = { .speed = 30 * MIB } });
    expect(GOOD);
    co_sleep(20000000);
    g.stop = true;
    while (!g.stopped) {
        co_sleep(1000000);
    }
    g_assert_true(backend_node(g.backend) == top);
    backend_co_free(g.backend);
    flaky.delay_ns = 0;
    check_co(top, "after");
    node_co_unref(top);
    reopen_co_check(NULL);
}

static CO_FN void step_co_test(void)
{
    uint64_t cursor = 2 * MIB, len = 0, offset = 0;
    unsigned steps = 0;
    GError *err = NULL;
    struct node *top;

    make_co_chain();
    top = open_co(TOP);
    /* Begun in the middle: the end of the device is not the end of the work. */
    while (node_backing(top)) {
        g_assert_cmpuint(steps++, <, 100);
        must(stream_co_step(jobs, top, "virtio0", &cursor, &len, &offset, &err),
             err);
        g_assert_cmpuint(len, ==, SIZE);
        g_assert_cmpuint(offset, <=, SIZE);
        check_co(top, "between steps");
    }
    g_assert_cmpuint(steps, >, 6);
    g_assert_cmpuint(offset, ==, SIZE);
    expect("BLOCK_JOB_COMPLETED");
    g_assert_cmpstr(json_string_value(json_object_get(last_end, "device")), ==,
                    "virtio0");
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    must(stream_co_step(jobs, top, "virtio0", &cursor, &len, &offset, &err),
         err);
    g_assert_cmpuint(offset, ==, SIZE);
    expect("");
    node_co_unref(top);
    reopen_co_check(NULL);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct world w;
    } tests[] = {
        { "/job/stream/whole", { whole_co_test } },
        { "/job/stream/own-writes", { own_writes_co_test } },
        { "/job/stream/noop", { noop_co_test } },
        { "/job/stream/by-hand", { by_hand_co_test } },
        { "/job/stream/busy-and-cancel", { busy_co_test } },
        { "/job/stream/guest-writes", { guest_co_test } },
        { "/job/stream/step", { step_co_test } },
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add_data_func(tests[i].name, &tests[i].w, stream_test_run);
    }
    return g_test_run();
}
