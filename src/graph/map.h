/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where the bytes of a range are: the one question that a format answers for
 * reads, for writes in place, for status and for copies that the file system
 * shares.  Linux's iomap is the model: a mapping has a begin and an end, and
 * what it names stays where it is until the end.
 *
 * The driver describes; the graph does the plain I/O on what is described, so a
 * format keeps only what is its own: allocating, decoding, publishing.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"

struct early;
struct node;

enum map_kind {
    MAP_ABSENT, /* this node has nothing there: its backing file decides */
    MAP_ZERO,   /* reads as zeroes */
    MAP_DATA,
};

enum map_flags {
    /* A guest is about to write all of the range: the driver does what must be
     * done before any such write (dirty bitmaps), and says where one may go in
     * place. A populate is not announced. */
    MAP_WRITE = 1 << 0,
};

struct mapping {
    enum map_kind kind;
    bool in_place;   /* MAP_DATA: a write may go to @child at @host */
    bool like_child; /* MAP_DATA: @child knows which parts are zeroes */
    uint64_t len;    /* bytes from the offset asked for; > 0 */
    /* Where the bytes are, as they are: of MAP_DATA, or set aside for a
     * MAP_ZERO. Borrowed; NULL: the node is storage, or only its driver can
     * make the bytes (compressed, encrypted). */
    struct node *child;
    uint64_t host; /* offset of the first byte in @child */
    /* MAP_DATA that is not in the driver yet, all of it in one cluster:
     * graph/model/early.h. A reference; no @child. */
    struct early *early;
    uint64_t cookie, info; /* the driver's own */
};

/* Ask @n, which is open, about [@off, @off+@len), inside its size; @len caps
 * the answer. 0, or -errno and then nothing is to be ended. Yields. A node
 * without a map of its own is data; a filter is like its file. */
CO_FN int node_co_map_begin(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map);
/* What @m named may move from here on. */
void node_map_end(struct node *n, const struct mapping *m);
/* The answer alone, for those who hold the range or only want to know: is the
 * range data, zeroes or absent? */
CO_FN int node_co_map(struct node *n, uint64_t off, uint64_t len,
                      struct mapping *ret_map);
