/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "blkdebug": requests fail, change size or wait, as rules say.
 *
 * The nodes above tell what they are about to do (graph/debug.h); that moves
 * the rules (filter/blkdebug/blkdebug-int.h), and a request that comes here
 * while a rule is active gets its error.  A breakpoint holds the coroutine that
 * reported the event; a drain lets all of them go, since it would wait for them
 * for ever.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "filter/blkdebug/blkdebug-int.h"
#include "filter/filter.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"

/* A coroutine held at a breakpoint: its own. */
struct suspended {
    const char *tag;
    bool go;
    struct co_queue queue;
    struct suspended *next;
};

struct blkdebug {
    struct blkdebug_rules rules;
    struct suspended *suspended; /* oldest first */
    bool quiesced;
    char *config; /* or NULL */
    uint64_t align, max_transfer, opt_zero, max_zero, opt_discard, max_discard;
};

static const char *const blkdebug_option_names[] = { "image",
                                                     "config",
                                                     "align",
                                                     "max-transfer",
                                                     "opt-write-zero",
                                                     "max-write-zero",
                                                     "opt-discard",
                                                     "max-discard",
                                                     "inject-error",
                                                     "set-state",
                                                     "take-child-perms",
                                                     "unshare-child-perms",
                                                     "filename",
                                                     NULL };
static const char *const blkdebug_prefixes[] = { "blkdebug:", NULL };

/* --- options --- */

/* Sizes must be multiples of the alignment and fit 31 bits, as QEMU has
 * it; "opt" ones need not be. */
static int take_limit(struct opts *o, const char *name, uint64_t align,
                      uint64_t *ret, GError **err)
{
    int r = opts_take_size(o, name, ret, err);

    if (r > 0 && (*ret > INT32_MAX || *ret % align)) {
        return err_set(err, EINVAL, "Cannot meet constraints with %s %" PRIu64,
                       name, *ret);
    }
    return MIN(r, 0);
}

static int take_limits(struct opts *o, struct blkdebug *s, GError **err)
{
    const struct {
        const char *name;
        uint64_t *value;
    } limits[] = {
        { "max-transfer", &s->max_transfer },
        { "opt-write-zero", &s->opt_zero },
        { "max-write-zero", &s->max_zero },
        { "opt-discard", &s->opt_discard },
        { "max-discard", &s->max_discard },
    };
    int r = opts_take_size(o, "align", &s->align, err);

    if (r > 0 && s->align &&
        (s->align > INT32_MAX || !is_power_of_two(s->align))) {
        return err_set(err, EINVAL,
                       "Cannot meet constraints with align %" PRIu64, s->align);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(limits) && r >= 0; i++) {
        r = take_limit(o, limits[i].name, MAX(s->align, 1), limits[i].value,
                       err);
    }
    /* What is split must leave whole units of the preferred size. */
    if (r >= 0 && s->opt_zero && s->max_zero % s->opt_zero) {
        r = err_set(err, EINVAL,
                    "Cannot meet constraints with max-write-zero %" PRIu64,
                    s->max_zero);
    }
    if (r >= 0 && s->opt_discard && s->max_discard % s->opt_discard) {
        r = err_set(err, EINVAL,
                    "Cannot meet constraints with max-discard %" PRIu64,
                    s->max_discard);
    }
    return MIN(r, 0);
}

/* What to open as the image: {"file": ...} or {"filename": ...}; the config
 * that a name holds goes to @s. Owned. */
static int take_image(struct opts *o, struct blkdebug *s, json_t **ret,
                      GError **err)
{
    g_autofree char *name = NULL, *path = NULL;
    json_t *image = opts_take_any(o, "image");
    int r;

    if (image) {
        *ret = json_pack("{s:o}", "file", image);
        return 0;
    }
    r = opts_take_str(o, "filename", &name, err);
    if (r <= 0) {
        return r < 0 ? r : opts_missing("image", err);
    }
    r = blkdebug_parse_name(name, &s->config, &path, err);
    if (r == 0) {
        *ret = json_pack("{s:s}", "filename", path);
    }
    return r;
}

