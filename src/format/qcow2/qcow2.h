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
 *   - A cluster is handed out again only when the removal of its last pointer is
 *     durable, its discard has ended, and so has every access to its data that
 *     began before (M3).
 *   - L2 tables and l1[] change in publish.c (one pass at a time), and in
 *     check.c, resize.c and snapshot.c with passes held off; nowhere else.
 *   - Only sector 0 of the header changes, by one aligned write, with the group
 *     locked or by its pass.  A failed one is taken back (header.c).
 *   - Writes of metadata go through qcow2_co_write_meta(), which lets none hit
 *     another structure.
 *
 * Files: one line at each group of declarations below.
 */
#pragma once
#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "format/alloc/group.h"
#include "format/alloc/metadata-cache.h"
#include "graph/driver.h"
#include "graph/io.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/loop.h"
#include "wire/qcow2.h"

enum {
    QCOW2_CACHE_BYTES = 32 << 20,  /* of L2 slices, per image */
    QCOW2_SLICE_MAX = 65536,       /* bytes of a slice of an L2 table */
    QCOW2_PENDING_MAX = 1 << 18,   /* changes before a writer must wait */
    QCOW2_GENERATIONS = 3,         /* failed, open, and one being closed */
};

/* What the options of the node say. */
struct qcow2_options {
    uint64_t cache_bytes;          /* of L2 slices */
    bool lazy_refcounts;           /* as the image has it unless given */
    bool pass_discard_request, pass_discard_snapshot, pass_discard_other;
};

/* Changes of one generation: cluster index -> struct qcow2_delta, ordered. */
struct qcow2_pending {
    uint64_t gen;
    GTree *map;
};

struct qcow2_image {
    /* set at open */
    struct node *node;
    struct loop *loop;
    struct qcow2_shape shape;
    unsigned cluster_bits;
    unsigned sub_bits;             /* log2 of a subcluster; = cluster_bits
                                    * without extended entries */
    unsigned l2_bits;              /* log2 of the descriptors of an L2 table */
    unsigned slice_bits;           /* ... of a slice of one */
    struct qcow2_options opts;
    struct edge *data;             /* to the external data file, or NULL */
    uint64_t data_end;             /* there no data is written from here on */
    struct group *group;           /* NULL on a read-only node */

    /* header.c: hdr mirrors sector; exts what stands behind the header */
    struct qcow2_header hdr;
    GArray *exts;
    uint8_t sector[QCOW2_SECTOR];  /* sector 0 as it is in the file */
    char *backing_name;            /* or NULL */
    char *backing_format;          /* or NULL */

    /* map */
    uint64_t *l1;                  /* as in the file; hdr.l1_size entries */
    enum { L1_UNKNOWN, L1_DISTINCT, L1_SHARED } l1_tables; /* hollow.c */
    size_t l1_bytes;               /* allocated, whole sectors */
    GHashTable *fresh;             /* l1 index -> offset of an L2 table (new, or
                                    * copied for shared ones) that l1[] does not
                                    * name yet; publish.c */
    struct metadata_cache slices;          /* slice.c */

    /* changes that wait, oldest generation first */
    struct qcow2_pending pending[QCOW2_GENERATIONS];
    unsigned n_pending_gens;
    unsigned n_pending;            /* changes in all of them */

    /* The rest of the state is private to one file each; NULL = not there. */
    struct qcow2_refcounts *refcounts; /* refcount.c */
    struct qcow2_space *space;         /* alloc.c */
    struct qcow2_publish *publish;     /* publish.c */
    struct qcow2_writes *writes;       /* claim.c: clusters being allocated */
    GHashTable *meta;                  /* overlap.c */
    struct qcow2_snapshots *snapshots; /* snapshot.c */
    struct qcow2_bitmaps *bitmaps;     /* bitmap.c */
    struct qcow2_crypt *crypt;         /* luks.c; NULL: not encrypted */
    struct qcow2_codec *codec;         /* compress.c */

