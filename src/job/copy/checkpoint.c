/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The file: a header of 4 KiB, then the bits, in pages of 4 KiB, with a checksum
 * in the last 4 bytes of each.  A page is written as a whole; of one that was
 * torn, or that cannot be read, all units are to be copied.
 *
 * Bits are cleared and set under one lock, memory and file together.  Who finds a
 * bit set in memory need not take it, unless the bit is on its way to the file.
 */
#include "job/copy/checkpoint.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "base/barrier.h"
#include "base/crc32c.h"
#include "base/endian.h"
#include "base/err.h"
#include "graph/image.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/io.h"
#include "loop/loop.h"

#define PAGE 4096u
#define SUM_AT (PAGE - 4u) /* the checksum of what is before it */
#define PAGE_BITS (SUM_AT * 8u)
#define MAGIC "SLUICECP"
#define VERSION 2u
#define TAKEN_AT 48 /* a byte of the header */
#define UNIT_MIN (UINT64_C(1) << 20)
#define UNITS_MAX (UINT64_C(1) << 20)
/* Times of files are those of the kernel's last tick, pointers reach a file up
 * to a second after the data, and a busy machine is late with everything. */
#define ALIVE_US INT64_C(3000000)

struct checkpoint {
    char *path;
    struct io_file *file;
    uint64_t size, unit, n_units;
    unsigned n_pages;
    uint8_t (*pages)[PAGE]; /* as in the file, checksums aside */
    uint8_t *dirty;         /* of pages: to be written */
    uint8_t *recent;        /* of units: changed since the last choice */
    uint8_t *chosen;        /* of units */
    uint8_t *setting;       /* of units: set in memory, not yet in the file */
    bool broken;            /* the file cannot be written any more */
    uint64_t identity;      /* of the images */
    struct co_mutex lock;   /* of pages and file */
    struct co_latch users;  /* guests' changes that wait here */
};

/* --- bits --- */

static bool bit_get(const struct checkpoint *cp, uint64_t u)
{
    return cp->pages[u / PAGE_BITS][u % PAGE_BITS / 8] >> u % 8 & 1;
}

static void bit_put(struct checkpoint *cp, uint64_t u, bool set)
{
    uint8_t *byte = &cp->pages[u / PAGE_BITS][u % PAGE_BITS / 8];
    uint8_t mask = (uint8_t)(1u << u % 8);

    *byte = set ? *byte | mask : *byte & (uint8_t)~mask;
    cp->dirty[u / PAGE_BITS] = 1;
}

static uint64_t unit_end(const struct checkpoint *cp, uint64_t u)
{
    return MIN((u + 1) * cp->unit, cp->size);
}

bool checkpoint_run(const struct checkpoint *cp, uint64_t off, uint64_t max,
                    uint64_t *ret_len)
{
    uint64_t u = off / cp->unit;
    bool need = bit_get(cp, u);

    while (u + 1 < cp->n_units && unit_end(cp, u) - off < max &&
           bit_get(cp, u + 1) == need) {
        u++;
    }
    *ret_len = MIN(unit_end(cp, u) - off, max);
    return need;
}

bool checkpoint_has_any(const struct checkpoint *cp)
{
    for (uint64_t u = 0; u < cp->n_units; u++) {
        if (!bit_get(cp, u)) {
            return true;
        }
    }
    return false;
}

static void bits_set_page(struct checkpoint *cp, unsigned page)
{
    memset(cp->pages[page], 0xff, PAGE);
    cp->dirty[page] = 1;
}

/* --- the file --- */

static CO_FN int page_co_write(struct io_file *file, uint64_t at, uint8_t *page)
{
    struct iovec v;

    put_le32(&page[SUM_AT], crc32c(page, SUM_AT));
    return io_co_pwritev(file, at, iov_one(&v, page, PAGE), IO_TAG_JOURNAL);
}

/* "Not taken", too: checkpoint_co_take(). */
static CO_FN int header_co_write(struct checkpoint *cp)
{
    uint8_t page[PAGE] = MAGIC;

    put_le32(page + 8, VERSION);
    put_le64(page + 16, cp->size);
    put_le64(page + 24, cp->unit);
    put_le64(page + 32, cp->identity);
    put_le64(page + 40, loop_date_ns(co_loop(co_self())) / 1000);
    return page_co_write(cp->file, 0, page);
}

/* All pages that differ from the file. */
static CO_FN int pages_co_write(struct checkpoint *cp)
{
    int ret = 0;

    for (unsigned i = 0; i < cp->n_pages && ret == 0; i++) {
        if (cp->dirty[i]) {
            ret = page_co_write(cp->file, (i + 1) * (uint64_t)PAGE,
                                cp->pages[i]);
            cp->dirty[i] = ret < 0;
        }
    }
    return ret;
}

/* Under the lock: until it is gone no change of a guest passes unmarked.  Where
 * it cannot be removed the time at which the job was last seen alive stays behind
 * what guests change. */
static CO_FN void file_co_remove(struct checkpoint *cp)
{
    cp->broken = true;
    (void)io_co_unlink(cp->path);
    (void)BARRIER(CHECKPOINT_GONE, io_co_fsync_parent(cp->path));
}

