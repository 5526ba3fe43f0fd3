/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server's inside.
 *
 *   server.c        listens, gives slots to connections, holds the budget
 *   hub.c           what the servers of all loops share
 *   nbd-export.c    the export driver
 *   conn.c          life of a connection: wait for a slot, handshake,
 *                   transmission, end; being asked to stop
 *   handshake.c     reads options, keeps their limits, sends replies
 *   options.c       table of option handlers;  meta.c: the two on contexts
 *   access.c        TLS, and which client may use which export
 *   transmission.c  reader coroutine: requests from the socket into flight
 *   request.c       table of commands, one coroutine for each request
 *   orphan.c        writes whose client is gone
 *   status.c        block status
 *   reply.c         replies and the writer coroutine
 *   bitmap.c        dirty bitmaps that an export shows
 *   uri.c           addresses of exports
 *
 * A connection has two coroutines, reader and writer, and one for each request
 * in flight.  Requests read nothing and write nothing on the socket.  The
 * reader ends first; it waits until nothing is in flight, then ends the writer
 * and frees the connection.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "base/dirty-map.h"
#include "base/iov.h"
#include "export/export-int.h"
#include "export/nbd/hub.h"
#include "export/nbd/limits.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "wire/nbd.h"

/* A dirty bitmap, which is busy as long as the export is there. */
struct nbd_bitmap {
    struct node *node; /* that has it; referenced */
    char *name;
    char *context; /* "qemu:dirty-bitmap:NAME" */
    /* What is marked; NULL: it records, so it is looked at for each request. */
    struct dirty_map *bits;
};

struct nbd_export {
    struct export e;
    char *name; /* that clients ask for */
    bool allocation_depth;
    struct nbd_place *place; /* where all loops find it */
    char *description;       /* or NULL */
    char *authz; /* id of the rules for who may use it; NULL: everybody */
    unsigned n_bitmaps;
    struct nbd_bitmap bitmaps[NBD_MAX_BITMAPS];
    unsigned n_conns;
};
extern const struct export_driver nbd_export_driver;

struct nbd_server {
    struct exports *exports;
    struct loop *loop;
    struct listener *listener;
    /* Of clients; itself for the one that listens. It outlives its connections,
     * wherever they are. */
    struct nbd_server *home;
    char *path, *host;       /* where that listens; one of them is NULL */
    unsigned port;           /* with host */
    struct tls_creds *creds; /* NULL: without TLS */
    char *authz; /* id of the rules for who gets in at all; or NULL */
    unsigned max_conns;
    GQueue conns;         /* struct nbd_conn, oldest first */
    unsigned n_slots;     /* taken, home only; at most max_conns */
    unsigned n_away;      /* connections that have moved; home only */
    unsigned n_half_open; /* not (yet) in transmission */
    uint64_t share;       /* bytes a connection owns of the budget ... */
    uint64_t excess;      /* ... and what all took beyond theirs */
    uint64_t max_excess;
    GQueue orphans; /* struct nbd_request, see orphan.c */
    struct co_queue orphan_done;
    uint64_t next_serial;  /* of writes */
    struct co_queue slot;  /* connections that wait for a slot */
    struct co_queue room;  /* readers that wait for the budget */
    struct co_queue empty; /* who waits for the last connection */
    bool stopping;
    bool ending; /* nbd_server_co_end() is at work */
};

enum nbd_context_id {
    NBD_CTX_ALLOCATION,
    NBD_CTX_DEPTH,
    NBD_CTX_BITMAP, /* the first of them */
    NBD_CTX_COUNT = NBD_CTX_BITMAP + NBD_MAX_BITMAPS
};
/* The id on the wire; 0 is what LIST_META_CONTEXT shows. */
#define NBD_CTX_WIRE_ID(ctx) ((uint32_t)(ctx) + 1)

