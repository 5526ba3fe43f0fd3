/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copy engine.  One coroutine plans, one scans (scan.c), one per chunk in
 * flight copies.
 *
 * Invariants:
 *  - chunks stand in `chunks` in order of offset from their start until they
 *    and all before them are done: the head is the end of the done prefix;
 *  - a chunk that failed stays there; nothing new starts until everything in
 *    flight has come back, then the errors are handled, lowest first.  So what
 *    `progress` says at the end is exactly the end of the last good chunk;
 *  - the planner alone calls co_pause_point() and co_error(), so a pause or a
 *    cancel never waits for anything but what is in flight.
 */
#include "job/copy/copy.h"
#include <errno.h>
#include <glib.h>
#include <math.h>
#include "base/bucket.h"
#include "base/math.h"
#include "base/memory-budget.h"
#include "graph/background.h"
#include "job/copy/scan.h"
#include "job/trace.h"
#include "job/copy/window.h"
#include "loop/co.h"
#include "loop/loop.h"

#define DEFAULT_CHUNK (UINT32_C(1) << 20)
#define DEFAULT_CLUSTER (UINT32_C(64) << 10)
#define DEFAULT_WINDOW (UINT64_C(64) << 20)
/* A failed chunk is tried again in pieces of this size, so that progress ends
 * where the error is, as QEMU's users expect. */
#define ERROR_PIECE (UINT64_C(512) << 10)
/* Zeroes are metadata: long chunks, a few at a time, none in the window. */
#define ZERO_CHUNK (UINT64_C(64) << 20)
#define ZERO_MAX 4
/* Once extents were shared longer chunks save calls. */
#define SHARED_CHUNK (UINT64_C(16) << 20)
#define CHUNKS_MAX 256
/* What held the copy back longer ago than this counts half. */
#define HOLD_HALF_NS (500 * UINT64_C(1000000))

struct chunk {
    struct copy *copy;
    uint64_t off, len;
    uint64_t piece;   /* what to leave behind if the error is ignored */
    uint64_t charged; /* of the window */
    struct window_mark mark;
    bool zero, done, is_read;
    int error;
};
struct copy {
    struct loop *loop;
    const struct copy_ops *ops;
    void *arg;
    struct copy_params p;
    struct scan scan;
    struct window window;
    struct bucket bucket;
    struct memory_member memory; /* joined while it runs */
    GQueue chunks;               /* struct chunk, by offset */
    uint64_t planned;            /* everything below is done or in `chunks` */
    uint64_t in_flight;          /* bytes charged to the window */
    unsigned busy, busy_zero, failed;
    bool shares; /* the last chunk was shared by the file system */
    uint64_t copied;
    double read_ns, write_ns;        /* of chunks, lately */
    double held_ns[JOB_BOTTLENECKS]; /* of waiting, lately */
    uint64_t held_at_ns;
    struct co_queue wake;
};

struct copy *copy_new(struct loop *l, const struct copy_ops *ops, void *arg,
                      const struct copy_params *p)
{
    struct copy *c = g_new0(struct copy, 1);

    c->loop = l;
    c->ops = ops;
    c->arg = arg;
    c->p = *p;
    c->p.cluster = p->cluster ? p->cluster : DEFAULT_CLUSTER;
    c->p.chunk = MAX(p->chunk ? p->chunk : DEFAULT_CHUNK, c->p.cluster);
    c->p.window_max = p->window_max ? p->window_max : DEFAULT_WINDOW;
    c->bucket.rate = p->speed;
    c->memory.kind = MEMORY_COPY;
    g_queue_init(&c->chunks);
    return c;
}

void copy_free(struct copy *c)
{
    if (c) {
        g_assert(!c->busy && g_queue_is_empty(&c->chunks));
        g_free(c);
    }
}

uint64_t copy_window(const struct copy *c)
{
    return MIN(window_limit(&c->window), memory_share(&c->memory));
}

uint64_t copy_copied(const struct copy *c)
{
    return c->copied;
}

void copy_kick(struct copy *c)
{
    co_queue_wake_all(&c->wake);
}

