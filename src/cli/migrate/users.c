/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The disk is a node of the source's graph.  Guests are at the top of it: at a
 * filter of the drive, at one that a job has put there meanwhile, or at the node
 * itself.  So every node counts from which a way leads down to the disk.
 */
#include "cli/migrate/users.h"

#include <string.h>

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/migrate/end.h"

#define NOWHERE (-1)

static json_int_t number_of(const json_t *o, const char *key)
{
    return json_integer_value(json_object_get(o, key));
}

static bool is_text(const json_t *o, const char *key, const char *text)
{
    return g_strcmp0(json_string_value(json_object_get(o, key)), text) == 0;
}

/* The number of node @name in @graph. */
static json_int_t find_number(const json_t *graph, const char *name)
{
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex) {
        if (is_text(vertex, "name", name) &&
            is_text(vertex, "type", "block-driver")) {
            return number_of(vertex, "id");
        }
    }
    return NOWHERE;
}

/* Does a way lead down from number @from to @to? The graph has no circle. */
static bool leads_to(const json_t *graph, json_int_t from, json_int_t to)
{
    json_t *edge;
    size_t i;

    if (from == to) {
        return true;
    }
    json_array_foreach(json_object_get(graph, "edges"), i, edge) {
        if (number_of(edge, "parent") == from &&
            leads_to(graph, number_of(edge, "child"), to)) {
            return true;
        }
    }
    return false;
}

static bool remove_exports(struct sluice_conn *conn, const json_t *graph,
                           json_int_t disk, const char *but, bool force)
{
    json_t *list = client_execute(conn, "query-block-exports", NULL);
    bool ok = list != NULL;
    json_t *entry;
    size_t i;

    json_array_foreach(list, i, entry) {
        const char *id = json_string_value(json_object_get(entry, "id"));
        const char *node = json_string_value(
            json_object_get(entry, "node-name"));

        if (ok && g_strcmp0(id, but) != 0 &&
            leads_to(graph, find_number(graph, node), disk)) {
            ok = end_unexport(conn, id, force);
        }
    }
    json_decref(list);
    return ok;
}

/* Is vertex number @id the backend of a guest? Jobs have others. */
static bool is_backend(const json_t *graph, json_int_t id)
{
    json_t *vertex;
    size_t i;

    json_array_foreach(json_object_get(graph, "nodes"), i, vertex) {
        if (number_of(vertex, "id") == id) {
            return is_text(vertex, "type", "block-backend");
        }
    }
    return false;
}

static bool may_write(const json_t *edge)
{
    json_t *perm;
    size_t i;

    json_array_foreach(json_object_get(edge, "perm"), i, perm) {
        if (g_strcmp0(json_string_value(perm), "write") == 0) {
            return true;
        }
    }
    return false;
}

static bool has_writer(const json_t *graph, json_int_t disk)
{
    json_t *edge;
    size_t i;

    json_array_foreach(json_object_get(graph, "edges"), i, edge) {
        if (may_write(edge) && is_backend(graph, number_of(edge, "parent")) &&
            leads_to(graph, number_of(edge, "child"), disk)) {
            return true;
        }
    }
    return false;
}

static json_t *ask_graph(struct sluice_conn *conn)
{
    return client_execute(conn, "x-debug-query-block-graph", NULL);
}

bool users_take_off(struct sluice_conn *conn, const char *disk, const char *but,
                    bool force)
{
    json_t *node = end_find_disk(conn, disk), *graph = ask_graph(conn);
    json_int_t number = find_number(
        graph, json_string_value(json_object_get(node, "node-name")));
    bool ok = node && number != NOWHERE &&
              remove_exports(conn, graph, number, but, force);

    json_decref(graph);
    graph = ok ? ask_graph(conn) : NULL;
    if (ok && (!graph || has_writer(graph, number))) {
        cli_error("somebody still writes to '%s' at the source", disk);
        ok = false;
    }
    json_decref(graph);
    json_decref(node);
    return ok;
}
