/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "fake.h"
#include "graph/model/chain-map.h"
#include <fcntl.h>
#include <stdlib.h>
#include "loop/io.h"
#include "run.h"

/* --- fake: a format --- */

#define HEADER_MAGIC "FAKE"

static CO_FN int fake_co_header(struct node *n)
{
    struct fake_state *s = n->state;
    char buf[1024] = "";
    struct iovec store;
    char **lines;
    int ret = node_co_preadv(node_file(n), 0,
                             iov_one(&store, buf, sizeof(buf) - 1), 0);

    if (ret < 0) {
        return ret;
    }
    /* "FAKE", backing name, format, on a line each. */
    lines = g_strsplit(buf, "\n", 4);
    if (!g_str_equal(lines[0], HEADER_MAGIC)) {
        g_strfreev(lines);
        return -EINVAL;
    }
    if (lines[1] && *lines[1]) {
        s->backing = g_strcompress(lines[1]);
        s->format = lines[2] && *lines[2] ? g_strdup(lines[2]) : NULL;
    }
    g_strfreev(lines);
    return 0;
}

static CO_FN int fake_co_open_driver(struct node *n, struct opts *o,
                                     unsigned flags, GError **err)
{
    struct fake_state *s = n->state;
    uint64_t cluster = 4096;
    int ret;

    n->size = 65536;
    ret = opts_take_size(o, "size", &n->size, err);
    if (ret >= 0) {
        ret = opts_take_size(o, "cluster", &cluster, err);
    }
    if (ret < 0) {
        return ret;
    }
    if (opts_has(o, "file") || opts_has(o, "filename")) {
        ret = node_co_open_file(n, o, err);
        if (ret < 0) {
            return ret;
        }
        ret = fake_co_header(n);
        if (ret < 0) {
            return err_set(err, EINVAL, "not a fake image");
        }
    }
    s->cluster = cluster;
    s->bytes = g_malloc0(n->size + cluster);
    s->map = g_malloc0(n->size / cluster + 1);
    s->busy = g_malloc0(n->size / cluster + 1);
    return node_co_open_backing(n, o, s->backing, s->format, err);
}

static CO_FN void fake_co_close(struct node *n)
{
    struct fake_state *s = n->state;

    g_free(s->bytes);
    g_free(s->map);
    g_free(s->busy);
    g_free(s->backing);
    g_free(s->format);
}

static int fake_probe(const uint8_t *buf, size_t len)
{
    return len >= 4 && !memcmp(buf, HEADER_MAGIC, 4) ? 100 : 0;
}

static const char *fake_header_backing(const struct node *n,
                                       const char **ret_fmt)
{
    const struct fake_state *s = n->state;

    *ret_fmt = s->format;
    return s->backing;
}

static void fake_limits(struct node *n, struct node_limits *l)
{
    const struct fake_state *s = n->state;

    l->cluster_size = s->cluster;
    l->fast_zero = true;
}

static CO_FN void fake_co_passthrough(struct fake_state *s, const bool *hold)
{
    s->held_count++;
    while (*hold) {
        co_queue_co_wait(&s->held);
    }
    s->held_count--;
    if (s->latency_ns) {
        co_sleep(s->latency_ns);
    } else {
        co_relax();
    }
}

static CO_FN int fake_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    struct fake_state *s = n->state;

    s->reads++;
    for (uint64_t c = off / s->cluster; c * s->cluster < off + iov.len; c++) {
        g_assert_cmpint(s->map[c], ==, FAKE_DATA);
    }
    fake_co_passthrough(s, &s->hold_reads);
    iov_from_buf(iov, 0, s->bytes + off, iov.len);
    return s->fail_reads;
}

/* New clusters: nobody else is inside, and what is not written becomes zero. */
static unsigned fake_begin_allocate(struct node *n, uint64_t off, uint64_t len)
{
    struct fake_state *s = n->state;
    unsigned fresh = 0;

    for (uint64_t c = off / s->cluster; c * s->cluster < off + len; c++) {
        g_assert_false(s->busy[c]);
        if (s->map[c] != FAKE_DATA) {
            s->busy[c] = 1;
            fresh++;
        }
    }
    return fresh;
}

/* A write failed: what it would have allocated is not there. */
static void fake_end_busy(struct node *n, uint64_t off, uint64_t len)
{
    struct fake_state *s = n->state;

    for (uint64_t c = off / s->cluster; c * s->cluster < off + len; c++) {
        s->busy[c] = 0;
    }
}

