/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD on the wire.  A cursor walks each buffer: `put` trusts the caller's
 * sizes, `take` trusts nobody and turns sticky at the first shortage.
 */
#include "wire/nbd.h"
#include <errno.h>
#include <glib.h>
#include <string.h>

static uint8_t *put16(uint8_t *p, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

static uint8_t *put64(uint8_t *p, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    memcpy(p, &v, sizeof(v));
    return p + sizeof(v);
}

/* The cookie is the client's own bytes: neither side gives it an order. */
static uint8_t *put_cookie(uint8_t *p, uint64_t cookie)
{
    memcpy(p, &cookie, sizeof(cookie));
    return p + sizeof(cookie);
}

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT16_FROM_BE(v);
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT32_FROM_BE(v);
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return GUINT64_FROM_BE(v);
}

static uint64_t get_cookie(const uint8_t *p)
{
    uint64_t cookie;

    memcpy(&cookie, p, sizeof(cookie));
    return cookie;
}

/* What is left of a payload. */
struct take {
    const uint8_t *p;
    size_t len;
    bool bad;
};

static const uint8_t *take_bytes(struct take *t, size_t n)
{
    const uint8_t *p = t->p;

    if (t->bad || n > t->len) {
        t->bad = true;
        return NULL;
    }
    t->p += n;
    t->len -= n;
    return p;
}

static uint16_t take16(struct take *t)
{
    const uint8_t *p = take_bytes(t, 2);

    return p ? get16(p) : 0;
}

static uint32_t take32(struct take *t)
{
    const uint8_t *p = take_bytes(t, 4);

    return p ? get32(p) : 0;
}

static struct nbd_text take_text(struct take *t)
{
    struct nbd_text text = { .len = take32(t) };

    text.s = (const char *)take_bytes(t, text.len);
    if (!text.s) {
        text.len = 0;
    }
    return text;
}

/* --- handshake --- */

void nbd_encode_greeting(uint8_t out[NBD_GREETING_SIZE], uint16_t flags)
{
    uint8_t *p = put64(out, NBD_MAGIC);

    p = put64(p, NBD_OPT_MAGIC);
    put16(p, flags);
}

int nbd_decode_greeting(const uint8_t in[NBD_GREETING_SIZE],
                        uint16_t *ret_flags)
{
    if (get64(in) != NBD_MAGIC || get64(in + 8) != NBD_OPT_MAGIC) {
        return -EBADMSG;
    }
    *ret_flags = get16(in + 16);
    return 0;
}

uint32_t nbd_decode_client_flags(const uint8_t in[NBD_CLIENT_FLAGS_SIZE])
{
    return get32(in);
}

void nbd_encode_opt(uint8_t out[NBD_OPT_SIZE], uint32_t opt, uint32_t len)
{
    uint8_t *p = put64(out, NBD_OPT_MAGIC);

    p = put32(p, opt);
    put32(p, len);
}

int nbd_decode_opt(const uint8_t in[NBD_OPT_SIZE], struct nbd_opt_header *ret)
{
    if (get64(in) != NBD_OPT_MAGIC) {
        return -EBADMSG;
    }
    ret->opt = get32(in + 8);
    ret->len = get32(in + 12);
    return 0;
}

void nbd_encode_opt_reply(uint8_t out[NBD_OPT_REPLY_SIZE], uint32_t opt,
                          uint32_t type, uint32_t len)
{
    uint8_t *p = put64(out, NBD_REP_MAGIC);

    p = put32(p, opt);
    p = put32(p, type);
    put32(p, len);
}

int nbd_decode_opt_reply(const uint8_t in[NBD_OPT_REPLY_SIZE],
                         uint32_t *ret_opt, uint32_t *ret_type,
                         uint32_t *ret_len)
{
    if (get64(in) != NBD_REP_MAGIC) {
        return -EBADMSG;
    }
    *ret_opt = get32(in + 8);
    *ret_type = get32(in + 12);
    *ret_len = get32(in + 16);
    return 0;
}

void nbd_encode_export_name(uint8_t out[NBD_EXPORT_NAME_SIZE], uint64_t size,
                            uint16_t flags)
{
    put16(put64(out, size), flags);
}

