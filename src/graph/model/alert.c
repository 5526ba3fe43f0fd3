/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a node tells whoever looks after it: that its image is corrupt.  Of an
 * image that is only read this is told once, because a guest may come to the
 * same place a thousand times a second. */
#include "graph/driver.h"
#include "graph/graph-int.h"

/* "" where none leads there, as QEMU has it. */
static const char *device_name(struct node *n)
{
    const struct device *d = device_of_node(n);

    return d ? d->id : "";
}

void node_tell_corruption(struct node *n, bool fatal, uint64_t offset,
                          const char *text)
{
    g_autofree char *msg = g_utf8_make_valid(text, -1);
    json_t *data;

    if (!fatal && n->priv->corruption_told) {
        return;
    }
    n->priv->corruption_told |= !fatal;
    data = json_pack("{s:s,s:s,s:s,s:b}", "device", device_name(n), "node-name",
                     n->name, "msg", msg, "fatal", fatal);
    if (offset <= INT64_MAX) {
        json_object_set_new(data, "offset", json_integer((json_int_t)offset));
    }
    node_event(n, "BLOCK_IMAGE_CORRUPTED", data);
    json_decref(data);
}
