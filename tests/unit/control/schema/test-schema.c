/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Nothing drifts: the schema, the drivers, the sources and the tables agree;
 * and the checks of arguments answer as documented.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "base/err.h"
#include "control/drivers.h"
#include "control/schema/schema.h"
#include "graph/driver.h"

static bool has_member(const struct schema_type *t, const char *name)
{
    for (const struct schema_member *m = t->members; m->name; m++) {
        if (g_str_equal(m->name, name)) {
            return true;
        }
    }
    return false;
}

/* Options that drivers take beside the schema: parts of addresses. */
static bool is_address_part(const char *driver, const char *name)
{
    static const char *const parts[] = { "path", "host", "port", "filename",
                                         NULL };

    return (g_str_equal(driver, "nbd") && g_strv_contains(parts, name)) ||
           ((g_str_equal(driver, "blkdebug") ||
             g_str_has_prefix(driver, "http") || g_str_equal(driver, "rbd") ||
             g_str_equal(driver, "s3")) &&
            g_str_equal(name, "filename"));
}

static void check_driver(const struct node_driver *drv)
{
    const struct schema_type *base = schema_find_type("BlockdevOptions");
    const struct schema_type *own = schema_find_variant(base, drv->name);

    g_test_message("driver %s", drv->name);
    g_assert_nonnull(own);
    g_assert_nonnull(drv->option_names);
    for (unsigned i = 0; drv->option_names[i]; i++) {
        const char *name = drv->option_names[i];

        if (!has_member(own, name) && !has_member(base, name) &&
            !is_address_part(drv->name, name)) {
            g_error("schema: driver %s lacks option %s", drv->name, name);
        }
    }
    for (const struct schema_member *m = own->members; m->name; m++) {
        if (!g_strv_contains(drv->option_names, m->name)) {
            g_error("driver %s does not take option %s of the schema",
                    drv->name, m->name);
        }
    }
}

static void test_drivers(void)
{
    const struct schema_type *names = schema_find_type("BlockdevDriver");
    unsigned n = 0;

    for (unsigned i = 0; node_drivers[i]; i++) {
        const struct node_driver *drv = node_drivers[i];

        g_assert_true(g_strv_contains(names->values, drv->name) ==
                      !drv->is_internal);
        if (!drv->is_internal) {
            check_driver(drv);
            n++;
        }
    }
    g_assert_cmpuint(g_strv_length((char **)names->values), ==, n);
}

static void test_debug_events(void)
{
    const struct schema_type *t = schema_find_type("BlkdebugEvent");

    for (unsigned i = 0; debug_event_names[i]; i++) {
        g_assert_cmpstr(t->values[i], ==, debug_event_names[i]);
    }
    g_assert_cmpuint(g_strv_length((char **)t->values), ==, DEBUG_EVENT_COUNT);
}

/* Every file of the project's folders below src/ that can send events. */
static void each_source(const char *dir, void (*fn)(const char *text))
{
    g_autoptr(GDir) d = g_dir_open(dir, 0, NULL);
    const char *name;

    g_assert_nonnull(d);
    while ((name = g_dir_read_name(d))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        g_autofree char *text = NULL;

        if (g_file_test(path, G_FILE_TEST_IS_DIR)) {
            each_source(path, fn);
        } else if (g_str_has_suffix(name, ".c")) {
            g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
            fn(text);
        }
    }
}

static unsigned events_seen;

static void check_events(const char *text)
{
    g_autoptr(GRegex) re = g_regex_new(
        "\"((?:BLOCK|JOB|SHUTDOWN|SLUICE_EV)[A-Z_]*)\"", 0, 0, NULL);
    g_autoptr(GMatchInfo) m = NULL;

    g_regex_match(re, text, 0, &m);
    for (; g_match_info_matches(m); g_match_info_next(m, NULL)) {
        g_autofree char *name = g_match_info_fetch(m, 1);

        if (!schema_find_event(name)) {
            g_error("event %s is not in the schema", name);
        }
        events_seen++;
    }
}

static void test_events(void)
{
    const char *src = g_getenv("SLUICE_SRC");

    g_assert_nonnull(src);
    each_source(src, check_events);
    /* Else the search finds nothing, and proves nothing. */
    g_assert_cmpuint(events_seen, >=, 8);
}

static unsigned handlers_seen;

static void check_handlers(const char *text)
{
    g_autoptr(GRegex) re = g_regex_new("^(?:CO_FN )?int (cmd_co_[a-z0-9_]+)\\(",
                                       G_REGEX_MULTILINE, 0, NULL);
    g_autoptr(GMatchInfo) m = NULL;

    g_regex_match(re, text, 0, &m);
    for (; g_match_info_matches(m); g_match_info_next(m, NULL)) {
        handlers_seen++;
    }
}

