/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* -o name=value,... of the commands that make images. */
#include "cli/create-options.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/suggest.h"
#include "base/units.h"
#include "cli/cli.h"
#include "graph/image.h"

/* --- the words --- */

/* The item that begins at *@text, "," for ",,"; *@text goes to the next one,
 * NULL when there is none. Owned. */
static char *take_item(const char **text)
{
    GString *item = g_string_new(NULL);
    const char *p = *text;

    for (; *p && (p[0] != ',' || p[1] == ','); p++) {
        g_string_append_c(item, *p);
        p += *p == ',';
    }
    *text = *p ? p + 1 : NULL;
    return g_string_free(item, FALSE);
}

static void add_item(json_t *options, char *item)
{
    char *value = strchr(item, '=');

    if (value) {
        *value++ = '\0';
        create_options_set(options, item, value);
    } else if (g_str_has_prefix(item, "no")) {
        create_options_set(options, item + strlen("no"), "off");
    } else {
        create_options_set(options, item, "on");
    }
}

int create_options_add(json_t *options, const char *text, bool *ret_help)
{
    const char *p = text;

    while (p) {
        g_autofree char *item = take_item(&p);

        if (*text == ',' || !*item || !g_utf8_validate(item, -1, NULL)) {
            cli_error("Invalid option list: %s", text);
            return 1;
        }
        if (g_str_equal(item, "help") || g_str_equal(item, "?")) {
            *ret_help = true;
        } else {
            add_item(options, item);
        }
    }
    return 0;
}

void create_options_set(json_t *options, const char *name, const char *value)
{
    json_object_set_new(options, name, json_string_nocheck(value));
}

void create_options_set_backing(json_t *options, const char *file,
                                const char *format)
{
    if (file) {
        create_options_set(options, "backing_file", file);
    }
    if (format) {
        create_options_set(options, "backing_fmt", format);
    }
}

const char *create_options_get(const json_t *options, const char *name)
{
    return json_string_value(json_object_get(options, name));
}

/* --- what a format takes --- */

static const struct create_option *
option_find_in(const struct create_option *list, const char *name)
{
    while (list && list->name && strcmp(list->name, name) != 0) {
        list++;
    }
    return list && list->name ? list : NULL;
}

static void create_options_hint(const struct node_driver *drv, const char *name,
                                GError **err)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    for (const struct create_option *o = driver_create_options(drv); o->name;
         o++) {
        g_ptr_array_add(names, (char *)o->name);
    }
    g_ptr_array_add(names, NULL);
    suggest_hint(err, name, (const char *const *)names->pdata);
    err_hint(err, "'-o help' with -f %s says what they are.", driver_name(drv));
}

static const struct create_option *
create_options_find_option(const struct node_driver *drv, const char *name,
                           GError **err)
{
    const struct create_option *o = option_find_in(driver_create_options(drv),
                                                   name);

    o = o ? o : option_find_in(storage_create_options(), name);
    if (o) {
        return o;
    }
    if (strcmp(name, "backing_file") == 0 || strcmp(name, "backing_fmt") == 0) {
        err_set(err, EINVAL, "Backing file not supported for file format '%s'",
                driver_name(drv));
    } else {
        err_set(err, EINVAL, "Invalid parameter '%s'", name);
        create_options_hint(drv, name, err);
    }
    return NULL;
}

static bool is_bool(const char *text)
{
    static const char *const words[] = { "on", "yes",   "true", "y", "off",
                                         "no", "false", "n",    NULL };

    return g_strv_contains(words, text);
}

/* Is @value, a string, of the type of @o? A size becomes a plain number. */
static int check_value(const struct create_option *o, json_t *value,
                       GError **err)
{
    const char *text = json_string_value(value);
    uint64_t n;

    if (!text) {
        return 0; /* the command's own size */
    }
    if (strcmp(o->type, "size") == 0) {
        if (size_parse(text, 0, &n, NULL) < 0) {
            err_set(err, EINVAL,
                    "Parameter '%s' expects a non-negative number "
                    "below 2^64",
                    o->name);
            err_add_line(err, "Optional suffix k, M, G, T, P or E means kilo-, "
                              "mega-, giga-, tera-, peta-\nand exabytes, "
                              "respectively.");
            return -EINVAL;
        }
        g_autofree char *plain = g_strdup_printf("%" PRIu64, n);
        json_string_set(value, plain);
    } else if (strcmp(o->type, "num") == 0 &&
               cli_parse_number(text + (*text == '-'), &n) < 0) {
        return err_set(err, EINVAL, "Parameter '%s' expects a number", o->name);
    } else if (g_str_has_prefix(o->type, "bool") && !is_bool(text)) {
        return err_set(err, EINVAL, "Parameter '%s' expects 'on' or 'off'",
                       o->name);
    }
    return 0;
}

