/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD encoding against bytes written by hand from the protocol text, and the
 * decoders against every truncation and against noise.  Inputs are copied to
 * blocks of exactly their size, so that a sanitizer sees any look beyond.
 */
#include <errno.h>
#include <glib.h>
#include <string.h>
#include "wire/nbd.h"

#define assert_bytes(buf, lit) \
    g_assert_cmpmem(buf, sizeof(lit) - 1, lit, sizeof(lit) - 1)

static void test_greeting(void)
{
    uint8_t b[NBD_GREETING_SIZE];
    uint16_t flags;

    nbd_encode_greeting(b, 3);
    assert_bytes(b, "NBDMAGICIHAVEOPT\0\3");
    g_assert_cmpint(nbd_decode_greeting(b, &flags), ==, 0);
    g_assert_cmpuint(flags, ==, 3);
    b[8] ^= 1;
    g_assert_cmpint(nbd_decode_greeting(b, &flags), ==, -EBADMSG);
}

static void test_option(void)
{
    uint8_t b[NBD_OPT_SIZE], r[NBD_OPT_REPLY_SIZE];
    struct nbd_opt_header h;
    uint32_t opt, type, len;

    nbd_encode_opt(b, NBD_OPT_GO, 0x01020304);
    assert_bytes(b, "IHAVEOPT\0\0\0\7\1\2\3\4");
    g_assert_cmpint(nbd_decode_opt(b, &h), ==, 0);
    g_assert_cmpuint(h.opt, ==, NBD_OPT_GO);
    g_assert_cmpuint(h.len, ==, 0x01020304);
    b[0] = 'x';
    g_assert_cmpint(nbd_decode_opt(b, &h), ==, -EBADMSG);

    nbd_encode_opt_reply(r, NBD_OPT_LIST, NBD_REP_ERR_POLICY, 5);
    assert_bytes(r, "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\3\x80\0\0\2\0\0\0\5");
    g_assert_cmpint(nbd_decode_opt_reply(r, &opt, &type, &len), ==, 0);
    g_assert_cmpuint(type, ==, NBD_REP_ERR_POLICY);
    r[7] = 0;
    g_assert_cmpint(nbd_decode_opt_reply(r, &opt, &type, &len), ==, -EBADMSG);
}

static void test_info_replies(void)
{
    uint8_t e[NBD_INFO_EXPORT_SIZE], s[NBD_INFO_BLOCK_SIZE_SIZE];
    uint8_t n[NBD_EXPORT_NAME_SIZE];

    nbd_encode_info_export(e, 0x0102030405060708, 0x90a);
    assert_bytes(e, "\0\0\1\2\3\4\5\6\7\x08\x09\x0a");
    nbd_encode_info_block_size(s, 1, 4096, 1 << 25);
    assert_bytes(s, "\0\3\0\0\0\1\0\0\x10\0\2\0\0\0");
    nbd_encode_export_name(n, 512, 1);
    assert_bytes(n, "\0\0\0\0\0\0\2\0\0\1");
}

/* Decode @len bytes of @in from a block of exactly that size. */
static int decode_info(const void *in, size_t len, struct nbd_info_request *r,
                       uint8_t **ret_copy)
{
    *ret_copy = g_memdup2(in, len ? len : 1);
    return nbd_decode_info_request(*ret_copy, len, r);
}

static void test_info_request(void)
{
    static const char in[] = "\0\0\0\3abc\0\2\0\3\0\1";
    struct nbd_info_request r;
    size_t full = sizeof(in) - 1;

    for (size_t len = 0; len <= full + 1; len++) {
        uint8_t *copy;
        int ret = decode_info(in, len, &r, &copy);
        g_assert_cmpint(ret, ==, len == full ? 0 : -EINVAL);
        if (ret == 0) {
            g_assert_true(nbd_text_equal(r.name, "abc"));
            g_assert_cmpuint(r.count, ==, 2);
            g_assert_cmpuint(nbd_info_request_item(&r, 0), ==, 3);
            g_assert_cmpuint(nbd_info_request_item(&r, 1), ==, 1);
        }
        g_free(copy);
    }
}

static void test_info_request_names(void)
{
    static const struct {
        uint32_t len;
        char fill;
        int ret;
    } rows[] = {
        { 0, 'a', 0 },           { 257, 'a', 0 },        { 1025, 'a', 0 },
        { 4096, 'a', 0 },        { 4097, 'a', -EINVAL }, { 10, '\0', -EINVAL },
        { 10, '\xff', -EINVAL },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        size_t len = 4 + rows[i].len + 2;
        uint8_t *in = g_malloc0(len);
        struct nbd_info_request r;
        in[2] = (uint8_t)(rows[i].len >> 8);
        in[3] = (uint8_t)rows[i].len;
        memset(in + 4, rows[i].fill, rows[i].len);
        g_assert_cmpint(nbd_decode_info_request(in, len, &r), ==, rows[i].ret);
        g_free(in);
    }
}

