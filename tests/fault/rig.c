/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One run on a machine of its own: see fault.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "control/control-int.h"
#include "fault.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/io.h"

enum { JOB_TICK_MS = 20, JOB_TIMEOUT_S = 600, STORM_MAX = 16 };

uint64_t rig_calls(struct rig *r)
{
    return r->fault.op == SIM_OP_COUNT ? 0
           : r->fault.op == MEMORY     ? memory_count()
           : r->fault.op == FORGET     ? forget_count()
                                       : sim_count(r->sim, r->fault.op);
}

bool rig_hit(struct rig *r)
{
    return r->fault.op != SIM_OP_COUNT &&
           rig_calls(r) - r->before >= r->fault.nth;
}

bool rig_harmless(const struct rig *r)
{
    return r->fault.err == 0 || r->fault.err == EINTR;
}

bool rig_may_fail(struct rig *r)
{
    return !r->strict && rig_hit(r) && !rig_harmless(r);
}

void die(struct rig *r, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    printf("# FAILED%s: %s\n", r->strict ? " (tried again)" : "", text);
    fflush(stdout);
    _exit(1);
}

/* --- judging --- */

/* What a fault makes of a request: its own error, or EIO. */
static void judge(struct rig *r, const char *what, int ret)
{
    if (ret == 0) {
        return;
    }
    r->failed++;
    if (r->strict || !rig_hit(r)) {
        die(r, "%s fails before the fault: %s", what, g_strerror(-ret));
    }
    if (rig_harmless(r)) {
        die(r, "%s fails for what is no error: %s", what, g_strerror(-ret));
    }
    if (ret != -r->fault.err && ret != -EIO) {
        die(r, "%s fails with %s", what, g_strerror(-ret));
    }
}

static int command_result(struct rig *r, const char *name, int ret,
                          const GError *err, bool judged)
{
    if (ret < 0 && !err) {
        die(r, "%s fails without a word", name);
    }
    if (ret < 0 && judged) {
        r->failed++;
        if (r->strict || !rig_hit(r)) {
            die(r, "%s: %s", name, err->message);
        }
        if (rig_harmless(r)) {
            die(r, "%s fails for what is no error: %s", name, err->message);
        }
    }
    return ret;
}

static CO_FN int command_co(struct rig *r, const char *name, json_t *args,
                            bool judged)
{
    g_autoptr(GError) err = NULL;
    json_t *answer = NULL;
    int ret = control_co_execute(r->control, name, args, &answer, &err);

    json_decref(answer);
    json_decref(args);
    header_check(r);
    return command_result(r, name, ret, err, judged);
}

int rig_co_command(struct rig *r, const char *name, json_t *args)
{
    return command_co(r, name, args, true);
}

int rig_co_try(struct rig *r, const char *name, json_t *args)
{
    return command_co(r, name, args, false);
}

/* --- open, close --- */

bool rig_co_open_as(struct rig *r, json_t *options, const char *root)
{
    g_autoptr(GError) err = NULL;
    struct node *n;

    r->at_open = rig_calls(r) - r->before;
    if (options && rig_co_command(r, "blockdev-add", options) < 0) {
        return false;
    }
    if (rig_hit(r)) {
        disk_doubt(&r->disk);
    }
    n = node_find_any(r->control->graph, root, NULL);
    if (!n || backend_co_new(n, "guest", PERM_CONSISTENT_READ | PERM_WRITE,
                             PERM_ALL, NULL, NULL, &r->backend, &err) < 0) {
        die(r, "the guest gets no disk: %s", err ? err->message : root);
    }
    return true;
}

bool rig_co_open(struct rig *r)
{
    return rig_co_open_as(r, images_options(r), "top");
}

void rig_co_close(struct rig *r)
{
    if (r->backend) {
        backend_co_free(r->backend);
        r->backend = NULL;
    }
    if (node_find(r->control->graph, "top", NULL)) {
        rig_co_command(r, "blockdev-del",
                       json_pack("{s:s}", "node-name", "top"));
    }
}

/* --- jobs --- */

/* Status of job "j"; *@ret_failed when it has ended badly. Owned. */
static CO_FN char *job_co_status(struct rig *r, bool *ret_failed)
{
    g_autoptr(GError) err = NULL;
    json_t *jobs = NULL;
    char *status = NULL;

    control_co_execute(r->control, "query-jobs", NULL, &jobs, &err);
    for (size_t i = 0; i < json_array_size(jobs); i++) {
        const json_t *j = json_array_get(jobs, i);

        if (!g_strcmp0(json_string_value(json_object_get(j, "id")), "j")) {
            status = g_strdup(json_string_value(json_object_get(j, "status")));
            *ret_failed = json_object_get(j, "error") != NULL;
        }
    }
    json_decref(jobs);
    return status;
}

