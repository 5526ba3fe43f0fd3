/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "control/commands/job-start.h"
#include "control/commands/job-args.h"
#include "control/control-int.h"
#include "control/journal/journal.h"

CO_FN int job_start_co_run(struct control *c, const char *command,
                           job_co_start_fn *co_begin, const json_t *args,
                           GError **err)
{
    g_autofree char *id = g_strdup(job_args_id(c, args));
    g_autofree char *checkpoint = journal_checkpoint(c->journal, id);
    const struct job_start s = { .args = args, .checkpoint = checkpoint };
    struct journal_start start = { 0 };
    int r = journal_co_begin_start(c->journal, id, command, args, &start, err);

    if (r < 0) {
        return r;
    }
    r = co_begin(c, &s, err);
    journal_co_end_start(c->journal, &start, r == 0);
    return r;
}
