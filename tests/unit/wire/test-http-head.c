/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Heads of HTTP responses: what is taken from them and what is a fault. */
#include <glib.h>
#include <string.h>

#include "wire/http-head.h"

#define NOW_S INT64_C(784111777) /* Sun, 06 Nov 1994 08:49:37 GMT */

/* Lines with \n between them. */
static struct http_head parse(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    struct http_head h;

    http_head_begin(&h);
    for (unsigned i = 0; lines[i]; i++) {
        g_autofree char *line = g_strconcat(lines[i], "\r\n", NULL);

        if (!http_head_line(&h, line, strlen(line), NOW_S)) {
            g_assert_nonnull(h.fault);
            break;
        }
    }
    return h;
}

static struct http_head with(const char *field)
{
    g_autofree char *text = g_strconcat("HTTP/1.1 206 x\n", field, "\n", NULL);

    return parse(text);
}

static void test_good(void)
{
    struct http_head h = parse("HTTP/1.1 100 Continue\nETag: \"old\"\n\n"
                               "HTTP/2 206\n"
                               "eTAG:\t\"abc\" \n"
                               "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\n"
                               "content-range: Bytes 5-9/100\n"
                               "Content-Length: 5\n"
                               "Content-Length: 5\n"
                               "content-encoding: Identity\n"
                               "x-amz-version-id: v1\n"
                               "Unknown: x\n");

    g_assert_null(h.fault);
    g_assert_cmpuint(h.status, ==, 206);
    g_assert_cmpstr(h.etag, ==, "\"abc\"");
    g_assert_cmpstr(h.modified, ==, "Sun, 06 Nov 1994 08:49:37 GMT");
    g_assert_cmpstr(h.version, ==, "v1");
    g_assert_true(h.has_range && h.has_total && h.has_length && !h.encoded);
    g_assert_cmpuint(h.first, ==, 5);
    g_assert_cmpuint(h.last, ==, 9);
    g_assert_cmpuint(h.total, ==, 100);
    g_assert_cmpuint(h.length, ==, 5);
    g_assert_cmpint(h.retry_after_s, ==, -1);
}

static void test_faults(void)
{
    static const char *const bad[] = {
        "Content-Range: bytes 1-0/5",
        "Content-Range: bytes 0-5/5",
        "Content-Range: bytes 0-4/*",
        "Content-Range: bytes 0-4",
        "Content-Range: bytes -4/5",
        "Content-Range: bytes 0-/5",
        "Content-Range: bytes 0-4/",
        "Content-Range: bytes 0-4/5x",
        "Content-Range: bytes 0 - 4/5",
        "Content-Range: bytes=0-4/5",
        "Content-Range: bytes",
        "Content-Range:",
        "Content-Range: pages 0-4/5",
        "Content-Range: bytes +0-4/5",
        "Content-Range: bytes 0-4/9223372036854775808",
        "Content-Range: bytes 18446744073709551616-4/5",
        "Content-Range: bytes 0-4/5\nContent-Range: bytes 0-4/5",
        "Content-Length: -1",
        "Content-Length: 5, 5",
        "Content-Length: 0x5",
        "Content-Length: 5\nContent-Length: 6",
        "ETag: \"a\"\nETag: \"b\"",
        "ETag: \"a\x01\"",
        "ETag:",
        "no colon",
        "HTTP/1.1",
        "HTTP/1.1 20x",
        "HTTP/1.1 99",
        "HTTP/1.1 1000",
    };
    g_autofree char *tag = g_strnfill(HTTP_TAG_MAX, 'x');
    g_autofree char *long_tag = g_strconcat("ETag: ", tag, NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_test_message("%s", bad[i]);
        g_assert_nonnull(with(bad[i]).fault);
    }
    g_assert_nonnull(with(long_tag).fault);
    long_tag[strlen(long_tag) - 1] = '\0';
    g_assert_null(with(long_tag).fault);
    g_assert_nonnull(parse("ETag: \"before the status line\"").fault);
}

