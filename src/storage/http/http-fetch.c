/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What libcurl reads is judged when the head of the response is complete:
 * before a byte of the body is taken.
 */
#include "storage/http/http-fetch.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>

#include "base/err.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/http/http-url.h"

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)
#define CONNECT_TIMEOUT_NS (10 * NS_PER_S)
/* Fewer bytes a second are as good as none. */
#define RATE_MIN 1024u
/* The bodies of errors are read, so that their connections stay of use. */
#define DISCARD_MAX (64u * 1024)
#define BUFFER_SIZE (256L * 1024)
/* Of a stream of HTTP/2, 1 to 256. */
#define WEIGHT_DEMAND 256L
#define WEIGHT_BACKGROUND 16L

PRINTF_LIKE(4, 5)
static void judge(struct http_fetch *f, enum http_outcome outcome, int error,
                  const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_vsnprintf(f->why, sizeof(f->why), fmt, ap);
    va_end(ap);
    f->outcome = outcome;
    f->error = error;
}

/* --- judging the head --- */

/* Has it the version that was pinned? */
static bool judge_version(struct http_fetch *f)
{
    const struct http_head *h = &f->head;
    const struct http_pin *pin = f->pin;

    if (!pin->is_set) {
        return true;
    }
    if (h->total != pin->size) {
        judge(f, HTTP_CHANGED, -ESTALE,
              "it had %" PRIu64 " bytes, and has %" PRIu64, pin->size,
              h->total);
    } else if (*pin->etag && *h->etag && strcmp(pin->etag, h->etag)) {
        judge(f, HTTP_CHANGED, -ESTALE, "its ETag was %s, and is %s", pin->etag,
              h->etag);
    } else if (*pin->modified && *h->modified &&
               strcmp(pin->modified, h->modified)) {
        judge(f, HTTP_CHANGED, -ESTALE, "it was last modified %s, and is %s",
              pin->modified, h->modified);
    } else if (*pin->etag ? !*h->etag : *pin->modified && !*h->modified) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server does not say which version of the file it sent");
    } else {
        return true;
    }
    return false;
}

static void judge_range(struct http_fetch *f)
{
    const struct http_head *h = &f->head;
    uint64_t end = f->off + f->dst.len;

    if (h->encoded) {
        judge(f, HTTP_REFUSED, -EPROTO,
              "the server sends it encoded (Content-Encoding)");
        return;
    }
    if (!h->has_range) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server sent a part and did not say which (no "
              "Content-Range)");
        return;
    }
    if (!judge_version(f)) {
        return;
    }
    if (!f->pin->is_set) {
        end = MIN(end, h->total);
    }
    if (h->first != f->off || h->last != end - 1) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server sent bytes %" PRIu64 "-%" PRIu64 " when %" PRIu64
              "-%" PRIu64 " were asked for",
              h->first, h->last, f->off, end - 1);
    } else if (h->has_length && h->length != end - f->off) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server's Content-Length does not fit its Content-Range");
    } else {
        f->is_proper = true;
    }
}

/* The server took the request for one about all of the file. */
static void judge_whole(struct http_fetch *f)
{
    if (!f->pin->is_set) {
        judge(f, HTTP_REFUSED, -ENOTSUP,
              "Server does not support 'range' (byte ranges).");
        return;
    }
    f->head.total = f->head.has_length ? f->head.length : f->pin->size;
    if (judge_version(f)) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server answered with the whole file when a range was asked "
              "for");
    }
}

static const struct answer {
    unsigned status;
    enum http_outcome outcome;
    int error;
    const char *text;
} answers[] = {
    { 401, HTTP_GONE, -EACCES, "it wants a user name and password, or others" },
    { 403, HTTP_GONE, -EACCES, "it forbids access" },
    { 404, HTTP_GONE, -ENOENT, "it has no such file" },
    { 407, HTTP_REFUSED, -EACCES, "the proxy wants a user name and password" },
    { 408, HTTP_LOST, -EIO, "request timeout" },
    { 410, HTTP_GONE, -ENOENT, "the file is gone for good" },
    { 425, HTTP_LOST, -EIO, "too early" },
    { 429, HTTP_LOST, -EBUSY, "too many requests" },
    { 500, HTTP_LOST, -EIO, "internal server error" },
    { 502, HTTP_LOST, -EIO, "bad gateway" },
    { 503, HTTP_LOST, -EBUSY, "service unavailable" },
    { 504, HTTP_LOST, -EIO, "gateway timeout" },
};

