/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command, and the actions that there are. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/transaction.h"
#include "control/control-int.h"

static CO_FN int abort_co_do(struct action *a, GError **err)
{
    return err_set(err, ECANCELED, "Transaction aborted using Abort action");
}

static const struct action_type abort_action = {
    .name = "abort",
    .co_do = abort_co_do,
};

static const struct action_type *const types[] = {
    &abort_action,        &bitmap_add_action,    &bitmap_remove_action,
    &bitmap_clear_action, &bitmap_enable_action, &bitmap_disable_action,
    &bitmap_merge_action, &snapshot_action,      &snapshot_sync_action,
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

CO_FN int cmd_co_transaction(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    const json_t *list = json_object_get(args, "actions");
    unsigned n = (unsigned)json_array_size(list);
    g_autofree struct action *actions = g_new0(struct action, n);
    int r = take_actions(c, list, actions, err);

    return r < 0 ? r : actions_co_run(actions, n, err);
}
