/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's connection.  Its requests stay with it until they are answered or,
 * when the connection is lost, until the server has let go of it: until then
 * what was asked may still take place.
 */
#pragma once
#include "dst.h"
#include "wire/nbd.h"

struct channel;
struct guest_conn;

struct request {
    struct guest_conn *conn;
    enum guest_op op;
    struct nbd_request_header h;
    unsigned phase;          /* of the world, when it was sent */
    uint64_t sent_ns, since; /* since: instant of the model */
    struct change change;    /* writes, zeroes, trims */
    uint8_t *buf;            /* of a write or a read */
    uint64_t got;            /* bytes of a read */
    uint32_t error;
};

struct guest_conn {
    struct world *w;
    unsigned i; /* of the guest; for the story */
    struct rng rng;
    struct channel *ch;
    const void *served_by; /* the server's side: compared, never used */
    char *export_name;
    uint64_t size; /* of the disk, as told */
    uint16_t flags;
    bool structured, meta;
    unsigned slow_ms;    /* the most it thinks about a reply */
    GPtrArray *requests; /* struct request, in order of sending */
    uint64_t last_cookie;
    uint32_t last_error; /* of the last answer */
    bool reading, lost, closed;
    bool silent; /* it sends no more, and is as good as gone */
    struct co_queue changed;
};

/* --- guest-wire.c --- */

/* Connect and shake hands; NULL when the server refused. Joins w->guests. */
CO_FN struct guest_conn *guest_co_connect(struct world *w, unsigned i,
                                          const char *name, size_t capacity);
/* Start taking replies. */
void guest_read_start(struct guest_conn *c);
/* Send @r with the payload of a write. 0 or -errno: the connection is lost. */
CO_FN int guest_co_send(struct guest_conn *c, struct request *r);
CO_FN void guest_co_disconnect(struct guest_conn *c);
/* Send no more; what is unanswered lands before what comes now. */
void guest_fall_silent(struct guest_conn *c);
/* Drop the connection; what is unanswered waits for guests_collect(). */
CO_FN void guest_co_close(struct guest_conn *c);

/* --- guest.c --- */

/* @r has been answered in full; frees it. @extents: of a block status. */
void request_answered(struct request *r, const uint8_t *extents, size_t len);
void request_free(void *r);
void guest_lose(struct guest_conn *c);
