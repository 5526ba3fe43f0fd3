/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Asking about devices and nodes.  The answers yield (an image may have to
 * look at its file), so the list of nodes is taken first, with references.
 */
#include <string.h>

#include "base/err.h"
#include "control/commands.h"
#include "control/commands/drive.h"
#include "control/commands/image-info.h"
#include "control/control-int.h"
#include "graph/io.h"
#include "loop/loop.h"

static void collect_node(struct node *n, void *arg)
{
    g_ptr_array_add(arg, node_ref(n));
}

static GPtrArray *all_nodes(struct control *c)
{
    GPtrArray *nodes = g_ptr_array_new();

    graph_foreach_node(c->graph, collect_node, nodes);
    return nodes;
}

static CO_FN void nodes_co_free(GPtrArray *nodes)
{
    for (unsigned i = 0; i < nodes->len; i++) {
        node_co_unref(nodes->pdata[i]);
    }
    g_ptr_array_free(nodes, TRUE);
}

CO_FN int cmd_co_query_named_block_nodes(struct control *c, const json_t *args,
                                         json_t **ret, GError **err)
{
    bool flat = arg_bool(args, "flat", false);
    GPtrArray *nodes = all_nodes(c);
    json_t *list = json_array();
    int r = 0;

    /* The newest first, as QEMU has it. */
    for (unsigned i = nodes->len; i-- > 0 && r == 0;) {
        json_t *info = image_co_describe_node(nodes->pdata[i], flat, err);

        if (info) {
            json_array_append_new(list, info);
        } else {
            r = -EIO;
        }
    }
    nodes_co_free(nodes);
    if (r < 0) {
        json_decref(list);
        return r;
    }
    *ret = list;
    return 0;
}

/* --- devices --- */

struct seen_device {
    char *id;
    struct node *node; /* NULL: the device is empty */
};

static void seen_free(void *p)
{
    struct seen_device *d = p;

    g_free(d->id);
    g_free(d);
}

static void cmd_query_collect_device(struct device *d, void *arg)
{
    struct seen_device *seen = g_new0(struct seen_device, 1);

    seen->id = g_strdup(d->id);
    seen->node = d->empty ? NULL : node_ref(backend_node(d->backend));
    g_ptr_array_add(arg, seen);
}

/* A filter without a name of its own is not shown: the image below is. */
static struct node *shown_node(struct node *n)
{
    while (node_is_implicit_filter(n) && node_filtered(n)) {
        n = node_filtered(n);
    }
    return n;
}

static json_t *describe_empty(const char *id)
{
    return json_pack("{s:s,s:b,s:b,s:s,s:s}", "device", id, "locked", 0,
                     "removable", 1, "qdev", "", "type", "unknown");
}

/* A BlockInfo of @d, whose node it lets go of. */
static CO_FN json_t *describe_co_device(const struct seen_device *d,
                                        GError **err)
{
    struct node *shown;
    json_t *info;

    if (!d->node) {
        return describe_empty(d->id);
    }
    shown = node_ref(shown_node(d->node));
    info = *err ? NULL : image_co_describe_node(shown, false, err);
    if (info) {
        drive_describe_limits(d->node, info);
    }
    node_co_unref(shown);
    node_co_unref(d->node);
    return info ? json_pack("{s:s,s:s,s:b,s:b,s:o,s:s,s:s}", "io-status", "ok",
                            "device", d->id, "locked", 0, "removable", 0,
                            "inserted", info, "qdev", "", "type", "unknown")
                : NULL;
}

CO_FN int cmd_co_query_block(struct control *c, const json_t *args,
                             json_t **ret, GError **err)
{
    GPtrArray *devices = g_ptr_array_new_with_free_func(seen_free);
    json_t *list = json_array();
    int r = 0;

    graph_foreach_device(c->graph, cmd_query_collect_device, devices);
    for (unsigned i = 0; i < devices->len; i++) {
        json_t *info = describe_co_device(devices->pdata[i], err);

        if (info) {
            json_array_append_new(list, info);
        } else {
            r = -EIO;
        }
    }
    g_ptr_array_free(devices, TRUE);
    if (r < 0) {
        json_decref(list);
        return r;
    }
    *ret = list;
    return 0;
}

/* --- statistics --- */

static void set_member(json_t *obj, const char *name, uint64_t v)
{
    json_object_set_new(obj, name, json_integer((json_int_t)v));
}

