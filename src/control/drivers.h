/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of node drivers; the only place that names them all. */
#pragma once

struct node_driver;

/* NULL-terminated, for graph_new(). */
extern const struct node_driver *const node_drivers[];
