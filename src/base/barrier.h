/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The points that order writes on disk, by name.
 *
 * BARRIER(ID, call) stands around every flush that a format's consistency or a
 * promise to the guest rests on; it is the call and nothing else.  The crash
 * tests are built with SLUICE_MUTATION: there one of the names can be taken
 * out, and some state after a power loss must then break a promise, or the
 * barrier is not needed (doc/testing.rst).
 */
#pragma once
#include <stdbool.h>

/* Name, what it keeps in order. */
#define BARRIERS(X) \
    X(GROUP_WAIT, "a pass waits for the data writes of its generation") \
    X(GROUP_DATA, "data is durable before its pointers are written") \
    X(GROUP_POINTERS, "pointers are durable before the flush returns") \
    X(GROUP_AGE, "pointers reach the file within a second") \
    X(TABLE_FIRST, "a new L2 table is written a flush before its L1 entry") \
    X(FILE_LENGTH, "the file reaches the end of a cluster it points to") \
    X(NEED_CHECK, "NEED_CHECK is written a flush before the pointers") \
    X(AUTOCLEAR, "unknown autoclear bits are gone before any write") \
    X(REPAIR_COPIES, "what a repair appended is durable before its entry") \
    X(REPAIR_ENTRIES, "what a repair changed is durable before the mark goes") \
    X(QCOW2_TABLE_FIRST, "a new L2 table is written a flush before its L1 " \
                         "entry") \
    X(QCOW2_REFCOUNTS, "refcounts are written a flush before the pointers") \
    X(QCOW2_REFBLOCK, "a refcount block is durable before its table entry") \
    X(QCOW2_QUARANTINE, "a cluster is free when no durable pointer is left") \
    X(QCOW2_DISCARD, "a cluster is free when its discard has ended") \
    X(QCOW2_ACCESS, "a cluster is free when nobody reads or writes it") \
    X(QCOW2_SETTLE, "a drained or closed image's changes are in the file") \
    X(QCOW2_REPAIR, "what a repair changed is durable before the mark goes") \
    X(QCOW2_DATA_FILE, "the data file is flushed with the tables") \
    X(QCOW2_REBUILD, "new refcounts are durable before the header") \
    X(QCOW2_L1_TABLE, "a larger L1 table is durable before the header") \
    X(QCOW2_RESIZE_CLEAR, "the new part is durably zero before the disk " \
                          "grows") \
    X(QCOW2_RESIZE_HEADER, "the new size is durable before success is " \
                           "reported") \
    X(QCOW2_EMPTY_BLOCK, "a refcount block has durably no entry before it is " \
                         "free") \
    X(QCOW2_SNAPSHOT, "what a snapshot changes is durable before the header") \
    X(QCOW2_SNAPSHOT_HEADER, "the header is durable before what it led to is " \
                             "free") \
    X(QCOW2_BITMAPS, "bitmaps are marked as in use before the first write") \
    X(PIVOT_DATA, "data and metadata are durable before the header") \
    X(PIVOT_NAME, "the new name is durable before the header") \
    X(PIVOT_HEADER, "the header is durable before success is reported") \
    X(COMMIT_BASE, "the base is durable before the images above it go") \
    X(BACKUP_TARGET, "the target is durable before the bitmap forgets") \
    X(MIRROR_TARGET, "the target is durable before it takes the disk's place") \
    X(CHECKPOINT_BEGIN, "bits are durably set before the header is believed") \
    X(CHECKPOINT_MARK, "a bit is durably set before its unit changes") \
    X(CHECKPOINT_SIDES, "both sides are durable before a bit is cleared") \
    X(CHECKPOINT_TAKE, "a checkpoint is durably taken before guests come") \
    X(CHECKPOINT_GONE, "a checkpoint is durably gone before changes are not " \
                       "marked") \
    X(RESIZE_CLEAR, "the new part is durably zero before the disk grows") \
    X(RESIZE_HEADER, "the new size is durable before success is reported") \
    X(EMPTY_TABLES, "tables are durably empty before clusters are cut off") \
    X(CREATE_TABLES, "tables and name are durable before the header") \
    X(CREATE_HEADER, "the header is durable before success is reported") \
    X(CREATE_NAME, "the directory entry is durable, too") \
    X(FILE_SIZE, "a new file's size is durable") \
    X(FILE_NAME, "a new file's directory entry is durable") \
    X(FILE_RENAME, "a new name is durable before the old one is not needed") \
    X(FILE_UNLINK, "a removal is durable before success is reported") \
    X(OVERLAY_DATA, \
      "the data file is durable before the bits of its clusters") \
    X(OVERLAY_BLOCK, "a block of the map is durable before the summary knows") \
    X(OVERLAY_FLUSH, "a flush covers what is written in place") \
    X(OVERLAY_SETTLE, "a drained or closed image's bits are in the file") \
    X(OVERLAY_HEADER, "a header slot is durable before it is relied on") \
    X(OVERLAY_POPULATED, "what nobody wrote is durably zero before COMPLETE") \
    X(OVERLAY_CLEAR, "the new part is durably zero before the disk grows") \
    X(OVERLAY_EMPTY, "bits are durably gone before data is freed") \
    X(OVERLAY_CREATE, "data file and maps are durable before the header") \
    X(QED_DRAIN, "a drained image's pointers are in the file") \
    X(QED_CLOSE, "a closed image's pointers are in the file") \
    X(COW_FUA, "a write with FUA to an image that allocates") \
    X(EARLY_FLUSH, "what was written before the base was read is in the " \
                   "driver") \
    X(ZERO_FUA, "zeroes with FUA") \
    X(TAIL_FUA, "a write with FUA past the last whole block") \
    X(DRIVER_FUA, "a write with FUA to a driver that knows none") \
    X(FILE_FUA, "a write with FUA to a file flushes the file") \
    X(REOPEN_FLUSH, "what becomes read-only is durable") \
    X(JOURNAL_DATA, "the journal's content is durable before its name") \
    X(JOURNAL_NAME, "the journal's new name is durable")

#ifdef SLUICE_MUTATION
enum barrier {
#define X(id, text) BARRIER_##id,
    BARRIERS(X)
#undef X
        BARRIER_COUNT
};
/* In tests/crash: was this one taken out? */
bool barrier_is_off(enum barrier b);
#define BARRIER_OFF(id) barrier_is_off(BARRIER_##id)
#define BARRIER_COURTESY(call) 0
#else
#define BARRIER_OFF(id) false
/* A flush that nobody may rely on, for it cannot say that it failed, or is
 * there to say just that: a machine that loses power does without. */
#define BARRIER_COURTESY(call) (call)
#endif

#define BARRIER(id, call) (BARRIER_OFF(id) ? 0 : (call))
/* Where a step that is not a flush happens instead, when taken out. */
#define BARRIER_LATE(id, call) (BARRIER_OFF(id) ? (call) : 0)
