/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD driver against a server that says what it likes.
 *
 * socket() and connect() come to this file and give one end of a socket pair;
 * a thread is the server at the other end.  It answers the handshake (from the
 * input, or well, by flag), then each request with the next record of the
 * input, and hangs up when there is none.  The answers follow requests one by
 * one, so that a run depends on the input alone.
 *
 * Input: flags (1), size of the export (8); records of flags (1), length (2),
 * bytes.  A record's flags: FIX puts the cookie right, SIMPLE/CHUNK build the
 * header, LAST sets the done flag, MORE: another record follows for the same
 * request.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/endian.h"
#include "format/format.h"
#include "fuzz.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/storage.h"
#include "wire/nbd.h"

enum {
    FLAG_RAW_HANDSHAKE = 1,
    FLAG_NO_STRUCTURED = 2,
    FLAG_NO_META = 4,
    FLAG_SMALL = 8
};
enum { REC_CHUNK = 1, REC_SIMPLE = 2, REC_MORE = 4, REC_DONE = 8 };
enum { DISK = 1 << 20, OP_LEN = 8192 };
/* Both wait for each other after a record that promises too much. */
#define TIMEOUT_US 50000

static struct server {
    struct fuzz_input in;
    unsigned flags;
    int fd; /* the server's end, -1: none */
    GThread *thread;
} server = { .fd = -1 };

int __wrap_socket(int domain, int type, int protocol);
int __wrap_connect(int fd, const struct sockaddr *sa, socklen_t len);

/* --- the server --- */

