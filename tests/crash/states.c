/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Legal states after a power loss (A1 to A5).
 *
 * At an instant, records that are durable are on disk.  Of the others, begun by
 * then, each sector may be there or not; a write that lengthens the file may
 * have lengthened it without its data.  As records are laid on in order of
 * completion, each sector ends up with its durable version or any later one.
 *
 * The simple and telling choices come first: none, all, all but one, only one,
 * prefixes, one class of metadata alone or missing, single sectors of metadata;
 * then all subsets where they are few, then random ones.  A state that was seen
 * before, with the same promises to the guest, is not tried again.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "crash.h"

struct tally tally;
GHashTable *states_seen;

struct search {
    struct state st;
    struct sim_image *durable;
    const struct limits *lim;
    GRand *rnd;
    unsigned left; /* states that may still be tried here */
    unsigned depth;
    char *story;
};

/* --- laying a record on an image --- */

static bool keeps(const struct choice *c, uint64_t i, uint64_t n)
{
    switch (c->kind) {
    case KEEP_NONE:
    case KEEP_SIZE: return false;
    case KEEP_ALL: return true;
    case KEEP_ONE: return i == c->arg;
    case KEEP_BUT_ONE: return i != c->arg;
    case KEEP_HEAD: return i < c->arg;
    case KEEP_TAIL: return i >= c->arg;
    case KEEP_RANDOM:
        return hash_words(c->arg + i, &(uint64_t) { i }, 8) & 1024;
    }
    return false;
}

/* Sectors that [off, off+len) meets. */
static uint64_t sectors_of(const struct sim_record *r)
{
    return (r->off + r->len + SECTOR - 1) / SECTOR - r->off / SECTOR;
}

static void lay_sectors(struct sim_image *img, const struct sim_record *r,
                        const struct choice *c)
{
    uint64_t n = sectors_of(r), end = r->off + r->len, pos = r->off;

    if (c->kind == KEEP_ALL && r->op == SIM_WRITE) {
        sim_image_write(img, r->file, r->off, r->data, r->len);
        return;
    }
    if (c->kind == KEEP_ALL && r->op == SIM_FALLOCATE) {
        sim_image_fallocate(img, r->file, r->mode, r->off, r->len);
        return;
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t next = MIN((pos / SECTOR + 1) * SECTOR, end);

        if (keeps(c, i, n) && r->op == SIM_WRITE) {
            sim_image_write(img, r->file, pos, r->data + (pos - r->off),
                            next - pos);
        } else if (keeps(c, i, n)) {
            sim_image_fallocate(img, r->file, r->mode, pos, next - pos);
        }
        pos = next;
    }
}

static void lay_size(struct sim_image *img, const struct sim_record *r)
{
    if (sim_image_size(img, r->file) < r->off + r->len) {
        sim_image_truncate(img, r->file, r->off + r->len);
    }
}

static void lay_name(struct sim_image *img, const struct sim_record *r)
{
    if (r->op == SIM_RENAME) {
        sim_image_link(img, r->path2, r->file);
    }
    sim_image_link(img, r->path, r->op == SIM_CREATE ? r->file : 0);
}

static void lay(struct sim_image *img, const struct sim_record *r,
                const struct choice *c)
{
    if (c->kind == KEEP_NONE) {
        return;
    }
    switch (r->op) {
    case SIM_WRITE:
        lay_sectors(img, r, c);
        if (c->kind != KEEP_ALL) {
            /* Data that is there lies inside the file, so the file has at
             * least that length; the growth may be whole without the data. */
            if (c->kind == KEEP_SIZE) {
                lay_size(img, r);
            }
        }
        break;
    case SIM_FALLOCATE:
        if (c->kind != KEEP_SIZE) {
            lay_sectors(img, r, c);
        }
        break;
    case SIM_TRUNCATE: sim_image_truncate(img, r->file, r->off); break;
    case SIM_CREATE:
    case SIM_RENAME:
    case SIM_UNLINK: lay_name(img, r); break;
    default: break;
    }
}

/* --- one state --- */

