/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "cache": keeps what was read from a base that does not change in a file
 * on this host, for all overlays that have the filter as their backing file.
 *
 * Blocks are read whole.  While one is under way, and until it is in the file,
 * whoever wants it waits for it: each is fetched once, however many ask.  The
 * file is cache-store.h's; whatever goes wrong with it costs another fetch and
 * nothing else.
 */
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "filter/cache/cache-store.h"
#include "filter/filter.h"
#include "graph/driver.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"
#include "loop/parallel.h"
#include "wire/cache-file.h"

#define LIMIT_DEFAULT (UINT64_C(1) << 30)
#define BLOCK_DEFAULT 65536u
/* One fetch, and one read of the file. */
#define PIECE_MAX (1u << 20)
/* Pieces of one request at once. */
#define PARALLEL 16
/* Bytes that are fetched or on their way into the file. */
#define BUDGET (32u << 20)

/* Blocks that are being fetched, or are on their way into the file. */
struct fetch {
    struct node *node;
    uint64_t block;
    unsigned n;
    uint8_t *buf;
    size_t len;
    bool is_ready;
    int ret;       /* when ready */
    unsigned refs; /* who uses @buf */
    struct co_queue waiters;
};

struct cache_state {
    struct cache_store *store;
    uint32_t block_bits;
    GHashTable *fetches; /* block -> fetch */
    uint64_t bytes;      /* of all fetches */
    struct co_queue room;
    struct co_latch keeping;
};

static const char *const cache_option_names[] = { "file",         "path",
                                                  "size",         "block-size",
                                                  "base-version", NULL };

/* --- fetches --- */

static struct fetch *fetch_find(const struct cache_state *s, uint64_t block)
{
    return g_hash_table_lookup(s->fetches, GSIZE_TO_POINTER(block));
}

static void fetch_unlist(struct cache_state *s, struct fetch *f)
{
    for (unsigned i = 0; i < f->n; i++) {
        g_hash_table_remove(s->fetches, GSIZE_TO_POINTER(f->block + i));
    }
}

static void fetch_unref(struct fetch *f)
{
    struct cache_state *s = f->node->state;

    if (--f->refs == 0) {
        s->bytes -= f->len;
        io_buf_put(f->buf, f->len);
        g_free(f);
        co_queue_wake_all(&s->room);
    }
}

/* NULL: no memory. */
static struct fetch *fetch_new(struct node *n, uint64_t block, unsigned blocks)
{
    struct cache_state *s = n->state;
    uint64_t off = block << s->block_bits;
    size_t len = MIN((size_t)blocks << s->block_bits, n->size - off);
    uint8_t *buf = io_buf_get(len);
    struct fetch *f;

    if (!buf) {
        return NULL;
    }
    f = g_new0(struct fetch, 1);
    f->node = n;
    f->block = block;
    f->n = blocks;
    f->buf = buf;
    f->len = len;
    f->refs = 1;
    s->bytes += len;
    for (unsigned i = 0; i < blocks; i++) {
        g_hash_table_insert(s->fetches, GSIZE_TO_POINTER(block + i), f);
    }
    return f;
}

static CO_FN void fetch_keep_entry(void *arg)
{
    struct fetch *f = arg;
    struct cache_state *s = f->node->state;

    cache_store_co_write(s->store, f->block, f->n, f->buf);
    fetch_unlist(s, f);
    fetch_unref(f);
    co_latch_done(&s->keeping);
}

/* Read it, and let it go into the file. The caller keeps its reference. */
static CO_FN int fetch_co_run(struct fetch *f, unsigned flags)
{
    struct node *n = f->node;
    struct cache_state *s = n->state;
    struct iovec v;

    f->ret = node_co_preadv(node_file(n), f->block << s->block_bits,
                            iov_one(&v, f->buf, f->len), flags);
    f->is_ready = true;
    if (f->ret < 0 || cache_store_is_off(s->store)) {
        fetch_unlist(s, f);
    } else {
        f->refs++;
        co_latch_add(&s->keeping);
        co_start(loop_current(), fetch_keep_entry, f);
    }
    co_queue_wake_all(&f->waiters);
    return f->ret;
}

/* --- reading --- */

static CO_FN int read_co_base(struct node *n, uint64_t off, struct iov dst,
                              unsigned flags)
{
    return node_co_preadv(node_file(n), off, dst, flags);
}

/* From a fetch of somebody else. */
static CO_FN int cache_co_join(struct node *n, struct fetch *f, uint64_t off,
                               struct iov dst, unsigned flags)
{
    const struct cache_state *s = n->state;
    int r;

    f->refs++;
    while (!f->is_ready) {
        co_queue_co_wait(&f->waiters);
    }
    r = f->ret;
    if (r == 0) {
        iov_from_buf(dst, 0, f->buf + (off - (f->block << s->block_bits)),
                     dst.len);
    }
    fetch_unref(f);
    return r < 0 && !has_given_up(r) ? read_co_base(n, off, dst, flags) : r;
}