static bool get(void *buf, size_t len)
{
    return recv(server.fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static bool put(const void *buf, size_t len)
{
    return send(server.fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool skip(size_t len)
{
    char buf[4096];

    while (len > 0) {
        size_t n = MIN(len, sizeof(buf));

        if (!get(buf, n)) {
            return false;
        }
        len -= n;
    }
    return true;
}

static bool put_opt_reply(uint32_t opt, uint32_t type, const void *data,
                          uint32_t len)
{
    uint8_t head[NBD_OPT_REPLY_SIZE];

    nbd_encode_opt_reply(head, opt, type, len);
    return put(head, sizeof(head)) && put(data, len);
}

static bool answer_go(uint64_t size)
{
    uint8_t info[NBD_INFO_EXPORT_SIZE];

    nbd_encode_info_export(info, size, 0x4ff & ~NBD_FLAG_READ_ONLY);
    return put_opt_reply(NBD_OPT_GO, NBD_REP_INFO, info, sizeof(info)) &&
           put_opt_reply(NBD_OPT_GO, NBD_REP_ACK, "", 0);
}

static bool handshake(uint64_t size)
{
    uint8_t buf[NBD_GREETING_SIZE];
    struct nbd_opt_header h;
    bool go = false, ok;

    nbd_encode_greeting(buf, 3);
    ok = put(buf, sizeof(buf)) && get(buf, 4);
    while (ok && !go) {
        ok = get(buf, NBD_OPT_SIZE) && nbd_decode_opt(buf, &h) == 0 &&
             skip(h.len);
        if (!ok) {
            break;
        }
        go = h.opt == NBD_OPT_GO;
        if (go) {
            ok = answer_go(size);
        } else if (h.opt == NBD_OPT_STRUCTURED_REPLY &&
                   !(server.flags & FLAG_NO_STRUCTURED)) {
            ok = put_opt_reply(h.opt, NBD_REP_ACK, "", 0);
        } else if (h.opt == NBD_OPT_SET_META_CONTEXT &&
                   !(server.flags & FLAG_NO_META)) {
            ok = put_opt_reply(h.opt, NBD_REP_META_CONTEXT,
                               "\0\0\0\7base:allocation", 19) &&
                 put_opt_reply(h.opt, NBD_REP_ACK, "", 0);
        } else {
            ok = put_opt_reply(h.opt, NBD_REP_ERR_UNSUP, "", 0);
        }
    }
    return ok;
}

/* One record to @cookie. *@ret_more: the next one belongs to it as well. */
static bool put_record(uint64_t cookie, bool *ret_more)
{
    unsigned flags = fuzz_u8(&server.in);
    uint16_t kind = fuzz_u8(&server.in), want = fuzz_u16(&server.in);
    size_t len;
    const uint8_t *data = fuzz_take(&server.in, want, &len);
    uint8_t head[20] = {};
    size_t head_len = 0;

    *ret_more = (flags & REC_MORE) && server.in.len > 0;
    if (flags & REC_CHUNK) {
        put_be32(head, NBD_CHUNK_MAGIC);
        head[5] = flags & REC_DONE ? 1 : 0;
        head[6] = kind & 0x80;
        head[7] = kind & 0x7f;
        put_be64(head + 8, cookie);
        put_be32(head + 16, (uint32_t)len);
        head_len = 20;
    } else if (flags & REC_SIMPLE) {
        put_be32(head, NBD_SIMPLE_REPLY_MAGIC);
        put_be32(head + 4, kind);
        put_be64(head + 8, cookie);
        head_len = 16;
    }
    return put(head, head_len) && put(data, len);
}

static bool answer(void)
{
    uint8_t head[NBD_REQUEST_SIZE];
    struct nbd_request_header h;
    bool more = true;

    if (!get(head, sizeof(head)) || nbd_decode_request(head, &h) < 0 ||
        h.cmd == NBD_CMD_DISC || (h.cmd == NBD_CMD_WRITE && !skip(h.len))) {
        return false;
    }
    while (more) {
        if (server.in.len == 0 || !put_record(h.cookie, &more)) {
            return false;
        }
    }
    return true;
}

static void *server_main(void *arg)
{
    uint64_t size = fuzz_u64(&server.in);
    bool ok = true;

    if (server.flags & FLAG_SMALL) {
        size = DISK;
    }
    if (server.flags & FLAG_RAW_HANDSHAKE) {
        put(server.in.data, server.in.len);
        shutdown(server.fd, SHUT_WR);
        ok = skip(1 << 16);
    } else {
        ok = handshake(size);
    }
    while (ok && answer()) {
    }
    shutdown(server.fd, SHUT_RDWR);
    return NULL;
}

int __wrap_socket(int domain, int type, int protocol)
{
    struct timeval limit = { .tv_usec = TIMEOUT_US };
    int fds[2];

    if (server.thread ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0) {
        errno = EACCES;
        return -1;
    }
    server.fd = fds[1];
    setsockopt(server.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(server.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    server.thread = g_thread_new("server", server_main, NULL);
    return fds[0];
}

int __wrap_connect(int fd, const struct sockaddr *sa, socklen_t len)
{
    return 0;
}

/* --- the client --- */

static const struct node_driver *const drivers[] = { &nbd_driver, &raw_driver,
                                                     NULL };

static CO_FN void use_co(struct node *n)
{
    g_autofree uint8_t *buf = g_malloc0(OP_LEN);
    uint64_t len = MIN(n->size, (uint64_t)OP_LEN);
    struct extent ext;
    struct iovec v;

    for (uint64_t at = 0, i = 0; at < n->size && i < 4; at += ext.len, i++) {
        if (node_co_status(n, at, n->size - at, &ext) < 0) {
            break;
        }
        g_assert_cmpuint(ext.len, >, 0);
        g_assert_cmpuint(ext.len, <=, n->size - at);
    }
    node_co_preadv(n, 0, iov_one(&v, buf, len), 0);
    node_co_pwritev(n, 0, iov_one(&v, buf, len), IO_FUA);
    node_co_zero(n, 0, len, 0);
    node_co_flush(n);
    node_co_discard(n, 0, len);
    node_co_preadv(n, n->size - len, iov_one(&v, buf, len), 0);
}

struct client {
    struct loop *loop;
};

static CO_FN void client_entry(void *arg)
{
    struct client *cl = arg;
    struct graph *g = graph_new(cl->loop, drivers);
    json_t *o = json_pack("{s:s,s:{s:s,s:s},s:i}", "driver", "nbd", "server",
                          "type", "unix", "path", "/nowhere", "reconnect-delay",
                          0);
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    int ret = node_co_open(g, o, NODE_RDWR, &n, &err);
    g_assert_true((ret < 0) == (err != NULL));
    if (ret == 0) {
        g_assert_cmpuint(n->size, <=, INT64_MAX);
        use_co(n);
        node_co_unref(n);
    }
    json_decref(o);
    graph_co_free(g);
    while (co_count(cl->loop) > 1) {
        co_sleep(1000000);
    }
    loop_stop(cl->loop);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct loop_options opts = { .engine = IO_ENGINE_THREADS, .workers = 1 };
    struct client cl = {};
    g_autoptr(GError) err = NULL;

    server.in = (struct fuzz_input) { data, len };
    server.flags = fuzz_u8(&server.in);
    loop_new(&opts, &cl.loop, &err);
    g_assert_no_error(err);
    co_start(cl.loop, client_entry, &cl);
    loop_run(cl.loop);
    while (loop_turn(cl.loop, false)) {
    }
    g_assert_cmpuint(co_count(cl.loop), ==, 0);
    loop_free(cl.loop);
    if (server.thread) {
        g_thread_join(server.thread);
        server.thread = NULL;
        close(server.fd);
        server.fd = -1;
    }
    return 0;
}
