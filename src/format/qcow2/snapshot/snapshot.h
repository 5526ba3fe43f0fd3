/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Internal snapshots. */
#pragma once
#include "format/qcow2/meta/transaction.h"
#include "graph/image.h"

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    char *id, *name;
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec, vm_state_size, disk_size;
    uint64_t icount; /* UINT64_MAX: none */
    uint8_t *extra;  /* what we do not know, behind what we do */
    uint32_t extra_len;
};

struct qcow2_snapshots {
    GPtrArray *list; /* struct qcow2_snapshot that can be used, in
                      * order */
    uint64_t bytes;  /* of the table in the file */
    bool flawed;     /* a check has something to say about it */
    char *damage;    /* what keeps it from being changed, or NULL */
};

enum {
    QCOW2_SNAPSHOT_BYTES = 40, /* of an entry, its fixed part */
    QCOW2_SNAPSHOT_EXTRA = 24, /* of its extra data, what we know */
};
#define QCOW2_NO_ICOUNT UINT64_MAX

/* --- snapshot.c, load.c, gaps.c: operations of the node --- */

/* node_driver.co_snapshot */
CO_FN int qcow2_co_snapshot(struct node *n, enum snapshot_op op,
                            const char *name, GError **err);
/* SNAPSHOT_LOAD. */
CO_FN int qcow2_co_snapshot_load(struct node *n, const char *name,
                                 GError **err);
/* node_driver.co_snapshot_gaps */
CO_FN int qcow2_co_snapshot_gaps(struct node *n, unsigned i,
                                 struct snapshot_gaps *g, GError **err);

/* --- prepare.c: the same; how it works is in prepare.h --- */

/* node_driver.co_snapshot_prepare, co_snapshot_tidy */
CO_FN void qcow2_co_snapshot_prepare(struct node *n);
CO_FN void qcow2_co_snapshot_tidy(struct node *n);

/* --- table.c --- */

/* Load the table, as far as it makes sense (L1 tables are not read); free
 * it. */
CO_FN int qcow2_co_snapshots_open(struct qcow2_image *img, GError **err);
void qcow2_snapshots_close(struct qcow2_image *img);
unsigned qcow2_n_snapshots(const struct qcow2_image *img);
const struct qcow2_snapshot *qcow2_snapshot_at(const struct qcow2_image *img,
                                               unsigned i);
/* Bytes of the table in the file. */
uint64_t qcow2_snapshots_bytes(const struct qcow2_image *img);
void qcow2_snapshot_free(struct qcow2_snapshot *s);
/* By id, or else by name; NULL. */
struct qcow2_snapshot *qcow2_snapshot_find(const struct qcow2_image *img,
                                           const char *name);
/* The table of @list as it stands in a file; NULL when memory is short. Free
 * with g_free(). */
uint8_t *qcow2_snapshots_encode(const GPtrArray *list, uint64_t *ret_bytes);
void qcow2_snapshots_info(const struct qcow2_image *img, json_t *info);

/* --- read.c --- */

/* Read the table as far as it makes sense: the snapshots that can be used are
 * added to @list, and @tell is called for each flaw. *@ret_bytes: of the table
 * in the file as far as it was read. 0, or the file could not be read. */
CO_FN int qcow2_co_snapshots_read(struct qcow2_image *img, GPtrArray *list,
                                  uint64_t *ret_bytes, qcow2_flaw_fn *tell,
                                  void *arg);

/* --- load.c --- */

/* The L1 table of @s, at least the entries of a disk of @size bytes, in memory
 * of io_buf_get(); *@ret_bytes: its length there. */
CO_FN int qcow2_co_snapshot_l1(struct qcow2_image *img,
                               const struct qcow2_snapshot *s, uint64_t size,
                               uint64_t **ret_l1, size_t *ret_bytes,
                               GError **err);

/* --- refs.c: what L1 tables refer to; big-endian entries --- */

/* All that @n entries of @l1 refer to gets one more reference, for a second L1
 * table that *@ret_l1, of as many entries, is to become. With @both @l1 itself
 * is to become the same table; else it stays what it is. */
CO_FN int qcow2_refs_co_share(struct qcow2_transaction *tx, const uint64_t *l1,
                              uint32_t n, bool both, uint64_t *ret_l1);
/* @n entries of @l1, a table that nothing leads to any more, lose the
 * references to what the active tables do not refer to, at once; with @all to
 * everything, and the tables themselves go, too. What cannot be read leaks. */
CO_FN void qcow2_refs_co_free(struct qcow2_transaction *tx, const uint64_t *l1,
                              uint32_t n, bool all);
/* ... and those to what the active tables do refer to, by a metadata
 * transaction; *@ret_l1, the active table, says what is not shared any more. */
CO_FN int qcow2_refs_co_unshare(struct qcow2_transaction *tx,
                                const uint64_t *l1, uint32_t n,
                                uint64_t *ret_l1);
