/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests: a table of commands, and one coroutine for each in flight.
 *
 * All that can be refused is refused before the coroutine starts.  A command
 * fills in its whole reply, or returns -errno; nothing of a reply is sent
 * before it is known to be good, except of a read beyond the maximal payload,
 * which goes out in parts.
 */
#include <errno.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "graph/io.h"
#include "loop/io.h"

struct nbd_command {
    const char *name;
    uint16_t flags; /* that it takes, besides FUA */
    bool writes;    /* refused on a read-only export */
    bool ranged;    /* offset and length lie inside the export ... */
    int beyond;     /* ... else this errno */
    CO_FN_PTR int (*co_run)(struct nbd_request *r);
};

static struct backend *request_backend(const struct nbd_request *r)
{
    return r->conn->exp->e.backend;
}

static bool request_is_durable(const struct nbd_request *r)
{
    return (r->h.flags & NBD_CMD_FLAG_FUA) || r->conn->exp->e.writethrough;
}

/* --- read --- */

/* One part of a read: a run of zeroes, or data. */
struct read_part {
    size_t off, len; /* relative to the piece that is read */
    bool zero;
};

static void parts_add(struct read_part *parts, unsigned *n, size_t off,
                      size_t len, bool zero)
{
    struct read_part *last = *n ? &parts[*n - 1] : NULL;

    if (last && last->zero == zero) {
        last->len += len;
    } else {
        parts[(*n)++] = (struct read_part) { off, len, zero };
    }
}

/* Split a read into zeroes that are known without reading, and the rest.  The
 * last part takes whatever is left when there are enough of them. */
static CO_FN int read_co_plan(struct nbd_request *r, uint64_t off, size_t len,
                              struct read_part parts[NBD_MAX_READ_CHUNKS],
                              unsigned *ret_n)
{
    unsigned n = 0;
    size_t done = 0;

    while (done < len) {
        struct extent ext = { 0 };
        bool zero = false;
        size_t part = len - done;
        if (n < NBD_MAX_READ_CHUNKS - 1 && len >= NBD_HOLE_QUERY_LEN) {
            int ret = backend_co_status(request_backend(r), off + done, part,
                                        &ext);
            if (has_given_up(ret)) {
                return ret;
            }
            zero = ret == 0 && (ext.flags & STATUS_ZERO);
            part = ret == 0 ? (size_t)MIN(ext.len, part) : part;
        }
        parts_add(parts, &n, done, part, zero);
        done += part;
    }
    *ret_n = n;
    return 0;
}

/* Read @len bytes at @off into the request's buffers and add the chunks. */
static CO_FN int nbd_request_read_co_piece(struct nbd_request *r, uint64_t off,
                                           size_t len, bool last)
{
    struct read_part parts[NBD_MAX_READ_CHUNKS];
    bool may_split = !(r->h.flags & NBD_CMD_FLAG_DF);
    unsigned n = 1;

    parts[0] = (struct read_part) { 0, len, false };
    if (may_split) {
        int ret = read_co_plan(r, off, len, parts, &n);
        if (ret < 0) {
            return ret;
        }
    }
    nbd_reply_begin(r, n);
    for (unsigned i = 0; i < n; i++) {
        struct read_part *p = &parts[i];
        struct iov iov = nbd_request_iov(r, p->off, p->len);
        if (!p->zero) {
            int ret = backend_co_preadv(request_backend(r), off + p->off, iov,
                                        0);
            if (ret < 0) {
                return ret;
            }
        }
        nbd_reply_add_read(r, off + p->off, iov,
                           p->zero || (may_split && iov_is_zero(iov)),
                           last && i == n - 1);
    }
    return 0;
}

/* Longer than the maximal payload: in pieces, one at a time in memory. */
static CO_FN int read_co_long(struct nbd_request *r)
{
    uint32_t done = 0;

    nbd_request_alloc(r, NBD_MAX_PAYLOAD);
    while (done < r->h.len) {
        uint32_t len = MIN(r->h.len - done, NBD_MAX_PAYLOAD);
        bool last = done + len == r->h.len;
        int ret = nbd_request_read_co_piece(r, r->h.offset + done, len, last);
        if (ret == 0 && !last) {
            ret = nbd_reply_co_part(r);
        }
        if (ret < 0) {
            return ret;
        }
        done += len;
    }
    return 0;
}

static CO_FN int read_co_run(struct nbd_request *r)
{
    int ret;

    if (r->h.len == 0) {
        nbd_reply_success(r);
        return 0;
    }
    if (r->h.len > NBD_MAX_PAYLOAD) {
        return read_co_long(r);
    }
    nbd_request_alloc(r, r->h.len);
    if (r->conn->structured) {
        return nbd_request_read_co_piece(r, r->h.offset, r->h.len, true);
    }
    ret = backend_co_preadv(request_backend(r), r->h.offset,
                            nbd_request_iov(r, 0, r->h.len), 0);
    if (ret == 0) {
        nbd_reply_simple_data(r, nbd_request_iov(r, 0, r->h.len));
    }
    return ret;
}

