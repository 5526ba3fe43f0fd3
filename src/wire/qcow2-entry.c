/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* qcow2 L2 entries, standard and extended, and changes of them. */
#include "base/endian.h"
#include "wire/qcow2.h"

struct qcow2_desc qcow2_desc_get(const struct qcow2_shape *s, const void *table,
                                 uint32_t i)
{
    const uint8_t *p = (const uint8_t *)table +
                       (size_t)i * (s->extended ? 16 : 8);

    return (struct qcow2_desc) { get_be64(p),
                                 s->extended ? get_be64(p + 8) : 0 };
}

void qcow2_desc_put(const struct qcow2_shape *s, void *table, uint32_t i,
                    struct qcow2_desc d)
{
    uint8_t *p = (uint8_t *)table + (size_t)i * (s->extended ? 16 : 8);

    put_be64(p, d.entry);
    if (s->extended) {
        put_be64(p + 8, d.bits);
    }
}

bool qcow2_desc_has_host(const struct qcow2_shape *s, struct qcow2_desc d)
{
    if (d.entry & QCOW2_COMPRESSED) {
        return false;
    }
    return (d.entry & QCOW2_OFFSET_MASK) ||
           (s->data_file && (d.entry & QCOW2_COPIED));
}

static bool host_aligned(const struct qcow2_shape *s, struct qcow2_desc d)
{
    return !(d.entry & QCOW2_OFFSET_MASK &
             ((UINT64_C(1) << s->cluster_bits) - 1));
}

static enum qcow2_kind kind_extended(const struct qcow2_shape *s,
                                     struct qcow2_desc d, unsigned sub)
{
    uint32_t data = (uint32_t)d.bits, zero = (uint32_t)(d.bits >> 32);
    uint32_t bit = UINT32_C(1) << sub;

    if ((data & zero) || (data && !qcow2_desc_has_host(s, d))) {
        return QCOW2_INVALID;
    }
    return data & bit ? QCOW2_DATA : zero & bit ? QCOW2_ZERO : QCOW2_ABSENT;
}

enum qcow2_kind qcow2_desc_kind(const struct qcow2_shape *s,
                                struct qcow2_desc d, unsigned sub)
{
    if (d.entry & QCOW2_COMPRESSED) {
        return s->data_file ? QCOW2_INVALID : QCOW2_RUN_COMPRESSED;
    }
    if (!host_aligned(s, d)) {
        return QCOW2_INVALID;
    }
    if (s->extended) {
        return kind_extended(s, d, sub);
    }
    if (d.entry & QCOW2_ZERO_FLAG) {
        return s->version < 3 ? QCOW2_INVALID : QCOW2_ZERO;
    }
    return qcow2_desc_has_host(s, d) ? QCOW2_DATA : QCOW2_ABSENT;
}

unsigned qcow2_desc_run(const struct qcow2_shape *s, struct qcow2_desc d,
                        unsigned sub)
{
    enum qcow2_kind kind = qcow2_desc_kind(s, d, sub);
    unsigned n = 1;

    if (!s->extended) {
        return 1;
    }
    while (sub + n < QCOW2_SUBCLUSTERS &&
           qcow2_desc_kind(s, d, sub + n) == kind) {
        n++;
    }
    return n;
}

/* --- compressed --- */

static unsigned offset_bits(const struct qcow2_shape *s)
{
    return 62u - (s->cluster_bits - 8u);
}

void qcow2_compressed_get(const struct qcow2_shape *s, uint64_t entry,
                          uint64_t *ret_offset, uint32_t *ret_len)
{
    unsigned x = offset_bits(s);
    uint64_t sectors = ((entry & (QCOW2_COMPRESSED - 1)) >> x) + 1;

    *ret_offset = entry & ((UINT64_C(1) << x) - 1) & UINT64_C(0xffffffffffffff);
    *ret_len = (uint32_t)(sectors * QCOW2_SECTOR -
                          (*ret_offset & (QCOW2_SECTOR - 1)));
}

uint64_t qcow2_compressed_entry(const struct qcow2_shape *s, uint64_t offset,
                                uint32_t len)
{
    unsigned x = offset_bits(s);
    uint64_t more = (offset + len - 1) / QCOW2_SECTOR - offset / QCOW2_SECTOR;

    if (len == 0 || offset >> MIN(x, 56u) || more >> (s->cluster_bits - 8u)) {
        return 0;
    }
    return QCOW2_COMPRESSED | more << x | offset;
}

/* --- changes --- */

struct qcow2_desc qcow2_delta_apply(struct qcow2_desc d,
                                    const struct qcow2_delta *delta)
{
    uint64_t any = delta->data | delta->zero | delta->none;

    if (delta->whole) {
        d = (struct qcow2_desc) { 0, 0 };
    }
    if (delta->entry) {
        d.entry = delta->entry;
    }
    d.bits &= ~(any | any << 32);
    d.bits |= delta->data | (uint64_t)delta->zero << 32;
    return d;
}

void qcow2_delta_merge(struct qcow2_delta *into,
                       const struct qcow2_delta *newer)
{
    uint32_t any = newer->data | newer->zero | newer->none;

    if (newer->whole) {
        *into = *newer;
        return;
    }
    if (newer->entry) {
        into->entry = newer->entry;
    }
    into->data = (into->data & ~any) | newer->data;
    into->zero = (into->zero & ~any) | newer->zero;
    into->none = (into->none & ~any) | newer->none;
}
