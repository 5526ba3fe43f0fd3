/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Secrets: where they come from, what is refused, who keeps them. */
#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>
#include "base/err.h"
#include "coro.h"
#include "graph/node.h"
#include "graph/secret.h"
#include "loop/co.h"

static const struct node_driver *const no_drivers[] = { NULL };

/* The text of the failure; owned. */
static CO_FN char *refused(struct graph *g, json_t *props)
{
    GError *err = NULL;
    char *text;

    g_assert_cmpint(secret_co_add(g, "bad", props, &err), <, 0);
    text = g_strdup(err->message);
    g_error_free(err);
    json_decref(props);
    return text;
}

static CO_FN void must_add(struct graph *g, const char *id, json_t *props)
{
    GError *err = NULL;

    secret_co_add(g, id, props, &err);
    g_assert_no_error(err);
    json_decref(props);
}

static void must_be(struct graph *g, const char *id, const char *want,
                    size_t len)
{
    GError *err = NULL;
    GBytes *b = NULL;
    gsize got;
    const void *data;

    secret_get(g, id, &b, &err);
    g_assert_no_error(err);
    data = g_bytes_get_data(b, &got);
    g_assert_cmpmem(data, got, want, len);
    g_bytes_unref(b);
}

static CO_FN void sources_entry(void *arg)
{
    struct graph *g = graph_new(co_loop(co_self()), no_drivers);
    g_autofree char *dir = g_dir_make_tmp("sluice-secret-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "key", NULL);

    must_add(g, "text", json_pack("{s:s}", "data", "swordfish"));
    must_be(g, "text", "swordfish", 9);
    must_add(g, "b64",
             json_pack("{s:s,s:s}", "data", "AAH+/w==", "format", "base64"));
    must_be(g, "b64", "\x00\x01\xfe\xff", 4);
    g_assert_true(g_file_set_contents(path, "line\n\0x", 7, NULL));
    must_add(g, "file", json_pack("{s:s,s:s}", "file", path, "format", "raw"));
    must_be(g, "file", "line\n\0x", 7);
    must_add(g, "none", json_pack("{s:s}", "data", ""));
    must_be(g, "none", "", 0);
    g_assert_cmpint(g_remove(path), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    graph_co_free(g);
}

static CO_FN void refusals_entry(void *arg)
{
    struct graph *g = graph_new(co_loop(co_self()), no_drivers);
    g_autofree char *big = g_strnfill(SECRET_BYTES_MAX + 1, 'x');
    g_autofree char *neither = refused(g, json_pack("{}"));
    g_autofree char *both = refused(
        g, json_pack("{s:s,s:s}", "data", "a", "file", "/dev/null"));
    g_autofree char *one = refused(
        g, json_pack("{s:s,s:s}", "data", "x", "format", "base64"));
    g_autofree char *base64 = refused(
        g, json_pack("{s:s,s:s}", "data", "hush*hush", "format", "base64"));
    g_autofree char *format = refused(
        g, json_pack("{s:s,s:s}", "file", "/dev/null", "format", "hex"));
    g_autofree char *quiet = refused(
        g, json_pack("{s:s,s:s}", "data", "a", "format", "hush"));
    g_autofree char *huge = refused(g, json_pack("{s:s}", "data", big));
    g_autofree char *gone = refused(
        g, json_pack("{s:s}", "file", "/nonexistent/key"));

    g_assert_nonnull(strstr(neither, "one of 'data' and 'file'"));
    g_assert_cmpstr(neither, ==, both);
    g_assert_nonnull(strstr(one, "not valid base64"));
    g_assert_nonnull(strstr(base64, "not valid base64"));
    g_assert_null(strstr(base64, "hush"));
    g_assert_nonnull(strstr(format, "'hex'"));
    /* It may be a part of the secret. */
    g_assert_nonnull(strstr(quiet, "'raw' or 'base64'"));
    g_assert_null(strstr(quiet, "hush"));
    g_assert_nonnull(strstr(huge, "larger than"));
    g_assert_nonnull(strstr(gone, "No such file"));
    graph_co_free(g);
}

static CO_FN void life_entry(void *arg)
{
    struct graph *g = graph_new(co_loop(co_self()), no_drivers);
    g_autofree char *twice = NULL;
    GError *err = NULL;
    GBytes *kept = NULL;

    must_add(g, "bad", json_pack("{s:s}", "data", "keep me"));
    twice = refused(g, json_pack("{s:s}", "data", "other"));
    g_assert_nonnull(strstr(twice, "already a secret"));
    g_assert_cmpint(secret_get(g, "bad", &kept, NULL), ==, 0);
    g_assert_cmpint(secret_del(g, "bad", NULL), ==, 0);
    g_assert_cmpint(secret_del(g, "bad", NULL), ==, -ENOENT);
    g_assert_cmpint(secret_get(g, "bad", NULL, &err), ==, -ENOENT);
    g_assert_cmpstr(err->message, ==, "No secret with id 'bad'");
    g_error_free(err);
    graph_co_free(g);
    g_assert_cmpmem(g_bytes_get_data(kept, NULL), 7, "keep me", 7);
    g_bytes_unref(kept);
}

static void test_sources(void)
{
    coro_run(sources_entry, NULL);
}

static void test_refusals(void)
{
    coro_run(refusals_entry, NULL);
}

static void test_life(void)
{
    coro_run(life_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/secret/sources", test_sources);
    g_test_add_func("/secret/refusals", test_refusals);
    g_test_add_func("/secret/life", test_life);
    return g_test_run();
}