    uint64_t leaked;               /* clusters that could not be freed and that
                                    * nobody was told of */
    int leak_error;                /* why, of the last; -errno */
    struct co_latch background;
    unsigned quiesced;
    bool corrupt;                  /* found at run time: no more writes */
    bool header_unknown;           /* in the file: header.c */
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
        : img->data ? img->data->child : NULL;
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

/* --- hollow.c: few bytes that claim much --- */

/* Guest bytes from @off that have no cluster because their tables, none of which
 * is in memory, lie in a hole of the file; 0: not known to be so. Of images that
 * nobody writes to. */
CO_FN uint64_t qcow2_co_sparse_tables(struct qcow2_image *img, uint64_t off,
                               uint64_t end);
/* Do two of @n entries lead to one table, or can that not be told? */
bool qcow2_l1_has_duplicates(const uint64_t *l1, uint32_t n);
/* Another entry of the active L1 table of such an image leads to the same table:
 * the image is corrupt. UINT32_MAX: none. */
uint32_t qcow2_l1_duplicate(struct qcow2_image *img, uint32_t l1_idx);

/* --- map.c: what is where --- */

struct qcow2_run {
    enum qcow2_kind kind;          /* never QCOW2_INVALID */
    bool in_place;                 /* DATA, ZERO with a place: refcount is 1 */
    uint64_t len;                  /* bytes */
    uint64_t host;                 /* DATA: file offset of the first byte; ZERO:
                                    * the same, or 0 = no place (with @in_place
                                    * that of a data file); PACKED: where the
                                    * stream begins */
    uint32_t compressed_len;           /* PACKED: bytes to read at most; such a run
                                    * lies within one cluster */
    uint64_t entry;                /* of the first cluster, as it stands */
};
/* The longest run of one kind (contiguous in the file where it has a place)
 * from guest offset @off that memory can tell, at most @len bytes; reads one
 * slice when the first cluster needs it. Offsets past the end of the disk, as
 * far as L1 reaches, are the VM state of snapshots. 0; -EIO for a corrupt entry
 * (reported); -ENOMEM. */
CO_FN int qcow2_co_lookup(struct qcow2_image *img, uint64_t off, uint64_t len,
                          struct qcow2_run *ret_run);
/* What cluster @idx is, with all that is pending; *@ret_n clusters from it, not
 * past @end, are the same: more than one only where there is no table. */
CO_FN int qcow2_co_descs(struct qcow2_image *img, uint64_t idx, uint64_t end,
                         struct qcow2_desc *ret_desc, uint64_t *ret_n);
/* The descriptor of cluster @idx with all that is pending. */
CO_FN int qcow2_co_desc(struct qcow2_image *img, uint64_t idx,
                        struct qcow2_desc *ret_desc);
/* Where the L2 table of @l1_idx is (fresh ones included); 0 = none. With
 * QCOW2_COPIED when its refcount is 1. */
uint64_t qcow2_l2_entry(const struct qcow2_image *img, uint32_t l1_idx);

/* --- slice.c: L2 slices in memory; key: cluster index >> slice_bits ---
 *
 * Use format/alloc/metadata-cache.h on &img->slices; t->data holds the descriptors as in the
 * file, for qcow2_desc_get(). A slice that is asked for exists: its L2 table has
 * an entry in L1, or is fresh. */

void qcow2_slices_init(struct qcow2_image *img);

/* --- pending.c: changes that wait for their generation ---
 *
 * Without extended entries every delta is `whole`.  With them a write or zeroing
 * of part of a cluster is not: { entry: host | COPIED, data: its subclusters };
 * also the first one into an absent cluster, as two may be first at once.
 * Replacing a compressed cluster, or moving to another host, is whole. */

/* Wait for a pass where QCOW2_PENDING_MAX changes wait already; its error when it
 * fails. Before every change, outside of group_join(); no cluster is locked. */
CO_FN int qcow2_co_pending_room(struct qcow2_image *img);
/* Cluster @idx. Between group_join() and group_data_done(). */
void qcow2_pending_add(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                       const struct qcow2_delta *delta);
/* @n clusters from @idx; entries that have a place count up by clusters. */
void qcow2_pending_add_run(struct qcow2_image *img, uint64_t gen, uint64_t idx,
                           uint64_t n, const struct qcow2_delta *first);
/* Fold what is pending for @idx over *@d; true if anything was. */
bool qcow2_pending_apply(const struct qcow2_image *img, uint64_t idx,
                         struct qcow2_desc *d);
/* Make one of all generations up to @gen; NULL when there is none. */
struct qcow2_pending *qcow2_pending_merge(struct qcow2_image *img,
                                          uint64_t gen);
void qcow2_pending_drop(struct qcow2_image *img, uint64_t gen);
void qcow2_pending_free(struct qcow2_image *img);

/* --- header.c: sector 0 --- */

CO_FN int qcow2_co_header_read(struct qcow2_image *img, GError **err);
/* Write @h into sector 0; img->hdr follows on success. Not flushed. */
CO_FN int qcow2_co_write_header(struct qcow2_image *img,
                                const struct qcow2_header *h);
/* @exts for the extensions, names of features shortened when they stand in the
 * way; a backing name that stands in their way in sector 0
 * moves to the end of it by the same write. */
CO_FN int qcow2_co_write_exts_apart(struct qcow2_image *img,
                                    const struct qcow2_header *h,
                                    GArray *exts);
/* Would that find room? */
bool qcow2_exts_fit(const struct qcow2_image *img, const struct qcow2_header *h,
                    const GArray *exts);
/* ... as the whole list in sector 0, so that nothing of the old one stays? */
bool qcow2_exts_fit_whole(const struct qcow2_image *img, const GArray *exts);
/* A write of the header that fails may have taken place: the old one is written
 * again and flushed, then the failure is told. Where that fails too nobody knows
 * which one the file has. Until it is settled nothing is allocated, freed or
 * published, so that both lead to what they led to. Settle it, if need be; the
 * group is locked, or its pass runs. */
CO_FN int qcow2_co_header_settle(struct qcow2_image *img);
/* May the image be written to? Settles the header. The group is not locked. 0 or
 * -errno. */
CO_FN int qcow2_co_ready(struct qcow2_image *img);
/* What sector 0 becomes with @exts; false when there is no room in it. */
bool qcow2_exts_put(const struct qcow2_image *img,
                    const struct qcow2_header *h, const GArray *exts,
                    uint8_t sector[QCOW2_SECTOR]);
/* The same with @exts for the extensions and, where it stands in sector 0, the
 * backing name. */
CO_FN int qcow2_co_write_exts(struct qcow2_image *img,
                              const struct qcow2_header *h, GArray *exts,
                              const char *name);

/* --- open.c --- */

CO_FN int qcow2_co_open(struct node *n, struct opts *o, unsigned flags,
                        GError **err);
CO_FN void qcow2_co_close(struct node *n);
CO_FN int qcow2_co_reopen(struct node *n, struct opts *o, unsigned flags,
                          GError **err);

/* --- read.c --- */

CO_FN int qcow2_co_decode(struct node *n, uint64_t off, struct iov iov,
                          const struct mapping *m, unsigned flags);
/* Guest bytes from their place, decrypted; @off is the guest offset. */
CO_FN int qcow2_co_read_data(struct qcow2_image *img, uint64_t off,
                             uint64_t host, struct iov iov, unsigned flags);
/* Whatever a run is. */
CO_FN int qcow2_co_read_run(struct qcow2_image *img,
                            const struct qcow2_run *run, uint64_t off,
                            struct iov iov, unsigned flags);

/* --- info.c, status.c --- */

CO_FN int qcow2_co_map(struct node *n, uint64_t off, uint64_t len,
                       unsigned flags, struct mapping *ret_map);
void qcow2_map_end(struct node *n, const struct mapping *m);
CO_FN int qcow2_co_info(struct node *n, json_t *info, GError **err);

/* --- backing.c, create.c --- */

int qcow2_check_backing_name(struct node *n, const char *name, const char *fmt,
                             GError **err);
CO_FN int qcow2_co_change_backing(struct node *n, const char *name,
                                  const char *fmt, GError **err);
enum qcow2_preallocation {
    QCOW2_PREALLOC_OFF, QCOW2_PREALLOC_METADATA, QCOW2_PREALLOC_FALLOC,
    QCOW2_PREALLOC_FULL,
};
/* What a new image shall be. */
struct qcow2_create {
    uint64_t size, cluster_size, refcount_bits;
    unsigned version;
    bool lazy_refcounts, extended, data_raw;
    int compression;               /* enum qcow2_compression */
    int preallocation;             /* enum qcow2_preallocation */
    char *backing_file, *backing_format, *data_file;
    struct qcow2_crypt_options *crypt; /* luks.c; NULL: none */
};
CO_FN int qcow2_co_create(struct node *file, struct opts *o, GError **err);
extern const struct create_option qcow2_create_options[];
/* node_driver.measure; measure.c */
int qcow2_measure(struct opts *o, struct image_measure *ret, GError **err);

/* --- refcount.c: values, blocks, table --- */

/* Load the refcount table: of a writable node, or for a check. */
CO_FN int qcow2_co_refcounts_open(struct qcow2_image *img, GError **err);
void qcow2_refcounts_close(struct qcow2_image *img);
/* The refcount of the cluster at @host, changes in memory included. */
CO_FN int qcow2_co_refcount_get(struct qcow2_image *img, uint64_t host,
                                uint64_t *ret_count);
/* Add @by (> 0) to all clusters that [@host, @host+@len) touches. Durable with
 * the pass of @gen, before its pointers. -ERANGE: too large for the width. */
CO_FN int qcow2_co_refcount_up(struct qcow2_image *img, uint64_t gen,
                               uint64_t host, uint64_t len, uint64_t by);
/* Take one away once the pointers of @gen are durable; those that reach 0 are
 * free then (quarantine). */
int qcow2_refcount_decrement(struct qcow2_image *img, uint64_t gen, uint64_t host,
                        uint64_t len);
/* Write what changed up to @gen; durable needs a flush. */
CO_FN int qcow2_co_refcounts_write(struct qcow2_image *img, uint64_t gen);

/* --- alloc.c: free space --- */

/* With NODE_CHECK refcounts that cannot be read are no hindrance. */
CO_FN int qcow2_co_space_open(struct qcow2_image *img, unsigned flags,
                              GError **err);
void qcow2_space_close(struct qcow2_image *img);
/* Whole clusters, contiguous, of refcount 1 by the time that generation @gen is
 * published. *@ret_fresh: they were never written and read as zeroes. */
CO_FN int qcow2_co_alloc(struct qcow2_image *img, uint64_t gen, uint64_t bytes,
                         uint64_t *ret_host, bool *ret_fresh);
/* Room for @len bytes (at most a cluster) of compressed data anywhere; may share
 * a cluster with others. */
CO_FN int qcow2_co_alloc_compressed(struct qcow2_image *img, uint64_t gen,
                                uint32_t len, uint64_t *ret_host);
/* Nothing ever pointed to it: give it back. */
void qcow2_unalloc(struct qcow2_image *img, uint64_t gen, uint64_t host,
                   uint64_t len);
/* The pointer to it goes with generation @gen: refcount_down, then quarantine.
 * Takes an entry, so compressed ones are freed right. */
int qcow2_free_desc(struct qcow2_image *img, uint64_t gen,
                    struct qcow2_desc d);
/* Clusters [@first, @first+@n) are in use no more, but stay counted: told when the
 * image is closed, unless who freed them says so before. */
void qcow2_leak(struct qcow2_image *img, uint64_t first, uint64_t n,
                int error);
/* Accesses to data and tables in the file; while others may write every lookup is
 * inside one. A freed cluster waits for those before it. */
uint64_t qcow2_access_begin(struct qcow2_image *img);
void qcow2_access_end(struct qcow2_image *img, uint64_t epoch);

/* --- overlap.c, dirty.c: metadata is not overwritten --- */

enum qcow2_meta {
    QCOW2_META_HEADER, QCOW2_META_L1, QCOW2_META_L2, QCOW2_META_REFTABLE,
    QCOW2_META_REFBLOCK, QCOW2_META_SNAPSHOTS, QCOW2_META_SNAPSHOT_L1,
    QCOW2_META_BITMAPS, QCOW2_META_CRYPT, QCOW2_META_DATA,
};
/* Write @len bytes of structure @what; -EIO when they would hit another one (the
 * image is marked corrupt then). Not flushed. */
CO_FN int qcow2_co_write_meta(struct qcow2_image *img, enum qcow2_meta what,
                              uint64_t host, const void *buf, uint64_t len);
/* [@host, @host+@len) holds structure @what / no more. A cluster whose refcount
 * becomes 0 is removed by itself. No effect on a read-only node. */
void qcow2_meta_add(struct qcow2_image *img, enum qcow2_meta what,
                    uint64_t host, uint64_t len);
void qcow2_meta_remove(struct qcow2_image *img, uint64_t host, uint64_t len);
/* Before guest data goes to [@host, @host+@len). */
CO_FN int qcow2_co_check_overlap(struct qcow2_image *img, enum qcow2_meta what,
                                 uint64_t host, uint64_t len);
/* [@host, @host+@len) has been allocated: the same for what held no structure a
 * moment ago, whatever its refcount said. */
CO_FN int qcow2_co_check_free(struct qcow2_image *img, uint64_t host,
                              uint64_t len);
/* Report at file offset @at; a writable image gets its corrupt bit (version 3)
 * and takes no more writes. Returns -EIO. */
CO_FN int qcow2_co_corrupt(struct qcow2_image *img, uint64_t at,
                           const char *fmt, ...) PRINTF_LIKE(3, 4);
/* May what the image is be changed? -EPERM: it is read-only; -EIO: corrupt. */
int qcow2_check_writable(const struct qcow2_image *img, GError **err);
CO_FN void qcow2_co_quiesce(struct node *n);
void qcow2_resume(struct node *n);

/* --- write.c, zero.c, discard.c, resize.c, publish.c, check.c --- */

CO_FN int qcow2_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags);
CO_FN int qcow2_co_copy_in(struct node *n, uint64_t off, struct node *src,
                           uint64_t src_off, uint64_t len, unsigned flags);
