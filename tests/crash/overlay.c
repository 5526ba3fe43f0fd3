/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the simulator knows of the external overlay: its two files, the names
 * they go through, and that it ends as the disk alone.
 */
#include <string.h>
#include "crash.h"
#include "format/format.h"
#include "wire/cow.h"

#define PARTIAL "/top.raw.partial"
#define FINAL "/top.raw"

static void overlay_classify(struct history *h, const struct crash_config *c)
{
    for (unsigned i = 0; i < h->n; i++) {
        const struct sim_record *r = &h->recs[i].r;

        if (h->recs[i].cls == CLASS_NAME || r->op != SIM_WRITE ||
            g_strcmp0(r->path, "/top")) {
            continue;
        }
        h->recs[i].cls = r->off < COW_SUMMARY_AT ? CLASS_HEADER
                         : r->off < COW_MAP_AT   ? CLASS_L1
                                                 : CLASS_L2;
    }
}

static bool header_read(const struct sim_image *img, struct cow_header *h)
{
    uint64_t id = sim_image_find(img, "/top");
    uint8_t slots[COW_SLOTS * COW_SLOT_BYTES];
    unsigned slot;
    bool torn;

    if (!id) {
        return false;
    }
    sim_image_read(img, id, 0, slots, sizeof(slots));
    return cow_header_choose(slots, h, &slot, &torn, NULL) == 0;
}

/* W6, and that nothing but the disk is left when the job says so (N4). */
static char *overlay_check_rules(const struct state *st)
{
    const struct sim_image *img = st->img;
    bool gone = st->o->gone && st->o->gone <= st->at;
    struct cow_header h;

    if (gone && (!sim_image_find(img, FINAL) || sim_image_find(img, "/top") ||
                 sim_image_find(img, PARTIAL))) {
        return g_strdup("completed, but the names are not those of the disk "
                        "alone (N4)");
    }
    if (!sim_image_find(img, "/top") && sim_image_find(img, PARTIAL) &&
        st->at >= st->o->created) {
        return g_strdup("the sidecar is gone before the data file has its "
                        "name (W6)");
    }
    if (sim_image_find(img, FINAL) && header_read(img, &h) &&
        h.state != COW_COMPLETE) {
        return g_strdup(
            "the data file has its name while it is populated (W6)");
    }
    return NULL;
}

/* The data file of the image before. */
static uint64_t old_data;

/* Of an image that is made where one was, the old one may be there, or its
 * header, which names another data file and is refused. */
static bool overlay_is_whole(const struct sim_image *img)
{
    uint64_t id = sim_image_find(img, "/top");
    struct cow_header h;
    uint8_t head[8];

    if (!id) {
        return false;
    }
    if (world.made_again) {
        return header_read(img, &h) &&
               h.data_inode == sim_image_find(img, PARTIAL) &&
               h.data_inode != old_data;
    }
    sim_image_read(img, id, 0, head, sizeof(head));
    return cow_probe(head, sizeof(head));
}

/* Somebody makes the overlay anew, over the old one. The sidecar has one header,
 * as when it was never opened over its base. */
static void overlay_abandon(struct sim_image *img)
{
    static const uint8_t none[COW_SLOT_BYTES];

    sim_image_write(img, sim_image_find(img, "/top"), COW_SLOT_BYTES, none,
                    sizeof(none));
    old_data = sim_image_find(img, PARTIAL);
}

/* What a crash has left: bits of groups that the summary does not know, and
 * bytes without bits. None of it may ever be seen. */
static void overlay_litter(struct sim_image *img, const struct crash_config *c)
{
    uint64_t top = sim_image_find(img, "/top");
    uint64_t data = sim_image_find(img, PARTIAL);
    uint8_t block[COW_BLOCK_BYTES], buf[GRAIN];
    struct window w[N_WINDOWS];
    struct cow_header h;

    memset(block, 0xff, sizeof(block));
    g_assert(header_read(img, &h));
    for (uint64_t g = 0; g < cow_groups(&h); g++) {
        sim_image_write(img, top, COW_MAP_AT + g * COW_BLOCK_BYTES, block,
                        sizeof(block));
    }
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first;
             s < w[i].first + w[i].n && (s + 1) * GRAIN <= c->size; s++) {
            stamp_put(buf, ID_LITTER, s);
            sim_image_write(img, data, s * GRAIN, buf, GRAIN);
        }
    }
}

static const char *overlay_ended(const struct sim_image *img)
{
    return sim_image_find(img, "/top") ? NULL : FINAL;
}

const struct crash_format format_cow = {
    .name = "cow",
    .drv = &cow_driver,
    .classify = overlay_classify,
    .check_rules = overlay_check_rules,
    .is_whole = overlay_is_whole,
    .abandon = overlay_abandon,
    .litter = overlay_litter,
    .ended_as = overlay_ended,
};
