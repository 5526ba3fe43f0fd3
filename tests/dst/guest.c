/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Guests: what they ask of the disk, and the judgement of every answer.
 *
 * A guest comes, works for a while with several requests in flight, leaves in
 * one of several ways and comes again, until it has asked what its seed says.
 */
#include <inttypes.h>
#include <string.h>
#include "export/nbd/nbd-int.h"
#include "guest.h"

enum { HOT_BYTES = 64 << 10, SWEEP = 128 << 10, RETRY_MS = 20 };

static const char *const op_names[G_OPS] = {
    [G_READ] = "read",     [G_WRITE] = "write", [G_ZERO] = "zero",
    [G_TRIM] = "trim",     [G_FLUSH] = "flush", [G_CACHE] = "cache",
    [G_STATUS] = "status",
};
static const uint16_t op_cmds[G_OPS] = {
    [G_READ] = NBD_CMD_READ,           [G_WRITE] = NBD_CMD_WRITE,
    [G_ZERO] = NBD_CMD_WRITE_ZEROES,   [G_TRIM] = NBD_CMD_TRIM,
    [G_FLUSH] = NBD_CMD_FLUSH,         [G_CACHE] = NBD_CMD_CACHE,
    [G_STATUS] = NBD_CMD_BLOCK_STATUS,
};

static bool op_changes(enum guest_op op)
{
    return op == G_WRITE || op == G_ZERO || op == G_TRIM;
}

void request_free(void *p)
{
    struct request *r = p;

    g_free(r->buf);
    g_free(r);
}

/* --- answers --- */

/* Errors are for disks that fail, and for exports that are being removed. */
static void judge_error(struct request *r)
{
    struct world *w = r->conn->w;
    bool trouble = r->phase == 1 || w->broken;

    if (r->error == NBD_ESHUTDOWN && (w->cfg.exports || r->conn->silent)) {
        return;
    }
    if ((r->error == NBD_EIO || r->error == NBD_ENOSPC) && trouble) {
        for (int i = 0; i < F_KINDS; i++) {
            if (w->cfg.fault[i] && i != F_BASE_HANG && i != F_BASE_SLOW &&
                (i < F_COPY_WRITE || copies_moved(w) || w->breaks_guests)) {
                return;
            }
        }
    }
    fail(w, "g%u: %s %" PRIu64 "+%u fails with %u and nothing was wrong",
         r->conn->i, op_names[r->op], r->h.offset, r->h.len, r->error);
}

static void judge_status(struct request *r, const uint8_t *extents, size_t len)
{
    struct guest_conn *c = r->conn;
    uint64_t off = r->h.offset;

    if (len < NBD_EXTENT_SIZE) {
        fail(c->w, "g%u: block status says nothing", c->i);
    }
    for (size_t i = 0; i + NBD_EXTENT_SIZE <= len; i += NBD_EXTENT_SIZE) {
        uint32_t n = GUINT32_FROM_BE(
            *(const uint32_t *)(const void *)(extents + i));
        uint32_t flags = GUINT32_FROM_BE(
            *(const uint32_t *)(const void *)(extents + i + 4));
        uint64_t end = MIN(off + n, r->h.offset + r->h.len);
        g_autofree char *why = NULL;

        if (n == 0) {
            fail(c->w, "g%u: empty extent", c->i);
        }
        if (off < end && (flags & NBD_STATE_ZERO) &&
            !model_check_zero(c->w->model, r->since, off, end - off, &why)) {
            fail(c->w, "g%u: status of %" PRIu64 "+%u says zero: %s", c->i,
                 r->h.offset, r->h.len, why);
        }
        off += n;
    }
}

static void judge_read(struct request *r)
{
    struct guest_conn *c = r->conn;
    g_autofree char *why = NULL;

    if (r->got != r->h.len) {
        fail(c->w, "g%u: read of %u bytes brought %" PRIu64, c->i, r->h.len,
             r->got);
    }
    if (!model_check_read(c->w->model, r->since, r->h.offset, r->buf, r->h.len,
                          &why)) {
        fail(c->w, "g%u: read %" PRIu64 "+%u (sent at %.3f ms): %s", c->i,
             r->h.offset, r->h.len, (double)r->sent_ns / 1e6, why);
    }
}

