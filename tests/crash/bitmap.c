/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The dirty bitmap of a qcow2 image, read by the test itself.  One that counts
 * (the autoclear bit is set, it is not in use) has a bit for everything that is
 * not as "/copy" has it, which is the disk of the start, with what backups have
 * brought since: more may be set, never less.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "crash.h"

#define EXT_BITMAPS 0x23852875u
#define OFFSET UINT64_C(0x00fffffffffffe00)
#define IN_USE 1

static uint64_t be64_at(const struct sim_image *img, uint64_t file,
                        uint64_t off)
{
    uint8_t buf[8];

    sim_image_read(img, file, off, buf, 8);
    return get_be64(buf);
}

static uint32_t be32_at(const struct sim_image *img, uint64_t file,
                        uint64_t off)
{
    return (uint32_t)(be64_at(img, file, off) >> 32);
}

bool model_bitmap_find(const struct sim_image *img, uint64_t file,
                       struct bitmap_view *b)
{
    uint64_t at, end = UINT64_C(1) << be32_at(img, file, 20);

    *b = (struct bitmap_view) { .cluster = end };
    if (be32_at(img, file, 4) < 3 || !(be64_at(img, file, 88) & 1)) {
        return false;
    }
    at = be32_at(img, file, 100);
    while (at + 8 <= end && be32_at(img, file, at) != 0) {
        uint32_t len = be32_at(img, file, at + 4);

        if (be32_at(img, file, at) == EXT_BITMAPS) {
            b->dir_bytes = be64_at(img, file, at + 16);
            b->dir = be64_at(img, file, at + 24);
            b->table = be64_at(img, file, b->dir);
            b->entries = be32_at(img, file, b->dir + 8);
            b->flags = be32_at(img, file, b->dir + 12);
            return true;
        }
        at += 8 + (len + 7) / 8 * 8;
    }
    return false;
}

uint64_t bitmap_entry(const struct sim_image *img, uint64_t file,
                      const struct bitmap_view *b, uint32_t i)
{
    return be64_at(img, file, b->table + i * 8ull);
}

static bool bit_is_set(const struct sim_image *img, uint64_t file,
                       const struct bitmap_view *b, uint64_t bit)
{
    uint64_t e = bitmap_entry(img, file, b, (uint32_t)(bit / 8 / b->cluster));
    uint8_t byte;

    if (!(e & OFFSET)) {
        return e & 1;
    }
    sim_image_read(img, file, (e & OFFSET) + bit / 8 % b->cluster, &byte, 1);
    return byte >> bit % 8 & 1;
}

static uint64_t copy_at(const struct sim_image *img, uint64_t copy,
                        uint64_t grain)
{
    uint8_t buf[GRAIN] = { 0 };
    uint64_t end = sim_image_size(img, copy), at = grain * GRAIN;

    if (at < end) {
        sim_image_read(img, copy, at, buf, MIN(GRAIN, end - at));
    }
    return stamp_get(buf, grain);
}

char *bitmap_check(const struct state *st, const uint64_t *ids, uint64_t grains)
{
    const struct oracle *o = st->o;
    uint64_t file = sim_image_find(st->img, "/top");
    uint64_t copy = sim_image_find(st->img, "/copy");
    struct window w[N_WINDOWS];
    struct bitmap_view b;

    if (!o->config->bitmap || !model_bitmap_find(st->img, file, &b) ||
        (b.flags & IN_USE)) {
        return NULL;
    }
    for (unsigned i = 0; i < windows_get(o->config, w); i++) {
        for (uint64_t s = w[i].first; s < MIN(w[i].first + w[i].n, grains);
             s++) {
            unsigned slot = slot_of(o->config, s);
            uint64_t copied = copy_at(st->img, copy, s);

            if (ids[slot] != copied &&
                !bit_is_set(st->img, file, &b, s * GRAIN / 512)) {
                return g_strdup_printf("grain %" PRIu64 " holds %" PRId64
                                       " and its copy %" PRId64
                                       ", which the bitmap does not say",
                                       s, (int64_t)ids[slot], (int64_t)copied);
            }
        }
    }
    cover(COVER_BITMAP);
    return NULL;
}
