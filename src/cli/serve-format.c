/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Endings of names; see serve-format.h. */
#include "cli/serve-format.h"

#include <glib.h>
#include <string.h>

const char *format_of_name(const char *image)
{
    static const char *const endings[] = { "qcow2", "qed", "raw", "cow" };
    const char *dot = strrchr(image, '.');

    for (unsigned i = 0; dot && i < G_N_ELEMENTS(endings); i++) {
        if (strcmp(dot + 1, endings[i]) == 0) {
            return endings[i];
        }
    }
    return NULL;
}
