/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What stands under a channel: a socket (channel.c) or memory (channel-pipe.c).
 * Both do the least there is, one transfer of at least one byte; the loops
 * around it and the checks stand once, in channel.c.
 */
#pragma once
#include "loop/channel.h"

struct channel_ops {
    /* 1..len bytes, 0 at the end of the stream, -errno, -ETIMEDOUT. */
    CO_FN_PTR ssize_t (*co_recv)(struct channel *c, void *buf, size_t len,
                                 uint64_t timeout_ns);
    /* 1..iov.len bytes, -errno, -ETIMEDOUT. */
    CO_FN_PTR ssize_t (*co_send)(struct channel *c, struct iov iov,
                                 uint64_t timeout_ns);
    /* Wake whoever is inside; they look at ->shut. */
    void (*shutdown)(struct channel *c);
    void (*shutdown_write)(struct channel *c);
    /* ->loop has changed; NULL: nothing else is to be done. */
    void (*moved)(struct channel *c);
    bool (*peer_has_ended)(const struct channel *c);
    /* Say that this was all; NULL where the end of the stream says it. */
    CO_FN_PTR void (*co_finish)(struct channel *c, uint64_t timeout_ns);
    void (*free)(struct channel *c);
};

struct channel {
    const struct channel_ops *ops;
    struct loop *loop;
    char *description;
    bool shut;             /* channel_shutdown() was called, for ever */
    bool reading, writing; /* one coroutine each: asserted */
};

void channel_init(struct channel *c, const struct channel_ops *ops,
                  struct loop *l, char *description);

/* Fill @ret_ss from a numeric address or "localhost"; 0 or -errno with @err.
 * Never asks a name service, so it may run on a loop thread. */
int sock_addr_numeric(const struct sock_addr *addr,
                      struct sockaddr_storage *ret_ss, socklen_t *ret_len,
                      GError **err);
int sock_addr_unix(const char *path, struct sockaddr_storage *ret_ss,
                   socklen_t *ret_len, GError **err);
bool sock_addr_is_loopback(const struct sockaddr_storage *ss);
