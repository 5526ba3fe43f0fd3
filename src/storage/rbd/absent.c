/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver "rbd" where Ceph's headers were missing when this was built. */
#include "base/err.h"
#include "graph/driver.h"
#include "storage/rbd/rbd-option-names.h"
#include "storage/storage.h"

static CO_FN int absent_co_open(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    return err_set(err, ENOTSUP, "Driver 'rbd' is not built into this program");
}

static const char *const rbd_name_prefixes[] = { "rbd:", NULL };

const struct node_driver rbd_driver = {
    .name = "rbd",
    .kind = NODE_PROTOCOL,
    .option_names = rbd_option_names,
    .name_prefixes = rbd_name_prefixes,
    .co_open = absent_co_open,
};