/* @blocks from @block on are nowhere. */
static CO_FN int read_co_fetch(struct node *n, uint64_t block, unsigned blocks,
                               uint64_t off, struct iov dst, unsigned flags)
{
    const struct cache_state *s = n->state;
    struct fetch *f = fetch_new(n, block, blocks);
    int r;

    if (!f) {
        return read_co_base(n, off, dst, flags);
    }
    r = fetch_co_run(f, flags);
    if (r == 0) {
        iov_from_buf(dst, 0, f->buf + (off - (block << s->block_bits)),
                     dst.len);
    }
    fetch_unref(f);
    return r;
}

/* From the file, as far as it is what it was: *@ret_done bytes. */
static CO_FN int read_co_store(struct node *n, uint64_t block, unsigned blocks,
                               uint64_t off, struct iov dst, size_t *ret_done)
{
    const struct cache_state *s = n->state;
    size_t len = (size_t)blocks << s->block_bits;
    uint8_t *buf = io_buf_get(len);
    uint64_t end;
    unsigned good;

    if (!buf) {
        return -ENOMEM;
    }
    cache_store_co_read(s->store, block, blocks, buf, &good);
    end = (block + good) << s->block_bits;
    *ret_done = good ? MIN(dst.len, end - off) : 0;
    iov_from_buf(dst, 0, buf + (off - (block << s->block_bits)), *ret_done);
    io_buf_put(buf, len);
    return 0;
}

/* Blocks from @block on, at most @max, that neither the file has nor anybody
 * fetches. */
static unsigned missing_run(const struct cache_state *s, uint64_t block,
                            unsigned max)
{
    unsigned n = 0;

    while (n < max && !fetch_find(s, block + n) &&
           cache_store_run(s->store, block + n, 1) == 0) {
        n++;
    }
    return n;
}

/* The beginning of @dst, by one way: *@ret_done bytes of it. */
static CO_FN int read_co_step(struct node *n, uint64_t off, struct iov dst,
                              unsigned flags, size_t *ret_done)
{
    struct cache_state *s = n->state;
    uint64_t block = off >> s->block_bits;
    unsigned most = PIECE_MAX >> s->block_bits;
    unsigned max = (unsigned)MIN(most, ((off + dst.len - 1) >> s->block_bits) -
                                           block + 1);
    struct fetch *f = fetch_find(s, block);
    unsigned run = f ? f->n - (unsigned)(block - f->block)
                     : cache_store_run(s->store, block, max);
    bool is_stored = !f && run > 0;

    run = run ? run : missing_run(s, block, max);
    *ret_done = MIN(dst.len, ((block + run) << s->block_bits) - off);
    dst = iov_slice(dst, 0, *ret_done);
    if (f) {
        return cache_co_join(n, f, off, dst, flags);
    }
    if (is_stored) {
        return read_co_store(n, block, run, off, dst, ret_done);
    }
    if (s->bytes > 0 && s->bytes + ((size_t)run << s->block_bits) > BUDGET) {
        if (!(flags & IO_BACKGROUND)) {
            return read_co_base(n, off, dst, flags);
        }
        *ret_done = 0; /* look again: somebody else may have fetched it */
        co_queue_co_wait(&s->room);
        return 0;
    }
    return read_co_fetch(n, block, run, off, dst, flags);
}

static CO_FN int read_co_piece(struct node *n, uint64_t off, struct iov dst,
                               unsigned flags)
{
    size_t pos = 0, done = 0;
    int r = 0;

    while (pos < dst.len && r == 0) {
        r = read_co_step(n, off + pos, iov_slice(dst, pos, dst.len - pos),
                         flags, &done);
        pos += done;
    }
    return r;
}

/* A request in pieces that end where fetches do. */
struct split {
    struct node *node;
    uint64_t off, first; /* of the request; of the first piece */
    struct iov iov;
    unsigned flags;
};

static CO_FN int split_co_read(void *arg, unsigned i)
{
    const struct split *sp = arg;
    uint64_t start = MAX(sp->off, sp->first + (uint64_t)i * PIECE_MAX);
    uint64_t end = MIN(sp->off + sp->iov.len,
                       sp->first + ((uint64_t)i + 1) * PIECE_MAX);

    return read_co_piece(sp->node, start,
                         iov_slice(sp->iov, start - sp->off, end - start),
                         sp->flags);
}

static CO_FN int cache_co_preadv(struct node *n, uint64_t off, struct iov iov,
                                 unsigned flags)
{
    struct split sp = {
        .node = n,
        .off = off,
        .first = round_down(off, PIECE_MAX),
        .iov = iov,
        .flags = flags,
    };
    uint64_t pieces = (off + iov.len - sp.first + PIECE_MAX - 1) / PIECE_MAX;

    return pieces == 1 ? read_co_piece(n, off, iov, flags)
                       : parallel_co_for(loop_current(), (unsigned)pieces,
                                         PARALLEL, split_co_read, &sp);
}

