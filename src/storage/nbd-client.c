/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One coroutine per slot connects, reads replies until the connection is lost,
 * and connects again.  Slots after the first only exist where the server says
 * that several connections see each other's writes and flushes.
 */
#include "storage/nbd-client.h"

#include <errno.h>
#include <inttypes.h>

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/trace.h"
#include "wire/nbd-uri.h"

#define NS_PER_MS UINT64_C(1000000)
#define HANDSHAKE_TIMEOUT_NS (10000 * NS_PER_MS)
#define BACKOFF_MIN_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS (8000 * NS_PER_MS)
#define SHUTTING_DOWN_NS (50 * NS_PER_MS)
#define IN_FLIGHT_MAX 64u

struct nbd_slot {
    struct nbd_client *client;
    unsigned idx;
    struct nbd_conn *conn;         /* also while connecting */
    bool up;
};

struct nbd_client {
    struct nbd_target target;
    struct nbd_client_options opts;
    char *name;                    /* of the target, for people */
    struct nbd_offer offer;
    struct nbd_slot slots[NBD_CONNECTIONS_MAX];
    unsigned nslots;
    struct co_queue waiters;       /* requests without a connection */
    struct co_queue sleepers;      /* slots between two attempts */
    struct co_latch tasks;
    uint64_t lost_ns;              /* when the last connection went */
    uint64_t written, flushed;     /* changes acknowledged / of them durable */
    bool flush_broken, closing;
    char *failure;
};

const struct nbd_offer *nbd_client_offer(const struct nbd_client *cl)
{
    return &cl->offer;
}

const char *nbd_client_failure(const struct nbd_client *cl)
{
    return cl->failure;
}

unsigned nbd_client_connected(const struct nbd_client *cl)
{
    unsigned n = 0;
    for (unsigned i = 0; i < cl->nslots; i++) {
        n += cl->slots[i].up;
    }
    return n;
}

static bool client_is_over(const struct nbd_client *cl)
{
    return cl->closing || cl->failure;
}

/* --- connections --- */

static void client_fail(struct nbd_client *cl, const char *why)
{
    if (!cl->failure) {
        cl->failure = g_strdup(why);
        trace_nbd_failed(cl->name, why);
    }
    for (unsigned i = 0; i < cl->nslots; i++) {
        if (cl->slots[i].conn) {
            nbd_conn_shutdown(cl->slots[i].conn);
        }
    }
    co_queue_wake_all(&cl->waiters);
    co_queue_wake_all(&cl->sleepers);
}

void nbd_client_interrupt(struct nbd_client *cl)
{
    client_fail(cl, "the daemon is shutting down");
}

/* What was offered when the disk was opened must still be there. */
static const char *offer_mismatch(const struct nbd_offer *was,
                                  const struct nbd_offer *is)
{
    if (was->size != is->size) {
        return "the size of the export changed";
    }
    if (is->min_block > was->min_block || is->max_block < was->max_block) {
        return "the block sizes of the export changed";
    }
    if (!was->read_only && is->read_only) {
        return "the export became read-only";
    }
    if ((was->flush && !is->flush) || (was->fua && !is->fua) ||
        (was->trim && !is->trim) || (was->zero && !is->zero) ||
        (was->fast_zero && !is->fast_zero) || (was->cache && !is->cache) ||
        (was->status && !is->status)) {
        return "the server offers less than before";
    }
    return NULL;
}

/* Returns 0 with the connection up in @slot. */
static CO_FN int slot_co_connect(struct nbd_slot *slot,
                                 struct nbd_offer *ret_offer, GError **err)
{
    struct nbd_client *cl = slot->client;

    slot->conn = nbd_conn_new(&cl->target);
    int ret = nbd_conn_co_connect(slot->conn, HANDSHAKE_TIMEOUT_NS, ret_offer,
                                  err);
    if (ret == 0 && cl->closing) {
        ret = err_set(err, ESHUTDOWN, "closing");
    }
    if (ret < 0) {
        struct nbd_conn *conn = slot->conn;
        slot->conn = NULL;
        nbd_conn_co_free(conn);
        return ret;
    }
    trace_nbd_connected(cl->name, slot->idx, ret_offer->size);
    return 0;
}

