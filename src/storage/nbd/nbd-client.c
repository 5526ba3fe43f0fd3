/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One coroutine per slot connects, reads replies until the connection is lost,
 * and connects again.  Slots after the first only exist where the server says
 * that several connections see each other's writes and flushes.
 *
 * Every request stands in ->requests while it waits, in order of arrival, for
 * whatever reason it waits.  So one timer on the first tells that the server
 * hangs, and requests can be ended before it answers: they get a verdict, and
 * the connections that they are on are cut, for the memory that a reply would
 * fill is the caller's.  Requests that were cut off without being meant are
 * sent again.  Only what changes nothing is ended like that, and no connection
 * is cut while the server holds writes that are not flushed: it would be the
 * loss of them, as far as anybody could tell.
 */
#include "storage/nbd/nbd-client.h"

#include <errno.h>
#include <inttypes.h>

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/trace.h"
#include "tls/tls-creds.h"
#include "wire/nbd-uri.h"

#define NS_PER_MS UINT64_C(1000000)
/* So long the end waits for handshakes that are under way. */
#define HANDSHAKE_GRACE_NS (100 * NS_PER_MS)
#define HANDSHAKE_TIMEOUT_NS (10000 * NS_PER_MS)
#define BACKOFF_MIN_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS (8000 * NS_PER_MS)
#define SHUTTING_DOWN_NS (50 * NS_PER_MS)
#define IN_FLIGHT_MAX 64u
/* What a request is worth beside its data, bytes. */
#define REQUEST_LOAD 4096u
/* How long a request waits for the one attempt to reconnect that it is due
 * after the reconnect delay. */
#define LAST_ATTEMPT_NS (2000 * NS_PER_MS)

/* Between two looks at a server that hangs. */
#define HANG_LOOK_NS (1000 * NS_PER_MS)

/* A request that waits; on the stack of who made it. */
struct pending {
    GList link; /* in client->requests */
    enum nbd_op op;
    uint64_t since_ns;
    struct nbd_conn *conn; /* that it is on, or NULL */
    int verdict;           /* how it is to end, -errno; 0: open */
    bool cut;              /* its connection was cut for others' sake */
};

struct nbd_slot {
    struct nbd_client *client;
    unsigned idx;
    unsigned target;       /* index of the server that it is connected to */
    struct nbd_conn *conn; /* also while connecting */
    uint64_t load;         /* what is under way on it: request_load() */
    bool up;
    bool was_early; /* the last handshake looks like one that came too early */
};

