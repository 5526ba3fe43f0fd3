/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is done to the images.  A scenario opens the disk itself, may be cut
 * short by the fault, and can be run again on what it left.
 */
#include <errno.h>
#include <string.h>
#include "control/control-int.h"
#include "fault.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "loop/co.h"
#include "loop/io.h"

/* --- the guest alone --- */

static CO_FN void write_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 8, 0);
    guest_co_write(r, 11, 2, 0);
    guest_co_flush(r);
    guest_co_write(r, 30, 20, 0);
    guest_co_write(r, 130, 1, 0);
    guest_co_read(r, 0, 64);
    guest_co_flush(r);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void overwrite_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 16, 0);
    guest_co_flush(r);
    guest_co_write(r, 0, 16, 0);
    guest_co_write(r, 3, 2, 0);
    guest_co_flush(r);
    guest_co_read(r, 0, 16);
    rig_co_close(r);
}

static CO_FN void fua_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 8, IO_FUA);
    guest_co_write(r, 3, 1, IO_FUA);
    guest_co_write(r, 140, 3, IO_FUA);
    guest_co_zero(r, 16, 8, IO_FUA);
    guest_co_read(r, 0, 32);
    rig_co_close(r);
}

static CO_FN void zero_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 24, 0);
    guest_co_zero(r, 0, 8, IO_MAY_UNMAP);
    guest_co_zero(r, 10, 3, IO_MAY_UNMAP);
    guest_co_zero(r, 32, 16, 0);
    guest_co_flush(r);
    guest_co_write(r, 0, 4, 0);
    guest_co_zero(r, 256, 128, IO_MAY_UNMAP);
    guest_co_read(r, 0, 64);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void trim_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 32, 0);
    guest_co_flush(r);
    guest_co_trim(r, 0, 16);
    guest_co_trim(r, 20, 3);
    guest_co_trim(r, 64, 16);
    guest_co_read(r, 0, 96);
    guest_co_flush(r);
    guest_co_write(r, 4, 2, 0);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void read_run(struct rig *r)
{
    rig_co_open(r);
    for (unsigned i = 0; i < SECTORS; i += 64) {
        guest_co_read(r, i, 64);
    }
    guest_co_status(r);
    guest_co_read(r, 5, 1);
    rig_co_close(r);
}

static CO_FN void storm_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_storm(r, 0, 12, 9);
    guest_co_flush(r);
    guest_co_storm(r, 128, 12, 8);
    guest_co_storm(r, 4, 12, 10);
    guest_co_read(r, 0, 128);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void tables_run(struct rig *r)
{
    rig_co_open(r);
    for (unsigned a = 0; a < AREAS; a++) {
        guest_co_write(r, a * AREA_SECTORS, 8, 0);
    }
    guest_co_flush(r);
    for (unsigned a = 0; a < AREAS; a++) {
        guest_co_write(r, a * AREA_SECTORS + 64, 8, IO_FUA);
        guest_co_write(r, a * AREA_SECTORS + 8, 4, 0);
    }
    guest_co_read(r, 0, 16);
    guest_co_flush(r);
    rig_co_close(r);
}

/* --- commit groups --- */

static CO_FN void age_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 8, 0);
    co_sleep(1500 * MS);
    guest_co_write(r, 130, 8, 0);
    guest_co_write(r, 16, 8, 0);
    co_sleep(1500 * MS);
    guest_co_flush(r);
    guest_co_read(r, 0, 24);
    co_sleep(7 * SEC);
    header_check(r);
    guest_co_write(r, 260, 8, 0);
    rig_co_close(r);
}

static CO_FN void close_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 12, 0);
    guest_co_write(r, 300, 12, 0);
    guest_co_zero(r, 64, 16, IO_MAY_UNMAP);
    rig_co_close(r);
    rig_co_open(r);
    guest_co_read(r, 0, 64);
    rig_co_close(r);
}

static CO_FN void reopen_run(struct rig *r)
{
    for (unsigned i = 0; i < 3; i++) {
        rig_co_open(r);
        guest_co_write(r, i * 16, 8, 0);
        guest_co_flush(r);
        rig_co_close(r);
    }
}