/* Sleep, but not past the end of the client. */
static CO_FN void slot_co_pause(struct nbd_slot *slot, uint64_t ns)
{
    struct nbd_client *cl = slot->client;
    if (!client_is_over(cl)) {
        co_queue_co_wait_until(&cl->sleepers,
                               loop_clock_ns(loop_current()) + ns);
    }
}

static CO_FN void slot_co_reconnect(struct nbd_slot *slot)
{
    struct nbd_client *cl = slot->client;
    uint64_t backoff = BACKOFF_MIN_NS;

    while (!client_is_over(cl) && !slot->up) {
        g_autoptr(GError) why = NULL;
        struct nbd_offer offer;
        if (slot_co_connect(slot, &offer, &why) == 0) {
            const char *mismatch = offer_mismatch(&cl->offer, &offer);
            if (mismatch) {
                client_fail(cl, mismatch);
                return;
            }
            slot->up = true;
            co_queue_wake_all(&cl->waiters);
            return;
        }
        trace_nbd_connect_failed(cl->name, slot->idx, why->message);
        slot_co_pause(slot, backoff);
        backoff = MIN(backoff * 2, BACKOFF_MAX_NS);
    }
}

static void slot_went_down(struct nbd_slot *slot, const char *why)
{
    struct nbd_client *cl = slot->client;

    slot->up = false;
    if (!client_is_over(cl)) {
        trace_nbd_lost(cl->name, slot->idx, why);
    }
    if (nbd_client_connected(cl) == 0) {
        cl->lost_ns = loop_clock_ns(loop_current());
    }
    if (cl->written > cl->flushed && !cl->closing) {
        cl->flush_broken = true;
    }
}

static CO_FN void nbd_slot_entry(void *arg)
{
    struct nbd_slot *slot = arg;
    struct nbd_client *cl = slot->client;

    while (!client_is_over(cl)) {
        slot_co_reconnect(slot);
        if (!slot->up) {
            break;
        }
        uint64_t up_ns = loop_clock_ns(loop_current());
        const char *why = nbd_conn_co_drive(slot->conn);
        struct nbd_conn *conn = slot->conn;
        slot_went_down(slot, why);
        slot->conn = NULL;
        nbd_conn_co_free(conn);
        co_queue_wake_all(&cl->waiters);
        /* A server that takes connections only to drop them is not asked as
         * fast as it drops. */
        if (loop_clock_ns(loop_current()) - up_ns < BACKOFF_MAX_NS) {
            slot_co_pause(slot, BACKOFF_MIN_NS);
        }
    }
    if (slot->conn) {
        struct nbd_conn *conn = slot->conn;
        slot->up = false;
        slot->conn = NULL;
        nbd_conn_co_free(conn);
    }
    co_latch_done(&cl->tasks);
}

static void client_start_slots(struct nbd_client *cl)
{
    cl->nslots = cl->offer.multi_conn ? cl->opts.connections : 1;
    for (unsigned i = 0; i < cl->nslots; i++) {
        cl->slots[i].client = cl;
        cl->slots[i].idx = i;
        co_latch_add(&cl->tasks);
        co_start(loop_current(), nbd_slot_entry, &cl->slots[i]);
    }
}

/* The first connection decides whether the node opens. */
static CO_FN int client_co_connect_first(struct nbd_client *cl, GError **err)
{
    struct loop *l = loop_current();
    uint64_t deadline = loop_clock_ns(l) + cl->opts.open_timeout_ns;
    uint64_t backoff = BACKOFF_MIN_NS;

    cl->slots[0].client = cl;
    for (;;) {
        GError *why = NULL;
        int ret = slot_co_connect(&cl->slots[0], &cl->offer, &why);
        if (ret == 0) {
            cl->slots[0].up = true;
            return 0;
        }
        trace_nbd_connect_failed(cl->name, 0, why->message);
        if (cl->failure || loop_clock_ns(l) + backoff >= deadline) {
            g_propagate_error(err, why);
            return ret;
        }
        g_error_free(why);
        co_queue_co_wait_until(&cl->sleepers, loop_clock_ns(l) + backoff);
        if (cl->failure) {
            return err_set(err, ESHUTDOWN, "%s", cl->failure);
        }
        backoff = MIN(backoff * 2, NS_PER_MS * 1000);
    }
}

