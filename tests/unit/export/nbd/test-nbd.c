/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD connections over memory pipes on the simulated machine: no sockets, and
 * a clock that jumps, so that every split of a stream, every place to vanish
 * and every time limit is tested as it is, in no time.
 */
#include <errno.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "graph/node.h"
#include "loop/io.h"
#include "sim/sim.h"
#include "ram.h"

#define DISK_SIZE (1u << 20)
#define SEED 3

static const struct node_driver *const drivers[] = { &ram_driver, NULL };

struct rig {
    struct loop *loop;
    struct ram_disk *disk;
    struct graph *graph;
    struct node *node;
    struct exports *exports;
    struct nbd_server *server;
    unsigned deleted, io_errors; /* events */
    CO_FN_PTR void (*co_test)(struct rig *r);
};

static void on_event(const char *name, json_t *data, void *arg)
{
    struct rig *r = arg;

    if (g_str_equal(name, "BLOCK_IO_ERROR")) {
        r->io_errors++;
        return;
    }
    g_assert_cmpstr(name, ==, "BLOCK_EXPORT_DELETED");
    r->deleted++;
}

static CO_FN void rig_co_setup(struct rig *r)
{
    json_t *node = json_pack("{s:s, s:s, s:s}", "driver", "ram", "disk", "d",
                             "node-name", "n");
    json_t *add = json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id",
                            "e", "node-name", "n", "name", "e", "writable", 1);
    GError *err = NULL;

    r->disk = ram_disk_new("d", DISK_SIZE, 0);
    ram_disk_fill(r->disk, 0, DISK_SIZE, SEED);
    r->graph = graph_new(r->loop, drivers);
    node_co_open(r->graph, node, NODE_RDWR, &r->node, &err);
    g_assert_no_error(err);
    r->exports = exports_new(r->graph, on_event, r);
    r->server = nbd_server_new(r->exports, 0);
    exports_co_add(r->exports, add, &err);
    g_assert_no_error(err);
    json_decref(node);
    json_decref(add);
}

static CO_FN void rig_entry(void *arg)
{
    struct rig *r = arg;

    rig_co_setup(r);
    r->co_test(r);
    g_assert_cmpuint(r->server->excess, ==, 0);
    exports_co_shutdown(r->exports);
    g_assert_cmpuint(r->deleted, ==, 1);
    exports_free(r->exports);
    node_co_unref(r->node);
    graph_co_free(r->graph);
    ram_disk_free(r->disk);
    while (co_count(r->loop) > 1) {
        co_sleep(NBD_MS);
    }
    loop_stop(r->loop);
}

static void run_rig(gconstpointer data)
{
    struct loop_options opts = SIM_OPTIONS(1);
    struct rig r = *(const struct rig *)data;
    GError *err = NULL;

    loop_new(&opts, &r.loop, &err);
    g_assert_no_error(err);
    co_start(r.loop, rig_entry, &r);
    loop_run(r.loop);
    loop_free(r.loop);
}

/* A connection with @capacity bytes of buffer each way; the client's end. */
static struct channel *rig_connect(struct rig *r, size_t capacity)
{
    struct channel *ends[2];

    channel_new_pair(r->loop, capacity, ends);
    nbd_server_accept(ends[0], r->server);
    return ends[1];
}

static CO_FN void rig_co_expect_gone(struct rig *r)
{
    co_sleep(NBD_SEC);
    g_assert_cmpuint(r->server->conns.length, ==, 0);
    g_assert_cmpuint(r->server->n_half_open, ==, 0);
    g_assert_cmpuint(r->server->n_slots, ==, 0);
}

/* --- conversations --- */

static void put(GByteArray *out, const void *data, size_t len)
{
    g_byte_array_append(out, data, (guint)len);
}

static void put_opt(GByteArray *out, uint32_t opt, const char *data, size_t len)
{
    uint8_t head[NBD_OPT_SIZE];

    nbd_encode_opt(head, opt, (uint32_t)len);
    put(out, head, sizeof(head));
    put(out, data, len);
}