struct nbd_conn {
    GList link; /* in server->conns */
    struct nbd_server *server;
    struct nbd_server *home; /* where it came in, and has its slot */
    bool away;               /* it has moved */
    struct exports *moving;  /* there it moves now, or NULL */
    struct channel *ch;
    struct nbd_export *exp; /* from GO or EXPORT_NAME on; holds a reference */
    bool transmitting;
    bool stopping;           /* asked to go: new work gets ESHUTDOWN */
    bool broken;             /* nobody reads replies any more */
    struct loop_timer timer; /* end of the handshake, or of a stop */
    uint64_t stop_deadline_ns;

    /* handshake */
    uint64_t deadline_ns;      /* of it */
    bool fixed;                /* newstyle: it may have several options */
    struct nbd_opt_header opt; /* the one at hand; its payload is in ->rx */
    bool tls;                  /* all goes through TLS from here on */
    const char *identity;      /* who the client is, or NULL; the channel's */
    bool no_zeroes, structured;
    unsigned options_remaining;
    bool listed;       /* LIST has added to options_remaining */
    GByteArray *out;   /* replies to the option at hand */
    char *meta_export; /* that the contexts were chosen for, or NULL */
    bool contexts[NBD_CTX_COUNT];

    /* reader: bytes [rx_start, rx_end) are not parsed yet */
    uint8_t *rx;
    size_t rx_start, rx_end;

    /* in flight, until the reply is sent */
    unsigned in_flight;
    uint64_t payload;
    struct co_queue room; /* the reader, until less is in flight */
    unsigned n_parts;     /* requests that wait until a part is sent */
    struct nbd_request *spare;
    GQueue writes; /* struct nbd_request: those that write */
    bool looked;   /* for clients that are gone, since the last recv */
    bool orphaned; /* no more is read, or the client is gone */
    bool barred;   /* gone, and others have written: writes nothing */

    /* replies, in order of completion */
    struct nbd_request *tx_head, **tx_tail;
    struct co *writer;
    bool writing; /* it has not ended */
    bool writer_idle;
    bool writer_end; /* it should */
    struct iovec tx_v[NBD_TX_VECTORS];
};

/* A reply is one or more of these: a header, then borrowed data. */
struct nbd_chunk {
    struct iov data;
    uint8_t head_len;
    uint8_t head[NBD_CHUNK_HEAD_MAX];
};

struct nbd_request {
    struct nbd_request *next; /* spare, or waiting to be sent */
    struct nbd_conn *conn;
    const struct nbd_command *cmd;
    struct nbd_request_header h;
    uint64_t cost;   /* bytes of the budget */
    uint64_t serial; /* of a write: older or newer */
    GQueue *queue;   /* that has @link: conn's or server's */
    GList link;
    struct co *part_sent; /* wake it, the request goes on */
    struct iovec one;     /* payload: @bufs is it or allocated */
    struct iovec *bufs;
    unsigned n_bufs;
    struct nbd_chunk first; /* reply: @chunks is it or allocated */
    struct nbd_chunk *chunks;
    unsigned n_chunks;
    struct iovec extra[NBD_CTX_COUNT]; /* owned (g_free): text, extents */
};

/* --- server.c --- */
struct nbd_server *nbd_server_get(struct exports *es);
/* A server that listens nowhere: connections are handed to it. */
struct nbd_server *nbd_server_new(struct exports *es, unsigned max_conns);
/* Can rules @authz (an id) be asked about clients of the server? -ENOENT,
 * -EINVAL. */
int nbd_server_check_authz(const struct exports *es, const char *authz,
                           GError **err);
/* Serve @ch, which it takes; @arg is the server. */
void nbd_server_accept(struct channel *ch, void *arg);
/* Wait until @cost bytes fit both budgets and take them; false when the
 * connection is lost meanwhile. */
CO_FN bool nbd_budget_co_take(struct nbd_conn *c, uint64_t cost);
void nbd_budget_put(struct nbd_conn *c, uint64_t cost);
/* Is the server of @es the one that listens? */
bool nbd_server_is_home(const struct exports *es);
/* The server for an export of @es, made when there is none here yet; NULL: none is
 * running. */
