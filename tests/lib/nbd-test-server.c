/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The NBD server alone, for tests: nodes and an address from a JSON object on
 * the command line, then commands, one JSON object a line, on the socket that
 * is standard input.  Each command runs as a coroutine of its own and answers
 * with one line that repeats its "id"; events are lines with "event".
 *
 *   {"listen": {"path": P} | {"host": H, "port": P}, "max-connections": N,
 *    "engine": NAME, "nodes": [blockdev-add objects]}
 *
 *   start, add, del (id, hard), stop, query, hold (on), fail (errno), quit
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "export/export.h"
#include "filter/filter.h"
#include "format/format.h"
#include "graph/node.h"
#include "hold-driver.h"
#include "loop/channel.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "storage/storage.h"

static const struct node_driver *const drivers[] = {
    &file_driver,     &raw_driver,  &qed_driver, &copy_on_read_driver,
    &throttle_driver, &hold_driver, NULL,
};

struct server {
    struct loop *loop;
    struct graph *graph;
    struct exports *exports;
    struct channel *control;
    GPtrArray *nodes;
    json_t *config;
    GString *out; /* lines not sent yet */
    bool sending, quit;
    struct co_latch commands;
};

struct command {
    struct server *s;
    json_t *in;
};

static CO_FN void send_entry(void *arg)
{
    struct server *s = arg;

    while (s->out->len > 0) {
        GString *out = s->out;
        struct iovec v;
        s->out = g_string_new(NULL);
        if (channel_co_write(s->control, iov_one(&v, out->str, out->len), 0) <
            0) {
            exit(1);
        }
        g_string_free(out, TRUE);
    }
    s->sending = false;
    co_latch_done(&s->commands);
}

static void say(struct server *s, json_t *line)
{
    char *text = json_dumps(line, JSON_COMPACT);

    g_string_append(s->out, text);
    g_string_append_c(s->out, '\n');
    free(text);
    json_decref(line);
    if (!s->sending) {
        s->sending = true;
        co_latch_add(&s->commands);
        co_start(s->loop, send_entry, s);
    }
}

static void on_event(const char *name, json_t *data, void *arg)
{
    say(arg, json_pack("{s:s, s:O}", "event", name, "data", data));
}

static CO_FN int open_co_nodes(struct server *s, GError **err)
{
    size_t i;
    json_t *options;

    json_array_foreach(json_object_get(s->config, "nodes"), i, options) {
        struct node *n;
        int ret = node_co_open(s->graph, options, NODE_RDWR | NODE_AUTO_RDONLY,
                               &n, err);
        if (ret < 0) {
            return ret;
        }
        g_ptr_array_add(s->nodes, n);
    }
    return 0;
}

static int start_server(struct server *s, GError **err)
{
    json_t *listen = json_object_get(s->config, "listen");
    const struct sock_addr addr = {
        .path = json_string_value(json_object_get(listen, "path")),
        .host = json_string_value(json_object_get(listen, "host")),
        .port = json_string_value(json_object_get(listen, "port")),
    };
    struct nbd_server_params p = {
        .addr = &addr,
        .max_connections = (unsigned)json_integer_value(
            json_object_get(s->config, "max-connections")),
    };

    return nbd_server_start(s->exports, &p, err);
}

static CO_FN int run_co_command(struct server *s, const char *cmd, json_t *in,
                                json_t *out, GError **err)
{
    json_t *args = json_object_get(in, "args");

    if (strcmp(cmd, "start") == 0) {
        int ret = start_server(s, err);
        json_object_set_new(out, "port",
                            json_integer(nbd_server_port(s->exports)));
        return ret;
    } else if (strcmp(cmd, "add") == 0) {
        return exports_co_add(s->exports, args, err);
    } else if (strcmp(cmd, "del") == 0) {
        return exports_co_del(s->exports,
                              json_string_value(json_object_get(args, "id")),
                              json_is_true(json_object_get(args, "hard")), err);
    } else if (strcmp(cmd, "stop") == 0) {
        return nbd_server_co_stop(s->exports, err);
    } else if (strcmp(cmd, "query") == 0) {
        json_object_set_new(out, "exports", exports_describe(s->exports));
        json_object_set_new(out, "coroutines", json_integer(co_count(s->loop)));
        json_object_set_new(out, "held", json_integer(hold_waiting()));
        return 0;
    } else if (strcmp(cmd, "hold") == 0) {
        hold_set(json_is_true(json_object_get(args, "on")));
        return 0;
    } else if (strcmp(cmd, "fail") == 0) {
        hold_fail((int)json_integer_value(json_object_get(args, "errno")));
        return 0;
    }
    return err_set(err, EINVAL, "unknown command '%s'", cmd);
}

