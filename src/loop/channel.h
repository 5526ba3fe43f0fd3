/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A channel: a byte connection of a loop, over a socket or, in tests and in
 * the deterministic simulation, over memory.  One coroutine reads and one
 * writes at a time.  SIGPIPE is never raised.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include "base/annot.h"
#include "base/iov.h"

struct loop;
struct channel;
struct listener;

/* Wrap connected socket @fd; takes ownership of it. */
struct channel *channel_new_fd(struct loop *l, int fd);
/* Two ends of a memory pipe of @capacity bytes each way. */
void channel_new_pair(struct loop *l, size_t capacity,
                      struct channel *ret_ends[2]);
/* No coroutine may be inside. NULL is fine. */
void channel_free(struct channel *c);

/* @c is used on @l from now on. By its loop, while no coroutine is inside and
 * channel_let_linger() was not called. */
void channel_move(struct channel *c, struct loop *l);

/* Read 1..@len bytes. Returns the count, 0 at end of stream, -errno.
 * -ETIMEDOUT when nothing came within @timeout_ns (0 = wait for ever).
 * -ESHUTDOWN after channel_shutdown(). */
CO_FN ssize_t channel_co_read(struct channel *c, void *buf, size_t len,
                              uint64_t timeout_ns);
/* Read exactly @len bytes. 0; -EPIPE at a clean end before the first byte,
 * -ECONNRESET at an end inside, else as channel_co_read(). */
CO_FN int channel_co_read_full(struct channel *c, void *buf, size_t len,
                               uint64_t timeout_ns);
/* Keep descriptors that come with the bytes (SCM_RIGHTS), a few of them, for
 * channel_take_fd(); else they are dropped. Sockets alone. */
void channel_accept_fds(struct channel *c);
/* The oldest of them, the caller's from now on; -1: there is none. */
int channel_take_fd(struct channel *c);
/* From now on the writer of @c need not be told at once that its bytes are sent,
 * if @may_linger(@arg) says so when the loop is about to sleep: it is told when the
 * loop wakes up for another reason, which saves a system call.  True therefore only
 * while nobody waits for the writer, directly or not. A hint; for sockets. */
void channel_let_linger(struct channel *c, bool (*may_linger)(void *arg),
                        void *arg);
/* Is a coroutine inside channel_co_read()? */
bool channel_is_reading(const struct channel *c);
/* Write all of @iov. -ETIMEDOUT when no byte moved for @stall_ns. */
CO_FN int channel_co_write(struct channel *c, struct iov iov,
                           uint64_t stall_ns);

/* Wake reader and writer with -ESHUTDOWN, now and for ever; the peer sees the
 * end of the stream. Loop thread. */
void channel_shutdown(struct channel *c);
/* Send no more: the peer sees the end of the stream and may still write. */
void channel_shutdown_write(struct channel *c);
/* Tell the peer that this was all, where the end of the stream alone does not
 * prove it (TLS). Takes at most about @timeout_ns. Nobody may be writing. */
CO_FN void channel_co_finish(struct channel *c, uint64_t timeout_ns);
/* Has the peer closed its end, or shut it down for writing?  Also while bytes
 * of it are unread. No yield. */
bool channel_peer_has_ended(const struct channel *c);
/* Wait for readiness of a descriptor that somebody else reads and writes
 * (libnbd). @events and the result are poll(2) bits. -ETIMEDOUT. */
CO_FN int channel_co_poll_fd(int fd, short events, uint64_t timeout_ns);

/* The descriptor, still the channel's; -1 for memory. For libraries that do
 * the transfers themselves (libnbd). */
int channel_fd(const struct channel *c);

const char *channel_describe(const struct channel *c);

/* Who may connect to a Unix socket that is listened on. */
struct sock_access {
    mode_t mode;
    uint32_t owner, group; /* UINT32_MAX: those of the process */
};
/* From the words of a user: an octal number, a name or number of a user, one
 * of a group. Each may be NULL: the mode is then 0600, and 0660 with a group.
 * -EINVAL: not such a number, no such user or group. */
CO_FN int sock_access_co_parse(const char *mode, const char *owner,
                               const char *group, struct sock_access *ret,
                               GError **err);

/* An address: exactly one of @path (Unix) or @host+@port (TCP). Borrowed. */
struct sock_addr {
    const char *path;
    const char *host;
    const char *port;
    const struct sock_access *access; /* for listening; NULL: mode 0600 */
    bool any_network;                 /* for listening: not on loopback only */
};
/* Bind and listen; then @on_accept(channel, @arg) for each connection, owning
 * it. A Unix path that a dead server left behind is replaced, one that answers
 * is -EADDRINUSE. Mode, owner and group of the socket are set before anybody can
 * connect; -EPERM where the process may not. TCP other than loopback: -EPERM unless
 * @addr says any_network. */
int listener_new(struct loop *l, const struct sock_addr *addr,
                 void (*on_accept)(struct channel *c, void *arg), void *arg,
                 struct listener **ret_listener, GError **err);
/* Stop accepting, unlink a Unix path. NULL is fine. */
void listener_free(struct listener *ls);
/* Port that TCP bound (for port "0"); 0 for Unix. */
unsigned listener_port(const struct listener *ls);
/* Connect as a client. */
CO_FN int channel_co_connect(const struct sock_addr *addr,
                             struct channel **ret_c, GError **err);
