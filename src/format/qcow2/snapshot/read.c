/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading the table of internal snapshots, whose layout is in snapshot/table.c.
 *
 * The disk is read whatever its snapshots are: what makes no sense in the table
 * is told, and left out of the list.  A snapshot stays in it as long as its
 * disk can be read: extra data that is too long is dropped, an L1 table that is
 * too long is taken to be as long as the snapshot needs.
 *
 * Every number is checked before it is used; the table is read through a
 * window, and its names, kept in memory, are bounded with it.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "loop/io.h"

enum {
    EXTRA_NEEDED = 16, /* by version 3 */
    EXTRA_MAX = 1024,
    WINDOW = 256 << 10, /* more than any entry */
    TABLE_MAX = 64 << 20,
};

struct reader {
    struct qcow2_image *img;
    GPtrArray *list;
    qcow2_flaw_fn *tell;
    void *arg;
    uint64_t file_end; /* whole clusters */
    uint32_t i;        /* the entry that is read */
    uint64_t at;       /* where it is in the file */
    uint32_t empty;    /* entries before it that are all zero */
    /* the window */
    uint8_t *buf;
    uint64_t start, len; /* what of the file is in it */
};

static void PRINTF_LIKE(3, 4)
    qcow2_snapshot_read_flaw(struct reader *r, bool grave, const char *fmt, ...)
{
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    r->tell(r->arg, grave, text);
}

/* --- one entry --- */

/* @fixed, @extra and @text: its three parts, all in memory; @extra holds
 * min(announced, EXTRA_MAX) bytes. */
static struct qcow2_snapshot *
qcow2_snapshot_read_entry_decode(const struct qcow2_image *img,
                                 const uint8_t *fixed, const uint8_t *extra,
                                 const uint8_t *text)
{
    struct qcow2_snapshot *s = g_new0(struct qcow2_snapshot, 1);
    uint32_t n = get_be32(fixed + 36), id = get_be16(fixed + 12);

    s->l1_offset = get_be64(fixed);
    s->l1_size = get_be32(fixed + 8);
    s->date_sec = get_be32(fixed + 16);
    s->date_nsec = get_be32(fixed + 20);
    s->vm_clock_nsec = get_be64(fixed + 24);
    s->vm_state_size = n >= 8 ? get_be64(extra) : get_be32(fixed + 32);
    s->disk_size = n >= 16 ? get_be64(extra + 8) : img->hdr.size;
    s->icount = n >= 24 ? get_be64(extra + 16) : QCOW2_NO_ICOUNT;
    if (n > QCOW2_SNAPSHOT_EXTRA && n <= EXTRA_MAX) {
        s->extra_len = n - QCOW2_SNAPSHOT_EXTRA;
        s->extra = g_memdup2(extra + QCOW2_SNAPSHOT_EXTRA, s->extra_len);
    }
    s->id = g_strndup((const char *)text, id);
    s->name = g_strndup((const char *)text + id, get_be16(fixed + 14));
    return s;
}

static const char *label(const struct qcow2_snapshot *s)
{
    return *s->name ? s->name : s->id;
}

/* L1 entries of its disk, and of the state of its machine behind that if
 * @all. */
static uint64_t entries_needed(const struct qcow2_image *img,
                               const struct qcow2_snapshot *s, bool all)
{
    uint64_t n = qcow2_l1_entries(s->disk_size, img->cluster_bits,
                                  img->shape.extended);

    return all ? n + qcow2_l1_entries(s->vm_state_size, img->cluster_bits,
                                      img->shape.extended)
               : n;
}

static bool l1_fits(const struct reader *r, uint64_t at, uint64_t n)
{
    return n <= QCOW2_L1_BYTES_MAX / 8 && range_inside(at, n * 8, r->file_end);
}

/* An L1 table that is too long: what of it the snapshot needs may be there. */
static bool l1_shorten(struct reader *r, struct qcow2_snapshot *s)
{
    for (int all = 1; all >= 0; all--) {
        uint64_t n = entries_needed(r->img, s, all);

        if (l1_fits(r, s->l1_offset, n)) {
            qcow2_snapshot_read_flaw(
                r, true,
                "snapshot '%s' has an L1 table of %u entries: more "
                "than there can be; %" PRIu64 " are used",
                label(s), s->l1_size, n);
            s->l1_size = (uint32_t)n;
            s->vm_state_size = all ? s->vm_state_size : 0;
            return true;
        }
    }
    qcow2_snapshot_read_flaw(
        r, true,
        "snapshot '%s' has an L1 table of %u entries at offset %" PRIu64
        ": more than there can be; the snapshot cannot be used",
        label(s), s->l1_size, s->l1_offset);
    return false;
}

