/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "storage/http/http-client.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-url.h"
#include "storage/http/http-wait.h"
#include "storage/trace.h"

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define BACKOFF_MIN_NS (100 * NS_PER_MS)
#define BACKOFF_MAX_NS (8 * NS_PER_S)
/* What the first request asks for and what is kept of the file: the headers of
 * images are there. */
#define FIRST_LEN (64u * 1024)

struct http_client {
    struct http_url first_url; /* as it was given */
    struct http_url url;       /* where redirects have led */
    const struct http_identity *id;
    struct http_client_options opts;
    char *name; /* for people */
    struct http_multi *multi;
    struct http_wait wait;
    struct co_queue room[2]; /* for demand; for the background */
    unsigned in_flight;
    struct http_pin pin;
    char *version;
    uint8_t *first; /* the first @first_len bytes of the file */
    size_t first_len;
    uint64_t lost_ns;       /* since when nothing comes; 0: it does */
    uint64_t not_before_ns; /* the server asked to be left in peace */
    bool first_is_local;
    char *failure;
};

/* One read under way. */
struct read {
    struct http_client *cl;
    struct http_waiter waiter;
    uint64_t off;
    struct iov dst; /* what is still to come */
    bool background;
    bool is_first; /* there is no pin yet */
    unsigned hops, failures;
    bool refreshed;       /* the first address was asked once more */
    uint64_t lost_ns;     /* since when nothing comes for it; 0: it does */
    uint64_t deadline_ns; /* of the first read */
    struct http_fetch *f;
};

const struct http_pin *http_client_pin(const struct http_client *cl)
{
    return &cl->pin;
}

const char *http_client_version(const struct http_client *cl)
{
    return cl->version;
}

const char *http_client_failure(const struct http_client *cl)
{
    return cl->failure;
}

static void http_client_fail(struct http_client *cl, int verdict,
                             const char *why)
{
    if (!cl->failure) {
        cl->failure = g_strdup(why);
        trace_http_failed(cl->name, why);
    }
    http_wait_end_all(&cl->wait, verdict, true);
    co_queue_wake_all(&cl->room[0]);
    co_queue_wake_all(&cl->room[1]);
}

void http_client_end_reads(struct http_client *cl, int verdict, bool for_good)
{
    if (for_good) {
        http_client_fail(cl, verdict, "the daemon is shutting down");
        return;
    }
    http_wait_end_all(&cl->wait, verdict, false);
    co_queue_wake_all(&cl->room[0]);
    co_queue_wake_all(&cl->room[1]);
}

void http_client_set_hang(struct http_client *cl, uint64_t timeout_ns,
                          bool fail)
{
    http_wait_set_hang(&cl->wait, timeout_ns, fail);
}

/* --- room for requests --- */

/* A quarter is for demand alone. */
static unsigned room_of(const struct http_client *cl, bool background)
{
    unsigned all = cl->opts.connections;

    return background && all > 1 ? all - MAX(all / 4, 1) : all;
}

/* The server wants to be left in peace for longer than this read may last. */
static bool read_is_too_early(const struct read *r)
{
    const struct http_client *cl = r->cl;
    uint64_t now = http_now_ns();
    uint64_t since = r->lost_ns ? r->lost_ns : now;
    uint64_t end = r->is_first ? r->deadline_ns
                               : since + cl->opts.reconnect_delay_ns;

    return cl->not_before_ns > now && cl->not_before_ns >= end;
}

static CO_FN int read_co_enter(struct read *r)
{
    struct http_client *cl = r->cl;

    if (read_is_too_early(r)) {
        return -EBUSY;
    }
    http_wait_co_sleep(&cl->wait, &r->waiter, cl->not_before_ns);
    while (!r->waiter.verdict && !cl->failure &&
           cl->in_flight >= room_of(cl, r->background)) {
        co_queue_co_wait(&cl->room[r->background]);
    }
    if (r->waiter.verdict) {
        return r->waiter.verdict;
    }
    if (cl->failure) {
        return -EIO;
    }
    cl->in_flight++;
    return 0;
}

