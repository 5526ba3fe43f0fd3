/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Private to snapshot.c, snapshot-*.c. */
#pragma once
#include "format/qcow2/qcow2.h"

struct qcow2_snapshots {
    GPtrArray *list;               /* struct qcow2_snapshot that can be used, in
                                    * order */
    uint64_t bytes;                /* of the table in the file */
    bool flawed;                   /* a check has something to say about it */
    char *damage;                  /* what keeps it from being changed, or NULL */
};

enum {
    QCOW2_SNAPSHOT_BYTES = 40,     /* of an entry, its fixed part */
    QCOW2_SNAPSHOT_EXTRA = 24,     /* of its extra data, what we know */
};
#define QCOW2_NO_ICOUNT UINT64_MAX

/* --- snapshot/table.c --- */

void qcow2_snapshot_free(struct qcow2_snapshot *s);
/* By id, or else by name; NULL. */
struct qcow2_snapshot *qcow2_snapshot_find(const struct qcow2_image *img,
                                           const char *name);
/* The table of @list as it stands in a file; NULL when memory is short. Free
 * with g_free(). */
uint8_t *qcow2_snapshots_encode(const GPtrArray *list, uint64_t *ret_bytes);

/* --- snapshot/read.c --- */

/* Read the table as far as it makes sense: the snapshots that can be used are
 * added to @list, and @tell is called for each flaw. *@ret_bytes: of the table in
 * the file as far as it was read. 0, or the file could not be read. */
CO_FN int qcow2_co_snapshots_read(struct qcow2_image *img, GPtrArray *list,
                                  uint64_t *ret_bytes, qcow2_flaw_fn *tell,
                                  void *arg);

/* --- snapshot/load.c --- */

/* The L1 table of @s, at least the entries of a disk of @size bytes, in memory
 * of io_buf_get(); *@ret_bytes: its length there. */
CO_FN int qcow2_co_snapshot_l1(struct qcow2_image *img,
                               const struct qcow2_snapshot *s, uint64_t size,
                               uint64_t **ret_l1, size_t *ret_bytes,
                               GError **err);

/*
 * --- snapshot/switch.c: tables and refcounts that change at one stroke ---
 *
 * COPIED flags and refcounts say the same in two places.  So that no crash
 * shows one without the other, whatever of them changes is written to places
 * that nothing leads to yet: L2 tables, L1 tables, the list of snapshots, blocks
 * of refcounts and the table of those.  All that is durable before one write of
 * the header, sector 0, leads to it; then the old places are free.
 *
 * The image is drained, all is published, and the group is locked, from the
 * first call to the last.
 */
struct qcow2_transaction {
    struct qcow2_image *img;
    GHashTable *moved;             /* number of a block that has a new place ->
                                    * struct qcow2_decrement: the old one */
    GArray *taken;                 /* struct qcow2_decrement: allocated for it */
    uint64_t end;                  /* of the file before, in clusters */
    GArray *old;                   /* struct qcow2_decrement: one reference each goes
                                    * when the switch is durable */
    GArray *exts;                  /* NULL: the header's extensions stay; else
                                    * no count may change. Borrowed */
    bool done;                     /* the header was written */
    uint8_t *table, *other;        /* of one cluster, for the callers */
};

/* -ENOMEM; end it in any case. */
int qcow2_transaction_begin(struct qcow2_transaction *sw, struct qcow2_image *img);
void qcow2_transaction_end(struct qcow2_transaction *sw);
/* The refcounts of clusters that [@host, @host+@len) touches, which are in use,
 * change by @by: 1 or -1, but not to 0. -EINVAL: too large for their width. */
CO_FN int qcow2_transaction_co_count(struct qcow2_transaction *sw, uint64_t host,
                                uint64_t len, int by);
/* Write @len bytes of structure @what to a place of its own. */
CO_FN int qcow2_transaction_co_store(struct qcow2_transaction *sw, enum qcow2_meta what,
                                const void *buf, uint64_t len,
                                uint64_t *ret_host);
/* One reference to [@host, @host+@len) goes with the switch. */
void qcow2_transaction_drop(struct qcow2_transaction *sw, uint64_t host, uint64_t len);
/* Let the header become @h, and refcounts what was counted. A failure before
 * the header is written leaves the image, in memory and file, as it was; one
 * after it is sticky. */
CO_FN int qcow2_transaction_co_run(struct qcow2_transaction *sw,
                              const struct qcow2_header *h);
/* What was done is given up; no I/O is needed for that. */
CO_FN void qcow2_transaction_co_undo(struct qcow2_transaction *sw);

/* --- snapshot/refs.c: what L1 tables refer to; big-endian entries --- */

/* All that @n entries of @l1 refer to gets one more reference, for a second L1
 * table that *@ret_l1, of as many entries, is to become. With @both @l1 itself
 * is to become the same table; else it stays what it is. */
CO_FN int qcow2_refs_co_share(struct qcow2_transaction *sw, const uint64_t *l1,
                              uint32_t n, bool both, uint64_t *ret_l1);
/* @n entries of @l1, a table that nothing leads to any more, lose the references
 * to what the active tables do not refer to, at once; with @all to everything,
 * and the tables themselves go, too. What cannot be read leaks. */
CO_FN void qcow2_refs_co_free(struct qcow2_transaction *sw, const uint64_t *l1,
                              uint32_t n, bool all);
/* ... and those to what the active tables do refer to, by a switch; *@ret_l1,
 * the active table, says what is not shared any more. */
CO_FN int qcow2_refs_co_unshare(struct qcow2_transaction *sw, const uint64_t *l1,
                                uint32_t n, uint64_t *ret_l1);
