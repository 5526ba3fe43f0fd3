/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-wait.h"

#include <errno.h>

#include "storage/http/http-multi.h"

/* Between two looks at a server that hangs. */
#define LOOK_NS UINT64_C(1000000000)

static struct http_waiter *wait_oldest(struct http_wait *w)
{
    return g_queue_peek_head(&w->waiters);
}

/* What has waited since @until_ns or longer ends with @verdict. */
static void wait_end_until(struct http_wait *w, uint64_t until_ns, int verdict)
{
    for (GList *l = w->waiters.head; l; l = l->next) {
        struct http_waiter *r = l->data;

        if (r->since_ns > until_ns || r->verdict) {
            continue;
        }
        r->verdict = verdict;
        if (r->transfer) {
            http_transfer_end(r->transfer);
        }
    }
    co_queue_wake_all(&w->sleepers);
}

static void wait_set_hanging(struct http_wait *w, bool hanging)
{
    if (w->hanging != hanging) {
        w->hanging = hanging;
        if (w->hang_event) {
            w->hang_event(hanging, w->waiters.length, w->hang_arg);
        }
    }
}

/* Look at the oldest read: does it hang, and when will it? */
static void wait_look(void *arg)
{
    struct http_wait *w = arg;
    struct http_waiter *r = wait_oldest(w);
    uint64_t now = http_now_ns(), timeout = w->hang_timeout_ns;

    if (!r || !timeout || w->over) {
        return;
    }
    if (now - r->since_ns < timeout) {
        loop_timer_arm(&w->timer, r->since_ns + timeout);
        return;
    }
    wait_set_hanging(w, true);
    if (w->fail_on_hang) {
        wait_end_until(w, now - timeout, -ETIMEDOUT);
    }
    loop_timer_arm(&w->timer, now + MIN(timeout, LOOK_NS));
}

void http_wait_init(struct http_wait *w)
{
    g_queue_init(&w->waiters);
    loop_timer_init(&w->timer, loop_current(), wait_look, w);
}

void http_wait_done(struct http_wait *w)
{
    g_assert(w->waiters.length == 0);
    loop_timer_cancel(&w->timer);
}

void http_wait_begin(struct http_wait *w, struct http_waiter *r)
{
    r->link.data = r;
    r->since_ns = http_now_ns();
    g_queue_push_tail_link(&w->waiters, &r->link);
    if (w->hang_timeout_ns && w->waiters.length == 1) {
        loop_timer_arm(&w->timer, r->since_ns + w->hang_timeout_ns);
    }
}

void http_wait_end(struct http_wait *w, struct http_waiter *r)
{
    struct http_waiter *oldest;

    g_queue_unlink(&w->waiters, &r->link);
    oldest = wait_oldest(w);
    if (!oldest || http_now_ns() - oldest->since_ns < w->hang_timeout_ns) {
        wait_set_hanging(w, false);
    }
}

void http_wait_co_sleep(struct http_wait *w, const struct http_waiter *r,
                        uint64_t deadline_ns)
{
    while (!r->verdict && !w->over && http_now_ns() < deadline_ns) {
        co_queue_co_wait_until(&w->sleepers, deadline_ns);
    }
}

void http_wait_end_all(struct http_wait *w, int verdict, bool for_good)
{
    w->over |= for_good;
    wait_end_until(w, UINT64_MAX, verdict);
}

void http_wait_set_hang(struct http_wait *w, uint64_t timeout_ns, bool fail)
{
    w->hang_timeout_ns = timeout_ns;
    w->fail_on_hang = fail;
    wait_set_hanging(w, false);
    loop_timer_cancel(&w->timer);
    wait_look(w);
}
