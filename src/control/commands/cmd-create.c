/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* blockdev-create: QEMU's names of what a new image takes, and ours. */
#include <string.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "graph/image.h"
#include "job/create/create.h"

/* Add members of "encrypt" to @to under the names of the command line. */
static void add_encryption(json_t *to, json_t *encrypt)
{
    const char *key;
    json_t *value;

    json_object_foreach(encrypt, key, value) {
        g_autofree char *name = g_strconcat("encrypt.", key, NULL);

        json_object_set(to, name, value);
    }
}

/* The options as the command line of `create` has them: "cluster_size" for
 * "cluster-size". Owned. */
static json_t *creation_options(json_t *args)
{
    json_t *to = json_object();
    const char *key;
    json_t *value;

    json_object_foreach(args, key, value) {
        g_autofree char *name = g_strdelimit(g_strdup(key), "-", '_');

        if (strcmp(key, "driver") == 0 || strcmp(key, "file") == 0 ||
            strcmp(key, "filename") == 0) {
            continue;
        }
        if (strcmp(key, "encrypt") == 0) {
            add_encryption(to, value);
        } else if (strcmp(key, "version") == 0) {
            bool old = strcmp(json_string_value(value), "v2") == 0;

            json_object_set_new(to, "compat",
                                json_string(old ? "0.10" : "1.1"));
        } else {
            json_object_set(to, name, value);
        }
    }
    return to;
}

CO_FN int cmd_co_blockdev_create(struct control *c, const json_t *args,
                                 json_t **ret, GError **err)
{
    json_t *options = json_object_get(args, "options");
    const char *driver = arg_str(options, "driver");
    struct create_params p = {
        .job = { .id = arg_str(args, "job-id"),
                 .auto_finalize = true,
                 .limits = BACKGROUND_LIMITS },
        .graph = c->graph,
        /* A file without a format is a raw disk. */
        .drv = graph_find_driver(c->graph,
                                 strcmp(driver, "file") == 0 ? "raw" : driver),
        .path = arg_str(options, "filename"),
        .storage = json_object_get(options, "file"),
    };
    struct job *job;
    int r;

    if (!p.drv || !driver_create_options(p.drv)) {
        return err_set(err, ENOTSUP,
                       "Driver '%s' does not support blockdev-create", driver);
    }
    p.options = creation_options(options);
    r = create_start(c->jobs, &p, &job, err);
    json_decref(p.options);
    return r;
}
