/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine of the simulated machine: its clock and the order of completions.
 *
 * Requests are given a time of completion when they come; wait() moves the
 * clock to the earliest and completes that one alone, so that coroutines run
 * between any two.  Ties are broken by order of submission.  Nothing depends
 * on real time, addresses or hash order.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "loop/loop-priv.h"
#include "sim/sim-priv.h"

#define START_NS 1000000000u /* not 0: deadlines of 0 are past */
#define SPIN_NS 1000u        /* what a turn of relaxing coroutines takes */
#define FIRST_FD 1000000     /* no system's descriptor */
#define STALL_SECONDS 20

/* splitmix64 */
static uint64_t sim_random(struct sim *s)
{
    uint64_t z = s->rng += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void sim_handle_free(void *p)
{
    struct sim_handle *h = p;

    g_free(h->path);
    g_free(h);
}

static int sim_init(struct loop *l, const struct loop_options *opts,
                    GError **err)
{
    struct sim *s = g_new0(struct sim, 1);

    s->now_ns = START_NS;
    s->rng = opts->custom_seed;
    s->pending = g_ptr_array_new_with_free_func(g_free);
    s->live = sim_image_new();
    s->block = 512;
    s->handles = g_hash_table_new_full(NULL, NULL, NULL, sim_handle_free);
    s->last_fd = FIRST_FD;
    s->locks = g_array_new(FALSE, FALSE, sizeof(struct sim_lock));
    s->log_on = true;
    s->log = g_ptr_array_new_with_free_func(sim_record_free);
    s->faults = g_array_new(FALSE, FALSE, sizeof(struct sim_fault));
    for (int op = 0; op < SIM_OP_COUNT; op++) {
        sim_set_latency(s, (enum sim_op)op, 5000, 100000);
    }
    sim_set_latency(s, SIM_READ, 10000, 200000);
    sim_set_latency(s, SIM_WRITE, 10000, 500000);
    sim_set_latency(s, SIM_FDATASYNC, 100000, 2000000);
    sim_set_latency(s, SIM_FSYNC, 100000, 3000000);
    pthread_mutex_init(&s->wake_lock, NULL);
    pthread_cond_init(&s->wake_cond, NULL);
    l->engine_state = s;
    return 0;
}

static void sim_done(struct loop *l)
{
    struct sim *s = l->engine_state;

    g_assert(s->pending->len == 0);
    sim_faults_clear(s);
    g_array_unref(s->faults);
    g_ptr_array_unref(s->log);
    g_array_unref(s->locks);
    g_hash_table_destroy(s->handles);
    sim_image_free(s->live);
    g_ptr_array_unref(s->pending);
    pthread_cond_destroy(&s->wake_cond);
    pthread_mutex_destroy(&s->wake_lock);
    g_free(s);
}

struct sim *loop_sim(struct loop *l)
{
    return l->engine == &engine_sim ? l->engine_state : NULL;
}

/* Whatever fault is due for @p, and count it down. */
static void sim_pick_fault(struct sim *s, struct sim_pending *p)
{
    for (unsigned i = 0; i < s->faults->len; i++) {
        struct sim_fault *f = &g_array_index(s->faults, struct sim_fault, i);

        if (f->op != p->rec->op || !f->nth ||
            (f->path && g_strcmp0(f->path, p->rec->path))) {
            continue;
        }
        if (f->nth > 1) {
            f->nth--;
            continue;
        }
        f->nth = f->sticky; /* 1 goes on, 0 is spent */
        p->fault = f->err ? -f->err : p->fault;
        p->lands = f->lands;
        p->short_len = f->short_len ? f->short_len : p->short_len;
        p->due_ns += f->delay_ns;
    }
}

void sim_set_disk(struct sim *s, const struct sim_disk *d)
{
    g_assert(d->channels <= SIM_CHANNELS_MAX && d->spread < 100);
    g_assert(!d->channels || d->bytes_per_s);
    s->disk = *d;
}

/* When a transfer of @len bytes is over: the channel that is free first takes
 * it. */
static uint64_t disk_due_ns(struct sim *s, uint64_t len)
{
    const struct sim_disk *d = &s->disk;
    uint64_t *first = &s->channel_free_ns[0];
    double ns = (double)d->request_ns +
                (double)len * 1e9 * d->channels / (double)d->bytes_per_s;
    double part = (double)(sim_random(s) % 2001) / 1000 - 1; /* -1 .. 1 */

    for (unsigned i = 1; i < d->channels; i++) {
        if (s->channel_free_ns[i] < *first) {
            first = &s->channel_free_ns[i];
        }
    }
    *first = MAX(*first, s->now_ns) +
             (uint64_t)(ns * (1 + part * d->spread / 100));
    return *first;
}

/* Without faults. */
static uint64_t sim_due_ns(struct sim *s, const struct io_req *r,
                           enum sim_op op)
{
    uint64_t min = s->latency[op].min_ns;
    uint64_t span = s->latency[op].max_ns - min + 1;

    return s->disk.channels && (op == SIM_READ || op == SIM_WRITE)
               ? disk_due_ns(s, r->len)
               : s->now_ns + min + sim_random(s) % span;
}

static void sim_submit(struct loop *l, struct io_req *r)
{
    struct sim *s = l->engine_state;
    struct sim_pending *p = g_new0(struct sim_pending, 1);
    enum sim_op op;

    p->req = r;
    p->rec = sim_record_new(s, r);
    op = p->rec->op;
    if (op == SIM_OPEN && (r->flags & O_CREAT) &&
        !sim_image_find(s->live, r->path)) {
        p->rec->op = op = SIM_CREATE;
    }
    p->rec->submitted = ++s->instant;
    p->logged = s->log_on && op != SIM_READ && op != SIM_OTHER;
    if (p->logged) {
        g_ptr_array_add(s->log, p->rec);
    }
    s->count[op]++;
    p->due_ns = sim_due_ns(s, r, op);
    sim_pick_fault(s, p);
    g_ptr_array_add(s->pending, p);
}

static void sim_finish(struct sim *s, unsigned i)
{
    struct sim_pending *p = g_ptr_array_steal_index(s->pending, i);
    int64_t result = p->fault && !p->lands ? p->fault : sim_apply(s, p);

    result = p->fault ? p->fault : result;
    p->rec->completed = ++s->instant;
    p->rec->result = result;
    io_req_complete(p->req, result);
    if (!p->logged) {
        sim_record_free(p->rec);
    }
    g_free(p);
}

/* Index of what completes first; false when nothing is under way. */
static bool sim_earliest(struct sim *s, unsigned *ret_i)
{
    uint64_t due = UINT64_MAX;

    for (unsigned i = 0; i < s->pending->len; i++) {
        struct sim_pending *p = g_ptr_array_index(s->pending, i);

        if (p->due_ns < due) {
            due = p->due_ns;
            *ret_i = i;
        }
    }
    return s->pending->len > 0;
}

bool sim_is_pending(const struct sim *s, uint64_t instant)
{
    for (unsigned i = 0; i < s->pending->len; i++) {
        const struct sim_pending *p = g_ptr_array_index(s->pending, i);

        if (p->rec->submitted <= instant) {
            return true;
        }
    }
    return false;
}

/* Nothing can happen of itself any more: only another thread can help. */
static void sim_stall(struct loop *l)
{
    struct sim *s = l->engine_state;
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += STALL_SECONDS;
    pthread_mutex_lock(&s->wake_lock);
    while (!s->woken) {
        if (pthread_cond_timedwait(&s->wake_cond, &s->wake_lock, &until)) {
            g_error("The simulation stands still: %u coroutines wait, "
                    "no request and no timer is under way",
                    co_count(l));
        }
    }
    s->woken = false;
    pthread_mutex_unlock(&s->wake_lock);
}

static bool sim_take_wake(struct sim *s)
{
    bool woken;

    pthread_mutex_lock(&s->wake_lock);
    woken = s->woken;
    s->woken = false;
    pthread_mutex_unlock(&s->wake_lock);
    return woken;
}

static void sim_wait(struct loop *l, int64_t timeout_ns)
{
    struct sim *s = l->engine_state;
    uint64_t limit = timeout_ns < 0 ? UINT64_MAX
                                    : s->now_ns + (uint64_t)timeout_ns;
    struct sim_pending *p = NULL;
    unsigned i = 0;

    if (timeout_ns == 0 && !l->ready.head && l->relaxed.head) {
        limit += SPIN_NS;
    } else if (timeout_ns != 0 && sim_take_wake(s)) {
        return;
    }
    if (sim_earliest(s, &i)) {
        p = g_ptr_array_index(s->pending, i);
    }
    if (p && p->due_ns <= limit) {
        s->now_ns = MAX(s->now_ns, p->due_ns);
        sim_finish(s, i);
    } else if (limit != UINT64_MAX) {
        s->now_ns = limit;
    } else {
        sim_stall(l);
    }
}

static void sim_wake(struct loop *l)
{
    struct sim *s = l->engine_state;

    pthread_mutex_lock(&s->wake_lock);
    s->woken = true;
    pthread_cond_signal(&s->wake_cond);
    pthread_mutex_unlock(&s->wake_lock);
}

static void sim_cancel(struct loop *l, struct io_req *r)
{
    /* Polls are refused; there is never one to cancel. */
}

static uint64_t sim_clock(struct loop *l)
{
    return ((struct sim *)l->engine_state)->now_ns;
}

void sim_shuffle(struct loop *l, unsigned percent, uint64_t seed)
{
    struct sim *s = loop_sim(l);

    s->shuffle = percent;
    s->shuffle_state = seed;
}

/* xorshift64* */
static bool shuffle_roll(struct sim *s)
{
    uint64_t x = s->shuffle_state | 1;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    s->shuffle_state = x;
    return (x * 0x2545f4914f6cdd1du >> 32) % 100 < s->shuffle;
}

static bool sim_runs_first(struct loop *l)
{
    struct sim *s = l->engine_state;

    return s->shuffle && shuffle_roll(s);
}

const struct io_engine engine_sim = {
    .name = "sim",
    .init = sim_init,
    .done = sim_done,
    .submit = sim_submit,
    .cancel = sim_cancel,
    .wait = sim_wait,
    .wake = sim_wake,
    .clock = sim_clock,
    .date = sim_clock,
    .runs_first = sim_runs_first,
    .has_own_files = true,
};