void copy_set_speed(struct copy *c, uint64_t speed)
{
    c->p.speed = speed;
    bucket_set_rate(&c->bucket, speed, loop_clock_ns(c->loop));
    copy_kick(c);
}

static void copy_progress(struct copy *c)
{
    uint64_t offset;
    struct chunk *ch;

    while ((ch = g_queue_peek_head(&c->chunks)) && ch->done) {
        g_free(g_queue_pop_head(&c->chunks));
    }
    offset = ch ? ch->off : c->planned;
    if (c->p.background) {
        background_set_remaining(c->p.background, c->p.end - offset);
    }
    c->ops->progress(c->arg, offset);
}

/* --- what holds it back --- */

enum job_bottleneck copy_held_by(const struct copy *c)
{
    enum job_bottleneck most = JOB_HELD_BY_SOURCE;

    for (unsigned i = 0; i < JOB_BOTTLENECKS; i++) {
        most = c->held_ns[i] > c->held_ns[most] ? i : most;
    }
    return most;
}

/* The side that chunks spend more of their time with. */
static enum job_bottleneck slower_side(const struct copy *c)
{
    return c->write_ns > c->read_ns ? JOB_HELD_BY_TARGET : JOB_HELD_BY_SOURCE;
}

static void hold_add(struct copy *c, enum job_bottleneck why, uint64_t ns)
{
    uint64_t now = loop_clock_ns(c->loop);
    double fade = exp2(-(double)(now - c->held_at_ns) / (double)HOLD_HALF_NS);

    for (unsigned i = 0; i < JOB_BOTTLENECKS; i++) {
        c->held_ns[i] *= fade;
    }
    c->held_ns[why] += (double)ns;
    c->held_at_ns = now;
}

/* --- one chunk --- */

/* Find where in the chunk the error is: the part before is done, ch->piece is
 * what failed, and what follows has not been tried.  An error that does not come
 * again counts all the same, of the whole chunk: the user's policy decides. */
static CO_FN int chunk_co_narrow(struct chunk *ch, int first)
{
    struct copy *c = ch->copy;
    uint64_t piece = MAX(ERROR_PIECE, c->p.cluster);
    uint64_t off = ch->off, end = ch->off + ch->len;

    ch->piece = ch->len;
    if (ch->len <= piece || first == -ERESTART) {
        return first;
    }
    while (off < end) {
        uint64_t len = MIN(end - off, piece - off % piece);
        struct copy_result res = { 0 };
        int ret = c->ops->co_copy(c->arg, off, len, ch->zero, &res);

        c->copied += res.copied;
        if (ret < 0) {
            ch->is_read = res.is_read;
            ch->off = off;
            ch->len = end - off;
            ch->piece = len;
            return ret;
        }
        off += len;
    }
    return first;
}

static CO_FN void chunk_entry(void *arg)
{
    struct chunk *ch = arg;
    struct copy *c = ch->copy;
    struct copy_result res = { 0 };
    uint64_t len = ch->len;
    int ret;

    ret = c->ops->co_copy(c->arg, ch->off, ch->len, ch->zero, &res);
    c->copied += res.copied;
    if (!ch->zero) {
        if (ret == 0 && res.copied < len) {
            bucket_give_back(&c->bucket, len - res.copied);
        }
        if (ret == 0 && res.copied == 0) {
            window_not_full(&c->window);
        }
        c->shares = res.shared == len;
        c->read_ns += ((double)res.read_ns - c->read_ns) / 8;
        c->write_ns += ((double)res.write_ns - c->write_ns) / 8;
        window_done(&c->window, &ch->mark, len, loop_clock_ns(c->loop));
    }
    if (ret < 0) {
        ch->is_read = res.is_read;
        ret = chunk_co_narrow(ch, ret);
    }
    if (!ch->zero && c->p.background) {
        background_end(c->p.background, len, res.copied - res.shared);
    }
    trace_copy_chunk(ch->off, ch->len, ch->zero, ret, copy_window(c));
    c->in_flight -= ch->charged;
    memory_give(&c->memory, ch->charged);
    c->busy--;
    c->busy_zero -= ch->zero;
    ch->error = ret < 0 ? ret : 0;
    ch->done = ret >= 0;
    c->failed += ret < 0;
    copy_progress(c);
    co_queue_wake_all(&c->wake);
}

