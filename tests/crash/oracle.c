/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a grain, half a sector, may hold.
 *
 * After a crash: the newest write that a flush or FUA covered, or one that was
 * not complete before that one began.  A flush covers what had ended before it
 * was asked for (G1, G4).  A trim leaves old data or zeroes (G8).
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "crash.h"

/* --- stamps --- */

void stamp_put(uint8_t *buf, uint64_t id, uint64_t grain)
{
    for (unsigned i = 0; i < GRAIN; i += 16) {
        put_le64(buf + i, id);
        put_le64(buf + i + 8, grain);
    }
}

uint64_t stamp_get(const uint8_t *buf, uint64_t grain)
{
    uint64_t id = get_le64(buf), want = id ? grain : 0;

    for (unsigned i = 0; i < GRAIN; i += 16) {
        if (get_le64(buf + i) != id || get_le64(buf + i + 8) != want) {
            return UINT64_MAX;
        }
    }
    return id;
}

uint64_t hash_words(uint64_t h, const void *buf, size_t len)
{
    const uint8_t *p = buf;

    for (size_t i = 0; i < len; i += 8) {
        uint64_t w;

        memcpy(&w, p + i, 8);
        h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h;
}

/* --- windows --- */

/* The first clusters, those around the end of what the first L2 table maps,
 * which is near the end of the disk, and some that no guest writes to. */
unsigned windows_get(const struct crash_config *c, struct window *w)
{
    uint64_t cluster = c->cluster / GRAIN;
    uint64_t span = (uint64_t)c->cluster * c->table / 8 * cluster;
    uint64_t end = c->size / GRAIN + 2 * cluster;

    w[0] = (struct window) { 0, 5 * cluster };
    w[1] = (struct window) { span - 2 * cluster, end - (span - 2 * cluster) };
    w[2] = (struct window) { span / 2, 2 * cluster };
    return N_WINDOWS;
}

unsigned windows_slots(const struct crash_config *c)
{
    struct window w[N_WINDOWS];

    windows_get(c, w);
    return (unsigned)(w[0].n + w[1].n + w[2].n);
}

unsigned slot_of(const struct crash_config *c, uint64_t grain)
{
    struct window w[N_WINDOWS];

    unsigned before = 0;

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        if (grain >= w[i].first && grain - w[i].first < w[i].n) {
            return before + (unsigned)(grain - w[i].first);
        }
        before += (unsigned)w[i].n;
    }
    g_assert_not_reached();
}

/* --- the guest's operations --- */

void oracle_init(struct oracle *o, const struct crash_config *c)
{
    *o = (struct oracle) { .config = c, .init_size = c->size / GRAIN };
    o->init = g_new0(uint64_t, windows_slots(c));
    o->loose = g_new0(bool, windows_slots(c));
}

void oracle_done(struct oracle *o)
{
    unsigned n = windows_slots(o->config);

    for (unsigned i = 0; o->by_slot && i < n; i++) {
        g_array_unref(o->by_slot[i]);
    }
    g_free(o->by_slot);
    g_free(o->ops);
    g_free(o->init);
    g_free(o->loose);
}

#define OPS_MAX 512

struct op *oracle_add(struct oracle *o, const struct op *op)
{
    if (!o->ops) {
        o->ops = g_new0(struct op, OPS_MAX);
    }
    g_assert(o->n_ops < OPS_MAX);
    o->ops[o->n_ops] = *op;
    return &o->ops[o->n_ops++];
}

static bool changes_data(const struct op *op)
{
    return op->kind <= OP_TRIM;
}

/* Emptied, an image shows its base. */
static uint64_t op_gives(const struct oracle *o, const struct op *op,
                         unsigned slot)
{
    return op->kind == OP_WRITE   ? o->id_base + (uint64_t)(op - o->ops) + 1
           : op->kind == OP_EMPTY ? o->init[slot]
                                  : 0;
}

static bool touches(const struct op *op, uint64_t grain)
{
    return op->kind == OP_EMPTY || (changes_data(op) && grain >= op->first &&
                                    grain < op->first + op->n);
}