static void judge_status(struct http_fetch *f)
{
    const struct http_head *h = &f->head;

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        if (answers[i].status == h->status) {
            judge(f, answers[i].outcome, answers[i].error,
                  "the server answered %u: %s", h->status, answers[i].text);
            return;
        }
    }
    judge(f, HTTP_REFUSED, -EIO, "the server answered %u", h->status);
}

static void judge_failed_condition(struct http_fetch *f)
{
    if (f->pin->is_set &&
        !(f->head.has_total && f->head.total == f->pin->size)) {
        judge(f, HTTP_CHANGED, -ESTALE,
              "the server answered %u: it has another version of the file",
              f->head.status);
    } else if (f->head.status == 416 && !f->pin->is_set) {
        judge(f, HTTP_REFUSED, -EINVAL, "the file is empty (size 0)");
    } else {
        judge_status(f);
    }
}

static void judge_head(struct http_fetch *f)
{
    switch (f->head.status) {
    case 206: judge_range(f); break;
    case 200: judge_whole(f); break;
    case 412:
    case 416: judge_failed_condition(f); break;
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
        if (*f->head.location) {
            judge(f, HTTP_REDIRECT, 0, "%u", f->head.status);
            break;
        }
        G_GNUC_FALLTHROUGH;
    default: judge_status(f);
    }
    f->judged = true;
}

/* --- callbacks of libcurl --- */

static size_t fetch_on_header(char *line, size_t size, size_t n, void *arg)
{
    struct http_fetch *f = arg;
    size_t len = size * n;

    f->seen += len;
    if (f->judged) { /* trailers */
        f->head.bytes += len;
        return f->head.bytes > HTTP_HEAD_BYTES_MAX ? 0 : len;
    }
    int64_t now_s = (int64_t)(loop_date_ns(loop_current()) / NS_PER_S);

    if (!http_head_line(&f->head, line, len, now_s)) {
        judge(f, HTTP_LOST, -EPROTO, "the server's answer cannot be used: %s",
              f->head.fault);
        return 0;
    }
    if ((line[0] == '\r' || line[0] == '\n') && f->head.status >= 200) {
        judge_head(f);
        /* Of the whole file nothing is wanted, and there may be much of it. */
        return f->head.status == 200 ? 0 : len;
    }
    return len;
}

static size_t fetch_on_body(char *data, size_t size, size_t n, void *arg)
{
    struct http_fetch *f = arg;
    size_t len = size * n;

    f->seen += len;
    if (!f->is_proper) {
        f->discarded += len;
        return f->judged && f->discarded <= DISCARD_MAX ? len : 0;
    }
    if (len > f->head.last - f->head.first + 1 - f->got) {
        f->got = 0; /* whatever this answer is, it is not what it says */
        judge(f, HTTP_LOST, -EPROTO, "the server sent more bytes than it said");
        return 0;
    }
    iov_from_buf(f->dst, f->got, data, len);
    f->got += len;
    return len;
}

static bool is_local_address(const char *ip)
{
    struct in_addr v4;
    struct in6_addr v6;

    if (inet_pton(AF_INET, ip, &v4) == 1) {
        uint32_t a = ntohl(v4.s_addr);
        return a >> 24 == 127 || a >> 24 == 0 || a >> 16 == 0xa9fe;
    }
    if (inet_pton(AF_INET6, ip, &v6) != 1) {
        return false;
    }
    if (IN6_IS_ADDR_V4MAPPED(&v6)) {
        char text[INET_ADDRSTRLEN];
        return inet_ntop(AF_INET, &v6.s6_addr[12], text, sizeof(text)) &&
               is_local_address(text);
    }
    return IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_LINKLOCAL(&v6) ||
           IN6_IS_ADDR_UNSPECIFIED(&v6);
}

/* There is a connection, and nothing was sent on it. */
static int fetch_on_connected(void *arg, char *ip, char *own_ip, int port,
                              int own_port)
{
    struct http_fetch *f = arg;

    f->is_connected = true;
    f->is_local = is_local_address(ip);
    if (f->is_local && f->no_local) {
        judge(f, HTTP_REFUSED, -EPERM,
              "the server redirects to an address of this machine, which it "
              "is not on");
        return CURL_PREREQFUNC_ABORT;
    }
    return CURL_PREREQFUNC_OK;
}