/* The files as a killed process leaves them; the next open repairs. */
static CO_FN void killed_run(struct rig *r)
{
    struct sim_image *left;
    bool was_open = rig_co_open(r);

    guest_co_write(r, 0, 8, 0);
    guest_co_write(r, 300, 8, 0);
    co_sleep(1500 * MS);
    guest_co_write(r, 64, 8, 0);
    left = sim_image_copy(sim_live(r->sim));
    rig_co_close(r);
    if (was_open) {
        sim_restore(r->sim, left);
        disk_doubt(&r->disk);
    }
    sim_image_free(left);
    rig_co_open(r);
    guest_co_write(r, 16, 8, 0);
    guest_co_flush(r);
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static json_t *reopen_args(struct rig *r, bool read_only)
{
    json_t *o = images_options(r);

    json_object_set_new(o, "read-only", json_boolean(read_only));
    return json_pack("{s:[o]}", "options", o);
}

static CO_FN void change_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 0, 8, 0);
    if (r->backend) {
        backend_co_free(r->backend);
        r->backend = NULL;
        rig_co_command(r, "blockdev-reopen", reopen_args(r, true));
        rig_co_command(r, "blockdev-reopen", reopen_args(r, false));
    }
    rig_co_close(r);
    rig_co_open(r);
    guest_co_read(r, 0, 64);
    rig_co_close(r);
}

/* --- populating --- */

static CO_FN void filter_co_add(struct rig *r, const char *driver)
{
    json_t *o = images_options(r);

    rig_co_open_as(r,
                   json_pack("{s:s,s:s,s:o}", "driver", driver, "node-name",
                             "filter", "file", o),
                   "filter");
}

static CO_FN void filter_co_del(struct rig *r)
{
    if (r->backend) {
        backend_co_free(r->backend);
        r->backend = NULL;
        rig_co_command(r, "blockdev-del",
                       json_pack("{s:s}", "node-name", "filter"));
    }
}

static CO_FN void cor_run(struct rig *r)
{
    filter_co_add(r, "copy-on-read");
    guest_co_read(r, 0, 20);
    guest_co_write(r, 16, 2, 0);
    guest_co_read(r, 130, 3);
    guest_co_read(r, 14, 20);
    guest_co_flush(r);
    guest_co_read(r, 0, 64);
    filter_co_del(r);
}

static json_t *stream_args(const char *key, const char *value)
{
    return json_pack("{s:s,s:s,s:b,s:s*}", "job-id", "j", "device", "top",
                     "auto-dismiss", 0, key, value);
}

/* Stream to the end of the chain. */
static CO_FN void stream_co(struct rig *r, const char *policy)
{
    if (r->backend &&
        rig_co_command(r, "block-stream", stream_args("on-error", policy)) ==
            0 &&
        rig_co_job(r) == 0) {
        r->independent = r->independent || strcmp(policy, "ignore");
    }
}

