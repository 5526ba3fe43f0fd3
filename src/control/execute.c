/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Dispatch of commands.
 *
 * control_co_execute() is the one way from a connection to the graph: it finds
 * the command, checks the arguments and runs the handler on the loop that the
 * schema names for it.
 */
#include "base/err.h"
#include "control/control-int.h"
#include "loop/loop.h"

/* --- crossing over --- */

void control_co_cross(struct control *c, void (*fn)(void *arg), void *arg)
{
    if (c->data == loop_current()) {
        fn(arg);
    } else {
        co_call_on(c->data, fn, arg);
    }
}

struct visit {
    struct control *c;
    CO_FN_PTR void (*co_fn)(void *arg);
    void *arg;
};

/* The end waits for whoever is here: it may hold nodes, or be opening some. */
static CO_FN void visit_entry(void *arg)
{
    struct visit *v = arg;

    co_latch_add(&v->c->visits);
    v->co_fn(v->arg);
    co_latch_done(&v->c->visits);
}

void control_co_on_data(struct control *c, void (*fn)(void *arg), void *arg)
{
    struct visit v = { c, fn, arg };

    control_co_cross(c, visit_entry, &v);
}

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

    if (call->c->stopping) {
        call->result = err_set(&call->err, ESHUTDOWN,
                               "The daemon is shutting down");
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

int control_co_execute(struct control *c, const char *name, const json_t *args,
                       json_t **ret, GError **err)
{
    const struct schema_command *cmd = schema_find_command(name);
    struct call call = { .c = c, .cmd = cmd, .args = args };
    json_t *empty = NULL;
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
        call.args = empty;
    }
    if (cmd->context == SCHEMA_ON_DATA) {
        control_co_on_data(
            c, c->data == c->loop ? call_entry : call_crossed_entry, &call);
    } else {
        call_entry(&call);
    }
    json_decref(empty);
    if (call.result < 0) {
        g_assert(call.err && !call.ret);
        g_propagate_error(err, call.err);
        return call.result;
    }
    *ret = call.ret;
    return 0;
}
