/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the files of the NBD client share.  Each uses only those above it:
 *
 *   nbd-pending.c   requests that wait, and how they end before their reply
 *   nbd-slot.c      connections: made, lost and made again
 *   nbd-send.c      a request's way to one of the connections
 *   nbd-client.c    open and close
 */
#pragma once
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/nbd/nbd-client.h"
#include "storage/nbd/nbd-content.h"
#include "wire/nbd-uri.h"

#define NS_PER_MS UINT64_C(1000000)
/* The pause after the first attempt to connect that failed; it doubles with
 * each further one. */
#define BACKOFF_MIN_NS (50 * NS_PER_MS)

/* A request that waits; on the stack of who made it. */
struct nbd_pending {
    GList link; /* in client->requests */
    enum nbd_op op;
    uint64_t since_ns;
    struct nbd_conn *conn; /* that it is on, or NULL */
    int verdict;           /* how it is to end, -errno; 0: open */
    bool cut;              /* its connection was cut for others' sake */
};

struct nbd_slot {
    struct nbd_client *client;
    unsigned idx;
    unsigned target;       /* index of the server that it is connected to */
    struct nbd_conn *conn; /* also while connecting */
    uint64_t load;         /* what is under way on it: request_load() */
    struct co_latch check; /* of what it brings, before it is up */
    bool up;
    bool was_early; /* the last handshake looks like one that came too early */
};

struct nbd_client {
    struct nbd_target targets[NBD_TARGETS_MAX];
    unsigned n_targets;
    unsigned current; /* the target that is tried, or used */
    struct nbd_client_options opts;
    char *name; /* of the first target, for people */
    char *tls_hostname;
    struct nbd_offer offer;
    struct nbd_content content; /* of an export that nobody changes */
    struct nbd_slot slots[NBD_CONNECTIONS_MAX];
    unsigned nslots;
    struct co_queue waiters;  /* requests without a connection */
    struct co_queue room[2];  /* where all are full: demand; background */
    struct co_queue sleepers; /* slots between two attempts */
    struct co_latch tasks;
    uint64_t lost_ns;        /* when the last connection went */
    uint64_t attempt_ns;     /* when the last attempt to connect began */
    uint64_t attempts;       /* to connect again: begun so far ... */
    uint64_t failed_attempt; /* ... and the latest that failed */
    GQueue requests;         /* struct nbd_pending, oldest first */
    unsigned changing;       /* of them, those that write or flush */
    struct loop_timer hang_timer;
    bool hanging;
    uint64_t written, flushed; /* changes acknowledged / of them durable */
    bool flush_broken, closing;
    bool keeps_content;
    char *failure;
};

static inline bool nbd_client_is_over(const struct nbd_client *cl)
{
    return cl->closing || cl->failure;
}

/* --- nbd-pending.c --- */

/* Connections came or went: all that wait for one look again. */
void nbd_client_wake(struct nbd_client *cl);
/* From here to its end @p is among the requests that wait. */
void nbd_pending_begin(struct nbd_client *cl, struct nbd_pending *p);
void nbd_pending_end(struct nbd_client *cl, struct nbd_pending *p);
/* @conn is about to be freed: requests on it end in a moment. */
void nbd_client_forget_conn(struct nbd_client *cl, const struct nbd_conn *conn);
/* Called by ->hang_timer; @arg is the client. */
void nbd_client_hang_timer(void *arg);

/* --- nbd-slot.c --- */

/* Fail all requests, now and later, with @why for people. */
void nbd_client_fail(struct nbd_client *cl, const char *why);
/* Connect the first slot and learn what the server offers.  Tries again until
 * the open timeout; -ESHUTDOWN when the client failed in between. */
CO_FN int nbd_client_co_connect_first(struct nbd_client *cl, GError **err);
/* Each slot from @from up to, but without, @to gets its coroutine. */
void nbd_client_start_slots(struct nbd_client *cl, unsigned from, unsigned to);
/* More connections are made when two requests are under way at once: who only
 * looks at an image needs none, and would leave before they stand. */
void nbd_client_want_more(struct nbd_client *cl);
/* Cut all connections and wait until the coroutines of all slots have ended.
 * ->closing is set. */
CO_FN void nbd_client_co_end_slots(struct nbd_client *cl);