static CO_FN void command_entry(void *arg)
{
    struct command *c = arg;
    struct server *s = c->s;
    const char *cmd = json_string_value(json_object_get(c->in, "cmd"));
    json_t *out = json_object();
    GError *err = NULL;

    json_object_set(out, "id", json_object_get(c->in, "id"));
    if (run_co_command(s, cmd ? cmd : "", c->in, out, &err) < 0) {
        char *text = err ? err_dup_message(err) : g_strdup("no text");
        json_object_set_new(out, "error", json_string(text));
        g_free(text);
        g_clear_error(&err);
    }
    say(s, out);
    json_decref(c->in);
    g_free(c);
    co_latch_done(&s->commands);
}

/* True to go on. */
static bool take_line(struct server *s, const char *line)
{
    json_t *in = json_loads(line, 0, NULL);
    const char *cmd = json_string_value(json_object_get(in, "cmd"));
    struct command *c;

    if (!cmd || strcmp(cmd, "quit") == 0) {
        json_decref(in);
        return false;
    }
    c = g_new0(struct command, 1);
    c->s = s;
    c->in = in;
    co_latch_add(&s->commands);
    co_start(s->loop, command_entry, c);
    return true;
}

static CO_FN void read_co_commands(struct server *s)
{
    GString *in = g_string_new(NULL);
    char buf[4096], *nl;
    ssize_t n;
    bool go = true;

    while (go && (n = channel_co_read(s->control, buf, sizeof(buf), 0)) > 0) {
        g_string_append_len(in, buf, n);
        while (go && (nl = memchr(in->str, '\n', in->len))) {
            *nl = '\0';
            go = take_line(s, in->str);
            g_string_erase(in, 0, nl + 1 - in->str);
        }
    }
    g_string_free(in, TRUE);
}

static CO_FN void main_entry(void *arg)
{
    struct server *s = arg;
    GError *err = NULL;

    if (open_co_nodes(s, &err) < 0) {
        fprintf(stderr, "nbd-test-server: %s\n", err->message);
        exit(1);
    }
    read_co_commands(s);
    exports_co_shutdown(s->exports);
    co_latch_co_wait(&s->commands);
    for (guint i = s->nodes->len; i > 0; i--) {
        node_co_unref(g_ptr_array_index(s->nodes, i - 1));
    }
    exports_free(s->exports);
    graph_co_free(s->graph);
    channel_free(s->control);
    while (co_count(s->loop) > 1) {
        co_sleep(1000000);
    }
    loop_stop(s->loop);
}

int main(int argc, char **argv)
{
    struct server s = { 0 };
    struct loop_options lo = { 0 };
    const char *engine;
    GError *err = NULL;

    s.config = argc == 2 ? json_loads(argv[1], 0, NULL) : NULL;
    if (!s.config) {
        fprintf(stderr, "usage: nbd-test-server JSON\n");
        return 2;
    }
    engine = json_string_value(json_object_get(s.config, "engine"));
    if ((engine && io_engine_parse(engine, &lo.engine, &err) < 0) ||
        loop_new(&lo, &s.loop, &err) < 0) {
        fprintf(stderr, "nbd-test-server: %s\n", err->message);
        return 1;
    }
    s.graph = graph_new(s.loop, drivers);
    s.exports = exports_new(s.graph, on_event, &s);
    s.nodes = g_ptr_array_new();
    s.out = g_string_new(NULL);
    s.control = channel_new_fd(s.loop, 0);
    co_start(s.loop, main_entry, &s);
    loop_run(s.loop);
    loop_free(s.loop);
    g_ptr_array_free(s.nodes, TRUE);
    g_string_free(s.out, TRUE);
    json_decref(s.config);
    return 0;
}
