/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Commands on character devices, which the program around has; they run on the
 * control loop. */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"

CO_FN int cmd_co_query_chardev(struct control *c, const json_t *args,
                               json_t **ret, GError **err)
{
    *ret = c->chardevs ? c->chardevs->list(c->chardevs_arg) : json_array();
    return 0;
}

CO_FN int cmd_co_query_chardev_backends(struct control *c, const json_t *args,
                                        json_t **ret, GError **err)
{
    const struct schema_type *kinds = schema_find_type("ChardevBackendKind");

    *ret = json_array();
    for (unsigned i = 0; kinds->values[i]; i++) {
        json_array_append_new(*ret,
                              json_pack("{s:s}", "name", kinds->values[i]));
    }
    return 0;
}

/* 0, or -ENOENT with @text, which names the id. */
static int find_chardev(struct control *c, const char *id, const char *text,
                        bool *ret_used, GError **err)
{
    json_t *list = c->chardevs ? c->chardevs->list(c->chardevs_arg)
                               : json_array();
    bool found = false;
    json_t *info;
    size_t i;

    json_array_foreach(list, i, info) {
        if (g_strcmp0(arg_str(info, "label"), id) == 0) {
            found = true;
            *ret_used = arg_bool(info, "frontend-open", false);
        }
    }
    json_decref(list);
    return found ? 0 : err_set(err, ENOENT, "Chardev '%s' %s", id, text);
}

CO_FN int cmd_co_chardev_add(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id");
    bool used;
    int r;

    if (find_chardev(c, id, "", &used, NULL) == 0) {
        return err_set(err, EEXIST, "Chardev with id '%s' already exists", id);
    }
    if (!c->chardevs) {
        return err_set(err, ENOTSUP, "There are no character devices here");
    }
    r = c->chardevs->co_add(c->chardevs_arg, id,
                            json_object_get(args, "backend"), err);
    if (r < 0) {
        err_prefix(err, "Failed to add chardev '%s'", id);
    }
    return r;
}

CO_FN int cmd_co_chardev_change(struct control *c, const json_t *args,
                                json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id");
    bool used = false;
    int r = find_chardev(c, id, "does not exist", &used, err);

    if (r == 0 && used) {
        r = err_set(err, EBUSY,
                    "Chardev user does not support chardev hotswap");
    }
    if (r < 0) {
        return r;
    }
    c->chardevs->remove(c->chardevs_arg, id);
    return cmd_co_chardev_add(c, args, ret, err);
}

CO_FN int cmd_co_chardev_remove(struct control *c, const json_t *args,
                                json_t **ret, GError **err)
{
    const char *id = arg_str(args, "id");
    bool used = false;
    int r = find_chardev(c, id, "not found", &used, err);

    if (r == 0 && used) {
        r = err_set(err, EBUSY, "Chardev '%s' is busy", id);
    }
    if (r == 0) {
        c->chardevs->remove(c->chardevs_arg, id);
    }
    return r;
}

CO_FN int cmd_co_chardev_send_break(struct control *c, const json_t *args,
                                    json_t **ret, GError **err)
{
    bool used;

    return find_chardev(c, arg_str(args, "id"), "not found", &used, err);
}
