/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/migrate/end.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/migrate/migrate.h"
#include "sluice/sluice.h"

#define JOB "migrate-create"

json_t *end_find_disk(struct sluice_conn *conn, const char *name)
{
    json_t *device = client_find(conn, "query-block", "device", name);
    json_t *disk;

    if (device) {
        disk = json_incref(json_object_get(device, "inserted"));
        json_decref(device);
    } else {
        disk = client_find(conn, "query-named-block-nodes", "node-name", name);
    }
    if (!disk) {
        cli_error("there is no disk '%s' at the source", name);
        (void)client_hint_device(conn, name);
    }
    return disk;
}

/* --- exports --- */

char *end_export(struct sluice_conn *conn, const char *id, const char *node,
                 const char *name, bool writable)
{
    json_t *entry;
    char *uri;

    if (!client_has(conn, "query-block-exports", "id", id) &&
        !client_run(conn, "block-export-add",
                    json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id",
                              id, "node-name", node, "name", name, "writable",
                              writable))) {
        return NULL;
    }
    entry = client_find(conn, "query-nbd-exports", "id", id);
    uri = g_strdup(client_text(entry, "uri"));
    json_decref(entry);
    if (!uri) {
        cli_error("export '%s' has no address: no NBD server runs", id);
    }
    return uri;
}

bool end_unexport(struct sluice_conn *conn, const char *id, bool force)
{
    if (!client_has(conn, "query-block-exports", "id", id)) {
        return true;
    }
    if (!client_run(conn, "block-export-del",
                    json_pack("{s:s, s:s}", "id", id, "mode",
                              force ? "hard" : "safe"))) {
        fprintf(stderr, "The guest must not use the disk at the source any "
                        "more. --force cuts it off.\n");
        return false;
    }
    return client_wait_export_gone(conn, id);
}

/* --- the image at the destination --- */

/* Run blockdev-create with @options, which it takes, to its end. */
static bool create_image(struct sluice_conn *conn, json_t *options)
{
    json_t *job = NULL;
    const char *status;
    bool ok = client_run(
        conn, "blockdev-create",
        json_pack("{s:s, s:o}", "job-id", JOB, "options", options));

    while (ok) {
        json_decref(job);
        job = client_find(conn, "query-jobs", "id", JOB);
        status = client_text(job, "status");
        if (!status || strcmp(status, "concluded") == 0) {
            break;
        }
        ok = client_wait_a_little(conn);
    }
    if (ok && (!job || client_text(job, "error"))) {
        cli_error("%s",
                  job ? client_text(job, "error") : "the daemon went away");
        ok = false;
    }
    json_decref(job);
    return client_run(conn, "job-dismiss", json_pack("{s:s}", "id", JOB)) && ok;
}

bool end_create(struct sluice_conn *conn, const char *path, const char *format,
                uint64_t size, const char *base)
{
    json_t *options;

    if (strcmp(format, "raw") == 0) {
        return create_image(conn, json_pack("{s:s, s:s, s:I}", "driver", "file",
                                            "filename", path, "size",
                                            (json_int_t)size));
    }
    if (!create_image(conn, json_pack("{s:s, s:s, s:i}", "driver", "file",
                                      "filename", path, "size", 0))) {
        return false;
    }
    options = json_pack("{s:s, s:{s:s, s:s}, s:I}", "driver", format, "file",
                        "driver", "file", "filename", path, "size",
                        (json_int_t)size);
    if (base) {
        json_object_set_new(options, "backing-file", json_string(base));
        json_object_set_new(options, "backing-fmt", json_string("raw"));
    }
    return create_image(conn, options);
}
