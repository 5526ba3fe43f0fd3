/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Life of a connection.
 *
 *   waiting       for a slot of the server             -> handshake
 *   handshake     options, until GO or EXPORT_NAME     -> transmission
 *   transmission  requests, until DISC, the end of the stream, or a stop
 *   end           nothing in flight; slot and export given back
 *
 * In the handshake a connection moves to the loop that has the export of which the
 * client speaks (hub.h).  It is of no server then, and nobody touches it but the
 * message that takes it there.
 *
 * Two flags cut it short.  ->stopping: the server or the export ends; requests
 * in flight are answered, later ones get ESHUTDOWN, and the timer closes the
 * connection once it is idle, or in a second at the latest.  ->broken: the
 * stream is lost or its peer not worth waiting for; everybody wakes and goes.
 * What a base that does not answer still holds of a connection that was stopped
 * is let go, so that a server or an export ends whatever its storage does.
 */
#include <errno.h>
#include "export/nbd/nbd-int.h"
#include "export/trace.h"
#include "loop/io.h"

void nbd_conn_break(struct nbd_conn *c)
{
    if (c->broken) {
        return;
    }
    trace_nbd_server_break(c, c->in_flight);
    c->broken = true;
    channel_shutdown(c->ch);
    co_queue_wake_all(&c->room);
    co_queue_wake_all(&c->server->room);
    co_queue_wake_all(&c->server->slot);
}

static void conn_timer(void *arg)
{
    struct nbd_conn *c = arg;
    uint64_t now = loop_clock_ns(c->server->loop);

    if (c->broken && c->in_flight > 0) {
        backend_let_go(c->exp->e.backend);
    }
    if (!c->stopping || c->in_flight == 0 || now >= c->stop_deadline_ns) {
        nbd_conn_break(c);
    }
    if (c->stopping && (!c->broken || c->in_flight > 0)) {
        loop_timer_arm(&c->timer,
                       now + (c->broken ? LET_GO_NS : NBD_STOP_TICK_NS));
    }
}

void nbd_conn_stop(struct nbd_conn *c)
{
    uint64_t now = loop_clock_ns(c->server->loop);

    if (c->stopping) {
        return;
    }
    c->stopping = true;
    co_queue_wake_all(&c->server->slot);
    c->stop_deadline_ns = now + NBD_STOP_NS;
    loop_timer_arm(&c->timer, now + NBD_STOP_IDLE_NS);
}

static CO_FN bool conn_co_wait_slot(struct nbd_conn *c)
{
    struct nbd_server *s = c->server;

    while (!c->broken && !c->stopping && s->n_slots >= s->max_conns) {
        co_queue_co_wait(&s->slot);
    }
    return !c->broken && !c->stopping;
}

/* The handshake is over: with @ret. */
static CO_FN void conn_co_serve(struct nbd_conn *c, int ret)
{
    if (ret == 0) {
        if (!c->stopping) {
            loop_timer_cancel(&c->timer);
        }
        c->transmitting = true;
        nbd_server_half_open_done(c->server);
        trace_nbd_server_begin(c, c->exp->name, c->structured);
        nbd_transmission_co_run(c);
    }
    if (!c->broken) {
        channel_co_finish(c->ch, NBD_STOP_IDLE_NS);
    }
}

/* Out of all lists, but for the slot. */
static void conn_leave_server(struct nbd_conn *c)
{
    struct nbd_server *s = g_steal_pointer(&c->server);

    loop_timer_cancel(&c->timer);
    g_queue_unlink(&s->conns, &c->link);
    if (!c->transmitting) {
        nbd_server_half_open_done(s);
    }
    if (s->conns.length == 0) {
        co_queue_wake_all(&s->empty);
    }
}

/* It is of no server any more. */
static void conn_free(struct nbd_conn *c)
{
    channel_free(c->ch);
    nbd_meta_forget(c);
    g_byte_array_free(c->out, TRUE);
    io_buf_put(c->rx, NBD_RX_SIZE);
    g_free(c);
}

static void conn_give_slot_back(struct nbd_conn *c)
{
    struct nbd_server *home = c->home;

    if (c->away) {
        nbd_server_away_ended(home);
    } else {
        home->n_slots--;
        co_queue_wake_one(&home->slot);
    }
}

static void conn_end(struct nbd_conn *c, bool has_slot)
{
    if (has_slot) {
        conn_give_slot_back(c);
    }
    if (c->exp) {
        c->exp->n_conns--;
        export_unref(&c->exp->e);
    }
    conn_leave_server(c);
    conn_free(c);
}

static void conn_arrive(void *arg);

/* Nothing of @c is touched here once it is on its way. */
static void conn_depart(struct nbd_conn *c)
{
    struct loop *to = graph_loop(c->moving->graph);

    if (!c->away) {
        c->away = true;
        c->home->n_away++;
    }
    conn_leave_server(c);
    channel_move(c->ch, to);
    loop_post(to, conn_arrive, c);
}

/* Go on from where the handshake has come to. */
static CO_FN void conn_co_go_on(struct nbd_conn *c, int ret)
{
    if (ret == NBD_MOVES) {
        conn_depart(c);
    } else {
        conn_co_serve(c, ret);
        conn_end(c, true);
    }
}

static CO_FN void conn_entry(void *arg)
{
    struct nbd_conn *c = arg;

    if (conn_co_wait_slot(c)) {
        c->server->n_slots++;
        conn_co_go_on(c, nbd_handshake_co_run(c));
    } else {
        conn_end(c, false);
    }
}

static CO_FN void conn_moved_entry(void *arg)
{
    struct nbd_conn *c = arg;

    conn_co_go_on(c, nbd_handshake_co_resume(c));
}

static void conn_enter_server(struct nbd_conn *c, struct nbd_server *s)
{
    c->server = s;
    if (s->n_half_open >= NBD_MAX_HALF_OPEN) {
        nbd_server_push_out(s);
    }
    s->n_half_open++;
    g_queue_push_tail_link(&s->conns, &c->link);
    loop_timer_init(&c->timer, s->loop, conn_timer, c);
    loop_timer_arm(&c->timer, c->deadline_ns);
}

/* On the loop that it moved to. Its exports may be gone by now. */
static void conn_arrive(void *arg)
{
    struct nbd_conn *c = arg;
    struct exports *es = g_steal_pointer(&c->moving);
    struct nbd_server *s = es->nbd;

    if (s && !s->stopping) {
        conn_enter_server(c, s);
        co_start(s->loop, conn_moved_entry, c);
    } else {
        conn_give_slot_back(c);
        conn_free(c);
    }
    exports_arrived(es);
}

void nbd_conn_start(struct nbd_server *s, struct channel *ch)
{
    struct nbd_conn *c = g_new0(struct nbd_conn, 1);

    c->home = s;
    c->ch = ch;
    c->link.data = c;
    c->out = g_byte_array_new();
    c->rx = io_buf_get(NBD_RX_SIZE);
    c->tx_tail = &c->tx_head;
    c->options_remaining = NBD_MAX_OPTIONS;
    c->deadline_ns = loop_clock_ns(s->loop) + NBD_HANDSHAKE_NS;
    conn_enter_server(c, s);
    trace_nbd_server_accept(c, channel_describe(ch));
    co_start(s->loop, conn_entry, c);
}
