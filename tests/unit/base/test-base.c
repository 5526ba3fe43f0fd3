/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Windows, sizes, options and errors of src/base. */
#include <glib.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "base/math.h"
#include "base/options.h"
#include "base/suggest.h"
#include "base/units.h"

static void test_iov_slices(void)
{
    char a[3], b[1], c[5], flat[9], out[9];
    struct iovec v[] = { { a, 3 }, { NULL, 0 }, { b, 1 }, { c, 5 } };
    struct iov w = { .v = v, .n = 4, .len = 9 };

    for (int i = 0; i < 9; i++) {
        flat[i] = (char)('a' + i);
    }
    iov_from_buf(w, 0, flat, 9);
    for (size_t off = 0; off <= 9; off++) {
        for (size_t len = 0; off + len <= 9; len++) {
            struct iovec plain[4];
            size_t covered;
            struct iov s = iov_slice(w, off, len);
            memset(out, '.', sizeof(out));
            iov_to_buf(s, 0, out, len);
            g_assert_cmpmem(out, len, flat + off, len);
            iov_export(s, plain, 4, &covered);
            g_assert_cmpuint(covered, ==, len);
        }
    }
    g_assert_true(iov_contiguous(iov_slice(w, 4, 5)) == c);
    g_assert_null(iov_contiguous(iov_slice(w, 2, 3)));
    iov_memset(w, 1, 0, 8);
    g_assert_true(iov_is_zero(iov_slice(w, 1, 8)));
    g_assert_false(iov_is_zero(w));
}

static void test_zero_buffers(void)
{
    unsigned char buf[200] = { 0 };

    for (size_t len = 0; len <= sizeof(buf); len++) {
        g_assert_true(buf_is_zero(buf, len));
    }
    for (size_t at = 0; at < sizeof(buf); at++) {
        buf[at] = 1;
        g_assert_false(buf_is_zero(buf, sizeof(buf)));
        g_assert_true(buf_is_zero(buf, at));
        buf[at] = 0;
    }
}

