/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An NBD export, reached over one or several connections that come back.
 *
 * Requests go to the connection with the fewest bytes in flight.  One of several,
 * or a quarter of them, is kept free of background work, whose replies would
 * arrive before those that somebody waits for.
 *
 * When a connection is lost its requests are sent again, over another one or
 * once it is back; they fail with -EIO when that takes longer than the reconnect
 * delay.  Attempts to come back go on for ever, further and further apart; a
 * request that comes after the delay has one made at once.
 *
 * An export may have several addresses.  They are tried in order, from the one
 * that was used last; all connections go to one of them, for two servers do not
 * know of each other.
 *
 * A server that is there and does not answer hangs: after a time there is an
 * event, and what only reads fails, or goes on to wait.
 *
 * The export must come back as it was: another size, or less ability, means
 * that it is not the same disk, and everything fails from then on (S6).  So do
 * flushes, when a connection was lost with writes not yet flushed: the server
 * may have lost them, and nobody could tell (G1).
 *
 * Of an export that the server says is read-only, and that is not opened to be
 * written to, some blocks are read again after a reconnect: other content is
 * another disk, too.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "storage/nbd/nbd-conn.h"

#define NBD_CONNECTIONS_MAX 16
#define NBD_TARGETS_MAX 8

struct nbd_client;
struct tls_creds;

struct nbd_client_options {
    unsigned connections;     /* at most, where the server allows it */
    struct tls_creds *creds;  /* of a client, or NULL; the client keeps a
                              * reference */
    const char *tls_hostname; /* that the server's certificate is for; NULL: the
                               * host; copied */
    uint64_t reconnect_delay_ns;
    uint64_t open_timeout_ns; /* 0: one attempt */
    uint64_t hang_timeout_ns; /* that a request waits; 0: never hangs */
    bool fail_on_hang;        /* then it fails, if it changes nothing */
    /* It begins and ends to hang, with so many requests. No yield. */
    void (*hang_event)(bool hanging, unsigned requests, void *arg);
    void *hang_arg;
};

/* Connect to one of the @n @targets, at most NBD_TARGETS_MAX, which are
 * copied. *@ret is there from the first attempt on, to be
 * interrupted; NULL again on failure. */
CO_FN int nbd_client_co_open(const struct nbd_target *targets, unsigned n,
                             const struct nbd_client_options *opts,
                             struct nbd_client **ret, GError **err);
/* No request may be under way. NULL is fine. */
CO_FN void nbd_client_co_close(struct nbd_client *cl);
/* Fail all requests, now and later. */
void nbd_client_interrupt(struct nbd_client *cl);
/* Requests that wait and that change nothing end with @verdict (-errno), now;
 * connections that they were on are made anew. */
void nbd_client_end_requests(struct nbd_client *cl, int verdict);
/* All requests that wait fail with -ECONNABORTED, those that write, too. */
void nbd_client_yank(struct nbd_client *cl);
/* What is done about a server that hangs, from now on. */
void nbd_client_set_hang(struct nbd_client *cl, uint64_t timeout_ns, bool fail);
const struct nbd_offer *nbd_client_offer(const struct nbd_client *cl);
/* As nbd_conn_co_request(), with retries; never -ENOTCONN. */
CO_FN int nbd_client_co_request(struct nbd_client *cl, struct nbd_request *r);
/* Is the export one that nobody changes, so that it must have the same content
 * after a reconnect? Then some blocks of what is read are remembered, and looked
 * at before anything else that a new connection brings. */
void nbd_client_keep_content(struct nbd_client *cl, bool keep);
/* Why it failed for good, or NULL. */
const char *nbd_client_failure(const struct nbd_client *cl);
/* Connections that are up; for tests. */
unsigned nbd_client_connected(const struct nbd_client *cl);
