/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rules of "blkdebug": see filter/blkdebug/blkdebug-int.h. */
#include <string.h>
#include "filter/blkdebug/blkdebug-int.h"

void blkdebug_rules_init(struct blkdebug_rules *r)
{
    for (unsigned i = 0; i < DEBUG_EVENT_COUNT; i++) {
        g_queue_init(&r->by_event[i]);
    }
    r->active = g_ptr_array_new();
    r->state = 1;
}

static void rule_free(void *p)
{
    struct blkdebug_rule *rule = p;

    if (rule->action == BLKDEBUG_BREAK) {
        g_free(rule->tag);
    }
    g_free(rule);
}

void blkdebug_rules_done(struct blkdebug_rules *r)
{
    if (!r->active) {
        return;
    }
    for (unsigned i = 0; i < DEBUG_EVENT_COUNT; i++) {
        g_queue_clear_full(&r->by_event[i], rule_free);
    }
    g_ptr_array_free(r->active, TRUE);
    r->active = NULL;
}

void blkdebug_rules_add(struct blkdebug_rules *r,
                        const struct blkdebug_rule *rule)
{
    struct blkdebug_rule *copy = g_new(struct blkdebug_rule, 1);

    *copy = *rule;
    g_queue_push_tail(&r->by_event[rule->event], copy);
}

unsigned blkdebug_rules_remove_breaks(struct blkdebug_rules *r, const char *tag)
{
    unsigned n = 0;

    for (unsigned i = 0; i < DEBUG_EVENT_COUNT; i++) {
        GList *next;

        for (GList *l = r->by_event[i].head; l; l = next) {
            struct blkdebug_rule *rule = l->data;

            next = l->next;
            if (rule->action == BLKDEBUG_BREAK &&
                (!tag || !strcmp(rule->tag, tag))) {
                g_queue_delete_link(&r->by_event[i], l);
                rule_free(rule);
                n++;
            }
        }
    }
    return n;
}

void blkdebug_rules_event(struct blkdebug_rules *r, enum debug_event ev,
                          GPtrArray *ret_tags)
{
    GQueue *rules = &r->by_event[ev];
    int64_t new_state = r->state;
    bool injects = false, moved = false;
    GList *next;

    for (GList *l = rules->head; l; l = next) {
        struct blkdebug_rule *rule = l->data;

        next = l->next;
        if (rule->state && rule->state != r->state) {
            continue;
        }
        if (rule->action == BLKDEBUG_INJECT) {
            if (!injects) {
                g_ptr_array_set_size(r->active, 0);
                injects = true;
            }
            g_ptr_array_add(r->active, rule);
        } else if (rule->action == BLKDEBUG_SET_STATE) {
            /* Of several the first one says. */
            new_state = moved ? new_state : rule->new_state;
            moved = true;
        } else {
            g_ptr_array_add(ret_tags, g_steal_pointer(&rule->tag));
            g_queue_delete_link(rules, l);
            rule_free(rule);
        }
    }
    r->state = new_state;
}

static bool rule_hits(const struct blkdebug_rule *rule,
                      enum blkdebug_iotype type, uint64_t off, uint64_t len)
{
    int64_t at = rule->inject.offset;

    return (rule->inject.iotypes & (1u << type)) &&
           (at < 0 || ((uint64_t)at >= off && (uint64_t)at - off < len));
}

int blkdebug_rules_check(struct blkdebug_rules *r, enum blkdebug_iotype type,
                         uint64_t off, uint64_t len, bool *ret_immediately)
{
    for (unsigned i = 0; i < r->active->len; i++) {
        struct blkdebug_rule *rule = g_ptr_array_index(r->active, i);
        int error = rule->inject.error;

        if (!rule_hits(rule, type, off, len)) {
            continue;
        }
        *ret_immediately = rule->inject.immediately;
        if (error && rule->inject.once) {
            g_ptr_array_remove_index(r->active, i);
            g_queue_remove(&r->by_event[rule->event], rule);
            rule_free(rule);
        }
        return -error;
    }
    return 0;
}
