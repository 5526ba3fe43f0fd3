/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Replies, and the writer coroutine that sends them.
 *
 * A request that is done puts itself at the end of the connection's queue and
 * wakes the writer.  The writer runs after all that became ready in the same
 * turn, so it finds their replies together and sends them in one call.
 * Memory that a chunk points to lives until the writer releases the request.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "export/trace.h"

/* --- making one --- */

void nbd_reply_reset(struct nbd_request *r)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(r->extra); i++) {
        g_free(r->extra[i].iov_base);
        r->extra[i].iov_base = NULL;
    }
    if (r->chunks != &r->first) {
        g_free(r->chunks);
    }
    r->chunks = NULL;
    r->n_chunks = 0;
}

void nbd_reply_begin(struct nbd_request *r, unsigned n)
{
    nbd_reply_reset(r);
    r->chunks = n > 1 ? g_new(struct nbd_chunk, n) : &r->first;
}

struct nbd_chunk *nbd_reply_add(struct nbd_request *r)
{
    struct nbd_chunk *k = &r->chunks[r->n_chunks++];

    k->data = (struct iov) { 0 };
    return k;
}

struct iov nbd_reply_own(struct nbd_request *r, void *data, size_t len)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(r->extra); i++) {
        if (!r->extra[i].iov_base) {
            return iov_one(&r->extra[i], data, len);
        }
    }
    g_assert_not_reached();
}

void nbd_reply_add_read(struct nbd_request *r, uint64_t off, struct iov data,
                        bool zero, bool done)
{
    struct nbd_chunk *k = nbd_reply_add(r);
    uint16_t flags = done ? NBD_CHUNK_FLAG_DONE : 0;
    uint32_t len = (uint32_t)data.len;

    if (zero) {
        k->head_len = (uint8_t)nbd_encode_chunk_hole(k->head, r->h.cookie,
                                                     flags, off, len);
    } else {
        k->head_len = (uint8_t)nbd_encode_chunk_data(k->head, r->h.cookie,
                                                     flags, off, len);
        k->data = data;
    }
}

void nbd_reply_simple_data(struct nbd_request *r, struct iov data)
{
    struct nbd_chunk *k;

    nbd_reply_begin(r, 1);
    k = nbd_reply_add(r);
    nbd_encode_simple_reply(k->head, r->h.cookie, NBD_SUCCESS);
    k->head_len = NBD_SIMPLE_REPLY_SIZE;
    k->data = data;
}

/* Of a read, once chunks were agreed on, every reply is chunks. */
void nbd_reply_success(struct nbd_request *r)
{
    struct nbd_chunk *k;

    nbd_reply_begin(r, 1);
    k = nbd_reply_add(r);
    if (r->conn->structured && r->h.cmd == NBD_CMD_READ) {
        k->head_len = (uint8_t)nbd_encode_chunk_none(k->head, r->h.cookie);
    } else {
        nbd_encode_simple_reply(k->head, r->h.cookie, NBD_SUCCESS);
        k->head_len = NBD_SIMPLE_REPLY_SIZE;
    }
}

void nbd_reply_error(struct nbd_request *r, int errnum, const char *text)
{
    uint32_t error = nbd_error_from_errno(errnum);
    struct nbd_chunk *k;

    trace_nbd_server_error(r->conn, nbd_command_name(r->cmd), r->h.offset,
                           r->h.len, errnum);
    nbd_reply_begin(r, 1);
    k = nbd_reply_add(r);
    if (r->conn->structured) {
        char *full = g_strdup_printf(
            "%s at offset %" PRIu64 " length %" PRIu32 ": %s",
            nbd_command_name(r->cmd), r->h.offset, r->h.len,
            text ? text : g_strerror(errnum));
        size_t len = strlen(full);
        k->head_len = (uint8_t)nbd_encode_chunk_error(
            k->head, r->h.cookie, NBD_CHUNK_FLAG_DONE, error, (uint16_t)len);
        k->data = nbd_reply_own(r, full, len);
    } else {
        nbd_encode_simple_reply(k->head, r->h.cookie, error);
        k->head_len = NBD_SIMPLE_REPLY_SIZE;
    }
}

/* --- sending --- */

