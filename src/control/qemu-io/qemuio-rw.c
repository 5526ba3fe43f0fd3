/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of the qemu-io language: read, write, their vector and aio forms,
 * discard; patterns, dumps and the lines that tell how fast it was.
 */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/units.h"
#include "control/qemu-io/qemuio-int.h"
#include "graph/io.h"
#include "loop/io.h"
#include "loop/loop.h"

#define LEN_MAX UINT64_C(2147483136)
#define VECS_MAX 64
#define PATTERN_DEFAULT 0xcd

struct request {
    const struct qemuio_command *cmd;
    struct qemuio_target *target;
    struct qemuio *q;
    struct backend *backend;
    bool zero, quiet, machine, dump, has_pattern;
    uint8_t pattern;
    uint64_t off, len;
    uint64_t check_off, check_len; /* of the pattern, within the request */
    unsigned flags;                /* enum io_flags */
    uint8_t *buf;                  /* @len bytes, or NULL */
    struct iovec vec[VECS_MAX];
    unsigned n_vec;
    uint64_t start_ns;
};

static bool is_write(const struct request *r)
{
    return r->cmd->flags & QEMUIO_WRITE;
}

static void request_free(struct request *r)
{
    g_free(r->buf);
    g_free(r);
}

/* --- what the words mean --- */

static bool parse_pattern(struct request *r, const char *word, GString *out)
{
    char *end = NULL;
    guint64 v = word ? g_ascii_strtoull(word, &end, 0) : 0;

    if (!word) {
        return true;
    }
    if (end == word || *end || v > 0xff) {
        g_string_append_printf(out, "%s is not a valid pattern byte\n", word);
        return false;
    }
    r->pattern = (uint8_t)v;
    r->has_pattern = true;
    return true;
}

/* Flags that exclude or need each other. */
static bool check_options(const struct qemuio_command *cmd,
                          const struct qemuio_args *a, GString *out)
{
    if (a->option['z'] && a->option['P']) {
        g_string_append_printf(out, "%s be specified at the same time\n",
                               cmd->flags & QEMUIO_AIO
                                   ? "-z and -P cannot"
                                   : "Only one of -z, -P, and -s can");
    } else if (a->option['u'] && !a->option['z']) {
        g_string_append(out, "-u requires -z to be specified\n");
    } else if (a->option['n'] && !a->option['z']) {
        g_string_append(out, "-n requires -z to be specified\n");
    } else {
        return true;
    }
    return false;
}

static bool parse_check_range(struct request *r, const struct qemuio_args *a,
                              GString *out)
{
    if (is_write(r) || !r->has_pattern) {
        if (a->option['s'] || a->option['l']) {
            qemuio_print_usage(r->cmd, out);
            return false;
        }
        return true;
    }
    if (a->option['s'] &&
        !qemuio_parse_size(a->option['s'], &r->check_off, out)) {
        return false;
    }
    r->check_len = r->len - MIN(r->check_off, r->len);
    if (a->option['l'] &&
        !qemuio_parse_size(a->option['l'], &r->check_len, out)) {
        return false;
    }
    if (r->check_off > r->len || r->check_len > r->len - r->check_off) {
        g_string_append(out, "pattern verification range exceeds end of read "
                             "data\n");
        return false;
    }
    return true;
}

/* "off len [len ...]" */
static bool parse_ranges(struct request *r, const struct qemuio_args *a,
                         GString *out)
{
    if (a->n < 2 || (!(r->cmd->flags & QEMUIO_VECTOR) && a->n > 2) ||
        a->n > VECS_MAX + 1) {
        qemuio_print_usage(r->cmd, out);
        return false;
    }
    if (!qemuio_parse_size(a->word[0], &r->off, out)) {
        return false;
    }
    for (unsigned i = 1; i < a->n; i++) {
        uint64_t len;

        if (!qemuio_parse_size(a->word[i], &len, out)) {
            return false;
        }
        if (len > LEN_MAX - r->len) {
            g_string_append_printf(
                out, "length cannot exceed %" PRIu64 ", given %s\n", LEN_MAX,
                a->word[i]);
            return false;
        }
        r->vec[r->n_vec++].iov_len = len;
        r->len += len;
    }
    return true;
}

