/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A job as background work: its progress and how long it will take, its part in
 * admission control, and the time by which it shall be finished.
 */
#include "base/err.h"
#include "job/job-int.h"
#include "loop/loop.h"

#define CHECK_NS UINT64_C(500000000)

void job_progress(struct job *j, uint64_t offset)
{
    j->offset = offset;
    eta_update(&j->priv->eta, offset, loop_clock_ns(j->jobs->loop));
}

bool job_eta(const struct job *j, struct eta_answer *ret)
{
    return j->state == JOB_RUNNING && j->offset < j->len &&
           eta_get(&j->priv->eta, j->len - j->offset, ret);
}

enum job_bottleneck job_held_by(const struct job *j)
{
    return j->drv->held_by ? j->drv->held_by(j) : JOB_HELD_BY_SOURCE;
}

int job_user_set_limits(struct job *j, const struct background_limits *l,
                        GError **err)
{
    int ret = job_check_verb(j, JOB_SET_SPEED, err);

    if (ret < 0) {
        return ret;
    }
    j->limits = *l;
    j->priv->deadline_told = false;
    if (j->background) {
        background_set_limits(j->background, l);
        job_deadline_check(j);
    }
    return 0;
}

/* --- finish-by --- */

static double seconds_left(const struct job *j)
{
    return (double)j->limits.finish_by -
           (double)loop_date_ns(j->jobs->loop) / 1e9;
}

/* Is it certain by now?  While guests hold it back it is not: they have to make
 * room as soon as they must. */
static bool deadline_is_lost(struct job *j, double left)
{
    uint64_t remaining = j->len - MIN(j->offset, j->len);
    struct eta_answer eta;

    return left <= 0 ||
           (j->speed && (double)remaining / (double)j->speed > left) ||
           (job_held_by(j) != JOB_HELD_BY_GUEST && job_eta(j, &eta) &&
            eta.earliest > left);
}

static void deadline_tell(struct job *j, double left)
{
    struct eta_answer eta;
    json_t *data = json_pack(
        "{s:s, s:s, s:I, s:I, s:I}", "device", j->device, "type", j->drv->type,
        "finish-by", (json_int_t)j->limits.finish_by, "len", (json_int_t)j->len,
        "offset", (json_int_t)j->offset);

    if (job_eta(j, &eta)) {
        json_object_set_new(
            data, "late",
            json_integer((json_int_t)MAX(eta.expected - left, 0)));
    }
    job_send(j, "BLOCK_JOB_DEADLINE_MISSED", data);
}

void job_deadline_check(void *arg)
{
    struct job *j = arg;
    double left;

    if (!j->limits.finish_by || !j->background || j->priv->deadline_told ||
        j->state >= JOB_WAITING) {
        return;
    }
    left = seconds_left(j);
    eta_update(&j->priv->eta, j->offset, loop_clock_ns(j->jobs->loop));
    if (deadline_is_lost(j, left)) {
        j->priv->deadline_told = true;
        deadline_tell(j, left);
        return;
    }
    loop_timer_arm(&j->priv->deadline, loop_clock_ns(j->jobs->loop) + CHECK_NS);
}
