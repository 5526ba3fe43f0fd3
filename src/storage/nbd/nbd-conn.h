/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One connection to an NBD server: a libnbd handle that a loop drives.
 *
 * libnbd speaks the protocol and never blocks.  Two coroutines feed it: the
 * one in nbd_conn_co_drive() when there is something to read, and a writer of
 * its own while a request could not be sent at once.  The socket is ours and
 * libnbd works on a duplicate: shutting ours down wakes everybody, whatever
 * libnbd did to its own.
 *
 * Everything runs on one loop's thread, where the handle also dies.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "base/annot.h"

struct nbd_conn;
struct nbd_target;
struct tls_creds;

#define NBD_SUM_LEN 64

/* What the server offers. */
struct nbd_offer {
    uint64_t size;
    uint32_t min_block; /* power of two, 1..64 KiB */
    uint32_t max_block; /* of payload; at least 64 KiB */
    bool read_only, multi_conn, status;
    bool flush, fua, trim, zero, fast_zero, cache;
    /* Checksums of what the server calls the export, empty where it does not
     * say: its own name for it, and the description. */
    char name_sum[NBD_SUM_LEN + 1], description_sum[NBD_SUM_LEN + 1];
};

enum nbd_op {
    NBD_OP_READ,
    NBD_OP_WRITE,
    NBD_OP_FLUSH,
    NBD_OP_TRIM,
    NBD_OP_ZERO,
    NBD_OP_CACHE,
    NBD_OP_STATUS
};
enum nbd_request_flags {
    NBD_REQUEST_FUA = 1 << 0,
    NBD_REQUEST_NO_HOLE = 1 << 1,
    NBD_REQUEST_FAST_ZERO = 1 << 2,
    NBD_REQUEST_BACKGROUND = 1
                             << 3, /* others go first; the server is not told */
};
const char *nbd_op_name(enum nbd_op op);

struct nbd_request {
    enum nbd_op op;
    uint64_t off, len;
    void *buf;       /* read, write */
    unsigned flags;  /* enum nbd_request_flags */
    GArray *entries; /* status: uint32_t length, flags, ... */
};

/* Never fails; @t and @creds are borrowed for the connection's life.  With @creds
 * it goes through TLS, to a server that has a certificate for @hostname. */
struct nbd_conn *nbd_conn_new(const struct nbd_target *t,
                              struct tls_creds *creds, const char *hostname);
/* Connect and negotiate within @timeout_ns. */
CO_FN int nbd_conn_co_connect(struct nbd_conn *c, uint64_t timeout_ns,
                              struct nbd_offer *ret_offer, GError **err);
/* Read replies until the connection is lost; returns a text that says why,
 * owned by @c. */
CO_FN const char *nbd_conn_co_drive(struct nbd_conn *c);
/* Would a request be sent? False once the connection is lost. */
bool nbd_conn_is_usable(const struct nbd_conn *c);
/* Requests without a reply. */
unsigned nbd_conn_in_flight(const struct nbd_conn *c);
/* One request of at most what the server takes. 0, the server's -errno, or
 * -ENOTCONN: the connection was lost, nobody knows whether it was done. */
CO_FN int nbd_conn_co_request(struct nbd_conn *c, struct nbd_request *r);
/* Tell the server goodbye when nothing is in flight, and end
 * nbd_conn_co_drive() or nbd_conn_co_connect(). */
void nbd_conn_shutdown(struct nbd_conn *c);
/* Nobody may be inside nbd_conn_co_drive(). NULL is fine. */
CO_FN void nbd_conn_co_free(struct nbd_conn *c);
