/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See limit-options.h. */
#include "cli/limit-options.h"

#include <stdio.h>
#include <string.h>

#include "base/units.h"
#include "cli/cli.h"

/* "+90s", "+30m", "+2h", "+1d": from now on. 0: something else. */
static gint64 parse_from_now(const char *text, gint64 now)
{
    static const struct {
        char unit;
        gint64 seconds;
    } units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
    char *end;
    guint64 n;

    if (*text != '+' || !g_ascii_isdigit(text[1])) {
        return 0;
    }
    n = g_ascii_strtoull(text + 1, &end, 10);
    for (unsigned i = 0; i < G_N_ELEMENTS(units) && n < G_MAXINT32; i++) {
        if (end[0] == units[i].unit && !end[1]) {
            return now + (gint64)n * units[i].seconds;
        }
    }
    return 0;
}

/* "18:05": the next time that a clock here shows it. 0: something else. */
static gint64 parse_clock(const char *text, GDateTime *now)
{
    g_auto(GStrv) parts = g_strsplit(text, ":", 2);
    g_autoptr(GDateTime) then = NULL;
    guint64 hour, minute;
    int year, month, day;

    if (!parts[0] || !parts[1] ||
        !g_ascii_string_to_unsigned(parts[0], 10, 0, 23, &hour, NULL) ||
        !g_ascii_string_to_unsigned(parts[1], 10, 0, 59, &minute, NULL)) {
        return 0;
    }
    g_date_time_get_ymd(now, &year, &month, &day);
    then = g_date_time_new_local(year, month, day, (gint)hour, (gint)minute, 0);
    if (then && g_date_time_compare(then, now) <= 0) {
        g_autoptr(GDateTime) today = then;
        then = g_date_time_add_days(today, 1);
    }
    return then ? g_date_time_to_unix(then) : 0;
}

/* "2026-11-30T18:05" and the like, in the time zone of here unless it says
 * another. 0: something else. */
static gint64 parse_date(const char *text)
{
    g_autoptr(GTimeZone) here = g_time_zone_new_local();
    g_autofree char *iso = g_strdup(text);
    g_autofree char *full = NULL;
    g_autoptr(GDateTime) then = NULL;

    g_strdelimit(iso, " ", 'T');
    full = strlen(iso) == strlen("2026-11-30T18:05")
               ? g_strconcat(iso, ":00", NULL)
               : g_strdup(iso);
    then = g_date_time_new_from_iso8601(full, here);
    return then ? g_date_time_to_unix(then) : 0;
}

static int take_finish_by(const char *command, const char *text, json_t *limits)
{
    g_autoptr(GDateTime) now = g_date_time_new_now_local();
    gint64 when = parse_from_now(text, g_date_time_to_unix(now));

    when = when ? when : parse_clock(text, now);
    when = when ? when : parse_date(text);
    if (strcmp(text, "0") == 0) {
        when = 0;
    } else if (when <= 0) {
        return cli_usage_error(command,
                               "--finish-by expects +2h, 18:05 or "
                               "2026-11-30T18:05 (0: whenever), not '%s'",
                               text);
    }
    json_object_set_new(limits, "finish-by", json_integer(when));
    return 0;
}

static int take_floor(const char *command, const char *text, json_t *limits)
{
    g_autoptr(GError) err = NULL;
    uint64_t floor;

    if (size_parse(text, 0, &floor, &err) < 0) {
        return cli_usage_error(command, "--floor: %s", err->message);
    }
    json_object_set_new(limits, "floor", json_integer((json_int_t)floor));
    return 0;
}

int limit_option(const char *command, int c, const char *text, json_t *limits)
{
    switch (c) {
    case OPT_FLOOR: return take_floor(command, text, limits);
    case OPT_FINISH_BY: return take_finish_by(command, text, limits);
    default:
        json_object_set_new(limits, "latency-target", json_string(text));
        return 0;
    }
}
