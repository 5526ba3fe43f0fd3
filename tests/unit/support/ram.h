/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Driver "ram": an image in memory, for tests of what lies above a format.
 *
 * A disk is made and filled by the test, then opened by name:
 *     {"driver": "ram", "disk": "top", "backing": "base"}
 * With clusters it behaves as an overlay does; without it is a base that holds
 * every byte.  A hook sees each operation before and after its effect and may
 * yield, so that a test decides what happens between what.  The driver asserts
 * the promises that graph/driver.h makes to drivers.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "base/annot.h"
#include "loop/co.h"

struct node_driver;
extern const struct node_driver ram_driver;

enum ram_op { RAM_READ, RAM_WRITE, RAM_ZERO, RAM_DISCARD, RAM_STATUS, RAM_OPS };
/* Of a cluster of a disk with clusters. */
enum ram_state { RAM_ABSENT, RAM_DATA, RAM_ZEROES };

struct ram_disk {
    char *name;
    uint64_t size;
    uint32_t cluster;      /* 0: a base, all of it allocated */
    bool no_zero_clusters; /* co_zero is -ENOTSUP */
    uint8_t *data;         /* @size, rounded up to clusters */
    uint8_t *state;        /* enum ram_state, one a unit of 512 or cluster */
    uint32_t unit;
    uint8_t *allocating;     /* clusters that a write is allocating now */
    unsigned count[RAM_OPS]; /* operations begun */
    uint64_t bytes[RAM_OPS];
    /* Called before (@after false) and after the effect; a result < 0 fails the
     * operation (before it has an effect, or after). NULL: nothing. */
    CO_FN_PTR int (*co_hook)(struct ram_disk *d, enum ram_op op, uint64_t off,
                             uint64_t len, bool after);
    void *arg; /* the hook's */
};

/* Known to the driver until ram_disk_free(). @cluster 0: a base of zeroes whose
 * holes (state RAM_ZEROES) have a granularity of 512. */
struct ram_disk *ram_disk_new(const char *name, uint64_t size,
                              uint32_t cluster);
void ram_disk_free(struct ram_disk *d);
/* Contents that tell where they belong: @seed and the offset. As data. */
void ram_disk_fill(struct ram_disk *d, uint64_t off, uint64_t len,
                   unsigned seed);
void ram_fill_buf(uint8_t *buf, uint64_t off, uint64_t len, unsigned seed);
/* Set the state of what lies in [@off, @off+@len); zeroes clear the bytes. */
void ram_disk_set(struct ram_disk *d, uint64_t off, uint64_t len,
                  enum ram_state state);
enum ram_state ram_disk_state(const struct ram_disk *d, uint64_t off);
