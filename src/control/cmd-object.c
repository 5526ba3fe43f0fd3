/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Objects.  A throttle group lives in filter/; an iothread is only remembered,
 * so that command lines that name one work.
 */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "filter/throttle.h"

static bool id_wellformed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    for (; *id; id++) {
        if (!g_ascii_isalnum(*id) && !strchr("-._", *id)) {
            return false;
        }
    }
    return true;
}

static int add_throttle_group(struct control *c, const json_t *args,
                              GError **err)
{
    json_t *props = json_copy((json_t *)args);
    int r;

    json_object_del(props, "id");
    json_object_del(props, "qom-type");
    r = throttle_group_add(c->graph, arg_str(args, "id"), props, err);
    json_decref(props);
    return r;
}

CO_FN int cmd_co_object_add(struct control *c, const json_t *args,
                            json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id");
    const char *type = arg_str(args, "qom-type");

    if (!id_wellformed(id)) {
        return err_set(err, EINVAL, "Parameter 'id' expects an identifier");
    }
    if (g_hash_table_contains(c->objects, id)) {
        return err_set(err, EEXIST, "attempt to add duplicate property '%s' to "
                       "object (type 'container')", id);
    }
    if (g_str_equal(type, "throttle-group")) {
        int r = add_throttle_group(c, args, err);

        if (r < 0) {
            return r;
        }
    }
    g_hash_table_insert(c->objects, g_strdup(id), g_strdup(type));
    return 0;
}

CO_FN int cmd_co_object_del(struct control *c, const json_t *args,
                            json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id");
    const char *type = g_hash_table_lookup(c->objects, id);

    if (!type) {
        return err_set(err, ENOENT, "object '%s' not found", id);
    }
    if (g_str_equal(type, "throttle-group")) {
        int r = throttle_group_del(c->graph, id, err);

        if (r < 0) {
            return r;
        }
    }
    g_hash_table_remove(c->objects, id);
    return 0;
}
