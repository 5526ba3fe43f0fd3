/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Options of the handshake: one handler each, in a table.
 *
 * A handler sees a payload that is complete and bounded, and adds its replies
 * to c->out; it does not yield, so what it finds (an export, a count) holds
 * until it returns.  Nothing of an export is touched before GO takes its
 * reference.
 */
#include <string.h>
#include "export/nbd/nbd-int.h"

#define PREFERRED_BLOCK 4096u

struct option_handler {
    uint32_t opt;
    bool no_data; /* a payload is an error */
    enum nbd_opt_result (*handle)(struct nbd_conn *c,
                                  const struct nbd_option *o);
};

static void ack(struct nbd_conn *c, const struct nbd_option *o)
{
    nbd_opt_reply(c, o->opt, NBD_REP_ACK, NULL, 0);
}

/* The export of that name, or NULL after an error reply. */
static struct nbd_export *find_export(struct nbd_conn *c,
                                      const struct nbd_option *o,
                                      struct nbd_text name)
{
    struct nbd_export *ne = nbd_export_find(c, name);

    if (!ne) {
        char *shown = nbd_text_show(name);
        nbd_opt_error(c, o->opt, NBD_REP_ERR_UNKNOWN, "export '%s' not present",
                      shown);
        g_free(shown);
    }
    return ne;
}

static bool export_is_full(const struct nbd_export *ne)
{
    return ne->n_conns >= NBD_MAX_CONNS_PER_EXPORT;
}

static void conn_take_export(struct nbd_conn *c, struct nbd_export *ne)
{
    g_assert(!c->exp);
    c->exp = ne;
    ne->n_conns++;
    export_ref(&ne->e);
    /* Contexts that were chosen for another export do not count. */
    if (!c->meta_export || strcmp(c->meta_export, ne->name) != 0) {
        nbd_meta_forget(c);
    }
}

static enum nbd_opt_result handle_export_name(struct nbd_conn *c,
                                              const struct nbd_option *o)
{
    static const uint8_t zeroes[NBD_EXPORT_NAME_ZEROES];
    struct nbd_text name = { .s = (const char *)o->data, .len = o->len };
    struct nbd_export *ne;
    uint8_t reply[NBD_EXPORT_NAME_SIZE];

    /* There is no error reply to this one. */
    if (!nbd_text_is_valid(name) || !(ne = nbd_export_find(c, name)) ||
        export_is_full(ne)) {
        return NBD_OPT_DROP;
    }
    conn_take_export(c, ne);
    nbd_encode_export_name(reply, nbd_export_size(ne), nbd_export_flags(ne, c));
    g_byte_array_append(c->out, reply, sizeof(reply));
    if (!c->no_zeroes) {
        g_byte_array_append(c->out, zeroes, sizeof(zeroes));
    }
    return NBD_OPT_BEGIN;
}

static enum nbd_opt_result handle_abort(struct nbd_conn *c,
                                        const struct nbd_option *o)
{
    ack(c, o);
    return NBD_OPT_END;
}

struct listing {
    struct nbd_conn *c;
    const struct nbd_option *o;
    unsigned n;
};

/* Of any loop. */
static void list_one(const struct nbd_place *p, void *arg)
{
    struct listing *l = arg;
    const char *description = p->description ? p->description : "";
    uint32_t len = (uint32_t)strlen(p->name);
    GByteArray *data = g_byte_array_new();
    uint32_t be = GUINT32_TO_BE(len);

    g_byte_array_append(data, (uint8_t *)&be, sizeof(be));
    g_byte_array_append(data, (const uint8_t *)p->name, len);
    g_byte_array_append(data, (const uint8_t *)description,
                        (guint)strlen(description));
    if (p->listed && nbd_access_allows(l->c, p->authz)) {
        nbd_opt_reply(l->c, l->o->opt, NBD_REP_SERVER, data->data, data->len);
        l->n++;
    }
    g_byte_array_free(data, TRUE);
}

static enum nbd_opt_result handle_list(struct nbd_conn *c,
                                       const struct nbd_option *o)
{
    struct listing l = { .c = c, .o = o };

    nbd_hub_foreach(c->server->exports->hub, list_one, &l);
    if (!c->listed) {
        c->listed = true;
        c->options_remaining += NBD_MAX_OPTIONS_PER_EXPORT * l.n;
    }
    ack(c, o);
    return NBD_OPT_NEXT;
}

/* --- INFO and GO --- */

static void info_text(struct nbd_conn *c, const struct nbd_option *o,
                      enum nbd_info info, const char *text)
{
    uint16_t be = GUINT16_TO_BE((uint16_t)info);
    GByteArray *data = g_byte_array_new();

    g_byte_array_append(data, (uint8_t *)&be, sizeof(be));
    g_byte_array_append(data, (const uint8_t *)text, (guint)strlen(text));
    nbd_opt_reply(c, o->opt, NBD_REP_INFO, data->data, data->len);
    g_byte_array_free(data, TRUE);
}

static bool info_is_asked(const struct nbd_info_request *r, enum nbd_info info)
{
    for (unsigned i = 0; i < r->count; i++) {
        if (nbd_info_request_item(r, i) == (uint16_t)info) {
            return true;
        }
    }
    return false;
}

/* Each is sent once, however often it was asked for; what is unknown is not
 * answered.  The block size is of use to all and comes unasked. */
