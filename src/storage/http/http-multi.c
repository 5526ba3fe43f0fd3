/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-multi.h"

#include <errno.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/err.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-memory.h"

#define NS_PER_MS UINT64_C(1000000)
#define EVENTS_MAX 64

struct http_multi {
    CURLM *multi;
    int epoll_fd;
    int stop_fd; /* becomes readable when the driver is to end */
    struct loop_timer timer;
    struct co_latch driver; /* 1 while it lives */
};

static void transfer_end(struct http_transfer *t, CURLcode result)
{
    if (!t->done) {
        t->done = true;
        t->result = result;
        co_wake(t->waiter);
    }
}

/* Tell those whose transfers have ended. */
static void multi_reap(struct http_multi *m)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(m->multi, &left))) {
        struct http_transfer *t = NULL;

        if (msg->msg == CURLMSG_DONE) {
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t);
            transfer_end(t, msg->data.result);
        }
    }
}

static void multi_act(struct http_multi *m, curl_socket_t fd, int what)
{
    int running;

    curl_multi_socket_action(m->multi, fd, what, &running);
}

/* --- what libcurl asks for --- */

static int multi_on_socket(CURL *easy, curl_socket_t fd, int what, void *arg,
                           void *of_socket)
{
    struct http_multi *m = arg;
    struct epoll_event ev = { .data.fd = fd };

    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(m->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        return 0;
    }
    ev.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) |
                (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    if (epoll_ctl(m->epoll_fd, EPOLL_CTL_MOD, fd, &ev) < 0 &&
        epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        return -1; /* fails the transfers */
    }
    return 0;
}

static int multi_on_timer(CURLM *multi, long ms, void *arg)
{
    struct http_multi *m = arg;

    if (ms < 0) {
        loop_timer_cancel(&m->timer);
    } else {
        loop_timer_arm(&m->timer, loop_clock_ns(loop_current()) +
                                      (uint64_t)ms * NS_PER_MS);
    }
    return 0;
}

static void multi_timer(void *arg)
{
    struct http_multi *m = arg;

    multi_act(m, CURL_SOCKET_TIMEOUT, 0);
    multi_reap(m);
}

/* --- the driver --- */

/* False: it is to end. */
static bool multi_dispatch(struct http_multi *m)
{
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(m->epoll_fd, events, EVENTS_MAX, 0);

    for (int i = 0; i < n; i++) {
        uint32_t got = events[i].events;

        if (events[i].data.fd == m->stop_fd) {
            return false;
        }
        multi_act(m, events[i].data.fd,
                  (got & EPOLLIN ? CURL_CSELECT_IN : 0) |
                      (got & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
                      (got & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0));
    }
    multi_reap(m);
    return true;
}

static CO_FN void multi_driver_entry(void *arg)
{
    struct http_multi *m = arg;

    do {
        channel_co_poll_fd(m->epoll_fd, POLLIN, 0);
    } while (multi_dispatch(m));
    co_latch_done(&m->driver);
}

/* --- life --- */

static void multi_close_fds(struct http_multi *m)
{
    if (m->epoll_fd >= 0) {
        close(m->epoll_fd);
    }
    if (m->stop_fd >= 0) {
        close(m->stop_fd);
    }
}

static int multi_setup(struct http_multi *m, unsigned connections)
{
    struct epoll_event ev = { .events = EPOLLIN };

    m->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    m->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    ev.data.fd = m->stop_fd;
    if (m->epoll_fd < 0 || m->stop_fd < 0 ||
        epoll_ctl(m->epoll_fd, EPOLL_CTL_ADD, m->stop_fd, &ev) < 0) {
        return -errno;
    }
    m->multi = curl_multi_init();
    if (!m->multi) {
        return -ENOMEM;
    }
    curl_multi_setopt(m->multi, CURLMOPT_SOCKETFUNCTION, multi_on_socket);
    curl_multi_setopt(m->multi, CURLMOPT_SOCKETDATA, m);
    curl_multi_setopt(m->multi, CURLMOPT_TIMERFUNCTION, multi_on_timer);
    curl_multi_setopt(m->multi, CURLMOPT_TIMERDATA, m);
    curl_multi_setopt(m->multi, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    curl_multi_setopt(m->multi, CURLMOPT_MAXCONNECTS, (long)connections);
    curl_multi_setopt(m->multi, CURLMOPT_MAX_CONCURRENT_STREAMS,
                      (long)connections);
    return 0;
}

int http_multi_new(unsigned connections, struct http_multi **ret, GError **err)
{
    static gsize once;
    struct http_multi *m;
    int r;

    if (g_once_init_enter(&once)) {
        http_memory_init();
        g_once_init_leave(&once, 1);
    }
    m = g_new0(struct http_multi, 1);
    m->epoll_fd = m->stop_fd = -1;
    loop_timer_init(&m->timer, loop_current(), multi_timer, m);
    r = multi_setup(m, connections);
    if (r < 0) {
        multi_close_fds(m);
        g_free(m);
        return err_set_errno(err, -r, "Could not set up libcurl");
    }
    co_latch_add(&m->driver);
    co_start(loop_current(), multi_driver_entry, m);
    *ret = m;
    return 0;
}

void http_multi_co_free(struct http_multi *m)
{
    if (!m) {
        return;
    }
    eventfd_write(m->stop_fd, 1);
    co_latch_co_wait(&m->driver);
    curl_multi_cleanup(m->multi);
    loop_timer_cancel(&m->timer);
    multi_close_fds(m);
    g_free(m);
}

/* --- transfers --- */

CURLcode http_multi_co_run(struct http_multi *m, struct http_transfer *t)
{
    t->waiter = co_self();
    t->done = false;
    curl_easy_setopt(t->easy, CURLOPT_PRIVATE, t);
    if (curl_multi_add_handle(m->multi, t->easy) != CURLM_OK) {
        return CURLE_OUT_OF_MEMORY;
    }
    while (!t->done) {
        co_yield ();
    }
    /* What comes here before it has ended leaves its connection unusable, and
     * libcurl closes that. */
    curl_multi_remove_handle(m->multi, t->easy);
    return t->result;
}

void http_transfer_end(struct http_transfer *t)
{
    transfer_end(t, CURLE_ABORTED_BY_CALLBACK);
}
