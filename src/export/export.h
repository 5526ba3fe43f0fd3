/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exports: ways for a guest to reach a node.  A driver is a const struct in
 * exports.c; the table below is what control/ talks to.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include "base/annot.h"
#include "base/options.h"
#include "graph/node.h"

struct exports;
struct export;
struct names;

struct export_driver {
    const char *type;   /* "nbd" */
    size_t export_size; /* of the struct that begins with struct export */
    const char *const *option_names;
    CO_FN_PTR int (*co_create)(struct export *e, struct opts *o, GError **err);
    /* It is there: clients may come. NULL: nothing is to be done. */
    void (*ready)(struct export *e);
    /* Ask clients to go; non-blocking. */
    void (*request_shutdown)(struct export *e);
    /* No client is left. */
    CO_FN_PTR void (*co_delete)(struct export *e);
};
struct export
{
    char *id;
    const struct export_driver *drv;
    struct exports *exports;
    struct backend *backend;
    bool writable, writethrough, shutting_down;
    bool starting;                /* being created: only its id counts */
    unsigned refs;                /* 1 + connections */
    uint64_t error_told_ns[2][2]; /* io-error.c: [is_read][no space] */
};
/* BLOCK_EXPORT_DELETED is sent through @event. */
struct exports *exports_new(struct graph *g,
                            void (*event)(const char *name, json_t *data,
                                          void *arg),
                            void *arg);
void exports_free(struct exports *es);
/* @es are to be reached by the NBD server of @with, the exports of another loop.
 * Before there are any. */
void exports_share(struct exports *es, struct exports *with);
/* Exports take their ids out of @names, as @owner. Before there are any; @names
 * outlives them. */
void exports_set_names(struct exports *es, struct names *names, void *owner);
/* block-export-add: type, id, node-name, writable, writethrough and the
 * driver's own. */
CO_FN int exports_co_add(struct exports *es, const json_t *options,
                         GError **err);
/* mode safe: refused while clients are connected. */
CO_FN int exports_co_del(struct exports *es, const char *id, bool hard,
                         GError **err);
/* query-block-exports; caller owns. */
json_t *exports_describe(struct exports *es);
/* Is there one, or is one being made or deleted? */
bool exports_are_any(const struct exports *es);
CO_FN void exports_co_shutdown(struct exports *es);
/* A request of a client has failed with @errnum: BLOCK_IO_ERROR, unless one of
 * its kind was sent less than a second ago. No yield. */
void export_tell_io_error(struct export *e, bool is_read, int errnum);
void export_ref(struct export *e);
void export_unref(struct export *e);

/* --- export/nbd --- */
struct sock_addr;
struct tls_creds;
struct nbd_server_params {
    const struct sock_addr *addr; /* where to listen */
    unsigned max_connections;     /* 0 = default 100 */
    struct tls_creds *creds;      /* of a server; NULL: TLS is not spoken.  Else
                              * nothing else is. */
    const char *authz;            /* id of rules for who gets in; or NULL */
    bool plaintext; /* anybody on a network may read and write everything */
};
/* -EPERM: without TLS, and other machines could reach it. */
int nbd_server_start(struct exports *es, const struct nbd_server_params *p,
                     GError **err);
/* The end of the server: listen no more, take no more exports. @es: those with
 * which it was started. -ENOENT: there is none, or it is ending already. Then, on
 * each other loop that shares it, nbd_server_co_leave(), and at the end here
 * nbd_server_co_end(). */
int nbd_server_begin_end(struct exports *es, GError **err);
/* Close connections and remove nbd exports of @es. */
CO_FN void nbd_server_co_leave(struct exports *es);
/* When another is at it, wait for that. */
CO_FN void nbd_server_co_end(struct exports *es);
/* All of that, where no other loop shares the server, or has left it. */
CO_FN int nbd_server_co_stop(struct exports *es, GError **err);
/* The exports that clients can reach now, each with its address; caller owns. */
json_t *nbd_exports_describe(struct exports *es);
/* On this loop or another. */
bool nbd_server_running(const struct exports *es);
unsigned nbd_server_port(const struct exports *es);