bool qcow2_can_copy_in(struct node *n, struct node *src);
/* Guest bytes to their place, encrypted; @off is the guest offset. */
CO_FN int qcow2_co_write_data(struct qcow2_image *img, uint64_t off,
                              uint64_t host, struct iov iov, unsigned flags);
CO_FN int qcow2_co_flush(struct node *n);
CO_FN int qcow2_co_zero(struct node *n, uint64_t off, uint64_t len,
                        unsigned flags);
CO_FN int qcow2_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int qcow2_co_truncate(struct node *n, uint64_t size, GError **err);
CO_FN int qcow2_co_make_empty(struct node *n, GError **err);
CO_FN int qcow2_co_check(struct node *n, unsigned fix,
                         struct check_result *res, GError **err);
extern const struct group_ops qcow2_group_ops;
/* A loaded image becomes writable: refcounts (rebuilt when dirty), space,
 * group. / All to the file, then writes are over. The state of both is gone
 * after the second, also when it failed. */
CO_FN int qcow2_co_begin_writes(struct qcow2_image *img, unsigned flags,
                                GError **err);
CO_FN int qcow2_co_end_writes(struct qcow2_image *img);

/* --- compress.c --- */

/* Read @iov at guest offset @off, inside one compressed cluster. */
CO_FN int qcow2_co_read_compressed(struct qcow2_image *img,
                               const struct qcow2_run *run, uint64_t off,
                               struct iov iov, unsigned flags);