int rig_co_job(struct rig *r)
{
    uint64_t end = loop_clock_ns(r->loop) + JOB_TIMEOUT_S * SEC;
    bool failed = false;

    for (;;) {
        g_autofree char *status = job_co_status(r, &failed);

        if (!status) {
            return -1;
        }
        if (!strcmp(status, "concluded")) {
            break;
        }
        if (!strcmp(status, "paused")) {
            rig_co_try(r, "job-resume", json_pack("{s:s}", "id", "j"));
        }
        if (loop_clock_ns(r->loop) > end) {
            die(r, "the job stays %s", status);
        }
        co_sleep(JOB_TICK_MS * MS);
    }
    rig_co_command(r, "job-dismiss", json_pack("{s:s}", "id", "j"));
    if (failed) {
        r->failed++;
        if (!rig_may_fail(r)) {
            die(r, "the job fails");
        }
    }
    return failed ? -1 : 0;
}

/* --- the guest --- */

static int next_value(struct rig *r)
{
    r->value = r->value + 1 < V_MAX ? r->value + 1 : V_GUEST;
    return r->value;
}

void guest_co_write(struct rig *r, unsigned first, unsigned n, unsigned flags)
{
    g_autofree uint8_t *buf = g_malloc((size_t)n * SECTOR);
    int value = next_value(r), ret;
    struct iovec v;

    if (!r->backend) {
        return;
    }
    disk_fill(buf, first, n, value);
    disk_begin(&r->disk, first, n, value);
    ret = backend_co_pwritev(r->backend, disk_offset(first),
                             iov_one(&v, buf, (size_t)n * SECTOR), flags);
    judge(r, "write", ret);
    disk_end(&r->disk, first, n, value, ret == 0, flags & IO_FUA);
}

void guest_co_zero(struct rig *r, unsigned first, unsigned n, unsigned flags)
{
    int ret;

    if (!r->backend) {
        return;
    }
    disk_begin(&r->disk, first, n, V_ZERO);
    ret = backend_co_zero(r->backend, disk_offset(first), (uint64_t)n * SECTOR,
                          flags);
    judge(r, "zero", ret);
    disk_end(&r->disk, first, n, V_ZERO, ret == 0, flags & IO_FUA);
}

void guest_co_trim(struct rig *r, unsigned first, unsigned n)
{
    if (!r->backend) {
        return;
    }
    disk_trimmed(&r->disk, first, n);
    judge(r, "trim",
          backend_co_discard(r->backend, disk_offset(first),
                             (uint64_t)n * SECTOR));
}

void guest_co_read(struct rig *r, unsigned first, unsigned n)
{
    g_autofree uint8_t *buf = g_malloc((size_t)n * SECTOR);
    g_autofree char *why = NULL;
    struct iovec v;
    int ret;

    if (!r->backend) {
        return;
    }
    ret = backend_co_preadv(r->backend, disk_offset(first),
                            iov_one(&v, buf, (size_t)n * SECTOR), 0);
    judge(r, "read", ret);
    why = ret == 0 ? disk_read(&r->disk, first, n, buf) : NULL;
    if (why) {
        die(r, "%s", why);
    }
}

/* G6: has a sync of this opening of the image failed? */
static bool sync_failed(struct rig *r)
{
    return (r->fault.op == SIM_FDATASYNC || r->fault.op == FORGET) &&
           !rig_harmless(r) && rig_hit(r) && r->fault.nth > r->at_open;
}

bool guest_co_flush(struct rig *r)
{
    int ret;

    if (!r->backend) {
        return false;
    }
    ret = backend_co_flush(r->backend);
    judge(r, "flush", ret);
    if (ret < 0 && r->fault.op != SIM_FDATASYNC && r->fault.op != FORGET &&
        !r->fault.sticky && r->flushes_failed++) {
        die(r, "a fault that is over fails a second flush");
    }
    if (ret == 0) {
        if (sync_failed(r)) {
            die(r, "a flush succeeds after one has failed");
        }
        disk_flushed(&r->disk);
    }
    header_check(r);
    return ret == 0;
}

void guest_co_status(struct rig *r)
{
    uint64_t off = 0;

    while (r->backend && off < DISK_BYTES) {
        struct extent ext;
        int ret = backend_co_status(r->backend, off, DISK_BYTES - off, &ext);

        judge(r, "status", ret);
        if (ret < 0) {
            return;
        }
        for (unsigned i = 0; i < SECTORS && ext.flags & STATUS_ZERO; i++) {
            uint64_t at = disk_offset(i);

            if (at >= off && at < off + ext.len && r->disk.s[i].live > V_ZERO) {
                die(r, "status says that sector %u is zero", i);
            }
        }
        off += ext.len;
    }
}

struct storm {
    struct rig *r;
    unsigned first, len;
    struct co_latch *left;
};

static CO_FN void storm_entry(void *arg)
{
    struct storm *s = arg;

    guest_co_write(s->r, s->first, s->len, 0);
    co_latch_done(s->left);
}

void guest_co_storm(struct rig *r, unsigned first, unsigned n, unsigned len)
{
    struct storm all[STORM_MAX];
    struct co_latch left = { 0 };

    g_assert(n <= STORM_MAX);
    for (unsigned i = 0; i < n; i++) {
        all[i] = (struct storm) { r, first + i * len, len, &left };
        co_latch_add(&left);
        co_start(r->loop, storm_entry, &all[i]);
    }
    co_latch_co_wait(&left);
}

