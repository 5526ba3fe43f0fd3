/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Words and numbers of the qemu-io language. */
#include <string.h>
#include "base/units.h"
#include "control/qemu-io/qemuio-int.h"

void qemuio_print_usage(const struct qemuio_command *cmd, GString *out)
{
    g_string_append(out, cmd->name);
    for (const char *o = cmd->options; *o; o++) {
        if (*o != ':') {
            g_string_append_printf(out, " [-%c%s]", *o,
                                   o[1] == ':' ? " value" : "");
        }
    }
    g_string_append_printf(out, "%s%s -- %s\n", *cmd->params ? " " : "",
                           cmd->params, cmd->help);
}

bool qemuio_parse_size(const char *word, uint64_t *ret, GString *out)
{
    if (!g_ascii_isdigit(*word) || size_parse(word, 0, ret, NULL) < 0 ||
        *ret > INT64_MAX) {
        g_string_append_printf(out,
                               "Parsing error: non-numeric argument, or "
                               "extraneous/unrecognized suffix -- %s\n",
                               word);
        return false;
    }
    return true;
}

void qemuio_print_size(GString *out, double bytes)
{
    static const char *const units[] = {
        "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB",
    };
    unsigned i = 0;
    gsize len;

    for (; bytes >= 1024 && i + 1 < G_N_ELEMENTS(units); i++) {
        bytes /= 1024;
    }
    len = out->len;
    g_string_append_printf(out, i ? "%.3f" : "%f", bytes);
    /* A whole number has no fraction. */
    if (strspn(strchr(out->str + len, '.') + 1, "0") ==
        strlen(strchr(out->str + len, '.') + 1)) {
        g_string_truncate(out, (gsize)(strchr(out->str + len, '.') - out->str));
    }
    g_string_append_printf(out, " %s", units[i]);
}