/* Write whole clusters compressed (IO_COMPRESSED); those that do not shrink are
 * written as they are. */
CO_FN int qcow2_co_write_compressed(struct qcow2_image *img, uint64_t off,
                                struct iov iov, unsigned flags);
void qcow2_codec_close(struct qcow2_image *img);

/* --- snapshot.c, snapshot-*.c --- */

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    char *id, *name;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec, vm_state_size, disk_size;
    uint64_t icount;               /* UINT64_MAX: none */
    uint8_t *extra;                /* what we do not know, behind what we do */
    uint32_t extra_len;
};
/* node_driver.co_snapshot */
CO_FN int qcow2_co_snapshot(struct node *n, enum snapshot_op op,
                            const char *name, GError **err);
/* SNAPSHOT_LOAD. */
CO_FN int qcow2_co_snapshot_load(struct node *n, const char *name,
                                 GError **err);
/* node_driver.co_snapshot_gaps */
CO_FN int qcow2_co_snapshot_gaps(struct node *n, unsigned i,
                                 struct snapshot_gaps *g, GError **err);
/* A flaw of the snapshot table or the bitmap directory; the text says what it
 * is. @grave: what is there may not be written to. */
typedef void qcow2_flaw_fn(void *arg, bool grave, const char *text);
/* Load the table, as far as it makes sense (L1 tables are not read); free it. */
CO_FN int qcow2_co_snapshots_open(struct qcow2_image *img, GError **err);
void qcow2_snapshots_close(struct qcow2_image *img);
unsigned qcow2_n_snapshots(const struct qcow2_image *img);
const struct qcow2_snapshot *qcow2_snapshot_at(const struct qcow2_image *img,
                                               unsigned i);