void nbd_encode_info_export(uint8_t out[NBD_INFO_EXPORT_SIZE], uint64_t size,
                            uint16_t flags)
{
    uint8_t *p = put16(out, NBD_INFO_EXPORT);

    put16(put64(p, size), flags);
}

void nbd_encode_info_block_size(uint8_t out[NBD_INFO_BLOCK_SIZE_SIZE],
                                uint32_t min, uint32_t preferred, uint32_t max)
{
    uint8_t *p = put16(out, NBD_INFO_BLOCK_SIZE);

    p = put32(p, min);
    p = put32(p, preferred);
    put32(p, max);
}

int nbd_decode_info_request(const uint8_t *in, size_t len,
                            struct nbd_info_request *ret)
{
    struct take t = { .p = in, .len = len };

    ret->name = take_text(&t);
    ret->count = take16(&t);
    ret->items = take_bytes(&t, 2 * (size_t)ret->count);
    if (t.bad || t.len > 0 || !nbd_text_is_valid(ret->name)) {
        return -EINVAL;
    }
    return 0;
}

uint16_t nbd_info_request_item(const struct nbd_info_request *r, unsigned i)
{
    g_assert(i < r->count);
    return get16(r->items + 2 * (size_t)i);
}

int nbd_decode_meta_request(const uint8_t *in, size_t len,
                            struct nbd_meta_request *ret)
{
    struct take t = { .p = in, .len = len };
    struct nbd_text name = take_text(&t);
    uint32_t count = take32(&t);
    struct nbd_meta_request r = {
        .name = name,
        .count = count,
        .queries = t.p,
        .len = t.len,
    };

    if (t.bad || !nbd_text_is_valid(name)) {
        return -EINVAL;
    }
    /* Walk all of them now, so that a bad last one has no half effect.  Each
     * takes four bytes at least: the payload bounds the loop, not @count. */
    for (uint32_t i = 0; i < count && !t.bad; i++) {
        if (!nbd_text_is_valid(take_text(&t))) {
            t.bad = true;
        }
    }
    if (t.bad || t.len > 0) {
        return -EINVAL;
    }
    *ret = r;
    return 0;
}

bool nbd_meta_request_next(struct nbd_meta_request *r, struct nbd_text *ret)
{
    struct take t = { .p = r->queries, .len = r->len };

    if (r->count == 0) {
        return false;
    }
    *ret = take_text(&t);
    g_assert(!t.bad);
    r->count--;
    r->queries = t.p;
    r->len = t.len;
    return true;
}

bool nbd_text_is_valid(struct nbd_text t)
{
    return t.s && t.len <= NBD_MAX_STRING && !memchr(t.s, 0, t.len) &&
           g_utf8_validate(t.s, t.len, NULL);
}

bool nbd_text_equal(struct nbd_text t, const char *s)
{
    return strlen(s) == t.len && memcmp(t.s, s, t.len) == 0;
}

/* --- transmission --- */

void nbd_encode_request(uint8_t out[NBD_REQUEST_SIZE],
                        const struct nbd_request_header *h)
{
    uint8_t *p = put32(out, NBD_REQUEST_MAGIC);

    p = put16(p, h->flags);
    p = put16(p, h->cmd);
    p = put_cookie(p, h->cookie);
    p = put64(p, h->offset);
    put32(p, h->len);
}

int nbd_decode_request(const uint8_t in[NBD_REQUEST_SIZE],
                       struct nbd_request_header *ret)
{
    if (get32(in) != NBD_REQUEST_MAGIC) {
        return -EBADMSG;
    }
    ret->flags = get16(in + 4);
    ret->cmd = get16(in + 6);
    ret->cookie = get_cookie(in + 8);
    ret->offset = get64(in + 16);
    ret->len = get32(in + 24);
    return 0;
}