static bool fill_buffer(struct request *r, GString *out)
{
    size_t at = 0;

    if (r->zero || (r->cmd->flags & QEMUIO_DISCARD) || r->len == 0) {
        return true;
    }
    r->buf = g_try_malloc(r->len);
    if (!r->buf) {
        g_string_append_printf(out, "%s failed: %s\n", r->cmd->name,
                               g_strerror(ENOMEM));
        return false;
    }
    memset(r->buf, is_write(r) && r->has_pattern ? r->pattern : PATTERN_DEFAULT,
           r->len);
    for (unsigned i = 0; i < r->n_vec; i++) {
        r->vec[i].iov_base = r->buf + at;
        at += r->vec[i].iov_len;
    }
    return true;
}

static struct request *request_new(struct qemuio_run *run,
                                   const struct qemuio_command *cmd,
                                   const struct qemuio_args *a)
{
    struct request *r = g_new0(struct request, 1);

    *r = (struct request) {
        .cmd = cmd,
        .q = run->q,
        .target = run->target,
        .backend = run->backend,
        .zero = a->option['z'],
        .quiet = a->option['q'],
        .machine = a->option['C'],
        .dump = a->option['v'],
    };
    r->flags = (a->option['f'] ? IO_FUA : 0) |
               (a->option['u'] ? IO_MAY_UNMAP : 0) |
               (a->option['n'] ? IO_FAST : 0) |
               (a->option['c'] ? IO_COMPRESSED : 0);
    if (a->option['i']) {
        /* In the statistics; nothing is asked for. */
        backend_stats_invalid(
            run->backend, cmd->flags & QEMUIO_WRITE ? ACCT_WRITE : ACCT_READ);
        g_string_append_printf(run->out, "injecting invalid %s request\n",
                               cmd->flags & QEMUIO_WRITE ? "write" : "read");
    } else if (a->option['b']) {
        g_string_append_printf(run->out, "%s failed: %s\n", cmd->name,
                               g_strerror(ENOTSUP));
    } else if (check_options(cmd, a, run->out) &&
               parse_pattern(r, a->option['P'], run->out) &&
               parse_ranges(r, a, run->out) &&
               parse_check_range(r, a, run->out) && fill_buffer(r, run->out)) {
        return r;
    }
    request_free(r);
    return NULL;
}

/* --- doing it --- */

static CO_FN int request_co_do(struct request *r)
{
    struct iov iov = { r->vec, r->n_vec, 0, r->len };

    if (r->cmd->flags & QEMUIO_DISCARD) {
        return backend_co_discard(r->backend, r->off, r->len);
    }
    if (r->zero) {
        return backend_co_zero(r->backend, r->off, r->len, r->flags);
    }
    return is_write(r) ? backend_co_pwritev(r->backend, r->off, iov, r->flags)
                       : backend_co_preadv(r->backend, r->off, iov, r->flags);
}

/* --- what it prints --- */

static void print_dump(const struct request *r, GString *out)
{
    for (uint64_t at = 0; at < r->len; at += 16) {
        unsigned n = (unsigned)MIN(16, r->len - at);

        g_string_append_printf(out, "%08" PRIx64 ":  ", r->off + at);
        for (unsigned i = 0; i < n; i++) {
            g_string_append_printf(out, "%02x ", r->buf[at + i]);
        }
        g_string_append_c(out, ' ');
        for (unsigned i = 0; i < n; i++) {
            uint8_t c = r->buf[at + i];

            g_string_append_c(out, g_ascii_isprint(c) ? (char)c : '.');
        }
        g_string_append_c(out, '\n');
    }
}

static void print_time(GString *out, uint64_t ns, bool fixed)
{
    unsigned cs = (unsigned)(ns / 10000000 % 100);
    uint64_t s = ns / 1000000000;

    if (fixed || s >= 60) {
        g_string_append_printf(out, "%" PRIu64 ":%02u:%02u.%02u", s / 3600,
                               (unsigned)(s / 60 % 60), (unsigned)(s % 60), cs);
    } else {
        g_string_append_printf(out, "%02u.%02u sec", (unsigned)s, cs);
    }
}

