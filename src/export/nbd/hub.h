/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the NBD servers of all loops share: to clients they are one.
 *
 * The *home* server listens; it is on the loop where it was started.  A server
 * of another loop is made for the first export there.  A client speaks to the home
 * server until it names an export: then its connection moves to the loop that has it.
 * So the names of all exports are here, with what a client may be told of them.
 *
 * Any thread may call everything here.
 */
#pragma once
#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include "wire/nbd.h"

struct exports;
struct nbd_server;

/* An export, as all loops see it. */
struct nbd_place {
    char *name, *description, *authz; /* the last two may be NULL */
    struct exports *exports;          /* that have it */
    bool listed;                      /* clients may use it */
};

struct nbd_hub {
    gatomicrefcount refs;
    pthread_mutex_t lock;    /* of what follows */
    struct nbd_server *home; /* NULL: there is no server */
    bool closing;            /* no exports come any more */
    GPtrArray *places;       /* struct nbd_place, in order of creation */
};

struct nbd_hub *nbd_hub_new(void);
struct nbd_hub *nbd_hub_ref(struct nbd_hub *h);
void nbd_hub_unref(struct nbd_hub *h);

/* A place for export @name of @es; NULL: another has that name. */
struct nbd_place *nbd_hub_add(struct nbd_hub *h, const char *name,
                              struct exports *es);
/* Clients may use it. Strings are copied, and may be NULL. */
void nbd_hub_describe(struct nbd_hub *h, struct nbd_place *p,
                      const char *description, const char *authz);
/* They may no more. */
void nbd_hub_hide(struct nbd_hub *h, struct nbd_place *p);
/* NULL is fine. */
void nbd_hub_remove(struct nbd_hub *h, struct nbd_place *p);
/* @fn must call nothing of the hub. */
void nbd_hub_foreach(struct nbd_hub *h,
                     void (*fn)(const struct nbd_place *p, void *arg),
                     void *arg);

/* The exports of another loop than those of @from that have @name, or NULL.  They
 * stay until exports_arrived(), which follows. */
struct exports *nbd_hub_find_other(struct nbd_hub *h, struct nbd_text name,
                                   const struct exports *from);
