/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The connections of an NBD client.  One coroutine per slot connects, reads
 * replies until the connection is lost, and connects again.  Slots after the
 * first only exist where the server says that several connections see each
 * other's writes and flushes.
 *
 * A slot
 *   down        no ->conn; nbd_slot_entry() goes to connecting, after a pause
 *               when the last attempt failed or did not last
 *     -> connecting  slot_co_connect()
 *   connecting  ->conn, and not ->up
 *     -> up          slot_begin_check(), slot_check_entry(), or
 *                    nbd_client_co_connect_first() for the first slot: the
 *                    export is as it was
 *     -> down        slot_co_connect(): refused, or no answer in time
 *     -> over        nbd_client_fail(): the export is not as it was
 *   up          ->up; nbd_conn_co_drive() reads replies, requests are sent here
 *     -> down        slot_went_down(): the connection is lost or was cut
 *   over        the client is closed or has failed: the coroutine ends
 */
#include <errno.h>
#include <inttypes.h>

#include "base/err.h"
#include "loop/io.h"
#include "storage/nbd/nbd-client-int.h"
#include "storage/trace.h"

/* So long the end waits for handshakes that are under way. */
#define HANDSHAKE_GRACE_NS (100 * NS_PER_MS)
#define HANDSHAKE_TIMEOUT_NS (10000 * NS_PER_MS)
#define BACKOFF_MAX_NS (8000 * NS_PER_MS)

unsigned nbd_client_connected(const struct nbd_client *cl)
{
    unsigned n = 0;
    for (unsigned i = 0; i < cl->nslots; i++) {
        n += cl->slots[i].up;
    }
    return n;
}

static void client_shutdown_conns(struct nbd_client *cl)
{
    for (unsigned i = 0; i < cl->nslots; i++) {
        if (cl->slots[i].conn) {
            nbd_conn_shutdown(cl->slots[i].conn);
        }
    }
}

void nbd_client_fail(struct nbd_client *cl, const char *why)
{
    if (!cl->failure) {
        cl->failure = g_strdup(why);
        trace_nbd_failed(cl->name, why);
    }
    client_shutdown_conns(cl);
    nbd_client_wake(cl);
    co_queue_wake_all(&cl->sleepers);
}

