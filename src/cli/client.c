/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Following a job polls its progress and listens for the events that end it:
 * the events carry the verdict, the polling only draws.
 */
#include "cli/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

#define DEFAULT_SOCKET "/run/sluice/control.sock"
#define POLL_MS 200

enum { FOLLOW_COMPLETED = 0, FOLLOW_FAILED = 1, FOLLOW_CANCELLED = 3 };

struct sluice_conn *client_connect(const char *path)
{
    struct sluice_conn *conn = NULL;
    char *error = NULL;

    if (!path) {
        path = g_getenv("SLUICE_SOCKET");
    }
    if (sluice_connect(path ? path : DEFAULT_SOCKET, &conn, &error) < 0) {
        cli_error("%s", error);
        if (!path) {
            fprintf(stderr, "Name the control socket with --socket or in "
                            "SLUICE_SOCKET.\n");
        }
        sluice_free(error);
    }
    return conn;
}

json_t *client_execute(struct sluice_conn *conn, const char *command,
                       json_t *args)
{
    char *text = args ? json_dumps(args, 0) : NULL;
    char *reply = NULL, *error = NULL;
    json_t *value = NULL;

    json_decref(args);
    if (sluice_execute(conn, command, text, &reply, &error) < 0) {
        cli_error("%s", error);
    } else {
        value = json_loads(reply, JSON_DECODE_ANY, NULL);
    }
    free(text);
    sluice_free(reply);
    sluice_free(error);
    return value;
}

json_t *client_find_job(struct sluice_conn *conn, const char *command,
                        const char *id)
{
    const char *key = strcmp(command, "query-jobs") ? "device" : "id";
    json_t *list = client_execute(conn, command, NULL);
    json_t *entry, *found = NULL;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *name = json_string_value(json_object_get(entry, key));
        if (name && strcmp(name, id) == 0) {
            found = json_incref(entry);
        }
    }
    json_decref(list);
    return found;
}

/* Look at one event: -1 = goes on, else the exit status. */
static int event_verdict(const json_t *event, const char *id, bool as_json)
{
    const json_t *data = json_object_get(event, "data");
    const char *name = json_string_value(json_object_get(event, "event"));
    const char *dev = json_string_value(json_object_get(data, "device"));
    const char *error = json_string_value(json_object_get(data, "error"));

    if (!name || !dev || strcmp(dev, id) != 0) {
        return -1;
    }
    if (as_json) {
        char *text = json_dumps(event, JSON_COMPACT);
        puts(text);
        fflush(stdout);
        free(text);
    }
    if (strcmp(name, "BLOCK_JOB_CANCELLED") == 0) {
        return FOLLOW_CANCELLED;
    }
    if (strcmp(name, "BLOCK_JOB_COMPLETED") != 0) {
        return -1;
    }
    if (error) {
        cli_error("job '%s' failed: %s", id, error);
        return FOLLOW_FAILED;
    }
    return FOLLOW_COMPLETED;
}

/* Draw; false when the job is no longer there to be drawn. */
static bool draw_progress(struct sluice_conn *conn, const char *id,
                          struct progress *p)
{
    json_t *job = client_find_job(conn, "query-block-jobs", id);

    if (!job) {
        return false;
    }
    json_int_t done = json_integer_value(json_object_get(job, "offset"));
    json_int_t total = json_integer_value(json_object_get(job, "len"));
    progress_update(p, (uint64_t)done, (uint64_t)total);
    json_decref(job);
    return true;
}

int client_follow_job(struct sluice_conn *conn, const char *id, bool as_json)
{
    g_autofree char *what = g_strdup_printf("pulling %s", id);
    struct progress *p = as_json ? NULL : progress_new(what, false);
    bool gone = false;
    int status = -1;

    while (status < 0) {
        char *text;
        int r = sluice_wait_event(conn, gone ? 0 : POLL_MS, &text);
        if (r < 0) {
            cli_error("the daemon went away");
            status = FOLLOW_FAILED;
        } else if (r > 0) {
            json_t *event = json_loads(text, 0, NULL);
            status = event_verdict(event, id, as_json);
            json_decref(event);
            sluice_free(text);
        } else if (gone) {
            cli_error("job '%s' is gone; how it ended is not known", id);
            status = FOLLOW_FAILED;
        } else {
            gone = !draw_progress(conn, id, p);
        }
    }
    if (status == FOLLOW_COMPLETED) {
        progress_update(p, 1, 1);
    }
    progress_free(p);
    return status;
}