uint32_t nbd_error_from_errno(int errnum)
{
    static const struct {
        int errnum;
        enum nbd_error error;
    } table[] = {
        { 0, NBD_SUCCESS },
        { EPERM, NBD_EPERM },
        { EROFS, NBD_EPERM },
        { EACCES, NBD_EPERM },
        { EIO, NBD_EIO },
        { ENOMEM, NBD_ENOMEM },
        { EINVAL, NBD_EINVAL },
        { ENOSPC, NBD_ENOSPC },
        { EDQUOT, NBD_ENOSPC },
        { EFBIG, NBD_ENOSPC },
        { EOVERFLOW, NBD_EOVERFLOW },
        { ENOTSUP, NBD_ENOTSUP },
        { ESHUTDOWN, NBD_ESHUTDOWN },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (table[i].errnum == errnum) {
            return table[i].error;
        }
    }
    return NBD_EIO;
}

void nbd_encode_simple_reply(uint8_t out[NBD_SIMPLE_REPLY_SIZE],
                             uint64_t cookie, uint32_t error)
{
    uint8_t *p = put32(out, NBD_SIMPLE_REPLY_MAGIC);

    p = put32(p, error);
    put_cookie(p, cookie);
}

int nbd_decode_simple_reply(const uint8_t in[NBD_SIMPLE_REPLY_SIZE],
                            uint64_t *ret_cookie, uint32_t *ret_error)
{
    if (get32(in) != NBD_SIMPLE_REPLY_MAGIC) {
        return -EBADMSG;
    }
    *ret_error = get32(in + 4);
    *ret_cookie = get_cookie(in + 8);
    return 0;
}

static uint8_t *put_chunk(uint8_t *out, uint64_t cookie, uint16_t flags,
                          uint16_t type, uint32_t len)
{
    uint8_t *p = put32(out, NBD_CHUNK_MAGIC);

    p = put16(p, flags);
    p = put16(p, type);
    p = put_cookie(p, cookie);
    return put32(p, len);
}

size_t nbd_encode_chunk_none(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie)
{
    uint8_t *p = put_chunk(out, cookie, NBD_CHUNK_FLAG_DONE, NBD_CHUNK_NONE, 0);

    return (size_t)(p - out);
}

size_t nbd_encode_chunk_data(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                             uint16_t flags, uint64_t offset, uint32_t len)
{
    uint8_t *p;

    g_assert(len > 0 && len <= UINT32_MAX - 8);
    p = put_chunk(out, cookie, flags, NBD_CHUNK_OFFSET_DATA, 8 + len);
    p = put64(p, offset);
    return (size_t)(p - out);
}

size_t nbd_encode_chunk_hole(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                             uint16_t flags, uint64_t offset, uint32_t len)
{
    uint8_t *p;

    g_assert(len > 0);
    p = put_chunk(out, cookie, flags, NBD_CHUNK_OFFSET_HOLE, 12);
    p = put64(p, offset);
    p = put32(p, len);
    return (size_t)(p - out);
}

size_t nbd_encode_chunk_error(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                              uint16_t flags, uint32_t error, uint16_t text_len)
{
    uint8_t *p;

    g_assert(error != 0 && text_len <= NBD_MAX_STRING);
    p = put_chunk(out, cookie, flags, NBD_CHUNK_ERROR, 6u + text_len);
    p = put32(p, error);
    p = put16(p, text_len);
    return (size_t)(p - out);
}

size_t nbd_encode_chunk_status(uint8_t out[NBD_CHUNK_HEAD_MAX], uint64_t cookie,
                               uint16_t flags, uint32_t context,
                               uint32_t extents)
{
    uint8_t *p;

    g_assert(extents > 0 && extents <= 1u << 20);
    p = put_chunk(out, cookie, flags, NBD_CHUNK_BLOCK_STATUS,
                  4 + NBD_EXTENT_SIZE * extents);
    p = put32(p, context);
    return (size_t)(p - out);
}

void nbd_encode_extent(uint8_t out[NBD_EXTENT_SIZE], uint32_t len,
                       uint32_t flags)
{
    put32(put32(out, len), flags);
}

int nbd_decode_chunk(const uint8_t in[NBD_CHUNK_SIZE],
                     struct nbd_chunk_header *ret)
{
    if (get32(in) != NBD_CHUNK_MAGIC) {
        return -EBADMSG;
    }
    ret->flags = get16(in + 4);
    ret->type = get16(in + 6);
    ret->cookie = get_cookie(in + 8);
    ret->len = get32(in + 16);
    return 0;
}
