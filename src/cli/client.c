/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Talking to a running daemon; see client.h. */
#include "cli/client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/suggest.h"
#include "base/text.h"
#include "cli/cli.h"

#define POLL_MS 100
#define DEFAULT_SOCKET "/run/sluice/control.sock"

/* What to do about a connection that failed with @r. */
static void hint_connect(int r, bool is_named)
{
    if (r == -ENOENT && is_named) {
        fprintf(stderr, "A daemon makes it when it starts: 'sluice serve "
                        "--control PATH IMAGE'.\n");
    } else if (r == -ENOENT) {
        fprintf(stderr,
                "Start the service ('systemctl start sluiced'), or name "
                "the control socket of\nanother daemon with --socket or "
                "in SLUICE_SOCKET.\n");
    } else if (r == -ECONNREFUSED) {
        fprintf(stderr, "No daemon listens there: it has ended, or this is no "
                        "control socket.\n");
    } else if (r == -EACCES || r == -EPERM) {
        fprintf(stderr,
                "Be root, or let the daemon give the socket a group of "
                "yours (mode= and group= of\n--chardev; SLUICED_CONTROL "
                "of the service).\n");
    }
}

struct sluice_conn *client_connect(const char *path)
{
    struct sluice_conn *conn = NULL;
    char *error = NULL;
    int r;

    if (!path) {
        path = g_getenv("SLUICE_SOCKET");
    }
    r = sluice_connect(path ? path : DEFAULT_SOCKET, &conn, &error);
    if (r < 0) {
        cli_error("%s", error);
        hint_connect(r, path != NULL);
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

bool client_run(struct sluice_conn *conn, const char *command, json_t *args)
{
    json_t *reply = client_execute(conn, command, args);

    json_decref(reply);
    return reply != NULL;
}

json_t *client_find(struct sluice_conn *conn, const char *command,
                    const char *key, const char *name)
{
    json_t *list = client_execute(conn, command, NULL);
    json_t *entry, *found = NULL;
    size_t i;

    if (!list) {
        exit(EXIT_FAILURE);
    }
    json_array_foreach(list, i, entry) {
        if (g_strcmp0(client_text(entry, key), name) == 0) {
            found = json_incref(entry);
            break;
        }
    }
    json_decref(list);
    return found;
}

bool client_has(struct sluice_conn *conn, const char *command, const char *key,
                const char *name)
{
    json_t *entry = client_find(conn, command, key, name);

    json_decref(entry);
    return entry != NULL;
}

bool client_wait_a_little(struct sluice_conn *conn)
{
    char *text;
    int r = sluice_wait_event(conn, POLL_MS, &text);

    if (r > 0) {
        sluice_free(text);
    } else if (r < 0) {
        cli_error("the daemon went away");
    }
    return r >= 0;
}

bool client_wait_export_gone(struct sluice_conn *conn, const char *id)
{
    while (client_has(conn, "query-block-exports", "id", id)) {
        if (!client_wait_a_little(conn)) {
            return false;
        }
    }
    return true;
}

char *client_fault_text(const json_t *fault)
{
    json_int_t offset = json_integer_value(json_object_get(fault, "offset"));
    const char *file = client_text(fault, "file");

    g_autofree char *text = g_strdup_printf(
        "could not %s node '%s'%s%s%s at offset %" JSON_INTEGER_FORMAT ": %s",
        client_text(fault, "operation"), client_text(fault, "node-name"),
        file ? " (" : "", file ? file : "", file ? ")" : "", offset,
        client_text(fault, "error"));

    /* The name of the file may have stood in a header. */
    return text_printable(text, "");
}

void client_hint_names(struct sluice_conn *conn, const char *command,
                       const char *key, const char *word, const char *lister)
{
    json_t *list = client_execute(conn, command, NULL);
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    const char *near;
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        if (client_text(entry, key)) {
            g_ptr_array_add(names, (char *)client_text(entry, key));
        }
    }
    g_ptr_array_add(names, NULL);
    near = suggest_word(word, (const char *const *)names->pdata);
    if (near && strcmp(near, word) != 0) {
        fprintf(stderr, "Did you mean '%s'? ", near);
    }
    fprintf(stderr, "'%s' lists all.\n", lister);
    json_decref(list);
}

bool client_hint_device(struct sluice_conn *conn, const char *name)
{
    static const char *const lists[][2] = {
        { "query-block", "device" },
        { "query-named-block-nodes", "node-name" },
    };
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    const char *near;
    json_t *entry;
    size_t i;

    for (unsigned k = 0; k < G_N_ELEMENTS(lists); k++) {
        json_t *list = client_execute(conn, lists[k][0], NULL);

        json_array_foreach(list, i, entry) {
            const char *text = client_text(entry, lists[k][1]);
            if (text && *text) {
                g_ptr_array_add(names, g_strdup(text));
            }
        }
        json_decref(list);
    }
    g_ptr_array_add(names, NULL);
    if (g_strv_contains((const char *const *)names->pdata, name)) {
        return false;
    }
    near = suggest_word(name, (const char *const *)names->pdata);
    if (near) {
        fprintf(stderr, "Did you mean '%s'? ", near);
    }
    fprintf(stderr, "'info block' in 'sluice monitor' lists the devices.\n");
    return true;
}

void client_hint_jobs(struct sluice_conn *conn, const char *id)
{
    client_hint_names(conn, "query-block-jobs", "device", id,
                      "sluice jobs --all");
}