static void test_size_alone(void)
{
    struct http_head h = with("Content-Range: bytes */1000");

    g_assert_null(h.fault);
    g_assert_true(h.has_total && !h.has_range);
    g_assert_cmpuint(h.total, ==, 1000);
}

static void test_limit(void)
{
    struct http_head h = parse("HTTP/1.1 206 x");
    g_autofree char *line = g_strnfill(1024, 'x');

    line[1] = ':';
    while (h.bytes + 1024 <= HTTP_HEAD_BYTES_MAX) {
        g_assert_true(http_head_line(&h, line, 1024, NOW_S));
    }
    g_assert_false(http_head_line(&h, line, 1024, NOW_S));
    /* No new head begins from zero. */
    h = parse("HTTP/1.1 100 x");
    while (h.bytes + 14 <= HTTP_HEAD_BYTES_MAX) {
        g_assert_true(http_head_line(&h, "HTTP/1.1 100 x", 14, NOW_S));
    }
    g_assert_false(http_head_line(&h, "HTTP/1.1 100 x", 14, NOW_S));
}

static void test_retry_after(void)
{
    static const struct {
        const char *text;
        int64_t s;
    } rows[] = {
        { "0", 0 },
        { "120", 120 },
        { "9999999999", HTTP_RETRY_AFTER_MAX_S },
        { "Sun, 06 Nov 1994 08:49:37 GMT", 0 },
        { "Sun, 06 Nov 1994 08:50:37 GMT", 60 },
        { "Sun, 06 Nov 1994 08:40:37 GMT", 0 },
        { "Sun, 06 Nov 2094 08:40:37 GMT", HTTP_RETRY_AFTER_MAX_S },
        { "-5", -1 },
        { "soon", -1 },
        { "1.5", -1 },
        { "Sunday, 06-Nov-94 08:49:37 GMT", -1 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *line = g_strconcat("Retry-After: ", rows[i].text,
                                            NULL);

        g_test_message("%s", line);
        g_assert_cmpint(with(line).retry_after_s, ==, rows[i].s);
    }
}

static void test_dates(void)
{
    static const char *const bad[] = {
        "",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 31 Feb 1994 08:49:37 GMT",
        "Sun, 06 Now 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:49:37 GMT",
        "Sun, 6  Nov 1994 08:49:37 GMT",
        "Sun; 06 Nov 1994 08:49:37 GMT",
    };
    int64_t s = 0;

    g_assert_true(http_date_parse("Sun, 06 Nov 1994 08:49:37 GMT", &s));
    g_assert_cmpint(s, ==, NOW_S);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_test_message("%s", bad[i]);
        g_assert_false(http_date_parse(bad[i], &s));
    }
    /* As if it was not said: it can name no version. */
    g_assert_cmpstr(with("Last-Modified: yesterday").modified, ==, "");
    g_assert_null(with("Last-Modified: yesterday").fault);
}

static void test_tags(void)
{
    g_assert_true(http_tag_is_strong("\"a\""));
    g_assert_true(http_tag_is_strong("\"\""));
    g_assert_false(http_tag_is_strong(""));
    g_assert_false(http_tag_is_strong("\""));
    g_assert_false(http_tag_is_strong("a"));
    g_assert_false(http_tag_is_strong("W/\"a\""));
    g_assert_false(http_tag_is_strong("\"a\", \"b\""));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/http-head/good", test_good);
    g_test_add_func("/wire/http-head/faults", test_faults);
    g_test_add_func("/wire/http-head/size-alone", test_size_alone);
    g_test_add_func("/wire/http-head/limit", test_limit);
    g_test_add_func("/wire/http-head/retry-after", test_retry_after);
    g_test_add_func("/wire/http-head/dates", test_dates);
    g_test_add_func("/wire/http-head/tags", test_tags);
    return g_test_run();
}
