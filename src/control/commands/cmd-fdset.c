/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* remove-fd, query-fdsets; add-fd is a connection's (control/session/add-fd.h). */
#include <inttypes.h>
#include <limits.h>
#include "base/err.h"
#include "control/commands.h"
#include "control/control-int.h"
#include "loop/fdset.h"

CO_FN int cmd_co_remove_fd(struct control *c, const json_t *args, json_t **ret,
                           GError **err)
{
    int64_t id = arg_int(args, "fdset-id", -1), fd = arg_int(args, "fd", -1);
    bool has_fd = json_object_get(args, "fd");
    bool fits = id >= 0 && fd >= (has_fd ? 0 : -1) && fd <= INT_MAX;

    if (fits && fdset_remove(id, (int)fd) == 0) {
        return 0;
    }
    return has_fd ? err_set(err, ENOENT,
                            "File descriptor named 'fdset-id:%" PRId64
                            ", fd:%" PRId64 "' not found",
                            id, fd)
                  : err_set(err, ENOENT,
                            "File descriptor named 'fdset-id:%" PRId64
                            "' not found",
                            id);
}

static void add_member(int64_t id, int fd, const char *opaque, void *arg)
{
    json_t *sets = arg, *set, *member = json_pack("{s:i}", "fd", fd);

    set = json_array_get(sets, json_array_size(sets) - 1);
    if (!set || json_integer_value(json_object_get(set, "fdset-id")) != id) {
        set = json_pack("{s:I, s:[]}", "fdset-id", (json_int_t)id, "fds");
        json_array_append_new(sets, set);
    }
    if (opaque) {
        json_object_set_new(member, "opaque", json_string(opaque));
    }
    json_array_append_new(json_object_get(set, "fds"), member);
}

CO_FN int cmd_co_query_fdsets(struct control *c, const json_t *args,
                              json_t **ret, GError **err)
{
    *ret = json_array();
    fdset_foreach(add_member, *ret);
    return 0;
}
