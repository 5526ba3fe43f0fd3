/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The source copies the disk to the destination while its guest runs.
 *
 *   OPENED    the destination serves the new image under the migration's name,
 *             to the source alone
 *   MIRRORED  the source's job follows the guest; once it is ready every write
 *             is at both hosts before it is answered
 *   HANDED    the guest is stopped, its export is gone, the job has ended with
 *             everything durable at the destination
 *   SERVED    the destination serves the image as the disk
 *
 * Until HANDED the source is the disk; what is cut off before begins anew.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/migrate/address.h"
#include "cli/migrate/end.h"
#include "cli/migrate/hook.h"
#include "cli/migrate/migrate.h"
#include "cli/migrate/target.h"
#include "cli/migrate/users.h"

struct precopy {
    struct migration *m;
    bool handed; /* the guest is off, the job was told to end */
    bool failed; /* told */
};

static bool has_node(struct sluice_conn *conn, const char *name)
{
    return client_has(conn, "query-named-block-nodes", "node-name", name);
}

/* --- OPENED --- */

static bool precopy_open_image(struct migration *m)
{
    return client_run(m->target, "blockdev-add",
                      json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", m->format,
                                "node-name", m->image_node, "file", "driver",
                                "file", "filename", m->path));
}

static bool prepare_image(struct migration *m, uint64_t size)
{
    if (has_node(m->target, m->image_node)) {
        if (client_has(m->target, "query-block-exports", "id", m->id)) {
            return true; /* of an attempt that was cut off */
        }
        cli_error("the destination has a disk '%s'", m->device);
        fprintf(stderr, "'sluice remove' takes it away there.\n");
        return false;
    }
    if (target_look(m, NULL) != TARGET_ABSENT) {
        cli_error("'%s' is there already", m->path);
        fprintf(stderr, "What it holds would be lost. Remove it, or name "
                        "another file.\n");
        return false;
    }
    return end_create(m->target, m->path, m->format, size, NULL) &&
           precopy_open_image(m);
}

/* The address of the new image for the source; owned. */
static char *serve_image(struct migration *m, uint64_t size)
{
    char *uri, *link;

    if (!prepare_image(m, size)) {
        return NULL;
    }
    uri = end_export(m->target, m->id, m->image_node, m->id, true);
    link = uri ? address_of_link(m, uri) : NULL;
    g_free(uri);
    return link;
}

/* --- MIRRORED --- */

static bool close_link(struct migration *m)
{
    return !has_node(m->source, m->link_node) ||
           client_run(m->source, "blockdev-del",
                      json_pack("{s:s}", "node-name", m->link_node));
}

/* The connection is the job's: without it, one that is there is of an attempt
 * that failed, and may have lost writes. */
static bool open_link(struct migration *m, const char *link)
{
    return client_has(m->source, "query-block-jobs", "device", m->id) ||
           (close_link(m) && client_run(m->source, "blockdev-add",
                                        address_node(m, m->link_node, link)));
}

static bool start_mirror(struct migration *m)
{
    json_t *args;

    if (client_has(m->source, "query-block-jobs", "device", m->id)) {
        return true;
    }
    args = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I}", "device",
                     m->device, "job-id", m->id, "target", m->link_node, "sync",
                     "full", "copy-mode", "write-blocking", "on-source-error",
                     "report", "on-target-error", "report", "speed",
                     (json_int_t)m->speed);
    json_object_update(args, m->limits);
    return client_run(m->source, "blockdev-mirror", args);
}

/* The guest goes; the job ends with both disks equal. */
static bool hand_over(struct precopy *p)
{
    struct migration *m = p->m;

    p->handed = hook_run_stop(m) &&
                users_take_off(m->source, m->device, NULL, m->force) &&
                client_run(m->source, "block-job-cancel",
                           json_pack("{s:s}", "device", m->id));
    return p->handed;
}

static void precopy_on_event(struct sluice_conn *conn, const char *name,
                             const json_t *data, void *arg)
{
    struct precopy *p = arg;

    if (strcmp(name, "BLOCK_JOB_READY") == 0 && !p->handed && !hand_over(p)) {
        p->failed = true;
        client_run(conn, "block-job-cancel",
                   json_pack("{s:s, s:b}", "device", p->m->id, "force", 1));
    }
}

static int follow_mirror(struct precopy *p)
{
    const char *ids[] = { p->m->id, NULL };
    const struct follow_options o = {
        .what = "moving",
        .socket = p->m->source_socket,
        .on_event = precopy_on_event,
        .arg = p,
    };
    int status = follow_jobs(p->m->source, ids, &o);

    if (status == FOLLOW_FAILED) {
        fprintf(stderr,
                "The disk is still at the source; '%s' copies it "
                "again.\n",
                p->m->again);
    }
    return status == FOLLOW_COMPLETED && !p->handed ? FOLLOW_FAILED : status;
}

/* --- all of it --- */

/* In this order: an image that is served under the disk's name is never copied
 * to again. */
static bool serve_disk(struct migration *m)
{
    char *uri = end_export(m->target, m->device, m->image_node, m->device,
                           true);
    bool ok = uri && end_unexport(m->target, m->id, true) &&
              hook_run_start(m, uri);

    g_free(uri);
    return ok;
}

static int told_moved(const struct migration *m)
{
    printf("'%s' has moved; the source's disk is not used any more\n",
           m->device);
    return FOLLOW_COMPLETED;
}

/* The copy is whole: the link goes, the destination serves. */
static int precopy_finish(struct migration *m)
{
    return close_link(m) && serve_disk(m) ? told_moved(m) : FOLLOW_FAILED;
}

int migrate_precopy(struct migration *m)
{
    struct precopy p = { .m = m };
    json_t *disk = end_find_disk(m->source, m->device);
    uint64_t size = (uint64_t)json_integer_value(
        json_object_get(json_object_get(disk, "image"), "virtual-size"));
    g_autofree char *link = NULL;
    int status;

    json_decref(disk);
    if (disk && client_has(m->target, "query-block-exports", "id", m->device)) {
        return precopy_finish(m);
    }
    if (!disk || !(link = serve_image(m, size)) || !open_link(m, link) ||
        !start_mirror(m)) {
        return FOLLOW_FAILED;
    }
    status = follow_mirror(&p);
    return status == FOLLOW_COMPLETED ? precopy_finish(m) : status;
}
