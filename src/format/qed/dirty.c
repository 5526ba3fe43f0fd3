/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NEED_CHECK bit and the drain.
 *
 * The bit is set by the first publish of a dirty period when the image has no
 * backing file (M6), and cleared when nothing has been allocated for a while,
 * when the image is drained and when it is closed: after all pointers are
 * durable, and with passes held off, so that none sets it meanwhile.
 */
#include "base/barrier.h"
#include "format/qed/qed.h"

#define CLEAR_AFTER_NS UINT64_C(5000000000)

static bool is_dirty(const struct qed_image *img)
{
    return img->group && (img->hdr.features & QED_F_NEED_CHECK);
}

int qed_co_mark_clean(struct qed_image *img)
{
    struct qed_header h;
    int ret;

    if (!is_dirty(img)) {
        return 0;
    }
    group_co_lock(img->group);
    ret = group_error(img->group);
    /* More may have been allocated; then a later call clears the bit.  Nothing
     * pending: all pointers are durable.  The bit itself may wait for any later
     * flush: an image that is marked without need is checked, no more. */
    if (ret == 0 && is_dirty(img) && !group_pending(img->group)) {
        h = img->hdr;
        h.features &= ~QED_F_NEED_CHECK;
        ret = qed_co_write_header(img, &h);
    }
    group_unlock(img->group);
    return ret;
}

static CO_FN void clear_entry(void *arg)
{
    struct qed_image *img = arg;

    /* On failure the bit stays: the next open checks the image. */
    qed_co_mark_clean(img);
    co_latch_done(&img->background);
}

static void clear_expired(void *arg)
{
    struct qed_image *img = arg;

    if (group_pending(img->group)) {
        qed_arm_clear(img);
        return;
    }
    co_latch_add(&img->background);
    co_start(img->loop, clear_entry, img);
}

void qed_init_clear(struct qed_image *img)
{
    loop_timer_init(&img->clear_timer, img->loop, clear_expired, img);
}

void qed_arm_clear(struct qed_image *img)
{
    if (is_dirty(img) && !img->quiesced && !group_error(img->group)) {
        loop_timer_arm(&img->clear_timer,
                       loop_clock_ns(img->loop) + CLEAR_AFTER_NS);
    }
}

void qed_co_quiesce(struct node *n)
{
    struct qed_image *img = qed_image(n);

    img->quiesced++;
    if (!img->group) {
        return;
    }
    loop_timer_cancel(&img->clear_timer);
    co_latch_co_wait(&img->background);
    /* A copy of the file made while we are drained is complete (M9). */
    if (group_pending(img->group)) {
        (void)BARRIER(QED_DRAIN, group_co_flush(img->group));
    }
    qed_co_mark_clean(img);
    group_co_quiesce(img->group);
}

void qed_resume(struct node *n)
{
    struct qed_image *img = qed_image(n);

    g_assert(img->quiesced > 0);
    img->quiesced--;
    if (img->group) {
        group_resume(img->group);
        qed_arm_clear(img);
    }
}
