/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every request stands in ->requests while it waits, in order of arrival, for
 * whatever reason it waits.  So one timer on the first tells that the server
 * hangs, and requests can be ended before it answers: they get a verdict, and
 * the connections that they are on are cut, because the memory that a reply
 * would fill is the caller's.  Requests of others that were on such a connection
 * are sent again.
 *
 * Only what changes nothing is ended like that, and no connection is cut while
 * the server holds writes that are not flushed: nobody could tell whether they
 * are lost.
 */
#include <errno.h>
#include <inttypes.h>

#include "storage/nbd/nbd-client-int.h"
#include "storage/trace.h"

/* Between two looks at a server that hangs. */
#define HANG_LOOK_NS (1000 * NS_PER_MS)

void nbd_client_wake(struct nbd_client *cl)
{
    co_queue_wake_all(&cl->waiters);
    co_queue_wake_all(&cl->room[0]);
    co_queue_wake_all(&cl->room[1]);
}

static bool is_safe_to_end(const struct nbd_pending *p)
{
    return p->op == NBD_OP_READ || p->op == NBD_OP_STATUS ||
           p->op == NBD_OP_CACHE;
}

/* Cut @conn; whoever else is on it is to send again. */
static void client_cut(struct nbd_client *cl, struct nbd_conn *conn)
{
    for (GList *l = cl->requests.head; l; l = l->next) {
        struct nbd_pending *p = l->data;

        p->cut = p->cut || p->conn == conn;
    }
    nbd_conn_shutdown(conn);
}

void nbd_client_forget_conn(struct nbd_client *cl, const struct nbd_conn *conn)
{
    for (GList *l = cl->requests.head; l; l = l->next) {
        struct nbd_pending *p = l->data;

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
        struct nbd_pending *p = l->data;

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
    nbd_client_wake(cl);
}

void nbd_client_end_requests(struct nbd_client *cl, int verdict)
{
    client_end_requests(cl, UINT64_MAX, verdict, false);
}

void nbd_client_yank(struct nbd_client *cl)
{
    client_end_requests(cl, UINT64_MAX, -ECONNABORTED, true);
}

static struct nbd_pending *client_oldest(struct nbd_client *cl)
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
void nbd_client_hang_timer(void *arg)
{
    struct nbd_client *cl = arg;
    uint64_t timeout = cl->opts.hang_timeout_ns;
    uint64_t now = loop_clock_ns(loop_current());
    struct nbd_pending *p = client_oldest(cl);

    if (!p || !timeout || nbd_client_is_over(cl)) {
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

void nbd_pending_begin(struct nbd_client *cl, struct nbd_pending *p)
{
    p->link.data = p;
    p->since_ns = loop_clock_ns(loop_current());
    g_queue_push_tail_link(&cl->requests, &p->link);
    cl->changing += !is_safe_to_end(p);
    if (cl->opts.hang_timeout_ns && cl->requests.length == 1) {
        loop_timer_arm(&cl->hang_timer, p->since_ns + cl->opts.hang_timeout_ns);
    }
}

void nbd_pending_end(struct nbd_client *cl, struct nbd_pending *p)
{
    uint64_t now = loop_clock_ns(loop_current());
    struct nbd_pending *oldest;

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
    nbd_client_hang_timer(cl);
}