/* Bytes of the table in the file. */
uint64_t qcow2_snapshots_bytes(const struct qcow2_image *img);

/* What is wrong with snapshots or bitmaps so that nothing may be written to the
 * image before a repair; NULL: nothing. */
const char *qcow2_lists_damage(const struct qcow2_image *img);

/* --- bitmap.c, bitmap-*.c --- */

/* Load the directory, as far as it makes sense. */
CO_FN int qcow2_co_bitmaps_open(struct qcow2_image *img, GError **err);
/* Writes are over, all else is published: store what was recorded. What cannot
 * be stored stays marked as not true. */
CO_FN void qcow2_co_bitmaps_end_writes(struct qcow2_image *img);
void qcow2_bitmaps_close(struct qcow2_image *img);
/* The guest is about to change [@off, @off+@len): record it. 0, or the file
 * could not be told that its bitmaps are out of date. Yields at most once
 * between two times that they are stored. */
CO_FN int qcow2_co_bitmaps_mark(struct qcow2_image *img, uint64_t off,
                                uint64_t len);
/* The disk is about to change as a whole, its size for example: all bitmaps are
 * stored anew afterwards. / It has become @size bytes; what is in
 * [@off, @off+@len) of it is different now. */
CO_FN int qcow2_co_bitmaps_hold(struct qcow2_image *img);
void qcow2_bitmaps_changed(struct qcow2_image *img, uint64_t size,
                           uint64_t off, uint64_t len);
