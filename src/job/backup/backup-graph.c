/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/err.h"
#include "graph/io.h"
#include "job/backup/backup-int.h"

/* The disk is drained: what it is now is what is copied. */
static CO_FN int backup_co_add_filter(struct backup *b,
                                      const struct backup_params *p,
                                      GError **err)
{
    json_t *o = json_pack("{s:s, s:s, s:s}", "driver", "copy-before-write",
                          "file", node_name(b->source), "target",
                          node_name(b->target));
    int ret;

    if (p->filter_node_name) {
        json_object_set_new(o, "node-name", json_string(p->filter_node_name));
    }
    ret = node_co_open(b->graph, o, node_is_writable(b->source) ? NODE_RDWR : 0,
                       &b->filter, err);
    json_decref(o);
    if (ret < 0) {
        b->filter = NULL;
        return ret;
    }
    node_set_implicit_filter(b->filter, !p->filter_node_name);
    b->before = before_ref(node_before(b->filter));
    job_hold_block(&b->hold, b->filter);
    return node_co_insert_filter(b->source, b->filter, err);
}

static void backup_set(struct backup *b, const struct backup_params *p)
{
    before_set_break_snapshot(b->before, p->break_snapshot);
    before_set_timeout(b->before, p->timeout_ns);
    before_set_write_flags(b->before, p->compress ? IO_COMPRESSED : 0);
    if (p->sync == BACKUP_TOP) {
        before_set_top_only(b->before);
    }
}

CO_FN int backup_co_hold(struct backup *b, const struct backup_params *p,
                         GError **err)
{
    g_autofree char *by = g_strdup_printf("backup job '%s'", b->job.id);
    int ret;

    job_hold_init(&b->hold, "backup", by);
    job_hold_block(&b->hold, b->source);
    job_hold_block(&b->hold, b->target);
    ret = backup_co_add_filter(b, p, err);
    if (ret < 0) {
        return ret;
    }
    backup_set(b, p);
    ret = backup_bitmap_co_begin(b, p, err);
    return ret < 0 ? ret
                   : job_hold_co_use(&b->hold, b->source, PERM_CONSISTENT_READ,
                                     PERM_ALL, &job_hold_ops_active,
                                     &b->source_backend, err);
}

CO_FN void backup_co_release(struct backup *b, bool succeeded)
{
    b->ending = true;
    if (b->filter) {
        node_co_drain_requests_begin(b->filter);
        backup_bitmap_co_end(b, succeeded);
        if (node_first_parent(b->filter)) {
            (void)node_co_remove_filter(b->filter, NULL);
        }
        node_drain_end(b->filter);
    }
    job_hold_co_release(&b->hold);
    if (b->before) {
        before_co_unref(g_steal_pointer(&b->before));
    }
    if (b->filter) {
        node_co_unref(g_steal_pointer(&b->filter));
    }
    node_co_unref(g_steal_pointer(&b->target));
    node_co_unref(g_steal_pointer(&b->source));
}
