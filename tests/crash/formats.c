/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the simulator knows of formats: which write goes to what, how an image
 * is broken, and the rules of the format's own metadata (M5, M6, autoclear).
 * Nothing here is needed to tell a lost promise to the guest.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "crash.h"
#include "format/format.h"
#include "wire/qed.h"

/* Is record @i in @st, whole or in part? */
static bool is_there(const struct state *st, unsigned i, unsigned *next_open)
{
    if (*next_open < st->n && st->open[*next_open] == i) {
        enum choice_kind kind = st->choices[(*next_open)++].kind;

        return kind != KEEP_NONE && kind != KEEP_SIZE;
    }
    return st->h->recs[i].durable <= st->at;
}

/* Bits that are not known are cleared before anything else changes. */
char *rules_autoclear(const struct state *st, uint64_t top)
{
    unsigned next = 0;

    for (unsigned i = 0; i < st->h->n; i++) {
        const struct rec *rec = &st->h->recs[i];

        bool changes = rec->r.op == SIM_WRITE || rec->r.op == SIM_TRUNCATE ||
                       rec->r.op == SIM_FALLOCATE;

        if (is_there(st, i, &next) && rec->r.file == top && changes &&
            rec->cls != CLASS_HEADER) {
            return g_strdup_printf("autoclear bits are set, but the write of "
                                   "instants %" PRIu64 " to %" PRIu64
                                   " is there",
                                   rec->r.submitted, rec->r.completed);
        }
    }
    return NULL;
}

/* --- QED --- */

static uint64_t table_bytes(const struct crash_config *c)
{
    return (uint64_t)c->cluster * c->table;
}

static void note_tables(GHashTable *l2, const uint8_t *entries, size_t len)
{
    for (size_t i = 0; i + 8 <= len; i += 8) {
        uint64_t off = get_le64(entries + i);

        if (off) {
            g_hash_table_add(l2, GSIZE_TO_POINTER(off));
        }
    }
}

static enum rec_class qed_class(const struct sim_record *r, GHashTable *l2,
                                const struct crash_config *c)
{
    GHashTableIter it;
    gpointer off;

    if (r->op != SIM_WRITE || g_strcmp0(r->path, "/top")) {
        return CLASS_DATA;
    }
    if (r->off < c->cluster) {
        return CLASS_HEADER;
    }
    if (r->off < c->cluster + table_bytes(c)) {
        return CLASS_L1;
    }
    g_hash_table_iter_init(&it, l2);
    while (g_hash_table_iter_next(&it, &off, NULL)) {
        if (r->off - GPOINTER_TO_SIZE(off) < table_bytes(c)) {
            return CLASS_L2;
        }
    }
    return CLASS_DATA;
}

static uint8_t *qed_l1_get(const struct sim_image *img, uint64_t top,
                           const struct crash_config *c)
{
    uint8_t *l1 = g_malloc(table_bytes(c));

    sim_image_read(img, top, c->cluster, l1, table_bytes(c));
    return l1;
}

static void qed_classify(struct history *h, const struct crash_config *c)
{
    uint64_t top = sim_image_find(h->start, "/top");
    GHashTable *l2 = g_hash_table_new(NULL, NULL);

    if (top) {
        g_autofree uint8_t *l1 = qed_l1_get(h->start, top, c);

        note_tables(l2, l1, table_bytes(c));
    }
    for (unsigned i = 0; i < h->n; i++) {
        const struct sim_record *r = &h->recs[i].r;

        if (qed_class(r, l2, c) == CLASS_L1) {
            note_tables(l2, r->data, r->len);
        }
    }
    for (unsigned i = 0; i < h->n; i++) {
        if (h->recs[i].cls != CLASS_NAME) {
            h->recs[i].cls = qed_class(&h->recs[i].r, l2, c);
        }
    }
    g_hash_table_destroy(l2);
}

/* The table that @off lies in, by @l1, or 0. */
static uint64_t qed_table_of(const uint8_t *l1, uint64_t off,
                             const struct crash_config *c)
{
    for (uint64_t i = 0; i < table_bytes(c); i += 8) {
        uint64_t table = get_le64(l1 + i);

        if (table && off >= table && off - table < table_bytes(c)) {
            return table;
        }
    }
    return 0;
}

/* M6: while the header says "clean" nothing of the tables may be in the air. */
static char *qed_check_mark(const struct state *st, const uint8_t *l1)
{
    for (unsigned i = 0; i < st->n; i++) {
        const struct rec *rec = &st->h->recs[st->open[i]];

        if (st->choices[i].kind == KEEP_NONE ||
            st->choices[i].kind == KEEP_SIZE) {
            continue;
        }
        if (rec->cls == CLASS_L1 ||
            (rec->cls == CLASS_L2 &&
             qed_table_of(l1, rec->r.off, st->o->config))) {
            return g_strdup_printf("no NEED_CHECK, but the tables' write of "
                                   "instants %" PRIu64 " to %" PRIu64
                                   " is there and not durable (M6)",
                                   rec->r.submitted, rec->r.completed);
        }
    }
    return NULL;
}

