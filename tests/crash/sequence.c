/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sequences of operations.
 *
 * A sequence is a string of letters, each an operation; with '|' before it an
 * operation begins without waiting for the one before.  Small letters have
 * fixed places, so that sequences can be enumerated; capitals at the end of the
 * table draw theirs from the seed.  After '~' an operation runs on in the
 * background while the others go on one after the other.
 */
#include "guest.h"
#include <string.h>
#include "base/err.h"
#include "graph/driver.h"
#include "graph/model/early.h"
#include "loop/loop.h"

struct task {
    struct guest *g;
    struct op *op;
    struct co_latch *latch;
};

static void op_cover(struct guest *g, const struct op *op)
{
    if (op->result < 0) {
        return;
    }
    if (op->fua) {
        cover(COVER_FUA);
    }
    switch (op->kind) {
    case OP_ZERO: cover(COVER_ZERO); break;
    case OP_TRIM: cover(COVER_TRIM); break;
    case OP_STEP:
    case OP_STREAM:
        if (world.job_done > op->begun) {
            cover(op->kind == OP_STEP ? COVER_STREAM_STEP : COVER_STREAM);
        }
        break;
    default: break;
    }
    if (g->running.count > 1) {
        cover(COVER_BESIDE);
    }
}

/* Does anything wait in memory for its base (graph/model/early.h)? */
static bool is_kept(const struct guest *g)
{
    return early_next(node_skip_filters(g->n), 0) != UINT64_MAX;
}

/* May it fail when the base is away?  What covers clusters must not: what is
 * below them is not asked for.  Nor must a flush, when nothing is @kept. */
static bool needs_base(const struct guest *g, const struct op *op, bool kept)
{
    uint64_t cluster = g->o->config->cluster / GRAIN;
    uint64_t end = op->first + op->n;

    if (op->kind == OP_READ) {
        return true;
    }
    if (op->kind == OP_FLUSH || (op->kind == OP_ZERO && op->fua && kept)) {
        return kept;
    }
    return op->first % cluster || (end % cluster && end < g->n->size / GRAIN);
}

static CO_FN void op_entry(void *arg)
{
    struct task *t = arg;
    unsigned i = (unsigned)(t->op - t->g->o->ops);
    uint64_t failed = far_failed();
    bool kept = is_kept(t->g);

    t->op->begun = sim_mark(world.sim, "begin", i);
    t->op->result = guest_co_do(t->g, t->op);
    t->op->ended = sim_mark(world.sim, "end", i);
    if (t->op->result < 0 && t->op->kind <= OP_READ) {
        kept = kept || is_kept(t->g);
        if (!needs_base(t->g, t->op, kept) || far_failed() == failed) {
            g_error("op %u failed: %s", i + 1, g_strerror(-t->op->result));
        }
        cover(COVER_FAR_OP);
    }
    if ((t->op->kind == OP_WAIT || t->op->kind == OP_DRAIN) && is_kept(t->g)) {
        t->op->result = -EAGAIN; /* M9 begins when the base is read */
    }
    op_cover(t->g, t->op);
    co_latch_done(t->latch);
    g_free(t);
}

/* Halves of clusters from the begin of the window; @len 0: to the end of the
 * disk. */
