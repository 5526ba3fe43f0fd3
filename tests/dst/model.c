/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What every sector of the disk may hold.
 *
 * A sector has a set of states: a content, and which of the changes in flight
 * it already includes.  The set is closed: any change in flight may take place
 * at any time, once.  An answer removes the states that contradict it.  What
 * left the set is kept with the instant when: a read that was sent before may
 * still return it, and so may the disk after a crash, until a flush that was
 * sent later succeeds (G1).
 *
 * The unit is the sector, which is written as a whole or not at all (G3); a
 * change of a part of one makes a content of its own bytes.
 */
#include <inttypes.h>
#include <string.h>
#include "dst.h"

enum { MAX_PENDING = 5 };

/* Pattern @id of its sector or, for mixtures, @bytes (the model's). */
struct content {
    uint64_t id;
    const uint8_t *bytes;
};
struct state {
    struct content c;
    uint32_t applied; /* bit: slot of ->pending */
};
struct past {
    struct content c;
    uint32_t applied; /* the same, of changes still in flight */
    bool gone;        /* no crash brings it back */
    uint64_t until;
};
struct sector {
    struct state *states;
    unsigned n_states, max_states;
    struct change *pending[MAX_PENDING];
    uint32_t late; /* slots whose time is over; see model_lost() */
    struct past *past;
    unsigned n_past, max_past;
    uint64_t changed; /* instant of the last begin or end */
};
struct model {
    struct sector *sectors;
    uint64_t n;
    uint64_t now, flushed;
    GPtrArray *mixtures;
};
struct model_cut {
    uint64_t n;
    GArray **allowed; /* of struct content, for each sector */
};