struct nbd_server *nbd_server_for_export(struct exports *es);
/* A connection that has come in at @home and moved is gone. Any thread. */
void nbd_server_away_ended(struct nbd_server *home);
/* Make the oldest of those go that have not begun transmission. */
void nbd_server_push_out(struct nbd_server *s);
/* @c has begun transmission, or is gone. */
void nbd_server_half_open_done(struct nbd_server *s);

/* --- nbd-export.c --- */
/* The export of that name if @c may use it: to others it does not exist. */
struct nbd_export *nbd_export_find(const struct nbd_conn *c,
                                   struct nbd_text name);
/* Ids of the rules of all exports and of the server; the caller owns it. */
GPtrArray *nbd_export_rules(const struct nbd_server *s);
/* Can @c use it now? */
bool nbd_export_is_for(const struct nbd_export *ne, const struct nbd_conn *c);
uint64_t nbd_export_size(const struct nbd_export *ne);
/* Transmission flags for @c. */
uint16_t nbd_export_flags(const struct nbd_export *ne,
                          const struct nbd_conn *c);

/* --- bitmap.c --- */
/* Option "bitmaps". On failure nbd_bitmaps_co_free() follows. */
CO_FN int nbd_bitmaps_co_take(struct nbd_export *ne, struct opts *o,
                              GError **err);
CO_FN void nbd_bitmaps_co_free(struct nbd_export *ne);
/* What is marked in @b now: borrowed, or, *@ret_own, the caller's. */
CO_FN int nbd_bitmap_co_bits(const struct nbd_bitmap *b,
                             struct dirty_map **ret_bits,
                             struct dirty_map **ret_own);

/* --- conn.c --- */
void nbd_conn_start(struct nbd_server *s, struct channel *ch);
/* Ask to go: what is in flight is answered, the rest gets ESHUTDOWN. */
void nbd_conn_stop(struct nbd_conn *c);
/* The stream is lost: drop it and all replies. */
void nbd_conn_break(struct nbd_conn *c);

/* --- handshake.c, options.c, meta.c --- */
struct nbd_option {
    uint32_t opt;
    const uint8_t *data;
    uint32_t len;
};
/* 0 when transmission may begin, -errno to drop; NBD_MOVES: @c goes on on the
 * loop of c->moving, there with nbd_handshake_co_resume(). */
#define NBD_MOVES 1
CO_FN int nbd_handshake_co_run(struct nbd_conn *c);
CO_FN int nbd_handshake_co_resume(struct nbd_conn *c);
void nbd_opt_reply(struct nbd_conn *c, uint32_t opt, uint32_t type,
                   const void *data, size_t len);
/* Text for a person; cut to what the protocol allows. */
void nbd_opt_error(struct nbd_conn *c, uint32_t opt, uint32_t type,
                   const char *fmt, ...) PRINTF_LIKE(4, 5);
/* A name as error texts show it: short, printable. Owned. */
char *nbd_text_show(struct nbd_text t);

enum nbd_opt_result {
    NBD_OPT_DROP,
    NBD_OPT_NEXT,
    NBD_OPT_TLS, /* the bytes behind the reply are TLS */
    NBD_OPT_END,
    NBD_OPT_MOVE, /* to the loop of c->moving, to be handled there */
    NBD_OPT_BEGIN
};
/* The exports of another loop that option @o is about, or NULL; as
 * nbd_hub_find_other(). */
struct exports *nbd_opt_find_other(const struct nbd_conn *c,
                                   const struct nbd_option *o);
/* Puts replies into c->out. Does not yield. */
enum nbd_opt_result nbd_opt_handle(struct nbd_conn *c,
                                   const struct nbd_option *o);
enum nbd_opt_result nbd_opt_list_meta(struct nbd_conn *c,
                                      const struct nbd_option *o);