void oracle_index(struct oracle *o)
{
    unsigned n = windows_slots(o->config);
    struct window w[N_WINDOWS];

    o->by_slot = g_new(GArray *, n);
    for (unsigned i = 0; i < n; i++) {
        o->by_slot[i] = g_array_new(FALSE, FALSE, sizeof(unsigned));
    }
    windows_get(o->config, w);
    for (unsigned i = 0; i < o->n_ops; i++) {
        unsigned slot = 0;

        for (unsigned k = 0; k < N_WINDOWS; k++) {
            for (uint64_t s = w[k].first; s < w[k].first + w[k].n; s++) {
                if (touches(&o->ops[i], s)) {
                    g_array_append_val(o->by_slot[slot], i);
                }
                slot++;
            }
        }
    }
}

/* Is what ended before @f durable once @f has ended?  And when the process dies
 * only, and what it wrote is there? (M9) */
static bool keeps_all(const struct oracle *o, const struct op *f)
{
    return f->kind == OP_FLUSH || f->kind == OP_REOPEN ||
           f->kind == OP_SNAPSHOT ||
           (o->killed &&
            (f->kind == OP_DRAIN || f->kind == OP_CLOSE || f->kind == OP_WAIT));
}

static bool is_promised(const struct oracle *o, const struct op *op)
{
    if (!op->ended || op->ended > o->at || op->result < 0) {
        return false;
    }
    if (op->fua || op->kind == OP_SHRINK || op->kind == OP_RECORD ||
        op->kind == OP_ERASE || op->kind == OP_REFUSE) {
        return true;
    }
    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *f = &o->ops[i];

        if (keeps_all(o, f) && f->result == 0 && f->begun > op->ended &&
            f->ended && f->ended <= o->at) {
            return true;
        }
    }
    return false;
}

void oracle_set_instant(struct oracle *o, uint64_t at, bool killed)
{
    o->at = at;
    o->killed = killed;
    for (unsigned i = 0; i < o->n_ops; i++) {
        o->ops[i].promised = is_promised(o, &o->ops[i]);
    }
}

/* Must what is older than @op be gone? @older NULL: the initial contents. */
static bool hides(const struct op *op, const struct op *older)
{
    return op->promised && op->kind != OP_TRIM &&
           (!older || (older->ended && older->ended < op->begun));
}

static const struct op *op_at(const struct oracle *o, unsigned slot, unsigned i)
{
    return &o->ops[g_array_index(o->by_slot[slot], unsigned, i)];
}

static bool is_hidden(const struct oracle *o, unsigned slot,
                      const struct op *older)
{
    for (unsigned i = 0; i < o->by_slot[slot]->len; i++) {
        const struct op *op = op_at(o, slot, i);

        if (op->begun && op->begun <= o->at && hides(op, older)) {
            return true;
        }
    }
    return false;
}

/* What is to be cut off is given up before the size says so. */
static bool is_given_up(const struct oracle *o, const struct op *op)
{
    return op->kind == OP_SHRINK && op->begun && op->begun <= o->at &&
           (!op->ended || op->ended > o->at);
}

/* May a merge have brought @id into the base? */
static bool is_merged(const struct oracle *o, unsigned slot, uint64_t id)
{
    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *merge = &o->ops[i];

        if (merge->kind != OP_MERGE || !merge->begun || merge->begun > o->at) {
            continue;
        }
        for (unsigned k = 0; k < o->by_slot[slot]->len; k++) {
            const struct op *op = op_at(o, slot, k);

            if (op_gives(o, op, slot) == id && op->begun &&
                (!merge->ended || op->begun < merge->ended)) {
                return true;
            }
        }
    }
    return false;
}

/* What shows where the image gives its own up. */
static bool is_of_base(const struct oracle *o, unsigned slot, uint64_t id)
{
    return id == o->init[slot] ||
           (o->config->backing &&
            (id == ID_BASE_FILE || is_merged(o, slot, id)));
}

