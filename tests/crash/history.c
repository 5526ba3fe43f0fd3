/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The log of a run, and from which instant on each record is durable (A3).
 */
#include <stdlib.h>
#include <string.h>
#include "crash.h"

static bool is_sync(const struct sim_record *r)
{
    return (r->op == SIM_FDATASYNC || r->op == SIM_FSYNC) && r->result >= 0 &&
           r->completed;
}

static bool is_name_op(const struct sim_record *r)
{
    return r->op == SIM_CREATE || r->op == SIM_RENAME || r->op == SIM_UNLINK;
}

/* Does @s make @r durable, when it comes late enough? */
static bool covers(const struct sim_record *s, const struct sim_record *r)
{
    if (!is_name_op(r)) {
        return is_sync(s) && s->file == r->file;
    }
    if (s->op == SIM_FSYNC_DIR && s->completed && s->result >= 0) {
        g_autofree char *dir = g_path_get_dirname(r->path);

        return g_str_equal(dir, s->path);
    }
    return false;
}

static uint64_t durable_at(const struct history *h, const struct sim_record *r)
{
    uint64_t at = UINT64_MAX;

    for (unsigned i = 0; r->completed && i < h->n; i++) {
        const struct sim_record *s = &h->recs[i].r;

        if (s->submitted > r->completed && covers(s, r)) {
            at = MIN(at, s->completed);
        }
    }
    return at;
}

/* --- taking it --- */

static int by_completion(const void *a, const void *b)
{
    const struct sim_record *x = a, *y = b; /* first member */
    uint64_t cx = x->completed ? x->completed : UINT64_MAX;
    uint64_t cy = y->completed ? y->completed : UINT64_MAX;

    if (cx != cy) {
        return cx < cy ? -1 : 1;
    }
    return x->submitted < y->submitted ? -1 : x->submitted > y->submitted;
}

static int by_place(const void *a, const void *b)
{
    const struct spot *x = a, *y = b;

    if (x->file != y->file) {
        return x->file < y->file ? -1 : 1;
    }
    return x->sector < y->sector ? -1 : x->sector > y->sector;
}

static int by_value(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static void array_unique(GArray *a, int (*cmp)(const void *, const void *))
{
    unsigned size = g_array_get_element_size(a), n = 0;

    if (a->len == 0) {
        return;
    }
    qsort(a->data, a->len, size, cmp);
    for (unsigned i = 0; i < a->len; i++) {
        if (n == 0 || cmp(a->data + (n - 1) * size, a->data + i * size)) {
            memmove(a->data + n++ * size, a->data + i * size, size);
        }
    }
    g_array_set_size(a, n);
}

/* What is zeroed in one go may be large, and only the windows hold anything. */
#define TOUCH_ALL_MAX (UINT64_C(256) << 10)

static bool is_looked_at(const struct crash_config *c, uint64_t off)
{
    struct window w[N_WINDOWS];

    for (unsigned i = 0; i < windows_get(c, w); i++) {
        if (off / GRAIN >= w[i].first && off / GRAIN - w[i].first < w[i].n) {
            return true;
        }
    }
    return false;
}

static void note_touched(struct history *h, const struct sim_record *r,
                         const struct crash_config *c)
{
    if (r->op != SIM_WRITE && r->op != SIM_FALLOCATE) {
        return;
    }
    for (uint64_t s = r->off / SECTOR; s * SECTOR < r->off + r->len; s++) {
        struct spot spot = { r->file, s };

        if (r->len <= TOUCH_ALL_MAX || is_looked_at(c, s * SECTOR)) {
            g_array_append_val(h->touched, spot);
        }
    }
}

void history_take(struct history *h, struct sim *s, struct sim_image *start,
                  const struct crash_config *c)
{
    size_t n;
    const struct sim_record *const *log = sim_log(s, &n);

    *h = (struct history) { .start = start, .last = sim_instant(s) };
    h->recs = g_new0(struct rec, n);
    h->touched = g_array_new(FALSE, FALSE, sizeof(struct spot));
    h->instants = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (size_t i = 0; i < n; i++) {
        const struct sim_record *r = log[i];
        struct rec *rec = &h->recs[h->n];

        g_array_append_val(h->instants, r->submitted);
        if (r->completed) {
            g_array_append_val(h->instants, r->completed);
        }
        if (r->op == SIM_MARK || r->op == SIM_OPEN || r->op == SIM_CLOSE ||
            r->result < 0) {
            continue;
        }
        rec->r = *r;
        rec->r.data = r->data ? g_memdup2(r->data, r->len) : NULL;
        rec->r.path = g_strdup(r->path);
        rec->r.path2 = g_strdup(r->path2);
        note_touched(h, r, c);
        h->n++;
    }
    qsort(h->recs, h->n, sizeof(*h->recs), by_completion);
    array_unique(h->touched, by_place);
    array_unique(h->instants, by_value);
    for (unsigned i = 0; i < h->n; i++) {
        h->recs[i].cls = is_name_op(&h->recs[i].r) ? CLASS_NAME : CLASS_DATA;
    }
    if (c->format->classify) {
        c->format->classify(h, c);
    }
    for (unsigned i = 0; i < h->n; i++) {
        h->recs[i].durable = durable_at(h, &h->recs[i].r);
    }
}

void history_done(struct history *h)
{
    for (unsigned i = 0; i < h->n; i++) {
        g_free(h->recs[i].r.data);
        g_free(h->recs[i].r.path);
        g_free(h->recs[i].r.path2);
    }
    g_free(h->recs);
    g_array_unref(h->touched);
    g_array_unref(h->instants);
    sim_image_free(h->start);
}

/* In no order. */
static void add_name(const char *path, uint64_t id, void *arg)
{
    uint64_t *hash = arg;

    *hash += (uint64_t)g_str_hash(path) * (2 * id + 1) * UINT64_C(0x9e3779b9);
}

uint64_t history_hash(const struct history *h, const struct sim_image *img)
{
    uint64_t hash = 1, file = 0;
    uint8_t buf[SECTOR];

    for (unsigned i = 0; i < h->touched->len; i++) {
        struct spot s = g_array_index(h->touched, struct spot, i);

        if (!sim_image_has(img, s.file)) {
            continue;
        }
        if (s.file != file) {
            uint64_t size = sim_image_size(img, file = s.file);

            hash = hash_words(hash, &size, sizeof(size));
        }
        sim_image_read(img, s.file, s.sector * SECTOR, buf, SECTOR);
        hash = hash_words(hash ^ s.sector, buf, SECTOR);
    }
    sim_image_foreach(img, add_name, &hash);
    return hash;
}