int create_options_complete(json_t *options, const struct node_driver *drv,
                            GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value) {
        const struct create_option *o = create_options_find_option(drv, key,
                                                                   err);

        if (!o || check_value(o, value, err) < 0) {
            return -EINVAL;
        }
    }
    for (const struct create_option *o = driver_create_options(drv); o->name;
         o++) {
        if (o->value && !json_object_get(options, o->name)) {
            create_options_set(options, o->name, o->value);
        }
    }
    return 0;
}

int create_options_check_amend(json_t *options, const struct node_driver *drv,
                               GError **err)
{
    const char *key;
    json_t *value;

    json_object_foreach(options, key, value) {
        const struct create_option *o = option_find_in(
            driver_amend_options(drv), key);

        if (!o) {
            err_set(err, EINVAL, "Invalid parameter '%s'", key);
            if (option_find_in(driver_create_options(drv), key)) {
                err_add_line(
                    err, "This option is only supported for image creation");
            }
            return -EINVAL;
        }
        if (check_value(o, value, err) < 0) {
            return -EINVAL;
        }
    }
    return 0;
}

int create_options_check_backing(const json_t *options, const char *filename,
                                 GError **err)
{
    const char *backing = create_options_get(options, "backing_file");

    if (backing && !*backing) {
        return err_set(err, EINVAL,
                       "Expected backing file name, got empty "
                       "string");
    }
    if (backing && strcmp(backing, filename) == 0) {
        return err_set(err, EINVAL,
                       "Error: Trying to create an image with the "
                       "same filename as the backing file");
    }
    return 0;
}

const struct node_driver *
create_options_driver(struct graph *g, const char *format, GError **err)
{
    const struct node_driver *drv = graph_find_driver(g, format);

    if (drv && driver_is_file_storage(drv)) {
        drv = graph_find_driver(g, "raw");
    }
    if (!drv) {
        err_set(err, EINVAL, "Unknown file format '%s'", format);
        graph_hint_formats(g, format, err);
    } else if (!driver_create_options(drv)) {
        err_set(err, ENOTSUP,
                "Format driver '%s' does not support image "
                "creation",
                format);
        drv = NULL;
    }
    return drv;
}

static int create_options_compare_names(const void *a, const void *b)
{
    return strcmp(((const struct create_option *)a)->name,
                  ((const struct create_option *)b)->name);
}

static void add_options(GArray *all, const struct create_option *list)
{
    for (const struct create_option *o = list; o && o->name; o++) {
        g_array_append_vals(all, o, 1);
    }
}

void create_options_print_list(const struct create_option *list,
                               const struct create_option *more)
{
    g_autoptr(GArray)
        sorted = g_array_new(FALSE, FALSE, sizeof(struct create_option));

    add_options(sorted, list);
    add_options(sorted, more);
    g_array_sort(sorted, create_options_compare_names);
    for (guint i = 0; i < sorted->len; i++) {
        const struct create_option *o = &g_array_index(sorted,
                                                       struct create_option, i);
        g_autofree char *left = g_strdup_printf("%s=<%s>", o->name, o->type);
        printf("  %-22s - %s\n", left, o->help);
    }
}

int create_options_print(const struct node_driver *drv, const char *target)
{
    printf("Supported %s%soptions:\n", target ? "" : driver_name(drv),
           target ? "" : " ");
    create_options_print_list(driver_create_options(drv),
                              target ? storage_create_options() : NULL);
    if (!target) {
        printf("\nThe protocol level may support further options.\n"
               "Specify the target filename to include those options.\n");
    }
    return 0;
}