/* --- what is left --- */

/* A raw data file holds what the image shows. */
static void raw_check(struct rig *r, uint64_t off, const uint8_t *buf,
                      size_t len)
{
    const struct sim_image *live = sim_live(r->sim);
    uint64_t id = sim_image_find(live, "/top.data");
    g_autofree uint8_t *raw = g_malloc0(len);

    if (r->kind->data_raw) {
        sim_image_read(live, id, off, raw, len);
        if (sim_image_size(live, id) < off + len || memcmp(raw, buf, len)) {
            die(r, "the raw data file holds something else at %" PRIu64, off);
        }
    }
}

static CO_FN void content_co_check(struct rig *r, struct node *n)
{
    uint8_t buf[AREA_SECTORS * SECTOR];

    if (n->size < r->size) {
        die(r, "the disk has %" PRIu64 " bytes, not %" PRIu64, n->size,
            r->size);
    }
    for (unsigned a = 0; a < AREAS; a++) {
        g_autofree char *why = NULL;
        uint64_t off = disk_offset(a * AREA_SECTORS);
        size_t have = off < n->size ? MIN(sizeof(buf), n->size - off) : 0;
        struct iovec v;
        int ret;

        memset(buf, 0, sizeof(buf));
        ret = have ? node_co_preadv(n, off, iov_one(&v, buf, have), 0) : 0;
        if (ret < 0) {
            die(r, "reading afterwards: %s", g_strerror(-ret));
        }
        raw_check(r, off, buf, have);
        why = disk_reopened(&r->disk, a * AREA_SECTORS,
                            (unsigned)(have / SECTOR), buf);
        if (why) {
            die(r, "afterwards %s", why);
        }
    }
}

static CO_FN struct node *top_co_open(struct rig *r, unsigned flags)
{
    const char *format, *path = images_top(r, &format);
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", format, "file",
                          "driver", "file", "filename", path);
    g_autoptr(GError) err = NULL;
    struct node *n;

    images_add_data(r->kind, "/top", o);
    if (node_co_open(r->control->graph, o, flags, &n, &err) < 0) {
        die(r, "the image does not open afterwards: %s", err->message);
    }
    json_decref(o);
    return n;
}

void rig_co_aftermath(struct rig *r)
{
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    struct node *n = top_co_open(r, NODE_CHECK);
    bool leans = node_header_backing(n, NULL);

    if (n->drv->co_check && node_co_check(n, 0, &res, &err) < 0) {
        die(r, "the check fails: %s", err->message);
    }
    if (res.corruptions || res.check_errors) {
        die(r, "the check finds %" PRIu64 " corruptions", res.corruptions);
    }
    node_co_unref(n);
    if (leans && r->independent) {
        die(r, "the base is named again");
    }
    if (!leans) {
        /* P2: then it may go. */
        io_co_unlink("/base");
        io_co_unlink("/mid");
    }
    n = top_co_open(r, NODE_RDWR);
    content_co_check(r, n);
    node_co_unref(n);
}

/* --- a run --- */

struct run {
    struct rig *r;
    CO_FN_PTR void (*co_fn)(struct rig *r);
};

static CO_FN void run_entry(void *arg)
{
    struct run *run = arg;
    struct rig *r = run->r;
    g_autoptr(GError) err = NULL;

    if (control_co_start(r->control, &err) < 0) {
        die(r, "%s", err->message);
    }
    control_co_ready(r->control);
    r->before = rig_calls(r);
    if (r->fault.op == MEMORY) {
        memory_inject(r->fault.nth, r->fault.sticky);
    } else if (r->fault.op == FORGET) {
        forget_inject(r->fault.nth);
    } else if (r->fault.op != SIM_OP_COUNT) {
        sim_inject(r->sim, &r->fault);
    }
    run->co_fn(r);
    if (r->backend) {
        backend_co_free(r->backend);
        r->backend = NULL;
    }
    control_co_stop(r->control);
    r->hit = rig_hit(r);
    sim_faults_clear(r->sim);
    memory_inject(0, false);
    forget_inject(0);
    loop_stop(r->loop);
}

void rig_run(struct rig *r, void (*fn)(struct rig *r),
             const struct sim_image *files, struct sim_image **ret_files)
{
    struct loop_options o = SIM_OPTIONS(1);
    struct control_params p = { 0 };
    struct run run = { r, fn };

    if (loop_new(&o, &r->loop, NULL) < 0) {
        die(r, "no loop");
    }
    r->sim = loop_sim(r->loop);
    sim_log_reset(r->sim, false);
    if (files) {
        sim_restore(r->sim, files);
    }
    p.loop = p.data = r->loop;
    r->control = control_new(&p);
    co_start(r->loop, run_entry, &run);
    loop_run(r->loop);
    if (co_count(r->loop)) {
        die(r, "%u coroutines are left", co_count(r->loop));
    }
    if (sim_open_files(r->sim)) {
        die(r, "%u files are left open", sim_open_files(r->sim));
    }
    control_free(r->control);
    if (ret_files) {
        *ret_files = sim_image_copy(sim_live(r->sim));
    }
    loop_free(r->loop);
}
