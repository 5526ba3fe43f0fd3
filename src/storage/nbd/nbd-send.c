/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A request's way to one of the connections: it waits until there is one with
 * room, is sent there, and is sent again when the connection is lost before the
 * reply.
 */
#include <errno.h>
#include <inttypes.h>

#include "storage/nbd/nbd-client-int.h"
#include "storage/trace.h"

#define SHUTTING_DOWN_NS (50 * NS_PER_MS)
#define IN_FLIGHT_MAX 64u
/* What a request is worth beside its data, bytes. */
#define REQUEST_LOAD 4096u
/* How long a request waits for the one attempt to reconnect that it is due
 * after the reconnect delay. */
#define LAST_ATTEMPT_NS (2000 * NS_PER_MS)

static bool slot_is_usable(const struct nbd_slot *slot)
{
    return slot->up && nbd_conn_is_usable(slot->conn);
}

/* How many connections are for demand alone: a quarter of several. What is sent
 * on one connection arrives in order, so a reply there waits for all the data
 * that background work has asked for before. */
static unsigned client_reserved(const struct nbd_client *cl)
{
    unsigned usable = 0;

    for (unsigned i = 0; i < cl->nslots; i++) {
        usable += slot_is_usable(&cl->slots[i]);
    }
    return usable > 1 ? MAX(usable / 4, 1) : 0;
}

/* How long others on the same connection wait for it: bytes, more or less. */
static uint64_t request_load(const struct nbd_request *r)
{
    return REQUEST_LOAD +
           (r->op == NBD_OP_READ || r->op == NBD_OP_WRITE ? r->len : 0);
}

static struct nbd_slot *client_pick(struct nbd_client *cl, bool background)
{
    unsigned skip = background ? client_reserved(cl) : 0;
    struct nbd_slot *best = NULL;

    for (unsigned i = 0; i < cl->nslots; i++) {
        struct nbd_slot *slot = &cl->slots[i];

        if (!slot_is_usable(slot)) {
            continue;
        }
        if (skip > 0) {
            skip--;
        } else if (nbd_conn_in_flight(slot->conn) < IN_FLIGHT_MAX &&
                   (!best || slot->load < best->load)) {
            best = slot;
        }
    }
    return best;
}

/* A request does not wait for the end of a pause between two attempts, however
 * long it has become.  After the reconnect delay it still gets one attempt of
 * its own, so that a server that has come back is found.
 * @asked: attempts that had begun when the request came. */
static bool client_gives_up(struct nbd_client *cl, const struct nbd_pending *p,
                            uint64_t asked, uint64_t *ret_deadline_ns)
{
    uint64_t now = loop_clock_ns(loop_current());
    uint64_t deadline = cl->lost_ns + cl->opts.reconnect_delay_ns;

    if (now >= deadline) {
        deadline = p->since_ns + LAST_ATTEMPT_NS;
        co_queue_wake_all(&cl->sleepers);
        if (cl->failed_attempt > asked || now >= deadline) {
            return true;
        }
    } else if (now - cl->attempt_ns >= BACKOFF_MIN_NS) {
        co_queue_wake_all(&cl->sleepers);
    }
    *ret_deadline_ns = deadline;
    return false;
}

/* Wait for a connection with room. -EIO when none comes back in time;
 * @first_lost_ns is when this request was first lost, 0: never. */
static CO_FN int client_co_wait(struct nbd_client *cl,
                                const struct nbd_pending *p, bool background,
                                uint64_t first_lost_ns,
                                struct nbd_slot **ret_slot)
{
    uint64_t asked = cl->attempts, deadline;

    for (;;) {
        if (p->verdict) {
            return p->verdict;
        }
        if (nbd_client_is_over(cl)) {
            return -EIO;
        }
        if (first_lost_ns && loop_clock_ns(loop_current()) >=
                                 first_lost_ns + cl->opts.reconnect_delay_ns) {
            return -EIO;
        }
        *ret_slot = client_pick(cl, background);
        if (*ret_slot) {
            return 0;
        }
        if (nbd_client_connected(cl) > 0) {
            /* All are full, or their slots are about to notice the loss. */
            co_queue_co_wait(&cl->room[background]);
            continue;
        }
        if (client_gives_up(cl, p, asked, &deadline)) {
            return -EIO;
        }
        co_queue_co_wait_until(&cl->waiters, deadline);
    }
}

static bool op_changes(enum nbd_op op)
{
    return op == NBD_OP_WRITE || op == NBD_OP_TRIM || op == NBD_OP_ZERO;
}

/* Book what is durable. @written is the count when the request was sent. */
static int client_account(struct nbd_client *cl, const struct nbd_request *r,
                          uint64_t written, int ret)
{
    if (ret < 0) {
        return ret;
    }
    if (op_changes(r->op) && !(r->flags & NBD_REQUEST_FUA)) {
        cl->written++;
    } else if (r->op == NBD_OP_FLUSH) {
        if (cl->flush_broken) {
            return -EIO;
        }
        cl->flushed = MAX(cl->flushed, written);
    }
    return 0;
}

/* Send @r, again and again if need be. */
static CO_FN int client_co_send(struct nbd_client *cl, struct nbd_request *r,
                                struct nbd_pending *p)
{
    uint64_t first_lost_ns = 0;

    for (;;) {
        struct nbd_slot *slot = NULL;
        int ret = client_co_wait(cl, p, r->flags & NBD_REQUEST_BACKGROUND,
                                 first_lost_ns, &slot);
        if (ret != 0) {
            return ret;
        }
        uint64_t written = cl->written;
        p->cut = false;
        p->conn = slot->conn;
        slot->load += request_load(r);
        ret = nbd_conn_co_request(slot->conn, r);
        slot->load -= request_load(r);
        p->conn = NULL;
        /* Not all may use what became free. */
        co_queue_wake_one(&cl->room[0]);
        co_queue_wake_one(&cl->room[1]);
        if (ret != -ENOTCONN && ret != -ESHUTDOWN) {
            return client_account(cl, r, written, ret);
        }
        if (!first_lost_ns && !p->cut) {
            first_lost_ns = loop_clock_ns(loop_current());
        }
        if (ret == -ESHUTDOWN) {
            /* The server is about to go; the connection still stands. */
            co_sleep(SHUTTING_DOWN_NS);
        }
    }
}

int nbd_client_co_request(struct nbd_client *cl, struct nbd_request *r)
{
    struct nbd_pending p = { .op = r->op };
    int ret;

    nbd_pending_begin(cl, &p);
    nbd_client_want_more(cl);
    ret = client_co_send(cl, r, &p);
    nbd_pending_end(cl, &p);
    if (ret == 0 && r->op == NBD_OP_READ && cl->keeps_content) {
        nbd_content_add(&cl->content, r->off, r->buf, r->len);
    }
    if (ret < 0) {
        trace_nbd_io_error(cl->name, nbd_op_name(r->op), r->off, r->len, ret);
    }
    return ret;
}
