/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* x-blockdev-amend. */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "graph/image.h"
#include "job/amend/amend.h"

/* The options as the command line of `amend` has them. Owned. */
static json_t *amendments(const json_t *options)
{
    const char *version = arg_str(options, "version");
    json_t *to = json_object(), *value;
    const char *key;

    json_object_foreach((json_t *)options, key, value) {
        g_autofree char *name = g_strdelimit(g_strdup(key), "-", '_');

        if (strcmp(key, "driver") != 0 && strcmp(key, "version") != 0) {
            json_object_set(to, name, value);
        }
    }
    if (version) {
        json_object_set_new(to, "compat", json_string(version));
    }
    return to;
}

CO_FN int cmd_co_x_blockdev_amend(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    const json_t *options = json_object_get(args, "options");
    const char *driver = arg_str(options, "driver");
    struct amend_params p = {
        .job = { .id = arg_str(args, "job-id"),
                 .auto_finalize = true,
                 .limits = BACKGROUND_LIMITS },
        .node = node_find_any(c->graph, arg_str(args, "node-name"), err),
    };
    struct job *job;
    int r;

    if (!p.node) {
        return -ENOENT;
    }
    if (strcmp(driver, node_driver_name(p.node)) != 0) {
        return err_set(err, EINVAL,
                       "x-blockdev-amend doesn't support changing the block "
                       "driver");
    }
    if (!driver_amend_options(graph_find_driver(c->graph, driver))) {
        return err_set(err, ENOTSUP,
                       "Driver does not support x-blockdev-amend");
    }
    p.options = amendments(options);
    r = amend_start(c->jobs, &p, &job, err);
    json_decref(p.options);
    return r;
}
