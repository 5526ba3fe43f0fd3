/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * BLOCK_IO_ERROR: a request of a client has failed.
 *
 * The client is told as well, and what becomes of the guest is its policy; so
 * the action is always "report".  A disk that is broken fails thousands of
 * requests a second: of each kind one event a second is sent.
 */
#include <errno.h>
#include "export/export-int.h"
#include "loop/loop.h"

#define IO_ERROR_INTERVAL_NS UINT64_C(1000000000)

void export_tell_io_error(struct export *e, bool is_read, int errnum)
{
    struct exports *es = e->exports;
    struct node *n = backend_node(e->backend);
    const struct device *d = device_of_node(n);
    uint64_t now = loop_clock_ns(graph_loop(es->graph));
    uint64_t *told = &e->error_told_ns[is_read][errnum == ENOSPC];
    json_t *data;

    if (!es->event || (*told && now - *told < IO_ERROR_INTERVAL_NS)) {
        return;
    }
    *told = now;
    data = json_pack("{s:s,s:s,s:s,s:s,s:b,s:s}", "device", d ? d->id : "",
                     "node-name", node_name(n), "operation",
                     is_read ? "read" : "write", "action", "report", "nospace",
                     errnum == ENOSPC, "reason", g_strerror(errnum));
    es->event("BLOCK_IO_ERROR", data, es->event_arg);
    json_decref(data);
}
