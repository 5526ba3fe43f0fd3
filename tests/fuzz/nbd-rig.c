/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "nbd-rig.h"
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "format/format.h"
#include "fuzz.h"
#include "graph/node.h"
#include "loop/channel.h"
#include "storage/storage.h"
#include "tls/tls-creds.h"

enum { DISK_SIZE = 1 << 20, DATA_SIZE = 256 << 10 };

static const struct node_driver *const drivers[] = { &file_driver, &raw_driver,
                                                     NULL };

struct rig {
    GByteArray *bytes;
    size_t capacity;
    struct graph *graph;
    struct node *node;
    struct exports *exports;
    struct nbd_server *server;
    struct channel *client;
    bool sent, tls;
};

void nbd_put(GByteArray *out, const void *data, size_t len)
{
    g_byte_array_append(out, data, (guint)len);
}

void nbd_put_opt(GByteArray *out, uint32_t opt, uint32_t len)
{
    uint8_t head[NBD_OPT_SIZE];

    nbd_encode_opt(head, opt, len);
    nbd_put(out, head, sizeof(head));
}

void nbd_put_hello(GByteArray *out)
{
    nbd_put(out, "\0\0\0\3", 4);
    nbd_put_opt(out, NBD_OPT_STRUCTURED_REPLY, 0);
    nbd_put_opt(out, NBD_OPT_SET_META_CONTEXT, 4 + 1 + 4 + 4 + 15);
    nbd_put(out, "\0\0\0\1e\0\0\0\1\0\0\0\17base:allocation", 28);
    nbd_put_opt(out, NBD_OPT_GO, 7);
    nbd_put(out, "\0\0\0\1e\0\0", 7);
}

static void on_event(const char *name, json_t *data, void *arg)
{
}

static CO_FN void rig_co_give_creds(struct rig *r)
{
    json_t *props = json_pack("{s:s}", "endpoint", "server");
    GError *err = NULL;

    tls_creds_co_add_anon(r->graph, "t", props, &err);
    g_assert_no_error(err);
    tls_creds_get(r->graph, "t", true, &r->server->creds, &err);
    g_assert_no_error(err);
    json_decref(props);
}

static CO_FN void rig_co_setup(struct rig *r)
{
    json_t *node = json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", "raw",
                             "node-name", "n", "file", "driver", "file",
                             "filename", "/disk");
    json_t *add = json_pack("{s:s, s:s, s:s, s:s, s:b}", "type", "nbd", "id",
                            "e", "node-name", "n", "name", "e", "writable", 1);
    g_autofree char *data = g_malloc(DATA_SIZE);
    GError *err = NULL;

    memset(data, 'd', DATA_SIZE);
    fuzz_put_file("/disk", data, DATA_SIZE, DISK_SIZE);
    r->graph = graph_new(loop_current(), drivers);
    node_co_open(r->graph, node, NODE_RDWR, &r->node, &err);
    g_assert_no_error(err);
    r->exports = exports_new(r->graph, on_event, r);
    r->server = nbd_server_new(r->exports, 0);
    if (r->tls) {
        rig_co_give_creds(r);
    }
    exports_co_add(r->exports, add, &err);
    g_assert_no_error(err);
    json_decref(node);
    json_decref(add);
}

static CO_FN void sender_entry(void *arg)
{
    struct rig *r = arg;
    struct iovec v;

    channel_co_write(r->client, iov_one(&v, r->bytes->data, r->bytes->len), 0);
    r->sent = true;
}

static CO_FN void rig_entry(void *arg)
{
    struct rig *r = arg;
    struct channel *ends[2];
    uint8_t buf[4096];

    rig_co_setup(r);
    channel_new_pair(loop_current(), r->capacity, ends);
    nbd_server_accept(ends[0], r->server);
    r->client = ends[1];
    co_start(loop_current(), sender_entry, r);
    while (channel_co_read(r->client, buf, sizeof(buf), NBD_SEC) > 0) {
    }
    channel_shutdown(r->client);
    while (!r->sent) {
        co_relax();
    }
    channel_free(r->client);
    co_sleep(NBD_SEC);
    g_assert_cmpuint(r->server->conns.length, ==, 0);
    g_assert_cmpuint(r->server->n_half_open, ==, 0);
    g_assert_cmpuint(r->server->n_slots, ==, 0);
    g_assert_cmpuint(r->server->excess, ==, 0);
    g_clear_pointer(&r->server->creds, tls_creds_unref);
    exports_co_shutdown(r->exports);
    exports_free(r->exports);
    node_co_unref(r->node);
    graph_co_free(r->graph);
}

void nbd_rig_talk(GByteArray *bytes, size_t capacity, bool tls)
{
    struct rig r = { .bytes = bytes, .capacity = capacity, .tls = tls };

    fuzz_run(rig_entry, &r);
}