static void read_leave(struct read *r)
{
    struct http_client *cl = r->cl;

    cl->in_flight--;
    co_queue_wake_one(&cl->room[0]);
    co_queue_wake_one(&cl->room[1]);
}

/* --- after an attempt --- */

/* Is it another address than the first one? */
static bool is_redirected(const struct http_client *cl,
                          const struct http_url *url)
{
    return strcmp(url->text, cl->first_url.text) != 0;
}

static void client_set_url(struct http_client *cl, const struct http_url *url)
{
    http_url_clear(&cl->url);
    cl->url = (struct http_url) {
        .text = g_strdup(url->text),
        .origin = g_strdup(url->origin),
        .tls = url->tls,
    };
}

static void fetch_set_why(struct http_fetch *f, int error, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
static void fetch_set_why(struct http_fetch *f, int error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_vsnprintf(f->why, sizeof(f->why), fmt, ap);
    va_end(ap);
    f->error = error;
}

void http_client_set_address(struct http_client *cl, const char *text)
{
    g_free(cl->first_url.text);
    cl->first_url.text = g_strdup(text);
    client_set_url(cl, &cl->first_url);
}

/* 0: ask the other address. */
static int read_redirect(struct read *r)
{
    struct http_client *cl = r->cl;
    struct http_fetch *f = r->f;
    struct http_url to = {};
    g_autoptr(GError) why = NULL;

    if (cl->opts.redirects == 0) {
        fetch_set_why(f, -EIO,
                      "the server answered %u (elsewhere): are endpoint and "
                      "region right?",
                      f->head.status);
        return f->error;
    }
    if (++r->hops > cl->opts.redirects) {
        fetch_set_why(f, -ELOOP, "it redirects more than %u times",
                      cl->opts.redirects);
        return f->error;
    }
    int ret = http_url_redirect(f->url, f->head.location, &to, &why);
    if (ret < 0) {
        fetch_set_why(f, ret, "a redirect is refused: %s", why->message);
        return ret;
    }
    g_autofree char *shown = http_url_public(to.text);

    trace_http_redirect(cl->name, shown);
    client_set_url(cl, &to);
    http_url_clear(&to);
    return 0;
}

/* Attempts go on from where the last one was cut off. */
static void read_take(struct read *r)
{
    uint64_t got = r->f->got;

    if (got > 0) {
        r->off += got;
        r->dst = iov_slice(r->dst, got, r->dst.len - got);
        r->failures = 0;
        r->lost_ns = r->cl->lost_ns = 0;
    }
}

/* When the read is to fail: when nothing has come for anybody for too long, or
 * nothing for this one, whatever comes for others. */
static uint64_t read_deadline(const struct read *r)
{
    uint64_t since = MIN(r->lost_ns, r->cl->lost_ns);

    return r->is_first ? r->deadline_ns
                       : since + r->cl->opts.reconnect_delay_ns;
}

/* Some time between half of it and all, so that many do not come at once. */
static uint64_t backoff(unsigned failures)
{
    uint64_t ns = BACKOFF_MIN_NS << MIN(failures, 7);

    ns = MIN(ns, BACKOFF_MAX_NS);
    return ns / 2 + g_random_int_range(0, (gint32)(ns / 2 / 1000)) * 1000ull;
}

/* 0: try again. */
static CO_FN int read_co_back_off(struct read *r)
{
    struct http_client *cl = r->cl;
    struct http_fetch *f = r->f;
    uint64_t now = http_now_ns(), pause = backoff(r->failures++);

    cl->lost_ns = cl->lost_ns ? cl->lost_ns : now;
    r->lost_ns = r->lost_ns ? r->lost_ns : now;
    if (f->head.retry_after_s >= 0 && f->outcome == HTTP_LOST) {
        pause = MAX(pause, (uint64_t)f->head.retry_after_s * NS_PER_S);
        cl->not_before_ns = MAX(cl->not_before_ns, now + pause);
    }
    if (now + pause >= read_deadline(r)) {
        return f->error;
    }
    http_wait_co_sleep(&cl->wait, &r->waiter, now + pause);
    return 0;
}

/* What to do after an attempt. 0: another one; r->dst may be empty by now. */
static CO_FN int read_co_judge(struct read *r)
{
    struct http_client *cl = r->cl;
    struct http_fetch *f = r->f;

    if (f->outcome != HTTP_DONE && f->outcome != HTTP_REDIRECT) {
        trace_http_attempt_failed(cl->name, r->off, r->dst.len, f->why);
    }
    switch (f->outcome) {
    case HTTP_DONE: return 0;
    case HTTP_REDIRECT: return read_redirect(r);
    case HTTP_GONE:
        if (is_redirected(cl, f->url) && !r->refreshed) {
            /* A signed address has expired, or a mirror has lost it. */
            r->refreshed = true;
            r->hops = 0;
            client_set_url(cl, &cl->first_url);
            return 0;
        }
        return f->error;
    case HTTP_CHANGED: http_client_fail(cl, -ESTALE, f->why); return -ESTALE;
    case HTTP_LOST: return read_co_back_off(r);
    case HTTP_STALLED:
        return r->is_first && http_now_ns() >= r->deadline_ns ? f->error : 0;
    case HTTP_ENDED: return r->waiter.verdict ? r->waiter.verdict : f->error;
    case HTTP_REFUSED: break;
    }
    return f->error;
}

/* --- attempts --- */

static void read_prepare(struct read *r, const struct http_url *url)
{
    const struct http_client *cl = r->cl;

    *r->f = (struct http_fetch) {
        .multi = cl->multi,
        .url = url,
        .identity = cl->id,
        .is_known = !strcmp(url->origin, cl->first_url.origin),
        .pin = &cl->pin,
        .off = r->off,
        .dst = r->dst,
        .stall_ns = cl->opts.stall_ns,
        .background = r->background,
        .no_local = is_redirected(cl, url) && !cl->first_is_local,
        .prepare = cl->opts.prepare,
        .prepare_arg = cl->opts.prepare_arg,
    };
}

static CO_FN int read_co_attempt(struct read *r)
{
    struct http_client *cl = r->cl;
    struct http_url url = {};
    int ret = read_co_enter(r);

    if (ret < 0) {
        return ret;
    }
    url.text = g_strdup(cl->url.text);
    url.origin = g_strdup(cl->url.origin);
    url.tls = cl->url.tls;
    read_prepare(r, &url);
    r->waiter.transfer = &r->f->transfer;
    http_fetch_co_run(r->f);
    r->waiter.transfer = NULL;
    read_leave(r);
    if (!is_redirected(cl, &url) && r->f->is_local) {
        cl->first_is_local = true;
    }
    if (!r->is_first) {
        read_take(r);
    }
    /* When all has come it does not matter how the answer ended. */
    ret = r->dst.len > 0 ? read_co_judge(r) : 0;
    r->f->url = NULL;
    http_url_clear(&url);
    return ret;
}

/* Until all of r->dst has come; the first one: until something has. */
static CO_FN int http_co_read_run(struct read *r)
{
    struct http_client *cl = r->cl;
    int ret = 0;

    r->f = g_new0(struct http_fetch, 1);
    http_wait_begin(&cl->wait, &r->waiter);
    do {
        ret = read_co_attempt(r);
    } while (ret == 0 && r->dst.len > 0 &&
             !(r->is_first && r->f->outcome == HTTP_DONE));
    http_wait_end(&cl->wait, &r->waiter);
    return ret;
}

static bool client_knows(const struct http_client *cl, uint64_t off, size_t len)
{
    return off < cl->first_len && len <= cl->first_len - off;
}

int http_client_co_read(struct http_client *cl, uint64_t off, struct iov dst,
                        bool background)
{
    struct read r = {
        .cl = cl,
        .off = off,
        .dst = dst,
        .background = background,
    };

    if (cl->failure) {
        return -EIO;
    }
    if (client_knows(cl, off, dst.len)) {
        iov_from_buf(dst, 0, cl->first + off, dst.len);
        return 0;
    }
    int ret = http_co_read_run(&r);
    g_free(r.f);
    if (ret < 0) {
        trace_http_io_error(cl->name, off, dst.len, ret);
    }
    return ret;
}

/* --- the first answer --- */

static int client_pin(struct http_client *cl, const struct http_head *h,
                      GError **err)
{
    if (!http_tag_is_strong(h->etag) && !*h->modified && !cl->opts.unpinned) {
        err_set(err, ENOTSUP,
                "the server tells neither a strong ETag nor Last-Modified: a "
                "change of the file could not be noticed");
        err_hint(err, "unpinned=on takes that risk.");
        return -ENOTSUP;
    }
    cl->pin.size = h->total;
    g_strlcpy(cl->pin.etag, h->etag, sizeof(cl->pin.etag));
    g_strlcpy(cl->pin.modified, h->modified, sizeof(cl->pin.modified));
    cl->pin.is_set = true;
    cl->lost_ns = 0;
    cl->version = g_strdup(h->version);
    trace_http_open(cl->name, h->total, h->etag, h->modified);
    return 0;
}

static CO_FN int client_co_ask(struct http_client *cl, GError **err)
{
    struct iovec v;
    struct read r = {
        .cl = cl,
        .dst = iov_one(&v, cl->first, FIRST_LEN),
        .is_first = true,
        .deadline_ns = http_now_ns() + cl->opts.open_timeout_ns,
    };
    int ret = http_co_read_run(&r);

    if (ret == 0) {
        cl->first_len = r.f->got;
        ret = client_pin(cl, &r.f->head, err);
    } else if (cl->failure) {
        err_set(err, ESHUTDOWN, "%s", cl->failure);
    } else {
        err_set(err, -ret, "%s", *r.f->why ? r.f->why : g_strerror(-ret));
    }
    g_free(r.f);
    return ret;
}

static void http_client_release(struct http_client *cl)
{
    http_wait_done(&cl->wait);
    http_url_clear(&cl->first_url);
    http_url_clear(&cl->url);
    g_free(cl->name);
    g_free(cl->version);
    g_free(cl->first);
    g_free(cl->failure);
    g_free(cl);
}

static struct http_client *client_new(const struct http_url *url,
                                      const struct http_identity *id,
                                      const struct http_client_options *opts)
{
    struct http_client *cl = g_new0(struct http_client, 1);

    cl->first_url = (struct http_url) {
        .text = g_strdup(url->text),
        .origin = g_strdup(url->origin),
        .tls = url->tls,
    };
    client_set_url(cl, url);
    cl->id = id;
    cl->opts = *opts;
    cl->opts.connections = CLAMP(opts->connections, 1, HTTP_CONNECTIONS_MAX);
    cl->name = http_url_public(url->text);
    cl->first = g_malloc(FIRST_LEN);
    http_wait_init(&cl->wait);
    cl->wait.hang_timeout_ns = opts->hang_timeout_ns;
    cl->wait.fail_on_hang = opts->fail_on_hang;
    cl->wait.hang_event = opts->hang_event;
    cl->wait.hang_arg = opts->hang_arg;
    return cl;
}

int http_client_co_open(const struct http_url *url,
                        const struct http_identity *id,
                        const struct http_client_options *opts,
                        struct http_client **ret, GError **err)
{
    struct http_client *cl = client_new(url, id, opts);
    int r = http_multi_new(cl->opts.connections, &cl->multi, err);

    if (r == 0) {
        *ret = cl; /* may be interrupted from here on */
        r = client_co_ask(cl, err);
    }
    if (r < 0) {
        *ret = NULL;
        http_client_co_close(cl);
    }
    return r;
}

void http_client_co_close(struct http_client *cl)
{
    if (cl) {
        http_multi_co_free(cl->multi);
        http_client_release(cl);
    }
}
