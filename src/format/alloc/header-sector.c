/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "format/alloc/header-sector.h"
#include <string.h>
#include "graph/driver.h"
#include "graph/io.h"
#include "loop/io.h"

int header_sector_co_read(struct header_sector *s, struct node *n)
{
    uint8_t *buf = io_buf_get(HEADER_SECTOR);
    struct iovec v;
    int ret = node_co_preadv(node_file(n), 0, iov_one(&v, buf, HEADER_SECTOR),
                             0);

    if (ret == 0) {
        memcpy(s->bytes, buf, HEADER_SECTOR);
    }
    io_buf_put(buf, HEADER_SECTOR);
    return ret;
}

static CO_FN int sector_co_put(struct node *n,
                               const uint8_t bytes[HEADER_SECTOR])
{
    uint8_t *buf = io_buf_get(HEADER_SECTOR);
    struct iovec v;
    int ret;

    memcpy(buf, bytes, HEADER_SECTOR);
    ret = node_co_pwritev(node_file(n), 0, iov_one(&v, buf, HEADER_SECTOR), 0);
    io_buf_put(buf, HEADER_SECTOR);
    return ret;
}

/* The way back: the file gets what memory holds, durably. */
static CO_FN int sector_co_restore(struct header_sector *s, struct node *n)
{
    int ret = sector_co_put(n, s->bytes);

    if (ret == 0) {
        ret = node_co_sync(n, node_file(n));
    }
    s->unknown = ret < 0;
    return ret;
}

int header_sector_co_settle(struct header_sector *s, struct node *n)
{
    return s->unknown ? sector_co_restore(s, n) : 0;
}

int header_sector_co_write(struct header_sector *s, struct node *n,
                           const uint8_t next[HEADER_SECTOR])
{
    int ret = header_sector_co_settle(s, n);

    if (ret < 0) {
        return ret;
    }
    ret = sector_co_put(n, next);
    if (ret < 0) {
        (void)sector_co_restore(s, n);
    } else {
        memcpy(s->bytes, next, HEADER_SECTOR);
    }
    return ret;
}
