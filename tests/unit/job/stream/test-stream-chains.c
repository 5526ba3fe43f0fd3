/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams in chains: down to a base, two at a time, over images that are shorter
 * or stand in other folders. */
#include "stream-env.h"

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

/* Nothing moves at this speed, bytes per second, until another one is set. */
#define HELD 1

static CO_FN void release_co(struct job *j)
{
    g_assert_cmpint(job_user_set_speed(j, 0, NULL), ==, 0);
    job_co_wait_concluded(j);
}

/* base <- mid <- top <- new: mid is populated while new is populated down to
 * mid. */
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
        { "/job/stream/base", { base_co_test } },
        { "/job/stream/bottom", { bottom_co_test } },
        { "/job/stream/low-first", { low_first_co_test } },
        { "/job/stream/high-first", { high_first_co_test } },
        { "/job/stream/short-middle", { short_co_test } },
        { "/job/stream/other-base", { other_base_co_test } },
        { "/job/stream/folders", { folders_co_test } },
        { "/job/stream/intermediate", { intermediate_co_test } },
        { "/job/stream/read-only", { read_only_co_test } },
    };

    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/job/stream/path-relative", test_path_relative);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add_data_func(tests[i].name, &tests[i].w, stream_test_run);
    }
    return g_test_run();
}
