/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Results of jobs; see result.h. */
#include "job/result.h"
#include "job/job.h"

/* More jobs than one looks after by hand. */
#define RESULTS_MAX 64

struct job_fault {
    char *node, *file;
    uint64_t offset; /* of the disk */
    bool is_read;
    int errnum;
};
struct job_results {
    json_t *list; /* oldest first */
};

/* --- faults --- */

void job_set_fault(struct job *j, const struct node *n, uint64_t offset,
                   bool is_read, int errnum)
{
    struct job_fault *f = g_new0(struct job_fault, 1);

    f->node = g_strdup(node_name(n));
    f->file = g_strdup(node_filename(n));
    f->offset = offset;
    f->is_read = is_read;
    f->errnum = errnum;
    job_fault_free(j->fault);
    j->fault = f;
}

void job_fault_free(struct job_fault *f)
{
    if (f) {
        g_free(f->node);
        g_free(f->file);
        g_free(f);
    }
}

static json_t *fault_describe(const struct job_fault *f)
{
    bool has_name = f->file && *f->file && g_utf8_validate(f->file, -1, NULL);

    return json_pack("{s:s, s:s, s:s*, s:I, s:s}", "operation",
                     f->is_read ? "read" : "write", "node-name", f->node,
                     "file", has_name ? f->file : NULL, "offset",
                     (json_int_t)f->offset, "error", g_strerror(f->errnum));
}

/* --- results --- */

static json_t *describe_result(const struct job *j, const char *outcome)
{
    return json_pack("{s:s, s:s, s:s, s:I, s:I}", "id", j->id, "type",
                     j->drv->type, "outcome", outcome, "offset",
                     (json_int_t)j->offset, "len", (json_int_t)j->len);
}

struct job_results *job_results_new(void)
{
    struct job_results *rs = g_new0(struct job_results, 1);

    rs->list = json_array();
    return rs;
}

void job_results_free(struct job_results *rs)
{
    if (rs) {
        json_decref(rs->list);
        g_free(rs);
    }
}

void job_results_add(struct job_results *rs, const struct job *j)
{
    bool cancelled = j->result == -ECANCELED && j->cancelled;
    json_t *o = describe_result(j, cancelled       ? "cancelled"
                                   : j->result < 0 ? "failed"
                                                   : "completed");

    if (j->result < 0 && !cancelled) {
        job_add_error(j, o);
        /* What the job fails with may be something else. */
        if (j->fault && !j->error && j->fault->errnum == -j->result) {
            json_object_set_new(o, "fault", fault_describe(j->fault));
        }
    }
    json_object_set_new(o, "ended",
                        json_integer(g_get_real_time() / G_USEC_PER_SEC));
    json_array_append_new(rs->list, o);
    if (json_array_size(rs->list) > RESULTS_MAX) {
        json_array_remove(rs->list, 0);
    }
}

json_t *job_results_describe(const struct job_results *rs)
{
    return json_deep_copy(rs->list);
}

json_t *job_describe_stopped(const struct job *j)
{
    json_t *o;

    if (j->io_status == IO_STATUS_OK || !j->backend_paused || !j->fault) {
        return NULL;
    }
    o = describe_result(j, "stopped");
    json_object_set_new(o, "fault", fault_describe(j->fault));
    return o;
}