static uint32_t digest(const uint8_t *p, size_t len)
{
    uint64_t h = 0, word;

    for (size_t i = 0; i + 8 <= len; i += 8) {
        memcpy(&word, p + i, 8);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
    }
    return (uint32_t)(h >> 32);
}

void request_answered(struct request *r, const uint8_t *extents, size_t len)
{
    struct guest_conn *c = r->conn;
    struct world *w = c->w;

    story(w, "g%u < %s %" PRIu64 "+%u: %u (%08x)", c->i, op_names[r->op],
          r->h.offset, r->h.len, r->error,
          r->op == G_READ && !r->error ? digest(r->buf, r->h.len)
                                       : digest(extents, len));
    c->last_error = r->error;
    if (r->error) {
        judge_error(r);
    } else if (r->op == G_READ) {
        judge_read(r);
    } else if (r->op == G_STATUS) {
        judge_status(r, extents, len);
    } else if (r->op == G_FLUSH) {
        model_flushed(w->model, r->since);
    }
    if (op_changes(r->op)) {
        model_end(w->model, &r->change, !r->error,
                  (r->h.flags & NBD_CMD_FLAG_FUA) || w->cfg.writethrough);
    }
    g_ptr_array_remove(c->requests, r);
}

void guest_lose(struct guest_conn *c)
{
    for (unsigned k = 0; k < c->requests->len; k++) {
        struct request *r = c->requests->pdata[k];

        if (op_changes(r->op)) {
            model_lost(c->w->model, &r->change);
        }
    }
}

static bool is_served(const struct guest_conn *c)
{
    return c->w->server && g_queue_find(&c->w->server->conns, c->served_by);
}

void guests_collect(struct world *w)
{
    for (unsigned i = 0; i < w->guests->len; i++) {
        struct guest_conn *c = w->guests->pdata[i];

        if (!c->closed || is_served(c)) {
            continue;
        }
        for (unsigned k = 0; k < c->requests->len; k++) {
            struct request *r = c->requests->pdata[k];

            if (op_changes(r->op)) {
                model_end(w->model, &r->change, false, false);
            }
        }
        g_ptr_array_unref(c->requests);
        g_free(c->export_name);
        g_free(c);
        g_ptr_array_remove_index(w->guests, i--);
    }
}

uint64_t guests_oldest(struct world *w, char **ret_text)
{
    uint64_t now = loop_clock_ns(w->loop), age = 0;

    *ret_text = NULL;
    for (unsigned i = 0; i < w->guests->len; i++) {
        struct guest_conn *c = w->guests->pdata[i];

        for (unsigned k = 0; k < c->requests->len; k++) {
            struct request *r = c->requests->pdata[k];

            if (now - r->sent_ns > age) {
                age = now - r->sent_ns;
                g_free(*ret_text);
                *ret_text = g_strdup_printf(
                    "g%u %s %" PRIu64 "+%u%s", c->i, op_names[r->op],
                    r->h.offset, r->h.len, c->closed ? " (left)" : "");
            }
        }
    }
    return age;
}

/* --- requests --- */

static uint32_t pick_len(struct rng *r, enum guest_op op)
{
    static const uint32_t most[] = { 512, 4096, 4096, 16384, 65536, 262144 };
    uint32_t max = most[rng_below(r, G_N_ELEMENTS(most))];

    if (op == G_ZERO || op == G_TRIM || op == G_STATUS) {
        max *= 4;
    }
    return SECTOR + rng_below(r, max / SECTOR) * SECTOR;
}

/* A range of the disk: aligned to a sector, a cluster or nothing. */
static void pick_range(struct guest_conn *c, enum guest_op op, uint64_t *off,
                       uint32_t *len)
{
    struct rng *r = &c->rng;
    const struct config *cfg = &c->w->cfg;
    uint64_t span = c->size;

    *len = pick_len(r, op);
    if (rng_percent(r, cfg->hot)) {
        span = MIN(span, HOT_BYTES);
    }
    *len = (uint32_t)MIN(*len, span);
    *off = rng_below(r, (span - *len) / SECTOR + 1) * (uint64_t)SECTOR;
    if (rng_percent(r, 20)) {
        *off -= *off % cfg->cluster[L_TOP];
    }
    if (rng_percent(r, 5)) {
        *off = c->size - *len;
    }
    if (rng_percent(r, cfg->unaligned)) {
        *off += rng_below(r, SECTOR);
        *off = MIN(*off, c->size - 1);
        *len -= rng_below(r, SECTOR);
        *len = (uint32_t)MIN(*len, c->size - *off);
    }
}

