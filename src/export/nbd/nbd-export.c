/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The export driver "nbd": a name under which clients find a node. */
#include <errno.h>
#include <string.h>
#include "base/err.h"
#include "export/nbd/nbd-int.h"
#include "graph/io.h"

static const char *const nbd_export_option_names[] = {
    "name", "description", "bitmaps", "allocation-depth", "tls-authz", NULL
};

static struct nbd_export *to_nbd(struct export *e)
{
    return (struct nbd_export *)e;
}

/* The NBD export of this loop whose name this is; starting ones too. */
static struct nbd_export *nbd_export_named(struct exports *es,
                                           struct nbd_text name)
{
    for (guint i = 0; i < es->list->len; i++) {
        struct export *e = g_ptr_array_index(es->list, i);
        struct nbd_export *ne = to_nbd(e);
        if (e->drv == &nbd_export_driver && ne->place &&
            nbd_text_equal(name, ne->name)) {
            return ne;
        }
    }
    return NULL;
}

bool nbd_export_is_for(const struct nbd_export *ne, const struct nbd_conn *c)
{
    return !ne->e.starting && !ne->e.shutting_down &&
           nbd_access_allows(c, ne->authz);
}

struct nbd_export *nbd_export_find(const struct nbd_conn *c,
                                   struct nbd_text name)
{
    struct nbd_export *ne = nbd_export_named(c->server->exports, name);

    return ne && nbd_export_is_for(ne, c) ? ne : NULL;
}

static void add_rules(const struct nbd_place *p, void *arg)
{
    if (p->authz) {
        g_ptr_array_add(arg, g_strdup(p->authz));
    }
}

GPtrArray *nbd_export_rules(const struct nbd_server *s)
{
    GPtrArray *ids = g_ptr_array_new_with_free_func(g_free);

    if (s->authz) {
        g_ptr_array_add(ids, g_strdup(s->authz));
    }
    nbd_hub_foreach(s->exports->hub, add_rules, ids);
    return ids;
}

uint64_t nbd_export_size(const struct nbd_export *ne)
{
    return node_size(backend_node(ne->e.backend));
}

uint16_t nbd_export_flags(const struct nbd_export *ne, const struct nbd_conn *c)
{
    unsigned flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH |
                     NBD_FLAG_SEND_FUA | NBD_FLAG_SEND_CACHE;

    if (ne->e.writable) {
        flags |= NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES |
                 NBD_FLAG_SEND_FAST_ZERO;
    } else {
        flags |= NBD_FLAG_READ_ONLY;
    }
    if (c->structured) {
        flags |= NBD_FLAG_SEND_DF;
    }
    /* True because a flush is one of the node, which holds no state for a
     * connection: it covers what any of them has been told is written. */
    if (c->server->max_conns > 1) {
        flags |= NBD_FLAG_CAN_MULTI_CONN;
    }
    return (uint16_t)flags;
}

static int nbd_export_check_text(const char *what, const char *s, GError **err)
{
    struct nbd_text t = { .s = s, .len = (uint32_t)MIN(strlen(s), UINT32_MAX) };

    if (strlen(s) > NBD_MAX_STRING) {
        return err_set(err, EINVAL, "%s '%.80s...' too long", what, s);
    }
    if (!nbd_text_is_valid(t)) {
        return err_set(err, EINVAL, "%s is not valid UTF-8", what);
    }
    return 0;
}

/* Rules for who may use it, which need to know who a client is. */
static int nbd_export_take_authz(struct nbd_export *ne, struct opts *o,
                                 GError **err)
{
    int ret = opts_take_str(o, "tls-authz", &ne->authz, err);

    return ret > 0 ? nbd_server_check_authz(ne->e.exports, ne->authz, err)
                   : ret;
}

/* From here on the name is taken. */
static int nbd_export_take_place(struct nbd_export *ne, GError **err)
{
    struct nbd_hub *hub = ne->e.exports->hub;

    ne->place = nbd_hub_add(hub, ne->name, ne->e.exports);
    if (!ne->place) {
        return err_set(err, EEXIST, "NBD server already has export named '%s'",
                       ne->name);
    }
    return 0;
}

static int nbd_export_take(struct nbd_export *ne, struct opts *o, GError **err)
{
    if (opts_take_str(o, "name", &ne->name, err) < 0 ||
        opts_take_str(o, "description", &ne->description, err) < 0 ||
        opts_take_bool(o, "allocation-depth", &ne->allocation_depth, err) < 0 ||
        nbd_export_take_authz(ne, o, err) < 0) {
        return -EINVAL;
    }
    if (!ne->name) {
        ne->name = g_strdup(node_name(backend_node(ne->e.backend)));
    }
    if (nbd_export_check_text("export name", ne->name, err) < 0 ||
        (ne->description &&
         nbd_export_check_text("description", ne->description, err) < 0)) {
        return -EINVAL;
    }
    return nbd_export_take_place(ne, err);
}

static CO_FN void nbd_export_co_delete(struct export *e)
{
    struct nbd_export *ne = to_nbd(e);

    g_assert(ne->n_conns == 0);
    nbd_bitmaps_co_free(ne);
    nbd_hub_remove(e->exports->hub, g_steal_pointer(&ne->place));
    g_clear_pointer(&ne->name, g_free);
    g_clear_pointer(&ne->description, g_free);
    g_clear_pointer(&ne->authz, g_free);
}

static CO_FN int nbd_export_co_create(struct export *e, struct opts *o,
                                      GError **err)
{
    struct nbd_server *s = nbd_server_for_export(e->exports);
    int ret;

    if (!s || s->stopping) {
        err_set(err, ENOENT, "NBD server not running");
        err_hint(err, "It is started before: --nbd-server addr.type=unix,"
                      "addr.path=PATH, or nbd-server-start.");
        return -ENOENT;
    }
    ret = nbd_export_take(to_nbd(e), o, err);
    if (ret == 0) {
        ret = nbd_bitmaps_co_take(to_nbd(e), o, err);
    }
    if (ret < 0) {
        nbd_export_co_delete(e);
    }
    return ret;
}

static void nbd_export_ready(struct export *e)
{
    nbd_hub_describe(e->exports->hub, to_nbd(e)->place, to_nbd(e)->description,
                     to_nbd(e)->authz);
}

static void nbd_export_request_shutdown(struct export *e)
{
    struct nbd_server *s = nbd_server_get(e->exports);

    nbd_hub_hide(e->exports->hub, to_nbd(e)->place);
    for (GList *l = s ? s->conns.head : NULL; l; l = l->next) {
        struct nbd_conn *c = l->data;
        if (c->exp == to_nbd(e)) {
            nbd_conn_stop(c);
        }
    }
}

const struct export_driver nbd_export_driver = {
    .type = "nbd",
    .export_size = sizeof(struct nbd_export),
    .option_names = nbd_export_option_names,
    .co_create = nbd_export_co_create,
    .ready = nbd_export_ready,
    .request_shutdown = nbd_export_request_shutdown,
    .co_delete = nbd_export_co_delete,
};