static void info_send(struct nbd_conn *c, const struct nbd_option *o,
                      const struct nbd_info_request *r,
                      const struct nbd_export *ne)
{
    uint8_t size[NBD_INFO_BLOCK_SIZE_SIZE], export[NBD_INFO_EXPORT_SIZE];

    if (info_is_asked(r, NBD_INFO_NAME)) {
        info_text(c, o, NBD_INFO_NAME, ne->name);
    }
    if (info_is_asked(r, NBD_INFO_DESCRIPTION) && ne->description) {
        info_text(c, o, NBD_INFO_DESCRIPTION, ne->description);
    }
    nbd_encode_info_block_size(size, 1, PREFERRED_BLOCK, NBD_MAX_PAYLOAD);
    nbd_opt_reply(c, o->opt, NBD_REP_INFO, size, sizeof(size));
    nbd_encode_info_export(export, nbd_export_size(ne),
                           nbd_export_flags(ne, c));
    nbd_opt_reply(c, o->opt, NBD_REP_INFO, export, sizeof(export));
}

static enum nbd_opt_result handle_info(struct nbd_conn *c,
                                       const struct nbd_option *o)
{
    struct nbd_info_request r;
    struct nbd_export *ne;

    if (nbd_decode_info_request(o->data, o->len, &r) < 0) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID,
                      "option data is malformed");
        return NBD_OPT_NEXT;
    }
    ne = find_export(c, o, r.name);
    if (!ne) {
        return NBD_OPT_NEXT;
    }
    if (o->opt == NBD_OPT_GO && export_is_full(ne)) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_POLICY,
                      "export has %u connections, no more are allowed",
                      ne->n_conns);
        return NBD_OPT_NEXT;
    }
    if (o->opt == NBD_OPT_GO) {
        conn_take_export(c, ne);
    }
    info_send(c, o, &r, ne);
    ack(c, o);
    return o->opt == NBD_OPT_GO ? NBD_OPT_BEGIN : NBD_OPT_NEXT;
}

static enum nbd_opt_result handle_structured_reply(struct nbd_conn *c,
                                                   const struct nbd_option *o)
{
    c->structured = true;
    ack(c, o);
    return NBD_OPT_NEXT;
}

static enum nbd_opt_result handle_starttls(struct nbd_conn *c,
                                           const struct nbd_option *o)
{
    if (c->tls) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID, "TLS is in use already");
        return NBD_OPT_NEXT;
    }
    if (!c->server->creds) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_POLICY, "TLS is not configured");
        return NBD_OPT_NEXT;
    }
    ack(c, o);
    return NBD_OPT_TLS;
}

static const struct option_handler handlers[] = {
    { NBD_OPT_EXPORT_NAME, false, handle_export_name },
    { NBD_OPT_ABORT, false, handle_abort },
    { NBD_OPT_LIST, true, handle_list },
    { NBD_OPT_STARTTLS, true, handle_starttls },
    { NBD_OPT_INFO, false, handle_info },
    { NBD_OPT_GO, false, handle_info },
    { NBD_OPT_STRUCTURED_REPLY, true, handle_structured_reply },
    { NBD_OPT_LIST_META_CONTEXT, false, nbd_opt_list_meta },
    { NBD_OPT_SET_META_CONTEXT, false, nbd_opt_set_meta },
};

static const struct option_handler *find_handler(uint32_t opt)
{
    for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (handlers[i].opt == opt) {
            return &handlers[i];
        }
    }
    return NULL;
}

/* The name of the export that @o is about; false: of none, or malformed. */
static bool option_name(const struct nbd_option *o, struct nbd_text *ret)
{
    struct nbd_info_request info;
    struct nbd_meta_request meta;

    switch (o->opt) {
    case NBD_OPT_EXPORT_NAME:
        *ret = (struct nbd_text) { .s = (const char *)o->data, .len = o->len };
        return nbd_text_is_valid(*ret);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        if (nbd_decode_info_request(o->data, o->len, &info) < 0) {
            return false;
        }
        *ret = info.name;
        return true;
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        if (nbd_decode_meta_request(o->data, o->len, &meta) < 0) {
            return false;
        }
        *ret = meta.name;
        return true;
    default: return false;
    }
}

struct exports *nbd_opt_find_other(const struct nbd_conn *c,
                                   const struct nbd_option *o)
{
    struct exports *here = c->server->exports;
    struct nbd_text name;

    return !c->stopping && !nbd_access_needs_tls(c) && option_name(o, &name)
               ? nbd_hub_find_other(here->hub, name, here)
               : NULL;
}

enum nbd_opt_result nbd_opt_handle(struct nbd_conn *c,
                                   const struct nbd_option *o)
{
    const struct option_handler *h = find_handler(o->opt);

    if (c->stopping && o->opt != NBD_OPT_ABORT) {
        if (o->opt == NBD_OPT_EXPORT_NAME) {
            return NBD_OPT_DROP;
        }
        nbd_opt_error(c, o->opt, NBD_REP_ERR_SHUTDOWN,
                      "server is shutting down");
    } else if (nbd_access_needs_tls(c) && o->opt != NBD_OPT_STARTTLS &&
               o->opt != NBD_OPT_ABORT) {
        if (o->opt == NBD_OPT_EXPORT_NAME) {
            return NBD_OPT_DROP;
        }
        nbd_opt_error(c, o->opt, NBD_REP_ERR_TLS_REQD,
                      "option %u is not permitted before TLS", o->opt);
    } else if (!h) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_UNSUP, "option %u is unknown",
                      o->opt);
    } else if (h->no_data && o->len > 0) {
        nbd_opt_error(c, o->opt, NBD_REP_ERR_INVALID, "option %u takes no data",
                      o->opt);
    } else {
        return h->handle(c, o);
    }
    return NBD_OPT_NEXT;
}
