/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of "blkdebug" share: rules, and how options become rules.
 *
 * Rules are a state machine without I/O.  An event selects its rules; those
 * whose state is the current one (or 0) act: a set-state rule changes the state
 * when all have been looked at, the inject-error rules become the active ones
 * in place of those that were, a breakpoint is taken out and reported.  Every
 * request is then checked against the active rules, which stay active until an
 * event brings others, or, with "once", until they have hit.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/options.h"
#include "graph/debug.h"

enum blkdebug_iotype {
    BLKDEBUG_READ,
    BLKDEBUG_WRITE,
    BLKDEBUG_WRITE_ZEROES,
    BLKDEBUG_DISCARD,
    BLKDEBUG_FLUSH,
    BLKDEBUG_BLOCK_STATUS,
    BLKDEBUG_IOTYPE_COUNT
};
/* By enum blkdebug_iotype, NULL-terminated. */
extern const char *const blkdebug_iotype_names[];

enum blkdebug_action { BLKDEBUG_INJECT, BLKDEBUG_SET_STATE, BLKDEBUG_BREAK };

struct blkdebug_rule {
    enum blkdebug_action action;
    enum debug_event event;
    int64_t state; /* 0: any */
    union {
        struct {
            unsigned iotypes; /* 1 << enum blkdebug_iotype */
            int error;        /* errno; 0: let pass */
            int64_t offset;   /* byte that the request must touch; -1: any */
            bool once, immediately;
        } inject;
        int64_t new_state;
        char *tag;
    };
};

struct blkdebug_rules {
    GQueue by_event[DEBUG_EVENT_COUNT]; /* struct blkdebug_rule, in order */
    GPtrArray *active;                  /* borrowed from by_event */
    int64_t state;
};

void blkdebug_rules_init(struct blkdebug_rules *r);
void blkdebug_rules_done(struct blkdebug_rules *r);
/* Add a copy of @rule; a tag passes to the table. */
void blkdebug_rules_add(struct blkdebug_rules *r,
                        const struct blkdebug_rule *rule);
/* Remove the breakpoints called @tag, all for NULL. How many. */
unsigned blkdebug_rules_remove_breaks(struct blkdebug_rules *r,
                                      const char *tag);
/* @ev happens. Tags of the breakpoints it hit, which are gone from the table,
 * are appended to @ret_tags; the strings are the array's. */
void blkdebug_rules_event(struct blkdebug_rules *r, enum debug_event ev,
                          GPtrArray *ret_tags);
/* What happens to a request: 0 or -errno. @len 0 touches no byte. */
int blkdebug_rules_check(struct blkdebug_rules *r, enum blkdebug_iotype type,
                         uint64_t off, uint64_t len, bool *ret_immediately);

/* --- blkdebug-options.c --- */

/* Take "inject-error" and "set-state" out of @o. */
int blkdebug_take_rules(struct opts *o, struct blkdebug_rules *r, GError **err);
/* The same from the text of a config file; @name is for messages. */
int blkdebug_parse_config(const char *text, const char *name,
                          struct blkdebug_rules *r, GError **err);
/* The same from file @path. */
CO_FN int blkdebug_co_read_config(const char *path, struct blkdebug_rules *r,
                                  GError **err);
/* A list of permissions as enum perm; 0 when absent. */
int blkdebug_take_perms(struct opts *o, const char *name, unsigned *ret_perms,
                        GError **err);
/* "blkdebug:CONFIG:PATH" taken apart; *@ret_config is NULL when that part is
 * empty. Owned by the caller. */
int blkdebug_parse_name(const char *name, char **ret_config, char **ret_path,
                        GError **err);