static uint64_t scramble(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The first words can be read by a person: who, where. */
void model_pattern(uint64_t id, uint64_t sector, uint8_t out[SECTOR])
{
    uint64_t words[SECTOR / 8];
    uint64_t key = scramble(id * 0x9e3779b97f4a7c15u + sector);

    if (id == 0) {
        memset(out, 0, SECTOR);
        return;
    }
    words[0] = id;
    words[1] = sector;
    for (unsigned i = 2; i < G_N_ELEMENTS(words); i++) {
        words[i] = key += 0x9e3779b97f4a7c15u;
    }
    memcpy(out, words, SECTOR);
}

static void content_bytes(struct content c, uint64_t sector,
                          uint8_t out[SECTOR])
{
    if (c.bytes) {
        memcpy(out, c.bytes, SECTOR);
    } else {
        model_pattern(c.id, sector, out);
    }
}

static bool content_equal(struct content a, struct content b)
{
    if (a.bytes && b.bytes) {
        return !memcmp(a.bytes, b.bytes, SECTOR);
    }
    return !a.bytes && !b.bytes && a.id == b.id;
}

/* Bytes @from.. of the sector are @data. */
static bool content_matches(struct content c, uint64_t sector, unsigned from,
                            const uint8_t *data, unsigned len)
{
    uint8_t want[SECTOR];

    content_bytes(c, sector, want);
    return !memcmp(want + from, data, len);
}

struct model *model_new(uint64_t sectors)
{
    struct model *m = g_new0(struct model, 1);

    m->now = 1;
    m->mixtures = g_ptr_array_new_with_free_func(g_free);
    model_grow(m, sectors);
    return m;
}

void model_free(struct model *m)
{
    for (uint64_t i = 0; i < m->n; i++) {
        g_free(m->sectors[i].states);
        g_free(m->sectors[i].past);
    }
    g_free(m->sectors);
    g_ptr_array_unref(m->mixtures);
    g_free(m);
}

static void state_add(struct sector *s, struct content c, uint32_t applied)
{
    for (unsigned i = 0; i < s->n_states; i++) {
        if (s->states[i].applied == applied &&
            content_equal(s->states[i].c, c)) {
            return;
        }
    }
    if (s->n_states == s->max_states) {
        s->max_states = s->max_states ? 2 * s->max_states : 1;
        s->states = g_renew(struct state, s->states, s->max_states);
    }
    s->states[s->n_states++] = (struct state) { c, applied };
}

static void past_add(struct sector *s, struct state st, uint64_t until)
{
    if (s->n_past == s->max_past) {
        s->max_past = s->max_past ? 2 * s->max_past : 4;
        s->past = g_renew(struct past, s->past, s->max_past);
    }
    s->past[s->n_past++] = (struct past) { st.c, st.applied, false, until };
}

void model_grow(struct model *m, uint64_t sectors)
{
    if (sectors <= m->n) {
        return;
    }
    m->sectors = g_renew(struct sector, m->sectors, sectors);
    memset(m->sectors + m->n, 0, (sectors - m->n) * sizeof(*m->sectors));
    for (uint64_t i = m->n; i < sectors; i++) {
        state_add(&m->sectors[i], (struct content) { 0 }, 0);
    }
    m->n = sectors;
}

uint64_t model_sectors(const struct model *m)
{
    return m->n;
}

uint64_t model_now(const struct model *m)
{
    return m->now;
}

void model_set(struct model *m, uint64_t first, uint64_t n, uint64_t id)
{
    for (uint64_t i = first; i < MIN(first + n, m->n); i++) {
        m->sectors[i].states[0].c = (struct content) { .id = id };
    }
}

/* The part of @c in sector @i. */
static void change_part(const struct change *c, uint64_t i, unsigned *ret_from,
                        unsigned *ret_to)
{
    uint64_t start = i * SECTOR;

    *ret_from = c->off > start ? (unsigned)(c->off - start) : 0;
    *ret_to = (unsigned)MIN(SECTOR, c->off + c->len - start);
}

static struct content change_apply(struct model *m, const struct change *c,
                                   uint64_t i, struct content old)
{
    unsigned from, to;
    uint8_t *bytes, new[SECTOR];

    change_part(c, i, &from, &to);
    if (from == 0 && to == SECTOR) {
        return (struct content) { .id = c->id };
    }
    bytes = g_malloc(SECTOR);
    g_ptr_array_add(m->mixtures, bytes);
    content_bytes(old, i, bytes);
    model_pattern(c->id, i, new);
    memcpy(bytes + from, new + from, to - from);
    return (struct content) { .bytes = bytes };
}

/* Must @old, whose client is gone, stay below @newer? */
static bool is_overtaken(const struct change *old, const struct change *newer)
{
    return old->lost && old->lost < newer->begun &&
           old->off < newer->off + newer->len &&
           newer->off < old->off + old->len;
}

/* May the change in @slot take place in a state with @applied? */
static bool may_happen(const struct sector *s, unsigned slot, uint32_t applied)
{
    uint32_t bit = 1u << slot;

    if (!s->pending[slot] || ((applied | s->late) & bit)) {
        return false;
    }
    for (unsigned i = 0; i < MAX_PENDING; i++) {
        if (s->pending[i] && (applied & 1u << i) &&
            is_overtaken(s->pending[slot], s->pending[i])) {
            return false;
        }
    }
    return true;
}

/* Let every change in flight take place in every state. */
static void sector_close(struct model *m, struct sector *s, uint64_t i)
{
    for (unsigned k = 0; k < s->n_states; k++) {
        for (unsigned slot = 0; slot < MAX_PENDING; slot++) {
            struct state from = s->states[k];

            if (may_happen(s, slot, from.applied)) {
                state_add(s, change_apply(m, s->pending[slot], i, from.c),
                          from.applied | 1u << slot);
            }
        }
    }
}

static uint64_t first_of(uint64_t off)
{
    return off / SECTOR;
}

static uint64_t end_of(uint64_t off, uint64_t len)
{
    return (off + len + SECTOR - 1) / SECTOR;
}

static int slot_of(const struct sector *s, const struct change *c)
{
    for (int i = 0; i < MAX_PENDING; i++) {
        if (s->pending[i] == c) {
            return i;
        }
    }
    return -1;
}

bool model_has_room(const struct model *m, uint64_t off, uint64_t len)
{
    for (uint64_t i = first_of(off); i < end_of(off, len); i++) {
        if (slot_of(&m->sectors[i], NULL) < 0) {
            return false;
        }
    }
    return true;
}

void model_begin(struct model *m, struct change *c)
{
    c->begun = ++m->now;
    for (uint64_t i = first_of(c->off); i < end_of(c->off, c->len); i++) {
        struct sector *s = &m->sectors[i];
        int slot = slot_of(s, NULL);

        g_assert(slot >= 0);
        s->pending[slot] = c;
        s->late &= ~(1u << slot);
        s->changed = m->now;
        sector_close(m, s, i);
    }
}

/* @c has taken place: what it stays on top of never will. */
static void sector_bar(struct sector *s, const struct change *c)
{
    for (unsigned i = 0; i < MAX_PENDING; i++) {
        if (s->pending[i] && is_overtaken(s->pending[i], c)) {
            s->late |= 1u << i;
        }
    }
}

static void sector_end(struct model *m, struct sector *s, struct change *c,
                       bool certain)
{
    int slot = slot_of(s, c);
    uint32_t bit = 1u << slot;
    unsigned n = s->n_states;

    g_assert(slot >= 0);
    s->pending[slot] = NULL;
    s->changed = m->now;
    s->n_states = 0;
    if (certain) {
        sector_bar(s, c);
    }
    for (unsigned k = 0; k < n; k++) {
        struct state st = s->states[k];

        if (certain && !(st.applied & bit)) {
            past_add(s, st, m->now);
        } else {
            state_add(s, st.c, st.applied & ~bit);
        }
    }
}

/* The change in @slot has ended.  If it is durable, a crash leaves nothing that
 * did not include it: what came later and was acknowledged may be lost. */
static void past_end(struct sector *s, int slot, bool durable)
{
    uint32_t bit = 1u << slot;

    for (unsigned k = 0; k < s->n_past; k++) {
        if (durable && !(s->past[k].applied & bit)) {
            s->past[k].gone = true;
        }
        s->past[k].applied &= ~bit;
    }
}

void model_end(struct model *m, struct change *c, bool ok, bool durable)
{
    m->now++;
    for (uint64_t i = first_of(c->off); i < end_of(c->off, c->len); i++) {
        struct sector *s = &m->sectors[i];
        int slot = slot_of(s, c);

        sector_end(m, s, c, ok && !c->trim);
        past_end(s, slot, ok && durable && !c->trim);
    }
}

void model_lost(struct model *m, struct change *c)
{
    c->lost = ++m->now;
}

void model_flushed(struct model *m, uint64_t since)
{
    m->flushed = MAX(m->flushed, since);
}

static bool sector_allows(const struct sector *s, uint64_t since, uint64_t i,
                          unsigned from, const uint8_t *data, unsigned len)
{
    for (unsigned k = 0; k < s->n_states; k++) {
        if (content_matches(s->states[k].c, i, from, data, len)) {
            return true;
        }
    }
    for (unsigned k = 0; k < s->n_past; k++) {
        if (s->past[k].until > since &&
            content_matches(s->past[k].c, i, from, data, len)) {
            return true;
        }
    }
    return false;
}

/* It was read and nobody changed it meanwhile: that is what it holds. */
static void sector_fix(struct model *m, struct sector *s, uint64_t i,
                       const uint8_t *data)
{
    unsigned n = s->n_states;

    s->n_states = 0;
    for (unsigned k = 0; k < n; k++) {
        struct state st = s->states[k];

        if (content_matches(st.c, i, 0, data, SECTOR)) {
            state_add(s, st.c, 0);
        } else {
            past_add(s, st, m->now);
        }
    }
}

static bool sector_is_quiet(const struct sector *s, uint64_t since)
{
    for (unsigned slot = 0; slot < MAX_PENDING; slot++) {
        if (s->pending[slot]) {
            return false;
        }
    }
    return s->changed <= since;
}

static void describe_content(GString *out, struct content c)
{
    if (c.bytes) {
        g_string_append(out, " mixture");
    } else {
        g_string_append_printf(out, " %" PRIu64, c.id);
    }
}

static void describe_data(GString *out, const uint8_t *data, unsigned len)
{
    uint64_t words[2] = { 0 };

    memcpy(words, data, MIN(sizeof(words), len));
    g_string_append_printf(out,
                           " but holds pattern %" PRIu64 " of sector %" PRIu64,
                           words[0], words[1]);
}

static char *sector_describe(const struct sector *s, uint64_t since, uint64_t i,
                             const uint8_t *data, unsigned len)
{
    GString *out = g_string_new(NULL);

    g_string_printf(out, "sector %" PRIu64 " may hold", i);
    for (unsigned k = 0; k < s->n_states; k++) {
        describe_content(out, s->states[k].c);
    }
    for (unsigned k = 0; k < s->n_past; k++) {
        if (s->past[k].until > since) {
            describe_content(out, s->past[k].c);
        }
    }
    describe_data(out, data, len);
    return g_string_free(out, FALSE);
}

bool model_check_read(struct model *m, uint64_t since, uint64_t off,
                      const uint8_t *data, uint64_t len, char **ret_why)
{
    m->now++;
    for (uint64_t i = first_of(off), at = 0; at < len; i++) {
        unsigned from = (unsigned)((off + at) % SECTOR);
        unsigned n = (unsigned)MIN(len - at, SECTOR - from);
        struct sector *s = &m->sectors[i];

        if (!sector_allows(s, since, i, from, data + at, n)) {
            *ret_why = sector_describe(s, since, i, data + at, n);
            return false;
        }
        if (n == SECTOR && s->n_states > 1 && sector_is_quiet(s, since)) {
            sector_fix(m, s, i, data + at);
        }
        at += n;
    }
    return true;
}

bool model_check_zero(const struct model *m, uint64_t since, uint64_t off,
                      uint64_t len, char **ret_why)
{
    static const uint8_t zeroes[SECTOR];

    for (uint64_t i = first_of(off), at = 0; at < len; i++) {
        unsigned from = (unsigned)((off + at) % SECTOR);
        unsigned n = (unsigned)MIN(len - at, SECTOR - from);

        if (!sector_allows(&m->sectors[i], since, i, from, zeroes, n)) {
            *ret_why = sector_describe(&m->sectors[i], since, i, zeroes, n);
            return false;
        }
        at += n;
    }
    return true;
}

/* --- crashes --- */

/* All that sectors may hold, and the past: with @crash what a crash may bring
 * back, else what has been there at some time after @since. */
static struct model_cut *cut_new(const struct model *m, bool crash,
                                 uint64_t since)
{
    struct model_cut *cut = g_new0(struct model_cut, 1);

    cut->n = m->n;
    cut->allowed = g_new(GArray *, m->n);
    for (uint64_t i = 0; i < m->n; i++) {
        const struct sector *s = &m->sectors[i];
        GArray *a = g_array_new(FALSE, FALSE, sizeof(struct content));

        for (unsigned k = 0; k < s->n_states; k++) {
            g_array_append_val(a, s->states[k].c);
        }
        for (unsigned k = 0; k < s->n_past; k++) {
            if (!(crash && s->past[k].gone) && s->past[k].until > since) {
                g_array_append_val(a, s->past[k].c);
            }
        }
        cut->allowed[i] = a;
    }
    return cut;
}

struct model_cut *model_cut_new(const struct model *m)
{
    return cut_new(m, true, m->flushed);
}

struct model_cut *model_view_new(const struct model *m, uint64_t since)
{
    return cut_new(m, false, since);
}

void model_cut_free(struct model_cut *cut)
{
    for (uint64_t i = 0; i < cut->n; i++) {
        g_array_unref(cut->allowed[i]);
    }
    g_free(cut->allowed);
    g_free(cut);
}

uint64_t model_cut_sectors(const struct model_cut *cut)
{
    return cut->n;
}

bool model_cut_check(const struct model_cut *cut, uint64_t sector,
                     const uint8_t *data, char **ret_why)
{
    const GArray *a = cut->allowed[sector];
    GString *out;

    for (unsigned k = 0; k < a->len; k++) {
        if (content_matches(g_array_index(a, struct content, k), sector, 0,
                            data, SECTOR)) {
            return true;
        }
    }
    out = g_string_new(NULL);
    g_string_printf(out, "sector %" PRIu64 " may hold", sector);
    for (unsigned k = 0; k < a->len; k++) {
        describe_content(out, g_array_index(a, struct content, k));
    }
    describe_data(out, data, SECTOR);
    *ret_why = g_string_free(out, FALSE);
    return false;
}