static int take_config(struct opts *o, struct blkdebug *s, GError **err)
{
    char *config = NULL;
    int r = opts_take_str(o, "config", &config, err);

    if (r > 0) {
        g_free(s->config);
        s->config = *config ? config : NULL;
    }
    return MIN(r, 0);
}

static CO_FN int blkdebug_co_open_image(struct node *n, struct opts *o,
                                        GError **err)
{
    json_t *image = NULL;
    struct opts *io;
    int r = take_image(o, n->state, &image, err);

    if (r < 0) {
        return r;
    }
    io = opts_new(image);
    r = node_co_open_file(n, io, err);
    opts_free(io);
    json_decref(image);
    return r;
}

static CO_FN int open_co_perms(struct node *n, struct opts *o, GError **err)
{
    unsigned take = 0, unshare = 0;
    int r = blkdebug_take_perms(o, "take-child-perms", &take, err);

    if (r == 0) {
        r = blkdebug_take_perms(o, "unshare-child-perms", &unshare, err);
    }
    return r < 0 || !(take | unshare)
               ? r
               : node_co_restrict_file(n, take, unshare, err);
}

static CO_FN int open_co_rules(struct node *n, struct opts *o, GError **err)
{
    struct blkdebug *s = n->state;
    GPtrArray *tags;
    int r = take_config(o, s, err);

    if (r == 0 && s->config) {
        r = blkdebug_co_read_config(s->config, &s->rules, err);
    }
    if (r == 0) {
        r = blkdebug_take_rules(o, &s->rules, err);
    }
    if (r == 0) {
        /* The one time that "none" happens; there are no breakpoints yet. */
        tags = g_ptr_array_new();
        blkdebug_rules_event(&s->rules, DEBUG_NONE, tags);
        g_ptr_array_free(tags, TRUE);
    }
    return r;
}

static void state_clear(struct blkdebug *s)
{
    blkdebug_rules_done(&s->rules);
    g_clear_pointer(&s->config, g_free);
}

static CO_FN int blkdebug_co_open(struct node *n, struct opts *o,
                                  unsigned flags, GError **err)
{
    struct blkdebug *s = n->state;
    int r;

    blkdebug_rules_init(&s->rules);
    r = take_limits(o, s, err);
    if (r == 0) {
        r = blkdebug_co_open_image(n, o, err);
    }
    if (r == 0) {
        r = open_co_rules(n, o, err);
    }
    if (r == 0) {
        r = open_co_perms(n, o, err);
    }
    if (r < 0) {
        state_clear(s);
    }
    return r;
}

/* Rules and limits stay; read-only and the like are not ours. */
static CO_FN int blkdebug_co_reopen(struct node *n, struct opts *o,
                                    unsigned flags, GError **err)
{
    const char *image = node_file(n)->name;
    int r = 0;

    for (unsigned i = 0; blkdebug_option_names[i] && r == 0; i++) {
        const char *name = blkdebug_option_names[i];
        json_t *v = opts_take_any(o, name);

        if (v && !json_equal(v, json_object_get(n->options, name)) &&
            (strcmp(name, "image") || g_strcmp0(json_string_value(v), image))) {
            r = err_set(err, EINVAL, "Cannot change the option '%s'", name);
        }
        json_decref(v);
    }
    return r;
}

static CO_FN void blkdebug_co_close(struct node *n)
{
    struct blkdebug *s = n->state;

    g_assert(!s->suspended);
    state_clear(s);
}

static void blkdebug_describe(struct node *n)
{
    const struct blkdebug *s = n->state;
    const char *image = node_file(n)->filename;

    g_free(n->filename);
    n->filename = image ? g_strdup_printf("blkdebug:%s:%s",
                                          s->config ? s->config : "", image)
                        : NULL;
}