CO_FN void checkpoint_co_remove(struct checkpoint *cp)
{
    co_mutex_co_lock(&cp->lock);
    file_co_remove(cp);
    co_mutex_unlock(&cp->lock);
}

static CO_FN int page_co_read(struct io_file *file, uint64_t at, uint8_t *page)
{
    struct iovec v;
    int ret = io_co_preadv(file, at, iov_one(&v, page, PAGE));

    return ret < 0                                           ? ret
           : get_le32(&page[SUM_AT]) == crc32c(page, SUM_AT) ? 0
                                                             : -EINVAL;
}

static CO_FN int checkpoint_header_co_read(struct io_file *file, uint8_t *page)
{
    int ret = page_co_read(file, 0, page);

    return ret < 0                         ? ret
           : memcmp(page, MAGIC, 8) != 0   ? -EINVAL
           : get_le32(page + 8) != VERSION ? -ENOTSUP
                                           : 0;
}

/* --- a new daemon --- */

/* 0, or -errno: nobody may go on with it. */
static CO_FN int header_co_take(struct io_file *file)
{
    uint8_t page[PAGE];
    int ret = checkpoint_header_co_read(file, page);

    if (ret == 0 && page[TAKEN_AT]) {
        ret = -ESTALE;
    }
    if (ret == 0) {
        page[TAKEN_AT] = 1;
        ret = page_co_write(file, 0, page);
    }
    return ret < 0 ? ret : BARRIER(CHECKPOINT_TAKE, io_co_fdatasync(file));
}

CO_FN void checkpoint_co_take(const char *path)
{
    struct io_file *file;
    int ret = io_co_open(path, O_RDWR | O_NOFOLLOW, 0, &file);

    if (ret == -ENOENT) {
        return;
    }
    if (ret == 0) {
        ret = header_co_take(file);
        io_co_close(file);
    }
    if (ret < 0) {
        (void)io_co_unlink(path);
        (void)io_co_fsync_parent(path);
    }
}

/* --- is it still what the job left? --- */

static uint64_t mix(uint64_t h, uint64_t v)
{
    return (h ^ v) * UINT64_C(0x100000001b3);
}

/* What tells these images from others; 0 where one is no file. */
static uint64_t images_identity(struct node *const *nodes, unsigned n)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (unsigned i = 0; i < n; i++) {
        const struct stat *st = node_opened_as(nodes[i]);

        if (!st) {
            return 0;
        }
        h = mix(mix(h, st->st_dev), st->st_ino);
    }
    return h ? h : 1;
}

/* Has nobody written to them since @alive_us, in microseconds? */
static bool images_are_as_left(struct node *const *nodes, unsigned n,
                               int64_t alive_us)
{
    for (unsigned i = 0; i < n; i++) {
        const struct stat *st = node_opened_as(nodes[i]);
        int64_t us = st->st_mtim.tv_sec * INT64_C(1000000) +
                     st->st_mtim.tv_nsec / 1000;

        if (us > alive_us + ALIVE_US || node_was_written(nodes[i])) {
            return false;
        }
    }
    return true;
}

/* True: the bits have been read. */
static CO_FN bool checkpoint_co_load(struct checkpoint *cp,
                                     struct node *const *nodes, unsigned n)
{
    uint8_t page[PAGE];

    if (checkpoint_header_co_read(cp->file, page) < 0 || !page[TAKEN_AT] ||
        get_le64(page + 16) != cp->size || get_le64(page + 24) != cp->unit ||
        cp->identity == 0 || get_le64(page + 32) != cp->identity ||
        !images_are_as_left(nodes, n, (int64_t)get_le64(page + 40))) {
        return false;
    }
    for (unsigned i = 0; i < cp->n_pages; i++) {
        if (page_co_read(cp->file, (i + 1) * (uint64_t)PAGE, cp->pages[i]) <
            0) {
            bits_set_page(cp, i);
        }
    }
    return true;
}

/* --- open --- */

static struct checkpoint *checkpoint_new(const char *path, uint64_t size)
{
    struct checkpoint *cp = g_new0(struct checkpoint, 1);

    cp->path = g_strdup(path);
    cp->size = size;
    cp->unit = UNIT_MIN;
    while (size / cp->unit >= UNITS_MAX) {
        cp->unit *= 2;
    }
    cp->n_units = size / cp->unit + (size % cp->unit != 0);
    cp->n_pages = (unsigned)(cp->n_units / PAGE_BITS + 1);
    cp->pages = g_malloc0(cp->n_pages * (size_t)PAGE);
    cp->dirty = g_malloc0(cp->n_pages);
    cp->recent = g_malloc0(cp->n_units + 1);
    cp->chosen = g_malloc0(cp->n_units + 1);
    cp->setting = g_malloc0(cp->n_units + 1);
    return cp;
}

/* The bits come first: a header that is believed must not stand before those of
 * an earlier job. */