static void fake_end_allocate(struct node *n, uint64_t off, uint64_t len)
{
    struct fake_state *s = n->state;

    for (uint64_t c = off / s->cluster; c * s->cluster < off + len; c++) {
        if (s->busy[c]) {
            s->busy[c] = 0;
            memset(s->bytes + c * s->cluster, 0, s->cluster);
            s->map[c] = FAKE_DATA;
        }
    }
}

static CO_FN int fake_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    struct fake_state *s = n->state;

    s->writes++;
    s->last_write_off = off;
    s->last_write_len = iov.len;
    fake_begin_allocate(n, off, iov.len);
    fake_co_passthrough(s, &s->hold_writes);
    if (s->fail_writes) {
        fake_end_busy(n, off, iov.len);
        return s->fail_writes;
    }
    fake_end_allocate(n, off, iov.len);
    iov_to_buf(iov, 0, s->bytes + off, iov.len);
    return 0;
}

static CO_FN int fake_co_zero(struct node *n, uint64_t off, uint64_t len,
                              unsigned flags)
{
    struct fake_state *s = n->state;

    if (s->no_zero) {
        return -ENOTSUP;
    }
    s->zeroes++;
    g_assert_cmpuint(off % s->cluster, ==, 0);
    g_assert_true(len % s->cluster == 0 || off + len == n->size);
    for (uint64_t c = off / s->cluster; c * s->cluster < off + len; c++) {
        g_assert_false(s->busy[c]);
        s->map[c] = FAKE_ZERO;
    }
    return 0;
}

static CO_FN int fake_co_flush(struct node *n)
{
    struct fake_state *s = n->state;

    s->flushes++;
    return s->fail_flush;
}

static CO_FN int fake_co_map(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags, struct mapping *ret_map)
{
    struct fake_state *s = n->state;
    uint64_t c = off / s->cluster, end = c;

    s->statuses++;
    while (end * s->cluster < off + len && s->map[end] == s->map[c]) {
        end++;
    }
    ret_map->kind = s->map[c] == FAKE_NONE   ? MAP_ABSENT
                    : s->map[c] == FAKE_ZERO ? MAP_ZERO
                                             : MAP_DATA;
    ret_map->len = end * s->cluster - off;
    return 0;
}

static CO_FN int fake_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct fake_state *s = n->state;
    uint64_t old = n->size / s->cluster + 1, now = size / s->cluster + 1;

    s->bytes = g_realloc(s->bytes, size + s->cluster);
    s->map = g_realloc(s->map, now);
    s->busy = g_realloc(s->busy, now);
    if (now > old) {
        memset(s->map + old, 0, now - old);
        memset(s->busy + old, 0, now - old);
    }
    n->size = size;
    return 0;
}

static CO_FN void fake_co_quiesce(struct node *n)
{
    struct fake_state *s = fake_of(n);

    while (s->hold_quiesce) {
        co_queue_co_wait(&s->held);
    }
    s->quiesced++;
}

static void fake_resume(struct node *n)
{
    fake_of(n)->quiesced--;
}

static CO_FN int fake_co_set_perms(struct node *n, unsigned perm,
                                   unsigned shared, GError **err)
{
    if (fake_of(n)->fail_perms && (perm & PERM_WRITE)) {
        return err_set(err, EAGAIN, "Failed to get \"write\" lock");
    }
    return 0;
}

const struct node_driver fake_driver = {
    .name = "fake",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct fake_state),
    .supports_backing = true,
    .probe = fake_probe,
    .co_open = fake_co_open_driver,
    .co_close = fake_co_close,
    .limits = fake_limits,
    .header_backing = fake_header_backing,
    .co_preadv = fake_co_preadv,
    .co_pwritev = fake_co_pwritev,
    .co_zero = fake_co_zero,
    .co_flush = fake_co_flush,
    .co_map = fake_co_map,
    .co_truncate = fake_co_truncate,
    .co_set_perms = fake_co_set_perms,
    .co_quiesce = fake_co_quiesce,
    .resume = fake_resume,
};

struct fake_state *fake_of(struct node *n)
{
    g_assert(n->drv == &fake_driver);
    return n->state;
}

void fake_fill(struct node *n, uint64_t off, uint64_t len, int fill)
{
    struct fake_state *s = fake_of(n);

    chain_maps_drop(n);
    memset(s->bytes + off, fill, len);
    for (uint64_t c = off / s->cluster; c * s->cluster < off + len; c++) {
        s->map[c] = FAKE_DATA;
    }
}

