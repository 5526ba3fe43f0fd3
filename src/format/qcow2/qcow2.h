/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The qcow2 driver, private to format/qcow2/.
 *
 * Where a guest cluster is, newest answer first:
 *   pending    changes in memory, by generation of their commit group, folded
 *              old to new over
 *   slices     of L2 tables, cached, as in the file (plus what is being
 *              published)
 *   file       L1 and L2 tables
 *
 * Invariants
 *   - A change enters a cached slice only when its group is published, so a
 *     sector written for generation N never carries a pointer of N+1 (M2).
 *   - Refcounts of all that a generation points to are durable before its
 *     pointers are written; they go down only after the pointers are durably
 *     gone (M4).  So a crash leaks space at most.
 *   - A cluster is handed out again only when the removal of its last pointer
 *     is durable, its discard has ended, and so has every access to its data
 *     that began before (M3).
 *   - L2 tables and l1[] change in publish.c (one pass at a time), and in
 *     check.c, resize.c and snapshot.c with passes held off; nowhere else.
 *   - Only sector 0 of the header changes, by one aligned write, with the group
 *     locked or by its pass.  A failed one is taken back (header.c).
 *   - Writes of metadata go through qcow2_co_write_meta(), which lets none hit
 *     another structure.
 *
 * Each folder has its headers: map/ space/ data/ meta/ snapshot/ bitmap/ check/
 * create/; ops.h is for the files that stand here.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/alloc/group.h"
#include "format/alloc/header-sector.h"
#include "format/alloc/metadata-cache.h"
#include "format/alloc/pending.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "wire/qcow2.h"

enum {
    QCOW2_CACHE_BYTES = 32 << 20, /* of L2 slices, per image */
    QCOW2_SLICE_MAX = 65536,      /* bytes of a slice of an L2 table */
    QCOW2_PENDING_MAX = 1 << 18,  /* changes before a writer must wait */
};

/* What the options of the node say. */
struct qcow2_options {
    uint64_t cache_bytes;       /* of L2 slices */
    uint64_t block_cache_bytes; /* of refcount blocks */
    unsigned cache_idle_s;
    bool lazy_refcounts; /* as the image has it unless given */
    bool pass_discard_request, pass_discard_snapshot, pass_discard_other;
};

struct qcow2_image {
    /* set at open */
    struct node *node;
    struct loop *loop;
    struct qcow2_shape shape;
    unsigned cluster_bits;
    unsigned sub_bits;   /* log2 of a subcluster; = cluster_bits
                          * without extended entries */
    unsigned l2_bits;    /* log2 of the descriptors of an L2 table */
    unsigned slice_bits; /* ... of a slice of one */
    struct qcow2_options opts;
    struct edge *data;   /* to the external data file, or NULL */
    uint64_t data_end;   /* there no data is written from here on */
    struct group *group; /* NULL on a read-only node */

    /* header.c: hdr mirrors sector; exts what stands behind the header */
    struct qcow2_header hdr;
    GArray *exts;
    struct header_sector sector;
    char *backing_name;   /* or NULL */
    char *backing_format; /* or NULL */

    /* map */
    uint64_t *l1; /* as in the file; hdr.l1_size entries */
    enum {
        L1_UNKNOWN,
        L1_DISTINCT,
        L1_SHARED
    } l1_tables;                  /* map/sparse-tables.c */
    size_t l1_bytes;              /* allocated, whole sectors */
    GHashTable *fresh;            /* l1 index -> offset of an L2 table (new, or
                                   * copied for shared ones) that l1[] does not
                                   * name yet; publish.c */
    struct metadata_cache slices; /* slice.c */

    struct pending pending; /* cluster index -> struct qcow2_delta */

    /* The rest of the state is private to one file each; NULL = not there. */
    struct qcow2_refcounts *refcounts; /* refcount.c */
    struct qcow2_space *space;         /* alloc.c */
    struct qcow2_publish *publish;     /* publish.c */
    struct qcow2_writes *writes;       /* data/cluster-lock.c */
    GHashTable *meta;                  /* overlap.c */
    struct qcow2_snapshots *snapshots; /* snapshot.c */
    struct qcow2_prepared *prepared;   /* snapshot/prepare.c */
    struct qcow2_bitmaps *bitmaps;     /* bitmap.c */
    struct qcow2_crypt *crypt;         /* luks.c; NULL: not encrypted */
    struct qcow2_codec *codec;         /* compress.c */

    uint64_t leaked; /* clusters that could not be freed and that
                      * nobody was told of */
    int leak_error;  /* why, of the last; -errno */
    struct co_latch background;
    struct co_latch preparing; /* steps of snapshot/prepare.c */
    unsigned quiesced, resizing;
    bool corrupt; /* found at run time: no more writes */
};

static inline struct qcow2_image *qcow2_image(const struct node *n)
{
    return n->state;
}

/* Where the metadata is. */
static inline struct node *qcow2_file(const struct qcow2_image *img)
{
    return node_file(img->node);
}

/* Where guest clusters are: the external data file or the same. NULL on a node
 * that was opened to be described or checked, without its data. */
static inline struct node *qcow2_data(const struct qcow2_image *img)
{
    return !img->shape.data_file ? node_file(img->node)
           : img->data           ? img->data->child
                                 : NULL;
}

/* Must the data file hold what the guest sees, for others? What is encrypted
 * does not. */
static inline bool qcow2_data_is_raw(const struct qcow2_image *img)
{
    return img->shape.data_file && (img->hdr.autoclear & QCOW2_A_DATA_RAW) &&
           img->hdr.crypt_method == QCOW2_CRYPT_NONE;
}

static inline uint64_t qcow2_cluster_size(const struct qcow2_image *img)
{
    return UINT64_C(1) << img->cluster_bits;
}

static inline uint64_t qcow2_sub_size(const struct qcow2_image *img)
{
    return UINT64_C(1) << img->sub_bits;
}

/* Bytes of one slice. */
static inline uint32_t qcow2_slice_bytes(const struct qcow2_image *img)
{
    return (img->shape.extended ? 16u : 8u) << img->slice_bits;
}

/* A flaw of the snapshot table or the bitmap directory; the text says what it
 * is. @grave: what is there may not be written to. */
typedef void qcow2_flaw_fn(void *arg, bool grave, const char *text);