static json_t *describe_stats(struct control *c, const struct backend_stats *st,
                              uint64_t highest)
{
    static const struct backend_stats none;
    json_t *o = json_object();

    st = st ? st : &none;
    set_member(o, "unmap_operations", st->ops[ACCT_UNMAP]);
    set_member(o, "unmap_merged", 0);
    set_member(o, "flush_total_time_ns", st->time_ns[ACCT_FLUSH]);
    set_member(o, "wr_highest_offset", highest);
    set_member(o, "wr_total_time_ns", st->time_ns[ACCT_WRITE]);
    set_member(o, "failed_wr_operations", st->failed[ACCT_WRITE]);
    set_member(o, "failed_rd_operations", st->failed[ACCT_READ]);
    set_member(o, "wr_merged", 0);
    set_member(o, "wr_bytes", st->bytes[ACCT_WRITE]);
    json_object_set_new(o, "timed_stats", json_array());
    set_member(o, "failed_unmap_operations", st->failed[ACCT_UNMAP]);
    set_member(o, "failed_flush_operations", st->failed[ACCT_FLUSH]);
    json_object_set_new(o, "account_invalid", json_false());
    set_member(o, "rd_total_time_ns", st->time_ns[ACCT_READ]);
    set_member(o, "invalid_unmap_operations", st->invalid[ACCT_UNMAP]);
    set_member(o, "flush_operations", st->ops[ACCT_FLUSH]);
    set_member(o, "wr_operations", st->ops[ACCT_WRITE]);
    set_member(o, "unmap_bytes", st->bytes[ACCT_UNMAP]);
    set_member(o, "rd_merged", 0);
    set_member(o, "rd_bytes", st->bytes[ACCT_READ]);
    set_member(o, "unmap_total_time_ns", st->time_ns[ACCT_UNMAP]);
    set_member(o, "invalid_flush_operations", st->invalid[ACCT_FLUSH]);
    json_object_set_new(o, "account_failed", json_false());
    set_member(o, "rd_operations", st->ops[ACCT_READ]);
    set_member(o, "invalid_wr_operations", st->invalid[ACCT_WRITE]);
    set_member(o, "invalid_rd_operations", st->invalid[ACCT_READ]);
    if (st->last_access_ns) {
        set_member(o, "idle_time_ns",
                   loop_clock_ns(c->data) - st->last_access_ns);
    }
    return o;
}

/* The numbers of @n, or of backend @st above it, and of its storage. */
static json_t *describe_node_stats(struct control *c, struct node *n,
                                   const struct backend_stats *st)
{
    struct node *storage = node_storage(n);
    json_t *o = json_object();

    if (storage && storage != n) {
        json_object_set_new(o, "parent", describe_node_stats(c, storage, NULL));
    }
    json_object_set_new(
        o, "stats",
        describe_stats(c, st, storage ? node_write_highest(storage) : 0));
    json_object_set_new(o, "node-name", json_string(node_name(n)));
    return o;
}

struct stats_list {
    struct control *c;
    json_t *array;
};

static void add_device_stats(struct device *d, void *arg)
{
    struct stats_list *l = arg;
    json_t *o = json_pack("{s:s}", "device", d->id), *rest;
    struct node *n, *below;

    json_array_append_new(l->array, o);
    if (d->empty) {
        json_object_set_new(o, "stats", describe_stats(l->c, NULL, 0));
        return;
    }
    n = shown_node(backend_node(d->backend));
    rest = describe_node_stats(l->c, n, backend_get_stats(d->backend));
    json_object_update(o, rest);
    json_decref(rest);
    below = node_backing(n);
    if (below) {
        json_object_set_new(o, "backing",
                            describe_node_stats(l->c, below, NULL));
    }
}

static void add_node_stats(struct node *n, void *arg)
{
    struct stats_list *l = arg;

    json_array_append_new(l->array, describe_node_stats(l->c, n, NULL));
}

CO_FN int cmd_co_query_blockstats(struct control *c, const json_t *args,
                                  json_t **ret, GError **err)
{
    struct stats_list l = { c, json_array() };

    if (arg_bool(args, "query-nodes", false)) {
        graph_foreach_node(c->graph, add_node_stats, &l);
    } else {
        graph_foreach_device(c->graph, add_device_stats, &l);
    }
    *ret = l.array;
    return 0;
}

/* --- the graph as such --- */