static void put_request(GByteArray *out, uint16_t cmd, uint64_t off,
                        uint32_t len)
{
    struct nbd_request_header h = {
        .cmd = cmd, .offset = off, .len = len, .cookie = out->len
    };
    uint8_t head[NBD_REQUEST_SIZE];

    nbd_encode_request(head, &h);
    put(out, head, sizeof(head));
}

/* Handshake up to GO. */
static GByteArray *hello(void)
{
    GByteArray *out = g_byte_array_new();

    put(out, "\0\0\0\3", 4);
    put_opt(out, NBD_OPT_STRUCTURED_REPLY, "", 0);
    put_opt(out, NBD_OPT_GO, "\0\0\0\1e\0\0", 7);
    return out;
}

/* Bytes of the server up to the end of its answer to GO. */
#define HELLO_REPLY (18 + 20 + (20 + 14) + (20 + 12) + 20)

static GByteArray *conversation(void)
{
    GByteArray *out = hello();
    uint8_t data[600];

    memset(data, 0x5a, sizeof(data));
    put_request(out, NBD_CMD_READ, 4096, 1000);
    put_request(out, NBD_CMD_WRITE, 100000, sizeof(data));
    put(out, data, sizeof(data));
    put_request(out, NBD_CMD_FLUSH, 0, 0);
    put_request(out, NBD_CMD_BLOCK_STATUS, 0, 4096);
    put_request(out, NBD_CMD_DISC, 0, 0);
    return out;
}

struct sender {
    struct channel *c;
    GByteArray *bytes;
    bool done;
};

static CO_FN void sender_entry(void *arg)
{
    struct sender *s = arg;
    struct iovec v;

    /* The server may go first: what the reader sees is what counts. */
    (void)channel_co_write(s->c, iov_one(&v, s->bytes->data, s->bytes->len), 0);
    s->done = true;
}

/* Send @bytes and read @max bytes, or all there are. */
static CO_FN GByteArray *talk_co(struct rig *r, struct channel *c,
                                 GByteArray *bytes, size_t max)
{
    struct sender s = { .c = c, .bytes = bytes };
    GByteArray *in = g_byte_array_new();
    uint8_t buf[512];
    ssize_t n = 1;

    co_start(r->loop, sender_entry, &s);
    while (in->len < max && n > 0) {
        n = channel_co_read(c, buf, MIN(sizeof(buf), max - in->len), 0);
        if (n > 0) {
            put(in, buf, (size_t)n);
        }
    }
    if (!s.done) {
        channel_shutdown(c);
    }
    while (!s.done) {
        co_relax();
    }
    return in;
}

static CO_FN void splits_co_test(struct rig *r)
{
    static const size_t capacities[] = { 65536, 1, 2, 3, 7, 27, 28, 29, 1000 };
    GByteArray *bytes = conversation();
    GByteArray *want = NULL;
    uint8_t read[1000];

    ram_fill_buf(read, 4096, sizeof(read), SEED);
    for (size_t i = 0; i < G_N_ELEMENTS(capacities); i++) {
        struct channel *c = rig_connect(r, capacities[i]);
        GByteArray *in = talk_co(r, c, bytes, SIZE_MAX);
        channel_free(c);
        if (!want) {
            want = in;
            g_assert_nonnull(memmem(in->data, in->len, read, sizeof(read)));
            continue;
        }
        /* Replies may change places; their sum and the handshake do not. */
        g_assert_cmpuint(in->len, ==, want->len);
        g_assert_cmpmem(in->data, HELLO_REPLY, want->data, HELLO_REPLY);
        g_assert_nonnull(memmem(in->data, in->len, read, sizeof(read)));
        g_byte_array_free(in, TRUE);
    }
    rig_co_expect_gone(r);
    g_byte_array_free(want, TRUE);
    g_byte_array_free(bytes, TRUE);
}

static CO_FN void vanish_sending_co_test(struct rig *r)
{
    GByteArray *bytes = conversation();
    struct iovec v;

    for (guint n = 0; n <= bytes->len; n++) {
        struct channel *c = rig_connect(r, 65536);
        g_assert_cmpint(channel_co_write(c, iov_one(&v, bytes->data, n), 0), ==,
                        0);
        channel_free(c);
        if (n % 16 == 0) {
            rig_co_expect_gone(r);
        }
    }
    rig_co_expect_gone(r);
    g_byte_array_free(bytes, TRUE);
}

