/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What queries say of a job; keys in the order of QEMU. */
#include "base/err.h"
#include "job/job-int.h"
#include "job/latency-target.h"

void job_add_error(const struct job *j, json_t *o)
{
    g_autofree char *text = NULL;

    if (j->result < 0) {
        text = j->error ? err_dup_message(j->error)
                        : g_strdup(g_strerror(-j->result));
        json_object_set_new(o, "error", json_string(text));
    }
}

static json_t *describe_eta(const struct eta_answer *eta)
{
    json_t *o = json_pack("{s:I, s:I}", "expected", (json_int_t)eta->expected,
                          "earliest", (json_int_t)eta->earliest);

    if (eta->latest < (double)INT64_MAX) {
        json_object_set_new(o, "latest", json_integer((json_int_t)eta->latest));
    }
    return o;
}

/* Of a job that takes part in admission control. */
static void describe_limits(const struct job *j, json_t *o)
{
    static const char *const holds[JOB_BOTTLENECKS] = {
        [JOB_HELD_BY_SOURCE] = "source",
        [JOB_HELD_BY_TARGET] = "target",
        [JOB_HELD_BY_GUEST] = "guest",
        [JOB_HELD_BY_LIMIT] = "limit",
    };
    g_autofree char *target = latency_target_format(&j->limits.target);
    struct eta_answer eta;

    json_object_set_new(o, "latency-target", json_string(target));
    json_object_set_new(o, "floor", json_integer((json_int_t)j->limits.floor));
    if (j->limits.finish_by) {
        json_object_set_new(o, "finish-by",
                            json_integer((json_int_t)j->limits.finish_by));
    }
    if (j->state == JOB_RUNNING) {
        json_object_set_new(o, "held-by", json_string(holds[job_held_by(j)]));
    }
    if (job_eta(j, &eta)) {
        json_object_set_new(o, "eta", describe_eta(&eta));
    }
}

json_t *job_describe_block(const struct job *j)
{
    static const char *const status[] = {
        [IO_STATUS_OK] = "ok",
        [IO_STATUS_FAILED] = "failed",
        [IO_STATUS_NOSPACE] = "nospace",
    };
    json_t *o = json_pack(
        "{s:b, s:s, s:s, s:b, s:b, s:I, s:I, s:s, s:b, s:I, s:b, s:s}",
        "auto-finalize", j->auto_finalize, "io-status", status[j->io_status],
        "device", j->device, "auto-dismiss", j->auto_dismiss, "busy", j->busy,
        "len", (json_int_t)j->len, "offset", (json_int_t)j->offset, "status",
        job_state_name(j->state), "paused", j->backend_paused, "speed",
        (json_int_t)j->speed, "ready",
        j->state == JOB_READY || j->state == JOB_STANDBY, "type", j->drv->type);

    job_add_error(j, o);
    if (j->drv->describe) {
        j->drv->describe(j, o);
    }
    if (j->background) {
        describe_limits(j, o);
    }
    return o;
}

json_t *job_describe(const struct job *j)
{
    json_t *o = json_pack(
        "{s:I, s:s, s:I, s:s, s:s}", "current-progress", (json_int_t)j->offset,
        "status", job_state_name(j->state), "total-progress",
        (json_int_t)j->len, "type", j->drv->type, "id", j->id);

    job_add_error(j, o);
    return o;
}
