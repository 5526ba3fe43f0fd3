/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* yank: a node that waits for its server gives up what it waits for. */
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"

/* The node that an instance names, if it can be yanked. */
static struct node *find_instance(struct control *c, const json_t *instance)
{
    const char *name = arg_str(instance, "node-name");
    struct node *n = name ? node_find(c->graph, name, NULL) : NULL;

    return n && node_can(n, NODE_CAN_YANK) ? n : NULL;
}

static void add_instance(struct node *n, void *arg)
{
    if (node_can(n, NODE_CAN_YANK)) {
        json_array_append_new(arg, json_pack("{s:s,s:s}", "type", "block-node",
                                             "node-name", node_name(n)));
    }
}

CO_FN int cmd_co_query_yank(struct control *c, const json_t *args, json_t **ret,
                            GError **err)
{
    *ret = json_array();
    graph_foreach_node(c->graph, add_instance, *ret);
    return 0;
}

CO_FN int cmd_co_yank(struct control *c, const json_t *args, json_t **ret,
                      GError **err)
{
    json_t *instances = json_object_get(args, "instances"), *instance;
    size_t i;

    /* All of them or none. */
    json_array_foreach(instances, i, instance) {
        if (!find_instance(c, instance)) {
            return err_set_class(err, ERR_DEVICE_NOT_FOUND, ENOENT,
                                 "Instance not found");
        }
    }
    json_array_foreach(instances, i, instance) {
        node_yank(find_instance(c, instance));
    }
    return 0;
}