/* --- the others --- */

static CO_FN int write_co_run(struct nbd_request *r)
{
    int ret = 0;

    if (r->h.len > 0) {
        ret = backend_co_pwritev(request_backend(r), r->h.offset,
                                 nbd_request_iov(r, 0, r->h.len),
                                 request_is_durable(r) ? IO_FUA : 0);
    }
    /* Not held until the reply is sent: the write is over. */
    nbd_request_free_bufs(r);
    return ret;
}

static CO_FN int nbd_request_flush_co_run(struct nbd_request *r)
{
    return backend_co_flush(request_backend(r));
}

static CO_FN int trim_co_run(struct nbd_request *r)
{
    int ret = 0;

    if (r->h.len > 0) {
        ret = backend_co_discard(request_backend(r), r->h.offset, r->h.len);
    }
    if (ret == 0 && request_is_durable(r)) {
        ret = backend_co_flush(request_backend(r));
    }
    return ret;
}

static CO_FN int zeroes_co_run(struct nbd_request *r)
{
    unsigned flags = request_is_durable(r) ? IO_FUA : 0;

    if (!(r->h.flags & NBD_CMD_FLAG_NO_HOLE)) {
        flags |= IO_MAY_UNMAP;
    }
    if (r->h.flags & NBD_CMD_FLAG_FAST_ZERO) {
        flags |= IO_FAST;
    }
    return r->h.len ? backend_co_zero(request_backend(r), r->h.offset, r->h.len,
                                      flags)
                    : 0;
}

static CO_FN int cache_co_run(struct nbd_request *r)
{
    return r->h.len
               ? backend_co_cache(request_backend(r), r->h.offset, r->h.len)
               : 0;
}

static const struct nbd_command nbd_request_commands[NBD_CMD_COUNT] = {
    [NBD_CMD_READ] = { "read", NBD_CMD_FLAG_DF, false, true, EINVAL,
                       read_co_run },
    [NBD_CMD_WRITE] = { "write", 0, true, true, ENOSPC, write_co_run },
    [NBD_CMD_FLUSH] = { "flush", 0, false, false, 0, nbd_request_flush_co_run },
    [NBD_CMD_TRIM] = { "trim", 0, true, true, EINVAL, trim_co_run },
    [NBD_CMD_CACHE] = { "cache", 0, false, true, EINVAL, cache_co_run },
    [NBD_CMD_WRITE_ZEROES] = { "write zeroes",
                               NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
                               true, true, ENOSPC, zeroes_co_run },
    [NBD_CMD_BLOCK_STATUS] = { "block status", NBD_CMD_FLAG_REQ_ONE, false,
                               true, EINVAL, nbd_request_co_status },
};

const struct nbd_command *nbd_command_find(uint16_t cmd)
{
    return cmd < NBD_CMD_COUNT && nbd_request_commands[cmd].name
               ? &nbd_request_commands[cmd]
               : NULL;
}

const char *nbd_command_name(const struct nbd_command *cmd)
{
    return cmd ? cmd->name : "request";
}

/* --- checks --- */

static bool has_contexts(const struct nbd_conn *c)
{
    for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
        if (c->contexts[ctx]) {
            return true;
        }
    }
    return false;
}

static uint16_t allowed_flags(const struct nbd_request *r)
{
    uint16_t flags = r->cmd->flags | NBD_CMD_FLAG_FUA;

    if (!r->conn->structured) {
        flags &= (uint16_t)~NBD_CMD_FLAG_DF;
    }
    if (!r->conn->exp->e.writable) {
        flags &= (uint16_t)~NBD_CMD_FLAG_FAST_ZERO;
    }
    return flags;
}

/* What only some commands ask for. 0 or an errno. */
static int check_special(const struct nbd_request *r, const char **ret_text)
{
    const struct nbd_request_header *h = &r->h;

    switch (h->cmd) {
    case NBD_CMD_READ:
        *ret_text = "longer than the maximum payload";
        return h->len > NBD_MAX_PAYLOAD &&
                       (!r->conn->structured || (h->flags & NBD_CMD_FLAG_DF))
                   ? EOVERFLOW
                   : 0;
    case NBD_CMD_WRITE:
        *ret_text = "longer than the maximum payload";
        return h->len > NBD_MAX_PAYLOAD ? EINVAL : 0;
    case NBD_CMD_FLUSH:
        *ret_text = "offset and length must be zero";
        return h->offset || h->len ? EINVAL : 0;
    case NBD_CMD_BLOCK_STATUS:
        *ret_text = h->len ? "no metadata context was negotiated"
                           : "length must not be zero";
        return !h->len || !has_contexts(r->conn) ? EINVAL : 0;
    default: return 0;
    }
}