void fake_release(struct node *n)
{
    struct fake_state *s = fake_of(n);

    s->hold_reads = s->hold_writes = s->hold_quiesce = false;
    co_queue_wake_all(&s->held);
}

/* --- ram: storage --- */

static CO_FN int ram_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct ram_state *s = n->state;
    uint64_t align = 1, mem_align = 1;
    int ret;

    n->size = 65536;
    ret = opts_take_size(o, "size", &n->size, err);
    if (ret >= 0) {
        ret = opts_take_size(o, "align", &align, err);
    }
    if (ret >= 0) {
        ret = opts_take_size(o, "mem-align", &mem_align, err);
    }
    if (ret >= 0) {
        ret = opts_take_size(o, "max", &s->max, err);
    }
    s->align = align;
    s->mem_align = mem_align;
    s->alloc = n->size + (1 << 20);
    s->bytes = g_malloc0(s->alloc);
    return MIN(ret, 0);
}

static CO_FN void ram_co_close(struct node *n)
{
    g_free(ram_of(n)->bytes);
}

static void ram_limits(struct node *n, struct node_limits *l)
{
    struct ram_state *s = n->state;

    l->request_alignment = s->align;
    l->mem_alignment = s->mem_align;
    l->max_transfer = s->max;
}

static void ram_check(struct ram_state *s, uint64_t off, struct iov iov)
{
    g_assert_cmpuint(off % s->align, ==, 0);
    g_assert_cmpuint(iov.len % s->align, ==, 0);
    g_assert_cmpuint(iov.len, >, 0);
    g_assert_true(!s->max || iov.len <= s->max);
    g_assert_true(iov_is_aligned(iov, s->mem_align));
    g_assert_cmpuint(off + iov.len, <=, s->alloc);
}

static CO_FN int ram_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    struct ram_state *s = n->state;

    s->reads++;
    ram_check(s, off, iov);
    co_relax();
    iov_from_buf(iov, 0, s->bytes + off, iov.len);
    return 0;
}

static CO_FN int ram_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    struct ram_state *s = n->state;

    s->writes++;
    ram_check(s, off, iov);
    g_assert_false(flags & IO_FUA);
    co_relax();
    iov_to_buf(iov, 0, s->bytes + off, iov.len);
    return 0;
}

/* Clones: the bytes are there before the call is over. */
static CO_FN int ram_co_copy_in(struct node *n, uint64_t off, struct node *src,
                                uint64_t src_off, uint64_t len, unsigned flags)
{
    struct ram_state *s = ram_of(n);

    g_assert_cmpuint(off + len, <=, s->alloc);
    co_relax();
    memcpy(s->bytes + off, ram_of(src)->bytes + src_off, len);
    co_relax();
    return 0;
}

static bool ram_can_copy_in(struct node *n, struct node *src)
{
    return src->drv == &ram_driver;
}

static CO_FN void ram_co_hold(struct ram_state *s, const bool *hold)
{
    s->is_held = *hold;
    while (*hold) {
        co_queue_co_wait(&s->held);
    }
    s->is_held = false;
}

static CO_FN int ram_co_flush(struct node *n)
{
    ram_co_hold(ram_of(n), &ram_of(n)->hold_flush);
    ram_of(n)->flushes++;
    return ram_of(n)->fail_flush;
}

static CO_FN int ram_co_truncate(struct node *n, uint64_t size, GError **err)
{
    struct ram_state *s = ram_of(n);

    if (size > s->alloc) {
        return err_set(err, ENOSPC, "full");
    }
    co_relax();
    memset(s->bytes + size, 0, s->alloc - size);
    return 0;
}

static CO_FN int ram_co_set_perms(struct node *n, unsigned perm,
                                  unsigned shared, GError **err)
{
    struct ram_state *s = ram_of(n);

    if (s->refuse_write && (perm & PERM_WRITE)) {
        return err_set(err, EAGAIN, "Failed to get \"write\" lock");
    }
    s->perm = perm;
    s->shared = shared;
    return 0;
}

static CO_FN int ram_co_reopen(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    ram_co_hold(ram_of(n), &ram_of(n)->hold_reopen);
    return 0;
}

