/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader: requests from the stream into flight.
 *
 * One recv() fills a buffer with as many requests as have come.  All that are
 * complete are started before the reader waits again, so what they ask of a
 * file is submitted in one batch.  Small payloads are copied out of that
 * buffer; the rest of a large one is read straight into its final place.
 *
 * A request takes its share of the budgets before its payload is read: at a
 * limit the reader just stops reading, and the client feels it.
 */
#include <errno.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "export/trace.h"

#define READER_DISC 1

/* Have at least @n unparsed bytes; @n <= NBD_RX_SIZE. */
static CO_FN int reader_co_need(struct nbd_conn *c, size_t n,
                                uint64_t timeout_ns)
{
    while (c->rx_end - c->rx_start < n) {
        ssize_t got;
        if (c->rx_start > 0) {
            memmove(c->rx, c->rx + c->rx_start, c->rx_end - c->rx_start);
            c->rx_end -= c->rx_start;
            c->rx_start = 0;
        }
        got = channel_co_read(c->ch, c->rx + c->rx_end, NBD_RX_SIZE - c->rx_end,
                              timeout_ns);
        if (got <= 0) {
            return got < 0 ? (int)got : -EPIPE;
        }
        c->looked = false;
        c->rx_end += (size_t)got;
    }
    return 0;
}

/* Take up to @len bytes that are here already. */
static size_t reader_take(struct nbd_conn *c, void *buf, size_t len)
{
    size_t n = MIN(len, c->rx_end - c->rx_start);

    if (buf) {
        memcpy(buf, c->rx + c->rx_start, n);
    }
    c->rx_start += n;
    return n;
}

static CO_FN int reader_co_skip(struct nbd_conn *c, size_t len)
{
    int ret = 0;

    while (len > 0 && ret == 0) {
        len -= reader_take(c, NULL, len);
        if (len > 0) {
            ret = reader_co_need(c, 1, NBD_STALL_NS);
        }
    }
    return ret;
}

static CO_FN int reader_co_payload(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    int ret = 0;

    nbd_request_alloc(r, r->h.len);
    for (unsigned i = 0; i < r->n_bufs && ret == 0; i++) {
        uint8_t *buf = r->bufs[i].iov_base;
        size_t len = r->bufs[i].iov_len;
        size_t n = reader_take(c, buf, len);
        if (n < len) {
            ret = channel_co_read_full(c->ch, buf + n, len - n, NBD_STALL_NS);
            c->looked = false;
        }
    }
    return ret;
}

static CO_FN int reader_co_write_request(struct nbd_request *r)
{
    if (r->h.len > NBD_MAX_WRITE_SKIP) {
        return -EPROTO;
    }
    if (r->h.len > NBD_MAX_PAYLOAD) {
        return reader_co_skip(r->conn, r->h.len);
    }
    return reader_co_payload(r);
}

/* Returns 0, READER_DISC, or -errno at the end of the stream. */
static CO_FN int reader_co_request(struct nbd_conn *c)
{
    struct nbd_request_header h;
    struct nbd_request *r;
    uint64_t cost;
    int ret = reader_co_need(c, NBD_REQUEST_SIZE, 0);

    if (ret < 0) {
        return ret;
    }
    ret = nbd_decode_request(c->rx + c->rx_start, &h);
    if (ret < 0) {
        return ret;
    }
    c->rx_start += NBD_REQUEST_SIZE;
    if (h.cmd == NBD_CMD_DISC) {
        return READER_DISC;
    }
    cost = nbd_request_cost(c, &h);
    if (!nbd_budget_co_take(c, cost)) {
        return -ESHUTDOWN;
    }
    r = nbd_request_new(c, &h, cost);
    if (h.cmd == NBD_CMD_WRITE) {
        ret = reader_co_write_request(r);
    }
    if (ret < 0) {
        nbd_request_release(r);
        return ret;
    }
    nbd_request_submit(r);
    return 0;
}

void nbd_transmission_co_run(struct nbd_conn *c)
{
    int ret = 0;

    nbd_writer_start(c);
    while (ret == 0) {
        ret = reader_co_request(c);
    }
    nbd_orphans_add(c);
    /* A client that sends no more may still read: what it asked for is
     * answered.  One that breaks the protocol or stalls is dropped. */
    if (ret < 0 && ret != -EPIPE && ret != -ECONNRESET) {
        nbd_conn_break(c);
    }
    while (c->in_flight > 0) {
        co_queue_co_wait(&c->room);
    }
    nbd_writer_co_stop(c);
    trace_nbd_server_end(c, ret);
    while (c->spare) {
        struct nbd_request *r = c->spare;
        c->spare = r->next;
        g_free(r);
    }
}
