/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream-env.h"
#include "filter/filter.h"
#include "format/format.h"
#include "storage/storage.h"

struct loop *loop;
struct graph *graph;
struct jobs *jobs;
GString *trail;
json_t *last_end; /* data of the last COMPLETED or CANCELLED */
static char *dir;
uint8_t *want; /* SIZE bytes: what a guest reads */
guint32 seed;

/* --- a filter that fails, and a QED whose header cannot be written --- */

struct flaky flaky;

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
bool header_stuck;

static CO_FN int stuck_co_change(struct node *n, const char *name,
                                 const char *fmt, GError **err)
{
    if (header_stuck) {
        return err_set(err, EIO, "the header is stuck");
    }
    return qed_driver.co_change_backing(n, name, fmt, err);
}

static struct node_driver moody_driver; /* raw, unsure about its holes */
bool moody_hole;

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

int64_t end_int(const char *key)
{
    return json_integer_value(json_object_get(last_end, key));
}

void expect(const char *text)
{
    g_strchomp(trail->str);
    g_assert_cmpstr(trail->str, ==, text);
    g_string_truncate(trail, 0);
}

char *path(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

struct node *open_co(const char *json)
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

void make_co_sized(const char *name, const char *backing, const char *fmt,
                   uint64_t size)
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

void make_co_qed(const char *name, const char *backing, const char *fmt)
{
    make_co_sized(name, backing, fmt, SIZE);
}

void write_co(struct node *n, uint64_t off, uint64_t len, int c)
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

void check_co(struct node *n, const char *what)
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

void make_base(void)
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

void make_co_chain(void)
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

struct node *named(const char *name)
{
    return node_find(graph, name, NULL);
}

struct job *start_co(struct stream_params p)
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

void stream_co(struct stream_params p)
{
    job_co_wait_concluded(start_co(p));
}

void refuse(int ret, GError **err, const char *text)
{
    g_assert_cmpint(ret, <, 0);
    g_assert_nonnull(*err);
    g_assert_cmpstr((*err)->message, ==, text);
    g_clear_error(err);
}

void until_co_state(struct job *j, enum job_state s)
{
    for (unsigned i = 0; j->state != s; i++) {
        g_assert_cmpuint(i, <, 600000); /* a minute, at least */
        co_sleep(100000);
    }
}

void remove_file(const char *name)
{
    g_autofree char *full = path(name);

    g_assert_cmpint(g_unlink(full), ==, 0);
}

void reopen_co_check(const char *backing)
{
    struct node *n = open_co("{'driver':'qed','read-only':true,'file':{"
                             "'driver':'file','filename':'DIR/top.qed'}}");

    g_assert_cmpstr(node_header_backing(n, NULL), ==, backing);
    g_assert_true((node_backing(n) != NULL) == (backing != NULL));
    check_co(n, "opened anew");
    node_co_unref(n);
}

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

void stream_test_run(gconstpointer data)
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