static enum guest_op pick_op(struct guest_conn *c)
{
    const unsigned *weight = c->w->cfg.weight;
    unsigned sum = 0, at;

    for (int i = 0; i < G_OPS; i++) {
        sum += weight[i];
    }
    at = rng_below(&c->rng, sum);
    for (int i = 0; i < G_OPS; i++) {
        if (at < weight[i]) {
            return i;
        }
        at -= weight[i];
    }
    g_assert_not_reached();
}

/* The bytes that pattern @id has in the range. */
static uint8_t *make_payload(uint64_t id, uint64_t off, uint32_t len)
{
    uint64_t first = off / SECTOR, n = (off + len - 1) / SECTOR - first + 1;
    uint8_t *all = g_malloc(n * SECTOR);

    for (uint64_t i = 0; i < n; i++) {
        model_pattern(id, first + i, all + i * SECTOR);
    }
    memmove(all, all + off % SECTOR, len);
    return all;
}

static struct request *request_new(struct guest_conn *c, enum guest_op op,
                                   uint64_t off, uint32_t len)
{
    struct request *r = g_new0(struct request, 1);

    r->conn = c;
    r->op = op;
    r->h.cmd = op_cmds[op];
    r->h.cookie = ++c->last_cookie;
    r->h.offset = off;
    r->h.len = len;
    r->phase = c->w->phase;
    r->sent_ns = loop_clock_ns(c->w->loop);
    if (op == G_READ) {
        r->buf = g_malloc(len);
    }
    return r;
}

static void request_begin(struct request *r)
{
    struct guest_conn *c = r->conn;
    struct world *w = c->w;

    if (op_changes(r->op)) {
        r->change = (struct change) {
            .id = r->op == G_WRITE ? world_new_id(w) : 0,
            .trim = r->op == G_TRIM,
            .off = r->h.offset,
            .len = r->h.len,
        };
        if (r->op == G_WRITE) {
            r->buf = make_payload(r->change.id, r->h.offset, r->h.len);
        }
        if (rng_percent(&c->rng, w->cfg.fua)) {
            r->h.flags |= NBD_CMD_FLAG_FUA;
        }
        if (r->op == G_ZERO && rng_percent(&c->rng, 30)) {
            r->h.flags |= NBD_CMD_FLAG_NO_HOLE;
        }
        model_begin(w->model, &r->change);
    }
    w->asked++;
    r->since = model_now(w->model);
    g_ptr_array_add(c->requests, r);
    story(w, "g%u > %s %" PRIu64 "+%u%s id %" PRIu64, c->i, op_names[r->op],
          r->h.offset, r->h.len, r->h.flags & NBD_CMD_FLAG_FUA ? " fua" : "",
          r->change.id);
}

/* Ask for something. -errno: the connection is lost. */
static CO_FN int ask_co(struct guest_conn *c)
{
    enum guest_op op = pick_op(c);
    uint64_t off = 0;
    uint32_t len = 0;
    struct request *r;

    if ((op_changes(op) && (c->flags & NBD_FLAG_READ_ONLY)) ||
        (op == G_STATUS && !c->meta)) {
        op = G_READ;
    }
    if (op != G_FLUSH) {
        pick_range(c, op, &off, &len);
    }
    if (op_changes(op) && !model_has_room(c->w->model, off, len)) {
        op = G_READ;
    }
    r = request_new(c, op, off, len);
    request_begin(r);
    return guest_co_send(c, r);
}

/* --- a guest's life --- */

struct guest {
    struct world *w;
    unsigned i, left;
    struct rng rng;
};

static CO_FN void work_co(struct guest *g, struct guest_conn *c, unsigned n)
{
    while (n-- > 0 && g->left > 0 && !c->lost) {
        while (c->requests->len >= g->w->cfg.window && !c->lost) {
            co_queue_co_wait(&c->changed);
        }
        if (rng_percent(&g->rng, 15)) {
            co_sleep(rng_below(&g->rng, 10 * MS));
        }
        g->left--;
        if (c->lost || ask_co(c) < 0) {
            break;
        }
        if (rng_percent(&g->rng, g->w->cfg.leave)) {
            break;
        }
    }
}

