/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams over real images: QED overlays on raw files in a folder of their own,
 * with writes by a guest, errors of a base and of the header, and the base
 * taken away at the end. What a guest may read is kept beside. */
#include <errno.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include "base/err.h"
#include "filter/filter.h"
#include "format/format.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "graph/reference.h"
#include "job/stream/stream.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "storage/storage.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define SIZE (5 * MIB + 64 * KIB)
#define CLUSTER (64 * KIB)

static struct loop *loop;
static struct graph *graph;
static struct jobs *jobs;
static GString *trail;
static json_t *last_end; /* data of the last COMPLETED or CANCELLED */
static char *dir;
static uint8_t *want; /* SIZE bytes: what a guest reads */
static guint32 seed;

/* --- a filter that fails, and a QED whose header cannot be written --- */

static struct {
    uint64_t fail_from, fail_to;
    int errnum;
    uint64_t delay_ns;
    unsigned reads;
} flaky;

static CO_FN int flaky_co_open(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    int ret = node_co_open_file(n, o, err);

    if (ret == 0) {
        n->size = node_file(n)->size;
    }
    return ret;
}

static CO_FN int flaky_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    flaky.reads++;
    if (flaky.delay_ns) {
        co_sleep(flaky.delay_ns);
    }
    if (off < flaky.fail_to && off + iov.len > flaky.fail_from) {
        return -flaky.errnum;
    }
    return node_co_preadv(node_file(n), off, iov, flags);
}

static const struct node_driver flaky_driver = {
    .name = "flaky",
    .kind = NODE_FILTER,
    .state_size = 1,
    .co_open = flaky_co_open,
    .co_preadv = flaky_co_preadv,
};

static struct node_driver stuck_driver; /* QED, but for the header */
static bool header_stuck;

static CO_FN int stuck_co_change(struct node *n, const char *name,
                                 const char *fmt, GError **err)
{
    if (header_stuck) {
        return err_set(err, EIO, "the header is stuck");
    }
    return qed_driver.co_change_backing(n, name, fmt, err);
}

static struct node_driver moody_driver; /* raw, unsure about its holes */
static bool moody_hole;

/* While it says so, the second MiB is a hole. */
static CO_FN int moody_co_map(struct node *n, uint64_t off, uint64_t len,
                              unsigned flags, struct mapping *ret_map)
{
    int ret = raw_driver.co_map(n, off, len, flags, ret_map);
    uint64_t edge = off < MIB ? MIB : 2 * MIB;

    if (ret == 0 && off < 2 * MIB) {
        ret_map->len = MIN(len, edge - off);
        if (moody_hole && off >= MIB) {
            ret_map->kind = MAP_ZERO;
        }
    }
    return ret;
}

static const struct node_driver *const drivers[] = {
    &file_driver,  &raw_driver,   &qed_driver,   &copy_on_read_driver,
    &flaky_driver, &stuck_driver, &moody_driver, NULL,
};

/* --- the world of one test --- */

static void on_event(const char *name, json_t *data, void *arg)
{
    if (!strcmp(name, "JOB_STATUS_CHANGE")) {
        name = json_string_value(json_object_get(data, "status"));
    } else if (strstr(name, "COMPLETED") || strstr(name, "CANCELLED")) {
        json_decref(last_end);
        last_end = json_deep_copy(data);
    }
    g_string_append_printf(trail, "%s ", name);
}

static int64_t end_int(const char *key)
{
    return json_integer_value(json_object_get(last_end, key));
}

static void expect(const char *text)
{
    g_strchomp(trail->str);
    g_assert_cmpstr(trail->str, ==, text);
    g_string_truncate(trail, 0);
}

#define GOOD \
    "created running waiting pending BLOCK_JOB_COMPLETED concluded null"