enum nbd_opt_result nbd_opt_set_meta(struct nbd_conn *c,
                                     const struct nbd_option *o);
void nbd_meta_forget(struct nbd_conn *c);

/* --- access.c --- */
/* Must @c begin TLS before it may do anything else? */
bool nbd_access_needs_tls(const struct nbd_conn *c);
/* Make c->ch a TLS channel, and see who the client is. @rules: ids that it may be
 * judged by. -errno: the handshake failed, or the client is not let in. */
CO_FN int nbd_access_co_start_tls(struct nbd_conn *c, const GPtrArray *rules);
/* Do the rules @authz (an id, or NULL: none) let @c in? */
bool nbd_access_allows(const struct nbd_conn *c, const char *authz);

/* --- transmission.c --- */
/* Until the client or the server ends it; nothing is in flight afterwards. */
CO_FN void nbd_transmission_co_run(struct nbd_conn *c);

/* --- orphan.c --- */
/* @r is going to write: register it among the writes, and bar clients that
 * are gone and whose requests it must not be overtaken by. */
void nbd_write_register(struct nbd_request *r);
/* Wait until no orphan is under way that would land behind @r. */
CO_FN void nbd_write_co_begin(struct nbd_request *r);
void nbd_write_end(struct nbd_request *r);
/* Nothing more comes from @c: its writes under way are orphans. */
void nbd_orphans_add(struct nbd_conn *c);

/* --- request.c --- */
/* NULL for a number that is no command. */
const struct nbd_command *nbd_command_find(uint16_t cmd);
/* For texts; @cmd may be NULL. */
const char *nbd_command_name(const struct nbd_command *cmd);
/* Bytes of the budget that a request needs. */
uint64_t nbd_request_cost(const struct nbd_conn *c,
                          const struct nbd_request_header *h);
struct nbd_request *nbd_request_new(struct nbd_conn *c,
                                    const struct nbd_request_header *h,
                                    uint64_t cost);
/* Buffers for @len bytes, in segments that cannot fail. */
void nbd_request_alloc(struct nbd_request *r, uint32_t len);
struct iov nbd_request_iov(struct nbd_request *r, size_t off, size_t len);
void nbd_request_free_bufs(struct nbd_request *r);
/* Check it; then start its coroutine, or queue the error reply. */
void nbd_request_submit(struct nbd_request *r);
/* Return it to its connection, with all it holds. */
void nbd_request_release(struct nbd_request *r);

/* --- status.c --- */
CO_FN int nbd_request_co_status(struct nbd_request *r);

/* --- reply.c --- */
/* Drop the reply made so far. */
void nbd_reply_reset(struct nbd_request *r);
/* Begin a reply of at most @n chunks; the caller fills what add() returns. */
void nbd_reply_begin(struct nbd_request *r, unsigned n);
struct nbd_chunk *nbd_reply_add(struct nbd_request *r);
/* Give the request @data (of g_malloc) to free; returns the window over it. */
struct iov nbd_reply_own(struct nbd_request *r, void *data, size_t len);
/* A chunk of a read; @data.len bytes of zeroes need no data. */
void nbd_reply_add_read(struct nbd_request *r, uint64_t off, struct iov data,
                        bool zero, bool done);
void nbd_reply_simple_data(struct nbd_request *r, struct iov data);
void nbd_reply_success(struct nbd_request *r);
/* @text is for a person: may be NULL, then errno's. */
void nbd_reply_error(struct nbd_request *r, int errnum, const char *text);
/* Hand the reply to the writer, which releases the request. */
void nbd_reply_queue(struct nbd_request *r);
/* Send what there is and come back when it is sent. -errno: nobody reads. */
CO_FN int nbd_reply_co_part(struct nbd_request *r);
void nbd_writer_start(struct nbd_conn *c);
CO_FN void nbd_writer_co_stop(struct nbd_conn *c);
