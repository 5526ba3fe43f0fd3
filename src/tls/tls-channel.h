/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel with TLS over another channel.
 *
 * It is used as any channel is, once the handshake is done: one coroutine reads,
 * one writes, time-outs and shutdown work the same.  The end of the stream is an
 * end that the peer has signed; one that was cut off reads as -ECONNRESET.
 *
 * The loop is never blocked: GnuTLS works on memory, and the handshake, whose
 * arithmetic takes milliseconds, runs in the thread pool.
 */
#pragma once
#include <glib.h>
#include "base/annot.h"

struct channel;
struct tls_creds;

/* The server's or the client's end, as @creds are. @hostname is what a client
 * wants to find in the server's certificate; NULL for a server. Takes @under,
 * but not on failure, which is -ENOMEM. */
int tls_channel_new(struct channel *under, struct tls_creds *creds,
                    const char *hostname, struct channel **ret, GError **err);
/* To be called once, before anything is read or written. -EACCES with the reason
 * when the peer could not prove who it is, -EPROTO, what the channel below
 * says. Waits for ever: whoever calls has a timer that shuts the channel
 * down. */
CO_FN int tls_channel_co_handshake(struct channel *c, GError **err);
/* Who the client is, proven: the distinguished name of its certificate, or the
 * user of its key; NULL when nothing proves it. Borrowed. */
const char *tls_channel_identity(const struct channel *c);
/* What the peer said when it ended the session by an alert, or NULL: a server of
 * TLS 1.3 refuses a client after the handshake that is good for the client. */
const char *tls_channel_alert(const struct channel *c);
/* "TLS1.3 AES-256-GCM", for people. */
const char *tls_channel_version(const struct channel *c);
