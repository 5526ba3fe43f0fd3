/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the header in the file says, and what the driver believes that it says. */
#include <string.h>
#include "base/endian.h"
#include "control/control-int.h"
#include "fault.h"
#include "format/qcow2/qcow2.h"
#include "format/qed/qed.h"

enum {
    AUTOCLEAR = 88,
    AUTOCLEAR_BITMAPS = 1,
    HEADER_LENGTH = 100,
    BITMAP_ENTRY = 24,
    BITMAP_IN_USE = 1,
};
#define EXT_BITMAPS 0x23852875u

static void top_read(struct rig *r, uint64_t off, void *buf, size_t len)
{
    const struct sim_image *live = sim_live(r->sim);

    sim_image_read(live, sim_image_find(live, "/top"), off, buf, len);
}

static const uint8_t *driver_sector(struct node *n, bool *ret_unknown)
{
    if (!strcmp(n->drv->name, "qcow2")) {
        *ret_unknown = qcow2_image(n)->sector.unknown;
        return qcow2_image(n)->sector.bytes;
    }
    if (!strcmp(n->drv->name, "qed")) {
        *ret_unknown = qed_image(n)->sector.unknown;
        return qed_image(n)->sector.bytes;
    }
    return NULL;
}

void header_check(struct rig *r)
{
    struct node *n = node_find(r->control->graph, "top", NULL);
    bool unknown = false;
    const uint8_t *known = n ? driver_sector(n, &unknown) : NULL;
    uint8_t sector[SECTOR];

    if (known && !unknown) {
        top_read(r, 0, sector, SECTOR);
        if (memcmp(sector, known, SECTOR)) {
            die(r, "the header in the file is not the one that the driver "
                   "knows");
        }
    }
}

/* Where the directory is and how many entries it has; 0: none. */
static uint32_t bitmaps_find(struct rig *r, uint64_t *ret_dir)
{
    uint8_t sector[SECTOR];
    uint32_t at;

    top_read(r, 0, sector, SECTOR);
    at = get_be32(sector + HEADER_LENGTH);
    if (!(sector[AUTOCLEAR + 7] & AUTOCLEAR_BITMAPS)) {
        return 0;
    }
    while (at + 32 <= SECTOR && get_be32(sector + at)) {
        if (get_be32(sector + at) == EXT_BITMAPS) {
            *ret_dir = get_be64(sector + at + 24);
            return get_be32(sector + at + 8);
        }
        at += 8 + (get_be32(sector + at + 4) + 7) / 8 * 8;
    }
    return 0;
}

bool header_bitmap_counts(struct rig *r)
{
    uint64_t at = 0;
    uint32_t n = bitmaps_find(r, &at);

    for (uint32_t i = 0; i < n; i++) {
        uint8_t entry[BITMAP_ENTRY];

        top_read(r, at, entry, BITMAP_ENTRY);
        if (!(get_be32(entry + 12) & BITMAP_IN_USE)) {
            return true;
        }
        at += (BITMAP_ENTRY + get_be32(entry + 20) + get_be16(entry + 18) +
               7u) /
              8 * 8;
    }
    return false;
}
