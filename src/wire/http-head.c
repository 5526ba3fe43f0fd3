/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "wire/http-head.h"

#include <glib.h>
#include <string.h>

/* Bytes that stand in a line, not zero-terminated. */
struct text {
    const char *at;
    size_t len;
};

void http_head_begin(struct http_head *h)
{
    *h = (struct http_head) { .retry_after_s = -1 };
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static struct text text_trim(struct text t)
{
    while (t.len > 0 && is_blank(t.at[0])) {
        t.at++;
        t.len--;
    }
    while (t.len > 0 && is_blank(t.at[t.len - 1])) {
        t.len--;
    }
    return t;
}

static bool text_is(struct text t, const char *word)
{
    return t.len == strlen(word) && !g_ascii_strncasecmp(t.at, word, t.len);
}

static bool text_skip(struct text *t, char c)
{
    if (t->len == 0 || t->at[0] != c) {
        return false;
    }
    t->at++;
    t->len--;
    return true;
}

/* A decimal number below 2^63. */
static bool text_number(struct text *t, uint64_t *ret)
{
    uint64_t n = 0;
    size_t digits = 0;

    while (digits < t->len && g_ascii_isdigit(t->at[digits])) {
        uint64_t digit = (uint64_t)(t->at[digits] - '0');

        if (n > (INT64_MAX - digit) / 10) {
            return false;
        }
        n = n * 10 + digit;
        digits++;
    }
    t->at += digits;
    t->len -= digits;
    *ret = n;
    return digits > 0;
}

static bool head_fail(struct http_head *h, const char *fault)
{
    h->fault = fault;
    return false;
}

/* --- dates --- */

static int month_of(const char *text)
{
    static const char *const names[] = {
        "Jan", "Feb", "Mar", "Apr", "May", "Jun",
        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    };

    for (int i = 0; i < (int)G_N_ELEMENTS(names); i++) {
        if (!strncmp(text, names[i], 3)) {
            return i + 1;
        }
    }
    return 0;
}

static int two_digits(const char *text)
{
    return g_ascii_isdigit(text[0]) && g_ascii_isdigit(text[1])
               ? (text[0] - '0') * 10 + text[1] - '0'
               : -1;
}

/* The other two forms of old servers are not taken for dates. */
bool http_date_parse(const char *text, int64_t *ret_s)
{
    static const char form[] = "Www, DD Mmm YYYY hh:mm:ss GMT";

    if (strlen(text) != sizeof(form) - 1 || strcmp(text + 25, " GMT")) {
        return false;
    }
    for (size_t i = 0; i < sizeof(form) - 1; i++) {
        if (strchr(", :", form[i]) && text[i] != form[i]) {
            return false;
        }
    }
    int day = two_digits(text + 5), month = month_of(text + 8);
    int century = two_digits(text + 12), year = two_digits(text + 14);
    int hour = two_digits(text + 17), minute = two_digits(text + 20);
    int second = two_digits(text + 23);

    if (day < 0 || !month || century < 0 || year < 0 || hour < 0 ||
        minute < 0 || second < 0) {
        return false;
    }
    g_autoptr(GDateTime) t = g_date_time_new_utc(
        century * 100 + year, month, day, hour, minute, MIN(second, 59));
    if (!t) {
        return false;
    }
    *ret_s = g_date_time_to_unix(t);
    return true;
}

/* --- fields --- */

/* Keep @value in @buf of @size bytes. What stands there twice must agree. */
static bool keep(struct http_head *h, char *buf, size_t size, struct text value,
                 const char *fault)
{
    if (value.len == 0 || value.len >= size) {
        return head_fail(h, fault);
    }
    for (size_t i = 0; i < value.len; i++) {
        if ((unsigned char)value.at[i] < 0x20 || value.at[i] == 0x7f) {
            return head_fail(h, fault);
        }
    }
    if (*buf &&
        (strlen(buf) != value.len || memcmp(buf, value.at, value.len))) {
        return head_fail(h, fault);
    }
    memcpy(buf, value.at, value.len);
    buf[value.len] = '\0';
    return true;
}

static bool take_range(struct http_head *h, struct text v)
{
    static const char fault[] = "its Content-Range cannot be understood";
    uint64_t first = 0, last = 0, total = 0;
    bool has_range = false;

    if (h->has_total) {
        return head_fail(h, "it has more than one Content-Range");
    }
    if (v.len < 6 || g_ascii_strncasecmp(v.at, "bytes", 5) ||
        !is_blank(v.at[5])) {
        return head_fail(h, fault);
    }
    v.at += 6;
    v.len -= 6;
    v = text_trim(v);
    if (!text_skip(&v, '*')) {
        has_range = true;
        if (!text_number(&v, &first) || !text_skip(&v, '-') ||
            !text_number(&v, &last)) {
            return head_fail(h, fault);
        }
    }
    if (!text_skip(&v, '/')) {
        return head_fail(h, fault);
    }
    if (text_is(v, "*")) {
        return head_fail(
            h, "its Content-Range does not tell the size of the file");
    }
    if (!text_number(&v, &total) || v.len > 0 ||
        (has_range && (first > last || last >= total))) {
        return head_fail(h, fault);
    }
    h->has_range = has_range;
    h->has_total = true;
    h->first = first;
    h->last = last;
    h->total = total;
    return true;
}

static bool take_length(struct http_head *h, struct text v)
{
    uint64_t n = 0;

    if (!text_number(&v, &n) || v.len > 0 ||
        (h->has_length && n != h->length)) {
        return head_fail(h, "its Content-Length cannot be understood");
    }
    h->has_length = true;
    h->length = n;
    return true;
}

/* Another form of date names no version, but does no harm. */
static bool take_modified(struct http_head *h, struct text v)
{
    int64_t s;

    if (!keep(h, h->modified, sizeof(h->modified), v,
              "its Last-Modified cannot be understood")) {
        return false;
    }
    if (!http_date_parse(h->modified, &s)) {
        h->modified[0] = '\0';
    }
    return true;
}

/* What cannot be understood is as if it was not said. */
static void take_retry_after(struct http_head *h, struct text v, int64_t now_s)
{
    char date[HTTP_DATE_MAX] = "";
    int64_t s = 0;
    uint64_t n = 0;

    if (v.len < sizeof(date)) {
        memcpy(date, v.at, v.len);
    }
    if (text_number(&v, &n) && v.len == 0) {
        s = (int64_t)MIN(n, HTTP_RETRY_AFTER_MAX_S);
    } else if (http_date_parse(date, &s)) {
        s = CLAMP(s - now_s, 0, HTTP_RETRY_AFTER_MAX_S);
    } else {
        return;
    }
    h->retry_after_s = s;
}

static bool take_field(struct http_head *h, struct text name, struct text v,
                       int64_t now_s)
{
    if (text_is(name, "content-range")) {
        return take_range(h, v);
    }
    if (text_is(name, "content-length")) {
        return take_length(h, v);
    }
    if (text_is(name, "content-encoding")) {
        h->encoded |= v.len > 0 && !text_is(v, "identity");
        return true;
    }
    if (text_is(name, "etag")) {
        return keep(h, h->etag, sizeof(h->etag), v,
                    "its ETag cannot be understood");
    }
    if (text_is(name, "last-modified")) {
        return take_modified(h, v);
    }
    if (text_is(name, "x-amz-version-id")) {
        return keep(h, h->version, sizeof(h->version), v,
                    "its x-amz-version-id cannot be understood");
    }
    if (text_is(name, "location")) {
        return keep(h, h->location, sizeof(h->location), v,
                    "its Location cannot be understood");
    }
    if (text_is(name, "retry-after")) {
        take_retry_after(h, v, now_s);
    }
    return true;
}

/* --- lines --- */

/* "HTTP/1.1 206 Partial Content", "HTTP/2 206" */
static bool take_status(struct http_head *h, struct text line)
{
    const char *blank = memchr(line.at, ' ', line.len);
    size_t bytes = h->bytes;
    uint64_t status = 0;

    http_head_begin(h);
    h->bytes = bytes;
    if (!blank) {
        return head_fail(h, "its status line cannot be understood");
    }
    struct text rest = { blank, line.len - (size_t)(blank - line.at) };

    rest = text_trim(rest);
    if (!text_number(&rest, &status) || status < 100 || status > 999 ||
        (rest.len > 0 && !is_blank(rest.at[0]))) {
        return head_fail(h, "its status line cannot be understood");
    }
    h->status = (unsigned)status;
    return true;
}

bool http_head_line(struct http_head *h, const char *line, size_t len,
                    int64_t now_s)
{
    struct text t = { line, len };

    h->bytes += len;
    if (h->fault) {
        return false;
    }
    if (h->bytes > HTTP_HEAD_BYTES_MAX) {
        return head_fail(h, "its head is longer than 64 KiB");
    }
    while (t.len > 0 && (t.at[t.len - 1] == '\n' || t.at[t.len - 1] == '\r')) {
        t.len--;
    }
    if (t.len >= 5 && !memcmp(t.at, "HTTP/", 5)) {
        return take_status(h, t);
    }
    if (h->status == 0) {
        return head_fail(h, "it has no status line");
    }
    const char *colon = memchr(t.at, ':', t.len);
    if (!colon) {
        return t.len == 0 || head_fail(h, "a line of its head has no colon");
    }
    struct text name = { t.at, (size_t)(colon - t.at) };
    struct text value = { colon + 1, t.len - name.len - 1 };

    return take_field(h, name, text_trim(value), now_s);
}

bool http_tag_is_strong(const char *etag)
{
    size_t len = strlen(etag);

    return len >= 2 && etag[0] == '"' && etag[len - 1] == '"' &&
           !memchr(etag + 1, '"', len - 2);
}