const struct node_driver ram_driver = {
    .name = "ram",
    .kind = NODE_PROTOCOL,
    .state_size = sizeof(struct ram_state),
    .co_open = ram_co_open,
    .co_close = ram_co_close,
    .co_reopen = ram_co_reopen,
    .limits = ram_limits,
    .co_preadv = ram_co_preadv,
    .co_pwritev = ram_co_pwritev,
    .co_copy_in = ram_co_copy_in,
    .can_copy_in = ram_can_copy_in,
    .co_flush = ram_co_flush,
    .co_truncate = ram_co_truncate,
    .co_set_perms = ram_co_set_perms,
};

struct ram_state *ram_of(struct node *n)
{
    g_assert(n->drv == &ram_driver);
    return n->state;
}

void ram_release(struct node *n)
{
    struct ram_state *s = ram_of(n);

    s->hold_flush = s->hold_reopen = false;
    co_queue_wake_all(&s->held);
}

/* --- file: a real one, read only --- */

struct test_file {
    struct io_file *f;
    char *name;
};

void (*test_file_hook)(const char *name);

static CO_FN int file_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    struct test_file *s = n->state;
    int ret = opts_take_str(o, "filename", &s->name, err);

    if (ret <= 0) {
        return ret < 0 ? ret : opts_missing("filename", err);
    }
    n->flags &= ~(unsigned)NODE_RDWR;
    if (test_file_hook) {
        test_file_hook(s->name);
    }
    ret = io_co_open(s->name, O_RDONLY, 0, &s->f);
    if (ret == 0) {
        ret = io_co_size(s->f, &n->size);
    }
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not open '%s'", s->name);
        g_free(s->name);
    }
    return ret;
}

static CO_FN void file_co_close(struct node *n)
{
    struct test_file *s = n->state;

    io_co_close(s->f);
    g_free(s->name);
}

static void file_describe(struct node *n)
{
    struct test_file *s = n->state;

    g_free(n->filename);
    n->filename = g_strdup(s->name);
}

static CO_FN int file_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    return io_co_preadv(((struct test_file *)n->state)->f, off, iov);
}

static CO_FN int file_co_real_path(struct node *n, char **ret_path)
{
    return io_co_real_path(((struct test_file *)n->state)->f, ret_path);
}

const struct node_driver test_file_driver = {
    .name = "file",
    .co_real_path = file_co_real_path,
    .kind = NODE_PROTOCOL,
    .state_size = sizeof(struct test_file),
    .co_open = file_co_open,
    .co_close = file_co_close,
    .describe = file_describe,
    .co_preadv = file_co_preadv,
};

/* --- raw: a format without a header, as the real one probes --- */

static CO_FN int raw_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    int ret = node_co_open_file(n, o, err);

    if (ret == 0) {
        n->size = node_file(n)->size;
    }
    return ret;
}

static int raw_probe(const uint8_t *buf, size_t len)
{
    return 1;
}

static CO_FN int raw_co_preadv(struct node *n, uint64_t off, struct iov iov,
                               unsigned flags)
{
    return node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN int raw_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    return node_co_pwritev(node_file(n), off, iov, flags);
}

const struct node_driver test_raw_driver = {
    .name = "raw",
    .kind = NODE_FORMAT,
    .probe = raw_probe,
    .co_open = raw_co_open,
    .co_preadv = raw_co_preadv,
    .co_pwritev = raw_co_pwritev,
};

/* --- pass: a filter --- */

struct passthrough_state {
    bool gate; /* hold reads until drained */
    struct co_queue held;
    unsigned quiesced;
};

static CO_FN int passthrough_co_open(struct node *n, struct opts *o,
                                     unsigned flags, GError **err)
{
    struct passthrough_state *s = n->state;

    opts_take_bool(o, "gate", &s->gate, NULL);
    return node_co_open_file(n, o, err);
}

static CO_FN int passthrough_co_preadv(struct node *n, uint64_t off,
                                       struct iov iov, unsigned flags)
{
    struct passthrough_state *s = n->state;

    while (s->gate && !s->quiesced) {
        co_queue_co_wait(&s->held);
    }
    return node_co_preadv(node_file(n), off, iov, flags);
}

static CO_FN void passthrough_co_quiesce(struct node *n)
{
    struct passthrough_state *s = n->state;

    s->quiesced++;
    co_queue_wake_all(&s->held);
}

static void passthrough_resume(struct node *n)
{
    ((struct passthrough_state *)n->state)->quiesced--;
}