/* Lengths and counts near 2^32 must neither wrap nor be believed. */
static void test_huge_lengths(void)
{
    static const char name[] = "\xff\xff\xff\xff"
                               "ab\0\0";
    static const char count[] = "\0\0\0\1a\xff\xff\xff\xff\0\0\0\1b";
    static const char query[] = "\0\0\0\1a\0\0\0\1\xff\xff\xff\xff"
                                "b";
    static const char items[] = "\0\0\0\1a\xff\xff\0\1";
    struct nbd_info_request r;
    struct nbd_meta_request m;

    g_assert_cmpint(
        nbd_decode_info_request((const uint8_t *)name, sizeof(name) - 1, &r),
        ==, -EINVAL);
    g_assert_cmpint(
        nbd_decode_info_request((const uint8_t *)items, sizeof(items) - 1, &r),
        ==, -EINVAL);
    g_assert_cmpint(
        nbd_decode_meta_request((const uint8_t *)name, sizeof(name) - 1, &m),
        ==, -EINVAL);
    g_assert_cmpint(
        nbd_decode_meta_request((const uint8_t *)count, sizeof(count) - 1, &m),
        ==, -EINVAL);
    g_assert_cmpint(
        nbd_decode_meta_request((const uint8_t *)query, sizeof(query) - 1, &m),
        ==, -EINVAL);
}

static void test_meta_request(void)
{
    static const char in[] = "\0\0\0\1x\0\0\0\2\0\0\0\5base:\0\0\0\3q:z";
    size_t full = sizeof(in) - 1;
    struct nbd_meta_request r;
    struct nbd_text q;

    for (size_t len = 0; len <= full + 1; len++) {
        uint8_t *copy = g_memdup2(in, len ? len : 1);
        int ret = nbd_decode_meta_request(copy, len, &r);
        g_assert_cmpint(ret, ==, len == full ? 0 : -EINVAL);
        if (ret == 0) {
            g_assert_true(nbd_text_equal(r.name, "x"));
            g_assert_true(nbd_meta_request_next(&r, &q));
            g_assert_true(nbd_text_equal(q, "base:"));
            g_assert_true(nbd_meta_request_next(&r, &q));
            g_assert_true(nbd_text_equal(q, "q:z"));
            g_assert_false(nbd_meta_request_next(&r, &q));
        }
        g_free(copy);
    }
}

static void test_request(void)
{
    struct nbd_request_header h = {
        .flags = NBD_CMD_FLAG_FUA, .cmd = NBD_CMD_WRITE, .cookie = 0,
        .offset = 0x0102030405060708, .len = 0x11121314,
    }, back;
    uint8_t b[NBD_REQUEST_SIZE];

    memcpy(&h.cookie, "COOKIE!!", 8);
    nbd_encode_request(b, &h);
    assert_bytes(b, "\x25\x60\x95\x13\0\1\0\1COOKIE!!\1\2\3\4\5\6\7\x08"
                    "\x11\x12\x13\x14");
    g_assert_cmpint(nbd_decode_request(b, &back), ==, 0);
    g_assert_cmpuint(back.flags, ==, h.flags);
    g_assert_cmpuint(back.cmd, ==, h.cmd);
    g_assert_cmpuint(back.cookie, ==, h.cookie);
    g_assert_cmpuint(back.offset, ==, h.offset);
    g_assert_cmpuint(back.len, ==, h.len);
    for (int i = 0; i < 4; i++) {
        b[i] ^= 0x80;
        g_assert_cmpint(nbd_decode_request(b, &back), ==, -EBADMSG);
        b[i] ^= 0x80;
    }
}