struct nbd_client {
    struct nbd_target targets[NBD_TARGETS_MAX];
    unsigned n_targets;
    unsigned current; /* the target that is tried, or used */
    struct nbd_client_options opts;
    char *name; /* of the first target, for people */
    char *tls_hostname;
    struct nbd_offer offer;
    struct nbd_slot slots[NBD_CONNECTIONS_MAX];
    unsigned nslots;
    struct co_queue waiters;  /* requests without a connection */
    struct co_queue room[2];  /* where all are full: demand; background */
    struct co_queue sleepers; /* slots between two attempts */
    struct co_latch tasks;
    uint64_t lost_ns;        /* when the last connection went */
    uint64_t attempt_ns;     /* when the last attempt to connect began */
    uint64_t attempts;       /* to connect again: begun so far ... */
    uint64_t failed_attempt; /* ... and the latest that failed */
    GQueue requests;         /* struct pending, oldest first */
    unsigned changing;       /* of them, those that write or flush */
    struct loop_timer hang_timer;
    bool hanging;
    uint64_t written, flushed; /* changes acknowledged / of them durable */
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

/* Connections came or went: whoever waits looks again. */
static void client_wake(struct nbd_client *cl)
{
    co_queue_wake_all(&cl->waiters);
    co_queue_wake_all(&cl->room[0]);
    co_queue_wake_all(&cl->room[1]);
}

static bool client_is_over(const struct nbd_client *cl)
{
    return cl->closing || cl->failure;
}

/* --- requests that wait --- */

static bool op_changes(enum nbd_op op)
{
    return op == NBD_OP_WRITE || op == NBD_OP_TRIM || op == NBD_OP_ZERO;
}

static bool is_safe_to_end(const struct pending *p)
{
    return p->op == NBD_OP_READ || p->op == NBD_OP_STATUS ||
           p->op == NBD_OP_CACHE;
}

/* Cut @conn; whoever else is on it is to send again. */
static void client_cut(struct nbd_client *cl, struct nbd_conn *conn)
{
    for (GList *l = cl->requests.head; l; l = l->next) {
        struct pending *p = l->data;

        p->cut = p->cut || p->conn == conn;
    }
    nbd_conn_shutdown(conn);
}

/* @conn is about to be freed: requests on it end in a moment. */
static void client_forget_conn(struct nbd_client *cl,
                               const struct nbd_conn *conn)
{
    for (GList *l = cl->requests.head; l; l = l->next) {
        struct pending *p = l->data;

        p->conn = p->conn == conn ? NULL : p->conn;
    }
}

/* End with @verdict what has waited since @until_ns or longer; with @all what
 * writes, too, whatever is lost by it. */
static void client_end_requests(struct nbd_client *cl, uint64_t until_ns,
                                int verdict, bool all)
{
    bool may_cut = all || (cl->changing == 0 && cl->written == cl->flushed);

    for (GList *l = cl->requests.head; l; l = l->next) {
        struct pending *p = l->data;

        if (p->since_ns > until_ns || p->verdict ||
            !(all || is_safe_to_end(p)) || (p->conn && !may_cut)) {
            continue;
        }
        trace_nbd_end_request(cl->name, nbd_op_name(p->op), verdict);
        p->verdict = verdict;
        if (p->conn && nbd_conn_is_usable(p->conn)) {
            client_cut(cl, p->conn);
        }
    }
    client_wake(cl);
}

void nbd_client_end_requests(struct nbd_client *cl, int verdict)
{
    client_end_requests(cl, UINT64_MAX, verdict, false);
}

void nbd_client_yank(struct nbd_client *cl)
{
    client_end_requests(cl, UINT64_MAX, -ECONNABORTED, true);
}

static struct pending *client_oldest(struct nbd_client *cl)
{
    return g_queue_peek_head(&cl->requests);
}

static void client_set_hanging(struct nbd_client *cl, bool hanging)
{
    if (cl->hanging != hanging) {
        cl->hanging = hanging;
        trace_nbd_hang(cl->name, hanging, cl->requests.length);
        if (cl->opts.hang_event) {
            cl->opts.hang_event(hanging, cl->requests.length,
                                cl->opts.hang_arg);
        }
    }
}

/* Look at the oldest request: does it hang, and when will it? */
static void client_hang_timer(void *arg)
{
    struct nbd_client *cl = arg;
    uint64_t timeout = cl->opts.hang_timeout_ns;
    uint64_t now = loop_clock_ns(loop_current());
    struct pending *p = client_oldest(cl);

    if (!p || !timeout || client_is_over(cl)) {
        return;
    }
    if (now - p->since_ns < timeout) {
        loop_timer_arm(&cl->hang_timer, p->since_ns + timeout);
        return;
    }
    client_set_hanging(cl, true);
    if (cl->opts.fail_on_hang) {
        client_end_requests(cl, now - timeout, -ETIMEDOUT, false);
    }
    loop_timer_arm(&cl->hang_timer, now + MIN(timeout, HANG_LOOK_NS));
}

static void pending_begin(struct nbd_client *cl, struct pending *p)
{
    p->link.data = p;
    p->since_ns = loop_clock_ns(loop_current());
    g_queue_push_tail_link(&cl->requests, &p->link);
    cl->changing += !is_safe_to_end(p);
    if (cl->opts.hang_timeout_ns && cl->requests.length == 1) {
        loop_timer_arm(&cl->hang_timer, p->since_ns + cl->opts.hang_timeout_ns);
    }
}

static void pending_end(struct nbd_client *cl, struct pending *p)
{
    uint64_t now = loop_clock_ns(loop_current());
    struct pending *oldest;

    g_queue_unlink(&cl->requests, &p->link);
    cl->changing -= !is_safe_to_end(p);
    oldest = client_oldest(cl);
    if (!oldest || now - oldest->since_ns < cl->opts.hang_timeout_ns) {
        client_set_hanging(cl, false);
    }
}

void nbd_client_set_hang(struct nbd_client *cl, uint64_t timeout_ns, bool fail)
{
    cl->opts.hang_timeout_ns = timeout_ns;
    cl->opts.fail_on_hang = fail;
    client_set_hanging(cl, false);
    loop_timer_cancel(&cl->hang_timer);
    client_hang_timer(cl);
}

/* --- connections --- */

static void nbd_client_fail(struct nbd_client *cl, const char *why)
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
    client_wake(cl);
    co_queue_wake_all(&cl->sleepers);
}

