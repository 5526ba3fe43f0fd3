/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* NBD as a client speaks it: handshake, requests, replies of both kinds. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "export/nbd/nbd-int.h"
#include "guest.h"
#include "loop/channel.h"

static uint16_t be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)be16(p) << 16 | be16(p + 2);
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

static void put32(GByteArray *out, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    g_byte_array_append(out, (const uint8_t *)&v, sizeof(v));
}

static void put_name(GByteArray *out, const char *name)
{
    put32(out, (uint32_t)strlen(name));
    g_byte_array_append(out, (const uint8_t *)name, (guint)strlen(name));
}

/* --- handshake --- */

static CO_FN int send_co(struct guest_conn *c, const void *buf, size_t len)
{
    struct iovec v;
    g_autofree uint8_t *copy = g_memdup2(buf, len);

    return channel_co_write(c->ch, iov_one(&v, copy, len), 0);
}

static CO_FN int option_co_send(struct guest_conn *c, uint32_t opt,
                                const GByteArray *data)
{
    uint8_t head[NBD_OPT_SIZE];
    size_t len = data ? data->len : 0;
    int r;

    nbd_encode_opt(head, opt, (uint32_t)len);
    r = send_co(c, head, sizeof(head));
    return r < 0 || len == 0 ? r : send_co(c, data->data, len);
}

/* One reply to an option. Returns its type; 0: the connection is lost. */
static CO_FN uint32_t option_co_reply(struct guest_conn *c)
{
    uint8_t head[NBD_OPT_REPLY_SIZE], body[4096];
    uint32_t opt, type, len;

    if (channel_co_read_full(c->ch, head, sizeof(head), 0) < 0) {
        return 0;
    }
    if (nbd_decode_opt_reply(head, &opt, &type, &len) < 0 ||
        len > sizeof(body)) {
        fail(c->w, "g%u: no reply to an option", c->i);
    }
    if (len && channel_co_read_full(c->ch, body, len, 0) < 0) {
        return 0;
    }
    if (type == NBD_REP_INFO && be16(body) == NBD_INFO_EXPORT) {
        c->size = be64(body + 2);
        c->flags = be16(body + 10);
    }
    return type;
}

/* Send an option and take all its replies. True after an ACK. */
static CO_FN bool option_co_run(struct guest_conn *c, uint32_t opt,
                                const GByteArray *data)
{
    uint32_t type = NBD_REP_INFO;

    if (option_co_send(c, opt, data) < 0) {
        return false;
    }
    while (type == NBD_REP_INFO || type == NBD_REP_META_CONTEXT ||
           type == NBD_REP_SERVER) {
        type = option_co_reply(c);
    }
    return type == NBD_REP_ACK;
}

static CO_FN bool set_meta_co(struct guest_conn *c)
{
    g_autoptr(GByteArray) data = g_byte_array_new();

    put_name(data, c->export_name);
    put32(data, 1);
    put_name(data, "base:allocation");
    return option_co_run(c, NBD_OPT_SET_META_CONTEXT, data);
}

static CO_FN bool export_name_co(struct guest_conn *c)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint8_t in[NBD_EXPORT_NAME_SIZE];

    g_byte_array_append(data, (const uint8_t *)c->export_name,
                        (guint)strlen(c->export_name));
    if (option_co_send(c, NBD_OPT_EXPORT_NAME, data) < 0 ||
        channel_co_read_full(c->ch, in, sizeof(in), 0) < 0) {
        return false;
    }
    c->size = be64(in);
    c->flags = be16(in + 8);
    return true;
}

static CO_FN bool go_co(struct guest_conn *c)
{
    g_autoptr(GByteArray) data = g_byte_array_new();

    put_name(data, c->export_name);
    g_byte_array_append(data, (const uint8_t *)"\0\0", 2);
    return option_co_run(c, NBD_OPT_GO, data);
}

static CO_FN bool handshake_co(struct guest_conn *c)
{
    uint8_t greeting[NBD_GREETING_SIZE];
    bool want = rng_percent(&c->rng, 75);

    if (channel_co_read_full(c->ch, greeting, sizeof(greeting), 0) < 0 ||
        send_co(c, "\0\0\0\3", NBD_CLIENT_FLAGS_SIZE) < 0) {
        return false;
    }
    c->structured = want && option_co_run(c, NBD_OPT_STRUCTURED_REPLY, NULL);
    c->meta = c->structured && set_meta_co(c);
    return !c->structured && rng_percent(&c->rng, 50) ? export_name_co(c)
                                                      : go_co(c);
}

struct guest_conn *guest_co_connect(struct world *w, unsigned i,
                                    const char *name, size_t capacity)
{
    struct guest_conn *c = g_new0(struct guest_conn, 1);
    struct channel *ends[2];

    guests_collect(w);
    c->w = w;
    c->i = i;
    c->rng.state = rng_next(&w->rng);
    c->export_name = g_strdup(name);
    c->requests = g_ptr_array_new_with_free_func(request_free);
    g_ptr_array_add(w->guests, c);
    channel_new_pair(w->loop, capacity, ends);
    c->ch = ends[1];
    nbd_server_accept(ends[0], w->server);
    c->served_by = w->server->conns.tail->data;
    if (handshake_co(c)) {
        story(w, "g%u connects to %s: %" PRIu64 " bytes%s%s", i, name, c->size,
              c->structured ? ", structured" : "", c->meta ? ", meta" : "");
        return c;
    }
    story(w, "g%u is refused by %s", i, name);
    guest_co_close(c);
    return NULL;
}

void guest_fall_silent(struct guest_conn *c)
{
    channel_shutdown_write(c->ch);
    c->silent = true;
    guest_lose(c);
}