static CO_FN void stream_run(struct rig *r)
{
    rig_co_open(r);
    stream_co(r, "report");
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static CO_FN void stream_stop_run(struct rig *r)
{
    /* A disk that is broken for good stops again whenever it is resumed. */
    rig_co_open(r);
    stream_co(r, r->fault.sticky && !r->strict ? "report" : "stop");
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static CO_FN void stream_ignore_run(struct rig *r)
{
    rig_co_open(r);
    /* Lack of space that lasts is waited for, by this policy too. */
    stream_co(r, r->fault.sticky && !r->strict ? "report" : "ignore");
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static CO_FN void stream_guest_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 2, 4, 0);
    if (r->backend && rig_co_command(r, "block-stream",
                                     stream_args("on-error", "report")) == 0) {
        guest_co_write(r, 20, 9, 0);
        guest_co_zero(r, 40, 10, IO_MAY_UNMAP);
        guest_co_flush(r);
        guest_co_write(r, 270, 9, IO_FUA);
        r->independent |= rig_co_job(r) == 0;
    }
    guest_co_write(r, 100, 9, 0);
    guest_co_flush(r);
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static CO_FN void stream_base_run(struct rig *r)
{
    rig_co_open(r);
    if (r->backend &&
        rig_co_try(r, "block-stream", stream_args("base-node", "base")) == 0) {
        rig_co_job(r);
    }
    guest_co_write(r, 50, 9, 0);
    guest_co_read(r, 0, 128);
    rig_co_close(r);
}

static CO_FN void stream_cancel_run(struct rig *r)
{
    json_t *args = stream_args("on-error", "report");

    json_object_set_new(args, "speed", json_integer(64 << 10));
    rig_co_open(r);
    if (r->backend && rig_co_command(r, "block-stream", args) == 0) {
        co_sleep(700 * MS);
        rig_co_try(r, "job-cancel", json_pack("{s:s}", "id", "j"));
        co_sleep(200 * MS);
        rig_co_try(r, "job-dismiss", json_pack("{s:s}", "id", "j"));
    } else if (!r->backend) {
        json_decref(args);
    }
    guest_co_flush(r);
    stream_co(r, "report");
    rig_co_close(r);
}

/* The old command: one increment at a time. */
static CO_FN void stream_steps_run(struct rig *r)
{
    rig_co_open(r);
    for (unsigned i = 0; i < 40 && r->backend; i++) {
        if (rig_co_try(r, "block_stream",
                       json_pack("{s:s,s:b}", "device", "top", "all", 0)) < 0) {
            break;
        }
    }
    guest_co_read(r, 0, 128);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void drive_run(struct rig *r)
{
    const char *format, *path = images_top(r, &format);
    json_t *o = json_pack("{s:s,s:s,s:s,s:s,s:s}", "id", "d", "file", path,
                          "format", format, "copy-on-read", "on", "stream",
                          r->kind->base ? "on" : "off");
    g_autoptr(GError) err = NULL;
    int ret;

    images_add_data(r->kind, "/top", o);
    ret = control_co_add_drive(r->control, o, &err);
    json_decref(o);
    if (ret < 0) {
        if (!rig_may_fail(r)) {
            die(r, "drive: %s", err->message);
        }
        return;
    }
    rig_co_open_as(r, NULL, "d");
    guest_co_read(r, 0, 32);
    guest_co_write(r, 16, 2, 0);
    guest_co_flush(r);
    co_sleep(3 * SEC);
    guest_co_read(r, 0, 64);
}

/* --- images --- */

static CO_FN void resize_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 300, 8, 0);
    if (r->backend) {
        rig_co_command(r, "block_resize",
                       json_pack("{s:s,s:i}", "node-name", "top", "size",
                                 DISK_BYTES + (r->strict ? 8 : 5) * 4096));
        /* The same work once more finds the image larger. */
    }
    guest_co_write(r, 310, 9, 0);
    guest_co_flush(r);
    guest_co_read(r, 256, 128);
    rig_co_close(r);
}

static CO_FN int disk_co_resize(struct rig *r, uint64_t size)
{
    return rig_co_try(
        r, "block_resize",
        json_pack("{s:s,s:I}", "node-name", "top", "size", (json_int_t)size));
}

/* The last area goes and comes back as zeroes; where the disk cannot shrink, or
 * has failed to, it stays and is written to. */
static CO_FN void shrink_run(struct rig *r)
{
    const unsigned last = (AREAS - 1) * AREA_SECTORS;

    rig_co_open(r);
    if (r->backend && disk_co_resize(r, DISK_BYTES) == 0) {
        guest_co_write(r, last, 8, 0);
        guest_co_flush(r);
        disk_trimmed(&r->disk, last, AREA_SECTORS);
        if (r->kind->base) { /* what is given up shows it, if the size stays */
            disk_begin(&r->disk, last, AREA_SECTORS, V_BASE);
        }
        if (disk_co_resize(r, disk_offset(last)) == 0) {
            r->size = 0;
            disk_co_resize(r, DISK_BYTES);
        }
    }
    guest_co_write(r, 0, 8, 0);
    if (r->backend &&
        node_find(r->control->graph, "top", NULL)->size >= DISK_BYTES) {
        guest_co_write(r, last + 8, 8, 0);
        if (guest_co_flush(r)) {
            r->size = DISK_BYTES;
        }
        guest_co_read(r, last, 32);
    }
    rig_co_close(r);
}

/* What a killed process leaves says nothing of a disk that has changed: a bitmap
 * that records, and one that does not, of a disk of another size. */
static CO_FN void bitmap_run(struct rig *r)
{
    bool was_open = rig_co_open(r);
    struct sim_image *left;
    uint64_t size;

    guest_co_write(r, 0, 8, 0);
    guest_co_write(r, 0, 8, 0);
    guest_co_flush(r);
    size = was_open ? node_find(r->control->graph, "top", NULL)->size : 0;
    if (r->backend &&
        (disk_co_resize(r, size + 8 * 4096) == 0 ||
         disk_co_resize(r, size + 8 * 4096) == 0) &&
        header_bitmap_counts(r)) {
        die(r, "a bitmap of the disk as it was before counts");
    }
    guest_co_flush(r);
    left = sim_image_copy(sim_live(r->sim));
    rig_co_close(r);
    if (was_open) {
        sim_restore(r->sim, left);
        disk_doubt(&r->disk);
    }
    sim_image_free(left);
    rig_co_open(r);
    guest_co_write(r, 16, 8, 0);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void create_run(struct rig *r)
{
    g_autoptr(GError) err = NULL;
    int ret = images_co_create(r->control, r->kind, "/new", &err);
    json_t *o;

    if (ret < 0 && !rig_may_fail(r)) {
        die(r, "creation: %s", err ? err->message : "?");
    }
    if (ret < 0 && sim_image_find(sim_live(r->sim), "/new") &&
        r->fault.op != SIM_UNLINK && !r->fault.sticky) {
        die(r, "a failed creation leaves a file");
    }
    if (ret < 0 && sim_image_find(sim_live(r->sim), "/new.data") &&
        r->fault.op != SIM_UNLINK && r->fault.op != SIM_FSYNC_DIR &&
        !r->fault.sticky) {
        die(r, "a failed creation leaves a data file");
    }
    if (ret < 0) {
        return;
    }
    o = json_pack("{s:s,s:s,s:{s:s,s:s}}", "driver", r->kind->format,
                  "node-name", "new", "file", "driver", "file", "filename",
                  "/new");
    images_add_data(r->kind, "/new", o);
    if (rig_co_try(r, "blockdev-add", o) < 0 && r->strict) {
        die(r, "what was created does not open");
    }
}

static CO_FN void check_run(struct rig *r)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", r->kind->format,
                          "file", "driver", "file", "filename", "/top");
    struct check_result res = { 0 };
    g_autoptr(GError) err = NULL;
    struct node *n;
    int ret;

    rig_co_open(r);
    guest_co_write(r, 0, 9, 0);
    guest_co_write(r, 140, 9, 0);
    guest_co_flush(r);
    rig_co_close(r);
    images_add_data(r->kind, "/top", o);
    ret = node_co_open(r->control->graph, o, NODE_CHECK | NODE_RDWR, &n, &err);
    json_decref(o);
    if (ret == 0 && !n->drv->co_check) {
        node_co_unref(n);
    } else if (ret == 0) {
        ret = node_co_check(n, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, &res, &err);
        node_co_unref(n);
    }
    if (ret < 0 && !rig_may_fail(r)) {
        die(r, "check: %s", err ? err->message : "?");
    }
    if (ret == 0 && !rig_hit(r) && res.corruptions) {
        die(r, "the check finds what is not there");
    }
}

