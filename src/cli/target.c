/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/target.h"

#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "cli/create-options.h"
#include "cli/image.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/io.h"

CO_FN int target_co_check(struct graph *g, struct target *t, GError **err)
{
    const char *backing = create_options_get(t->options, "backing_file");
    const struct node_driver *drv;

    if (t->exists) {
        return 0;
    }
    drv = create_options_driver(g, t->format, err);
    if (!drv) {
        return -EINVAL;
    }
    t->format = driver_name(drv);
    if (backing && !driver_has_backing(drv)) {
        return err_set(err, ENOTSUP,
                       "Backing file not supported for file "
                       "format '%s'",
                       t->format);
    }
    int r = create_options_complete(t->options, drv, err);
    if (r == 0 && backing && !create_options_get(t->options, "backing_fmt")) {
        r = err_set(err, EINVAL,
                    "Use of backing file requires explicit "
                    "backing format");
    }
    return r;
}

/* Is file @path part of a source's chain? */
static CO_FN bool target_co_is_source(const struct target *t, const char *path)
{
    for (unsigned i = 0; i < t->n_sources; i++) {
        if (image_co_is_part_of(t->sources[i], path)) {
            return true;
        }
    }
    return false;
}

static int refuse_source(const char *name, GError **err)
{
    err_set(err, EBUSY, "'%s' is read by this command and cannot be written",
            name);
    err_hint(err, "Write to another file.");
    return -EBUSY;
}

static CO_FN int target_co_create(struct graph *g, struct target *t,
                                  uint64_t size, GError **err)
{
    const char *data = create_options_get(t->options, "data_file");
    int r;

    if (target_co_is_source(t, t->name)) {
        r = refuse_source(t->name, err);
    } else if (data && target_co_is_source(t, data)) {
        r = refuse_source(data, err);
    } else {
        r = create_options_check_backing(t->options, t->name, err);
    }
    if (r == 0) {
        json_object_set_new(t->options, "size", json_integer((json_int_t)size));
        r = image_co_create(g, graph_find_driver(g, t->format), t->name,
                            t->options, err);
    }
    if (r < 0 && t->purpose) {
        err_prefix(err, "%s: error while %s", t->name, t->purpose);
    } else if (r < 0) {
        err_prefix(err, "%s: error while converting %s", t->name, t->format);
    }
    return r;
}

static bool is_file(struct node *n)
{
    const struct node *storage = node_storage(n);

    return storage && strcmp(node_driver_name(storage), "file") == 0;
}

/* A new raw image on a device, or behind an address, holds what was there; data
 * that an image keeps there, too. */
static bool is_zero_when_new(struct node *n)
{
    struct node *data = image_data_file(n);

    return data ? is_file(data)
                : node_can(n, NODE_CAN_HAVE_BACKING) ||
                      (strcmp(node_driver_name(n), "raw") == 0 && is_file(n));
}

/* May all of @t that is there already be written to? */
static CO_FN int target_co_check_existing(const struct target *t,
                                          struct node *n, GError **err)
{
    struct node *parts[] = { n, image_data_file(n) };

    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        const struct node *storage = node_storage(parts[i]);

        if (storage && node_filename(storage) &&
            target_co_is_source(t, node_filename(storage))) {
            return refuse_source(node_filename(storage), err);
        }
    }
    return 0;
}

CO_FN int target_co_open(struct graph *g, struct target *t, uint64_t size,
                         struct node **ret_node, bool *ret_zero, GError **err)
{
    struct image_spec spec = {
        .name = t->name,
        .format = t->format,
        .is_opts = t->is_opts,
        .flags = NODE_RDWR | t->cache,
        .data_file = t->exists ? NULL
                               : create_options_get(t->options, "data_file"),
        .key_secret = t->exists ? NULL
                                : create_options_get(t->options,
                                                     "encrypt.key-secret"),
    };
    int r = t->exists ? 0 : target_co_create(g, t, size, err);

    if (r == 0) {
        r = image_co_open_spec(g, &spec, ret_node, err);
    }
    if (r < 0) {
        return r;
    }
    if (t->exists) {
        r = target_co_check_existing(t, *ret_node, err);
    }
    if (r == 0 && node_size(*ret_node) < size) {
        r = err_set(err, ENOSPC, "output file is smaller than input file");
    }
    if (r < 0) {
        node_co_unref(*ret_node);
        return r;
    }
    *ret_zero = !t->exists && is_zero_when_new(*ret_node);
    return 0;
}