bool oracle_may_hold(const struct oracle *o, unsigned slot, uint64_t id)
{
    if (o->loose[slot] && o->at < o->repaired) {
        return true;
    }
    for (unsigned i = 0; i < o->by_slot[slot]->len; i++) {
        const struct op *op = op_at(o, slot, i);
        if (is_given_up(o, op) && is_of_base(o, slot, id)) {
            return true;
        }
        if (op_gives(o, op, slot) == id && op->begun && op->begun <= o->at &&
            !is_hidden(o, slot, op)) {
            return true;
        }
    }
    return id == o->init[slot] && !is_hidden(o, slot, NULL);
}

bool oracle_may_mix(const struct oracle *o, uint64_t grain)
{
    uint64_t a = grain & ~UINT64_C(1);

    for (unsigned i = 0; i < o->n_ops; i++) {
        if (touches(&o->ops[i], a) != touches(&o->ops[i], a + 1)) {
            return true;
        }
    }
    return o->init[slot_of(o->config, a)] != o->init[slot_of(o->config, a + 1)];
}

/* Was all of it done before @begun? What failed may have been done in part. */
static bool has_ended(const struct op *op, uint64_t begun)
{
    return op->ended && op->ended < begun && op->result >= 0;
}

/* As hides(), for readers: everything that ended counts. */
bool oracle_may_read(const struct oracle *o, uint64_t begun, uint64_t grain,
                     uint64_t id)
{
    bool init_hidden = false;

    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *op = &o->ops[i];
        bool hidden = false;

        if (!touches(op, grain) || !op->begun) {
            continue;
        }
        for (unsigned k = 0; k < o->n_ops && !hidden; k++) {
            const struct op *by = &o->ops[k];

            hidden = by->kind != OP_TRIM && touches(by, grain) &&
                     has_ended(by, begun) && op->ended && op->ended < by->begun;
        }
        init_hidden = init_hidden ||
                      (op->kind != OP_TRIM && has_ended(op, begun));
        if (!hidden && id == op_gives(o, op, slot_of(o->config, grain))) {
            return true;
        }
    }
    return !init_hidden && id == o->init[slot_of(o->config, grain)];
}

/* Of direct I/O, in grains. */
#define BLOCK (4096u / GRAIN)

/* Has the disk moved to its base, and is that raw? */
static bool moved_to_raw(const struct oracle *o)
{
    return o->moved && o->moved <= o->at && !o->config->base_format;
}

/* A raw file's resize is durable with a flush, and a write at the new end may
 * have lengthened the file by any part of what it should.  What the disk was
 * before it moved to such a file it has been durably. */
static bool raw_may_have_size(const struct oracle *o, uint64_t grains)
{
    uint64_t min = o->init_size, max = o->init_size;

    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *op = &o->ops[i];

        if (op->kind == OP_RESIZE && op->begun && op->begun <= o->at) {
            bool before = moved_to_raw(o) && op->ended &&
                          op->ended <= o->moved && op->result == 0;

            min = op->promised || before ? MAX(min, op->n) : min;
            max = MAX(max, op->n);
        }
    }
    /* A last block that is not whole is written as one, then cut off. */
    if (o->config->direct) {
        max = (max + BLOCK - 1) / BLOCK * BLOCK;
    }
    return grains >= min && grains <= max;
}

/* QED's is durable when it returns. */
bool oracle_may_have_size(const struct oracle *o, uint64_t grains)
{
    bool may = grains == o->init_size;

    if (o->config->format->is_raw || moved_to_raw(o) ||
        (o->config->format->ended_as &&
         o->config->format->ended_as(sim_live(world.sim)))) {
        return raw_may_have_size(o, grains);
    }
    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *op = &o->ops[i];

        if (op->kind == OP_SHRINK && op->begun && op->begun <= o->at) {
            may = may || grains == op->first;
        }
        if (op->kind != OP_RESIZE || !op->begun || op->begun > o->at) {
            continue;
        }
        if (op->ended && op->ended <= o->at && op->result == 0) {
            may = false;
        }
        may = may || grains == op->n;
    }
    return may;
}