/* Can its disk be read? */
static bool entry_validate(struct reader *r, struct qcow2_snapshot *s)
{
    uint64_t cluster = qcow2_cluster_size(r->img);

    if (s->l1_offset & (cluster - 1) ||
        (s->l1_size && (s->l1_offset == 0 || s->l1_offset >= r->file_end))) {
        qcow2_snapshot_read_flaw(
            r, true,
            "snapshot '%s' has its L1 table at offset %" PRIu64
            ": no cluster of this file; the snapshot cannot be used",
            label(s), s->l1_offset);
        return false;
    }
    return l1_fits(r, s->l1_offset, s->l1_size) || l1_shorten(r, s);
}

static void entry_tell_extra(struct reader *r, const struct qcow2_snapshot *s,
                             uint32_t extra)
{
    if (extra > EXTRA_MAX) {
        qcow2_snapshot_read_flaw(
            r, true,
            "snapshot '%s' has %u bytes of extra data: at most %d "
            "can be; they are not used",
            label(s), extra, EXTRA_MAX);
    } else if (extra < EXTRA_NEEDED && r->img->shape.version >= 3) {
        qcow2_snapshot_read_flaw(r, false,
                                 "snapshot table entry %u is incomplete", r->i);
    }
}

/* --- the table --- */

/* Have [@at, @at+@len) of the file in memory; NULL on failure. */
static CO_FN const uint8_t *window_co_get(struct reader *r, uint64_t at,
                                          uint64_t len, int *ret_error)
{
    uint64_t now = WINDOW;
    struct iovec v;
    int ret;

    if (at < r->start || at + len > r->start + r->len) {
        ret = node_co_preadv(qcow2_file(r->img), at, iov_one(&v, r->buf, now),
                             0);
        if (ret < 0) { /* it may be something else that cannot be read */
            now = len;
            ret = node_co_preadv(qcow2_file(r->img), at,
                                 iov_one(&v, r->buf, now), 0);
        }
        if (ret < 0) {
            *ret_error = ret;
            return NULL;
        }
        r->start = at;
        r->len = now;
    }
    return r->buf + (at - r->start);
}

static void empty_tell(struct reader *r)
{
    if (r->empty) {
        qcow2_snapshot_read_flaw(r, true,
                                 "snapshot table entries %u to %u are empty",
                                 r->i - r->empty, r->i - 1);
    }
    r->empty = 0;
}

/* Does the entry with fixed part @fixed end before the table has to? */
static bool entry_ends(struct reader *r, const uint8_t *fixed)
{
    uint64_t start = r->img->hdr.snapshots_offset;
    uint64_t len = QCOW2_SNAPSHOT_BYTES + (uint64_t)get_be32(fixed + 36) +
                   get_be16(fixed + 12) + get_be16(fixed + 14);

    return r->at + len <= r->file_end && r->at + len - start <= TABLE_MAX;
}

/* Take the entry at r->at, whose fixed part is @head. */
static CO_FN int entry_co_take(struct reader *r, const uint8_t *head)
{
    uint8_t fixed[QCOW2_SNAPSHOT_BYTES];
    g_autofree uint8_t *extra = NULL;
    struct qcow2_snapshot *s;
    const uint8_t *p;
    uint32_t n, room;
    uint64_t text;
    int ret = 0;

    memcpy(fixed, head, sizeof(fixed));
    n = get_be32(fixed + 36);
    room = MIN(n, EXTRA_MAX);
    text = r->at + QCOW2_SNAPSHOT_BYTES + n;
    p = window_co_get(r, r->at + QCOW2_SNAPSHOT_BYTES, room, &ret);
    if (p) {
        extra = g_memdup2(p, room);
        p = window_co_get(r, text,
                          (uint64_t)get_be16(fixed + 12) + get_be16(fixed + 14),
                          &ret);
    }
    if (!p) {
        return ret;
    }
    s = qcow2_snapshot_read_entry_decode(r->img, fixed, extra, p);
    r->at = round_up(text + get_be16(fixed + 12) + get_be16(fixed + 14), 8);
    if (entry_validate(r, s)) {
        entry_tell_extra(r, s, n);
        g_ptr_array_add(r->list, s);
    } else {
        qcow2_snapshot_free(s);
    }
    return 0;
}

