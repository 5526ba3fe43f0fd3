/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the backing name of a header may lead to. Images here are text files:
 * "FAKE", the backing name, its format, on a line each. */
#include "fake.h"
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

static char *dir;

static char *path_of(const char *name)
{
    return g_build_filename(dir, name, NULL);
}

static void make(const char *name, const char *backing, const char *fmt)
{
    char *path = path_of(name);
    char *text = g_strdup_printf("FAKE\n%s\n%s\n\n", backing ? backing : "",
                                 fmt ? fmt : "");

    g_assert_true(g_file_set_contents(path, text, -1, NULL));
    g_free(path);
    g_free(text);
}

static CO_FN char *open_co_fails(struct graph *g, const char *name,
                                 const char *more)
{
    char *path = path_of(name);
    char *text = fake_co_open_fails(g,
                                    "{'driver': 'fake', 'read-only': true, "
                                    "'file': {'driver': 'file', "
                                    "'filename': '%s'}%s}",
                                    path, more);

    g_free(path);
    g_assert_cmpuint(g->nodes->len, ==, 0);
    return text;
}

static CO_FN struct node *open_co(struct graph *g, const char *name,
                                  const char *more)
{
    char *path = path_of(name);
    struct node *n = fake_co_open(g,
                                  "{'driver': 'fake', 'read-only': true, "
                                  "'file': {'driver': 'file', "
                                  "'filename': '%s'}%s}",
                                  path, more);

    g_free(path);
    return n;
}

static void expect_text(char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("'%s' does not hold '%s'", text, part);
    }
    g_free(text);
}

/* The name in the header is not the name of what options put in its place. */
static CO_FN void expect_overridden(struct graph *g)
{
    char *other = path_of("other"), *mid = path_of("mid");
    char *options = g_strdup_printf(
        ", 'backing': {'driver': 'fake', 'backing': "
        "null, 'file': {'driver': 'file', "
        "'filename': '%s'}}",
        other);
    struct node *n;

    make("other", NULL, NULL);
    n = open_co(g, "top", options);
    g_assert_null(node_chain_find_file(n, "mid"));
    g_assert_null(node_chain_find_file(n, mid));
    g_assert_true(node_chain_find_file(n, other) == node_backing(n));
    g_assert_true(node_chain_find_file(n, "other") == node_backing(n));
    node_co_unref(n);
    g_free(options);
    g_free(other);
    g_free(mid);
}

static CO_FN void follow_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n, *b;
    char *path = path_of("sub/base"), *data = path_of("data");

    make("top", "mid", "fake");
    make("mid", "sub/base", NULL); /* told by its magic */
    make("sub/base", "../data", "raw");
    g_assert_true(g_file_set_contents(data, "some bytes", -1, NULL));
    n = open_co(g, "top", "");
    b = node_backing(node_backing(n));
    g_assert_cmpstr(b->drv->name, ==, "fake");
    g_assert_cmpstr(b->filename, ==, path);
    g_assert_cmpstr(node_backing(b)->drv->name, ==, "raw");
    g_assert_cmpuint(node_backing(b)->size, ==, 10);
    g_assert_false(node_is_writable(b));
    g_assert_true(b->flags & NODE_IMPLICIT);
    g_assert_true(node_chain_find_file(n, path) == b);
    g_assert_true(node_chain_find_file(n, "sub/base") == b);
    g_assert_true(node_chain_find_file(n, data) == node_backing(b));
    g_assert_null(node_chain_find_file(n, "nowhere"));
    node_co_unref(n);
    /* Options win over the header. */
    n = open_co(g, "top", ", 'backing': null");
    g_assert_null(node_backing(n));
    node_co_unref(n);
    n = open_co(g, "top", ", 'backing': {'driver': 'ram'}");
    g_assert_cmpstr(node_backing(n)->drv->name, ==, "ram");
    node_co_unref(n);
    expect_overridden(g);
    g_free(path);
    g_free(data);
    graph_co_free(g);
}

/* Never raw by guessing; the refusal says how to say it. */
static CO_FN void format_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n;
    char *data = path_of("data");

    g_assert_true(g_file_set_contents(data, "some bytes", -1, NULL));
    make("top", "data", NULL);
    expect_text(open_co_fails(g, "top", ""), "backing.driver=raw");
    n = open_co(g, "top", ", 'backing': {'driver': 'raw'}");
    g_assert_cmpstr(node_backing(n)->filename, ==, data);
    node_co_unref(n);
    make("top", "data", "nosuch");
    expect_text(open_co_fails(g, "top", ""), "unknown format 'nosuch'");
    make("top", "gone", "raw");
    expect_text(open_co_fails(g, "top", ""), "No such file or directory");
    g_free(data);
    graph_co_free(g);
}

static CO_FN void refused_entry(void *arg)
{
    static const struct {
        const char *name, *text;
    } rows[] = {
        { "json:{\\\"driver\\\":\\\"ram\\\"}", "is refused" },
        { "fd:3", "is refused" },
        { "a\\001b", "control characters" },
        { "ssh://h/x", "Unknown protocol 'ssh'" },
        { "http://h/x", "Unknown protocol 'http'" },
        { "a:b", "Unknown protocol 'a'" },
        { "pipe", "is a FIFO" },
        { "/dev/null", "is a character device" },
        { "sub", "is a directory" },
        { "nbd://h:77/exp", "nbd got 'nbd://h:77/exp'" },
        { "nbd+unix:///e?socket=/s", "nbd got 'nbd+unix:///e?socket=/s'" },
        { "nbd:unix:/s:exportname=e", "nbd got 'nbd:unix:/s:exportname=e'" },
    };
    struct graph *g = fake_graph();
    char *pipe = path_of("pipe");

    g_assert_cmpint(mkfifo(pipe, 0600), ==, 0);
    g_free(pipe);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        make("top", rows[i].name, "raw");
        expect_text(open_co_fails(g, "top", ""), rows[i].text);
    }
    graph_co_free(g);
}

