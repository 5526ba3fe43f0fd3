/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include "base/math.h"
#include "graph/io.h"
#include "job/mirror/mirror-int.h"

/* What the drained end copies at once. */
#define REST_CHUNK (UINT64_C(1) << 20)

void mirror_show_progress(struct mirror *m)
{
    uint64_t all = m->first ? node_size(m->source) : m->first_bytes;

    m->job.len = all + m->later_bytes + dirty_map_bytes(m->dirty);
    job_progress(&m->job, m->first_bytes + m->later_bytes);
}

uint32_t mirror_unit(const struct mirror *m)
{
    return MAX(dirty_map_granularity(m->dirty),
               node_get_limits(m->target)->cluster_size);
}

static CO_FN int mirror_co_copy_part(struct mirror *m, uint64_t off,
                                     uint64_t len, bool ask,
                                     struct copy_result *res);

/* --- changes by guests --- */

static void mirror_mark(struct mirror *m, uint64_t off, uint64_t len)
{
    dirty_map_set(m->dirty, off, len);
    mirror_show_progress(m);
    co_queue_wake_all(&m->wake);
}

/* The same change of the target. What a discard leaves is for the source to
 * say. */
static CO_FN int mirror_co_repeat(struct mirror *m, const struct watched *w)
{
    unsigned flags = w->flags & ~(unsigned)(IO_FUA | IO_FAST | IO_COMPRESSED);
    struct copy_result res = { 0 };

    switch (w->kind) {
    case WATCHED_WRITE:
        return node_co_pwritev(m->target, w->off, w->iov, flags);
    case WATCHED_ZERO:
        return node_co_zero(m->target, w->off, w->len,
                            flags & m->transfer.zero_flags);
    case WATCHED_DISCARD: break;
    }
    return mirror_co_copy_part(m, w->off, w->len, true, &res);
}

/* What of the target changes with @w. */
static struct range mirror_range_of(const struct mirror *m,
                                    const struct watched *w)
{
    uint64_t unit = m->whole ? m->whole : 1;
    uint64_t off = round_down(w->off, unit);
    uint64_t end = MIN(round_up(w->off + w->len, unit), node_size(m->source));

    return (struct range) { .off = off, .len = end - off };
}

/* To both sides. What the target does not take is left to the chunks, which ask
 * what to do about errors. */
static CO_FN int mirror_co_change_both(struct mirror *m, struct watched *w)
{
    struct range r, all = mirror_range_of(m, w);
    struct copy_result res = { 0 };
    int ret, copied;

    ranges_co_take(&m->ranges, &r, all.off, all.len);
    ret = watched_co_do(w);
    if (ret < 0) {
        copied = ret;
    } else if (m->no_zeroes || all.len > w->len) {
        copied = mirror_co_copy_part(m, all.off, all.len, true, &res);
    } else {
        copied = mirror_co_repeat(m, w);
    }
    if (copied < 0) {
        mirror_mark(m, w->off, w->len);
    } else {
        dirty_map_clear(m->dirty, all.off, all.len);
    }
    ranges_drop(&m->ranges, &r);
    return ret;
}

static CO_FN int mirror_co_change_marked(struct mirror *m, struct watched *w)
{
    int ret;

    if (m->write_blocking) {
        return mirror_co_change_both(m, w);
    }
    ret = watched_co_do(w);
    mirror_mark(m, w->off, w->len); /* failed: old, new, or both */
    return ret;
}

static CO_FN int mirror_co_change(void *arg, struct watched *w)
{
    struct mirror *m = arg;
    struct range r;
    int ret;

    ranges_add(&m->changes, &r, w->off, w->len);
    if (m->keeper.cp) {
        checkpoint_co_change(m->keeper.cp, w->off, w->len);
    }
    ret = mirror_co_change_marked(m, w);
    ranges_drop(&m->changes, &r);
    return ret;
}

const struct watch_ops mirror_watch_ops = { .co_change = mirror_co_change };

/* --- chunks --- */

/* Has @ret come because of node_let_go(), and is the work to go on? */
static bool mirror_restarts(const struct mirror *m, int ret)
{
    return ret == -ERESTART && !m->ending;
}

/* Of the images that are copied. */
static CO_FN int mirror_co_status(struct mirror *m, uint64_t off, uint64_t max,
                                  struct extent *ext)
{
    struct node *end = m->bottom ? node_backing(m->bottom) : NULL;

    return node_co_status_above(m->source, end, off, max, ext);
}

/* What a run has to have whole: units that the target takes so, and those of
 * the marks, which are not taken away from a part. */
static uint64_t mirror_run_unit(const struct mirror *m, bool dirty)
{
    return dirty ? MAX(m->whole, dirty_map_granularity(m->dirty)) : m->whole;
}