static void test_sizes(void)
{
    static const struct {
        const char *text;
        char suffix;
        int result;
        uint64_t bytes;
    } rows[] = {
        { "0", 0, 0, 0 },
        { "512", 0, 0, 512 },
        { "1", 'M', 0, 1 << 20 },
        { "64k", 0, 0, 65536 },
        { "1.5G", 0, 0, 3ull << 29 },
        { "7B", 'M', 0, 7 },
        { "15E", 0, 0, 15ull << 60 },
        { "16E", 0, -ERANGE, 0 },
        { "99999999999999999999", 0, -ERANGE, 0 },
        { "-1", 0, -EINVAL, 0 },
        { "", 0, -EINVAL, 0 },
        { "k", 0, -EINVAL, 0 },
        { "1.5", 0, -EINVAL, 0 },
        { "1kk", 0, -EINVAL, 0 },
        { "1x", 0, -EINVAL, 0 },
        { "0x18000", 0, 0, 0x18000 },
        { "0XaBk", 0, 0, 0xab << 10 },
        { "0x1", 'M', 0, 1 << 20 },
        { "0x1.8k", 0, -EINVAL, 0 },
        { "0x", 0, -EINVAL, 0 },
        { "0xg", 0, -EINVAL, 0 },
        { " 1", 0, -EINVAL, 0 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        uint64_t bytes = 0;
        g_autoptr(GError) err = NULL;
        g_test_message("'%s'", rows[i].text);
        g_assert_cmpint(size_parse(rows[i].text, rows[i].suffix, &bytes, &err),
                        ==, rows[i].result);
        g_assert_cmpuint(bytes, ==, rows[i].bytes);
        g_assert_true((err != NULL) == (rows[i].result < 0));
    }
}

static void test_size_format(void)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {
        { 0, "0 B" },
        { 512, "512 B" },
        { 1000, "0.977 KiB" },
        { 1024, "1 KiB" },
        { 65536, "64 KiB" },
        { 1536 << 10, "1.5 MiB" },
        { 10ull << 30, "10 GiB" },
        { 1ull << 40, "1 TiB" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = size_format(rows[i].bytes);
        g_assert_cmpstr(text, ==, rows[i].text);
    }
}

static struct opts *make_opts(const char *text)
{
    json_t *obj = json_loads(text, 0, NULL);
    struct opts *o = opts_new(obj);

    g_assert_nonnull(obj);
    json_decref(obj);
    return o;
}

static void test_options_taken(void)
{
    CLEANUP(opts_freep)
    struct opts *o = make_opts(
        "{\"s\": \"x\", \"b\": true, \"c\": \"off\", \"z\": \"64k\","
        " \"n\": -3, \"e\": \"two\"}");
    static const char *const names[] = { "one", "two", NULL };
    g_autofree char *s = NULL;
    bool b = false, c = true;
    uint64_t z = 0;
    int64_t n = 0;
    int e = -1;

    g_assert_cmpint(opts_take_str(o, "s", &s, NULL), ==, 1);
    g_assert_cmpint(opts_take_bool(o, "b", &b, NULL), ==, 1);
    g_assert_cmpint(opts_take_bool(o, "c", &c, NULL), ==, 1);
    g_assert_cmpint(opts_take_size(o, "z", &z, NULL), ==, 1);
    g_assert_cmpint(opts_take_int(o, "n", &n, NULL), ==, 1);
    g_assert_cmpint(opts_take_enum(o, "e", names, &e, NULL), ==, 1);
    g_assert_cmpint(opts_take_int(o, "n", &n, NULL), ==, 0);
    g_assert_cmpstr(s, ==, "x");
    g_assert_true(b && !c);
    g_assert_cmpuint(z, ==, 65536);
    g_assert_cmpint(n, ==, -3);
    g_assert_cmpint(e, ==, 1);
    g_assert_cmpint(opts_finish(o, NULL), ==, 0);
}

static void test_options_refused(void)
{
    static const char *const names[] = { "one", NULL };
    CLEANUP(opts_freep)
    struct opts *o = make_opts(
        "{\"s\": 1, \"b\": \"maybe\", \"z\": -1, \"e\": \"x\", \"q\": {}}");
    g_autoptr(GError) err = NULL;
    char *s = NULL;
    bool b;
    uint64_t z;
    int e;

    g_assert_cmpint(opts_take_str(o, "s", &s, &err), ==, -EINVAL);
    g_assert_cmpstr(err->message, ==,
                    "Invalid parameter type for 's', expected: string");
    g_clear_error(&err);
    g_assert_cmpint(opts_take_bool(o, "b", &b, &err), ==, -EINVAL);
    g_assert_cmpstr(err->message, ==, "Parameter 'b' expects 'on' or 'off'");
    g_clear_error(&err);
    g_assert_cmpint(opts_take_size(o, "z", &z, &err), ==, -EINVAL);
    g_clear_error(&err);
    g_assert_cmpint(opts_take_enum(o, "e", names, &e, &err), ==, -EINVAL);
    g_autofree char *message = err_dup_message(err);
    g_assert_cmpstr(message, ==, "Parameter 'e' does not accept value 'x'");
    g_assert_cmpstr(err_get_hint(err), ==, "Possible are: one.");
    g_clear_error(&err);
    g_assert_cmpint(opts_finish(o, &err), ==, -EINVAL);
    g_assert_cmpstr(err->message, ==, "Parameter 'q' is unexpected");
}

static void test_errors_hide_passwords(void)
{
    GError *err = NULL;

    err_set(&err, EINVAL, "'%s' and \"%s\", not '%s' (%s)",
            "http://name:pass@word@host/a@b", "s3://key@bucket/",
            "https://host/x?y=a@b", "a@b");
    err_prefix(&err, "Could not open 'json:{\"url\": \"%s\"}'",
               "http://n:hidden@h");
    g_assert_cmpstr(err->message, ==,
                    "Could not open 'json:{\"url\": \"http://h\"}': "
                    "'http://host/a@b' and \"s3://bucket/\", not "
                    "'https://host/x?y=a@b' (a@b)");
    g_error_free(err);
}

static void test_errors(void)
{
    g_autoptr(GError) err = NULL;

    g_assert_cmpint(err_set_class(&err, ERR_DEVICE_NOT_FOUND, ENODEV,
                                  "Device '%s' not found", "x"),
                    ==, -ENODEV);
    err_prefix(&err, "while %s", "testing");
    err_hint(&err, "Is it there?");
    err_hint(&err, "Look again.");
    g_autofree char *text = err_dup_message(err);
    g_assert_cmpstr(text, ==, "while testing: Device 'x' not found");
    g_assert_cmpstr(err_get_hint(err), ==, "Is it there?\nLook again.");
    g_assert_cmpint(err_class_of(err), ==, ERR_DEVICE_NOT_FOUND);
    g_assert_cmpint(err->code, ==, ENODEV);
    g_assert_cmpint(err_set(NULL, EIO, "dropped"), ==, -EIO);
}

static void test_ranges(void)
{
    g_assert_true(range_inside(0, 0, 0));
    g_assert_true(range_inside(UINT64_MAX, 0, UINT64_MAX));
    g_assert_false(range_inside(1, UINT64_MAX, UINT64_MAX));
    g_assert_true(ranges_overlap(0, 10, 9, 1));
    g_assert_false(ranges_overlap(0, 10, 10, 1));
    g_assert_true(ranges_overlap(UINT64_MAX - 1, 2, UINT64_MAX, 1));
}

static void test_suggest(void)
{
    static const char *const words[] = { "convert", "compare", "commit",
                                         "check",   "info",    NULL };

    g_assert_cmpstr(suggest_word("covnert", words), ==, "convert");
    g_assert_cmpstr(suggest_word("conv", words), ==, "convert");
    g_assert_cmpstr(suggest_word("comit", words), ==, "commit");
    g_assert_cmpstr(suggest_word("inof", words), ==, "info");
    g_assert_cmpstr(suggest_word("chekc", words), ==, "check");
    g_assert_cmpstr(suggest_word("checks", words), ==, "check");
    g_assert_null(suggest_word("zork", words));
    g_assert_null(suggest_word("x", words));
    g_assert_null(suggest_word("", words));
    g_autofree char *longest = g_strnfill(5000, 'c');
    g_assert_null(suggest_word(longest, words));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/iov/slices", test_iov_slices);
    g_test_add_func("/base/iov/zero", test_zero_buffers);
    g_test_add_func("/base/units/parse", test_sizes);
    g_test_add_func("/base/units/format", test_size_format);
    g_test_add_func("/base/options/taken", test_options_taken);
    g_test_add_func("/base/options/refused", test_options_refused);
    g_test_add_func("/base/errors", test_errors);
    g_test_add_func("/base/errors/passwords", test_errors_hide_passwords);
    g_test_add_func("/base/ranges", test_ranges);
    g_test_add_func("/base/suggest", test_suggest);
    return g_test_run();
}