/* What was offered when the disk was opened must still be there. */
static const char *offer_mismatch(const struct nbd_offer *was,
                                  const struct nbd_offer *is)
{
    if (was->size != is->size) {
        return "the size of the export changed";
    }
    if (!g_str_equal(was->name_sum, is->name_sum)) {
        return "the name of the export changed";
    }
    if (!g_str_equal(was->description_sum, is->description_sum)) {
        return "the description of the export changed";
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

/* Another connection than @slot's stands, to another server than @slot's. */
static bool is_elsewhere(const struct nbd_slot *slot)
{
    const struct nbd_client *cl = slot->client;

    for (unsigned i = 0; i < cl->nslots; i++) {
        const struct nbd_slot *other = &cl->slots[i];

        if (other != slot && other->up && other->target != slot->target) {
            return true;
        }
    }
    return false;
}

/* The contexts of an export are asked for before the export itself: one that
 * comes into being between the two questions is offered without them. The next
 * handshake tells whether they are really gone. */
static bool is_early(struct nbd_slot *slot, const struct nbd_offer *offer)
{
    bool lost = slot->client->offer.status && !offer->status;

    slot->was_early = lost && !slot->was_early;
    return slot->was_early;
}

/* Returns 0 with the connection up in @slot. */
static CO_FN int slot_co_connect(struct nbd_slot *slot,
                                 struct nbd_offer *ret_offer, GError **err)
{
    struct nbd_client *cl = slot->client;
    const struct nbd_target *t = &cl->targets[cl->current];

    slot->target = cl->current;
    slot->conn = nbd_conn_new(t, cl->opts.creds,
                              cl->tls_hostname ? cl->tls_hostname : t->host);
    int ret = nbd_conn_co_connect(slot->conn, HANDSHAKE_TIMEOUT_NS, ret_offer,
                                  err);
    if (ret == 0 && cl->closing) {
        nbd_conn_shutdown(slot->conn);
        ret = err_set(err, ESHUTDOWN, "closing");
    }
    if (ret == 0 && is_elsewhere(slot)) {
        ret = err_set(err, ESHUTDOWN, "another server is in use already");
    }
    if (ret == 0 && is_early(slot, ret_offer)) {
        nbd_conn_shutdown(slot->conn);
        ret = err_set(err, EAGAIN, "the export tells of no extents yet");
    }
    if (ret < 0) {
        struct nbd_conn *conn = slot->conn;
        slot->conn = NULL;
        nbd_conn_co_free(conn);
        nbd_client_wake(cl);
        return ret;
    }
    cl->current = slot->target;
    trace_nbd_connected(cl->name, slot->idx, slot->target, ret_offer->size);
    return 0;
}

/* One attempt at each address, or until one answers. */
static CO_FN int slot_co_connect_any(struct nbd_slot *slot,
                                     struct nbd_offer *ret_offer, GError **err)
{
    struct nbd_client *cl = slot->client;
    GError *first = NULL;
    int ret = -ESHUTDOWN;

    for (unsigned i = 0; i < cl->n_targets; i++) {
        g_autoptr(GError) why = NULL;

        ret = slot_co_connect(slot, ret_offer, &why);
        if (ret == 0 || nbd_client_is_over(cl)) {
            break;
        }
        trace_nbd_connect_failed(cl->name, slot->idx, slot->target,
                                 why->message);
        first = first ? first : g_steal_pointer(&why);
        if (nbd_client_connected(cl) > 0) {
            break; /* the others go where that one is */
        }
        if (cl->current == slot->target) {
            cl->current = (cl->current + 1) % cl->n_targets;
        }
    }
    if (ret == 0) {
        g_clear_error(&first);
    } else if (first) {
        g_propagate_error(err, first);
    } else {
        err_set(err, ESHUTDOWN, "closing");
    }
    return ret;
}

/* Sleep, but not past the end of the client. */
static CO_FN void slot_co_pause(struct nbd_slot *slot, uint64_t ns)
{
    struct nbd_client *cl = slot->client;
    if (!nbd_client_is_over(cl)) {
        co_queue_co_wait_until(&cl->sleepers,
                               loop_clock_ns(loop_current()) + ns);
    }
}

/* Connect; the connection is then to be looked at (slot_begin_check()). */
static CO_FN void slot_co_reconnect(struct nbd_slot *slot)
{
    struct nbd_client *cl = slot->client;
    uint64_t backoff = BACKOFF_MIN_NS;

    while (!nbd_client_is_over(cl)) {
        g_autoptr(GError) why = NULL;
        struct nbd_offer offer;
        uint64_t attempt = ++cl->attempts;
        cl->attempt_ns = loop_clock_ns(loop_current());
        if (slot_co_connect_any(slot, &offer, &why) == 0) {
            const char *mismatch = offer_mismatch(&cl->offer, &offer);
            if (mismatch) {
                nbd_client_fail(cl, mismatch);
                return;
            }
            return;
        }
        cl->failed_attempt = MAX(cl->failed_attempt, attempt);
        nbd_client_wake(cl);
        slot_co_pause(slot, backoff);
        backoff = MIN(backoff * 2, BACKOFF_MAX_NS);
    }
}

/* --- is it the same content? --- */

static void check_timed_out(void *arg)
{
    nbd_conn_shutdown(arg);
}

/* 0, -ESTALE: it is not, or what became of the connection. */
static CO_FN int slot_co_check_content(struct nbd_slot *slot)
{
    struct nbd_content *c = &slot->client->content;
    uint8_t *buf = io_buf_get(NBD_CONTENT_BLOCK);
    int ret = 0;

    for (unsigned i = 0; i < c->n && ret == 0; i++) {
        struct nbd_request r = { .op = NBD_OP_READ,
                                 .off = c->blocks[i].off,
                                 .len = c->blocks[i].len,
                                 .buf = buf };

        ret = nbd_conn_co_request(slot->conn, &r);
        if (ret == 0 && !nbd_content_is(&c->blocks[i], buf)) {
            ret = -ESTALE;
        }
    }
    io_buf_put(buf, NBD_CONTENT_BLOCK);
    return ret;
}

/* A connection is up when what was read before is still there: until then no
 * other byte of it is used. */
static CO_FN void slot_check_entry(void *arg)
{
    struct nbd_slot *slot = arg;
    struct nbd_client *cl = slot->client;
    struct loop_timer timeout;
    int ret;

    loop_timer_init(&timeout, loop_current(), check_timed_out, slot->conn);
    loop_timer_arm(&timeout,
                   loop_clock_ns(loop_current()) + HANDSHAKE_TIMEOUT_NS);
    ret = slot_co_check_content(slot);
    loop_timer_cancel(&timeout);
    if (ret == -ESTALE) {
        nbd_client_fail(cl, "the content of the export changed");
    } else if (ret < 0 || nbd_client_is_over(cl) || is_elsewhere(slot)) {
        nbd_conn_shutdown(slot->conn);
    } else {
        slot->up = true;
        nbd_client_wake(cl);
    }
    co_latch_done(&slot->check);
}

/* Nothing to look at: it is up at once. */
static void slot_begin_check(struct nbd_slot *slot)
{
    if (slot->client->content.n == 0) {
        slot->up = true;
        nbd_client_wake(slot->client);
        return;
    }
    co_latch_add(&slot->check);
    co_start(loop_current(), slot_check_entry, slot);
}

static void slot_went_down(struct nbd_slot *slot, const char *why)
{
    struct nbd_client *cl = slot->client;
    bool was_up = slot->up;

    slot->up = false;
    if (!nbd_client_is_over(cl)) {
        trace_nbd_lost(cl->name, slot->idx, why);
    }
    if (was_up && nbd_client_connected(cl) == 0) {
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

    while (!nbd_client_is_over(cl)) {
        if (!slot->up) { /* the first one is, when it begins */
            slot_co_reconnect(slot);
            if (nbd_client_is_over(cl)) {
                break;
            }
            slot_begin_check(slot);
        }
        uint64_t up_ns = loop_clock_ns(loop_current());
        const char *why = nbd_conn_co_drive(slot->conn);
        struct nbd_conn *conn = slot->conn;
        slot_went_down(slot, why);
        co_latch_co_wait(&slot->check);
        slot->up = false;
        slot->conn = NULL;
        nbd_client_forget_conn(cl, conn);
        nbd_conn_co_free(conn);
        nbd_client_wake(cl);
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
        nbd_client_forget_conn(cl, conn);
        nbd_conn_co_free(conn);
    }
    co_latch_done(&cl->tasks);
}

void nbd_client_start_slots(struct nbd_client *cl, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        cl->slots[i].client = cl;
        cl->slots[i].idx = i;
        co_latch_add(&cl->tasks);
        co_start(loop_current(), nbd_slot_entry, &cl->slots[i]);
    }
}

void nbd_client_want_more(struct nbd_client *cl)
{
    unsigned had = cl->nslots;

    if (cl->requests.length > 1 && cl->offer.multi_conn &&
        had < cl->opts.connections && !nbd_client_is_over(cl)) {
        cl->nslots = cl->opts.connections;
        nbd_client_start_slots(cl, had, cl->nslots);
    }
}

/* The first connection decides whether the node opens. */
int nbd_client_co_connect_first(struct nbd_client *cl, GError **err)
{
    struct loop *l = loop_current();
    uint64_t deadline = loop_clock_ns(l) + cl->opts.open_timeout_ns;
    uint64_t backoff = BACKOFF_MIN_NS;

    cl->slots[0].client = cl;
    for (;;) {
        GError *why = NULL;
        int ret = slot_co_connect_any(&cl->slots[0], &cl->offer, &why);
        if (ret == 0) {
            cl->slots[0].up = true;
            return 0;
        }
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

static bool client_is_in_handshake(const struct nbd_client *cl)
{
    for (unsigned i = 0; i < cl->nslots; i++) {
        if (cl->slots[i].conn && !cl->slots[i].up) {
            return true;
        }
    }
    return false;
}

/* A server takes a connection that ends in the handshake for a fault, and says
 * so in its log. Let those that are on their way arrive, for a moment. */
static CO_FN void client_co_end_handshakes(struct nbd_client *cl)
{
    uint64_t deadline = loop_clock_ns(loop_current()) + HANDSHAKE_GRACE_NS;

    while (!cl->failure && client_is_in_handshake(cl) &&
           co_queue_co_wait_until(&cl->waiters, deadline)) {
    }
}

void nbd_client_co_end_slots(struct nbd_client *cl)
{
    client_co_end_handshakes(cl);
    client_shutdown_conns(cl);
    co_queue_wake_all(&cl->sleepers);
    nbd_client_wake(cl);
    co_latch_co_wait(&cl->tasks);
}
