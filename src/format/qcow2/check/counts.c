/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Counts in pieces: see format/qcow2/check/counts.h. */
#include "format/qcow2/check/counts.h"
#include <errno.h>
#include <glib.h>

enum { PIECE = 4096 };

/* Of all pieces: 2^27 clusters side by side, which is 8 TiB of 64 KiB. */
#define COUNTS_MAX_BYTES (512u << 20)

struct qcow2_counts {
    GTree *pieces; /* number -> uint32_t[PIECE] */
    uint64_t end;
    uint64_t last;        /* the piece used last ... */
    uint32_t *last_piece; /* ... or NULL */
};

static gint compare_numbers(gconstpointer a, gconstpointer b, gpointer unused)
{
    uintptr_t x = (uintptr_t)a, y = (uintptr_t)b;

    return x < y ? -1 : x > y;
}

struct qcow2_counts *qcow2_counts_new(void)
{
    struct qcow2_counts *c = g_new0(struct qcow2_counts, 1);

    c->pieces = g_tree_new_full(compare_numbers, NULL, NULL, g_free);
    return c;
}

void qcow2_counts_free(struct qcow2_counts *c)
{
    if (c) {
        g_tree_destroy(c->pieces);
        g_free(c);
    }
}

static uint32_t *qcow2_piece_get(struct qcow2_counts *c, uint64_t cluster,
                                 bool make)
{
    gpointer key = GSIZE_TO_POINTER(cluster / PIECE);
    uint32_t *piece;

    if (c->last_piece && c->last == cluster / PIECE) {
        return c->last_piece;
    }
    piece = g_tree_lookup(c->pieces, key);
    if (!piece && make) {
        if ((gsize)g_tree_nnodes(c->pieces) >=
            COUNTS_MAX_BYTES / (PIECE * sizeof(*piece))) {
            return NULL;
        }
        piece = g_try_new0(uint32_t, PIECE);
        if (!piece) {
            return NULL;
        }
        g_tree_insert(c->pieces, key, piece);
    }
    if (piece) {
        c->last = cluster / PIECE;
        c->last_piece = piece;
    }
    return piece;
}

int qcow2_counts_add(struct qcow2_counts *c, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint32_t *piece = qcow2_piece_get(c, i, true);

        if (!piece) {
            return -ENOMEM;
        }
        if (piece[i % PIECE] < UINT32_MAX) {
            piece[i % PIECE]++;
        }
        c->end = MAX(c->end, i + 1);
    }
    return 0;
}

void qcow2_counts_remove(struct qcow2_counts *c, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < first + n; i++) {
        uint32_t *piece = qcow2_piece_get(c, i, false);

        if (piece && piece[i % PIECE] > 0) {
            piece[i % PIECE]--;
        }
    }
}

uint32_t qcow2_counts_get(struct qcow2_counts *c, uint64_t cluster)
{
    uint32_t *piece = qcow2_piece_get(c, cluster, false);

    return piece ? piece[cluster % PIECE] : 0;
}

uint64_t qcow2_counts_next(struct qcow2_counts *c, uint64_t from)
{
    GTreeNode *t = g_tree_lower_bound(c->pieces,
                                      GSIZE_TO_POINTER(from / PIECE));

    for (; t; t = g_tree_node_next(t)) {
        uint64_t base = GPOINTER_TO_SIZE(g_tree_node_key(t)) * PIECE;
        const uint32_t *piece = g_tree_node_value(t);

        for (uint64_t i = MAX(base, from); i < base + PIECE; i++) {
            if (piece[i - base]) {
                return i;
            }
        }
    }
    return UINT64_MAX;
}

uint64_t qcow2_counts_end(const struct qcow2_counts *c)
{
    return c->end;
}