static void blkdebug_limits(struct node *n, struct node_limits *l)
{
    const struct blkdebug *s = n->state;

    if (s->align) {
        l->request_alignment = (uint32_t)s->align;
    }
    l->max_transfer = s->max_transfer;
}

/* --- breakpoints --- */

/* Held under all of @tags at once; goes on when each has been resumed. */
static CO_FN void tags_co_suspend(struct blkdebug *s, const GPtrArray *tags)
{
    g_autofree struct suspended *held = g_new0(struct suspended, tags->len);
    struct suspended **p = &s->suspended;

    if (s->quiesced) {
        return;
    }
    while (*p) {
        p = &(*p)->next;
    }
    for (unsigned i = 0; i < tags->len; i++) {
        held[i].tag = g_ptr_array_index(tags, i);
        *p = &held[i];
        p = &held[i].next;
    }
    for (unsigned i = 0; i < tags->len; i++) {
        while (!held[i].go) {
            co_queue_co_wait(&held[i].queue);
        }
    }
}

/* Let those called @tag go, all for NULL; at most @max. How many. */
static unsigned suspended_resume(struct blkdebug *s, const char *tag,
                                 unsigned max)
{
    struct suspended **p = &s->suspended;
    unsigned n = 0;

    while (*p && n < max) {
        struct suspended *at = *p;

        if (tag && strcmp(at->tag, tag)) {
            p = &at->next;
            continue;
        }
        *p = at->next;
        at->go = true;
        co_queue_wake_all(&at->queue);
        n++;
    }
    return n;
}

static CO_FN void blkdebug_co_debug_event(struct node *n, enum debug_event ev)
{
    struct blkdebug *s = n->state;
    GPtrArray *tags;

    if (!s->rules.active || g_queue_is_empty(&s->rules.by_event[ev])) {
        return;
    }
    tags = g_ptr_array_new_with_free_func(g_free);
    blkdebug_rules_event(&s->rules, ev, tags);
    if (tags->len > 0) {
        tags_co_suspend(s, tags);
    }
    g_ptr_array_free(tags, TRUE);
}

static int break_add(struct blkdebug *s, const char *event, const char *tag)
{
    struct blkdebug_rule rule = { .action = BLKDEBUG_BREAK };

    for (unsigned i = 0; i < DEBUG_EVENT_COUNT; i++) {
        if (!strcmp(debug_event_names[i], event)) {
            rule.event = (enum debug_event)i;
            rule.tag = g_strdup(tag);
            blkdebug_rules_add(&s->rules, &rule);
            return 0;
        }
    }
    return -ENOENT;
}

static bool is_suspended(const struct blkdebug *s, const char *tag)
{
    for (const struct suspended *at = s->suspended; at; at = at->next) {
        if (!strcmp(at->tag, tag)) {
            return true;
        }
    }
    return false;
}

static int blkdebug_control(struct node *n, enum debug_control what,
                            const char *event, const char *tag)
{
    struct blkdebug *s = n->state;
    unsigned found;

    switch (what) {
    case DEBUG_BREAK: return break_add(s, event, tag);
    case DEBUG_RESUME: return suspended_resume(s, tag, 1) ? 0 : -ENOENT;
    case DEBUG_IS_SUSPENDED: return is_suspended(s, tag);
    case DEBUG_REMOVE_BREAK:
    case DEBUG_RELEASE: break;
    }
    found = blkdebug_rules_remove_breaks(&s->rules, tag);
    found += suspended_resume(s, tag, UINT_MAX);
    return found ? 0 : -ENOENT;
}

static CO_FN void blkdebug_co_quiesce(struct node *n)
{
    struct blkdebug *s = n->state;

    s->quiesced = true;
    suspended_resume(s, NULL, UINT_MAX);
}

static void blkdebug_resume(struct node *n)
{
    struct blkdebug *s = n->state;

    s->quiesced = false;
}

/* --- requests --- */

