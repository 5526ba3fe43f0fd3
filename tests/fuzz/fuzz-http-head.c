/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Heads of HTTP responses: what is taken from them can be reckoned with, and
 * depends on the last head alone.
 */
#include <string.h>
#include "fuzz.h"
#include "wire/http-head.h"

#define NOW_S INT64_C(784111777)

static void check(const struct http_head *h)
{
    g_assert_cmpuint(h->status, >=, 100);
    g_assert_cmpuint(h->status, <=, 999);
    g_assert_cmpuint(h->bytes, <=, HTTP_HEAD_BYTES_MAX);
    if (h->has_range) {
        g_assert_true(h->has_total);
        g_assert_cmpuint(h->first, <=, h->last);
        g_assert_cmpuint(h->last, <, h->total);
    }
    g_assert_cmpuint(h->total, <=, INT64_MAX);
    g_assert_cmpuint(h->length, <=, INT64_MAX);
    g_assert_cmpint(h->retry_after_s, >=, -1);
    g_assert_cmpint(h->retry_after_s, <=, HTTP_RETRY_AFTER_MAX_S);
    /* They stand in requests. */
    g_assert_null(strpbrk(h->etag, "\r\n"));
    g_assert_null(strpbrk(h->modified, "\r\n"));
    g_assert_null(strpbrk(h->version, "\r\n"));
    if (*h->modified) {
        int64_t s;

        g_assert_true(http_date_parse(h->modified, &s));
    }
    http_tag_is_strong(h->etag);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const char *at = (const char *)data, *end = at + len;
    g_autofree struct http_head *h = g_new0(struct http_head, 1);
    bool good = true;

    http_head_begin(h);
    while (good && at < end) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        const char *next = nl ? nl + 1 : end;

        good = http_head_line(h, at, (size_t)(next - at), NOW_S);
        g_assert_true(good == !h->fault);
        if (good) {
            check(h);
        }
        at = next;
    }
    return 0;
}