/* --- the request --- */

/* Set options of @easy until one cannot be set. */
struct setup {
    CURL *easy;
    bool failed;
};
#define SET(s, option, value) \
    ((s)->failed |= curl_easy_setopt((s)->easy, CURLOPT_##option, (value)) != \
                    CURLE_OK)

static void setup_transfer(struct setup *s, struct http_fetch *f)
{
    uint64_t connect_ns = MIN(f->stall_ns, CONNECT_TIMEOUT_NS);

    SET(s, NOSIGNAL, 1L);
    /* Do not wait for the threads that look names up. */
    SET(s, QUICK_EXIT, 1L);
    SET(s, ERRORBUFFER, f->curl_error);
    SET(s, HEADERFUNCTION, fetch_on_header);
    SET(s, HEADERDATA, f);
    SET(s, WRITEFUNCTION, fetch_on_body);
    SET(s, WRITEDATA, f);
    SET(s, PREREQFUNCTION, fetch_on_connected);
    SET(s, PREREQDATA, f);
    SET(s, BUFFERSIZE, BUFFER_SIZE);
    SET(s, CONNECTTIMEOUT_MS, (long)(connect_ns / NS_PER_MS));
    SET(s, TCP_KEEPALIVE, 1L);
    /* A connection that is being made may turn out to take all requests. */
    SET(s, PIPEWAIT, f->url->tls ? 1L : 0L);
    SET(s, HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(s, STREAM_WEIGHT, f->background ? WEIGHT_BACKGROUND : WEIGHT_DEMAND);
}

static void setup_url(struct setup *s, const struct http_fetch *f)
{
    g_autofree char *range = g_strdup_printf("%" PRIu64 "-%" PRIu64, f->off,
                                             f->off + f->dst.len - 1);

    SET(s, URL, f->url->text);
    SET(s, PROTOCOLS_STR, f->url->tls ? "https" : "http");
    SET(s, FOLLOWLOCATION, 0L);
    SET(s, DISALLOW_USERNAME_IN_URL, 1L);
    SET(s, HTTP09_ALLOWED, 0L);
    SET(s, SUPPRESS_CONNECT_HEADERS, 1L);
    SET(s, USERAGENT, "sluice/" SLUICE_VERSION);
    SET(s, RANGE, range);
}

static void set_secret(struct setup *s, CURLoption option, GBytes *secret)
{
    gsize len;
    const void *data = g_bytes_get_data(secret, &len);
    char *text = g_strndup(data, len);

    s->failed |= curl_easy_setopt(s->easy, option, text) != CURLE_OK;
    explicit_bzero(text, len);
    g_free(text);
}

static void setup_identity(struct setup *s, const struct http_identity *id)
{
    if (id->username) {
        SET(s, USERNAME, id->username);
    }
    if (id->password) {
        set_secret(s, CURLOPT_PASSWORD, id->password);
    }
    if (id->cookie) {
        set_secret(s, CURLOPT_COOKIE, id->cookie);
    }
    if (id->bearer) {
        SET(s, HTTPAUTH, (long)CURLAUTH_BEARER);
        set_secret(s, CURLOPT_XOAUTH2_BEARER, id->bearer);
    }
    if (id->cert_file) {
        SET(s, SSLCERT, id->cert_file);
        SET(s, SSLKEY, id->key_file);
    }
}

/* Whoever the server is. */
static void setup_route(struct setup *s, const struct http_identity *id)
{
    SET(s, SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(s, SSL_VERIFYPEER, id->sslverify ? 1L : 0L);
    SET(s, SSL_VERIFYHOST, id->sslverify ? 2L : 0L);
    if (id->ca_file) {
        SET(s, CAINFO, id->ca_file);
        SET(s, CAPATH, NULL);
    }
    if (id->crl_file) {
        SET(s, CRLFILE, id->crl_file);
    }
    if (id->proxy_username) {
        SET(s, PROXYUSERNAME, id->proxy_username);
    }
    if (id->proxy_password) {
        set_secret(s, CURLOPT_PROXYPASSWORD, id->proxy_password);
    }
}

static struct curl_slist *add_line(struct curl_slist *lines, const char *line)
{
    struct curl_slist *more = curl_slist_append(lines, line);

    return more ? more : lines;
}

static struct curl_slist *setup_conditions(const struct http_fetch *f)
{
    const struct http_pin *pin = f->pin;
    g_autofree char *line = NULL;
    struct curl_slist *lines = add_line(NULL, "Accept-Encoding: identity");

    if (pin->is_set && http_tag_is_strong(pin->etag)) {
        line = g_strdup_printf("If-Match: %s", pin->etag);
    } else if (pin->is_set && *pin->modified) {
        line = g_strdup_printf("If-Unmodified-Since: %s", pin->modified);
    }
    return line ? add_line(lines, line) : lines;
}

static CURL *fetch_setup(struct http_fetch *f, struct curl_slist **ret_lines)
{
    struct setup s = { .easy = curl_easy_init() };

    if (!s.easy) {
        return NULL;
    }
    setup_transfer(&s, f);
    setup_url(&s, f);
    setup_route(&s, f->identity);
    if (f->is_known) {
        setup_identity(&s, f->identity);
    }
    *ret_lines = setup_conditions(f);
    if (f->prepare) {
        *ret_lines = f->prepare(s.easy, *ret_lines, f->prepare_arg);
        s.failed |= *ret_lines == NULL;
    }
    SET(&s, HTTPHEADER, *ret_lines);
    if (s.failed) {
        curl_slist_free_all(*ret_lines);
        curl_easy_cleanup(s.easy);
        return NULL;
    }
    return s.easy;
}

/* --- running it --- */

/* The watch of one fetch: enough bytes in each period. */
struct watch {
    struct http_fetch *f;
    struct loop_timer timer;
    uint64_t seen;
};

static void watch_arm(struct watch *w)
{
    w->seen = w->f->seen;
    loop_timer_arm(&w->timer, loop_clock_ns(loop_current()) + w->f->stall_ns);
}

static void watch_expire(void *arg)
{
    struct watch *w = arg;

    if (w->f->seen - w->seen < RATE_MIN * (w->f->stall_ns / NS_PER_S)) {
        w->f->stalled = true;
        http_transfer_end(&w->f->transfer);
    } else {
        watch_arm(w);
    }
}

static bool worth_another_attempt(CURLcode code)
{
    switch (code) {
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
    case CURLE_OUT_OF_MEMORY: return false;
    default: return true;
    }
}

/* What became of it, by what libcurl says. */
static void judge_end(struct http_fetch *f, CURLcode code)
{
    if (f->stalled) {
        judge(f, f->is_connected ? HTTP_STALLED : HTTP_LOST, -ETIMEDOUT,
              f->is_connected ? "the server sends nothing, or too slowly"
                              : "no connection came about in time");
    } else if (code == CURLE_ABORTED_BY_CALLBACK && !f->error) {
        judge(f, HTTP_ENDED, -ECANCELED, "it was ended");
    } else if (f->error || f->outcome == HTTP_REDIRECT) {
        return; /* it was judged */
    } else if (code != CURLE_OK) {
        judge(f, worth_another_attempt(code) ? HTTP_LOST : HTTP_REFUSED, -EIO,
              "%s", *f->curl_error ? f->curl_error : curl_easy_strerror(code));
    } else if (!f->is_proper || f->got != f->head.last - f->head.first + 1) {
        judge(f, HTTP_LOST, -EPROTO,
              "the server sent fewer bytes than it said");
    } else {
        f->outcome = HTTP_DONE;
    }
}

enum http_outcome http_fetch_co_run(struct http_fetch *f)
{
    struct curl_slist *lines = NULL;
    struct watch w = { .f = f };

    http_head_begin(&f->head);
    f->transfer.easy = fetch_setup(f, &lines);
    if (!f->transfer.easy) {
        judge(f, HTTP_REFUSED, -ENOMEM, "libcurl cannot make the request");
        return f->outcome;
    }
    loop_timer_init(&w.timer, loop_current(), watch_expire, &w);
    watch_arm(&w);
    CURLcode code = http_multi_co_run(f->multi, &f->transfer);
    loop_timer_cancel(&w.timer);
    judge_end(f, code);
    curl_easy_cleanup(f->transfer.easy);
    f->transfer.easy = NULL;
    curl_slist_free_all(lines);
    return f->outcome;
}
