/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The export table, for the drivers in this folder. */
#pragma once
#include "export/export.h"
#include "loop/co.h"

struct names;
struct nbd_hub;
struct nbd_server;

struct exports {
    struct graph *graph;
    struct names *names; /* shared with exports of other loops; or NULL */
    void *names_owner;
    struct nbd_hub *hub; /* shared, too */
    int arriving;        /* atomic: clients that are moving here */
    void (*event)(const char *name, json_t *data, void *arg);
    void *event_arg;
    GPtrArray *list;        /* struct export, in order of creation */
    struct co_queue gone;   /* woken after each deletion */
    struct nbd_server *nbd; /* while the server runs */
};

/* exports.c; NULL-terminated. */
extern const struct export_driver *const export_drivers[];

/* A client that nbd_hub_find_other() has announced is here. On the loop of @es. */
void exports_arrived(struct exports *es);

/* Begin to remove @e: no new clients, those there are asked to go. */
void export_begin_delete(struct export *e);
/* The same for all of a type (NULL: all types), and wait until they are
 * gone. */
CO_FN void exports_co_delete_all(struct exports *es,
                                 const struct export_driver *drv);
