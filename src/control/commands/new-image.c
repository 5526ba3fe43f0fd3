/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/commands/new-image.h"
#include <jansson.h>
#include "base/err.h"
#include "graph/image.h"
#include "graph/node.h"
#include "graph/reference.h"

CO_FN int new_image_co_open(struct node *disk,
                            const struct new_image_spec *spec,
                            struct new_image *img, GError **err)
{
    const unsigned inherited = NODE_CACHE_DIRECT | NODE_NO_FLUSH;
    unsigned flags = NODE_RDWR | (node_flags(disk) & inherited);
    json_t *o = json_pack("{s:s}", "filename", spec->file);
    const struct node_driver *drv = NULL;
    const char *format = spec->format;
    int r = 0;

    if (!format) {
        r = image_co_probe(node_graph(disk), o, flags, "Parameter 'format'",
                           &drv, err);
        format = drv ? driver_name(drv) : "raw";
    }
    json_object_set_new(o, "driver", json_string(format));
    drv = graph_find_driver(node_graph(disk), format);
    if (!spec->with_backing && drv && driver_has_backing(drv)) {
        json_object_set_new(o, "backing", json_null());
    }
    if (spec->node_name) {
        json_object_set_new(o, "node-name", json_string(spec->node_name));
    }
    if (r == 0) {
        r = node_co_open(node_graph(disk), o, flags, &img->node, err);
    }
    json_decref(o);
    if (r < 0) {
        img->node = NULL;
    }
    return r;
}

/* Write into its header what it is going to stand on. */
static CO_FN int new_image_co_name(struct node *n, struct node *below,
                                   GError **err)
{
    g_autofree char *name = NULL;
    const char *fmt = NULL;
    int r = reference_co_make(n, n, below, &name, &fmt, err);

    return r < 0 ? r : node_co_change_backing(n, name, fmt, err);
}

/* A new raw image on a device, or behind an address, holds what was there. */
static bool new_image_is_zero(struct node *n)
{
    struct node *storage = node_storage(n);

    return node_can(n, NODE_CAN_HAVE_BACKING) ||
           (storage && g_str_equal(node_driver_name(storage), "file"));
}

CO_FN int new_image_co_make(struct node *disk,
                            const struct new_image_spec *spec,
                            struct node *below, const char *what,
                            struct new_image *img, GError **err)
{
    const struct node_driver *drv = graph_find_driver(node_graph(disk),
                                                      spec->format);
    json_t *o;
    int r;

    if (!drv || !driver_create_options(drv)) {
        return err_set(err, EINVAL, "Unknown file format '%s'", spec->format);
    }
    if (below && !driver_has_backing(drv)) {
        return err_set(err, EINVAL, "The %s does not support backing images",
                       what);
    }
    o = json_pack("{s:I}", "size", (json_int_t)node_size(disk));
    r = image_co_create(node_graph(disk), drv, spec->file, o, err);
    json_decref(o);
    if (r < 0) {
        return r;
    }
    img->made = true;
    r = new_image_co_open(disk, spec, img, err);
    img->is_zero = r == 0 && new_image_is_zero(img->node);
    return r == 0 && below ? new_image_co_name(img->node, below, err) : r;
}

CO_FN void new_image_co_end(struct new_image *img, bool keep)
{
    if (img->node && img->made && !keep) {
        (void)node_co_unlink(img->node, NULL);
    }
    if (img->node) {
        node_co_unref(img->node);
    }
    img->node = NULL;
}
