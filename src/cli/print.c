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

#include "base/json-print.h"
#include "base/text.h"
#include "base/units.h"

void print_json(const json_t *value)
{
    g_autofree char *text = json_print(value, true);

    printf("%s\n", text);
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
    g_autoptr(GPtrArray) keys = json_print_order(value);
    json_t *v;
    size_t i;

    json_array_foreach(value, i, v) {
        printf("%*s[%zu]:", depth * 4, "", i);
        print_member(v, depth);
    }
    for (guint k = 0; k < keys->len; k++) {
        g_autofree char *name = g_strdelimit(g_strdup(keys->pdata[k]), "-",
                                             ' ');

        printf("%*s%s:", depth * 4, "", name);
        print_member(json_object_get(value, keys->pdata[k]), depth);
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
