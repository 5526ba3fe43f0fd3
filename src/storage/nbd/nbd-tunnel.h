/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * TLS to an NBD server, below libnbd.
 *
 * libnbd verifies a certificate only if it has looked up the name of the host
 * itself, which blocks.  So the beginning of the protocol up to TLS is spoken
 * here, and libnbd, which gets one end of a pair of sockets, sees a server
 * without TLS: the greeting is repeated for it, and everything behind goes
 * through the tunnel as it is.
 *
 * There is no way back to plain text: a server that does not begin TLS, or that
 * cannot prove who it is, is an error.
 */
#pragma once
#include <glib.h>
#include <stdint.h>
#include "base/annot.h"

struct channel;
struct tls_creds;
struct nbd_tunnel;

/* Takes @server, a channel that nothing was read from. */
struct nbd_tunnel *nbd_tunnel_new(struct channel *server);
/* Begin TLS as a client that expects a certificate for @hostname, within
 * @timeout_ns. *@ret_fd: a socket, the caller's, with the greeting of an NBD
 * server in it. -EACCES: one of both could not prove who it is. */
CO_FN int nbd_tunnel_co_open(struct nbd_tunnel *t, struct tls_creds *creds,
                             const char *hostname, uint64_t timeout_ns,
                             int *ret_fd, GError **err);
/* Why the server ended TLS, if it said so; or NULL. */
const char *nbd_tunnel_alert(const struct nbd_tunnel *t);
/* Cut it off; who is in nbd_tunnel_co_open() comes back. */
void nbd_tunnel_shutdown(struct nbd_tunnel *t);
/* The other end of *@ret_fd is closed: send what is left of it, say goodbye,
 * but not for long. NULL is fine. */
CO_FN void nbd_tunnel_co_free(struct nbd_tunnel *t);