uint64_t oracle_hash(const struct oracle *o)
{
    uint64_t h = (o->gone && o->gone <= o->at) + 2 * (o->created <= o->at) +
                 4 * o->killed + 8 * (o->mid_gone && o->mid_gone <= o->at) +
                 16 * (o->moved && o->moved <= o->at) +
                 64 * (o->over && o->over <= o->at) +
                 32 * (o->repaired > o->at);

    for (unsigned i = 0; i < o->n_ops; i++) {
        const struct op *op = &o->ops[i];
        bool begun = op->begun && op->begun <= o->at;
        bool ended = op->ended && op->ended <= o->at;
        uint64_t words[] = {
            i,
            op->kind,
            op->first,
            op->n,
            (uint64_t)begun | (uint64_t)ended << 1 |
                (uint64_t)op->promised << 2,
        };

        if (begun && op->kind != OP_FLUSH && op->kind != OP_READ &&
            op->kind != OP_WAIT && op->kind != OP_LEAVE) {
            h = hash_words(h, words, sizeof(words));
        }
    }
    return h;
}

/* --- for people --- */

static const char *const kind_names[] = {
    [OP_WRITE] = "write",
    [OP_ZERO] = "zero",
    [OP_EMPTY] = "empty",
    [OP_SHRINK] = "shrink",
    [OP_TRIM] = "trim",
    [OP_FLUSH] = "flush",
    [OP_READ] = "read",
    [OP_STEP] = "stream-step",
    [OP_STREAM] = "stream",
    [OP_STREAM_BG] = "stream in the background",
    [OP_STREAM_TO] = "stream to the base",
    [OP_COMMIT] = "commit",
    [OP_MERGE] = "merge into the base",
    [OP_MOVE] = "move to the base",
    [OP_OVERLAY] = "overlay in the place of the disk",
    [OP_BACKUP] = "backup by the bitmap",
    [OP_CANCEL] = "cancel",
    [OP_RESIZE] = "resize",
    [OP_WAIT] = "wait",
    [OP_LEAVE] = "base goes away",
    [OP_DRAIN] = "drain",
    [OP_REOPEN] = "reopen",
    [OP_REPAIR] = "repair",
    [OP_AMEND] = "amend",
    [OP_PREPARE] = "prepare a snapshot",
    [OP_SNAPSHOT] = "snapshot",
    [OP_FORGET] = "forget a snapshot",
    [OP_RESTORE] = "restore a snapshot",
    [OP_CLOSE] = "close",
    [OP_RECORD] = "record",
    [OP_ERASE] = "erase",
    [OP_REFUSE] = "refused start",
};

char *op_describe(const struct op *op, unsigned i)
{
    return g_strdup_printf("op %u: %s%s %" PRIu64 "+%" PRIu64 ", began %" PRIu64
                           ", ended %" PRIu64 "%s, result %d",
                           i + 1, kind_names[op->kind], op->fua ? " FUA" : "",
                           op->first, op->n, op->begun, op->ended,
                           op->promised ? " (durable)" : "", op->result);
}

static void add_name(GString *s, uint64_t id)
{
    g_string_append(s, s->len ? ", " : "");
    if (id == 0) {
        g_string_append(s, "zeroes");
    } else if (id == ID_BASE_FILE) {
        g_string_append(s, "the base's data");
    } else if (id == ID_MID) {
        g_string_append(s, "the middle's data");
    } else if (id == ID_BEFORE) {
        g_string_append(s, "what was there");
    } else {
        g_string_append_printf(s, "%" PRIu64, id);
    }
}

char *oracle_describe(const struct oracle *o, unsigned slot)
{
    GString *s = g_string_new(NULL);

    if (oracle_may_hold(o, slot, 0)) {
        add_name(s, 0);
    }
    if (o->init[slot] && oracle_may_hold(o, slot, o->init[slot])) {
        add_name(s, o->init[slot]);
    }
    for (unsigned i = 0; i < o->by_slot[slot]->len; i++) {
        const struct op *op = op_at(o, slot, i);
        uint64_t id = o->id_base + (uint64_t)(op - o->ops) + 1;

        if (op->kind == OP_WRITE && oracle_may_hold(o, slot, id)) {
            add_name(s, id);
        }
    }
    return g_string_free(s, FALSE);
}
