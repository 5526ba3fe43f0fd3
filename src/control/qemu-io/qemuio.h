/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The command language of "qemu-io" on nodes of a running graph:
 * reads, writes with patterns, allocation, breakpoints of "blkdebug".
 *
 * Commands that begin with aio_ go on in the background; what they have to say
 * is kept and comes with the next command on the same name, at the latest with
 * its aio_flush.  Everything runs on the graph's loop.
 */
#pragma once
#include <glib.h>
#include "base/annot.h"

struct graph;
struct qemuio;

struct qemuio *qemuio_new(struct graph *g);
/* Release all breakpoints, wait for what is under way, free. NULL is fine. */
CO_FN void qemuio_co_free(struct qemuio *q);

/* Run @line on the device or node @name. All that it prints, errors of the
 * command included, is appended to @out. 0, or -ENOENT and the like with @err
 * when there is no such node or it cannot be used. */
CO_FN int qemuio_co_execute(struct qemuio *q, const char *name,
                            const char *line, GString *out, GError **err);
