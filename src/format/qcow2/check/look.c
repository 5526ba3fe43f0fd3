/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is where in the file, found before a repair changes anything.
 *
 * A table that lies on guest data or on refcounts may not be written to, or the
 * repair would destroy them.  Which ones do shows only when all was counted, so
 * a repair looks first and counts again afterwards.
 *
 * The recorded length of compressed data may be wrong and then reach into what
 * follows them.  Where that is something else than compressed data, the look is
 * made once more, with this one known: data that can be read without the
 * clusters in question end before them (check/tables.c).
 */
#include "format/qcow2/check/check.h"

static void look_free(struct qcow2_look *l)
{
    qcow2_counts_free(l->all);
    qcow2_counts_free(l->data);
    qcow2_counts_free(l->compressed);
    qcow2_counts_free(l->refcounts);
    *l = (struct qcow2_look) { 0 };
}

void qcow2_check_look_begin(struct qcow2_check *c)
{
    look_free(&c->before);
    c->before = c->look;
    g_clear_pointer(&c->before.data, qcow2_counts_free);
    c->look = (struct qcow2_look) {
        .data = qcow2_counts_new(),
        .compressed = qcow2_counts_new(),
        .refcounts = qcow2_counts_new(),
    };
    c->looking = true;
}

void qcow2_check_look_free(struct qcow2_check *c)
{
    look_free(&c->before);
    look_free(&c->look);
}

static int refcounts_note(struct qcow2_check *c)
{
    const struct qcow2_refcounts *r = c->img->refcounts;
    unsigned bits = c->img->cluster_bits;
    int ret = qcow2_counts_add(c->look.refcounts,
                               c->img->hdr.reftable_offset >> bits,
                               c->img->hdr.reftable_clusters);

    for (uint32_t i = 0; i < r->used && ret == 0; i++) {
        if (r->table[i] >> bits < c->file_clusters && r->table[i]) {
            ret = qcow2_counts_add(c->look.refcounts, r->table[i] >> bits, 1);
        }
    }
    return ret;
}

/* Is @cluster, which compressed data are recorded to be in, something else,
 * too? */
static bool has_more(const struct qcow2_look *l, struct qcow2_counts *all,
                     uint64_t cluster)
{
    return qcow2_counts_get(all, cluster) >
               qcow2_counts_get(l->compressed, cluster) ||
           qcow2_counts_get(l->refcounts, cluster);
}

int qcow2_check_look_end(struct qcow2_check *c, bool *ret_overlap)
{
    struct qcow2_counts *compressed = c->look.compressed;
    uint64_t i = qcow2_counts_next(compressed, 0);
    int ret = refcounts_note(c);

    c->looking = false;
    while (i != UINT64_MAX && !has_more(&c->look, c->counts, i)) {
        i = qcow2_counts_next(compressed, i + 1);
    }
    *ret_overlap = i != UINT64_MAX;
    return ret;
}

static bool is_counted(struct qcow2_counts *counts, unsigned bits,
                       uint64_t host, uint64_t len)
{
    return counts && len &&
           qcow2_counts_next(counts, host >> bits) <= (host + len - 1) >> bits;
}

bool qcow2_check_is_other(struct qcow2_check *c, uint64_t host, uint64_t len)
{
    unsigned bits = c->img->cluster_bits;

    return !c->looking && (is_counted(c->look.data, bits, host, len) ||
                           is_counted(c->look.compressed, bits, host, len) ||
                           is_counted(c->look.refcounts, bits, host, len));
}

bool qcow2_check_is_used(struct qcow2_check *c, uint64_t host, uint64_t len)
{
    return is_counted(c->counts, c->img->cluster_bits, host, len) ||
           qcow2_check_is_other(c, host, len);
}

uint64_t qcow2_check_other_inside(const struct qcow2_check *c, uint64_t host,
                                  uint64_t len)
{
    unsigned bits = c->img->cluster_bits;
    uint64_t last = (host + len - 1) >> bits;

    if (c->before.all) {
        for (uint64_t i = (host >> bits) + 1; i <= last; i++) {
            if (has_more(&c->before, c->before.all, i)) {
                return i << bits;
            }
        }
    }
    return UINT64_MAX;
}