/* Where the directory is; 0, 0: nowhere. */
void qcow2_bitmaps_range(const struct qcow2_image *img, uint64_t *ret_host,
                         uint64_t *ret_len);
/* node_driver.co_bitmap */
CO_FN int qcow2_co_bitmap(struct node *n, enum bitmap_op op, const char *name,
                          const struct bitmap_args *args, GError **err);
/* --- luks.c --- */

/* Take the options "encrypt.*" and unlock; crypt_method says which. */
CO_FN int qcow2_co_crypt_open(struct qcow2_image *img, struct opts *o,
                              unsigned flags, GError **err);
void qcow2_crypt_close(struct qcow2_image *img);
CO_FN int qcow2_co_crypt_read(struct qcow2_image *img, uint64_t off,
                              uint64_t host, struct iov iov, unsigned flags);
CO_FN int qcow2_co_crypt_write(struct qcow2_image *img, uint64_t off,
                               uint64_t host, struct iov iov, unsigned flags);
/* The range of its header in the file; 0, 0: none. */
void qcow2_crypt_range(const struct qcow2_image *img, uint64_t *ret_host,
                       uint64_t *ret_len);
/* Creation: take "encrypt.*"; bytes of the header; write it at @host. */
int qcow2_crypt_take_options(struct opts *o,
                             struct qcow2_crypt_options **ret_options,
                             GError **err);
void qcow2_crypt_options_free(struct qcow2_crypt_options *c);
int qcow2_crypt_method(const struct qcow2_crypt_options *c);
uint64_t qcow2_crypt_header_bytes(const struct qcow2_crypt_options *c);
CO_FN int qcow2_co_crypt_create(const struct qcow2_crypt_options *c,
                                struct node *file, uint64_t host,
                                GError **err);

/* --- datafile.c --- */

/* Open and attach what option "data-file" says. -EINVAL when the image needs one
 * and only its header names it, or has none. */
CO_FN int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                                  unsigned flags, GError **err);
/* The name in the header, fit to be shown; owned. NULL: none. */
char *qcow2_data_file_name(const struct qcow2_image *img);
/* Is the backing file that will be opened one too many? */
int qcow2_check_backing(const struct qcow2_image *img, GError **err);
/* The data file has at least @size bytes from now on. / It ends with a disk of
 * @size bytes, as far as it can. */
CO_FN int qcow2_co_data_file_reach(struct qcow2_image *img, uint64_t size,
                                   GError **err);
CO_FN int qcow2_co_data_file_cut(struct qcow2_image *img, uint64_t size);
/* Bytes at @host, wherever data is, as they are: zeroes past the end of a data
 * file; nothing is written past that of the disk. */
CO_FN int qcow2_co_data_read(struct qcow2_image *img, uint64_t host,
                             struct iov iov, unsigned flags);
CO_FN int qcow2_co_data_write(struct qcow2_image *img, uint64_t host,
                              struct iov iov, unsigned flags);
/* Before [@off, @off+@len) is marked zero: the data file is told, one that is
 * raw has it. / Instead of marking it: in a raw one it is data. Begins with a
 * (sub)cluster. */
CO_FN int qcow2_co_data_zero(struct qcow2_image *img, uint64_t off,
                             uint64_t len, unsigned flags);
CO_FN int qcow2_co_data_map(struct qcow2_image *img, uint64_t off,
                            uint64_t end);

/* Members of ImageInfo's format-specific data that they add. */
void qcow2_crypt_info(const struct qcow2_image *img, json_t *data);
CO_FN int qcow2_co_bitmaps_info(struct qcow2_image *img, json_t *data,
                                GError **err);
void qcow2_snapshots_info(const struct qcow2_image *img, json_t *info);