static CO_FN void vanish_reading_co_test(struct rig *r)
{
    GByteArray *bytes = conversation();

    for (size_t n = 1; n < 1300; n++) {
        struct channel *c = rig_connect(r, 50);
        GByteArray *in = talk_co(r, c, bytes, n);
        channel_free(c);
        g_byte_array_free(in, TRUE);
        if (n % 16 == 0) {
            rig_co_expect_gone(r);
        }
    }
    rig_co_expect_gone(r);
    g_byte_array_free(bytes, TRUE);
}

/* --- time limits --- */

static bool is_served(const struct rig *r)
{
    return r->server->conns.length == 1;
}

static CO_FN void handshake_time_co_test(struct rig *r)
{
    char option[] = "\0\0\0\3IHAVEOPT\0\0\0\3\0\0";
    struct channel *c = rig_connect(r, 4096);
    struct iovec v;

    co_sleep(NBD_HANDSHAKE_NS - 10 * NBD_MS);
    g_assert_true(is_served(r));
    co_sleep(20 * NBD_MS);
    g_assert_false(is_served(r));
    channel_free(c);
    /* A byte now and then does not make it longer. */
    c = rig_connect(r, 4096);
    for (unsigned i = 0; i < sizeof(option) - 1 && is_served(r); i++) {
        g_assert_cmpuint(i, <=, NBD_HANDSHAKE_NS / NBD_SEC);
        channel_co_write(c, iov_one(&v, option + i, 1), 0);
        co_sleep(NBD_SEC);
    }
    g_assert_false(is_served(r));
    channel_free(c);
}

/* Through the handshake, then @more. */
static CO_FN struct channel *begin_co(struct rig *r, size_t capacity,
                                      GByteArray *more)
{
    struct channel *c = rig_connect(r, capacity);
    GByteArray *out = hello();
    GByteArray *in = talk_co(r, c, out, HELLO_REPLY);
    struct iovec v;

    g_assert_cmpuint(in->len, ==, HELLO_REPLY);
    g_byte_array_free(in, TRUE);
    g_byte_array_free(out, TRUE);
    if (more) {
        g_assert_cmpint(
            channel_co_write(c, iov_one(&v, more->data, more->len), 0), ==, 0);
        g_byte_array_free(more, TRUE);
    }
    return c;
}

static CO_FN void idle_co_test(struct rig *r)
{
    struct channel *c = begin_co(r, 4096, NULL);

    /* Nobody is thrown out for having nothing to ask. */
    co_sleep(48 * 3600 * NBD_SEC);
    g_assert_true(is_served(r));
    channel_free(c);
    rig_co_expect_gone(r);
}

static CO_FN void stall_co_test(struct rig *r)
{
    GByteArray *out = g_byte_array_new();
    struct channel *c;
    uint8_t b;

    put_request(out, NBD_CMD_READ, 0, 8192);
    c = begin_co(r, 64, out);
    for (int i = 0; i < 5; i++) {
        co_sleep(NBD_STALL_NS - NBD_SEC);
        g_assert_true(is_served(r));
        g_assert_cmpint(channel_co_read(c, &b, 1, 0), ==, 1);
    }
    co_sleep(NBD_STALL_NS + NBD_SEC);
    g_assert_false(is_served(r));
    channel_free(c);
}

static CO_FN void payload_stall_co_test(struct rig *r)
{
    GByteArray *out = g_byte_array_new();
    uint64_t before = r->disk->bytes[RAM_WRITE];
    struct channel *c;

    put_request(out, NBD_CMD_WRITE, 0, 8192);
    put(out, "abc", 3);
    c = begin_co(r, 64, out);
    co_sleep(NBD_STALL_NS - NBD_SEC);
    g_assert_true(is_served(r));
    co_sleep(2 * NBD_SEC);
    g_assert_false(is_served(r));
    g_assert_cmpuint(r->disk->bytes[RAM_WRITE], ==, before);
    channel_free(c);
}