static void print_report(const struct request *r, GString *out)
{
    uint64_t ns = MAX(loop_clock_ns(graph_loop(r->q->graph)) - r->start_ns, 1);
    double seconds = (double)ns / 1e9;
    const char *verb = r->cmd->flags & QEMUIO_DISCARD ? "discard"
                       : is_write(r)                  ? "wrote"
                                                      : "read";

    if (r->machine) {
        g_string_append_printf(out, "%" PRIu64 ",1,", r->len);
        print_time(out, ns, true);
        g_string_append_printf(out, ",%.3f,%.3f\n", (double)r->len / seconds,
                               1 / seconds);
        return;
    }
    g_string_append_printf(
        out, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", verb,
        r->len, r->len, r->off);
    qemuio_print_size(out, (double)r->len);
    g_string_append(out, ", 1 ops; ");
    print_time(out, ns, false);
    g_string_append(out, " (");
    qemuio_print_size(out, (double)r->len / seconds);
    g_string_append_printf(out, "/sec and %.4f ops/sec)\n", 1 / seconds);
}

static void check_pattern(const struct request *r, GString *out)
{
    for (uint64_t i = 0; i < r->check_len; i++) {
        if (r->buf[r->check_off + i] != r->pattern) {
            g_string_append_printf(out,
                                   "Pattern verification failed at offset "
                                   "%" PRIu64 ", %" PRIu64 " bytes\n",
                                   r->off + r->check_off, r->check_len);
            return;
        }
    }
}

static CO_FN void request_co_run(struct request *r, GString *out)
{
    int ret;

    r->start_ns = loop_clock_ns(graph_loop(r->q->graph));
    ret = request_co_do(r);
    if (ret < 0) {
        /* As QEMU calls it. */
        bool aio_read = (r->cmd->flags & QEMUIO_AIO) && !is_write(r);

        g_string_append_printf(out, "%s failed: %s\n",
                               aio_read ? "readv" : r->cmd->name,
                               g_strerror(-ret));
        return;
    }
    if (!is_write(r)) {
        check_pattern(r, out);
    }
    if (!r->quiet) {
        if (r->dump && r->buf) {
            print_dump(r, out);
        }
        print_report(r, out);
    }
}

void qemuio_co_backend_done(struct qemuio *q, const char *name,
                            struct backend *u)
{
    struct device *d = device_find(q->graph, name);

    if (d) {
        backend_stats_add(d->backend, u);
    }
    backend_co_free(u);
}

static CO_FN void aio_entry(void *arg)
{
    struct request *r = arg;
    struct qemuio_target *t = r->target;
    struct qemuio *q = r->q;

    request_co_run(r, t->done);
    qemuio_co_backend_done(q, t->name, r->backend);
    request_free(r);
    if (--t->running == 0) {
        co_queue_wake_all(&t->idle);
    }
    co_latch_done(&q->busy);
}

/* A node that is read-only says so itself. */
static CO_FN bool may_co_write(struct qemuio_run *run,
                               const struct qemuio_command *cmd)
{
    g_autoptr(GError) err = NULL;
    g_autofree char *msg = NULL;

    if (!(cmd->flags & (QEMUIO_WRITE | QEMUIO_DISCARD)) ||
        !node_is_writable(run->node) ||
        backend_co_set_perms(run->backend, PERM_CONSISTENT_READ | PERM_WRITE,
                             PERM_ALL, &err) == 0) {
        return true;
    }
    msg = err_dup_message(err);
    g_string_append_printf(run->out, "%s\n", msg);
    return false;
}

void qemuio_co_rw(struct qemuio_run *run, const struct qemuio_command *cmd,
                  const struct qemuio_args *a)
{
    struct request *r = request_new(run, cmd, a);

    if (!r || !may_co_write(run, cmd)) {
        g_clear_pointer(&r, request_free);
        return;
    }
    if (!(cmd->flags & QEMUIO_AIO)) {
        request_co_run(r, run->out);
        request_free(r);
        return;
    }
    run->keep_backend = true;
    run->target->running++;
    co_latch_add(&run->q->busy);
    co_start(graph_loop(run->q->graph), aio_entry, r);
}

void qemuio_co_aio_flush(struct qemuio_run *run,
                         const struct qemuio_command *cmd,
                         const struct qemuio_args *a)
{
    struct qemuio_target *t = run->target;

    while (t->running > 0) {
        co_queue_co_wait(&t->idle);
    }
    g_string_append_len(run->out, t->done->str, (gssize)t->done->len);
    g_string_truncate(t->done, 0);
}
