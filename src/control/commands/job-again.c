/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Jobs of an earlier daemon, by the command that started them. */
#include "base/err.h"
#include "control/commands/job-start.h"

static const struct {
    const char *command;
    CO_FN_PTR job_co_start_fn *co_start;
} starts[] = {
    { "block-commit", commit_co_command },
    { "block-stream", stream_co_command },
    { "blockdev-mirror", mirror_co_command },
    { "drive-mirror", drive_mirror_co_command },
};

CO_FN int job_start_co_again(struct control *c, const char *command,
                             const json_t *args, const char *checkpoint,
                             GError **err)
{
    const struct job_start s = {
        .args = args,
        .checkpoint = checkpoint,
        .resumed = true,
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(starts); i++) {
        if (g_str_equal(starts[i].command, command)) {
            return starts[i].co_start(c, &s, err);
        }
    }
    return err_set(err, EINVAL, "'%s' starts no job that goes on", command);
}
