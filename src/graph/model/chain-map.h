/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who answers in a long chain: for pieces of a disk, how many images from one
 * on down have nothing there.
 *
 * A map belongs to an image, the first below the one that guests write to, so
 * that their writes change nothing in it.  It says only "these have nothing",
 * which whoever reads checks with the image that it leads to.  Where that image
 * is read-only and the piece is plain data of its file, the place in the file is
 * known, too, and nobody is asked.  An image that gets something makes all maps
 * over it forget that piece; an edge that moves, or an image that becomes
 * writable, ends them.  Maps of a graph stay within a bound of memory together: pieces
 * that were learnt first are forgotten first.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "graph/graph-int.h"

struct chain_map {
    struct node **nodes; /* the owner and all below it; borrowed */
    struct node **files; /* of those that are images */
    unsigned count;
    unsigned piece_bits; /* a piece is 1 << piece_bits bytes */
    unsigned refs;
    bool dead;
    uint64_t version;  /* changes whenever something is forgotten */
    GHashTable *pages; /* number -> struct chain_page */
    GQueue order;      /* of them, oldest first */
};

/* A reference to the map of @n, made if the chain below is long enough and can
 * have one. NULL: none. */
struct chain_map *chain_map_get(struct node *n);
void chain_map_unref(struct chain_map *m);
/* How many have nothing at @off, from the owner on; *@ret_len, at most @len:
 * how far that holds. -1: it is not known. */
int chain_map_find(const struct chain_map *m, uint64_t off, uint64_t len,
                   uint64_t *ret_len);
/* Where the bytes at @off are in the file of the image that answers; *@len
 * becomes as long as that holds. False: it is not known. */
bool chain_map_find_host(const struct chain_map *m, uint64_t off, uint64_t *len,
                         uint64_t *ret_host);
/* The piece at @off is known now, unless m->version is not @version any more.
 * @host: where its first byte is, or CHAIN_MAP_NO_HOST. */
#define CHAIN_MAP_NO_HOST UINT64_MAX
void chain_map_learn(struct chain_map *m, uint64_t off, unsigned skip,
                     uint64_t host, uint64_t version);
/* @n may have got something there. Cheap where no map is over it. */
void chain_maps_forget(struct node *n, uint64_t off, uint64_t len);
/* All that is known with @n in it. */
void chain_maps_drop(struct node *n);