static void chunk_start(struct chunk *ch)
{
    struct copy *c = ch->copy;

    ch->error = 0;
    ch->charged = ch->zero ? 0 : ch->len;
    c->in_flight += ch->charged;
    memory_take(&c->memory, ch->charged);
    c->busy++;
    c->busy_zero += ch->zero;
    if (!ch->zero) {
        ch->mark = window_sent(&c->window, ch->len, loop_clock_ns(c->loop));
        bucket_take(&c->bucket, ch->len, loop_clock_ns(c->loop));
        if (c->p.background) {
            background_begin(c->p.background, ch->len);
        }
    }
    co_start(c->loop, chunk_entry, ch);
}

/* --- planning --- */

static uint64_t plan_len(const struct copy *c, const struct scan_run *run)
{
    uint64_t chunk = c->p.chunk, unit = UINT64_MAX;

    if (run->kind == SCAN_ZERO) {
        chunk = MAX(ZERO_CHUNK, chunk);
        return MIN(run->len, chunk - run->off % chunk);
    }
    if (c->p.background) {
        unit = MAX(background_unit(c->p.background), c->p.cluster);
    }
    if (c->shares && !c->p.speed && unit > LIMIT_UNIT_MAX) {
        chunk = MAX(SHARED_CHUNK, chunk);
    } else {
        unit = MIN(unit, MAX(round_down(memory_share(&c->memory), c->p.cluster),
                             c->p.cluster));
        unit = MIN(unit, MAX(window_piece(&c->window), c->p.cluster));
        chunk = bucket_request_size(c->p.speed, c->p.cluster, MIN(chunk, unit));
    }
    return MIN(run->len, chunk - run->off % chunk);
}

static void plan_chunk(struct copy *c, const struct scan_run *run)
{
    struct chunk *ch = g_new0(struct chunk, 1);

    ch->copy = c;
    ch->off = run->off;
    ch->len = plan_len(c, run);
    ch->zero = run->kind == SCAN_ZERO;
    c->planned = ch->off + ch->len;
    g_queue_push_tail(&c->chunks, ch);
    scan_take(&c->scan, ch->len);
    chunk_start(ch);
}

/* May a chunk of @run go now? If not, *@ret_why says what is waited for, and
 * *@ret_wait_ns how long; 0: until something comes back. */
static bool plan_may_send(struct copy *c, const struct scan_run *run,
                          uint64_t *ret_wait_ns, enum job_bottleneck *ret_why)
{
    uint64_t len = plan_len(c, run);

    if (c->busy >= CHUNKS_MAX) {
        return false;
    }
    if (run->kind == SCAN_ZERO) {
        return c->busy_zero < ZERO_MAX;
    }
    if ((c->in_flight && c->in_flight + len > window_limit(&c->window)) ||
        !memory_has_room(&c->memory, len)) {
        return false;
    }
    *ret_why = JOB_HELD_BY_LIMIT;
    *ret_wait_ns = bucket_wait_ns(&c->bucket, loop_clock_ns(c->loop));
    if (*ret_wait_ns == 0 && c->p.background) {
        *ret_why = background_is_limited(c->p.background) ? JOB_HELD_BY_GUEST
                                                          : slower_side(c);
        *ret_wait_ns = background_wait_ns(c->p.background);
    }
    if (*ret_wait_ns == 0) {
        return true;
    }
    /* A queue that is full at the storage is what the window looks for; a rate
     * that is held says nothing about the window. */
    if (*ret_why == JOB_HELD_BY_LIMIT || *ret_why == JOB_HELD_BY_GUEST) {
        window_not_full(&c->window);
    }
    return false;
}

static CO_FN void copy_co_sleep(struct copy *c, uint64_t ns,
                                enum job_bottleneck why)
{
    uint64_t since = loop_clock_ns(c->loop);

    if (ns) {
        co_queue_co_wait_until(&c->wake, since + ns);
    } else {
        co_queue_co_wait(&c->wake);
    }
    hold_add(c, why, loop_clock_ns(c->loop) - since);
}

/* --- errors; nothing is in flight --- */