/* Until everything is answered, or the connection gone. */
static CO_FN void wait_co(struct guest_conn *c)
{
    while (c->requests->len > 0 && !c->lost) {
        co_queue_co_wait(&c->changed);
    }
}

static CO_FN void leave_co(struct guest *g, struct guest_conn *c)
{
    bool vanish = rng_percent(&g->rng, 40) && g->w->cfg.leave;

    if (vanish && g->w->cfg.crowd && rng_percent(&g->rng, 60)) {
        /* The server finds nobody gone until it looks. */
        guest_fall_silent(c);
        co_sleep(rng_below(&g->rng, SEC));
    } else if (!vanish) {
        if (rng_percent(&g->rng, 70)) {
            wait_co(c);
        }
        guest_co_disconnect(c);
        while (!c->lost) {
            co_queue_co_wait(&c->changed);
        }
    }
    story(g->w, "g%u %s, %u unanswered", g->i, vanish ? "vanishes" : "leaves",
          c->requests->len);
    guest_co_close(c);
}

static size_t pick_capacity(struct rng *r)
{
    static const size_t sizes[] = { 7, 100, 4096, 65536, 65536, 1 << 20 };

    return sizes[rng_below(r, G_N_ELEMENTS(sizes))];
}

static CO_FN void guest_entry(void *arg)
{
    struct guest *g = arg;
    struct world *w = g->w;

    while (g->left > 0) {
        const char *name = rng_percent(&g->rng, 15) ? "e2" : "e1";
        struct guest_conn *c = guest_co_connect(w, g->i, name,
                                                pick_capacity(&g->rng));

        if (!c) {
            if (w->managed) {
                world_co_export(w);
            }
            co_sleep(RETRY_MS * MS);
            continue;
        }
        if (rng_percent(&g->rng, 15)) {
            c->slow_ms = rng_below(&g->rng, 30);
        }
        guest_read_start(c);
        work_co(g, c, 5 + rng_below(&g->rng, 200));
        leave_co(g, c);
        guests_collect(w);
    }
    co_latch_done(&w->busy);
    g_free(g);
}

void guest_start(struct world *w, unsigned i)
{
    struct guest *g = g_new0(struct guest, 1);

    g->w = w;
    g->i = i;
    g->left = w->cfg.ops / w->cfg.guests + 1;
    g->rng.state = rng_next(&w->rng);
    co_latch_add(&w->busy);
    co_start(w->loop, guest_entry, g);
}

/* --- the last guest --- */

static CO_FN void ask_and_wait_co(struct guest_conn *c, enum guest_op op,
                                  uint64_t off, uint32_t len)
{
    struct request *r = request_new(c, op, off, len);

    request_begin(r);
    if (guest_co_send(c, r) == 0) {
        wait_co(c);
    }
    if (c->lost) {
        fail(c->w, "g%u: the server drops a guest that did nothing", c->i);
    }
}

int guest_co_sweep(struct world *w, bool flush_only)
{
    struct guest_conn *c;
    int ret;

    while (!(c = guest_co_connect(w, 99, "e1", 1 << 20))) {
        world_co_export(w);
        co_sleep(RETRY_MS * MS);
    }
    guest_read_start(c);
    ask_and_wait_co(c, G_FLUSH, 0, 0);
    ret = -(int)c->last_error;
    for (uint64_t off = 0; off < c->size && !flush_only; off += SWEEP) {
        uint32_t len = (uint32_t)MIN(SWEEP, c->size - off);

        ask_and_wait_co(c, G_READ, off, len);
        if (c->meta) {
            ask_and_wait_co(c, G_STATUS, off, len);
        }
    }
    guest_co_disconnect(c);
    while (!c->lost) {
        co_queue_co_wait(&c->changed);
    }
    guest_co_close(c);
    return ret;
}

void guests_free(struct world *w)
{
    guests_collect(w);
    if (w->guests->len > 0) {
        fail(w, "the server holds %u connections of guests that left",
             w->guests->len);
    }
    g_ptr_array_unref(w->guests);
}
