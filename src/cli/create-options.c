/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* -o name=value,... of the commands that make images. */
#include "cli/create-options.h"

#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/keyval.h"
#include "cli/cli.h"
#include "graph/driver.h"

/* Groups of options keep their dots: "encrypt.format" is one name. */
static void flatten(const char *prefix, json_t *from, json_t *to)
{
    const char *key;
    json_t *value;

    json_object_foreach(from, key, value) {
        g_autofree char *name = g_strconcat(prefix, key, NULL);

        if (json_is_object(value)) {
            g_autofree char *deeper = g_strconcat(name, ".", NULL);

            flatten(deeper, value, to);
        } else {
            json_object_set(to, name, value);
        }
    }
}

int create_options_add(const char *command, json_t *options, const char *text,
                       bool *ret_help)
{
    g_autoptr(GError) err = NULL;
    json_t *parsed;

    if (g_str_equal(text, "help") || g_str_equal(text, "?")) {
        *ret_help = true;
        return 0;
    }
    if (keyval_parse(text, NULL, &parsed, &err) < 0) {
        return cli_usage_error(command, "-o: %s", err->message);
    }
    flatten("", parsed, options);
    json_decref(parsed);
    return 0;
}

void create_options_set(json_t *options, const char *name, const char *value)
{
    json_object_set_new(options, name, json_string(value));
}

const char *create_options_get(const json_t *options, const char *name)
{
    return json_string_value(json_object_get(options, name));
}

int create_options_complete(json_t *options, const struct node_driver *drv,
                            GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value) {
        const struct create_option *o = drv->create_options;
        while (o->name && strcmp(o->name, key) != 0) {
            o++;
        }
        if (!o->name && (strcmp(key, "backing_file") == 0 ||
                         strcmp(key, "backing_fmt") == 0)) {
            return err_set(err, EINVAL, "Backing file not supported for file "
                           "format '%s'", drv->name);
        }
        if (!o->name) {
            return err_set(err, EINVAL, "Invalid parameter '%s'", key);
        }
    }
    for (const struct create_option *o = drv->create_options; o->name; o++) {
        if (o->value && !json_object_get(options, o->name)) {
            create_options_set(options, o->name, o->value);
        }
    }
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct create_option *)a)->name,
                  ((const struct create_option *)b)->name);
}

int create_options_print(const struct node_driver *drv)
{
    g_autoptr(GArray) sorted = g_array_new(FALSE, FALSE,
                                           sizeof(struct create_option));

    for (const struct create_option *o = drv->create_options; o->name; o++) {
        g_array_append_vals(sorted, o, 1);
    }
    g_array_sort(sorted, compare_names);
    printf("Supported %s options:\n", drv->name);
    for (guint i = 0; i < sorted->len; i++) {
        const struct create_option *o =
            &g_array_index(sorted, struct create_option, i);
        g_autofree char *left = g_strdup_printf("%s=<%s>", o->name, o->type);
        printf("  %-22s - %s\n", left, o->help);
    }
    return 0;
}