/* Somebody lets the link lead elsewhere, just after it was looked at. */
static void turn_link(const char *name)
{
    char *data = path_of("data");

    if (g_str_has_suffix(name, "/sub/link")) {
        g_assert_cmpint(unlink(name), ==, 0);
        g_assert_cmpint(symlink(data, name), ==, 0);
    }
    g_free(data);
}

static CO_FN void policy_race_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n;
    char *sub = path_of("sub"), *link = path_of("sub/link");

    make("sub/base", NULL, NULL);
    make("data", NULL, NULL);
    make("top", "sub/link", "fake");
    unlink(link);
    g_assert_cmpint(symlink("base", link), ==, 0);
    graph_set_backing_policy(g, BACKING_BENEATH, sub);
    n = open_co(g, "top", "");
    node_co_unref(n);
    test_file_hook = turn_link;
    expect_text(open_co_fails(g, "top", ""), "no regular file beneath");
    test_file_hook = NULL;
    unlink(link);
    g_free(sub);
    g_free(link);
    graph_co_free(g);
}

static CO_FN void policy_entry(void *arg)
{
    struct graph *g = fake_graph();
    struct node *n;
    char *sub = path_of("sub"), *link = path_of("sub/link");
    char *target = path_of("data");

    make("sub/base", NULL, NULL);
    make("data", NULL, NULL);
    make("top", "sub/base", "fake");
    graph_set_backing_policy(g, BACKING_DENY, NULL);
    expect_text(open_co_fails(g, "top", ""), "backing policy is 'deny'");
    graph_set_backing_policy(g, BACKING_EXPLICIT, NULL);
    expect_text(open_co_fails(g, "top", ""), "backing=NODE-NAME");
    n = open_co(g, "top", ", 'backing': {'driver': 'ram'}");
    node_co_unref(n);
    graph_set_backing_policy(g, BACKING_BENEATH, sub);
    n = open_co(g, "top", "");
    node_co_unref(n);
    make("top", "sub/../data", "fake");
    expect_text(open_co_fails(g, "top", ""), "no regular file beneath");
    g_assert_cmpint(symlink(target, link), ==, 0);
    make("top", "sub/link", "fake");
    expect_text(open_co_fails(g, "top", ""), "no regular file beneath");
    make("top", "nbd://h/x", "raw");
    expect_text(open_co_fails(g, "top", ""), "no regular file beneath");
    g_free(sub);
    g_free(link);
    g_free(target);
    graph_co_free(g);
}

static CO_FN void loop_entry(void *arg)
{
    struct graph *g = fake_graph();

    make("a", "b", "fake");
    make("b", "sub/../a", "fake");
    expect_text(open_co_fails(g, "a", ""), "creates an infinite loop");
    make("a", "a", "fake");
    expect_text(open_co_fails(g, "a", ""), "creates an infinite loop");
    for (int i = 0; i < 300; i++) {
        char *name = g_strdup_printf("n%d", i);
        char *next = g_strdup_printf("n%d", i + 1);

        make(name, next, "fake");
        g_free(name);
        g_free(next);
    }
    graph_set_max_depth(g, 64);
    expect_text(open_co_fails(g, "n0", ""), "is deeper than 64 images");
    graph_set_max_depth(g, 299);
    expect_text(open_co_fails(g, "n0", ""), "is deeper than 299 images");
    make("n298", NULL, NULL);
    node_co_unref(open_co(g, "n0", ""));
    graph_co_free(g);
}

#define TEST(name) \
    static void test_##name(void) \
    { \
        fake_run(name##_entry, NULL); \
    }
TEST(follow)
TEST(format)
TEST(refused)
TEST(policy)
TEST(policy_race)
TEST(loop)

static void remove_all(const char *path)
{
    GDir *d = g_dir_open(path, 0, NULL);
    const char *name;

    while (d && (name = g_dir_read_name(d)) != NULL) {
        char *full = g_build_filename(path, name, NULL);

        if (g_file_test(full, G_FILE_TEST_IS_DIR) &&
            !g_file_test(full, G_FILE_TEST_IS_SYMLINK)) {
            remove_all(full);
        } else {
            g_unlink(full);
        }
        g_free(full);
    }
    if (d) {
        g_dir_close(d);
    }
    g_rmdir(path);
}

int main(int argc, char **argv)
{
    char *sub;
    int ret;

    g_test_init(&argc, &argv, NULL);
    dir = g_dir_make_tmp("test-backing-XXXXXX", NULL);
    g_assert_nonnull(dir);
    sub = path_of("sub");
    g_mkdir(sub, 0700);
    g_free(sub);
    g_test_add_func("/backing/follow", test_follow);
    g_test_add_func("/backing/format", test_format);
    g_test_add_func("/backing/refused", test_refused);
    g_test_add_func("/backing/policy", test_policy);
    g_test_add_func("/backing/policy-race", test_policy_race);
    g_test_add_func("/backing/loop", test_loop);
    ret = g_test_run();
    remove_all(dir);
    g_free(dir);
    return ret;
}
