/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The destination runs on an overlay of the source's disk, which it fills.
 *
 *   SERVED    the source shows the disk read-only under the migration's name;
 *             the guest is off, nobody writes to it any more
 *   OPENED    the destination has the overlay open and serves it
 *   FILLING   its job runs
 *   RELEASED  the overlay has no base: what it holds is durable before its
 *             header says so; the source's export goes
 *
 * From OPENED on the guest may write at the destination, so the source is not
 * used again, whatever happens.
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

/* --- SERVED --- */

/* Show the disk at the source. The base as the destination knows it, owned;
 * NULL: it failed. Guests are not off yet. */
static char *show_source(struct migration *m, uint64_t *ret_size)
{
    json_t *disk = end_find_disk(m->source, m->device);
    json_t *image = json_object_get(disk, "image");
    g_autofree char *uri = NULL;

    if (!disk) {
        return NULL;
    }
    *ret_size = (uint64_t)json_integer_value(
        json_object_get(image, "virtual-size"));
    json_decref(disk);
    m->shown = !client_has(m->source, "query-block-exports", "id", m->id);
    uri = end_export(m->source, m->id, m->device, m->id, false);
    return uri ? address_of_link(m, uri) : NULL;
}

/* From here on nobody writes to the source's disk. */
static bool take_guest_off(struct migration *m)
{
    json_t *job = client_find(m->source, "query-block-jobs", "device",
                              m->device);

    if (job) {
        cli_error("job '%s' runs on the disk", m->device);
        json_decref(job);
        return false;
    }
    return hook_run_stop(m) &&
           users_take_off(m->source, m->device, m->id, m->force);
}

/* --- OPENED --- */

static json_t *base_options(const struct migration *m, const char *base)
{
    json_t *o = address_node(m, m->link_node, base);

    json_object_set_new(o, "read-only", json_true());
    if (m->link_error) {
        json_object_set_new(o, "on-base-hang", json_string("error"));
        json_object_set_new(o, "hang-timeout",
                            json_integer((json_int_t)m->link_delay));
    }
    return o;
}

static bool open_overlay(struct migration *m, const char *base)
{
    json_t *o = json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", m->format,
                          "node-name", m->image_node, "file", "driver", "file",
                          "filename", m->path);

    json_object_set_new(o, "backing", base_options(m, base));
    return client_run(m->target, "blockdev-add", o);
}

/* Is there room for this migration at the destination, or its own image? */
static bool may_use_target(struct migration *m, enum target_state state)
{
    if (state == TARGET_ALONE) {
        cli_error("'%s' is an image that needs no base", m->path);
        fprintf(stderr,
                "Where it is the one that this migration has filled, all is "
                "done: 'sluice add'\nserves it. Nothing was changed there.\n");
    }
    return state == TARGET_ABSENT || state == TARGET_BEGUN;
}

static bool name_is_free(struct migration *m)
{
    if (!client_has(m->target, "query-named-block-nodes", "node-name",
                    m->device) &&
        !client_has(m->target, "query-block-exports", "id", m->device)) {
        return true;
    }
    cli_error("the destination has a disk '%s' already", m->device);
    return false;
}

/* Look first, so that a guest is not taken off in vain. */
static bool guest_move(struct migration *m, const char *base, uint64_t size)
{
    enum target_state state = TARGET_OTHER;

    if (!name_is_free(m) || !may_use_target(m, state = target_look(m, base)) ||
        !target_reaches(m, base, size)) {
        if (m->shown) {
            end_unexport(m->source, m->id, true);
        }
        return false;
    }
    return take_guest_off(m) &&
           (state == TARGET_BEGUN ||
            end_create(m->target, m->path, m->format, size, base)) &&
           open_overlay(m, base);
}

static bool serve_overlay(struct migration *m, bool has_base)
{
    const char *node = has_base ? m->device : m->image_node;
    char *uri;

    if (has_base &&
        !client_has(m->target, "query-named-block-nodes", "node-name", node) &&
        !client_run(m->target, "blockdev-add",
                    json_pack("{s:s, s:s, s:s}", "driver", "copy-on-read",
                              "node-name", node, "file", m->image_node))) {
        return false;
    }
    if (client_has(m->target, "query-block-exports", "id", m->device)) {
        return true; /* the guest is there */
    }
    uri = end_export(m->target, m->device, node, m->device, true);
    bool ok = uri && hook_run_start(m, uri);
    g_free(uri);
    return ok;
}

/* The overlay as the destination has it open; NULL: not at all. Owned. */
static json_t *find_overlay(struct migration *m)
{
    return client_find(m->target, "query-named-block-nodes", "node-name",
                       m->image_node);
}

/* --- FILLING --- */

static bool start_fill(struct migration *m)
{
    json_t *job = client_find(m->target, "query-block-jobs", "device", m->id);
    json_t *args;
    bool ok = true;

    if (job) {
        if (json_is_true(json_object_get(job, "paused"))) {
            ok = client_run(m->target, "block-job-resume",
                            json_pack("{s:s}", "device", m->id));
        }
        json_decref(job);
        return ok;
    }
    args = json_pack("{s:s, s:s, s:s, s:I}", "device", m->device, "job-id",
                     m->id, "on-error", "stop", "speed", (json_int_t)m->speed);
    json_object_update(args, m->limits);
    return client_run(m->target, "block-stream", args);
}

static int follow_fill(struct migration *m)
{
    const char *ids[] = { m->id, NULL };
    const struct follow_options o = {
        .what = "moving",
        .socket = m->target_socket,
        .again = m->again,
        .retry_s = 1, /* a broken link comes back */
    };

    return start_fill(m) ? follow_jobs(m->target, ids, &o) : FOLLOW_FAILED;
}

/* --- all of it --- */

static bool has_base(const json_t *overlay)
{
    return json_object_get(overlay, "backing_file") != NULL;
}

/* The destination has the overlay open: serve what is not served. */
static bool go_on(struct migration *m, const json_t *overlay)
{
    uint64_t size;
    char *base;
    bool ok = serve_overlay(m, has_base(overlay));

    /* A source that was started anew has to show the disk again. */
    if (ok && has_base(overlay) &&
        !client_has(m->source, "query-block-exports", "id", m->id)) {
        base = show_source(m, &size);
        ok = base && take_guest_off(m);
        g_free(base);
    }
    return ok;
}

static bool begin(struct migration *m)
{
    json_t *overlay = find_overlay(m);
    uint64_t size = 0;
    char *base;
    bool ok;

    if (overlay) {
        ok = go_on(m, overlay);
        json_decref(overlay);
        return ok;
    }
    base = show_source(m, &size);
    ok = base && guest_move(m, base, size) && serve_overlay(m, true);
    g_free(base);
    return ok;
}

int migrate_postcopy(struct migration *m)
{
    json_t *overlay;
    int status;

    if (!begin(m)) {
        return FOLLOW_FAILED;
    }
    overlay = find_overlay(m);
    status = has_base(overlay) ? follow_fill(m) : FOLLOW_COMPLETED;
    json_decref(overlay);
    if (status == FOLLOW_COMPLETED && !end_unexport(m->source, m->id, true)) {
        status = FOLLOW_FAILED;
    }
    if (status == FOLLOW_COMPLETED) {
        printf("'%s' has moved; the source's disk is not used any more\n",
               m->device);
    }
    return status;
}
