/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* sluice bench: so many requests of one size, some at a time, and how long they
 * took. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "base/iov.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

enum { OPT_FLUSH_INTERVAL = OPT_OTHER, OPT_NO_DRAIN, OPT_PATTERN };

struct bench {
    struct image_spec image;
    uint64_t count, depth, size, step, offset; /* @offset: of the next one */
    uint64_t flush_interval;                   /* 0: no flushes */
    uint64_t pattern;
    bool write, no_drain, quiet;
    unsigned write_flags; /* enum io_flags */

    struct backend *backend;
    uint64_t sent, in_flight;
    int result; /* of the first that failed */
    struct co_queue ended;
};

/* --- the command line --- */

static int parse_count(const char *what, const char *text, uint64_t *ret)
{
    if (cli_parse_number(text, ret) < 0 || *ret > INT32_MAX) {
        cli_error("Invalid %s specified", what);
        return 1;
    }
    return 0;
}

static int parse_aio(const char *text)
{
    if (g_str_equal(text, "threads")) {
        image_use_engine(IO_ENGINE_THREADS);
    } else if (g_str_equal(text, "io_uring") || g_str_equal(text, "native")) {
        image_use_engine(IO_ENGINE_IO_URING);
    } else {
        cli_error("Invalid aio option: %s", text);
        return 1;
    }
    return 0;
}

static int bench_parse_cache(struct bench *b, const char *text)
{
    if (image_parse_cache(text, &b->image.flags) < 0) {
        cli_error("Invalid cache mode");
        return 1;
    }
    b->write_flags = g_str_equal(text, "writethrough") ||
                             g_str_equal(text, "directsync")
                         ? IO_FUA
                         : 0;
    return 0;
}

static int bench_parse_pattern(const char *text, uint64_t *ret)
{
    char *end;
    guint64 v = g_ascii_strtoull(text, &end, 0);

    if (!*text || *end || v > 0xff) {
        cli_error("Invalid pattern byte specified");
        return 1;
    }
    *ret = v;
    return 0;
}

static int bench_take_option(struct bench *b, int c, char **argv)
{
    switch (c) {
    case 'c': return parse_count("request count", optarg, &b->count);
    case 'd': return parse_count("queue depth", optarg, &b->depth);
    case 'f': b->image.format = optarg; return 0;
    case 'i': return parse_aio(optarg);
    case 'n': return parse_aio("native");
    case 'o': return cli_parse_size("offset", optarg, 0, INT64_MAX, &b->offset);
    case 'q': b->quiet = true; return 0;
    case 's':
        return cli_parse_size("buffer size", optarg, 1, INT32_MAX, &b->size);
    case 'S':
        return cli_parse_size("step_size", optarg, 1, INT32_MAX, &b->step);
    case 't': return bench_parse_cache(b, optarg);
    case 'U': b->image.flags |= NODE_FORCE_SHARE; return 0;
    case 'w': b->write = true; return 0;
    case OPT_FLUSH_INTERVAL:
        return parse_count("flush interval", optarg, &b->flush_interval);
    case OPT_NO_DRAIN: b->no_drain = true; return 0;
    case OPT_PATTERN: return bench_parse_pattern(optarg, &b->pattern);
    case OPT_IMAGE_OPTS: b->image.is_opts = true; return 0;
    case OPT_OBJECT: return image_add_object("bench", optarg);
    default: return cli_option_error("bench", c, argv);
    }
}

static int bench_check(const struct bench *b)
{
    if (!b->write && b->flush_interval) {
        cli_error("--flush-interval is only available in write tests");
        return 1;
    }
    if (b->flush_interval && b->flush_interval < b->depth) {
        cli_error("Flush interval can't be smaller than depth");
        return 1;
    }
    return 0;
}

/* 0, an exit status, or -1 after help. */
static int bench_parse_args(int argc, char **argv, struct bench *b)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        FORCE_SHARE_OPTION,
        { "flush-interval", required_argument, NULL, OPT_FLUSH_INTERVAL },
        { "no-drain", no_argument, NULL, OPT_NO_DRAIN },
        { "pattern", required_argument, NULL, OPT_PATTERN },
        { NULL, 0, NULL, 0 }
    };
    int c, r = 0;

    while (r == 0 && (c = getopt_long(argc, argv, ":hc:d:f:i:no:qs:S:t:wU",
                                      options, NULL)) != -1) {
        if (c == 'h') {
            cli_print_help();
            return -1;
        }
        r = bench_take_option(b, c, argv);
    }
    if (r == 0 && optind + 1 != argc) {
        return cli_usage_error("bench", "Expecting one image file name");
    }
    b->image.name = argv[optind];
    b->image.flags |= b->write ? NODE_RDWR : 0;
    return r ? r : bench_check(b);
}

/* --- requests --- */

