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
    X(GROUP_WAIT,     "a pass waits for the data writes of its generation") \
    X(GROUP_DATA,     "data is durable before its pointers are written") \
    X(GROUP_POINTERS, "pointers are durable before the flush returns") \
    X(TABLE_FIRST,    "a new L2 table is written a flush before its L1 entry") \
    X(FILE_LENGTH,    "the file reaches the end of a cluster it points to") \
    X(NEED_CHECK,     "NEED_CHECK is written a flush before the pointers") \
    X(PIVOT_DATA,     "data and metadata are durable before the header") \
    X(PIVOT_HEADER,   "the header is durable before success is reported") \
    X(RESIZE_CLEAR,   "the new part is durably zero before the disk grows") \
    X(RESIZE_HEADER,  "the new size is durable before success is reported") \
    X(CREATE_TABLES,  "tables and name are durable before the header") \
    X(CREATE_NAME,    "the directory entry is durable, too") \
    X(QED_FUA,        "a write with FUA publishes its pointers") \
    X(FILE_FUA,       "a write with FUA to a file flushes the file")

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
#else
#define BARRIER_OFF(id) false
#endif

#define BARRIER(id, call) (BARRIER_OFF(id) ? 0 : (call))
/* Where a step that is not a flush happens instead, when taken out. */
#define BARRIER_LATE(id, call) (BARRIER_OFF(id) ? (call) : 0)