void nbd_client_interrupt(struct nbd_client *cl)
{
    nbd_client_fail(cl, "the daemon is shutting down");
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
        client_wake(cl);
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
        if (ret == 0 || client_is_over(cl)) {
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
        uint64_t attempt = ++cl->attempts;
        cl->attempt_ns = loop_clock_ns(loop_current());
        if (slot_co_connect_any(slot, &offer, &why) == 0) {
            const char *mismatch = offer_mismatch(&cl->offer, &offer);
            if (mismatch) {
                nbd_client_fail(cl, mismatch);
                return;
            }
            slot->up = true;
            client_wake(cl);
            return;
        }
        cl->failed_attempt = MAX(cl->failed_attempt, attempt);
        client_wake(cl);
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
        client_forget_conn(cl, conn);
        nbd_conn_co_free(conn);
        client_wake(cl);
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
        client_forget_conn(cl, conn);
        nbd_conn_co_free(conn);
    }
    co_latch_done(&cl->tasks);
}

static void client_start_slots(struct nbd_client *cl, unsigned from,
                               unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        cl->slots[i].client = cl;
        cl->slots[i].idx = i;
        co_latch_add(&cl->tasks);
        co_start(loop_current(), nbd_slot_entry, &cl->slots[i]);
    }
}

/* More connections are made when two requests are under way at once: who only
 * looks at an image needs none, and would leave before they stand. */
static void client_want_more(struct nbd_client *cl)
{
    unsigned had = cl->nslots;

    if (cl->requests.length > 1 && cl->offer.multi_conn &&
        had < cl->opts.connections && !client_is_over(cl)) {
        cl->nslots = cl->opts.connections;
        client_start_slots(cl, had, cl->nslots);
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

static void nbd_client_release(struct nbd_client *cl)
{
    g_assert(cl->requests.length == 0);
    loop_timer_cancel(&cl->hang_timer);
    for (unsigned i = 0; i < cl->n_targets; i++) {
        nbd_target_clear(&cl->targets[i]);
    }
    tls_creds_unref(cl->opts.creds);
    g_free(cl->tls_hostname);
    g_free(cl->name);
    g_free(cl->failure);
    g_free(cl);
}

int nbd_client_co_open(const struct nbd_target *targets, unsigned n,
                       const struct nbd_client_options *opts,
                       struct nbd_client **ret, GError **err)
{
    struct nbd_client *cl = g_new0(struct nbd_client, 1);

    g_assert(n > 0 && n <= NBD_TARGETS_MAX);
    cl->n_targets = n;
    for (unsigned i = 0; i < n; i++) {
        cl->targets[i] = (struct nbd_target) {
            .path = g_strdup(targets[i].path),
            .host = g_strdup(targets[i].host),
            .port = g_strdup(targets[i].port),
            .export_name = g_strdup(targets[i].export_name),
        };
    }
    cl->opts = *opts;
    cl->opts.creds = opts->creds ? tls_creds_ref(opts->creds) : NULL;
    cl->opts.tls_hostname = NULL;
    cl->tls_hostname = g_strdup(opts->tls_hostname);
    cl->opts.connections = CLAMP(opts->connections, 1, NBD_CONNECTIONS_MAX);
    cl->name = nbd_uri_format(&targets[0]);
    cl->nslots = 1;
    loop_timer_init(&cl->hang_timer, loop_current(), client_hang_timer, cl);
    *ret = cl; /* may be interrupted from here on */
    int r = client_co_connect_first(cl, err);
    if (r < 0) {
        *ret = NULL;
        nbd_client_release(cl);
        return r;
    }
    client_start_slots(cl, 0, 1);
    return 0;
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

void nbd_client_co_close(struct nbd_client *cl)
{
    if (!cl) {
        return;
    }
    cl->closing = true;
    client_co_end_handshakes(cl);
    for (unsigned i = 0; i < cl->nslots; i++) {
        if (cl->slots[i].conn) {
            nbd_conn_shutdown(cl->slots[i].conn);
        }
    }
    co_queue_wake_all(&cl->sleepers);
    client_wake(cl);
    co_latch_co_wait(&cl->tasks);
    nbd_client_release(cl);
}

/* --- requests --- */

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
static bool client_gives_up(struct nbd_client *cl, const struct pending *p,
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
static CO_FN int client_co_wait(struct nbd_client *cl, const struct pending *p,
                                bool background, uint64_t first_lost_ns,
                                struct nbd_slot **ret_slot)
{
    uint64_t asked = cl->attempts, deadline;

    for (;;) {
        if (p->verdict) {
            return p->verdict;
        }
        if (client_is_over(cl)) {
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
                                struct pending *p)
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
    struct pending p = { .op = r->op };
    int ret;

    pending_begin(cl, &p);
    client_want_more(cl);
    ret = client_co_send(cl, r, &p);
    pending_end(cl, &p);
    if (ret < 0) {
        trace_nbd_io_error(cl->name, nbd_op_name(r->op), r->off, r->len, ret);
    }
    return ret;
}
