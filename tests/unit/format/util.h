/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Running format tests on real loops, graphs and files. */
#pragma once
#include <glib.h>
#include <jansson.h>
#include "base/annot.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "scratch.h"

/* Run @fn(@g) as a coroutine on a new loop with a graph that knows file, raw,
 * qed, qcow2 and cow; ends when it has returned and the graph is freed. */
void run_graph(void (*fn)(struct graph *g));
/* The same on the simulated machine. */
void run_graph_on_sim(uint64_t seed, void (*fn)(struct graph *g));

/* Let the graphs know @drv, too: one driver of the test's own. */
void run_graph_add(const struct node_driver *drv);

/* Make a QED image; options as for co_create, e.g. "{s:i}". Fails the test. */
CO_FN void make_image(struct graph *g, const char *path, json_t *options);
CO_FN int try_make_image(struct graph *g, const char *path, json_t *options,
                         GError **err);
/* An image of driver @drv, or an empty file; takes @options, NULL: none. */
CO_FN void make_as(struct graph *g, const struct node_driver *drv,
                   const char *path, json_t *options);
CO_FN void make_qcow2(struct graph *g, const char *path, json_t *options);
/* Open @path as QED; fails the test on error. */
CO_FN struct node *open_image(struct graph *g, const char *path,
                              unsigned flags);
CO_FN int try_open_image(struct graph *g, const char *path, unsigned flags,
                         struct node **ret_node, GError **err);

CO_FN struct node *open_qcow2(struct graph *g, const char *path,
                              unsigned flags);

/* Over a "hold" filter (lib/hold-driver.h). */
CO_FN struct node *open_qcow2_held(struct graph *g, const char *path,
                                   unsigned flags);

CO_FN int do_write(struct node *n, uint64_t off, const void *buf, size_t len,
                   unsigned flags);
CO_FN int do_read(struct node *n, uint64_t off, void *buf, size_t len);

/* The tool is installed? */
bool have_tool(const char *name);
/* Run a shell command line; its exit code. Output goes to @ret_out or away. */
int run_cmd(char **ret_out, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* As above; fails the test unless it exits with 0. */
char *must_run(const char *fmt, ...) PRINTF_LIKE(1, 2);
