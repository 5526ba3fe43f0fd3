/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What copy offload offers to populate, beside io.h. */
#pragma once
#include "graph/graph-int.h"

/* Blocks of file systems that share extents, at least. */
#define SHARE_UNIT UINT64_C(4096)
/* How many bytes of @at can be taken over at @off of @n. */
uint64_t copy_offload_whole(const struct node *n, uint64_t off,
                            const struct host_range *at);
