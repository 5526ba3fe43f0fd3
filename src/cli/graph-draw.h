/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pictures of the block graph of a daemon, from its answers to
 * x-debug-query-block-graph and query-named-block-nodes.
 */
#pragma once
#include <glib.h>
#include <jansson.h>

struct drawing;

/* Owned. @nodes tells drivers and files of nodes; a node that is not in it has
 * its name alone. */
struct drawing *drawing_new(const json_t *graph, const json_t *nodes);
void drawing_free(struct drawing *d);
/* Append the picture: lines for people, the language of Graphviz, or SVG. */
void drawing_text(const struct drawing *d, GString *out);
void drawing_dot(const struct drawing *d, GString *out);
void drawing_svg(const struct drawing *d, GString *out);
