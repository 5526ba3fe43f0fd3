/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/ranges.h"

bool ranges_any(const struct ranges *rs, uint64_t off, uint64_t len)
{
    for (const struct range *r = rs->first; r; r = r->next) {
        if (off < r->off + r->len && r->off < off + len) {
            return true;
        }
    }
    return false;
}

CO_FN void ranges_co_wait(struct ranges *rs, uint64_t off, uint64_t len)
{
    while (ranges_any(rs, off, len)) {
        co_queue_co_wait(&rs->freed);
    }
}

void ranges_add(struct ranges *rs, struct range *r, uint64_t off, uint64_t len)
{
    *r = (struct range) { off, len, rs->first };
    rs->first = r;
}

CO_FN void ranges_co_take(struct ranges *rs, struct range *r, uint64_t off,
                          uint64_t len)
{
    ranges_co_wait(rs, off, len);
    ranges_add(rs, r, off, len);
}

void ranges_drop(struct ranges *rs, struct range *r)
{
    struct range **p = &rs->first;

    while (*p != r) {
        p = &(*p)->next;
    }
    *p = r->next;
    co_queue_wake_all(&rs->freed);
}
