/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command, and the actions that there are. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "job/job.h"

static CO_FN int abort_co_do(struct action *a, GError **err)
{
    return err_set(err, ECANCELED, "Transaction aborted using Abort action");
}

static const struct action_type abort_action = {
    .name = "abort",
    .co_do = abort_co_do,
};

static const struct action_type *const types[] = {
    &abort_action,         &bitmap_add_action,
    &bitmap_remove_action, &bitmap_clear_action,
    &bitmap_enable_action, &bitmap_disable_action,
    &bitmap_merge_action,  &snapshot_action,
    &snapshot_sync_action, &snapshot_internal_action,
    &backup_action,        &drive_backup_action,
};

static const struct action_type *find_type(const char *name)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        if (strcmp(types[i]->name, name) == 0) {
            return types[i];
        }
    }
    g_assert_not_reached(); /* the schema has no other */
}

/* @list: TransactionAction, checked; what each has for data is not. */
static int take_actions(struct control *c, const json_t *list,
                        struct action *actions, GError **err)
{
    const json_t *item;
    size_t i;

    json_array_foreach(list, i, item) {
        const char *name = arg_str(item, "type");
        const struct schema_command *command = schema_find_command(name);

        actions[i] = (struct action) {
            .type = find_type(name),
            .control = c,
            .args = json_object_get(item, "data"),
        };
        if (command && schema_check(command->args, actions[i].args, err) < 0) {
            return -EINVAL;
        }
    }
    return 0;
}

/* Only what starts jobs can end together. */
static int check_groups(const struct action *actions, unsigned n, GError **err)
{
    for (unsigned i = 0; i < n; i++) {
        if (!actions[i].type->groups && actions[i].type != &abort_action) {
            return err_set(err, EINVAL,
                           "Action '%s' does not support Transaction property "
                           "completion-mode = grouped",
                           actions[i].type->name);
        }
    }
    return 0;
}

static CO_FN int cmd_transaction_co_run_grouped(struct action *actions,
                                                unsigned n, GError **err)
{
    struct job_group *group;
    int r = check_groups(actions, n, err);

    if (r < 0) {
        return r;
    }
    group = job_group_new();
    for (unsigned i = 0; i < n; i++) {
        actions[i].group = group;
    }
    r = actions_co_run(actions, n, err);
    job_group_unref(group);
    return r;
}

CO_FN int cmd_co_transaction(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    const json_t *list = json_object_get(args, "actions");
    const json_t *properties = json_object_get(args, "properties");
    bool grouped = g_strcmp0(arg_str(properties, "completion-mode"),
                             "grouped") == 0;
    unsigned n = (unsigned)json_array_size(list);
    g_autofree struct action *actions = g_new0(struct action, n);
    int r = take_actions(c, list, actions, err);

    if (r < 0) {
        return r;
    }
    return grouped ? cmd_transaction_co_run_grouped(actions, n, err)
                   : actions_co_run(actions, n, err);
}
