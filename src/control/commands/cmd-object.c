/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* object-add and object-del: what there is, by id. */
#include "base/err.h"
#include "control/commands.h"
#include "control/commands/objects.h"
#include "control/control-int.h"

CO_FN int cmd_co_object_add(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    const char *id = arg_str(args, "id");
    int r;

    if (json_object_get(c->objects, id)) {
        return err_set(err, EEXIST,
                       "attempt to add duplicate property '%s' to "
                       "object (type 'container')",
                       id);
    }
    /* It may have to read a file: nobody else takes the id meanwhile. */
    object_reserve(c->objects, id);
    r = object_co_add(c->graph, args, err);
    if (r < 0) {
        json_object_del(c->objects, id);
        return r;
    }
    object_remember(c->objects, args);
    return 0;
}

CO_FN int cmd_co_object_del(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    const char *id = arg_str(args, "id");
    const char *type = object_type(c->objects, id);
    int r;

    if (!type) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    r = object_del(c->graph, type, id, err);
    if (r < 0) {
        return r;
    }
    json_object_del(c->objects, id);
    return 0;
}