/* --- open and close --- */

static void cache_full(void *arg, int error)
{
    struct node *n = arg;
    json_t *data = json_pack("{s:s,s:s}", "node-name", n->name, "reason",
                             g_strerror(-error));

    node_notice(n, "its cache takes nothing more: %s", g_strerror(-error));
    node_event(n, "BLOCK_CACHE_OFF", data);
    json_decref(data);
}

static void cache_damaged(void *arg, uint64_t block)
{
    struct node *n = arg;
    const struct cache_state *s = n->state;
    uint64_t off = block << s->block_bits, len = UINT64_C(1) << s->block_bits;
    json_t *data = json_pack("{s:s,s:I,s:I}", "node-name", n->name, "offset",
                             (json_int_t)off, "len", (json_int_t)len);

    node_event(n, "BLOCK_CACHE_DAMAGED", data);
    json_decref(data);
}

static int take_block_size(struct opts *o, uint32_t *ret_bits, GError **err)
{
    uint64_t bytes = BLOCK_DEFAULT;
    int r = opts_take_size(o, "block-size", &bytes, err);

    if (r >= 0 &&
        (!is_power_of_two(bytes) || bytes < (1u << CACHE_BLOCK_BITS_MIN) ||
         bytes > (1u << CACHE_BLOCK_BITS_MAX))) {
        r = err_set(err, EINVAL,
                    "Parameter 'block-size' expects a power of two from %u to "
                    "%u",
                    1u << CACHE_BLOCK_BITS_MIN, 1u << CACHE_BLOCK_BITS_MAX);
    }
    *ret_bits = (uint32_t)__builtin_ctzll(bytes | (UINT64_C(1) << 63));
    return MIN(r, 0);
}

/* What a file that was filled before must have been filled from. */
static int version_take(struct node *n, struct opts *o, char **ret,
                        GError **err)
{
    g_autofree char *given = NULL, *own = node_version(node_file(n));
    int r = opts_take_str(o, "base-version", &given, err);

    if (r < 0) {
        return r;
    }
    if (own || given) {
        *ret = g_strdup_printf("%s\n%s", own ? own : "", given ? given : "");
    } else {
        node_notice(n, "nothing tells the version of the base: its cache "
                       "begins empty at each start (base-version would tell)");
    }
    return 0;
}

static CO_FN int cache_co_attach(struct node *n, struct opts *o, GError **err)
{
    int r = node_co_open_file(n, o, err);

    if (r < 0) {
        return r;
    }
    if (node_is_writable(node_file(n))) {
        err_set(err, EINVAL, "A cache needs a base that is read-only");
        err_hint(err, "Open it with read-only=on.");
        return -EINVAL;
    }
    n->size = node_file(n)->size;
    return node_co_restrict_file(n, PERM_CONSISTENT_READ,
                                 PERM_WRITE | PERM_RESIZE, err);
}

static CO_FN int cache_co_open_store(struct node *n, struct opts *o,
                                     GError **err)
{
    struct cache_state *s = n->state;
    struct cache_store_options so = {
        .limit = LIMIT_DEFAULT,
        .base_size = n->size,
        .full = cache_full,
        .damaged = cache_damaged,
        .arg = n,
    };
    g_autofree char *path = NULL, *version = NULL;
    int r = opts_take_str(o, "path", &path, err);

    if (r == 0) {
        return opts_missing("path", err);
    }
    if (r < 0 || (r = opts_take_size(o, "size", &so.limit, err)) < 0 ||
        (r = take_block_size(o, &so.block_bits, err)) < 0 ||
        (r = version_take(n, o, &version, err)) < 0) {
        return r;
    }
    so.path = path;
    so.version = version;
    s->block_bits = so.block_bits;
    return cache_store_co_open(&so, &s->store, err);
}

static CO_FN void cache_co_close(struct node *n)
{
    struct cache_state *s = n->state;

    co_latch_co_wait(&s->keeping);
    cache_store_co_close(s->store);
    s->store = NULL;
    g_clear_pointer(&s->fetches, g_hash_table_unref);
}

static CO_FN int cache_co_open(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    struct cache_state *s = n->state;
    int r = cache_co_attach(n, o, err);

    if (r == 0) {
        s->fetches = g_hash_table_new(NULL, NULL);
        r = cache_co_open_store(n, o, err);
    }
    if (r < 0) {
        cache_co_close(n);
    }
    return r;
}

const struct node_driver cache_driver = {
    .name = "cache",
    .kind = NODE_FILTER,
    .state_size = sizeof(struct cache_state),
    .option_names = cache_option_names,
    .co_open = cache_co_open,
    .co_close = cache_co_close,
    .co_preadv = cache_co_preadv,
};
