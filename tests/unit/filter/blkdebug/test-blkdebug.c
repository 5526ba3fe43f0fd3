/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of blkdebug, without I/O: config text, states, active rules. */
#include <errno.h>
#include <glib.h>
#include "filter/blkdebug/blkdebug-int.h"

static void parse(struct blkdebug_rules *r, const char *text)
{
    g_autoptr(GError) err = NULL;

    blkdebug_rules_init(r);
    blkdebug_parse_config(text, "test", r, &err);
    g_assert_no_error(err);
}

static unsigned event(struct blkdebug_rules *r, enum debug_event ev)
{
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);

    blkdebug_rules_event(r, ev, tags);
    return tags->len;
}

static int check(struct blkdebug_rules *r, enum blkdebug_iotype type,
                 uint64_t off, uint64_t len)
{
    bool immediately;

    return blkdebug_rules_check(r, type, off, len, &immediately);
}

static void test_states(void)
{
    struct blkdebug_rules r;

    parse(&r, "[set-state]\nevent = \"l2_load\"\nstate = \"1\"\n"
              "new_state = \"2\"\n[inject-error \"id\"]\nevent=\"write_aio\"\n"
              "state = \"2\"\nerrno = \"28\"\n");
    event(&r, DEBUG_WRITE_AIO);
    g_assert_cmpint(check(&r, BLKDEBUG_WRITE, 0, 512), ==, 0);
    event(&r, DEBUG_L2_LOAD);
    g_assert_cmpint(r.state, ==, 2);
    g_assert_cmpint(check(&r, BLKDEBUG_WRITE, 0, 512), ==, 0);
    event(&r, DEBUG_WRITE_AIO);
    /* Active until an event brings others. */
    g_assert_cmpint(check(&r, BLKDEBUG_WRITE, 0, 512), ==, -ENOSPC);
    g_assert_cmpint(check(&r, BLKDEBUG_FLUSH, 0, 0), ==, -ENOSPC);
    g_assert_cmpint(check(&r, BLKDEBUG_BLOCK_STATUS, 0, 512), ==, 0);
    blkdebug_rules_done(&r);
}

static void test_sector_once(void)
{
    struct blkdebug_rules r;

    parse(&r, "[inject-error]\nevent = \"none\"\nsector = \"2\"\n"
              "once = \"on\"\niotype = \"read\"\n");
    event(&r, DEBUG_NONE);
    g_assert_cmpint(check(&r, BLKDEBUG_READ, 0, 1024), ==, 0);
    g_assert_cmpint(check(&r, BLKDEBUG_READ, 1025, 512), ==, 0);
    g_assert_cmpint(check(&r, BLKDEBUG_WRITE, 0, 4096), ==, 0);
    g_assert_cmpint(check(&r, BLKDEBUG_READ, 0, 1025), ==, -EIO);
    g_assert_cmpint(check(&r, BLKDEBUG_READ, 0, 1025), ==, 0);
    blkdebug_rules_done(&r);
}

static void test_breaks(void)
{
    struct blkdebug_rules r;
    struct blkdebug_rule rule = { .action = BLKDEBUG_BREAK,
                                  .event = DEBUG_COW_READ };

    parse(&r, "");
    for (unsigned i = 0; i < 2; i++) {
        rule.tag = g_strdup("A");
        blkdebug_rules_add(&r, &rule);
    }
    rule.event = DEBUG_READ_AIO;
    rule.tag = g_strdup("B");
    blkdebug_rules_add(&r, &rule);
    g_assert_cmpuint(event(&r, DEBUG_COW_READ), ==, 2);
    g_assert_cmpuint(event(&r, DEBUG_COW_READ), ==, 0);
    g_assert_cmpuint(blkdebug_rules_remove_breaks(&r, "A"), ==, 0);
    g_assert_cmpuint(blkdebug_rules_remove_breaks(&r, NULL), ==, 1);
    blkdebug_rules_done(&r);
}

static void test_names(void)
{
    char *config = NULL, *path = NULL;

    g_assert_cmpint(
        blkdebug_parse_name("blkdebug:c:/a:b", &config, &path, NULL), ==, 0);
    g_assert_cmpstr(config, ==, "c");
    g_assert_cmpstr(path, ==, "/a:b");
    g_free(config);
    g_free(path);
    g_assert_cmpint(blkdebug_parse_name("blkdebug::x", &config, &path, NULL),
                    ==, 0);
    g_assert_null(config);
    g_free(path);
    g_assert_cmpint(blkdebug_parse_name("blkdebug:x", &config, &path, NULL), ==,
                    -EINVAL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/blkdebug/states", test_states);
    g_test_add_func("/blkdebug/sector-once", test_sector_once);
    g_test_add_func("/blkdebug/breaks", test_breaks);
    g_test_add_func("/blkdebug/names", test_names);
    return g_test_run();
}
