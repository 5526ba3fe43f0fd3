/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/text.h"
#include <string.h>

/* How many bytes at @p are a control character; 0: none. */
static unsigned control_length(const unsigned char *p, const char *keep)
{
    if (*p < 0x20 || *p == 0x7f) {
        return strchr(keep, *p) ? 0 : 1;
    }
    /* C1 in UTF-8; and as a byte of its own, which some terminals obey. */
    if (*p == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0) {
        return 2;
    }
    return *p >= 0x80 && *p < 0xa0 ? 1 : 0;
}

/* How many bytes the character at @p has; 1 where it is none. */
static unsigned character_length(const char *p)
{
    gunichar c = g_utf8_get_char_validated(p, -1);

    return c == (gunichar)-1 || c == (gunichar)-2
               ? 1
               : (unsigned)(g_utf8_next_char(p) - p);
}

char *text_printable(const char *text, const char *keep)
{
    GString *out;

    if (!text) {
        return NULL;
    }
    out = g_string_new(NULL);
    for (const char *p = text; *p;) {
        unsigned n = control_length((const unsigned char *)p, keep);

        for (unsigned i = 0; i < n; i++) {
            g_string_append_printf(out, "\\x%02x", (unsigned char)p[i]);
        }
        if (n == 0) {
            n = character_length(p);
            g_string_append_len(out, p, n);
        }
        p += n;
    }
    return g_string_free(out, FALSE);
}

bool text_is_id(const char *id)
{
    if (!id || !g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}