static CO_FN int checkpoint_co_begin(struct checkpoint *cp)
{
    int ret = io_co_truncate(cp->file, 0);

    for (unsigned i = 0; i < cp->n_pages; i++) {
        bits_set_page(cp, i);
    }
    if (ret == 0) {
        ret = pages_co_write(cp);
    }
    if (ret == 0) {
        ret = BARRIER(CHECKPOINT_BEGIN, io_co_fdatasync(cp->file));
    }
    if (ret == 0) {
        ret = header_co_write(cp);
    }
    return ret < 0 ? ret : io_co_fsync_parent(cp->path);
}

CO_FN int checkpoint_co_open(const char *path, uint64_t size,
                             struct node *const *nodes, unsigned n,
                             bool resumed, struct checkpoint **ret_cp,
                             GError **err)
{
    struct checkpoint *cp = checkpoint_new(path, size);
    int ret = io_co_open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600, &cp->file);

    cp->identity = images_identity(nodes, n);
    if (ret == 0 && !(resumed && checkpoint_co_load(cp, nodes, n))) {
        ret = checkpoint_co_begin(cp);
    }
    if (ret < 0) {
        checkpoint_co_close(cp);
        return err_set_errno(err, -ret, "Could not write '%s'", path);
    }
    *ret_cp = cp;
    return 0;
}

CO_FN int checkpoint_co_forget(struct checkpoint *cp)
{
    int ret;

    co_mutex_co_lock(&cp->lock);
    ret = checkpoint_co_begin(cp);
    co_mutex_unlock(&cp->lock);
    return ret;
}

bool checkpoint_can_resume(const struct checkpoint *cp)
{
    return cp->identity != 0;
}

CO_FN void checkpoint_co_close(struct checkpoint *cp)
{
    if (cp) {
        co_latch_co_wait(&cp->users);
        io_co_close(cp->file);
        g_free(cp->path);
        g_free(cp->pages);
        g_free(cp->dirty);
        g_free(cp->recent);
        g_free(cp->chosen);
        g_free(cp->setting);
        g_free(cp);
    }
}

/* --- guests --- */

/* Nothing that it stands for may be chosen, or stay so. Is a bit to be set, or
 * is one being set? */
static bool units_touch(struct checkpoint *cp, uint64_t first, uint64_t last)
{
    bool set = true;

    for (uint64_t u = first; u <= last; u++) {
        cp->recent[u] = 1;
        cp->chosen[u] = 0;
        set &= bit_get(cp, u) && !cp->setting[u];
    }
    return !set;
}

/* Under the lock. False: all were set. */
static bool units_set(struct checkpoint *cp, uint64_t first, uint64_t last)
{
    bool any = false;

    for (uint64_t u = first; u <= last; u++) {
        if (!bit_get(cp, u)) {
            bit_put(cp, u, true);
            cp->setting[u] = 1;
            any = true;
        }
    }
    return any;
}

static CO_FN void units_co_set(struct checkpoint *cp, uint64_t first,
                               uint64_t last)
{
    int ret;

    if (cp->broken || !units_set(cp, first, last)) {
        return;
    }
    ret = pages_co_write(cp);
    if (ret == 0) {
        ret = BARRIER(CHECKPOINT_MARK, io_co_fdatasync(cp->file));
    }
    if (ret < 0) {
        file_co_remove(cp);
    }
    memset(&cp->setting[first], 0, last - first + 1);
}

CO_FN void checkpoint_co_change(struct checkpoint *cp, uint64_t off,
                                uint64_t len)
{
    uint64_t first = off / cp->unit;
    uint64_t last = len ? (off + len - 1) / cp->unit : first;

    if (!units_touch(cp, first, last)) {
        return;
    }
    co_latch_add(&cp->users);
    co_mutex_co_lock(&cp->lock);
    units_co_set(cp, first, last);
    co_mutex_unlock(&cp->lock);
    co_latch_done(&cp->users);
}

/* --- the job --- */

bool checkpoint_choose(struct checkpoint *cp,
                       const struct checkpoint_choice *choice)
{
    bool any = false;

    for (uint64_t u = 0; u < cp->n_units; u++) {
        uint64_t off = u * cp->unit;

        cp->chosen[u] = !cp->broken && !cp->recent[u] && bit_get(cp, u) &&
                        choice->is_same(choice->arg, off,
                                        unit_end(cp, u) - off);
        any |= cp->chosen[u];
        cp->recent[u] = 0;
    }
    return any;
}

/* If what is cleared here is lost it is copied once more, no worse. */
CO_FN void checkpoint_co_done(struct checkpoint *cp)
{
    co_mutex_co_lock(&cp->lock);
    for (uint64_t u = 0; u < cp->n_units; u++) {
        if (cp->chosen[u]) {
            bit_put(cp, u, false);
        }
    }
    if (!cp->broken && (pages_co_write(cp) < 0 ||
                        BARRIER_COURTESY(io_co_fdatasync(cp->file)) < 0)) {
        file_co_remove(cp);
    }
    co_mutex_unlock(&cp->lock);
}

CO_FN void checkpoint_co_beat(struct checkpoint *cp)
{
    if (!cp->broken && header_co_write(cp) < 0) {
        checkpoint_co_remove(cp);
    }
}