static CO_FN void stop_co_test(struct rig *r)
{
    GByteArray *out = g_byte_array_new();
    struct channel *half = rig_connect(r, 4096), *idle, *stuck;
    uint64_t start;

    put_request(out, NBD_CMD_READ, 0, 8192);
    idle = begin_co(r, 4096, NULL);
    stuck = begin_co(r, 64, out);
    start = loop_clock_ns(r->loop);
    g_assert_cmpint(nbd_server_co_stop(r->exports, NULL), ==, 0);
    g_assert_cmpuint(loop_clock_ns(r->loop) - start, <, 2 * NBD_SEC);
    channel_free(half);
    channel_free(idle);
    channel_free(stuck);
    r->server = nbd_server_new(r->exports, 0);
}

/* --- errors --- */

static CO_FN int fail_co_hook(struct ram_disk *d, enum ram_op op, uint64_t off,
                              uint64_t len, bool after)
{
    return op == RAM_READ || op == RAM_WRITE ? -ENOSPC : 0;
}

static CO_FN void error_co_test(struct rig *r)
{
    GByteArray *out = g_byte_array_new();
    struct nbd_chunk_header h;
    uint8_t head[NBD_CHUNK_SIZE];
    uint8_t payload[4096];
    struct channel *c;

    r->disk->co_hook = fail_co_hook;
    put_request(out, NBD_CMD_READ, 0, 8192);
    c = begin_co(r, 4096, out);
    g_assert_cmpint(channel_co_read_full(c, head, sizeof(head), 0), ==, 0);
    g_assert_cmpint(nbd_decode_chunk(head, &h), ==, 0);
    g_assert_cmpuint(h.type, ==, NBD_CHUNK_ERROR);
    g_assert_cmpuint(h.flags, ==, NBD_CHUNK_FLAG_DONE);
    g_assert_cmpuint(h.len, <=, sizeof(payload));
    g_assert_cmpint(channel_co_read_full(c, payload, h.len, 0), ==, 0);
    g_assert_cmpuint(payload[3], ==, NBD_ENOSPC);
    g_assert_cmpuint(r->io_errors, ==, 1);
    channel_free(c);
    rig_co_expect_gone(r);
    r->disk->co_hook = NULL;
}

/* Many clients ask for much and take nothing: the sum stays in the budget. */
static CO_FN void budget_co_test(struct rig *r)
{
    struct channel *c[NBD_MAX_CONNS_PER_EXPORT];

    for (size_t i = 0; i < G_N_ELEMENTS(c); i++) {
        GByteArray *out = g_byte_array_new();
        for (int k = 0; k < 100; k++) {
            put_request(out, NBD_CMD_READ, 0, DISK_SIZE);
        }
        c[i] = begin_co(r, 8192, out);
    }
    for (int round = 0; round < 50; round++) {
        uint64_t sum = 0;
        for (GList *l = r->server->conns.head; l; l = l->next) {
            const struct nbd_conn *conn = l->data;
            g_assert_cmpuint(conn->payload, <=, NBD_MAX_CONN_PAYLOAD);
            g_assert_cmpuint(conn->in_flight, <=, NBD_MAX_REQUESTS);
            sum += conn->payload;
        }
        g_assert_cmpuint(sum, <=, NBD_MAX_SERVER_PAYLOAD);
        g_assert_true(round == 0 || sum > NBD_MAX_SERVER_PAYLOAD / 2);
        co_sleep(NBD_MS);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(c); i++) {
        channel_free(c[i]);
    }
    rig_co_expect_gone(r);
}

#define TEST(name) \
    { \
        .co_test = name##_co_test \
    }
static const struct rig rigs[] = {
    TEST(splits),         TEST(vanish_sending), TEST(vanish_reading),
    TEST(handshake_time), TEST(idle),           TEST(stall),
    TEST(payload_stall),  TEST(stop),           TEST(error),
    TEST(budget),
};

int main(int argc, char **argv)
{
    static const char *const names[] = {
        "splits", "vanish-sending", "vanish-reading", "handshake-time",
        "idle",   "reply-stall",    "payload-stall",  "stop",
        "error",  "budget",
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        char *path = g_strdup_printf("/export/nbd/%s", names[i]);
        g_test_add_data_func(path, &rigs[i], run_rig);
        g_free(path);
    }
    return g_test_run();
}