static void writer_wake(struct nbd_conn *c)
{
    if (c->writer_idle) {
        c->writer_idle = false;
        co_wake(c->writer);
    }
}

void nbd_reply_queue(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;

    r->next = NULL;
    *c->tx_tail = r;
    c->tx_tail = &r->next;
    writer_wake(c);
}

int nbd_reply_co_part(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;

    r->part_sent = co_self();
    c->n_parts++;
    nbd_reply_queue(r);
    while (r->part_sent) {
        co_yield ();
    }
    c->n_parts--;
    return c->broken ? -ESHUTDOWN : 0;
}

/* Upper bound of the vectors that @r takes. */
static unsigned reply_vectors(const struct nbd_request *r)
{
    return 2 * r->n_chunks + r->n_bufs;
}

static unsigned reply_export(const struct nbd_request *r, struct iovec *v,
                             unsigned max, size_t *len)
{
    unsigned n = 0;

    for (unsigned i = 0; i < r->n_chunks; i++) {
        struct nbd_chunk *k = &r->chunks[i];
        size_t part = 0;
        v[n++] = (struct iovec) { k->head, k->head_len };
        if (k->data.len > 0) {
            n += iov_export(k->data, v + n, max - n, &part);
            g_assert(part == k->data.len);
        }
        *len += k->head_len + part;
    }
    return n;
}

/* Take replies off the queue, as many as the vectors hold. */
static struct nbd_request *writer_gather(struct nbd_conn *c, unsigned *ret_n,
                                         size_t *ret_len)
{
    struct nbd_request *batch = c->tx_head, **end = &c->tx_head;
    unsigned n = 0;
    size_t len = 0;

    while (*end && (n == 0 || n + reply_vectors(*end) <= NBD_TX_VECTORS)) {
        n += reply_export(*end, c->tx_v + n, NBD_TX_VECTORS - n, &len);
        end = &(*end)->next;
    }
    c->tx_head = *end;
    if (!c->tx_head) {
        c->tx_tail = &c->tx_head;
    }
    *end = NULL;
    *ret_n = n;
    *ret_len = len;
    return batch;
}

static void writer_done(struct nbd_request *r)
{
    if (r->part_sent) {
        struct co *co = r->part_sent;
        r->part_sent = NULL;
        co_wake(co);
    } else {
        nbd_request_release(r);
    }
}

static CO_FN void writer_co_batch(struct nbd_conn *c)
{
    unsigned n;
    size_t len;
    struct nbd_request *batch = writer_gather(c, &n, &len);

    if (!c->broken) {
        struct iov iov = { .v = c->tx_v, .n = n, .len = len };
        if (channel_co_write(c->ch, iov, NBD_STALL_NS) < 0) {
            nbd_conn_break(c);
        }
    }
    while (batch) {
        struct nbd_request *r = batch;
        batch = r->next;
        writer_done(r);
    }
}

static CO_FN void nbd_reply_writer_entry(void *arg)
{
    struct nbd_conn *c = arg;

    c->writer = co_self();
    while (c->tx_head || !c->writer_end) {
        if (c->tx_head) {
            writer_co_batch(c);
        } else {
            c->writer_idle = true;
            co_yield ();
            c->writer_idle = false;
        }
    }
    c->writer = NULL;
    c->writing = false;
    co_queue_wake_all(&c->room);
}

/* Only the writer itself, which has nothing more to send, waits for the bytes to
 * be sent: the reader waits for the client, and nobody for the memory of the
 * replies. */
static bool writer_may_linger(void *arg)
{
    const struct nbd_conn *c = arg;

    return !c->tx_head && !c->writer_end && c->n_parts == 0 &&
           channel_is_reading(c->ch) && co_queue_empty(&c->room) &&
           co_queue_empty(&c->server->room);
}

void nbd_writer_start(struct nbd_conn *c)
{
    c->writing = true;
    channel_let_linger(c->ch, writer_may_linger, c);
    co_start(c->server->loop, nbd_reply_writer_entry, c);
}

void nbd_writer_co_stop(struct nbd_conn *c)
{
    c->writer_end = true;
    writer_wake(c);
    while (c->writing) {
        co_queue_co_wait(&c->room);
    }
}
