/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lines of the human monitor, one after the other. */
#include "control-rig.h"
#include "control/control-int.h"
#include "fuzz.h"

enum { LINES_MAX = 16 };

static CO_FN void lines_co_run(struct control *c, void *arg)
{
    struct fuzz_input *in = arg;
    g_autofree char *text = fuzz_str(in, 4096);
    g_auto(GStrv) lines = g_strsplit(text, "\n", LINES_MAX);

    for (unsigned i = 0; lines[i]; i++) {
        g_autoptr(GString) out = g_string_new(NULL);

        if (g_utf8_validate(lines[i], -1, NULL)) {
            hmp_co_execute(c, lines[i], out);
            g_assert_true(g_utf8_validate(out->str, (gssize)out->len, NULL));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };

    control_rig_run(lines_co_run, &in);
    return 0;
}
