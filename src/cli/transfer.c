/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Between images at rest.
 *
 * Invariants:
 *  - runs that need copying begin and end at multiples of the unit (the
 *    target's cluster, at least), so no two chunks write into one cluster;
 *  - unless out of order was asked for, a chunk's last write starts after the
 *    first of the chunk before has: formats then lay the disk out in order,
 *    however the reads come back.
 */
#include "cli/transfer.h"

#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "base/math.h"
#include "cli/cli.h"
#include "cli/sparse.h"
#include "graph/io.h"
#include "graph/node.h"
#include "job/copy/copy.h"
#include "loop/co.h"
#include "loop/io.h"

#define SECTOR 512u
#define BLOCK 4096u
#define CHUNK (UINT32_C(1) << 20)
/* Sharing extents costs the same for any length. */
#define CHUNK_COPY_OFFLOAD (UINT32_C(64) << 20)
/* A target without flushes of its own (formats that publish in groups have
 * them) is flushed whenever so much was written, beside the copying: the disk
 * works from the start and the flush at the end finds little to do. */
#define FLUSH_EVERY (UINT64_C(64) << 20)

/* A chunk that waits for its turn to write. */
struct turn {
    struct transfer *transfer;
    struct co_queue wake;
    bool taken;
};

struct transfer {
    const struct transfer_params *p;
    struct percent percent;
    uint64_t data, data_done; /* bytes to copy, for percent; 0: not counted */
    uint32_t unit;            /* bytes, a power of two */
    unsigned write_flags;     /* enum io_flags */
    GQueue turns;             /* struct turn, by offset */
    uint64_t bad_status;      /* where the last question of status failed */
    uint64_t unflushed;       /* bytes written since the last flush began */
    struct co_latch flushing;
    int flush_error;
};

/* --- the sources as one disk --- */

/* The source that holds byte @off of the disk; *@ret_off is where in it,
 * *@ret_len how much follows there. NULL: past the end of all. */
static struct node *source_at(const struct transfer *t, uint64_t off,
                              uint64_t *ret_off, uint64_t *ret_len)
{
    uint64_t max = t->p->limit ? t->p->limit : UINT64_MAX;

    if (off >= max) {
        *ret_len = UINT64_MAX;
        return NULL;
    }
    max -= off;
    off += t->p->skip;
    for (unsigned i = 0; i < t->p->n_sources; i++) {
        struct node *n = t->p->sources[i];
        uint64_t size = round_up(node_size(n), SECTOR);

        if (off < size) {
            *ret_off = off;
            *ret_len = MIN(max, size - off);
            return n;
        }
        off -= size;
    }
    *ret_len = UINT64_MAX;
    return NULL;
}

/* Read one range of one source; what lies in the padding of its last sector
 * is zero. */
static CO_FN int source_co_read_one(struct node *n, uint64_t off, uint8_t *buf,
                                    size_t len)
{
    size_t have = off < node_size(n) ? MIN(len, node_size(n) - off) : 0;
    struct iovec store;

    memset(buf + have, 0, len - have);
    return have ? node_co_preadv(n, off, iov_one(&store, buf, have), 0) : 0;
}

static CO_FN int source_co_read(struct transfer *t, uint64_t off, uint8_t *buf,
                                size_t len)
{
    int r = 0;

    while (len > 0 && r == 0) {
        uint64_t at = 0, room;
        struct node *n = source_at(t, off, &at, &room);
        size_t step = MIN(len, room);

        if (n) {
            r = source_co_read_one(n, at, buf, step);
        } else {
            memset(buf, 0, step);
        }
        off += step;
        buf += step;
        len -= step;
    }
    return r;
}

/* Read in ever smaller pieces and put zeroes where a sector cannot be read. */
static CO_FN void source_co_salvage(struct transfer *t, uint64_t off,
                                    uint8_t *buf, size_t len)
{
    size_t piece = len > BLOCK * 16 ? BLOCK * 16 : len > BLOCK ? BLOCK : SECTOR;

    for (size_t at = 0; at < len; at += piece) {
        size_t step = MIN(piece, len - at);
        int r = source_co_read(t, off + at, buf + at, step);

        if (r < 0 && step > SECTOR) {
            source_co_salvage(t, off + at, buf + at, step);
        } else if (r < 0) {
            cli_warning("error while reading offset %" PRIu64 ": %s", off + at,
                        g_strerror(-r));
            memset(buf + at, 0, step);
        }
    }
}

/* --- what needs copying --- */

enum part { PART_DATA, PART_ZERO, PART_BACKING };

/* What a target with a backing file makes of a run of the source. */
static enum part part_over_backing(const struct transfer *t,
                                   const struct extent *ext, uint64_t off)
{
    if (ext->flags & STATUS_ZERO && !(ext->flags & STATUS_DATA)) {
        /* Past the end of the backing file there are zeroes already. */
        return off >= t->p->backing_size ? PART_BACKING : PART_ZERO;
    }
    return ext->depth ? PART_DATA : PART_BACKING;
}

/* The kind of the run at @off; *@ret_len <= @max. */
static CO_FN int part_co_at(struct transfer *t, uint64_t off, uint64_t max,
                            enum part *ret_part, uint64_t *ret_len)
{
    uint64_t at = 0, room;
    struct node *n = source_at(t, off, &at, &room);
    struct extent ext;

    *ret_len = MIN(max, room);
    *ret_part = PART_ZERO;
    if (!n || at >= node_size(n)) {
        return 0;
    }
    if (t->p->has_backing && off < t->p->backing_size) {
        *ret_len = MIN(*ret_len, t->p->backing_size - off);
    }
    int r = node_co_status_above(n, t->p->base, at, *ret_len, &ext);
    if (r < 0) {
        if (t->p->salvage) {
            *ret_len = MIN(*ret_len, t->unit);
            *ret_part = PART_DATA;
            return 0;
        }
        return r;
    }
    *ret_len = ext.len;
    if (at + ext.len == node_size(n)) {
        *ret_len = MIN(MIN(max, room), round_up(ext.len, SECTOR));
    }
    if (t->p->has_backing) {
        *ret_part = part_over_backing(t, &ext, off);
    } else if (!(ext.flags & STATUS_ZERO)) {
        *ret_part = PART_DATA;
    }
    return 0;
}

/* The run from @off, a multiple of the unit, in whole units: of one kind, or
 * data because a unit holds several. */
static CO_FN int part_co_units(struct transfer *t, uint64_t off, uint64_t max,
                               enum part *ret_part, uint64_t *ret_len)
{
    uint64_t len;
    int r = part_co_at(t, off, max, ret_part, &len);

    if (r < 0) {
        return r;
    }
    while (len < max) {
        enum part next;
        uint64_t more;

        /* What cannot be told there is for the next question. */
        if (part_co_at(t, off + len, max - len, &next, &more) < 0 ||
            next != *ret_part) {
            break;
        }
        len += more;
        if (len >= CHUNK) {
            break;
        }
    }
    if (len < max && *ret_part == PART_DATA) {
        len = MIN(max, round_up(len, t->unit));
    } else if (len < max) {
        len = round_down(len, t->unit);
    }
    if (len == 0) {
        *ret_part = PART_DATA;
        len = MIN(max, t->unit);
    }
    *ret_len = len;
    return 0;
}

static CO_FN int transfer_co_scan(void *arg, uint64_t off, uint64_t max,
                                  bool *ret_need, bool *ret_zero,
                                  uint64_t *ret_len)
{
    struct transfer *t = arg;
    enum part part = PART_DATA;

    t->bad_status = UINT64_MAX;
    int r = part_co_units(t, off, max, &part, ret_len);
    if (r < 0) {
        t->bad_status = off;
    }
    *ret_zero = part == PART_ZERO && t->p->sparse;
    *ret_need = part == PART_DATA || !t->p->sparse ||
                (part == PART_ZERO && !t->p->target_is_zero);
    if (part == PART_BACKING) {
        *ret_need = false;
    }
    return r;
}

/* --- writing --- */

static void turn_take(struct transfer *t, struct turn *turn)
{
    *turn = (struct turn) { .transfer = t, .taken = !t->p->out_of_order };
    if (turn->taken) {
        g_queue_push_tail(&t->turns, turn);
    }
}

static CO_FN void turn_co_wait(struct turn *turn)
{
    while (turn->taken && g_queue_peek_head(&turn->transfer->turns) != turn) {
        co_queue_co_wait(&turn->wake);
    }
}

static void turn_end(struct turn *turn)
{
    struct transfer *t = turn->transfer;
    struct turn *next;

    if (turn->taken) {
        turn->taken = false;
        g_queue_remove(&t->turns, turn);
        next = g_queue_peek_head(&t->turns);
        if (next) {
            co_queue_wake_all(&next->wake);
        }
    }
}

static CO_FN void flush_entry(void *arg)
{
    struct transfer *t = arg;
    int r = node_co_flush(t->p->target);

    t->flush_error = t->flush_error ? t->flush_error : r;
    co_latch_done(&t->flushing);
}

static void target_wrote(struct transfer *t, uint64_t len)
{
    t->unflushed += len;
    if (t->unflushed >= FLUSH_EVERY && !t->flushing.count &&
        !node_can(t->p->target, NODE_CAN_HAVE_BACKING)) {
        t->unflushed = 0;
        co_latch_add(&t->flushing);
        co_start(graph_loop(node_graph(t->p->target)), flush_entry, t);
    }
}

static CO_FN int target_co_zero(struct transfer *t, uint64_t off, uint64_t len)
{
    return t->p->target_is_zero
               ? 0
               : node_co_zero(t->p->target, off, len, IO_MAY_UNMAP);
}

/* Write what is not zero, and zeroes where the target needs to be told. */
static CO_FN int target_co_write(struct transfer *t, struct turn *turn,
                                 uint64_t off, uint8_t *buf, size_t len)
{
    size_t unit = MIN(t->unit, BLOCK);
    int r = 0;

    if (t->p->sparse && t->p->sparse < unit) {
        unit = SECTOR;
    }
    unit = MAX(unit, node_get_limits(t->p->target)->cluster_size);
    if (t->p->compressed) {
        unit = t->unit;
    }
    for (size_t at = 0; at < len && r == 0;) {
        size_t step = len - at;
        struct iovec store;
        bool zero = false;

        if (t->p->sparse) {
            step = sparse_run(buf + at, len - at, unit, t->p->sparse, &zero);
        }
        if (at + step == len) {
            turn_end(turn);
        }
        r = zero ? target_co_zero(t, off + at, step)
                 : node_co_pwritev(t->p->target, off + at,
                                   iov_one(&store, buf + at, step),
                                   t->write_flags);
        at += step;
    }
    return r;
}

static CO_FN int transfer_co_copy_data(struct transfer *t, uint64_t off,
                                       uint8_t *buf, size_t len,
                                       struct copy_result *res)
{
    struct turn turn;
    int r;

    turn_take(t, &turn);
    r = source_co_read(t, off, buf, len);
    if (r < 0 && t->p->salvage) {
        source_co_salvage(t, off, buf, len);
        r = 0;
    }
    res->is_read = r < 0;
    if (r == 0) {
        turn_co_wait(&turn);
        r = target_co_write(t, &turn, off, buf, len);
    }
    if (r == 0) {
        res->copied = len;
        target_wrote(t, len);
    }
    turn_end(&turn);
    return r;
}

static CO_FN int transfer_co_copy_by_hand(struct transfer *t, uint64_t off,
                                          uint64_t len, struct copy_result *res)
{
    uint8_t *buf = io_buf_get(len);
    if (!buf) {
        return -ENOMEM;
    }
    int r = transfer_co_copy_data(t, off, buf, len, res);
    io_buf_put(buf, len);
    return r;
}

/* Let the file system do it, run by run; what it cannot goes by hand. */
static CO_FN int transfer_co_copy_offload(struct transfer *t, uint64_t off,
                                          uint64_t len, struct copy_result *res)
{
    int r = 0;

    while (len > 0 && r == 0) {
        uint64_t at = 0, room, done = 0;
        struct node *n = source_at(t, off, &at, &room);

        room = MIN(room, len);
        if (n &&
            node_co_copy_range(n, at, t->p->target, off, room, &done) < 0) {
            done = 0;
        }
        res->copied += done;
        if (done == 0) {
            struct copy_result part = { 0 };

            done = MIN(len, MAX(CHUNK, t->unit));
            r = transfer_co_copy_by_hand(t, off, done, &part);
            res->copied += part.copied;
            res->is_read = part.is_read;
        }
        off += done;
        len -= done;
    }
    return r;
}

static CO_FN int transfer_co_copy(void *arg, uint64_t off, uint64_t len,
                                  bool zero, struct copy_result *res)
{
    struct transfer *t = arg;
    int r;

    if (zero) {
        return target_co_zero(t, off, len);
    }
    r = t->p->copy_offload ? transfer_co_copy_offload(t, off, len, res)
                           : transfer_co_copy_by_hand(t, off, len, res);
    if (r == 0 && t->data) {
        t->data_done += len;
        percent_update(&t->percent, t->data_done, t->data);
    }
    return r;
}

/* --- the rest of what the engine asks --- */

/* How much data there is to copy: what -p shows is a part of that, since holes
 * take no time. What cannot be told now fails later. */
static CO_FN uint64_t transfer_co_count(struct transfer *t)
{
    uint64_t sum = 0, len;
    bool need, zero;

    for (uint64_t off = 0; off < t->p->size; off += len) {
        if (transfer_co_scan(t, off, t->p->size - off, &need, &zero, &len) <
            0) {
            break;
        }
        sum += need && !zero ? len : 0;
    }
    return sum;
}

static void transfer_progress(void *arg, uint64_t offset)
{
    struct transfer *t = arg;

    if (!t->data) {
        percent_update(&t->percent, offset, t->p->size);
    }
}

static CO_FN int transfer_co_error(void *arg, uint64_t off, bool is_read,
                                   int errnum)
{
    struct transfer *t = arg;

    percent_end(&t->percent);
    if (off == t->bad_status) {
        cli_error("error while reading block status at offset %" PRIu64 ": %s",
                  off, g_strerror(errnum));
    } else {
        cli_error("error while %s at byte %" PRIu64 ": %s",
                  is_read ? "reading" : "writing", off, g_strerror(errnum));
    }
    return -errnum;
}

static CO_FN int transfer_co_pause_point(void *arg)
{
    return 0;
}

static const struct copy_ops transfer_ops = {
    .co_scan = transfer_co_scan,
    .co_copy = transfer_co_copy,
    .progress = transfer_progress,
    .co_error = transfer_co_error,
    .co_pause_point = transfer_co_pause_point,
};

static CO_FN int transfer_co_flush(struct transfer *t)
{
    int r;

    co_latch_co_wait(&t->flushing);
    r = t->flush_error ? t->flush_error : node_co_flush(t->p->target);
    if (r < 0) {
        cli_error("error while flushing '%s': %s", node_filename(t->p->target),
                  g_strerror(-r));
    }
    return r;
}

CO_FN int transfer_co_run(struct graph *g, const struct transfer_params *p)
{
    const struct node_limits *l = node_get_limits(p->target);
    uint32_t unit = p->compressed ? l->compressed_unit : l->cluster_size;
    struct transfer t = {
        .p = p,
        .unit = MAX(unit, BLOCK),
        .turns = G_QUEUE_INIT,
        .write_flags = p->compressed ? IO_COMPRESSED : 0,
        .bad_status = UINT64_MAX,
    };
    struct copy_params cp = {
        .end = p->size,
        .chunk = MAX(p->copy_offload ? CHUNK_COPY_OFFLOAD : CHUNK, t.unit),
        .cluster = t.unit,
        .speed = p->rate,
        .window_max = p->parallel * (uint64_t)MAX(CHUNK, t.unit),
    };
    struct copy *c = copy_new(graph_loop(g), &transfer_ops, &t, &cp);
    int r;

    percent_begin(&t.percent, p->progress);
    t.data = p->progress ? transfer_co_count(&t) : 0;
    r = copy_co_run(c);
    copy_free(c);
    if (r == 0) {
        percent_finish(&t.percent);
        r = transfer_co_flush(&t);
    }
    co_latch_co_wait(&t.flushing);
    percent_end(&t.percent);
    return r;
}