struct letter {
    char letter;
    enum op_kind kind;
    bool fua;
    unsigned window, from, len;
    bool odd; /* a grain later, a grain less */
};
static const struct letter letters[] = {
    { 'a', OP_WRITE, false, 0, 2, 2 }, /* a cluster */
    { 'u', OP_WRITE, false, 0, 3, 2 }, /* across two */
    { 'f', OP_WRITE, true, 1, 3, 2 },  /* FUA, across two tables */
    { 'b', OP_WRITE, false, 1, 2, 4 }, /* two tables */
    { 'e', OP_WRITE, false, 1, 4, 0 }, /* the end of the disk */
    { 'x', OP_ZERO, true, 0, 0, 4 },   /* FUA */
    { 'z', OP_ZERO, false, 0, 2, 4 },
    { 't', OP_TRIM, false, 0, 2, 4 },
    { 'F', OP_FLUSH },
    { 'm', OP_WRITE, true, 1, 4, 0 },        /* the same, FUA */
    { 'v', OP_WRITE, false, 0, 3, 2, true }, /* parts of sectors */
    { 'r', OP_READ, false, 0, 0, 8 },
    { 'q', OP_READ, false, 1, 1, 0 },
    { 'p', OP_STEP },
    { 's', OP_STREAM },
    { 'S', OP_STREAM_BG },
    { 'k', OP_STREAM_TO },
    { 'C', OP_COMMIT },
    { 'M', OP_MERGE },
    { 'V', OP_MOVE },
    { 'O', OP_OVERLAY },
    { 'I', OP_BACKUP },
    { 'd', OP_DRAIN },
    { 'o', OP_REOPEN },
    { 'N', OP_PREPARE },
    { 'n', OP_SNAPSHOT },
    { 'l', OP_FORGET },
    { 'j', OP_RESTORE },
    { 'h', OP_EMPTY, true },
    { 'G', OP_SHRINK },
    { 'y', OP_REPAIR },
    { 'A', OP_AMEND },
    { 'c', OP_CANCEL },
    { 'g', OP_RESIZE },
    { 'w', OP_WAIT },
    { 'W', OP_WAIT },
    { 'X', OP_LEAVE },
    { 'Y', OP_LEAVE }, /* at a request to come */
    { 'R', OP_READ },
    { 'D', OP_WRITE },
    { 'U', OP_WRITE, true },
    { 'Z', OP_ZERO },
    { 'T', OP_TRIM },
};

static const struct letter *letter_find(char ch)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(letters); i++) {
        if (letters[i].letter == ch) {
            return &letters[i];
        }
    }
    g_error("no operation '%c'", ch);
}

static void place_random(struct guest *g, struct op *op, const struct window *w,
                         uint64_t cluster)
{
    unsigned i = (unsigned)g_rand_int_range(g->rnd, 0, N_GUEST_WINDOWS);

    op->first = w[i].first +
                (uint64_t)g_rand_int_range(g->rnd, 0, (gint32)(4 * cluster));
    op->n = (uint64_t)g_rand_int_range(g->rnd, 1, (gint32)(2 * cluster));
    if (op->kind == OP_WRITE && g_rand_boolean(g->rnd)) {
        op->first &= ~UINT64_C(1); /* whole sectors */
        op->n += op->n & 1;
    } else if (op->kind == OP_ZERO || op->kind == OP_TRIM) {
        op->first -= op->first % cluster;
        op->n += cluster - 1;
        op->n -= op->n % cluster;
    }
    if (i == 0) {
        op->n = MIN(op->n, w[0].n - op->first);
    }
}

CO_FN_LOOKS static void place(struct guest *g, const struct letter *l,
                              struct op *op)
{
    const struct crash_config *c = g->o->config;
    uint64_t cluster = c->cluster / GRAIN, end = g->n->size / GRAIN;
    struct window w[N_WINDOWS];

    windows_get(c, w);
    if (l->kind == OP_SHRINK) {
        op->first = 2 * cluster;
        op->n = end - op->first;
        /* The raw file becomes shorter before the disk does. */
        if (g->jobs.count || c->data_raw || world.moved) {
            op->kind = OP_DRAIN; /* not with this one */
        }
        return;
    }
    if (l->kind == OP_EMPTY) {
        struct node *n = node_skip_filters(g->n);

        if (!node_backing(n) || !n->drv->co_make_empty || g->jobs.count ||
            world.over) {
            op->kind = OP_DRAIN; /* not with this one */
            op->fua = false;
        }
        return;
    }
    if (l->kind == OP_FLUSH || l->kind >= OP_STEP) {
        op->n = l->kind == OP_WAIT ? (l->letter == 'W' ? 7000 : 1500) : 0;
        op->n += l->letter == 'Y';
        if (l->kind == OP_RESIZE) {
            op->n = MIN(w[1].first + w[1].n, end + cluster + 2);
        }
        return;
    }
    if (strchr("RDUZT", l->letter)) {
        place_random(g, op, w, cluster);
    } else {
        op->first = w[l->window].first + l->from * cluster / 2;
        op->n = l->len ? l->len * cluster / 2 : end;
        op->first += l->odd;
        op->n -= l->odd;
    }
    op->first = MIN(op->first, end - 1);
    op->n = MIN(op->n, end - op->first);
}