void guest_co_close(struct guest_conn *c)
{
    channel_shutdown(c->ch);
    if (!c->silent) {
        guest_lose(c);
    }
    while (c->reading) {
        co_queue_co_wait(&c->changed);
    }
    channel_free(c->ch);
    c->ch = NULL;
    c->closed = true;
}

void guest_co_disconnect(struct guest_conn *c)
{
    struct nbd_request_header h = { .cmd = NBD_CMD_DISC };
    uint8_t head[NBD_REQUEST_SIZE];

    nbd_encode_request(head, &h);
    (void)send_co(c, head, sizeof(head));
}

/* --- requests --- */

int guest_co_send(struct guest_conn *c, struct request *r)
{
    uint8_t head[NBD_REQUEST_SIZE];
    size_t first = 0;
    int ret;

    nbd_encode_request(head, &r->h);
    ret = send_co(c, head, sizeof(head));
    if (ret < 0 || r->op != G_WRITE) {
        return ret;
    }
    /* r may be gone when the last byte is sent, not before. */
    if (c->slow_ms && rng_percent(&c->rng, 20)) {
        first = rng_below(&c->rng, r->h.len);
        ret = first ? send_co(c, r->buf, first) : 0;
        co_sleep(rng_below(&c->rng, c->slow_ms * MS));
    }
    return ret < 0 ? ret : send_co(c, r->buf + first, r->h.len - first);
}

/* --- replies --- */

static struct request *request_find(struct guest_conn *c, uint64_t cookie)
{
    for (unsigned i = 0; i < c->requests->len; i++) {
        struct request *r = c->requests->pdata[i];

        if (r->h.cookie == cookie) {
            return r;
        }
    }
    fail(c->w, "g%u: reply to a request that is not under way", c->i);
}

static CO_FN int simple_co_reply(struct guest_conn *c, const uint8_t *head)
{
    struct request *r;
    uint64_t cookie;
    uint32_t error;
    int ret = 0;

    if (nbd_decode_simple_reply(head, &cookie, &error) < 0) {
        fail(c->w, "g%u: no reply", c->i);
    }
    r = request_find(c, cookie);
    r->error = error;
    if (r->op == G_READ && !error) {
        if (c->structured) {
            fail(c->w, "g%u: simple reply to a structured read", c->i);
        }
        ret = channel_co_read_full(c->ch, r->buf, r->h.len, 0);
        r->got = r->h.len;
    }
    if (ret == 0) {
        request_answered(r, NULL, 0);
    }
    return ret;
}

/* Where in the buffer of @r a chunk at @off belongs. */
static uint8_t *read_place(struct request *r, uint64_t off, uint64_t len)
{
    if (r->op != G_READ || off < r->h.offset ||
        off + len > r->h.offset + r->h.len) {
        fail(r->conn->w, "g%u: chunk outside of its request", r->conn->i);
    }
    r->got += len;
    return r->buf + (off - r->h.offset);
}

static CO_FN int chunk_co_body(struct guest_conn *c, struct request *r,
                               const struct nbd_chunk_header *h)
{
    g_autofree uint8_t *body = g_malloc(h->len + 1);
    int ret = h->len ? channel_co_read_full(c->ch, body, h->len, 0) : 0;
    const uint8_t *extents = NULL;
    size_t len = 0;

    if (ret < 0) {
        return ret;
    }
    switch (h->type) {
    case NBD_CHUNK_NONE: break;
    case NBD_CHUNK_OFFSET_DATA:
        memcpy(read_place(r, be64(body), h->len - 8), body + 8, h->len - 8);
        break;
    case NBD_CHUNK_OFFSET_HOLE:
        memset(read_place(r, be64(body), be32(body + 8)), 0, be32(body + 8));
        break;
    case NBD_CHUNK_BLOCK_STATUS:
        extents = body + 4;
        len = h->len - 4;
        break;
    case NBD_CHUNK_ERROR:
    case NBD_CHUNK_ERROR_OFFSET: r->error = be32(body); break;
    default: fail(c->w, "g%u: chunk of type %u", c->i, h->type);
    }
    if (h->flags & NBD_CHUNK_FLAG_DONE) {
        request_answered(r, extents, len);
    }
    return 0;
}

static CO_FN int chunk_co_reply(struct guest_conn *c, uint8_t *head)
{
    struct nbd_chunk_header h;
    int ret = channel_co_read_full(c->ch, head + NBD_SIMPLE_REPLY_SIZE,
                                   NBD_CHUNK_SIZE - NBD_SIMPLE_REPLY_SIZE, 0);

    if (ret < 0) {
        return ret;
    }
    if (nbd_decode_chunk(head, &h) < 0 || h.len > (1u << 25)) {
        fail(c->w, "g%u: no chunk", c->i);
    }
    return chunk_co_body(c, request_find(c, h.cookie), &h);
}

static CO_FN void reader_entry(void *arg)
{
    struct guest_conn *c = arg;
    uint8_t head[NBD_CHUNK_SIZE];
    int ret = 0;

    while (ret == 0) {
        ret = channel_co_read_full(c->ch, head, NBD_SIMPLE_REPLY_SIZE, 0);
        if (ret == 0) {
            ret = be32(head) == NBD_CHUNK_MAGIC ? chunk_co_reply(c, head)
                                                : simple_co_reply(c, head);
            co_queue_wake_all(&c->changed);
        }
        if (c->slow_ms && rng_percent(&c->rng, 30)) {
            co_sleep(rng_below(&c->rng, c->slow_ms * MS));
        }
    }
    c->lost = true;
    c->reading = false;
    co_queue_wake_all(&c->changed);
}

void guest_read_start(struct guest_conn *c)
{
    c->reading = true;
    co_start(c->w->loop, reader_entry, c);
}
