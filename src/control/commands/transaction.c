/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/commands/transaction.h"
#include "control/control-int.h"
#include "graph/node.h"

static CO_FN int action_co_prepare(struct action *a, GError **err)
{
    a->state = g_malloc0(MAX(a->type->state_size, 1));
    return a->type->co_prepare ? a->type->co_prepare(a, err) : 0;
}

/* Those that are done together, where there are any. */
static CO_FN int actions_co_do_together(struct action *actions, unsigned n,
                                        GError **err)
{
    for (unsigned i = 0; i < n; i++) {
        if (actions[i].type->co_do_together) {
            return actions[i].type->co_do_together(actions, n, err);
        }
    }
    return 0;
}

static CO_FN int actions_co_do(struct action *actions, unsigned n, GError **err)
{
    int ret = 0;

    for (unsigned i = 0; i < n && ret == 0; i++) {
        struct action *a = &actions[i];

        ret = a->type->co_do ? a->type->co_do(a, err) : 0;
        a->done = ret == 0;
    }
    for (unsigned i = 0; i < n && ret == 0; i++) {
        struct action *a = &actions[i];

        ret = a->type->co_do_last ? a->type->co_do_last(a, err) : 0;
    }
    return ret == 0 ? actions_co_do_together(actions, n, err) : ret;
}

static CO_FN int actions_co_do_or_undo(struct action *actions, unsigned n,
                                       GError **err)
{
    int ret = actions_co_do(actions, n, err);

    for (unsigned i = n; i-- > 0 && ret < 0;) {
        struct action *a = &actions[i];

        if (a->done && a->type->co_undo) {
            a->type->co_undo(a);
        }
    }
    return ret;
}

/* All guests are held meanwhile. */
static CO_FN int actions_co_do_at_once(struct action *actions, unsigned n,
                                       GError **err)
{
    int ret;

    for (unsigned i = 0; i < n; i++) {
        if (actions[i].disk) {
            node_co_drain_requests_begin(actions[i].disk);
        }
    }
    ret = actions_co_do_or_undo(actions, n, err);
    for (unsigned i = n; i-- > 0;) {
        if (actions[i].disk) {
            node_drain_end(actions[i].disk);
        }
    }
    return ret;
}

static CO_FN void action_co_end(struct action *a, bool success)
{
    if (success && a->type->co_commit) {
        a->type->co_commit(a);
    }
    if (a->type->co_end) {
        a->type->co_end(a, success);
    }
    if (a->disk) {
        node_co_unref(a->disk);
    }
    g_free(a->state);
}

CO_FN int actions_co_run(struct action *actions, unsigned n, GError **err)
{
    unsigned prepared = 0;
    int ret = 0;

    while (prepared < n && ret == 0) {
        ret = action_co_prepare(&actions[prepared++], err);
    }
    if (ret == 0) {
        ret = actions_co_do_at_once(actions, n, err);
    }
    while (prepared > 0) {
        action_co_end(&actions[--prepared], ret == 0);
    }
    return ret;
}

CO_FN int action_co_run(struct control *c, const struct action_type *type,
                        const json_t *args, GError **err)
{
    struct action a = { .type = type, .control = c, .args = args };

    return actions_co_run(&a, 1, err);
}
