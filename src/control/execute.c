/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dispatch of commands.
 *
 * control_co_execute() is the one way from a connection to the graph: it finds
 * the command, checks the arguments and runs the handler on the loop that the
 * schema names for it; of data loops on the one that the arguments are about, or,
 * where the schema says that answers are gathered, on each.
 */
#include "base/err.h"
#include "control/control-int.h"
#include "control/iothread.h"
#include "control/route.h"
#include "loop/loop.h"

/* --- commands --- */

struct call {
    struct control *c;
    const struct schema_command *cmd;
    const json_t *args;
    json_t *ret;
    GError *err;
    int result;
};

static CO_FN void call_entry(void *arg)
{
    struct call *call = arg;

    call->result = control_check_stopping(call->c, &call->err);
    if (call->result < 0) {
        return;
    }
    call->result = call->cmd->co_handler(call->c, call->args, &call->ret,
                                         &call->err);
}

/* The same on another thread: values of JSON are never shared between the two,
 * for what stays in the graph would be counted from both. */
static CO_FN void call_crossed_entry(void *arg)
{
    struct call *call = arg;
    const json_t *theirs = call->args;
    json_t *mine = json_deep_copy(theirs), *ret;

    call->args = mine;
    call_entry(call);
    call->args = theirs;
    json_decref(mine);
    ret = json_deep_copy(call->ret);
    json_decref(call->ret);
    call->ret = ret;
}

int control_co_run_on(struct control *c, const struct schema_command *cmd,
                      const json_t *args, json_t **ret, GError **err)
{
    struct call call = { .c = c, .cmd = cmd, .args = args };

    control_hold(c);
    control_co_on_data(c, c->data == c->loop ? call_entry : call_crossed_entry,
                       &call);
    control_let_go(c);
    if (call.result < 0) {
        g_assert(call.err && !call.ret);
        g_propagate_error(err, call.err);
        return call.result;
    }
    *ret = call.ret;
    return 0;
}

/* Answers are lists, or objects of lists, or text. */
static void answer_append(json_t **all, json_t *more)
{
    const char *key;
    json_t *value;

    if (json_is_array(*all)) {
        json_array_extend(*all, more);
    } else if (json_is_string(*all)) {
        g_autofree char *text = g_strconcat(json_string_value(*all),
                                            json_string_value(more), NULL);

        json_decref(*all);
        *all = json_string(text);
    } else {
        json_object_foreach(more, key, value) {
            json_array_extend(json_object_get(*all, key), value);
        }
    }
    json_decref(more);
}

static CO_FN int run_co_gather(struct control *c,
                               const struct schema_command *cmd,
                               const json_t *args, json_t **ret, GError **err)
{
    GPtrArray *all = iothreads_hold_all(c);
    json_t *answer = NULL, *more;
    int r = 0;

    for (guint i = 0; i < all->len && r == 0; i++) {
        struct control *one = g_ptr_array_index(all, i);
        g_autoptr(GError) why = NULL;

        more = NULL;
        r = control_co_run_on(one, cmd, args, &more, &why);
        if (r == -ESHUTDOWN && one->iothread) {
            r = 0; /* nothing is there any more */
        } else if (r < 0) {
            g_propagate_error(err, g_steal_pointer(&why));
        } else if (answer) {
            answer_append(&answer, more);
        } else {
            answer = more;
        }
    }
    iothreads_let_go(all);
    if (r < 0) {
        json_decref(answer);
        return r;
    }
    *ret = answer;
    return 0;
}

static CO_FN int run_co_command(struct control *c,
                                const struct schema_command *cmd,
                                const json_t *args, json_t **ret, GError **err)
{
    struct control *to;
    int r;

    if (cmd->context == SCHEMA_ON_CONTROL) {
        return cmd->co_handler(c, args, ret, err);
    }
    if (cmd->gather) {
        return run_co_gather(c, cmd, args, ret, err);
    }
    r = route_find(c, cmd, args, &to, err);
    return r < 0 ? r : control_co_run_on(to, cmd, args, ret, err);
}

int control_co_execute(struct control *c, const char *name, const json_t *args,
                       json_t **ret, GError **err)
{
    const struct schema_command *cmd = schema_find_command(name);
    json_t *empty = NULL, *answer = NULL;
    int r;

    if (!cmd || cmd->context == SCHEMA_ON_SESSION) {
        return err_set_class(err, ERR_COMMAND_NOT_FOUND, ENOENT,
                             "The command %s has not been found", name);
    }
    r = schema_check(cmd->args, args, err);
    if (r < 0) {
        return r;
    }
    if (!args) {
        empty = json_object();
        args = empty;
    }
    r = run_co_command(c, cmd, args, &answer, err);
    json_decref(empty);
    if (r == 0) {
        *ret = answer;
    }
    return r;
}
