/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reclaim: making clusters free, late enough (M3, M4).
 *
 *   waits for the pass     its pointer is durably gone      decrements
 *   waits for accesses     none that may use it is left     epochs[].decrements
 *   discard                holes in the file, before anybody may write there
 *   refcount down          and free if that makes it 0
 *
 * A pass that is done closes the current epoch: what it freed waits for every
 * access that began in that epoch or an earlier one.
 */
#include <errno.h>
#include <inttypes.h>
#include "base/barrier.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/space/free.h"
#include "format/qcow2/space/refcount.h"
#include "format/trace.h"

static struct qcow2_epoch *epoch_new(struct qcow2_space *sp)
{
    struct qcow2_epoch *last = g_queue_peek_tail(&sp->epochs);
    struct qcow2_epoch *e = g_new0(struct qcow2_epoch, 1);

    e->number = last ? last->number + 1 : 1;
    e->decrements = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement));
    g_queue_push_tail(&sp->epochs, e);
    return e;
}

static void epoch_free(struct qcow2_epoch *e)
{
    g_array_unref(e->decrements);
    g_free(e);
}

void qcow2_reclaim_init(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;

    sp->decrements = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement));
    sp->reclaimable = g_array_new(FALSE, FALSE, sizeof(struct qcow2_decrement));
    g_queue_init(&sp->epochs);
    epoch_new(sp);
}

void qcow2_reclaim_done(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;
    struct qcow2_epoch *e;

    g_assert(!sp->reclaiming);
    while ((e = g_queue_pop_head(&sp->epochs))) {
        epoch_free(e);
    }
    g_array_unref(sp->decrements);
    g_array_unref(sp->reclaimable);
}

/* --- one run --- */

/* How many clusters from @first on have the refcount of @first; with their
 * blocks ready. */
static uint64_t same_counts(struct qcow2_image *img, uint64_t first,
                            uint64_t end)
{
    uint64_t count = qcow2_count_at(img, first), n = 1;

    while (first + n < end && qcow2_count_at(img, first + n) == count) {
        n++;
    }
    return n;
}

/* Refcounts of [@first, @first+@n), all alike and in one block, go down. */
static void counts_lower(struct qcow2_image *img, uint64_t first, uint64_t n)
{
    uint64_t count = qcow2_count_at(img, first);

    for (uint64_t i = 0; i < n; i++) {
        qcow2_count_set(img, first + i, count - 1);
    }
    if (count == 1) {
        qcow2_meta_remove(img, first << img->cluster_bits,
                          n << img->cluster_bits);
        qcow2_space_add_free(img, first, n);
    }
}

/* Nobody begins to share a cluster that is being freed. */
static void compressed_forget(struct qcow2_image *img, uint64_t first,
                              uint64_t n)
{
    uint64_t at = img->space->compressed >> img->cluster_bits;

    if (at >= first && at < first + n) {
        img->space->compressed = 0;
    }
}

/* The first part of @d that is alike. */
static CO_FN int part_co_reclaim(struct qcow2_image *img,
                                 struct qcow2_decrement *d)
{
    struct qcow2_refcounts *r = img->refcounts;
    uint64_t end = min_u64(
        d->first + d->n, qcow2_block_first(r, qcow2_block_of(r, d->first) + 1));
    uint64_t n = 1, count;
    int ret = img->sector.unknown ? -EIO : 1; /* it may lead here */

    while (ret == 1) {
        ret = qcow2_co_blocks_ready(img, d->first, 1, false);
    }
    if (ret < 0) {
        return ret;
    }
    count = qcow2_count_at(img, d->first);
    n = same_counts(img, d->first, end);
    if (count == 0) {
        ret = qcow2_co_corrupt(img, d->first << img->cluster_bits,
                               "the refcount of cluster %" PRIu64
                               " is 0, but it was in use",
                               d->first);
    } else if (count == 1) {
        compressed_forget(img, d->first, n);
        node_co_debug_event(qcow2_file(img), DEBUG_CLUSTER_FREE);
        if (BARRIER_OFF(QCOW2_DISCARD)) {
            counts_lower(img, d->first, n);
        }
        /* If it fails the bytes stay: no harm. */
        node_co_discard(qcow2_file(img), d->first << img->cluster_bits,
                        n << img->cluster_bits);
        do { /* the block may have left memory meanwhile */
            ret = qcow2_co_blocks_ready(img, d->first, 1, false);
        } while (ret == 1);
    }
    if (ret == 0 && !(count == 1 && BARRIER_OFF(QCOW2_DISCARD))) {
        counts_lower(img, d->first, n);
    }
    d->first += n;
    d->n -= n;
    return ret;
}

void qcow2_leak(struct qcow2_image *img, uint64_t first, uint64_t n, int error)
{
    trace_qcow2_leak(img->node->name, first, n, error);
    img->leaked += n;
    img->leak_error = error;
}

