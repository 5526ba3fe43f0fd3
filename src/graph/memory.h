/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The memory budget of a graph (base/memory-budget.h), which its nodes, jobs
 * and exports share, and the timer by which what is idle gives memory back.
 */
#pragma once
#include "base/memory-budget.h"

struct graph;

/* Never NULL. Owned by the graph. */
struct memory_budget *graph_memory(struct graph *g);
