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
    const char *type = arg_str(args, "qom-type");
    int r;

    if (g_hash_table_contains(c->objects, id)) {
        return err_set(err, EEXIST,
                       "attempt to add duplicate property '%s' to "
                       "object (type 'container')",
                       id);
    }
    r = object_co_add(c->graph, args, err);
    if (r < 0) {
        return r;
    }
    g_hash_table_insert(c->objects, g_strdup(id), g_strdup(type));
    return 0;
}

CO_FN int cmd_co_object_del(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    const char *id = arg_str(args, "id");
    const char *type = g_hash_table_lookup(c->objects, id);
    int r;

    if (!type) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    r = object_del(c->graph, type, id, err);
    if (r < 0) {
        return r;
    }
    g_hash_table_remove(c->objects, id);
    return 0;
}
