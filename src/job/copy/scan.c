/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The scanner of a copy; see scan.h. */
#include "job/copy/scan.h"
#include <glib.h>

/* Status that comes from memory never yields; be a good neighbour anyway. */
#define RELAX_EVERY 32

static void scan_push(struct scan *s, const struct scan_run *run)
{
    struct scan_run *last;

    if (s->count) {
        last = &s->ring[(s->head + s->count - 1) % SCAN_RUNS];
        if (last->kind == run->kind && last->off + last->len == run->off &&
            run->kind != SCAN_ERROR) {
            last->len += run->len;
            co_queue_wake_all(s->news);
            return;
        }
    }
    g_assert(s->count < SCAN_RUNS);
    s->ring[(s->head + s->count) % SCAN_RUNS] = *run;
    s->count++;
    co_queue_wake_all(s->news);
}

static CO_FN void scan_co_one(struct scan *s)
{
    struct scan_run run = { .off = s->pos };
    bool need = false, zero = false;
    int ret;

    ret = s->ops->co_scan(s->arg, s->pos, s->end - s->pos, &need, &zero,
                          &run.len);
    if (s->stop) {
        return;
    }
    if (ret < 0) {
        run = (struct scan_run) { s->pos, 0, SCAN_ERROR, ret };
        s->failed = true;
    } else {
        g_assert(run.len > 0 && run.len <= s->end - s->pos);
        run.kind = !need ? SCAN_SKIP : zero ? SCAN_ZERO : SCAN_DATA;
        s->pos += run.len;
    }
    scan_push(s, &run);
}

static CO_FN void scan_entry(void *arg)
{
    struct scan *s = arg;
    unsigned n = 0;

    while (!s->stop && (s->failed || s->pos < s->end)) {
        if (s->failed || s->count == SCAN_RUNS) {
            co_queue_co_wait(&s->room);
            continue;
        }
        scan_co_one(s);
        if (++n % RELAX_EVERY == 0) {
            co_relax();
        }
    }
    s->running = false;
    co_queue_wake_all(s->news);
}

void scan_start(struct scan *s, struct loop *l, const struct copy_ops *ops,
                void *arg, uint64_t start, uint64_t end, struct co_queue *news)
{
    s->ops = ops;
    s->arg = arg;
    s->pos = start;
    s->end = end;
    s->head = s->count = 0;
    s->running = true;
    s->stop = s->failed = false;
    s->room = (struct co_queue) { 0 };
    s->news = news;
    co_start(l, scan_entry, s);
}

const struct scan_run *scan_peek(const struct scan *s)
{
    return s->count ? &s->ring[s->head] : NULL;
}

static void scan_pop(struct scan *s)
{
    s->head = (s->head + 1) % SCAN_RUNS;
    s->count--;
    co_queue_wake_all(&s->room);
}

void scan_take(struct scan *s, uint64_t len)
{
    struct scan_run *run = &s->ring[s->head];

    g_assert(s->count > 0 && run->kind != SCAN_ERROR && len <= run->len);
    run->off += len;
    run->len -= len;
    if (run->len == 0) {
        scan_pop(s);
    }
}

bool scan_finished(const struct scan *s)
{
    return !s->running && s->count == 0;
}

void scan_resume_at(struct scan *s, uint64_t pos)
{
    g_assert(s->count == 1 && s->ring[s->head].kind == SCAN_ERROR);
    s->pos = pos;
    s->failed = false;
    scan_pop(s);
}

CO_FN void scan_co_stop(struct scan *s)
{
    s->stop = true;
    co_queue_wake_all(&s->room);
    while (s->running) {
        co_queue_co_wait(s->news);
    }
}