static CO_FN void reclaim_co_all(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;

    while (sp->reclaimable->len > 0) {
        struct qcow2_decrement d = g_array_index(sp->reclaimable,
                                                 struct qcow2_decrement, 0);

        g_array_remove_index_fast(sp->reclaimable, 0);
        while (d.n > 0) {
            int ret = part_co_reclaim(img, &d);
            if (ret < 0) { /* the rest leaks */
                qcow2_leak(img, d.first, d.n, ret);
                break;
            }
        }
    }
}

static CO_FN void reclaim_entry(void *arg)
{
    struct qcow2_image *img = arg;
    struct qcow2_space *sp = img->space;

    reclaim_co_all(img);
    sp->reclaiming = false;
    co_latch_done(&sp->background);
}

static void reclaim_kick(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;

    if (sp->reclaimable->len > 0 && !sp->reclaiming) {
        sp->reclaiming = true;
        co_latch_add(&sp->background);
        co_start(img->loop, reclaim_entry, img);
    }
}

/* --- what holds them back --- */

static void epochs_check(struct qcow2_image *img)
{
    struct qcow2_space *sp = img->space;
    struct qcow2_epoch *e;

    for (GList *l = BARRIER_OFF(QCOW2_ACCESS) ? sp->epochs.head : NULL; l;
         l = l->next) {
        e = l->data;
        g_array_append_vals(sp->reclaimable, e->decrements->data,
                            e->decrements->len);
        g_array_set_size(e->decrements, 0);
    }
    while ((e = g_queue_peek_head(&sp->epochs)) && e->running == 0 &&
           g_queue_get_length(&sp->epochs) > 1) {
        g_queue_pop_head(&sp->epochs);
        g_array_append_vals(sp->reclaimable, e->decrements->data,
                            e->decrements->len);
        epoch_free(e);
    }
    reclaim_kick(img);
}

uint64_t qcow2_access_begin(struct qcow2_image *img)
{
    struct qcow2_epoch *e;

    if (!img->space) {
        return 0;
    }
    e = g_queue_peek_tail(&img->space->epochs);
    e->running++;
    return e->number;
}

void qcow2_access_end(struct qcow2_image *img, uint64_t epoch)
{
    struct qcow2_epoch *e = NULL;

    if (!img->space || epoch == 0) {
        return;
    }
    /* There are few epochs: as many as passes ran during the slowest access. */
    for (GList *l = img->space->epochs.head; l; l = l->next) {
        e = l->data;
        if (e->number == epoch) {
            break;
        }
    }
    g_assert(e && e->number == epoch && e->running > 0);
    if (--e->running == 0) {
        epochs_check(img);
    }
}

void qcow2_reclaim_now(struct qcow2_image *img, uint64_t first, uint64_t n)
{
    struct qcow2_decrement d = { 0, first, n };

    g_array_append_val(img->space->reclaimable, d);
    reclaim_kick(img);
}

int qcow2_refcount_decrement(struct qcow2_image *img, uint64_t gen,
                             uint64_t host, uint64_t len)
{
    uint64_t first = host >> img->cluster_bits;
    uint64_t n = ((host + len - 1) >> img->cluster_bits) - first + 1;
    GArray *decrements = img->space->decrements;
    struct qcow2_decrement d = { gen, first, n };

    if (BARRIER_OFF(QCOW2_QUARANTINE)) {
        qcow2_reclaim_now(img, first, n);
        return 0;
    }
    if (decrements->len > 0) {
        struct qcow2_decrement *last = &g_array_index(
            decrements, struct qcow2_decrement, decrements->len - 1);
        if (last->gen == gen && last->first + last->n == first) {
            last->n += n;
            return 0;
        }
    }
    g_array_append_val(decrements, d);
    return 0;
}

void qcow2_space_published(struct qcow2_image *img, uint64_t gen)
{
    struct qcow2_space *sp = img->space;
    struct qcow2_epoch *e = g_queue_peek_tail(&sp->epochs);
    unsigned keep = 0;

    for (unsigned i = 0; i < sp->decrements->len; i++) {
        struct qcow2_decrement d = g_array_index(sp->decrements,
                                                 struct qcow2_decrement, i);

        if (d.gen <= gen) {
            g_array_append_val(e->decrements, d);
        } else {
            g_array_index(sp->decrements, struct qcow2_decrement, keep++) = d;
        }
    }
    g_array_set_size(sp->decrements, keep);
    if (e->decrements->len > 0) {
        epoch_new(sp);
        epochs_check(img);
    }
}

void qcow2_co_reclaim(struct qcow2_image *img)
{
    if (img->space) {
        co_latch_co_wait(&img->space->background);
    }
}
