/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Metadata contexts: what BLOCK_STATUS can tell.
 *
 * A query names a context, or ends after the colon of a namespace and then,
 * for LIST only, means all of it.  Namespaces that are not ours are ignored,
 * as are unknown leaves: a client may ask for what only some servers have.
 */
#include <string.h>
#include "export/nbd/nbd-int.h"

#define BITMAPS "qemu:dirty-bitmap:"

static const char *context_name(const struct nbd_export *ne, unsigned ctx)
{
    return ctx == NBD_CTX_ALLOCATION ? "base:allocation"
           : ctx == NBD_CTX_DEPTH    ? "qemu:allocation-depth"
                                  : ne->bitmaps[ctx - NBD_CTX_BITMAP].context;
}

void nbd_meta_forget(struct nbd_conn *c)
{
    g_clear_pointer(&c->meta_export, g_free);
    memset(c->contexts, 0, sizeof(c->contexts));
}

static bool context_is_offered(const struct nbd_export *ne, unsigned ctx)
{
    return ctx == NBD_CTX_DEPTH ? ne->allocation_depth
                                : ctx < NBD_CTX_BITMAP + ne->n_bitmaps;
}

/* Does @q, for LIST, mean all contexts that begin with it? */
static bool query_is_prefix(struct nbd_text q, const char *colon)
{
    return colon == q.s + q.len - 1 || nbd_text_equal(q, BITMAPS);
}

/* Mark what query @q names; false when it is no query at all. */
static bool query_match(struct nbd_text q, bool list,
                        const struct nbd_export *ne, bool found[NBD_CTX_COUNT])
{
    const char *colon = q.len ? memchr(q.s, ':', q.len) : NULL;

    if (!colon || colon == q.s) {
        return false;
    }
    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        const char *name;
        bool whole;

        if (!context_is_offered(ne, ctx)) {
            continue;
        }
        name = context_name(ne, ctx);
        whole = list && query_is_prefix(q, colon) &&
                strncmp(name, q.s, q.len) == 0;
        if (whole || nbd_text_equal(q, name)) {
            found[ctx] = true;
        }
    }
    return true;
}

/* The contexts that payload @o asks for. False after an error reply. */
static bool meta_select(struct nbd_conn *c, const struct nbd_option *o,
                        struct nbd_export **ret_exp, bool found[NBD_CTX_COUNT])
{
    bool list = o->opt == NBD_OPT_LIST_META_CONTEXT;
    struct nbd_meta_request r;
    struct nbd_text q;
    struct nbd_export *ne;

    if (nbd_decode_meta_request(o->data, o->len, &r) < 0) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID,
                      "option data is malformed");
        return false;
    }
    ne = nbd_export_find(c, r.name);
    if (!ne) {
        char *shown = nbd_text_show(r.name);
        nbd_opt_error(c, o->opt, NBD_REP_ERR_UNKNOWN, "export '%s' not present",
                      shown);
        g_free(shown);
        return false;
    }
    for (unsigned ctx = 0; list && r.count == 0 && ctx < NBD_CTX_COUNT; ctx++) {
        found[ctx] = context_is_offered(ne, ctx);
    }
    while (nbd_meta_request_next(&r, &q)) {
        if (!query_match(q, list, ne, found)) {
            nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID,
                          "a query needs a namespace and a colon");
            return false;
        }
    }
    *ret_exp = ne;
    return true;
}

static void meta_send(struct nbd_conn *c, const struct nbd_option *o,
                      const struct nbd_export *ne,
                      const bool found[NBD_CTX_COUNT], bool with_ids)
{
    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        uint32_t id = GUINT32_TO_BE(with_ids ? NBD_CTX_WIRE_ID(ctx) : 0);
        g_autoptr(GByteArray) data = NULL;

        if (found[ctx]) {
            const char *name = context_name(ne, ctx);

            data = g_byte_array_new();
            g_byte_array_append(data, (const guint8 *)&id, sizeof(id));
            g_byte_array_append(data, (const guint8 *)name,
                                (guint)strlen(name));
            nbd_opt_reply(c, o->opt, NBD_REP_META_CONTEXT, data->data,
                          data->len);
        }
    }
    nbd_opt_reply(c, o->opt, NBD_REP_ACK, NULL, 0);
}

enum nbd_opt_result nbd_opt_list_meta(struct nbd_conn *c,
                                      const struct nbd_option *o)
{
    bool found[NBD_CTX_COUNT] = { false };
    struct nbd_export *ne;

    if (meta_select(c, o, &ne, found)) {
        meta_send(c, o, ne, found, false);
    }
    return NBD_OPT_NEXT;
}

enum nbd_opt_result nbd_opt_set_meta(struct nbd_conn *c,
                                     const struct nbd_option *o)
{
    bool found[NBD_CTX_COUNT] = { false };
    struct nbd_export *ne;

    /* What was chosen before goes, whatever comes of this. */
    nbd_meta_forget(c);
    if (!c->structured) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID,
                      "structured replies must be agreed on first");
    } else if (meta_select(c, o, &ne, found)) {
        c->meta_export = g_strdup(ne->name);
        memcpy(c->contexts, found, sizeof(found));
        meta_send(c, o, ne, found, true);
    }
    return NBD_OPT_NEXT;
}