static void client_free(struct nbd_client *cl)
{
    nbd_target_clear(&cl->target);
    g_free(cl->name);
    g_free(cl->failure);
    g_free(cl);
}

int nbd_client_co_open(const struct nbd_target *t,
                       const struct nbd_client_options *opts,
                       struct nbd_client **ret, GError **err)
{
    struct nbd_client *cl = g_new0(struct nbd_client, 1);

    cl->target = (struct nbd_target){
        .path = g_strdup(t->path),
        .host = g_strdup(t->host),
        .port = g_strdup(t->port),
        .export_name = g_strdup(t->export_name),
    };
    cl->opts = *opts;
    cl->opts.connections = CLAMP(opts->connections, 1, NBD_CONNECTIONS_MAX);
    cl->name = nbd_uri_format(t);
    cl->nslots = 1;
    *ret = cl; /* may be interrupted from here on */
    int r = client_co_connect_first(cl, err);
    if (r < 0) {
        *ret = NULL;
        client_free(cl);
        return r;
    }
    client_start_slots(cl);
    return 0;
}

void nbd_client_co_close(struct nbd_client *cl)
{
    if (!cl) {
        return;
    }
    cl->closing = true;
    for (unsigned i = 0; i < cl->nslots; i++) {
        if (cl->slots[i].conn) {
            nbd_conn_shutdown(cl->slots[i].conn);
        }
    }
    co_queue_wake_all(&cl->sleepers);
    co_queue_wake_all(&cl->waiters);
    co_latch_co_wait(&cl->tasks);
    client_free(cl);
}

/* --- requests --- */

static struct nbd_slot *client_pick(struct nbd_client *cl)
{
    struct nbd_slot *best = NULL;
    unsigned best_load = IN_FLIGHT_MAX;

    for (unsigned i = 0; i < cl->nslots; i++) {
        struct nbd_slot *slot = &cl->slots[i];
        if (slot->up && nbd_conn_is_usable(slot->conn) &&
            nbd_conn_in_flight(slot->conn) < best_load) {
            best = slot;
            best_load = nbd_conn_in_flight(slot->conn);
        }
    }
    return best;
}

/* Wait for a connection with room. -EIO when none comes back in time;
 * @first_lost_ns is when this request was first lost, 0: never. */
static CO_FN int client_co_wait(struct nbd_client *cl, uint64_t first_lost_ns,
                                struct nbd_slot **ret_slot)
{
    for (;;) {
        if (client_is_over(cl)) {
            return -EIO;
        }
        uint64_t now = loop_clock_ns(loop_current());
        if (first_lost_ns &&
            now >= first_lost_ns + cl->opts.reconnect_delay_ns) {
            return -EIO;
        }
        *ret_slot = client_pick(cl);
        if (*ret_slot) {
            return 0;
        }
        if (nbd_client_connected(cl) > 0) {
            /* All are full, or their slots are about to notice the loss. */
            co_queue_co_wait(&cl->waiters);
            continue;
        }
        uint64_t deadline = cl->lost_ns + cl->opts.reconnect_delay_ns;
        if (now >= deadline) {
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

int nbd_client_co_request(struct nbd_client *cl, struct nbd_request *r)
{
    uint64_t first_lost_ns = 0;
    int ret;

    for (;;) {
        struct nbd_slot *slot;
        ret = client_co_wait(cl, first_lost_ns, &slot);
        if (ret < 0) {
            break;
        }
        uint64_t written = cl->written;
        ret = nbd_conn_co_request(slot->conn, r);
        co_queue_wake_one(&cl->waiters);
        if (ret != -ENOTCONN && ret != -ESHUTDOWN) {
            ret = client_account(cl, r, written, ret);
            break;
        }
        if (!first_lost_ns) {
            first_lost_ns = loop_clock_ns(loop_current());
        }
        if (ret == -ESHUTDOWN) {
            /* The server is about to go; the connection still stands. */
            co_co_sleep(SHUTTING_DOWN_NS);
        }
    }
    if (ret < 0) {
        trace_nbd_io_error(cl->name, nbd_op_name(r->op), r->off, r->len, ret);
    }
    return ret;
}
