/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Orphaned writes: those whose client is gone (invariant G9).
 *
 * A client that lost its connection opens another and writes again, perhaps
 * something else.  What it asked for on the old one must not land behind the
 * newer write.  Two things may still hold it:
 *
 *   in flight   on a disk that is slow.  A write waits for older orphans that
 *               overlap it.
 *   not read    in the buffer of a reader that waits for budget, or in the
 *               socket.  When somebody else writes to the same storage, such a
 *               connection is barred: what writes and was not started by then
 *               gets ESHUTDOWN.  Reads of it are still answered, for a client
 *               that has only stopped sending.
 *
 * Whether a client is gone is asked of its channel before a write starts, and
 * not left to its reader, which may look late: the newer write may come over
 * a connection that has been there for long.  The answer holds for all that was
 * received before it, so it is asked for once after each receive.
 *
 * Exports are told apart by what they lead to, not by name: two of them may
 * show one disk.  Writes of connections that live are not ordered, because
 * their clients see them end.  Older is told by a number, so two orphans never
 * wait for each other.
 */
#include "base/math.h"
#include "export/nbd/nbd-int.h"

static struct node *conn_node(const struct nbd_conn *c)
{
    return backend_node(c->exp->e.backend);
}

/* Do writes of both reach the same storage? */
static bool shares_storage(const struct nbd_conn *a, const struct nbd_conn *b)
{
    return a->exp == b->exp ||
           node_storage(conn_node(a)) == node_storage(conn_node(b));
}

/* Offsets of two exports mean the same bytes when only filters are between;
 * else (a part of a disk and the whole of it) nothing is known of the
 * ranges. */
static bool is_overlapping(const struct nbd_request *a,
                           const struct nbd_request *b)
{
    if (!shares_storage(a->conn, b->conn)) {
        return false;
    }
    return node_skip_filters(conn_node(a->conn)) !=
               node_skip_filters(conn_node(b->conn)) ||
           ranges_overlap(a->h.offset, a->h.len, b->h.offset, b->h.len);
}

static bool has_older(const struct nbd_server *s, const struct nbd_request *r)
{
    for (const GList *l = s->orphans.head; l; l = l->next) {
        const struct nbd_request *other = l->data;

        if (other->serial < r->serial && is_overlapping(other, r)) {
            return true;
        }
    }
    return false;
}

void nbd_orphans_add(struct nbd_conn *c)
{
    GList *l;

    c->orphaned = true;
    while ((l = g_queue_pop_head_link(&c->writes))) {
        struct nbd_request *r = l->data;

        r->queue = &c->server->orphans;
        g_queue_push_tail_link(r->queue, l);
    }
}

/* Bar all clients that are gone and write where @c does. */
static void bar_the_gone(struct nbd_conn *c)
{
    for (GList *l = c->server->conns.head; l; l = l->next) {
        struct nbd_conn *other = l->data;

        if (other != c && other->transmitting && !other->barred &&
            shares_storage(other, c) &&
            (other->broken || channel_peer_has_ended(other->ch))) {
            other->barred = true;
            nbd_orphans_add(other);
        }
    }
}

void nbd_write_register(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;

    if (!c->looked) {
        bar_the_gone(c);
        c->looked = true;
    }
    r->serial = c->server->next_serial++;
    r->link.data = r;
    r->queue = c->orphaned ? &c->server->orphans : &c->writes;
    g_queue_push_tail_link(r->queue, &r->link);
}

void nbd_write_co_begin(struct nbd_request *r)
{
    struct nbd_server *s = r->conn->server;

    while (s->orphans.length > 0 && has_older(s, r)) {
        co_queue_co_wait(&s->orphan_done);
    }
}

void nbd_write_end(struct nbd_request *r)
{
    struct nbd_server *s = r->conn->server;

    g_queue_unlink(r->queue, &r->link);
    if (r->queue == &s->orphans) {
        co_queue_wake_all(&s->orphan_done);
    }
}