static const struct {
    unsigned bit;
    const char *name;
} cmd_query_perm_names[] = {
    { PERM_RESIZE, "resize" },
    { PERM_WRITE_UNCHANGED, "write-unchanged" },
    { PERM_WRITE, "write" },
    { PERM_CONSISTENT_READ, "consistent-read" },
};

static json_t *describe_perms(unsigned perms)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < G_N_ELEMENTS(cmd_query_perm_names); i++) {
        if (perms & cmd_query_perm_names[i].bit) {
            json_array_append_new(list,
                                  json_string(cmd_query_perm_names[i].name));
        }
    }
    return list;
}

/* Ids of one data loop. */
#define PICTURE_IDS 1000000

struct picture {
    json_t *nodes, *edges;
    int before_first;
    GHashTable *ids; /* node or backend -> number */
};

static int picture_id(struct picture *p, const void *what, const char *name,
                      const char *type)
{
    int id = GPOINTER_TO_INT(g_hash_table_lookup(p->ids, what));

    if (id == 0) {
        id = p->before_first + (int)g_hash_table_size(p->ids) + 1;
        g_hash_table_insert(p->ids, (void *)what, GINT_TO_POINTER(id));
        json_array_append_new(p->nodes, json_pack("{s:s,s:s,s:i}", "name", name,
                                                  "type", type, "id", id));
    }
    return id;
}

static void picture_device(struct device *d, void *arg)
{
    picture_id(arg, d->empty ? (const void *)d : d->backend, d->id,
               "block-backend");
}

static void picture_edge(struct picture *p, const struct edge *e)
{
    struct node *above = edge_parent(e), *below = edge_child(e);
    int child = picture_id(p, below, node_name(below), "block-driver");
    int parent = above ? picture_id(p, above, node_name(above), "block-driver")
                       : picture_id(p, edge_backend(e), "", "block-backend");
    unsigned perm, shared;

    edge_get_perms(e, false, &perm, &shared);
    json_array_append_new(
        p->edges,
        json_pack("{s:s,s:i,s:o,s:o,s:i}", "name", edge_name(e), "parent",
                  parent, "shared-perm", describe_perms(shared), "perm",
                  describe_perms(perm), "child", child));
}

static void picture_node(struct node *n, void *arg)
{
    struct picture *p = arg;

    picture_id(p, n, node_name(n), "block-driver");
    for (const struct edge *e = node_first_parent(n); e;
         e = edge_next_parent(e)) {
        picture_edge(p, e);
    }
}

static struct picture picture_of_graph(struct control *c)
{
    struct picture p = { json_array(), json_array(),
                         (int)c->number * PICTURE_IDS,
                         g_hash_table_new(NULL, NULL) };

    graph_foreach_device(c->graph, picture_device, &p);
    graph_foreach_node(c->graph, picture_node, &p);
    g_hash_table_destroy(p.ids);
    return p;
}

CO_FN int cmd_co_x_debug_query_block_graph(struct control *c,
                                           const json_t *args, json_t **ret,
                                           GError **err)
{
    struct picture p = picture_of_graph(c);

    *ret = json_pack("{s:o,s:o}", "edges", p.edges, "nodes", p.nodes);
    return 0;
}

CO_FN int cmd_co_x_query_block_graph_dot(struct control *c, const json_t *args,
                                         json_t **ret, GError **err)
{
    struct picture p = picture_of_graph(c);
    g_autoptr(GString) dot = g_string_new("digraph block {\n");

    for (size_t i = 0; i < json_array_size(p.nodes); i++) {
        const json_t *n = json_array_get(p.nodes, i);
        bool device = g_str_equal(arg_str(n, "type"), "block-backend");

        g_string_append_printf(dot, "  n%d [label=\"%s\" shape=%s];\n",
                               (int)arg_int(n, "id", 0), arg_str(n, "name"),
                               device ? "ellipse" : "box");
    }
    for (size_t i = 0; i < json_array_size(p.edges); i++) {
        const json_t *e = json_array_get(p.edges, i);

        g_string_append_printf(dot, "  n%d -> n%d [label=\"%s\"];\n",
                               (int)arg_int(e, "parent", 0),
                               (int)arg_int(e, "child", 0), arg_str(e, "name"));
    }
    g_string_append(dot, "}\n");
    json_decref(p.nodes);
    json_decref(p.edges);
    *ret = json_string(dot->str);
    return 0;
}