const struct node_driver passthrough_driver = {
    .name = "pass",
    .kind = NODE_FILTER,
    .state_size = sizeof(struct passthrough_state),
    .co_open = passthrough_co_open,
    .co_preadv = passthrough_co_preadv,
    .co_quiesce = passthrough_co_quiesce,
    .resume = passthrough_resume,
};

static CO_FN int nbd_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    char *address = NULL;

    opts_take_str(o, "filename", &address, NULL);
    err_set(err, ECONNREFUSED, "nbd got '%s'", address);
    g_free(address);
    return -ECONNREFUSED;
}

static const char *const nbd_prefixes[] = { "nbd:", "nbd+unix:", NULL };

/* Says what it was asked for, and fails. */
static const struct node_driver test_nbd_driver = {
    .name = "nbd",
    .kind = NODE_PROTOCOL,
    .name_prefixes = nbd_prefixes,
    .co_open = nbd_co_open,
};

const struct node_driver *const fake_drivers[] = {
    &fake_driver,
    &ram_driver,
    &test_file_driver,
    &test_raw_driver,
    &passthrough_driver,
    &test_nbd_driver,
    NULL,
};

/* --- the world --- */

void fake_run(void (*fn)(void *arg), void *arg)
{
    struct loop_options opts = { .engine = IO_ENGINE_THREADS, .workers = 2 };

    run_with(&opts, fn, arg);
}

struct graph *fake_graph(void)
{
    return graph_new(co_loop(co_self()), fake_drivers);
}

PRINTF_LIKE(2, 0)
static CO_FN int fake_co_open_va(struct graph *g, const char *fmt, va_list ap,
                                 struct node **ret, GError **err)
{
    char *text = g_strdup_vprintf(fmt, ap);
    json_error_t jerr;
    json_t *o;
    int r;

    g_strdelimit(text, "'", '"');
    o = json_loads(text, 0, &jerr);
    if (!o) {
        g_error("%s: %s", text, jerr.text);
    }
    r = node_co_open(g, o, NODE_RDWR, ret, err);
    json_decref(o);
    g_free(text);
    return r;
}

struct node *fake_co_open(struct graph *g, const char *json_format, ...)
{
    struct node *n = NULL;
    GError *err = NULL;
    va_list ap;

    va_start(ap, json_format);
    fake_co_open_va(g, json_format, ap, &n, &err);
    va_end(ap);
    g_assert_no_error(err);
    return n;
}

char *fake_co_open_fails(struct graph *g, const char *json_format, ...)
{
    struct node *n = NULL;
    GError *err = NULL;
    va_list ap;
    char *text, *message;
    int r;

    va_start(ap, json_format);
    r = fake_co_open_va(g, json_format, ap, &n, &err);
    va_end(ap);
    g_assert_cmpint(r, <, 0);
    g_assert_nonnull(err);
    message = err_dup_message(err);
    g_test_message("%s", message);
    text = g_strconcat(message, err_get_hint(err) ? " / " : NULL,
                       err_get_hint(err), NULL);
    g_free(message);
    g_error_free(err);
    return text;
}

struct backend *fake_co_backend(struct node *n, unsigned perm, unsigned shared)
{
    struct backend *u = NULL;
    GError *err = NULL;

    backend_co_new(n, "test", perm, shared, NULL, NULL, &u, &err);
    g_assert_no_error(err);
    return u;
}

void fake_co_write(struct backend *u, uint64_t off, uint64_t len, int fill)
{
    struct iovec store;
    void *buf = g_malloc(len);

    memset(buf, fill, len);
    g_assert_cmpint(backend_co_pwritev(u, off, iov_one(&store, buf, len), 0),
                    ==, 0);
    g_free(buf);
}

void fake_co_expect(struct backend *u, uint64_t off, uint64_t len, int fill)
{
    struct iovec store;
    uint8_t *buf = g_malloc(len);

    memset(buf, 0x5a, len);
    g_assert_cmpint(backend_co_preadv(u, off, iov_one(&store, buf, len), 0), ==,
                    0);
    for (uint64_t i = 0; i < len; i++) {
        if (buf[i] != (uint8_t)fill) {
            g_error("byte %" G_GUINT64_FORMAT " is %02x, not %02x", off + i,
                    buf[i], (unsigned)fill);
        }
    }
    g_free(buf);
}

void fake_co_wait(const bool *flag)
{
    for (int i = 0; i < 1000 && !*flag; i++) {
        co_sleep(1000000);
    }
    g_assert_true(*flag);
}
