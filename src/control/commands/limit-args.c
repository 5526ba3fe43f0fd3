/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* See limit-args.h. */
#include "control/commands/limit-args.h"
#include "base/err.h"
#include "control/control-int.h"
#include "graph/background.h"
#include "job/latency-target.h"

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

int limit_args_take(const json_t *args, struct background_limits *limits,
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