/* What to do about one: 0 = go on behind it, -EAGAIN = try again, and now is
 * the time (a job that was stopped has been resumed), other = give up. */
static CO_FN int copy_co_ask(struct copy *c, uint64_t off, bool is_read,
                             int error)
{
    int ret = c->ops->co_error(c->arg, off, is_read, -error);
    int pause = ret == -EAGAIN ? c->ops->co_pause_point(c->arg) : 0;

    return pause < 0 ? pause : ret;
}

static struct chunk *first_failed(const struct copy *c)
{
    for (GList *l = c->chunks.head; l; l = l->next) {
        struct chunk *ch = l->data;

        if (ch->error) {
            return ch;
        }
    }
    return NULL;
}

static void restart_failed(struct copy *c)
{
    for (GList *l = c->chunks.head; l; l = l->next) {
        struct chunk *ch = l->data;

        if (ch->error) {
            chunk_start(ch);
        }
    }
    c->failed = 0;
}

static CO_FN int copy_co_failed_chunks(struct copy *c)
{
    struct chunk *ch;
    int ret;

    while ((ch = first_failed(c))) {
        ret = copy_co_ask(c, ch->off, ch->is_read, ch->error);
        if (ret == -EAGAIN) {
            restart_failed(c);
            return 0;
        }
        if (ret < 0) {
            return ret;
        }
        ch->off += ch->piece;
        ch->len -= ch->piece;
        ch->error = 0;
        c->failed--;
        if (ch->len) {
            chunk_start(ch); /* and then the next error */
            copy_progress(c);
            return 0;
        }
        ch->done = true;
        copy_progress(c);
    }
    return 0;
}

static CO_FN int copy_co_failed_scan(struct copy *c, const struct scan_run *run)
{
    uint64_t off = run->off;
    int ret;

    ret = copy_co_ask(c, off, true, run->error);
    if (ret == 0) {
        off += MIN(c->p.end - off, c->p.chunk - off % c->p.chunk);
        c->planned = off;
    } else if (ret != -EAGAIN) {
        return ret;
    }
    scan_resume_at(&c->scan, off);
    copy_progress(c);
    return 0;
}

/* --- the loop --- */

/* One decision. 0 = go on, 1 = all is done, -errno = give up. */
static CO_FN int copy_co_step(struct copy *c)
{
    const struct scan_run *run = scan_peek(&c->scan);
    enum job_bottleneck why = slower_side(c);
    uint64_t wait_ns = 0;

    if (c->failed) {
        if (!c->busy) {
            return copy_co_failed_chunks(c);
        }
    } else if (!run) {
        if (scan_finished(&c->scan) && !c->busy) {
            return 1;
        }
        window_not_full(&c->window);
        why = c->busy ? why : JOB_HELD_BY_SOURCE;
    } else if (run->kind == SCAN_SKIP) {
        c->planned = run->off + run->len;
        scan_take(&c->scan, run->len);
        copy_progress(c);
        return 0;
    } else if (run->kind == SCAN_ERROR) {
        if (!c->busy) {
            return copy_co_failed_scan(c, run);
        }
    } else if (plan_may_send(c, run, &wait_ns, &why)) {
        plan_chunk(c, run);
        return 0;
    }
    copy_co_sleep(c, wait_ns, why);
    return 0;
}

CO_FN int copy_co_run(struct copy *c)
{
    struct chunk *ch;
    int ret;

    c->planned = c->p.start;
    window_init(&c->window, c->p.chunk, c->p.window_max, c->p.is_far,
                loop_clock_ns(c->loop));
    memory_join(c->p.memory, &c->memory);
    scan_start(&c->scan, c->loop, c->ops, c->arg, c->p.start, c->p.end,
               &c->wake);
    do {
        ret = c->ops->co_pause_point(c->arg);
        if (ret == 0) {
            ret = copy_co_step(c);
        }
    } while (ret == 0);
    while (c->busy) {
        co_queue_co_wait(&c->wake);
    }
    memory_leave(&c->memory);
    scan_co_stop(&c->scan);
    while ((ch = g_queue_pop_head(&c->chunks))) {
        g_free(ch);
    }
    c->failed = 0;
    return ret < 0 ? ret : 0;
}
