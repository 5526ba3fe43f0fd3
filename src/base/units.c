/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/units.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

#include "base/err.h"

static const char suffixes[] = "BKMGTPE";

/* Power of 1024 of a suffix character, or -1. */
static int suffix_power(char c)
{
    const char *p = c ? strchr(suffixes, toupper((unsigned char)c)) : NULL;

    return p ? (int)(p - suffixes) : -1;
}

/* The number without a message: 0, -EINVAL or -ERANGE. */
static int local_parse(const char *text, char default_suffix,
                       uint64_t *ret_bytes)
{
    int power = default_suffix ? suffix_power(default_suffix) : 0;
    bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X') &&
               isxdigit((unsigned char)text[2]);
    double fraction = 0;
    char *end;

    if (!isdigit((unsigned char)text[0])) {
        return -EINVAL;
    }
    errno = 0;
    uint64_t whole = g_ascii_strtoull(text, &end, hex ? 16 : 10);
    if (errno == ERANGE) {
        return -ERANGE;
    }
    if (*end == '.' && !hex) {
        double scale = 0.1;
        for (end++; isdigit((unsigned char)*end); end++, scale /= 10) {
            fraction += (*end - '0') * scale;
        }
    }
    if (*end) {
        power = suffix_power(*end++);
    }
    if (power < 0 || *end || (fraction > 0 && power == 0)) {
        return -EINVAL;
    }
    unsigned shift = 10 * (unsigned)power;
    if (whole > (UINT64_MAX >> shift)) {
        return -ERANGE;
    }
    *ret_bytes = (whole << shift) +
                 (uint64_t)(fraction * (double)(1ull << shift) + 0.5);
    return 0;
}

int size_parse(const char *text, char default_suffix, uint64_t *ret_bytes,
               GError **err)
{
    switch (local_parse(text, default_suffix, ret_bytes)) {
    case 0: return 0;
    case -ERANGE:
        return err_set(err, ERANGE, "'%s' is too large: sizes end below 16 E",
                       text);
    default:
        return err_set(err, EINVAL,
                       "'%s' is not a size: give a number with "
                       "an optional suffix k, M, G, T, P or E",
                       text);
    }
}

char *size_format(uint64_t bytes)
{
    static const char *const names[] = { "B",   "KiB", "MiB", "GiB",
                                         "TiB", "PiB", "EiB" };
    unsigned i = 0;
    double value = (double)bytes;

    /* The next unit as soon as three digits no longer hold the number. */
    while (value >= 1000 && i + 1 < G_N_ELEMENTS(names)) {
        value /= 1024;
        i++;
    }
    return g_strdup_printf("%0.3g %s", value, names[i]);
}
