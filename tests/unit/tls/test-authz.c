/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rules: the first that matches decides; whatever is in doubt is refused. */
#include <jansson.h>
#include "coro.h"
#include "graph/node.h"
#include "loop/loop.h"
#include "tls/authz.h"

static const struct node_driver *const no_drivers[] = { NULL };

static json_t *parse(const char *text)
{
    json_t *j = json_loads(text, 0, NULL);

    g_assert_nonnull(j);
    return j;
}

/* Would "z", made of @props as a list, let @identity in? */
static CO_FN bool list_co_allows(struct graph *g, const char *props,
                                 const char *identity)
{
    json_t *j = parse(props);
    GError *err = NULL;
    bool ok;

    authz_co_add_list(g, "z", j, &err);
    g_assert_no_error(err);
    json_decref(j);
    ok = authz_allows(g, "z", identity);
    g_assert_cmpint(authz_del(g, "z", NULL), ==, 0);
    return ok;
}

static CO_FN void rules_entry(void *arg)
{
    struct graph *g = graph_new(loop_current(), no_drivers);

#define GLOB(match, policy) \
    "{\"match\":\"" match "\",\"format\":\"glob\",\"policy\":\"" policy "\"}"
    g_assert_false(list_co_allows(g, "{}", "a"));
    g_assert_true(list_co_allows(g, "{\"policy\":\"allow\"}", "a"));
    g_assert_false(list_co_allows(g, "{\"policy\":\"allow\"}", NULL));
    const char *two = "{\"rules\":[" GLOB("a*", "deny") "," GLOB("*",
                                                                 "allow") "]}";
    g_assert_false(list_co_allows(g, two, "ab"));
    g_assert_true(list_co_allows(g, two, "ba"));
    const char *exact = "{\"rules\":[{\"match\":\"a*\",\"policy\":\"allow\"}]}";
    g_assert_false(list_co_allows(g, exact, "ab"));
    g_assert_true(list_co_allows(g, exact, "a*"));
    g_assert_false(list_co_allows(g, exact, "A*"));
    g_assert_false(authz_allows(g, "z", "a"));
    g_assert_cmpint(authz_check(g, "z", NULL), ==, -ENOENT);
    g_assert_cmpint(authz_del(g, "z", NULL), ==, -ENOENT);
    graph_co_free(g);
}

static CO_FN void bad_entry(void *arg)
{
    static const char *const bad[] = {
        "{\"rules\":1}",
        "{\"rules\":[1]}",
        "{\"rules\":[{}]}",
        "{\"rules\":[{\"match\":\"a\"}]}",
        "{\"rules\":[{\"match\":\"a\",\"policy\":\"maybe\"}]}",
        "{\"rules\":[{\"match\":1,\"policy\":\"allow\"}]}",
        "{\"rules\":[{\"match\":\"a\",\"policy\":\"allow\",\"x\":1}]}",
        "{\"policy\":\"no\"}",
        "{\"other\":1}",
    };
    struct graph *g = graph_new(loop_current(), no_drivers);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        json_t *j = parse(bad[i]);
        g_autoptr(GError) err = NULL;

        g_assert_cmpint(authz_co_add_list(g, "z", j, &err), ==, -EINVAL);
        g_assert_nonnull(err);
        g_assert_false(authz_allows(g, "z", "a"));
        json_decref(j);
    }
    graph_co_free(g);
}

static void test_rules(void)
{
    coro_run(rules_entry, NULL);
}

static void test_bad(void)
{
    coro_run(bad_entry, NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/authz/rules", test_rules);
    g_test_add_func("/authz/bad", test_bad);
    return g_test_run();
}
