/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What every sector may hold: see fault.h. */
#include <string.h>
#include "fault.h"

uint64_t disk_offset(unsigned sector)
{
    return (uint64_t)(sector / AREA_SECTORS) * AREA_BYTES +
           (uint64_t)(sector % AREA_SECTORS) * SECTOR;
}

void disk_fill(uint8_t *buf, unsigned first, unsigned n, int value)
{
    for (unsigned i = 0; i < n; i++) {
        uint32_t word = (uint32_t)value << 16 | (first + i);

        for (unsigned k = 0; k < SECTOR / 4; k++) {
            uint32_t w = value == V_ZERO ? 0 : word;

            memcpy(buf + (size_t)i * SECTOR + k * 4, &w, 4);
        }
    }
}

/* The value that the sector at @buf has as a whole; V_UNKNOWN: none. */
static int value_of(const uint8_t *buf, unsigned sector)
{
    uint8_t want[SECTOR];

    for (int v = 0; v < V_MAX; v++) {
        disk_fill(want, sector, 1, v);
        if (!memcmp(buf, want, SECTOR)) {
            return v;
        }
    }
    return V_UNKNOWN;
}

void disk_set(struct disk *d, int value)
{
    for (unsigned i = 0; i < SECTORS; i++) {
        d->s[i] = (struct sector) { 1u << value, value };
    }
}

void disk_begin(struct disk *d, unsigned first, unsigned n, int value)
{
    for (unsigned i = first; i < first + n; i++) {
        d->s[i].may |= 1u << value;
        d->s[i].live = V_UNKNOWN;
    }
}

void disk_end(struct disk *d, unsigned first, unsigned n, int value, bool ok,
              bool durable)
{
    for (unsigned i = first; i < first + n && ok; i++) {
        d->s[i].live = value;
        if (durable) {
            d->s[i].may = 1u << value;
        }
    }
}

void disk_trimmed(struct disk *d, unsigned first, unsigned n)
{
    disk_begin(d, first, n, V_ZERO);
}

void disk_flushed(struct disk *d)
{
    for (unsigned i = 0; i < SECTORS; i++) {
        if (d->s[i].live != V_UNKNOWN) {
            d->s[i].may = 1u << d->s[i].live;
        }
    }
}

void disk_doubt(struct disk *d)
{
    for (unsigned i = 0; i < SECTORS; i++) {
        d->s[i].live = V_UNKNOWN;
    }
}

static char *disk_check(struct disk *d, unsigned first, unsigned n,
                        const uint8_t *buf, bool reopened)
{
    for (unsigned i = 0; i < n; i++) {
        struct sector *s = &d->s[first + i];
        int v = value_of(buf + (size_t)i * SECTOR, first + i);
        bool fixed = s->live != V_UNKNOWN && !reopened;

        if (v == V_UNKNOWN || (fixed ? v != s->live : !(s->may >> v & 1))) {
            return g_strdup_printf("sector %u holds value %d, may hold %x%s",
                                   first + i, v, fixed ? 1u << s->live : s->may,
                                   fixed ? " (read)" : "");
        }
        s->live = v;
        if (reopened) {
            s->may = 1u << v;
        }
    }
    return NULL;
}

char *disk_read(struct disk *d, unsigned first, unsigned n, const uint8_t *buf)
{
    return disk_check(d, first, n, buf, false);
}

char *disk_reopened(struct disk *d, unsigned first, unsigned n,
                    const uint8_t *buf)
{
    return disk_check(d, first, n, buf, true);
}