/* 0, or the errno of the reply with its text. */
static int request_check(const struct nbd_request *r, const char **ret_text)
{
    const struct nbd_request_header *h = &r->h;
    uint64_t size = nbd_export_size(r->conn->exp);

    if (r->conn->stopping) {
        *ret_text = "server is shutting down";
        return ESHUTDOWN;
    }
    if (!r->cmd) {
        *ret_text = "unknown command";
        return EINVAL;
    }
    if (h->flags & ~allowed_flags(r)) {
        *ret_text = "a flag is not supported with this command";
        return EINVAL;
    }
    if (r->cmd->writes && !r->conn->exp->e.writable) {
        *ret_text = "export is read-only";
        return EPERM;
    }
    if (r->cmd->writes && r->conn->barred) {
        *ret_text = "others have written since this client left";
        return ESHUTDOWN;
    }
    if (r->cmd->ranged && (h->offset > size || h->len > size - h->offset)) {
        *ret_text = "past the end of the export";
        return r->cmd->beyond;
    }
    return check_special(r, ret_text);
}

/* --- life --- */

uint64_t nbd_request_cost(const struct nbd_conn *c,
                          const struct nbd_request_header *h)
{
    uint64_t cost = 0;

    if (h->cmd == NBD_CMD_READ) {
        return MIN(h->len, NBD_MAX_PAYLOAD);
    }
    if (h->cmd == NBD_CMD_WRITE) {
        return h->len <= NBD_MAX_PAYLOAD ? h->len : 0;
    }
    if (h->cmd == NBD_CMD_BLOCK_STATUS && !(h->flags & NBD_CMD_FLAG_REQ_ONE)) {
        for (unsigned ctx = 0; ctx < NBD_CTX_COUNT; ctx++) {
            cost += c->contexts[ctx] ? NBD_MAX_EXTENTS * NBD_EXTENT_SIZE : 0;
        }
    }
    return cost;
}

struct nbd_request *nbd_request_new(struct nbd_conn *c,
                                    const struct nbd_request_header *h,
                                    uint64_t cost)
{
    struct nbd_request *r = c->spare;

    if (r) {
        c->spare = r->next;
    } else {
        r = g_new0(struct nbd_request, 1);
    }
    r->next = NULL;
    r->conn = c;
    r->cmd = nbd_command_find(h->cmd);
    r->h = *h;
    r->cost = cost;
    return r;
}

void nbd_request_alloc(struct nbd_request *r, uint32_t len)
{
    unsigned n = (unsigned)(((uint64_t)len + NBD_SEGMENT - 1) / NBD_SEGMENT);

    r->bufs = n > 1 ? g_new(struct iovec, n) : &r->one;
    for (unsigned i = 0; i < n; i++) {
        size_t part = MIN(len, NBD_SEGMENT);
        r->bufs[i] = (struct iovec) { io_buf_get(part), part };
        len -= (uint32_t)part;
    }
    r->n_bufs = n;
}

struct iov nbd_request_iov(struct nbd_request *r, size_t off, size_t len)
{
    struct iov all = { .v = r->bufs, .n = r->n_bufs };

    for (unsigned i = 0; i < r->n_bufs; i++) {
        all.len += r->bufs[i].iov_len;
    }
    return iov_slice(all, off, len);
}

void nbd_request_free_bufs(struct nbd_request *r)
{
    for (unsigned i = 0; i < r->n_bufs; i++) {
        io_buf_put(r->bufs[i].iov_base, r->bufs[i].iov_len);
    }
    if (r->bufs != &r->one) {
        g_free(r->bufs);
    }
    r->bufs = NULL;
    r->n_bufs = 0;
}

void nbd_request_release(struct nbd_request *r)
{
    struct nbd_conn *c = r->conn;

    nbd_request_free_bufs(r);
    nbd_reply_reset(r);
    nbd_budget_put(c, r->cost);
    r->next = c->spare;
    c->spare = r;
}

/* Has storage failed, or the client alone? */
static bool is_io_error(const struct nbd_request *r, int ret)
{
    return (r->cmd->writes || r->h.cmd == NBD_CMD_READ ||
            r->h.cmd == NBD_CMD_FLUSH) &&
           ret != -ENOTSUP && !has_given_up(ret) && !r->conn->broken;
}

static CO_FN void request_entry(void *arg)
{
    struct nbd_request *r = arg;
    int ret;

    if (r->cmd->writes) {
        nbd_write_co_begin(r);
    }
    ret = r->cmd->co_run(r);
    if (r->cmd->writes) {
        nbd_write_end(r);
    }
    if (ret < 0) {
        if (is_io_error(r, ret)) {
            export_tell_io_error(&r->conn->exp->e, r->h.cmd == NBD_CMD_READ,
                                 -ret);
        }
        nbd_reply_error(r, -ret, NULL);
    } else if (r->n_chunks == 0) {
        nbd_reply_success(r);
    }
    nbd_reply_queue(r);
}

void nbd_request_submit(struct nbd_request *r)
{
    const char *text = NULL;
    int errnum = request_check(r, &text);

    if (errnum) {
        nbd_reply_error(r, errnum, text);
        nbd_reply_queue(r);
    } else {
        if (r->cmd->writes) {
            nbd_write_register(r);
        }
        co_start(r->conn->server->loop, request_entry, r);
    }
}
