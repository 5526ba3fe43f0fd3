/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Option strings: the grammar, the conversion to the schema's types, and the
 * graph that --blockdev, --drive and --object make of them.
 * Input: which (1), then the text; more of them behind newlines.
 */
#include "base/keyval.h"
#include "control-rig.h"
#include "control/control.h"
#include "control/schema/schema.h"
#include "fuzz.h"

enum { TEXTS_MAX = 8 };

struct use {
    const char *command, *type, *implied;
};
static const struct use uses[] = {
    { "blockdev-add", "BlockdevOptions", "driver" },
    { NULL, NULL, "file" },
    { "object-add", "ObjectOptions", "qom-type" },
    { "block-export-add", "BlockExportOptions", "type" },
};

static CO_FN void text_co_apply(struct control *c, const struct use *use,
                                const char *text)
{
    json_t *strings = NULL, *args, *ret = NULL;
    g_autoptr(GError) err = NULL;
    int r = keyval_parse(text, use->implied, &strings, &err);

    g_assert_true((r < 0) == (err != NULL));
    if (r < 0) {
        return;
    }
    g_assert_true(json_is_object(strings));
    if (!use->command) {
        r = control_co_add_drive(c, strings, &err);
    } else {
        args = schema_convert(schema_find_type(use->type), strings);
        r = control_co_execute(c, use->command, args, &ret, &err);
        json_decref(args);
        json_decref(ret);
    }
    g_assert_true((r < 0) == (err != NULL));
    json_decref(strings);
}

static CO_FN void texts_co_run(struct control *c, void *arg)
{
    struct fuzz_input *in = arg;
    unsigned which = fuzz_u8(in);
    g_autofree char *text = fuzz_str(in, 4096);
    g_auto(GStrv) texts = g_strsplit(text, "\n", TEXTS_MAX);

    for (unsigned i = 0; texts[i]; i++) {
        if (g_utf8_validate(texts[i], -1, NULL)) {
            text_co_apply(c, &uses[which % G_N_ELEMENTS(uses)], texts[i]);
            which /= G_N_ELEMENTS(uses);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len };

    control_rig_run(texts_co_run, &in);
    return 0;
}
