/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See latency-target.h. */
#include "job/latency-target.h"
#include <errno.h>
#include <math.h>
#include <string.h>
#include "base/err.h"

#define TIMES_MIN 1.1
#define TIMES_MAX 1000
#define NS_MIN 10e3
#define NS_MAX 60e9

static const struct {
    const char *name;
    double ns;
} units[] = { { "", 1e6 }, { "ms", 1e6 }, { "us", 1e3 }, { "s", 1e9 } };

static int target_in_time(const char *unit, double value,
                          struct latency_target *ret)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(units); i++) {
        double ns = value * units[i].ns;

        if (!strcmp(unit, units[i].name)) {
            *ret = (struct latency_target) { .ns = (uint64_t)ns };
            return ns >= NS_MIN && ns <= NS_MAX ? 0 : -EINVAL;
        }
    }
    return -EINVAL;
}

int latency_target_parse(const char *text, struct latency_target *ret,
                         GError **err)
{
    struct latency_target t = { 0 };
    char *unit;
    double value = g_ascii_strtod(text, &unit);
    int r;

    if (!strcmp(text, "off")) {
        *ret = t;
        return 0;
    }
    if (unit == text || !isfinite(value)) {
        r = -EINVAL;
    } else if (!strcmp(unit, "x")) {
        t.times = value;
        r = value >= TIMES_MIN && value <= TIMES_MAX ? 0 : -EINVAL;
    } else {
        r = target_in_time(unit, value, &t);
    }
    if (r < 0) {
        return err_set(err, EINVAL,
                       "Parameter 'latency-target' expects a time from 10us to "
                       "60s ('5ms'), a multiple from 1.1x to 1000x of the "
                       "undisturbed latency ('2x'), or 'off'");
    }
    *ret = t;
    return 0;
}

char *latency_target_format(const struct latency_target *t)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];

    if (t->ns) {
        g_ascii_formatd(number, sizeof(number), "%.6g", (double)t->ns / 1e6);
        return g_strconcat(number, "ms", NULL);
    }
    g_ascii_formatd(number, sizeof(number), "%.6g", t->times);
    return t->times > 0 ? g_strconcat(number, "x", NULL) : g_strdup("off");
}
