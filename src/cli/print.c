/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Values on stdout; see print.h. */
#include "cli/print.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <glib.h>

#include "base/text.h"
#include "base/units.h"

/* --- JSON --- */

static void json_to(GString *out, const json_t *v, unsigned depth);

static void add_line(GString *out, unsigned depth)
{
    g_string_append_printf(out, "\n%*s", (int)(depth * 4), "");
}

static void add_scalar(GString *out, const json_t *v)
{
    json_t *valid = json_incref((json_t *)v);
    char *text;

    if (json_is_string(v)) { /* JSON is UTF-8, names of files are bytes */
        g_autofree char *made = g_utf8_make_valid(json_string_value(v), -1);

        json_decref(valid);
        valid = json_string(made);
    }
    text = json_dumps(valid, JSON_ENCODE_ANY);
    g_string_append(out, text);
    free(text);
    json_decref(valid);
}

static void object_to(GString *out, const json_t *v, unsigned depth)
{
    const char *key;
    json_t *value, *name;
    bool first = true;

    g_string_append_c(out, '{');
    json_object_foreach((json_t *)v, key, value) {
        g_string_append(out, first ? "" : ",");
        add_line(out, depth + 1);
        name = json_string(key);
        add_scalar(out, name);
        json_decref(name);
        g_string_append(out, ": ");
        json_to(out, value, depth + 1);
        first = false;
    }
    add_line(out, depth);
    g_string_append_c(out, '}');
}

static void list_to(GString *out, const json_t *v, unsigned depth)
{
    const json_t *value;
    size_t i;

    g_string_append_c(out, '[');
    json_array_foreach(v, i, value) {
        g_string_append(out, i ? "," : "");
        add_line(out, depth + 1);
        json_to(out, value, depth + 1);
    }
    add_line(out, depth);
    g_string_append_c(out, ']');
}

static void json_to(GString *out, const json_t *v, unsigned depth)
{
    if (json_is_object(v)) {
        object_to(out, v, depth);
    } else if (json_is_array(v)) {
        list_to(out, v, depth);
    } else {
        add_scalar(out, v);
    }
}

void print_json(const json_t *value)
{
    g_autoptr(GString) out = g_string_new(NULL);

    json_to(out, value, 0);
    printf("%s\n", out->str);
}

/* --- facts --- */

static void print_scalar(const json_t *v)
{
    if (json_is_string(v)) {
        g_autofree char *text = text_printable(json_string_value(v), "");

        printf("%s", text);
    } else if (json_is_integer(v)) {
        printf("%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else if (json_is_boolean(v)) {
        printf(json_is_true(v) ? "true" : "false");
    }
}

/* What stands after "key:". */
static void print_member(const json_t *v, int depth)
{
    if (json_is_object(v) || json_is_array(v)) {
        printf("\n");
        print_facts(v, depth + 1);
    } else {
        printf(" ");
        print_scalar(v);
        printf("\n");
    }
}

void print_facts(const json_t *value, int depth)
{
    const char *key;
    json_t *v;
    size_t i;

    json_array_foreach(value, i, v) {
        printf("%*s[%zu]:", depth * 4, "", i);
        print_member(v, depth);
    }
    json_object_foreach((json_t *)value, key, v) {
        g_autofree char *name = g_strdelimit(g_strdup(key), "-", ' ');

        printf("%*s%s:", depth * 4, "", name);
        print_member(v, depth);
    }
}

/* --- snapshots --- */

static int64_t get(const json_t *obj, const char *key)
{
    return json_integer_value(json_object_get(obj, key));
}

static char *get_text(const json_t *obj, const char *key)
{
    return text_printable(json_string_value(json_object_get(obj, key)), "");
}

static void print_snapshot(const json_t *s)
{
    g_autofree char *size = size_format((uint64_t)get(s, "vm-state-size"));
    g_autofree char *id = get_text(s, "id"), *name = get_text(s, "name");
    time_t sec = (time_t)get(s, "date-sec");
    int64_t clock = get(s, "vm-clock-sec");
    char date[32], run[40], icount[24] = "";
    struct tm tm;

    localtime_r(&sec, &tm);
    strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(run, sizeof(run), "%02d:%02d:%02d.%03d", (int)(clock / 3600),
             (int)(clock / 60 % 60), (int)(clock % 60),
             (int)(get(s, "vm-clock-nsec") / 1000000));
    if (json_object_get(s, "icount")) {
        snprintf(icount, sizeof(icount), "%" PRId64, get(s, "icount"));
    }
    printf("%-9s %-16s %8s%20s%13s%11s\n", id, name, size, date, run, icount);
}

void print_snapshots(const json_t *snapshots)
{
    const json_t *s;
    size_t i;

    json_array_foreach(snapshots, i, s) {
        if (i == 0) {
            printf("Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG",
                   "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
        }
        print_snapshot(s);
    }
}