static CO_FN void state_co_try(struct search *s, const char *how)
{
    struct state *st = &s->st;
    char *bad = NULL;

    if (s->story || s->left == 0) {
        return;
    }
    st->how = how;
    st->img = sim_image_copy(s->durable);
    for (unsigned i = 0; i < st->n; i++) {
        lay(st->img, &st->h->recs[st->open[i]].r, &st->choices[i]);
    }
    tally.built++;
    if (st->o->gone && st->o->gone <= st->at) {
        sim_image_link(st->img, "/base", 0);
    }
    if (st->o->mid_gone && st->o->mid_gone <= st->at) {
        sim_image_link(st->img, "/mid", 0);
    }
    st->hash = history_hash(st->h, st->img) ^ oracle_hash(st->o) ^
               (uint64_t)(st->o->config - crash_configs) *
                   UINT64_C(0x1003f2a5d1b7);
    if (s->depth == 0 &&
        !g_hash_table_add(states_seen, GSIZE_TO_POINTER(st->hash))) {
        sim_image_free(st->img);
        return;
    }
    tally.distinct++;
    s->left--;
    if (st->o->config->format->check_rules) {
        bad = st->o->config->format->check_rules(st);
    }
    if (!bad) {
        bad = state_co_verify(st, s->depth);
    }
    if (bad) {
        s->story = state_story(st, bad);
        g_free(bad);
    }
    sim_image_free(st->img);
}

/* --- the search --- */

static void set_all(struct search *s, enum choice_kind kind)
{
    for (unsigned i = 0; i < s->st.n; i++) {
        s->st.choices[i] = (struct choice) { kind, 0 };
    }
}

static const struct rec *rec_at(const struct search *s, unsigned i)
{
    return &s->st.h->recs[s->st.open[i]];
}

/* Each record alone, and each alone missing. */
static CO_FN void search_co_single(struct search *s)
{
    for (unsigned i = 0; i < s->st.n; i++) {
        set_all(s, KEEP_ALL);
        s->st.choices[i].kind = KEEP_NONE;
        state_co_try(s, "all but one write");
        s->st.choices[i].kind = KEEP_SIZE;
        state_co_try(s, "all, one write its size only");
    }
    for (unsigned i = 0; i < s->st.n; i++) {
        set_all(s, KEEP_NONE);
        s->st.choices[i].kind = KEEP_ALL;
        state_co_try(s, "only one write");
    }
}

static CO_FN void search_co_prefixes(struct search *s)
{
    set_all(s, KEEP_NONE);
    for (unsigned i = 0; i + 1 < s->st.n; i++) {
        s->st.choices[i].kind = KEEP_ALL;
        state_co_try(s, "the first writes");
    }
    set_all(s, KEEP_ALL);
    for (unsigned i = 0; i + 1 < s->st.n; i++) {
        s->st.choices[i].kind = KEEP_NONE;
        state_co_try(s, "the last writes");
    }
}

/* What a class of records does alone, with sizes, and when it is missing. */
static CO_FN void search_co_classes(struct search *s)
{
    for (int cls = 0; cls < CLASS_COUNT; cls++) {
        static const enum choice_kind pairs[][2] = {
            { KEEP_ALL, KEEP_NONE },
            { KEEP_ALL, KEEP_SIZE },
            { KEEP_NONE, KEEP_ALL },
            { KEEP_SIZE, KEEP_ALL },
        };

        for (unsigned p = 0; p < G_N_ELEMENTS(pairs); p++) {
            for (unsigned i = 0; i < s->st.n; i++) {
                s->st.choices[i].kind =
                    pairs[p][rec_at(s, i)->cls != (enum rec_class)cls];
            }
            state_co_try(s, "by class");
        }
    }
}

/* Tears: a sector of a write alone or missing, the rest none or all. */
static CO_FN void search_co_tears(struct search *s)
{
    for (unsigned i = 0; i < s->st.n; i++) {
        const struct sim_record *r = &rec_at(s, i)->r;
        uint64_t n = sectors_of(r), step = 1;

        if ((r->op != SIM_WRITE && r->op != SIM_FALLOCATE) || n < 2) {
            continue;
        }
        if (rec_at(s, i)->cls == CLASS_DATA) {
            step = n / 2;
        } else if (n > 16) {
            step = n / 16;
        }
        for (uint64_t k = 0; k < n; k += step) {
            set_all(s, KEEP_ALL);
            s->st.choices[i] = (struct choice) { KEEP_BUT_ONE, k };
            if (rec_at(s, i)->cls != CLASS_DATA) {
                cover(COVER_TORN);
            }
            state_co_try(s, "torn: a sector missing");
            s->st.choices[i] = (struct choice) { KEEP_HEAD, k + 1 };
            state_co_try(s, "torn: the head");
            s->st.choices[i] = (struct choice) { KEEP_TAIL, k + 1 };
            state_co_try(s, "torn: the tail");
            set_all(s, KEEP_NONE);
            s->st.choices[i] = (struct choice) { KEEP_ONE, k };
            state_co_try(s, "torn: one sector alone");
        }
    }
}