static CO_FN int rule_co_check(struct node *n, enum blkdebug_iotype type,
                               uint64_t off, uint64_t len)
{
    struct blkdebug *s = n->state;
    bool immediately = false;
    int r = blkdebug_rules_check(&s->rules, type, off, len, &immediately);

    if (r < 0 && !immediately) {
        co_relax();
    }
    return r;
}

static CO_FN int blkdebug_co_preadv(struct node *n, uint64_t off,
                                    struct iov iov, unsigned flags)
{
    int r = rule_co_check(n, BLKDEBUG_READ, off, iov.len);

    return r < 0 ? r : node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN int blkdebug_co_pwritev(struct node *n, uint64_t off,
                                     struct iov iov, unsigned flags)
{
    int r = rule_co_check(n, BLKDEBUG_WRITE, off, iov.len);

    return r < 0 ? r : node_co_pwritev(node_file(n), off, iov, flags);
}

/* Pieces of at most @max, ends at multiples of it. */
static uint64_t piece_of(uint64_t off, uint64_t end, uint64_t max)
{
    return max ? min_u64(end - off, max - off % max) : end - off;
}

static CO_FN int blkdebug_co_zero(struct node *n, uint64_t off, uint64_t len,
                                  unsigned flags)
{
    const struct blkdebug *s = n->state;
    uint64_t unit = MAX(s->opt_zero, 1), end = off + len;
    int r = 0;

    /* Ragged ones become writes of zeroes. */
    if (off % unit || (len % unit && end != n->size)) {
        return -ENOTSUP;
    }
    while (off < end && r == 0) {
        uint64_t piece = piece_of(off, end, s->max_zero);

        r = rule_co_check(n, BLKDEBUG_WRITE_ZEROES, off, piece);
        if (r == 0) {
            r = node_co_zero(node_file(n), off, piece, flags);
        }
        off += piece;
    }
    return r;
}

static CO_FN int blkdebug_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    const struct blkdebug *s = n->state;
    uint64_t unit = MAX(s->opt_discard, 1), end = off + len;
    int r = 0;

    /* The ragged ends are not discarded: it was only a hint. */
    end = end == n->size ? end : end / unit * unit;
    off = (off + unit - 1) / unit * unit;
    while (off < end && r == 0) {
        uint64_t piece = piece_of(off, end, s->max_discard);

        r = rule_co_check(n, BLKDEBUG_DISCARD, off, piece);
        if (r == 0) {
            r = node_co_discard(node_file(n), off, piece);
        }
        off += piece;
    }
    return r;
}

static CO_FN int blkdebug_co_flush(struct node *n)
{
    int r = rule_co_check(n, BLKDEBUG_FLUSH, 0, 0);

    return r < 0 ? r : node_co_flush(node_file(n));
}

static CO_FN int blkdebug_co_map(struct node *n, uint64_t off, uint64_t len,
                                 unsigned flags, struct mapping *ret_map)
{
    return rule_co_check(n, BLKDEBUG_BLOCK_STATUS, off, len);
}

const struct node_driver blkdebug_driver = {
    .name = "blkdebug",
    .kind = NODE_FILTER,
    .state_size = sizeof(struct blkdebug),
    .handles_fua = true,
    .option_names = blkdebug_option_names,
    .name_prefixes = blkdebug_prefixes,
    .co_open = blkdebug_co_open,
    .co_close = blkdebug_co_close,
    .co_reopen = blkdebug_co_reopen,
    .fixed_options = blkdebug_option_names,
    .describe = blkdebug_describe,
    .limits = blkdebug_limits,
    .co_preadv = blkdebug_co_preadv,
    .co_pwritev = blkdebug_co_pwritev,
    .co_zero = blkdebug_co_zero,
    .co_discard = blkdebug_co_discard,
    .co_flush = blkdebug_co_flush,
    .co_map = blkdebug_co_map,
    .co_quiesce = blkdebug_co_quiesce,
    .resume = blkdebug_resume,
    .co_debug_event = blkdebug_co_debug_event,
    .debug_control = blkdebug_control,
};
