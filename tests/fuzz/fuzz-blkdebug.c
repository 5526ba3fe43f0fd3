/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Config files of blkdebug, and the rules that they become.  Input: events to
 * let happen (a count, then one byte each), then the text.  Oracle: words for
 * each text that is refused; no event and no request trips over the rules.
 */
#include "filter/blkdebug/blkdebug-int.h"
#include "fuzz.h"

enum { TEXT_MAX = 8192 };

static void events_play(struct blkdebug_rules *rules, struct fuzz_input *in,
                        unsigned n)
{
    g_autoptr(GPtrArray) tags = g_ptr_array_new_with_free_func(g_free);
    bool now;

    blkdebug_rules_event(rules, DEBUG_NONE, tags);
    for (unsigned i = 0; i < n; i++) {
        unsigned what = fuzz_u8(in);
        int ret;

        blkdebug_rules_event(rules, what % DEBUG_EVENT_COUNT, tags);
        ret = blkdebug_rules_check(rules, what % BLKDEBUG_IOTYPE_COUNT,
                                   (uint64_t)what << (what % 56), what, &now);
        g_assert_cmpint(ret, <=, 0);
        g_assert_cmpint(ret, >=, -4095);
    }
    g_assert_cmpuint(tags->len, ==, 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct fuzz_input in = { data, len }, events;
    unsigned n = fuzz_u8(&in) % 32;
    g_autoptr(GError) err = NULL;
    struct blkdebug_rules rules;
    g_autofree char *text = NULL;
    int ret;

    events.data = fuzz_take(&in, n, &events.len);
    text = fuzz_str(&in, TEXT_MAX);
    blkdebug_rules_init(&rules);
    ret = blkdebug_parse_config(text, "config", &rules, &err);
    g_assert_true((ret < 0) == (err != NULL));
    if (ret == 0) {
        events_play(&rules, &events, n);
    }
    blkdebug_rules_done(&rules);
    return 0;
}