static CO_FN void rebase_run(struct rig *r)
{
    rig_co_open(r);
    guest_co_write(r, 3, 9, 0);
    if (r->backend && r->kind->base) {
        rig_co_command(r, "change-backing-file",
                       json_pack("{s:s,s:s,s:s}", "device", "top",
                                 "image-node-name", "top", "backing-file",
                                 r->kind->mid ? "/mid" : "/base"));
    }
    guest_co_read(r, 0, 64);
    guest_co_write(r, 40, 9, 0);
    guest_co_flush(r);
    rig_co_close(r);
}

static CO_FN void export_run(struct rig *r)
{
    json_t *o = json_pack("{s:s,s:s,s:s,s:b}", "type", "nbd", "id", "e",
                          "node-name", "top", "writable", 1);

    rig_co_open(r);
    if (r->backend) {
        rig_co_try(r, "block-export-add", o);
    } else {
        json_decref(o);
    }
    guest_co_write(r, 8, 8, 0);
    guest_co_flush(r);
    rig_co_try(r, "block-export-del", json_pack("{s:s}", "id", "e"));
    rig_co_close(r);
}

const struct scenario scenarios[] = {
    { "write", write_run, 0 },
    { "overwrite", overwrite_run, 0 },
    { "fua", fua_run, 0 },
    { "zero", zero_run, 0 },
    { "trim", trim_run, 0 },
    { "read", read_run, 0 },
    { "storm", storm_run, 0 },
    { "tables", tables_run, 0 },
    { "age", age_run, 0 },
    { "close", close_run, 0 },
    { "reopen", reopen_run, 0 },
    { "killed", killed_run, 0 },
    { "change", change_run, 0 },
    { "copy-on-read", cor_run, NEEDS_BASE },
    { "stream", stream_run, NEEDS_BASE },
    { "stream-stop", stream_stop_run, NEEDS_BASE },
    { "stream-ignore", stream_ignore_run, NEEDS_BASE },
    { "stream-guest", stream_guest_run, NEEDS_BASE },
    { "stream-base", stream_base_run, NEEDS_MID },
    { "stream-cancel", stream_cancel_run, NEEDS_BASE },
    { "stream-steps", stream_steps_run, NEEDS_BASE },
    { "drive", drive_run, 0 },
    { "resize", resize_run, 0 },
    { "shrink", shrink_run, 0 },
    { "bitmap", bitmap_run, NEEDS_BITMAPS },
    { "create", create_run, NEEDS_FORMAT },
    { "check", check_run, NEEDS_FORMAT },
    { "rebase", rebase_run, NEEDS_BASE },
    { "export", export_run, 0 },
};
const unsigned n_scenarios = G_N_ELEMENTS(scenarios);