static char *path(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

/* A macro, so that @err is looked at after the call. */
#define must(call, err) \
    do { \
        int ret_ = (call); \
        g_assert_no_error(err); \
        g_assert_cmpint(ret_, >=, 0); \
    } while (0)

static CO_FN struct node *open_co(const char *json)
{
    g_autofree char *text = NULL;
    GError *err = NULL;
    json_error_t jerr;
    struct node *n = NULL;
    json_t *o;
    GString *s = g_string_new(json);

    g_string_replace(s, "DIR", dir, 0);
    g_string_replace(s, "'", "\"", 0);
    text = g_string_free(s, FALSE);
    o = json_loads(text, 0, &jerr);
    if (!o) {
        g_error("%s: %s", text, jerr.text);
    }
    must(node_co_open(graph, o, NODE_RDWR, &n, &err), err);
    json_decref(o);
    return n;
}

static CO_FN void make_co_sized(const char *name, const char *backing,
                                const char *fmt, uint64_t size)
{
    g_autofree char *full = path(name);
    g_autofree char *text = g_strdup_printf("{'driver':'file','filename':'%s'}",
                                            full);
    GError *err = NULL;
    struct opts *o;
    struct node *file;
    json_t *j;

    g_assert_true(g_file_set_contents(full, "", 0, NULL));
    file = open_co(text);
    j = json_pack("{s:I, s:s, s:s}", "size", (json_int_t)size, "backing_file",
                  backing, "backing_fmt", fmt);
    o = opts_new(j);
    must(qed_driver.co_create(file, o, &err), err);
    opts_free(o);
    json_decref(j);
    node_co_unref(file);
}

static CO_FN void make_co_qed(const char *name, const char *backing,
                              const char *fmt)
{
    make_co_sized(name, backing, fmt, SIZE);
}

static CO_FN void write_co(struct node *n, uint64_t off, uint64_t len, int c)
{
    g_autofree void *buf = g_malloc(len);
    struct iovec v;
    struct backend *u;
    GError *err = NULL;

    must(backend_co_new(n, "guest", PERM_WRITE | PERM_CONSISTENT_READ, PERM_ALL,
                        NULL, NULL, &u, &err),
         err);
    memset(buf, c, len);
    memset(want + off, c, len);
    must(backend_co_pwritev(u, off, iov_one(&v, buf, len), 0), NULL);
    backend_co_free(u);
}

static CO_FN void check_co(struct node *n, const char *what)
{
    uint8_t *buf = g_malloc(SIZE);
    struct iovec v;

    must(node_co_preadv(n, 0, iov_one(&v, buf, SIZE), 0), NULL);
    for (uint64_t i = 0; i < SIZE; i++) {
        if (buf[i] != want[i]) {
            g_error("%s: byte %" G_GUINT64_FORMAT " is %02x, not %02x", what, i,
                    buf[i], want[i]);
        }
    }
    g_free(buf);
}

/* base.raw: random data, zeroes in the second MiB and in cluster 60. */
static void make_base(void)
{
    g_autofree char *full = path("base.raw");
    g_autoptr(GRand) r = g_rand_new_with_seed(seed);

    for (uint64_t i = 0; i < SIZE; i += 4) {
        guint32 v = g_rand_int(r);

        memcpy(want + i, &v, 4);
    }
    memset(want + MIB, 0, MIB);
    memset(want + 60 * CLUSTER, 0, CLUSTER);
    g_assert_true(g_file_set_contents(full, (char *)want, SIZE, NULL));
}

/* base.raw <- mid.qed <- top.qed, data in each. */
static CO_FN void make_co_chain(void)
{
    struct node *n;

    make_base();
    make_co_qed("mid.qed", "base.raw", "raw");
    n = open_co("{'driver':'qed','file':{'driver':'file','filename':"
                "'DIR/mid.qed'}}");
    write_co(n, 3 * CLUSTER, CLUSTER, 0x11);
    write_co(n, 3 * MIB + 512, 1024, 0x22);
    node_co_unref(n);
    make_co_qed("top.qed", "mid.qed", "qed");
    n = open_co("{'driver':'qed','file':{'driver':'file','filename':"
                "'DIR/top.qed'}}");
    write_co(n, 5 * CLUSTER, 2 * CLUSTER, 0x33);
    node_co_unref(n);
}

#define TOP \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'}}"
#define TOP_NAMED \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'},'backing':{'driver':'qed','node-name':'mid'," \
    "'file':{'driver':'file','filename':'DIR/mid.qed'},'backing':{'driver':" \
    "'raw','node-name':'base','file':{'driver':'file','filename':" \
    "'DIR/base.raw'}}}}"
#define TOP_FLAKY \
    "{'driver':'qed','node-name':'top','file':{'driver':'file'," \
    "'filename':'DIR/top.qed'},'backing':{'driver':'flaky','node-name':'fl'," \
    "'file':{'driver':'qed','file':{'driver':'file','filename':" \
    "'DIR/mid.qed'}}}}"

static struct node *named(const char *name)
{
    return node_find(graph, name, NULL);
}

static CO_FN struct job *start_co(struct stream_params p)
{
    GError *err = NULL;
    struct job *j = NULL;

    if (!p.job.id) {
        p.job.id = "j";
    }
    if (!p.job.auto_finalize && !p.job.auto_dismiss) {
        p.job.auto_finalize = p.job.auto_dismiss = true;
    }
    must(stream_co_start(jobs, &p, &j, &err), err);
    return j;
}

static CO_FN void stream_co(struct stream_params p)
{
    job_co_wait_concluded(start_co(p));
}

static void refuse(int ret, GError **err, const char *text)
{
    g_assert_cmpint(ret, <, 0);
    g_assert_nonnull(*err);
    g_assert_cmpstr((*err)->message, ==, text);
    g_clear_error(err);
}

static CO_FN void until_co_state(struct job *j, enum job_state s)
{
    for (unsigned i = 0; j->state != s; i++) {
        g_assert_cmpuint(i, <, 600000); /* a minute, at least */
        co_sleep(100000);
    }
}

static void remove_file(const char *name)
{
    g_autofree char *full = path(name);

    g_assert_cmpint(g_unlink(full), ==, 0);
}

/* Open top.qed anew: what a start after this moment would see. */
static CO_FN void reopen_co_check(const char *backing)
{
    struct node *n = open_co("{'driver':'qed','read-only':true,'file':{"
                             "'driver':'file','filename':'DIR/top.qed'}}");

    g_assert_cmpstr(node_header_backing(n, NULL), ==, backing);
    g_assert_true((node_backing(n) != NULL) == (backing != NULL));
    check_co(n, "opened anew");
    node_co_unref(n);
}

/* --- the tests --- */

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

static CO_FN void base_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_NAMED);
    stream_co((struct stream_params) { .node = top, .base = named("base") });
    expect(GOOD);
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    g_assert_true(node_backing(top) == named("base"));
    g_assert_null(named("mid"));
    remove_file("mid.qed");
    check_co(top, "after");
    node_co_unref(top);
    reopen_co_check("base.raw");
}

