/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * object-add and object-del: what there is, by id.  The table is on the data loop of
 * the daemon, iothreads are the control loop's.
 */
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/objects.h"
#include "control/control-int.h"
#include "control/iothread.h"

#define IOTHREAD "iothread"

struct object_call {
    struct control *c;
    const char *id;
    const json_t *args;
    GError **err;
    bool is_iothread;
    int result;
};

static CO_FN void add_entry(void *arg)
{
    struct object_call *call = arg;
    struct control *c = call->c;
    json_t *props;

    call->result = control_check_stopping(c, call->err);
    if (call->result < 0) {
        return;
    }
    if (json_object_get(c->objects, call->id)) {
        call->result = err_set(call->err, EEXIST,
                               "attempt to add duplicate property '%s' to "
                               "object (type 'container')",
                               call->id);
        return;
    }
    /* It may have to read a file: nobody else takes the id meanwhile. */
    object_reserve(c->objects, call->id);
    props = json_deep_copy(call->args);
    call->result = object_co_add(c->graph, props, call->err);
    if (call->result < 0) {
        json_object_del(c->objects, call->id);
    } else {
        object_remember(c->objects, props);
    }
    json_decref(props);
}

static CO_FN void forget_entry(void *arg)
{
    struct object_call *call = arg;

    json_object_del(call->c->objects, call->id);
}

static CO_FN int add_co_iothread(struct object_call *call)
{
    json_t *props = json_deep_copy(call->args);

    json_object_del(props, "id");
    json_object_del(props, "qom-type");
    call->result = iothread_co_add(call->c, call->id, props, call->err);
    json_decref(props);
    if (call->result < 0) {
        control_co_on_data(call->c, forget_entry, call);
    }
    return call->result;
}

CO_FN int cmd_co_object_add(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    struct object_call call = {
        .c = c, .id = arg_str(args, "id"), .args = args, .err = err
    };

    control_co_on_data(c, add_entry, &call);
    if (call.result == 0 && g_str_equal(arg_str(args, "qom-type"), IOTHREAD)) {
        return add_co_iothread(&call);
    }
    return call.result;
}

static CO_FN void del_entry(void *arg)
{
    struct object_call *call = arg;
    struct control *c = call->c;
    const char *type = object_type(c->objects, call->id);

    call->result = control_check_stopping(c, call->err);
    if (call->result < 0) {
        return;
    }
    if (!type) {
        call->result = err_set(call->err, ENOENT, "object '%s' not found",
                               call->id);
        return;
    }
    call->is_iothread = g_str_equal(type, IOTHREAD);
    if (call->is_iothread) {
        return;
    }
    call->result = object_del(c->graph, type, call->id, call->err);
    if (call->result == 0) {
        json_object_del(c->objects, call->id);
    }
}

CO_FN int cmd_co_object_del(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    struct object_call call = { .c = c, .id = arg_str(args, "id"), .err = err };

    control_co_on_data(c, del_entry, &call);
    if (call.is_iothread) {
        call.result = iothread_co_del(c, call.id, err);
        if (call.result == 0) {
            control_co_on_data(c, forget_entry, &call);
        }
    }
    return call.result;
}

CO_FN int cmd_co_query_iothreads(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    *ret = iothreads_describe(c);
    return 0;
}
