/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot that is prepared while the guest goes on: its state, which those
 * look at who change what was copied.  How it is made and used is in
 * snapshot/prepare.h.
 */
#pragma once
#include "format/qcow2/qcow2.h"

/* An L2 table that the snapshot is to share. */
struct qcow2_prepared_table {
    uint64_t at;   /* what was counted stands there, and does not change; 0:
                  * nothing was */
    uint8_t *kept; /* the same in memory, or NULL */
    bool own;      /* that is a copy of ours, without COPIED */
    bool stale;    /* the table was changed since */
};

/* A refcount block, and how often the snapshot refers to what it counts. */
struct qcow2_prepared_block {
    uint64_t number;
    uint64_t host;       /* of the copy with those references; 0: none yet */
    uint32_t first, end; /* bytes of the copy that are not what they are to
                          * be; all of it until it was written */
    unsigned order;      /* a number has 1 << order bits */
    uint8_t *more;       /* those numbers */
};

struct qcow2_prepared {
    uint64_t l1_offset; /* of the active table that it is for */
    uint32_t n;         /* its entries */
    struct qcow2_prepared_table *tables;
    uint32_t n_stale;
    unsigned n_kept;    /* tables that are kept */
    GHashTable *blocks; /* number -> struct qcow2_prepared_block */
    GArray *taken;      /* struct qcow2_decrement: clusters that it has */
    uint64_t epoch;     /* nothing that was freed since it began is reused */
    bool failed;        /* it cannot be used */
    bool ends;          /* no step of it begins any more */
};

/* The active table of L1 entry @i was changed, in the file and in memory. */
static inline void qcow2_prepared_table_changed(struct qcow2_image *img,
                                                uint32_t i)
{
    struct qcow2_prepared *p = img->prepared;

    if (p && i < p->n && !p->tables[i].stale) {
        p->tables[i].stale = true;
        p->n_stale++;
    }
}

/* Bytes [@first, @end) of the copy are to be written again. */
static inline void qcow2_prepared_block_stale(struct qcow2_prepared_block *b,
                                              uint32_t first, uint32_t end)
{
    b->first = b->first < b->end ? MIN(b->first, first) : first;
    b->end = MAX(b->end, end);
}

/* Those bytes of refcount block @number were changed in memory. */
static inline void qcow2_prepared_block_changed(struct qcow2_image *img,
                                                uint64_t number, uint32_t first,
                                                uint32_t end)
{
    struct qcow2_prepared_block *b = img->prepared
                                         ? g_hash_table_lookup(
                                               img->prepared->blocks,
                                               GSIZE_TO_POINTER(number))
                                         : NULL;

    if (b) {
        qcow2_prepared_block_stale(b, first, end);
    }
}