static void test_replies(void)
{
    uint8_t b[NBD_CHUNK_HEAD_MAX];
    struct nbd_chunk_header h;
    uint64_t cookie, got;
    uint32_t error;

    memcpy(&cookie, "COOKIE!!", 8);
    nbd_encode_simple_reply(b, cookie, NBD_EINVAL);
    assert_bytes(b, "\x67\x44\x66\x98\0\0\0\x16"
                    "COOKIE!!");
    g_assert_cmpint(nbd_decode_simple_reply(b, &got, &error), ==, 0);
    g_assert_cmpuint(got, ==, cookie);
    g_assert_cmpuint(error, ==, NBD_EINVAL);

    g_assert_cmpuint(nbd_encode_chunk_none(b, cookie), ==, 20);
    assert_bytes(b, "\x66\x8e\x33\xef\0\1\0\0COOKIE!!\0\0\0\0");
    g_assert_cmpuint(nbd_encode_chunk_data(b, cookie, 1, 2, 3), ==, 28);
    assert_bytes(b, "\x66\x8e\x33\xef\0\1\0\1COOKIE!!\0\0\0\x0b"
                    "\0\0\0\0\0\0\0\2");
    g_assert_cmpuint(nbd_encode_chunk_hole(b, cookie, 0, 2, 3), ==, 32);
    assert_bytes(b, "\x66\x8e\x33\xef\0\0\0\2COOKIE!!\0\0\0\x0c"
                    "\0\0\0\0\0\0\0\2\0\0\0\3");
    g_assert_cmpuint(nbd_encode_chunk_error(b, cookie, 1, 5, 7), ==, 26);
    assert_bytes(b, "\x66\x8e\x33\xef\0\1\x80\1COOKIE!!\0\0\0\x0d"
                    "\0\0\0\5\0\7");
    g_assert_cmpuint(nbd_encode_chunk_status(b, cookie, 0, 9, 2), ==, 24);
    assert_bytes(b, "\x66\x8e\x33\xef\0\0\0\5COOKIE!!\0\0\0\x14\0\0\0\x09");
    g_assert_cmpint(nbd_decode_chunk(b, &h), ==, 0);
    g_assert_cmpuint(h.type, ==, NBD_CHUNK_BLOCK_STATUS);
    g_assert_cmpuint(h.cookie, ==, cookie);
    g_assert_cmpuint(h.len, ==, 20);
    nbd_encode_extent(b, 512, NBD_STATE_ZERO);
    assert_bytes(b, "\0\0\2\0\0\0\0\2");
}

static void test_errors(void)
{
    static const struct {
        int errnum;
        uint32_t error;
    } rows[] = {
        { 0, 0 },          { EPERM, 1 },       { EROFS, 1 },
        { EIO, 5 },        { ENOMEM, 12 },     { EINVAL, 22 },
        { ENOSPC, 28 },    { EDQUOT, 28 },     { EFBIG, 28 },
        { EOVERFLOW, 75 }, { EOPNOTSUPP, 95 }, { ESHUTDOWN, 108 },
        { ENOENT, 5 },     { ETIMEDOUT, 5 },   { 99999, 5 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_assert_cmpuint(nbd_error_from_errno(rows[i].errnum), ==,
                         rows[i].error);
    }
}

static void test_noise(void)
{
    GRand *rnd = g_rand_new_with_seed(20261120);

    for (int i = 0; i < 20000; i++) {
        size_t len = (size_t)g_rand_int_range(rnd, 0, 64);
        uint8_t *in = g_malloc(len ? len : 1);
        struct nbd_info_request r;
        struct nbd_meta_request m;
        struct nbd_text q;
        for (size_t k = 0; k < len; k++) {
            /* Mostly small numbers, so that some of it makes sense. */
            in[k] = (uint8_t)(g_rand_int_range(rnd, 0, 4)
                                  ? 0
                                  : g_rand_int_range(rnd, 0, 256));
        }
        if (nbd_decode_info_request(in, len, &r) == 0) {
            for (unsigned k = 0; k < r.count; k++) {
                nbd_info_request_item(&r, k);
            }
        }
        if (nbd_decode_meta_request(in, len, &m) == 0) {
            while (nbd_meta_request_next(&m, &q)) {
                g_assert_true(q.len <= len);
            }
        }
        g_free(in);
    }
    g_rand_free(rnd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/nbd/greeting", test_greeting);
    g_test_add_func("/wire/nbd/option", test_option);
    g_test_add_func("/wire/nbd/info-replies", test_info_replies);
    g_test_add_func("/wire/nbd/info-request", test_info_request);
    g_test_add_func("/wire/nbd/info-request-names", test_info_request_names);
    g_test_add_func("/wire/nbd/huge-lengths", test_huge_lengths);
    g_test_add_func("/wire/nbd/meta-request", test_meta_request);
    g_test_add_func("/wire/nbd/request", test_request);
    g_test_add_func("/wire/nbd/replies", test_replies);
    g_test_add_func("/wire/nbd/errors", test_errors);
    g_test_add_func("/wire/nbd/noise", test_noise);
    return g_test_run();
}