/* Internal snapshots: no job runs then, either. */
static bool is_snapshot(enum op_kind kind)
{
    return kind == OP_SNAPSHOT || kind == OP_FORGET || kind == OP_RESTORE;
}

/* Without whom? */
static bool is_alone(enum op_kind kind)
{
    return kind == OP_REOPEN || kind == OP_EMPTY || kind == OP_SHRINK ||
           kind == OP_MOVE || kind == OP_OVERLAY || is_snapshot(kind);
}

static CO_FN void guest_co_play(struct guest *g, const char *sequence)
{
    bool was_alone = false;

    for (const char *p = sequence; *p; p++) {
        bool beside = *p == '|', behind = *p == '~';
        const struct letter *l = letter_find(*(p += beside || behind));
        struct task *t = g_new(struct task, 1);
        struct op op = { .kind = l->kind, .fua = l->fua };

        if (!(beside || behind) || was_alone || is_alone(l->kind)) {
            co_latch_co_wait(&g->running);
        }
        if (is_alone(l->kind)) {
            co_latch_co_wait(&g->behind);
        }
        if (is_snapshot(l->kind) || l->kind == OP_MOVE ||
            l->kind == OP_OVERLAY) {
            co_latch_co_wait(&g->jobs);
        }
        was_alone = is_alone(l->kind);
        place(g, l, &op);
        *t = (struct task) { g, oracle_add(g->o, &op),
                             behind ? &g->behind : &g->running };
        co_latch_add(t->latch);
        co_start(world.loop, op_entry, t);
    }
    co_latch_co_wait(&g->running);
    co_latch_co_wait(&g->behind);
    co_latch_co_wait(&g->jobs);
}

void world_co_run(const char *sequence, GRand *rnd, struct oracle *o)
{
    struct guest g = { .o = o, .rnd = rnd };
    g_autoptr(GError) err = NULL;

    struct op *close;

    world.job_done = 0;
    if (world_co_open(true, &g.n, &err) < 0 ||
        backend_co_new(g.n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                       &err) < 0) {
        g_error("open: %s", err->message);
    }
    if (o->repaired) { /* whoever opens it does that */
        o->repaired = sim_mark(world.sim, "repaired", 0);
        cover(COVER_REPAIR);
    }
    guest_co_play(&g, sequence);
    close = oracle_add(o, &(struct op) { .kind = OP_CLOSE });
    close->begun = sim_mark(world.sim, "close", 0);
    backend_co_free(g.u);
    node_co_unref(g.n);
    close->ended = sim_mark(world.sim, "closed", 0);
    close->result = world.lost ? -EIO : 0;
    o->gone = world.job_done;
    if (o->gone && !o->mid_gone) {
        o->mid_gone = o->gone;
    }
    oracle_index(o);
}

/* --- after a crash --- */

/* A disk whose snapshots show its base keeps it: they go first. */
static CO_FN void snapshots_co_delete(struct node *n)
{
    json_t *info = json_object(), *s;
    size_t i;

    if (n->drv->co_snapshot && node_co_info(n, info, NULL) == 0) {
        json_array_foreach(json_object_get(info, "snapshots"), i, s) {
            (void)node_co_snapshot(n, SNAPSHOT_DELETE,
                                   json_string_value(json_object_get(s, "id")),
                                   NULL);
        }
    }
    json_decref(info);
}

char *world_co_recover(struct node *n, struct oracle *o)
{
    struct guest g = { .o = o, .n = n };
    bool streams = node_backing(node_skip_filters(n)) != NULL;
    g_autoptr(GError) err = NULL;

    world.job_done = 0;
    if (backend_co_new(n, "guest", GUEST_PERMS, PERM_ALL, NULL, NULL, &g.u,
                       &err) < 0) {
        return g_strdup(err->message);
    }
    if (streams) {
        snapshots_co_delete(node_skip_filters(n));
    }
    if (streams && o->config->far) {
        guest_co_play(&g, "uFYr|Se|bW");
        far_reset(0);
    }
    guest_co_play(&g, streams ? "uFr|Se|b" : "vFbzrw");
    backend_co_free(g.u);
    o->gone = world.job_done;
    if (world.bad_read) {
        return g_steal_pointer(&world.bad_read);
    }
    if (streams && !o->gone) {
        return g_strdup("the stream after the crash did not end");
    }
    return NULL;
}