/* The run in whole units, if that is not 0: one of which only a part is to be
 * copied is copied, as data. */
static void mirror_round_run(const struct mirror *m, uint64_t unit,
                             uint64_t max, bool *need, bool *zero,
                             uint64_t *len)
{
    *zero = *zero && !m->no_zeroes;
    if (unit == 0 || *len == max || *len % unit == 0) {
        return;
    }
    if (*need && !*zero) {
        *len = MIN(round_up(*len, unit), max);
        return;
    }
    *len = round_down(*len, unit);
    if (*len == 0) {
        *need = true;
        *zero = false;
        *len = MIN(unit, max);
    }
}

CO_FN int mirror_co_scan(void *arg, uint64_t off, uint64_t max, bool *ret_need,
                         bool *ret_zero, uint64_t *ret_len)
{
    struct mirror *m = arg;
    struct extent ext = { 0 };
    bool dirty = false, todo = true; /* by the map; by the checkpoint */
    int ret;

    if (!m->first) {
        dirty = dirty_map_run(m->dirty, off, max, &max);
    } else if (m->keeper.cp) {
        todo = checkpoint_run(m->keeper.cp, off, max, &max);
    }
    if (!dirty && !(m->first && todo)) {
        *ret_need = *ret_zero = false;
        *ret_len = max;
        return 0;
    }
    do {
        backend_co_enter(m->source_backend);
        ret = mirror_co_status(m, off, max, &ext);
        backend_leave(m->source_backend);
    } while (mirror_restarts(m, ret));
    *ret_zero = ext.flags & STATUS_ZERO;
    *ret_need = dirty ||
                (m->bottom ? ext.depth > 0 : !(*ret_zero && m->target_is_zero));
    *ret_len = ext.len;
    if (ret == 0) {
        mirror_round_run(m, mirror_run_unit(m, dirty), max, ret_need, ret_zero,
                         ret_len);
    }
    return ret;
}

/* @ask: zeroes are copied as zeroes. What was seen before the marks were taken
 * away does not say where they are: a guest may have written there since. */
static CO_FN int mirror_co_copy_part(struct mirror *m, uint64_t off,
                                     uint64_t len, bool ask,
                                     struct copy_result *res)
{
    int ret = 0;

    for (uint64_t n; len > 0 && ret == 0; off += n, len -= n) {
        struct copy_result part = { 0 };
        struct extent ext = { .len = len };

        if (ask) {
            ret = mirror_co_status(m, off, len, &ext);
            part.is_read = true;
        }
        n = MIN(len, ext.len);
        if (ret == 0) {
            ret = transfer_co_copy(&m->transfer, off, n,
                                   (ext.flags & STATUS_ZERO) && !m->no_zeroes,
                                   &part);
        }
        copy_result_add(res, &part);
    }
    return ret;
}

/* The graph stays as it is meanwhile. */
static CO_FN int mirror_co_copy_held(struct mirror *m, uint64_t off,
                                     uint64_t len, bool ask,
                                     struct copy_result *res)
{
    struct range r;
    int ret;

    ranges_co_take(&m->ranges, &r, off, len);
    dirty_map_clear(m->dirty, off, len);
    ret = mirror_co_copy_part(m, off, len, ask, res);
    if (ret < 0) {
        dirty_map_set(m->dirty, off, len);
    } else if (!m->first) {
        m->later_bytes += len;
    }
    ranges_drop(&m->ranges, &r);
    return ret;
}

/* The backend is entered for the whole chunk, before the range is taken: a
 * guest's change that waits for the range must not wait for the end of a drain,
 * which waits for the guest. */
CO_FN int mirror_co_copy(void *arg, uint64_t off, uint64_t len, bool zero,
                         struct copy_result *res)
{
    struct mirror *m = arg;
    int ret;

    do {
        *res = (struct copy_result) { 0 };
        backend_co_enter(m->source_backend);
        /* After the first round a run of data may have zeroes in it. */
        ret = mirror_co_copy_held(m, off, len, zero || !m->first, res);
        backend_leave(m->source_backend);
    } while (mirror_restarts(m, ret));
    return ret;
}

CO_FN int mirror_co_copy_rest(struct mirror *m)
{
    uint64_t off = 0, size = node_size(m->source), len;
    int ret = 0;

    for (; off < size && ret == 0; off += len) {
        struct copy_result res = { 0 };

        if (dirty_map_run(m->dirty, off, size - off, &len)) {
            len = MIN(len, MAX(REST_CHUNK, m->whole));
            ret = mirror_co_copy_held(m, off, len, true, &res);
        }
    }
    return ret;
}