static CO_FN void bottom_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_NAMED);
    stream_co((struct stream_params) {
        .node = top, .bottom = named("mid"), .backing_file = "./base.raw" });
    expect(GOOD);
    node_co_unref(top);
    reopen_co_check("./base.raw");
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

static CO_FN void report_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 3 * MIB + 600 * KIB;
    flaky.fail_to = flaky.fail_from + 1;
    flaky.errnum = EIO;
    stream_co((struct stream_params) { .node = top });
    expect("created running BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpstr(json_string_value(json_object_get(last_end, "error")), ==,
                    "Input/output error");
    g_assert_cmpint(end_int("offset"), ==, 3 * MIB + 512 * KIB);
    g_assert_nonnull(node_backing(top));
    flaky.errnum = 0;
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void ignore_co_test(void)
{
    struct node *top;
    uint8_t head[512];
    struct iovec v;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 3 * MIB;
    flaky.fail_to = 3 * MIB + 1;
    flaky.errnum = EIO;
    stream_co(
        (struct stream_params) { .node = top, .on_error = ON_ERROR_IGNORE });
    expect("created running BLOCK_JOB_ERROR aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    g_assert_nonnull(json_object_get(last_end, "error"));
    g_assert_nonnull(node_backing(top));
    /* Everything else is here now. */
    must(node_co_preadv(top, SIZE - 512, iov_one(&v, head, 512), 0), NULL);
    flaky.fail_from = 0;
    flaky.fail_to = SIZE;
    must(node_co_preadv(top, SIZE - 512, iov_one(&v, head, 512), 0), NULL);
    g_assert_cmpint(node_co_preadv(top, 3 * MIB, iov_one(&v, head, 512), 0), ==,
                    -EIO);
    flaky.fail_to = 0;
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void stop_co_test(void)
{
    struct node *top;
    struct job *j;

    make_co_chain();
    top = open_co(TOP_FLAKY);
    flaky.fail_from = 2 * MIB;
    flaky.fail_to = 2 * MIB + 1;
    flaky.errnum = ENOSPC;
    j = start_co(
        (struct stream_params) { .node = top, .on_error = ON_ERROR_ENOSPC });
    until_co_state(j, JOB_PAUSED);
    g_assert_cmpint(j->io_status, ==, IO_STATUS_NOSPACE);
    g_assert_cmpuint(j->offset, ==, 2 * MIB);
    flaky.fail_to = 0;
    must(job_user_resume(j, NULL), NULL);
    job_co_wait_concluded(j);
    expect("created running BLOCK_JOB_ERROR paused running waiting pending "
           "BLOCK_JOB_COMPLETED concluded null");
    node_co_unref(top);
    reopen_co_check(NULL);
}

static CO_FN void header_co_test(void)
{
    struct node *top;

    make_co_chain();
    top = open_co("{'driver':'stuck','node-name':'top','file':{'driver':'file'"
                  ",'filename':'DIR/top.qed'}}");
    header_stuck = true;
    stream_co((struct stream_params) { .node = top });
    header_stuck = false;
    expect("created running waiting pending aborting BLOCK_JOB_COMPLETED "
           "concluded null");
    g_assert_cmpstr(json_string_value(json_object_get(last_end, "error")), ==,
                    "the header is stuck");
    g_assert_nonnull(node_backing(top));
    check_co(top, "after the failure");
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

/* Nothing moves at this speed, bytes per second, until another one is set. */
#define HELD 1

static CO_FN void release_co(struct job *j)
{
    g_assert_cmpint(job_user_set_speed(j, 0, NULL), ==, 0);
    job_co_wait_concluded(j);
}

/* base <- mid <- top <- new: mid is populated while new is populated down to mid. */
static CO_FN void parallel_co(bool low_first)
{
    struct job *low, *high;
    struct node *n;

    make_co_chain();
    make_co_qed("new.qed", "top.qed", "qed");
    n = open_co("{'driver':'qed','node-name':'new','file':{'driver':'file',"
                "'filename':'DIR/new.qed'},'backing':{'driver':'qed',"
                "'node-name':'top','file':{'driver':'file','filename':"
                "'DIR/top.qed'},'backing':{'driver':'qed','node-name':'mid',"
                "'file':{'driver':'file','filename':'DIR/mid.qed'}}}}");
    write_co(n, 100, 3 * CLUSTER, 0x55);
    low = start_co((struct stream_params) {
        .node = named("mid"), .job = { .id = "low", .speed = HELD } });
    high = start_co(
        (struct stream_params) { .node = n,
                                 .base = named("mid"),
                                 .job = { .id = "high", .speed = HELD } });
    until_co_state(low, JOB_RUNNING);
    until_co_state(high, JOB_RUNNING);
    g_string_truncate(trail, 0);
    release_co(low_first ? low : high);
    /* It has ended while the other is still at work. */
    g_assert_true(jobs_find(jobs, low_first ? "high" : "low"));
    expect("waiting pending BLOCK_JOB_COMPLETED concluded null");
    check_co(n, "after the first");
    release_co(low_first ? high : low);
    expect("waiting pending BLOCK_JOB_COMPLETED concluded null");
    g_assert_true(node_backing(n) == named("mid"));
    g_assert_null(node_backing(named("mid")));
    check_co(n, "after both");
    node_co_unref(n);
    remove_file("base.raw");
    remove_file("top.qed");
    n = open_co("{'driver':'qed','file':{'driver':'file',"
                "'filename':'DIR/new.qed'}}");
    g_assert_cmpstr(node_header_backing(n, NULL), ==, "mid.qed");
    check_co(n, "opened anew");
    node_co_unref(n);
}

static CO_FN void low_first_co_test(void)
{
    parallel_co(true);
}

static CO_FN void high_first_co_test(void)
{
    parallel_co(false);
}

/* Beyond the end of a node in the middle there are zeroes, also once that node
 * is gone and a longer base is below. */
static CO_FN void short_co_middle(uint64_t mid_size, const char *base)
{
    struct node *top;

    make_base();
    make_co_sized("mid.qed", "base.raw", "raw", mid_size);
    make_co_qed("top.qed", "mid.qed", "qed");
    memset(want + mid_size, 0, SIZE - mid_size);
    top = open_co(TOP_NAMED);
    check_co(top, "before");
    stream_co((struct stream_params) { .node = top,
                                       .base = base ? named(base) : NULL });
    expect(GOOD);
    g_assert_cmpint(end_int("offset"), ==, SIZE);
    check_co(top, "after");
    node_co_unref(top);
    remove_file("mid.qed");
    reopen_co_check(base ? "base.raw" : NULL);
}

static CO_FN void short_co_test(void)
{
    short_co_middle(2 * MIB, "base");
    short_co_middle(2 * MIB + 512, "base");
    short_co_middle(2 * MIB + 512, NULL);
}

/* base and mid in one folder, top in another. */
static CO_FN void folders_co_test(void)
{
    g_autofree char *sub = path("sub"), *from = path("top.qed"), *to = NULL;
    struct node *top;

    make_co_chain();
    g_assert_cmpint(g_mkdir(sub, 0700), ==, 0);
    to = g_build_filename(sub, "top.qed", NULL);
    g_assert_cmpint(g_rename(from, to), ==, 0);
    top = open_co("{'driver':'qed','node-name':'top','file':{'driver':'file',"
                  "'filename':'DIR/sub/top.qed'},'backing':{'driver':'qed',"
                  "'node-name':'mid','file':{'driver':'file','filename':"
                  "'DIR/mid.qed'},'backing':{'driver':'raw','node-name':'base',"
                  "'file':{'driver':'file','filename':'DIR/base.raw'}}}}");
    stream_co((struct stream_params) { .node = top, .base = named("base") });
    expect(GOOD);
    g_assert_cmpstr(node_header_backing(top, NULL), ==, "../base.raw");
    check_co(top, "after");
    node_co_unref(top);
    g_assert_cmpint(g_unlink(to), ==, 0);
    g_assert_cmpint(g_rmdir(sub), ==, 0);
}

/* A base that the old header did not name is recorded by its own path. */
static CO_FN void other_base_co_test(void)
{
    g_autofree char *from = path("base.raw"), *to = path("other.raw");
    struct node *top;

    make_co_chain();
    g_assert_cmpint(g_rename(from, to), ==, 0);
    top = open_co("{'driver':'qed','node-name':'top','file':{'driver':'file',"
                  "'filename':'DIR/top.qed'},'backing':{'driver':'qed',"
                  "'node-name':'mid','file':{'driver':'file','filename':"
                  "'DIR/mid.qed'},'backing':{'driver':'raw','node-name':'base',"
                  "'file':{'driver':'file','filename':'DIR/other.raw'}}}}");
    stream_co((struct stream_params) { .node = top, .base = named("base") });
    expect(GOOD);
    node_co_unref(top);
    reopen_co_check(to);
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

/* An image opened as somebody's backing file is made writable for the job. */
static CO_FN void intermediate_co_test(void)
{
    struct node *top, *mid;

    make_co_chain();
    top = open_co(TOP);
    mid = node_backing(top);
    g_assert_false(node_is_writable(mid));
    stream_co((struct stream_params) { .node = mid });
    expect(GOOD);
    g_assert_false(node_is_writable(mid));
    g_assert_null(node_backing(mid));
    remove_file("base.raw");
    check_co(top, "after");
    node_co_unref(top);
    reopen_co_check("mid.qed");
}

static CO_FN void read_only_co_test(void)
{
    struct stream_params p = { .job = { .id = "j" } };
    GError *err = NULL;
    struct job *j = NULL;

    make_co_chain();
    p.node = open_co("{'driver':'qed','node-name':'top','read-only':true,"
                     "'file':{'driver':'file','filename':'DIR/top.qed'}}");
    refuse(stream_co_start(jobs, &p, &j, &err), &err,
           "Block node is read-only");
    expect("created null");
    node_co_unref(p.node);
}

/* --- */

struct world {
    CO_FN_PTR void (*test)(void);
    bool ended;
};

static CO_FN void world_entry(void *arg)
{
    struct world *w = arg;

    stuck_driver = qed_driver;
    stuck_driver.name = "stuck";
    stuck_driver.probe = NULL;
    stuck_driver.co_change_backing = stuck_co_change;
    moody_driver = raw_driver;
    moody_driver.name = "moody";
    moody_driver.co_map = moody_co_map;
    w->test();
    jobs_co_cancel_all(jobs);
    jobs_free(jobs);
    graph_co_free(graph);
    w->ended = true;
    loop_stop(loop);
}

static void remove_dir(void)
{
    GDir *d = g_dir_open(dir, 0, NULL);
    const char *name;

    while ((name = g_dir_read_name(d))) {
        remove_file(name);
    }
    g_dir_close(d);
    g_rmdir(dir);
    g_free(dir);
}

static void run_test(gconstpointer data)
{
    struct loop_options o = { .engine = IO_ENGINE_AUTO };
    GError *err = NULL;
    struct world w = *(const struct world *)data;

    seed = g_test_rand_int();
    must(loop_new(&o, &loop, &err), err);
    dir = g_dir_make_tmp("sluice-stream-XXXXXX", NULL);
    want = g_malloc0(SIZE);
    header_stuck = false;
    trail = g_string_new(NULL);
    memset(&flaky, 0, sizeof flaky);
    graph = graph_new(loop, drivers);
    jobs = jobs_new(loop, on_event, NULL);
    co_start(loop, world_entry, &w);
    loop_run(loop);
    g_assert_true(w.ended);
    g_assert_cmpuint(co_count(loop), ==, 0);
    loop_free(loop);
    g_string_free(trail, TRUE);
    g_clear_pointer(&last_end, json_decref);
    g_free(want);
    remove_dir();
}

/* What was a hole when the copying ended is data when the chain is dropped. */
static CO_FN void moody_co_test(void)
{
    struct node *top;
    struct job *j;
    GError *err = NULL;

    make_base();
    make_co_qed("top.qed", "base.raw", "raw");
    top = open_co("{'driver':'qed','node-name':'top','file':{'driver':'file',"
                  "'filename':'DIR/top.qed'},'backing':{'driver':'moody',"
                  "'file':{'driver':'file','filename':'DIR/base.raw'}}}");
    moody_hole = true;
    j = start_co(
        (struct stream_params) { .node = top, .job.auto_dismiss = true });
    until_co_state(j, JOB_PENDING);
    moody_hole = false;
    must(job_user_finalize(j, &err), err);
    job_co_wait_concluded(j);
    expect("created running waiting pending BLOCK_JOB_PENDING "
           "BLOCK_JOB_COMPLETED concluded null");
    check_co(top, "after");
    node_co_unref(top);
    remove_file("base.raw");
    reopen_co_check(NULL);
}

static void test_path_relative(void)
{
    static const struct {
        const char *dir, *to, *want;
    } rows[] = {
        { "/a/b", "/a/b/base.raw", "base.raw" },
        { "/a/b", "/a/base.raw", "../base.raw" },
        { "/a/b/c", "/a/base.raw", "../../base.raw" },
        { "/a/b", "/a/c/base.raw", "../c/base.raw" },
        { "/a/b", "/a/bc/base.raw", "../bc/base.raw" },
        { "/a", "/a/b/c/base.raw", "b/c/base.raw" },
        { "/a/b", "/c/base.raw", NULL },
        { "/", "/base.raw", NULL },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *got = path_relative(rows[i].dir, rows[i].to);

        g_assert_cmpstr(got, ==, rows[i].want);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct world w;
    } tests[] = {
        { "/job/stream/whole", { whole_co_test } },
        { "/job/stream/own-writes", { own_writes_co_test } },
        { "/job/stream/base", { base_co_test } },
        { "/job/stream/bottom", { bottom_co_test } },
        { "/job/stream/noop", { noop_co_test } },
        { "/job/stream/by-hand", { by_hand_co_test } },
        { "/job/stream/busy-and-cancel", { busy_co_test } },
        { "/job/stream/report", { report_co_test } },
        { "/job/stream/ignore", { ignore_co_test } },
        { "/job/stream/stop", { stop_co_test } },
        { "/job/stream/header-fails", { header_co_test } },
        { "/job/stream/guest-writes", { guest_co_test } },
        { "/job/stream/low-first", { low_first_co_test } },
        { "/job/stream/high-first", { high_first_co_test } },
        { "/job/stream/short-middle", { short_co_test } },
        { "/job/stream/other-base", { other_base_co_test } },
        { "/job/stream/folders", { folders_co_test } },
        { "/job/stream/step", { step_co_test } },
        { "/job/stream/intermediate", { intermediate_co_test } },
        { "/job/stream/read-only", { read_only_co_test } },
        { "/job/stream/hole-becomes-data", { moody_co_test } },
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/stream/path-relative", test_path_relative);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add_data_func(tests[i].name, &tests[i].w, run_test);
    }
    return g_test_run();
}
