/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/commands/job-args.h"
#include "base/err.h"
#include "control/control-int.h"
#include "graph/background.h"
#include "graph/node.h"
#include "job/latency-target.h"

const char *job_args_id(struct control *c, const json_t *args)
{
    const char *id = arg_str(args, "job-id");
    const char *device = arg_str(args, "device");

    return id ? id : device_find(c->graph, device) ? device : "";
}

struct job_params job_args_params(struct control *c, const json_t *args)
{
    return (struct job_params) {
        .id = job_args_id(c, args),
        .auto_finalize = arg_bool(args, "auto-finalize", true),
        .auto_dismiss = arg_bool(args, "auto-dismiss", true),
        .limits = BACKGROUND_LIMITS,
    };
}

int job_args_speed(const json_t *args, uint64_t *ret_speed, GError **err)
{
    int64_t speed = arg_int(args, "speed", 0);

    if (speed < 0) {
        return err_set(err, EINVAL,
                       "Parameter 'speed' expects a non-negative value");
    }
    *ret_speed = (uint64_t)speed;
    return 0;
}

/* A number that is not negative; left alone when it was not given. */
static int take_number(const json_t *args, const char *name, uint64_t *ret,
                       GError **err)
{
    int64_t value = arg_int(args, name, -1);

    if (!json_object_get(args, name)) {
        return 0;
    }
    if (value < 0) {
        return err_set(err, EINVAL,
                       "Parameter '%s' expects a non-negative value", name);
    }
    *ret = (uint64_t)value;
    return 0;
}

int job_args_limits(const json_t *args, struct background_limits *limits,
                    GError **err)
{
    const char *target = arg_str(args, "latency-target");
    struct background_limits l = *limits;
    int r = target ? latency_target_parse(target, &l.target, err) : 0;

    if (r == 0) {
        r = take_number(args, "floor", &l.floor, err);
    }
    if (r == 0) {
        r = take_number(args, "finish-by", &l.finish_by, err);
    }
    if (r == 0) {
        *limits = l;
    }
    return r;
}

enum on_error job_args_on_error(const json_t *args, const char *name)
{
    static const char *const names[ON_ERROR_COUNT] = {
        [ON_ERROR_REPORT] = "report", [ON_ERROR_IGNORE] = "ignore",
        [ON_ERROR_STOP] = "stop",     [ON_ERROR_ENOSPC] = "enospc",
        [ON_ERROR_AUTO] = "auto",
    };
    const char *text = arg_str(args, name);

    for (unsigned i = 0; text && i < ON_ERROR_COUNT; i++) {
        if (g_str_equal(names[i], text)) {
            return i;
        }
    }
    return ON_ERROR_REPORT;
}
