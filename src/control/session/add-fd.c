/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/session/add-fd.h"
#include "base/err.h"
#include "control/control-int.h"
#include "loop/channel.h"
#include "loop/fdset.h"

int session_add_fd(struct channel *ch, const json_t *args, json_t **ret,
                   GError **err)
{
    const struct schema_command *cmd = schema_find_command("add-fd");
    int64_t id = arg_int(args, "fdset-id", -1);
    int r = schema_check(cmd->args, args, err), fd;

    if (r < 0) {
        return r;
    }
    if (json_object_get(args, "fdset-id") && id < 0) {
        return err_set(err, EINVAL,
                       "Parameter 'fdset-id' expects a non-negative value");
    }
    fd = channel_take_fd(ch);
    if (fd < 0) {
        return err_set(err, EBADF,
                       "No file descriptor supplied via SCM_RIGHTS");
    }
    id = fdset_add(id, fd, arg_str(args, "opaque"));
    *ret = json_pack("{s:I, s:i}", "fdset-id", (json_int_t)id, "fd", fd);
    return 0;
}