/* When did the first write begin that links @table? 0: it always was. */
static uint64_t qed_linked_at(const struct history *h, uint64_t table,
                              const struct crash_config *c)
{
    uint64_t top = sim_image_find(h->start, "/top"), at = UINT64_MAX;

    if (top) {
        g_autofree uint8_t *l1 = qed_l1_get(h->start, top, c);

        if (qed_table_of(l1, table, c)) {
            return 0;
        }
    }

    for (unsigned i = 0; i < h->n; i++) {
        const struct sim_record *r = &h->recs[i].r;

        for (size_t k = 0; h->recs[i].cls == CLASS_L1 && k + 8 <= r->len;
             k += 8) {
            if (get_le64(r->data + k) == table) {
                at = MIN(at, r->submitted);
            }
        }
    }
    return at;
}

/* M5: what was written to a table before it was linked is there when it is. */
static char *qed_check_tables(const struct state *st, const uint8_t *l1)
{
    for (unsigned i = 0; i < st->n; i++) {
        const struct rec *rec = &st->h->recs[st->open[i]];
        uint64_t table = rec->cls == CLASS_L2 && rec->r.op == SIM_WRITE
                             ? qed_table_of(l1, rec->r.off, st->o->config)
                             : 0;
        uint64_t linked = table ? qed_linked_at(st->h, table, st->o->config)
                                : 0;

        if (linked != UINT64_MAX && rec->r.submitted < linked &&
            st->choices[i].kind != KEEP_ALL) {
            return g_strdup_printf("a table is linked, but its write of "
                                   "instants %" PRIu64 " to %" PRIu64
                                   " is not there (M5)",
                                   rec->r.submitted, rec->r.completed);
        }
    }
    return NULL;
}

static char *qed_check_rules(const struct state *st)
{
    uint64_t top = sim_image_find(st->img, "/top"), features;
    g_autofree uint8_t *l1 = NULL;
    uint8_t head[SECTOR];
    char *bad = NULL;

    if (!top) {
        return NULL;
    }
    sim_image_read(st->img, top, 0, head, SECTOR);
    features = get_le64(head + 16);
    if (get_le64(head + 32) != 0) {
        bad = rules_autoclear(st, top);
    }
    if (!bad && st->n) {
        l1 = qed_l1_get(st->img, top, st->o->config);
        bad = qed_check_tables(st, l1);
    }
    if (!bad && st->n &&
        !(features & (QED_F_BACKING_FILE | QED_F_NEED_CHECK))) {
        bad = qed_check_mark(st, l1);
    }
    return bad;
}

/* Cluster 1 is that of cluster 0, cluster 2 past the end; leaks at the end; and
 * nobody closed it. */
static void qed_damage(struct sim_image *img, const struct crash_config *c,
                       bool worse)
{
    uint64_t top = sim_image_find(img, "/top");
    uint64_t end = sim_image_size(img, top), table;
    g_autofree uint8_t *junk = g_malloc(c->cluster);
    uint8_t buf[24];

    sim_image_read(img, top, c->cluster, buf, 8);
    table = get_le64(buf);
    sim_image_read(img, top, table, buf, sizeof(buf));
    put_le64(buf + 8, c->cluster / 2);
    put_le64(buf + 16, end + 8 * c->cluster);
    sim_image_write(img, top, table, buf, sizeof(buf));
    if (worse) { /* a table is lost, too */
        put_le64(buf, end + 16 * c->cluster);
        sim_image_write(img, top, c->cluster + 8, buf, 8);
    }
    memset(junk, 0x5a, c->cluster);
    sim_image_write(img, top, end, junk, c->cluster);
    sim_image_write(img, top, end + c->cluster, junk, c->cluster);
    sim_image_read(img, top, 16, buf, 8);
    put_le64(buf, get_le64(buf) | QED_F_NEED_CHECK);
    sim_image_write(img, top, 16, buf, 8);
}

static void qed_set_autoclear(struct sim_image *img)
{
    uint8_t bits[8];

    put_le64(bits, UINT64_C(1) << 40);
    sim_image_write(img, sim_image_find(img, "/top"), 32, bits, 8);
}

static bool qed_is_whole(const struct sim_image *img)
{
    uint64_t id = sim_image_find(img, "/top");
    uint8_t head[4];

    if (id) {
        sim_image_read(img, id, 0, head, sizeof(head));
    }
    return id && memcmp(head, "QED", 4) == 0;
}

const struct crash_format format_qed = {
    .name = "qed",
    .drv = &qed_driver,
    .classify = qed_classify,
    .check_rules = qed_check_rules,
    .damage = qed_damage,
    .loses = true,
    .loses_table = true,
    .set_autoclear = qed_set_autoclear,
    .is_whole = qed_is_whole,
};

/* --- raw --- */

const struct crash_format format_raw = {
    .name = "raw",
    .drv = &raw_driver,
    .is_raw = true,
};