/* A command without a handler does not link; here: no handler is idle. */
static void test_handlers(void)
{
    g_autoptr(GHashTable) used = g_hash_table_new(NULL, NULL);

    for (const struct schema_command *c = schema_commands; c->name; c++) {
        void *fn = NULL;

        /* Only compared, never called. */
        memcpy(&fn,
               (const char *)c + offsetof(struct schema_command, co_handler),
               sizeof(fn));
        g_assert_true((fn == NULL) == (c->context == SCHEMA_ON_SESSION));
        if (fn) {
            g_hash_table_add(used, fn);
        }
    }
    each_source(g_getenv("SLUICE_SRC"), check_handlers);
    g_assert_cmpuint(handlers_seen, ==, g_hash_table_size(used));
}

static void test_hmp(void)
{
    for (const struct hmp_command *h = hmp_commands; h->name; h++) {
        const struct schema_command *c;

        if (!h->command) {
            continue;
        }
        c = schema_find_command(h->command);
        g_assert_nonnull(c);
        for (const struct hmp_arg *a = h->args; a->name && !h->print; a++) {
            g_assert_true(has_member(c->args, a->name));
        }
    }
}

static void test_introspection(void)
{
    json_t *all = json_loads(schema_introspection, JSON_REJECT_DUPLICATES,
                             NULL);

    g_assert_true(json_is_array(all));
    g_assert_cmpuint(json_array_size(all), >, 100);
    json_decref(all);
}

/* --- checks of arguments --- */

static void expect(const char *command, const char *args, const char *want)
{
    const struct schema_command *c = schema_find_command(command);
    g_autoptr(GError) err = NULL;
    json_t *v = json_loads(args, 0, NULL);
    int r;

    g_assert_nonnull(v);
    r = schema_check(c->args, v, &err);
    g_assert_cmpint(r, ==, want ? -EINVAL : 0);
    g_autofree char *message = err ? err_dup_message(err) : NULL;
    g_assert_cmpstr(message, ==, want);
    json_decref(v);
}

static void test_arguments(void)
{
    expect("block-stream", "{\"device\": \"a\"}", NULL);
    expect("block-stream", "{}", "Parameter 'device' is missing");
    expect("block-stream", "{\"device\": null}",
           "Invalid parameter type for 'device', expected: string");
    expect("block-stream", "{\"device\": \"a\", \"speed\": 1.5}",
           "Invalid parameter type for 'speed', expected: integer");
    expect("block-stream", "{\"device\": \"a\", \"auto-dismiss\": 1}",
           "Invalid parameter type for 'auto-dismiss', expected: boolean");
    expect("block-stream", "{\"device\": \"a\", \"on-error\": \"z\"}",
           "Parameter 'on-error' does not accept value 'z'");
    expect("block-stream", "{\"device\": \"a\", \"z\": 1}",
           "Parameter 'z' is unexpected");
    expect("nbd-server-start",
           "{\"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"p\"}},"
           " \"max-connections\": -1}",
           "Parameter 'max-connections' expects a non-negative value");
    expect("nbd-server-start",
           "{\"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"p\"}},"
           " \"max-connections\": 4294967296}",
           "Parameter 'max-connections' expects uint32");
    expect("nbd-server-start",
           "{\"addr\": {\"type\": \"unix\", \"data\": {\"host\": \"p\"}}}",
           "Parameter 'addr.data.path' is missing");
    expect("qmp_capabilities", "{\"enable\": [1]}",
           "Invalid parameter type for 'enable[0]', expected: string");
    expect("blockdev-add",
           "{\"driver\": \"qed\", \"node-name\": \"n\", \"backing\": null,"
           " \"file\": {\"driver\": \"raw\", \"file\": \"f\"}}",
           NULL);
    expect("blockdev-add",
           "{\"driver\": \"qed\", \"node-name\": \"n\","
           " \"file\": {\"driver\": \"raw\", \"file\": true}}",
           "Invalid parameter type for 'file.file', expected: BlockdevRef");
}

static void test_convert(void)
{
    const struct schema_type *t = schema_find_type("BlockdevOptions");
    json_t *v = json_pack("{s:s,s:s,s:s,s:s,s:{s:s}}", "driver", "null-co",
                          "size", "64k", "read-only", "on", "read-zeroes",
                          "maybe", "cache", "direct", "off");
    json_t *got = schema_convert(t, v);
    char *text = json_dumps(got, JSON_COMPACT);

    g_assert_cmpstr(text, ==,
                    "{\"driver\":\"null-co\",\"size\":65536,"
                    "\"read-only\":true,\"read-zeroes\":\"maybe\","
                    "\"cache\":{\"direct\":false}}");
    free(text);
    json_decref(got);
    json_decref(v);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/schema/drivers", test_drivers);
    g_test_add_func("/schema/debug-events", test_debug_events);
    g_test_add_func("/schema/events", test_events);
    g_test_add_func("/schema/handlers", test_handlers);
    g_test_add_func("/schema/hmp", test_hmp);
    g_test_add_func("/schema/introspection", test_introspection);
    g_test_add_func("/schema/arguments", test_arguments);
    g_test_add_func("/schema/convert", test_convert);
    return g_test_run();
}
