/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "commit_top": the node that a commit puts above the image that it
 * merges down.  Everything passes through it.  It gives the job a name in the
 * graph, and nothing can be attached between it and the image unnoticed.
 */
#include "filter/filter.h"
#include "graph/driver.h"

static const char *const watch_option_names[] = { "file", NULL };

static CO_FN int watch_co_open(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    int ret = node_co_open_file(n, o, err);

    if (ret == 0) {
        n->size = node_file(n)->size;
    }
    return ret;
}

const struct node_driver commit_top_driver = {
    .name = "commit_top",
    .kind = NODE_FILTER,
    .is_internal = true,
    .state_size = 1,
    .option_names = watch_option_names,
    .co_open = watch_co_open,
};