/* One entry. 1: nothing more can be read behind it. */
static CO_FN int entry_co_read(struct reader *r)
{
    const uint8_t *p;
    int ret = 0;

    if (r->at + QCOW2_SNAPSHOT_BYTES > r->file_end) {
        ret = 1;
    } else {
        p = window_co_get(r, r->at, QCOW2_SNAPSHOT_BYTES, &ret);
        if (p && buf_is_zero(p, QCOW2_SNAPSHOT_BYTES)) {
            r->empty++;
            r->at += QCOW2_SNAPSHOT_BYTES;
            return 0;
        }
        if (p) {
            ret = entry_ends(r, p) ? 0 : 1;
        }
        empty_tell(r);
        if (p && ret == 0) {
            ret = entry_co_take(r, p);
        }
    }
    if (ret == 1) {
        empty_tell(r);
        qcow2_snapshot_read_flaw(
            r, true, "the snapshot table of %u entries ends in entry %u",
            r->img->hdr.n_snapshots, r->i);
    }
    return ret;
}

/* Is there anything to read? */
static bool table_is_there(struct reader *r)
{
    const struct qcow2_header *h = &r->img->hdr;

    if (h->snapshots_offset & (qcow2_cluster_size(r->img) - 1) ||
        (h->n_snapshots &&
         (h->snapshots_offset == 0 || h->snapshots_offset >= r->file_end))) {
        qcow2_snapshot_read_flaw(
            r, true,
            "the snapshot table of %u entries is at offset %" PRIu64
            ": no cluster of this file",
            h->n_snapshots, h->snapshots_offset);
        return false;
    }
    if (h->n_snapshots > QCOW2_SNAPSHOTS_MAX) {
        qcow2_snapshot_read_flaw(
            r, true, "the snapshot table has %u entries: at most %d can be",
            h->n_snapshots, QCOW2_SNAPSHOTS_MAX);
    }
    return h->n_snapshots > 0;
}

int qcow2_co_snapshots_read(struct qcow2_image *img, GPtrArray *list,
                            uint64_t *ret_bytes, qcow2_flaw_fn *tell, void *arg)
{
    struct reader r = {
        .img = img,
        .list = list,
        .tell = tell,
        .arg = arg,
        .file_end = round_up(qcow2_file(img)->size, qcow2_cluster_size(img)),
        .at = img->hdr.snapshots_offset,
    };
    uint32_t n = MIN(img->hdr.n_snapshots, QCOW2_SNAPSHOTS_MAX);
    int ret = 0;

    *ret_bytes = 0;
    if (!table_is_there(&r)) {
        return 0;
    }
    r.buf = io_buf_get(WINDOW);
    if (!r.buf) {
        return -ENOMEM;
    }
    for (; r.i < n && ret == 0; r.i++) {
        ret = entry_co_read(&r);
    }
    if (ret == 0) {
        empty_tell(&r);
    }
    *ret_bytes = r.at - img->hdr.snapshots_offset;
    io_buf_put(r.buf, WINDOW);
    return MIN(ret, 0);
}

/* --- open --- */

/* The first that is grave is kept for a message. */
static void qcow2_snapshot_read_open_tell(void *arg, bool grave,
                                          const char *text)
{
    struct qcow2_image *img = arg;

    img->snapshots->flawed = true;
    node_corrupt(img->node, NULL, img->hdr.snapshots_offset, "%s", text);
    if (grave && !img->snapshots->damage) {
        img->snapshots->damage = g_strdup(text);
    }
}

static void qcow2_snapshot_read_free_snapshot(gpointer s)
{
    qcow2_snapshot_free(s);
}

int qcow2_co_snapshots_open(struct qcow2_image *img, GError **err)
{
    int ret;

    img->snapshots = g_new0(struct qcow2_snapshots, 1);
    img->snapshots->list = g_ptr_array_new_with_free_func(
        qcow2_snapshot_read_free_snapshot);
    ret = qcow2_co_snapshots_read(img, img->snapshots->list,
                                  &img->snapshots->bytes,
                                  qcow2_snapshot_read_open_tell, img);
    if (ret == -ENOMEM) {
        return err_set(err, ENOMEM,
                       "Could not allocate memory for the "
                       "snapshot table");
    }
    if (ret < 0) {
        g_autofree char *text = g_strdup_printf("the snapshot table cannot be "
                                                "read: %s",
                                                g_strerror(-ret));
        qcow2_snapshot_read_open_tell(img, true, text);
    }
    return 0;
}