static CO_FN void search_co_subsets(struct search *s)
{
    if (s->st.n > s->lim->exhaustive) {
        return;
    }
    for (unsigned set = 0; set < 1u << s->st.n; set++) {
        for (unsigned i = 0; i < s->st.n; i++) {
            s->st.choices[i].kind = set >> i & 1 ? KEEP_ALL : KEEP_NONE;
        }
        state_co_try(s, "a subset");
    }
}

static CO_FN void search_co_random(struct search *s)
{
    for (unsigned k = 0; k < s->lim->random; k++) {
        int percent = g_rand_int_range(s->rnd, 5, 95);

        for (unsigned i = 0; i < s->st.n; i++) {
            struct choice *c = &s->st.choices[i];
            int dice = g_rand_int_range(s->rnd, 0, 100);

            c->kind = dice < percent ? KEEP_ALL : KEEP_NONE;
            if (g_rand_int_range(s->rnd, 0, 4) == 0) {
                c->kind = dice & 1 ? KEEP_RANDOM : KEEP_SIZE;
                c->arg = g_rand_int(s->rnd);
            }
        }
        state_co_try(s, "random");
    }
}

static CO_FN void instant_co_search(struct search *s)
{
    set_all(s, KEEP_NONE);
    state_co_try(s, "nothing but what is durable");
    set_all(s, KEEP_ALL);
    oracle_set_instant(s->st.o, s->st.at, true);
    state_co_try(s, "everything: the process was killed");
    oracle_set_instant(s->st.o, s->st.at, false);
    if (s->st.n == 0) {
        return;
    }
    search_co_single(s);
    set_all(s, KEEP_SIZE);
    state_co_try(s, "sizes only");
    search_co_prefixes(s);
    search_co_classes(s);
    search_co_tears(s);
    search_co_subsets(s);
    search_co_random(s);
}

/* Lay down what is durable at @at; the rest begun by then stays open. */
static void instant_begin(struct search *s, uint64_t at)
{
    static const struct choice all = { KEEP_ALL, 0 };
    struct history *h = s->st.h;

    s->st.at = at;
    s->st.n = 0;
    s->left = s->lim->per_instant;
    s->durable = sim_image_copy(h->start);
    for (unsigned i = 0; i < h->n; i++) {
        /* A file whose name was lost is there, though nobody finds it. */
        if (h->recs[i].r.op == SIM_CREATE) {
            sim_image_create(s->durable, h->recs[i].r.file);
        }
    }
    for (unsigned i = 0; i < h->n; i++) {
        const struct rec *rec = &h->recs[i];

        if (rec->durable <= at) {
            lay(s->durable, &rec->r, &all);
        } else if (rec->r.submitted <= at) {
            s->st.open[s->st.n++] = i;
        }
    }
    oracle_set_instant(s->st.o, at, false);
}

char *states_co_try(struct history *h, struct oracle *o,
                    const struct limits *lim, GRand *rnd, unsigned depth)
{
    struct search s = {
        .st = { .h = h,
                .o = o,
                .open = g_new0(unsigned, h->n + 1),
                .choices = g_new0(struct choice, h->n + 1) },
        .lim = lim,
        .rnd = rnd,
        .depth = depth,
    };
    unsigned n = h->instants->len;

    for (unsigned i = 0; i < n && !s.story; i++) {
        if (lim->instants && n > lim->instants &&
            (unsigned)g_rand_int_range(rnd, 0, (gint32)n) >= lim->instants) {
            continue;
        }
        instant_begin(&s, g_array_index(h->instants, uint64_t, i));
        instant_co_search(&s);
        sim_image_free(s.durable);
    }
    g_free(s.st.open);
    g_free(s.st.choices);
    return s.story;
}
