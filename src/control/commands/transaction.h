/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Transactions: several actions at one point in time, all or none.
 *
 *   prepare all -> hold guests of all disks -> do each in order -> the last
 *   steps of all -> let guests go on -> commit all
 *
 * What was done for one that came to nothing is undone, the latest first, while
 * guests are still held.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"

struct control;
struct job_group;
struct node;

struct action {
    const struct action_type *type;
    struct control *control;
    const json_t *args;      /* checked against the schema */
    struct job_group *group; /* jobs end together; NULL: each by itself */
    struct node *disk;       /* whose guests are held; referenced, or NULL */
    bool done;
    void *state; /* zeroed, of type->state_size */
};

/* Each may be left out. */
struct action_type {
    const char *name; /* of the command, too */
    size_t state_size;
    bool groups; /* it starts a job, which can be in a group */
    /* Before anybody is held. Sets ->disk. */
    CO_FN_PTR int (*co_prepare)(struct action *a, GError **err);
    CO_FN_PTR int (*co_do)(struct action *a, GError **err);
    /* When all others are done: what is hard to undo. */
    CO_FN_PTR int (*co_do_last)(struct action *a, GError **err);
    /* Behind all that, once for all actions of the transaction: those that have
     * this function, all or none. */
    CO_FN_PTR int (*co_do_together)(struct action *actions, unsigned n,
                                    GError **err);
    /* co_do succeeded, and the transaction fails. */
    CO_FN_PTR void (*co_undo)(struct action *a);
    /* All are done, guests go on. */
    CO_FN_PTR void (*co_commit)(struct action *a);
    /* Release everything: always called. */
    CO_FN_PTR void (*co_end)(struct action *a, bool success);
};

extern const struct action_type bitmap_add_action, bitmap_remove_action,
    bitmap_clear_action, bitmap_enable_action, bitmap_disable_action,
    bitmap_merge_action;

extern const struct action_type snapshot_action, snapshot_sync_action,
    snapshot_internal_action, backup_action, drive_backup_action;

/* Run @n actions, whose ->type, ->control and ->args are set. */
CO_FN int actions_co_run(struct action *actions, unsigned n, GError **err);
/* A command that is an action. */
CO_FN int action_co_run(struct control *c, const struct action_type *type,
                        const json_t *args, GError **err);
