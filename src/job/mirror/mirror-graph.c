/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/err.h"
#include "graph/image.h"
#include "graph/io.h"
#include "job/mirror/mirror-int.h"
#include "job/snapshot-check.h"
#include "loop/co.h"

static CO_FN int mirror_co_add_filter(struct mirror *m, const char *name,
                                      GError **err)
{
    json_t *o = json_pack("{s:s, s:s}", "driver", "mirror_top", "file",
                          node_name(m->source));
    int ret;

    if (name) {
        json_object_set_new(o, "node-name", json_string(name));
    }
    ret = node_co_open(m->graph, o, node_is_writable(m->source) ? NODE_RDWR : 0,
                       &m->filter, err);
    json_decref(o);
    if (ret < 0) {
        m->filter = NULL;
        return ret;
    }
    node_set_implicit_filter(m->filter, !name);
    node_set_watch(m->filter, &mirror_watch_ops, m);
    job_hold_block(&m->hold, m->filter);
    ret = node_co_insert_filter(m->source, m->filter, err);
    /* From here on nobody writes to the source past the filter. */
    return ret < 0
               ? ret
               : edge_co_set_perms(node_child(m->filter, "file"), 0,
                                   PERM_ALL & ~(PERM_WRITE | PERM_RESIZE), err);
}

/* --- an image of the chain as the target --- */

/* The images that go may change under whoever else reads them, and guests may
 * write wherever a snapshot shows what is below. */
static CO_FN int commit_co_hold_images(struct mirror *m, GError **err)
{
    const unsigned shared = PERM_WRITE | PERM_WRITE_UNCHANGED;
    int ret = 0;

    for (struct node *n = m->source; n != m->target && ret == 0;
         n = node_skip_filters(node_backing(n))) {
        if (n != m->source) {
            ret = job_hold_co_use(&m->hold, n, 0, shared, &job_hold_ops_middle,
                                  NULL, err);
        }
        if (ret == 0) {
            ret = snapshots_co_check_any(n, "committed", err);
        }
    }
    return ret;
}

static CO_FN int commit_co_hold(struct mirror *m, GError **err)
{
    int ret = chain_freeze(m->source, m->target, m->hold.by, err);

    m->frozen = ret == 0;
    if (ret == 0) {
        ret = job_hold_co_loosen(&m->hold, m->source, m->target, err);
    }
    if (ret == 0) {
        ret = commit_co_hold_images(m, err);
    }
    if (ret == 0 && !node_is_writable(m->target)) {
        ret = node_co_take_for_writing(m->target, err);
        m->target_made_writable = ret == 0;
    }
    return ret < 0 ? ret : node_co_forget_base(m->bottom, err);
}

/* --- both --- */

/* At once, before anything yields: nobody else may begin here. */
static void mirror_block(struct mirror *m)
{
    job_hold_block(&m->hold, m->source);
    if (!m->is_commit) {
        job_hold_block(&m->hold, m->target);
        return;
    }
    job_hold_forbid_overlays(&m->hold, m->source);
    for (struct node *n = m->source; n != m->target;) {
        n = node_chain_next(n);
        job_hold_block(&m->hold, n);
        job_hold_forbid_overlays(&m->hold, n);
    }
}

CO_FN int mirror_co_hold(struct mirror *m, const char *filter_node_name,
                         GError **err)
{
    g_autofree char *by = g_strdup_printf("%s job '%s'", m->job.drv->type,
                                          m->job.id);
    int ret;

    job_hold_init(&m->hold, m->job.drv->type, by);
    mirror_block(m);
    ret = mirror_co_add_filter(m, filter_node_name, err);
    if (ret == 0 && m->is_commit) {
        ret = commit_co_hold(m, err);
    }
    if (ret == 0) {
        ret = job_hold_co_use(&m->hold, m->source, PERM_CONSISTENT_READ,
                              PERM_ALL, &job_hold_ops_active,
                              &m->source_backend, err);
    }
    if (ret == 0) {
        ret = job_hold_co_use(
            &m->hold, m->target, PERM_WRITE | (m->is_commit ? PERM_RESIZE : 0),
            PERM_WRITE_UNCHANGED | (m->is_commit ? PERM_CONSISTENT_READ : 0),
            &job_hold_ops_target, &m->target_backend, err);
    }
    return ret;
}

static void mirror_unfreeze(struct mirror *m)
{
    if (m->frozen) {
        chain_unfreeze(m->source, m->target);
        m->frozen = false;
    }
}

/* Guests still write to the source: its other users come to terms with that
 * until they have gone over. */
static CO_FN int mirror_co_put_on_source(struct mirror *m, GError **err)
{
    return m->source_below ? edge_co_attach(m->target, m->source, "backing",
                                            PERM_CONSISTENT_READ, PERM_ALL, err)
                           : 0;
}

static CO_FN void mirror_co_settle_on_source(struct mirror *m)
{
    struct edge *e = m->source_below ? node_child(m->target, "backing") : NULL;

    if (e && m->switched) {
        (void)edge_co_set_perms(e, PERM_CONSISTENT_READ,
                                PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                                NULL);
    } else if (e) {
        edge_co_detach(e);
    }
}

CO_FN int mirror_co_switch(struct mirror *m, GError **err)
{
    struct node *old = m->replaces ? m->replaces : m->filter;
    int ret = backend_co_set_perms(m->target_backend, 0, PERM_ALL, err);

    if (ret == 0) {
        mirror_unfreeze(m);
        ret = mirror_co_put_on_source(m, err);
    }
    if (ret == 0) {
        ret = node_co_replace(old, m->target, NULL, err);
        m->switched = ret == 0;
        mirror_co_settle_on_source(m);
    }
    return ret;
}

/* Requests that are under way see the watcher to their end. */
static CO_FN void mirror_co_take_filter_out(struct mirror *m)
{
    node_co_drain_requests_begin(m->filter);
    node_set_watch(m->filter, NULL, NULL);
    if (node_first_parent(m->filter)) {
        /* Those who write come to stand beside the filter for a moment. */
        (void)edge_co_set_perms(node_child(m->filter, "file"), 0, PERM_ALL,
                                NULL);
        (void)node_co_remove_filter(m->filter, NULL);
    }
    node_drain_end(m->filter);
}

/* Before others may begin, who would rely on what is still writable. */
static CO_FN void mirror_co_make_read_only(struct mirror *m)
{
    if (m->target_made_writable && !m->switched) {
        (void)node_co_set_read_only(m->target, true, NULL);
    }
    if (m->source_below && m->switched) {
        (void)node_co_set_read_only(m->source, true, NULL);
    }
}

CO_FN void mirror_co_release(struct mirror *m)
{
    m->ending = true;
    /* While the filter still sees what guests do. */
    checkpoint_keeper_co_stop(&m->keeper, m->target_backend &&
                                              job_ends_with_daemon(&m->job));
    if (m->filter) {
        mirror_co_take_filter_out(m);
    }
    job_hold_co_leave(&m->hold);
    mirror_unfreeze(m);
    mirror_co_make_read_only(m);
    job_hold_co_release(&m->hold);
    if (m->filter) {
        node_co_unref(m->filter);
    }
    if (m->replaces) {
        node_co_unref(m->replaces);
    }
    if (m->bottom) {
        node_co_unref(m->bottom);
    }
    node_co_unref(m->target);
    node_co_unref(m->source);
    dirty_map_free(m->dirty);
    m->filter = m->replaces = m->bottom = m->target = m->source = NULL;
    m->dirty = NULL;
}
