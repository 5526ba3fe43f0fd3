/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of node drivers and the trace events of all folders; the only
 * place that names them all. */
#pragma once

struct node_driver;

/* NULL-terminated, for graph_new(). */
extern const struct node_driver *const node_drivers[];

/* Make every trace event known to trace_enable(). Once, before loops run. */
void drivers_register_traces(void);