struct bench_request {
    struct bench *bench;
    uint64_t offset;
};

static CO_FN int bench_request_co_run(struct bench *b, uint64_t offset)
{
    void *buf = io_buf_get(b->size);
    struct iovec store;
    struct iov iov = iov_one(&store, buf, b->size);
    int r;

    if (!buf) {
        return -ENOMEM;
    }
    if (b->write) {
        memset(buf, (int)b->pattern, b->size);
        r = backend_co_pwritev(b->backend, offset, iov, b->write_flags);
    } else {
        r = backend_co_preadv(b->backend, offset, iov, 0);
    }
    io_buf_put(buf, b->size);
    return r;
}

static void request_end(struct bench *b, int r)
{
    b->result = b->result < 0 ? b->result : r;
    b->in_flight--;
    co_queue_wake_all(&b->ended);
}

static CO_FN void bench_request_entry(void *arg)
{
    struct bench_request *req = arg;

    request_end(req->bench, bench_request_co_run(req->bench, req->offset));
    g_free(req);
}

static CO_FN void bench_flush_entry(void *arg)
{
    struct bench *b = arg;

    request_end(b, backend_co_flush(b->backend));
}

static CO_FN void bench_co_wait(struct bench *b, uint64_t in_flight)
{
    while (b->in_flight > in_flight) {
        co_queue_co_wait(&b->ended);
    }
}

/* A request at the next place; at the end of the image it begins again. */
static void bench_send(struct bench *b, struct loop *l)
{
    uint64_t size = node_size(backend_node(b->backend));
    struct bench_request *req = g_new(struct bench_request, 1);

    *req = (struct bench_request) { b, b->offset };
    b->offset += b->step;
    b->offset = size > 0 ? b->offset % size : 0;
    if (b->offset + b->size > size) {
        b->offset = 0;
    }
    b->sent++;
    b->in_flight++;
    co_start(l, bench_request_entry, req);
}

static CO_FN void bench_co_flush(struct bench *b, struct loop *l)
{
    if (!b->no_drain) {
        bench_co_wait(b, 0);
    }
    b->in_flight++;
    co_start(l, bench_flush_entry, b);
    if (!b->no_drain) {
        bench_co_wait(b, 0);
    }
}

static CO_FN void bench_co_send_all(struct bench *b, struct loop *l)
{
    while (b->sent < b->count && b->result == 0) {
        bench_co_wait(b, b->depth - 1);
        bench_send(b, l);
        if (b->flush_interval &&
            (b->count - b->sent) % b->flush_interval == 0) {
            bench_co_flush(b, l);
        }
    }
    bench_co_wait(b, 0);
}

/* --- the run --- */

static void bench_announce(const struct bench *b)
{
    if (b->quiet) {
        return;
    }
    printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64
           " in parallel (starting at offset %" PRIu64 ", step size %" PRIu64
           ")\n",
           b->count, b->write ? "write" : "read", b->size, b->depth, b->offset,
           b->step);
    if (b->flush_interval) {
        printf("Sending flush every %" PRIu64 " requests\n", b->flush_interval);
    }
    fflush(stdout);
}

static CO_FN int bench_co_measure(struct bench *b, struct graph *g,
                                  struct node *n)
{
    unsigned perm = PERM_CONSISTENT_READ | (b->write ? PERM_WRITE : 0);
    g_autoptr(GError) err = NULL;
    gint64 start;
    int r = backend_co_new(n, "bench", perm, PERM_ALL, NULL, NULL, &b->backend,
                           &err);

    if (r < 0) {
        cli_gerror(err);
        return 1;
    }
    b->step = b->step ? b->step : b->size;
    b->depth = MAX(b->depth, 1);
    bench_announce(b);
    start = g_get_monotonic_time();
    bench_co_send_all(b, graph_loop(g));
    if (b->result < 0) {
        cli_error("Failed request: %s", g_strerror(-b->result));
    } else if (!b->quiet) {
        printf("Run completed in %3.3f seconds.\n",
               (double)(g_get_monotonic_time() - start) / G_USEC_PER_SEC);
    }
    backend_co_free(b->backend);
    return b->result < 0 ? 1 : 0;
}

static CO_FN int bench_co_run(struct graph *g, void *arg)
{
    struct bench *b = arg;
    g_autoptr(GError) err = NULL;
    struct node *n;
    int status;

    if (image_co_open_spec(g, &b->image, &n, &err) < 0) {
        cli_gerror(err);
        return 1;
    }
    status = bench_co_measure(b, g, n);
    node_co_unref(n);
    return status;
}

int cmd_bench(int argc, char **argv)
{
    struct bench b = { .count = 75000, .depth = 64, .size = 4096 };
    int status = bench_parse_args(argc, argv, &b);

    if (status != 0) {
        return status < 0 ? 0 : status;
    }
    return image_run(bench_co_run, &b);
}
