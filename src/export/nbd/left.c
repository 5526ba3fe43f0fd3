/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that outlive their connection (invariant G9).
 *
 * A client that lost its connection opens another and writes again, perhaps
 * something else.  What it asked for on the old one may still be under way, on a
 * disk that is slow, and must not land behind the newer write.  So a write waits
 * for older ones that overlap it and whose connection is read no more.  Writes
 * of connections that live are not ordered: their clients see them end.
 *
 * Older is told by a number, so two that are left never wait for each other.
 */
#include "export/nbd/nbd-int.h"

static bool is_overlapping(const struct nbd_request *a,
                           const struct nbd_request *b)
{
    return a->h.offset < b->h.offset + b->h.len &&
        b->h.offset < a->h.offset + a->h.len;
}

static bool has_older(const struct nbd_export *ne, const struct nbd_request *r)
{
    for (const GList *l = ne->left.head; l; l = l->next) {
        const struct nbd_request *other = l->data;

        if (other->serial < r->serial && is_overlapping(other, r)) {
            return true;
        }
    }
    return false;
}

void nbd_left_co_begin(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;
    struct nbd_export *ne = c->exp;

    r->serial = ne->next_serial++;
    r->link.data = r;
    r->queue = c->reading_ended ? &ne->left : &c->writes;
    g_queue_push_tail_link(r->queue, &r->link);
    while (ne->left.length > 0 && has_older(ne, r)) {
        co_queue_co_wait(&ne->left_done);
    }
}

void nbd_left_end(struct nbd_request *r)
{
    struct nbd_export *ne = r->conn->exp;

    g_queue_unlink(r->queue, &r->link);
    if (r->queue == &ne->left) {
        co_queue_wake_all(&ne->left_done);
    }
}

void nbd_left_by(struct nbd_conn *c)
{
    GList *l;

    c->reading_ended = true;
    while ((l = g_queue_pop_head_link(&c->writes))) {
        struct nbd_request *r = l->data;

        r->queue = &c->exp->left;
        g_queue_push_tail_link(r->queue, l);
    }
}
