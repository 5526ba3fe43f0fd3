/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of internal snapshots: entries of 40 bytes, extra data, id and name,
 * padded to 8.  Big-endian.
 *
 *   0 l1_offset u64      8 l1_size u32        12 id length u16
 *  14 name length u16   16 date s, ns u32     24 VM clock ns u64
 *  32 VM state u32      36 extra length u32
 *  extra: 0 VM state u64   8 disk size u64   16 instruction count u64
 *
 * Every number is checked before it is used; the table is read through a window,
 * and its names, kept in memory, are bounded with it.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/snapshot.h"
#include "loop/io.h"

enum {
    ENTRY_BYTES = 40,
    EXTRA_KNOWN = 24,
    EXTRA_MAX = 1024,
    WINDOW = 256 << 10,            /* more than any entry */
    TABLE_MAX = 64 << 20,
};
#define NO_ICOUNT UINT64_MAX

void qcow2_snapshot_free(struct qcow2_snapshot *s)
{
    if (s) {
        g_free(s->id);
        g_free(s->name);
        g_free(s->extra);
        g_free(s);
    }
}

static void free_snapshot(gpointer s)
{
    qcow2_snapshot_free(s);
}

/* --- decoding --- */

static uint64_t entry_bytes(const uint8_t *p)
{
    return ENTRY_BYTES + (uint64_t) get_be32(p + 36) + get_be16(p + 12) +
           get_be16(p + 14);
}

/* The fixed part and everything it announces are in memory. */
static struct qcow2_snapshot *entry_decode(const struct qcow2_image *img,
                                           const uint8_t *p)
{
    struct qcow2_snapshot *s = g_new0(struct qcow2_snapshot, 1);
    uint32_t extra = get_be32(p + 36), id = get_be16(p + 12);
    const uint8_t *x = p + ENTRY_BYTES;

    s->l1_offset = get_be64(p);
    s->l1_size = get_be32(p + 8);
    s->date_sec = get_be32(p + 16);
    s->date_nsec = get_be32(p + 20);
    s->vm_clock_nsec = get_be64(p + 24);
    s->vm_state_size = extra >= 8 ? get_be64(x) : get_be32(p + 32);
    s->disk_size = extra >= 16 ? get_be64(x + 8) : img->hdr.size;
    s->icount = extra >= 24 ? get_be64(x + 16) : NO_ICOUNT;
    if (extra > EXTRA_KNOWN) {
        s->extra_len = extra - EXTRA_KNOWN;
        s->extra = g_memdup2(x + EXTRA_KNOWN, s->extra_len);
    }
    s->id = g_strndup((const char *) x + extra, id);
    s->name = g_strndup((const char *) x + extra + id, get_be16(p + 14));
    return s;
}

/* @at: of the entry in the file. */
static int entry_validate(struct qcow2_image *img,
                          const struct qcow2_snapshot *s, uint64_t at,
                          GError **err)
{
    uint64_t bytes = (uint64_t) s->l1_size * 8;

    if (bytes > QCOW2_L1_BYTES_MAX) {
        return node_corrupt(img->node, err, at + 8, "snapshot '%s' has an L1 "
                            "table of %u entries: at most %d can be",
                            s->name, s->l1_size, QCOW2_L1_BYTES_MAX / 8);
    }
    if (s->l1_offset & (qcow2_cluster_size(img) - 1) ||
        (bytes && s->l1_offset == 0) ||
        !range_inside(s->l1_offset, bytes, UINT64_C(1) << 56)) {
        return node_corrupt(img->node, err, at, "snapshot '%s' has its L1 "
                            "table at %" PRIu64 ": not a cluster", s->name,
                            s->l1_offset);
    }
    return 0;
}

struct window {
    struct qcow2_image *img;
    uint8_t *buf;
    uint64_t start, len;           /* what of the file is in it */
};

/* Have [@at, @at+@len) of the file in memory; NULL on failure. */
static CO_FN uint8_t *window_co_get(struct window *w, uint64_t at,
                                    uint64_t len, int *ret_error)
{
    struct iovec v;
    int ret;

    if (at < w->start || at + len > w->start + w->len) {
        ret = node_co_preadv(qcow2_file(w->img), at,
                             iov_one(&v, w->buf, WINDOW), 0);
        if (ret < 0) {
            *ret_error = ret;
            return NULL;
        }
        w->start = at;
        w->len = WINDOW;
    }
    return w->buf + (at - w->start);
}

static CO_FN int entry_co_read(struct window *w, uint64_t *at, GError **err)
{
    struct qcow2_image *img = w->img;
    struct qcow2_snapshot *s;
    int ret = 0;
    uint8_t *p = window_co_get(w, *at, ENTRY_BYTES, &ret);

    if (p && get_be32(p + 36) > EXTRA_MAX) {
        return node_corrupt(img->node, err, *at + 36, "a snapshot has %u bytes "
                            "of extra data: at most %d can be",
                            get_be32(p + 36), EXTRA_MAX);
    }
    if (p) {
        p = window_co_get(w, *at, entry_bytes(p), &ret);
    }
    if (!p) {
        return err_set_errno(err, -ret, "Could not read the snapshot table");
    }
    s = entry_decode(img, p);
    ret = entry_validate(img, s, *at, err);
    if (ret < 0) {
        qcow2_snapshot_free(s);
        return ret;
    }
    g_ptr_array_add(img->snapshots->list, s);
    *at += round_up(entry_bytes(p), 8);
    return 0;
}

int qcow2_co_snapshots_open(struct qcow2_image *img, GError **err)
{
    struct window w = { .img = img };
    uint64_t at = img->hdr.snapshots_offset;
    int ret = 0;

    img->snapshots = g_new0(struct qcow2_snapshots, 1);
    img->snapshots->list = g_ptr_array_new_with_free_func(free_snapshot);
    if (img->hdr.n_snapshots == 0) {
        return 0;
    }
    w.buf = io_buf_get(WINDOW);
    for (uint32_t i = 0; i < img->hdr.n_snapshots && ret == 0; i++) {
        if (at >= qcow2_file(img)->size ||
            at - img->hdr.snapshots_offset > TABLE_MAX) {
            ret = node_corrupt(img->node, err, at, "the snapshot table of %u "
                               "entries goes past %s", img->hdr.n_snapshots,
                               at >= qcow2_file(img)->size
                               ? "the end of the file" : "64 MiB");
        } else {
            ret = entry_co_read(&w, &at, err);
        }
    }
    img->snapshots->bytes = at - img->hdr.snapshots_offset;
    io_buf_put(w.buf, WINDOW);
    return ret;
}

void qcow2_snapshots_close(struct qcow2_image *img)
{
    if (img->snapshots) {
        g_ptr_array_unref(img->snapshots->list);
        g_clear_pointer(&img->snapshots, g_free);
    }
}

/* --- encoding --- */

static uint64_t encoded_bytes(const struct qcow2_snapshot *s)
{
    return round_up(ENTRY_BYTES + EXTRA_KNOWN + (uint64_t) s->extra_len +
                    strlen(s->id) + strlen(s->name), 8);
}

static void entry_encode(const struct qcow2_snapshot *s, uint8_t *p)
{
    uint8_t *x = p + ENTRY_BYTES, *text = x + EXTRA_KNOWN + s->extra_len;
    size_t id = strlen(s->id), name = strlen(s->name);

    put_be64(p, s->l1_offset);
    put_be32(p + 8, s->l1_size);
    put_be16(p + 12, (uint16_t) id);
    put_be16(p + 14, (uint16_t) name);
    put_be32(p + 16, s->date_sec);
    put_be32(p + 20, s->date_nsec);
    put_be64(p + 24, s->vm_clock_nsec);
    put_be32(p + 32, (uint32_t) min_u64(s->vm_state_size, UINT32_MAX));
    put_be32(p + 36, EXTRA_KNOWN + s->extra_len);
    put_be64(x, s->vm_state_size);
    put_be64(x + 8, s->disk_size);
    put_be64(x + 16, s->icount);
    if (s->extra_len) {
        memcpy(x + EXTRA_KNOWN, s->extra, s->extra_len);
    }
    memcpy(text, s->id, id);
    memcpy(text + id, s->name, name);
}

uint8_t *qcow2_snapshots_encode(const GPtrArray *list, uint64_t *ret_bytes)
{
    uint64_t bytes = 0, at = 0;
    uint8_t *buf;

    for (unsigned i = 0; i < list->len; i++) {
        bytes += encoded_bytes(g_ptr_array_index(list, i));
    }
    buf = g_try_malloc0(MAX(bytes, 1));
    for (unsigned i = 0; buf && i < list->len; i++) {
        const struct qcow2_snapshot *s = g_ptr_array_index(list, i);

        entry_encode(s, buf + at);
        at += encoded_bytes(s);
    }
    *ret_bytes = bytes;
    return buf;
}

/* --- looking --- */

unsigned qcow2_n_snapshots(const struct qcow2_image *img)
{
    return img->snapshots->list->len;
}

const struct qcow2_snapshot *qcow2_snapshot_at(const struct qcow2_image *img,
                                               unsigned i)
{
    return g_ptr_array_index(img->snapshots->list, i);
}

struct qcow2_snapshot *qcow2_snapshot_find(const struct qcow2_image *img,
                                           const char *name)
{
    const GPtrArray *list = img->snapshots->list;
    struct qcow2_snapshot *by_name = NULL;

    for (guint i = 0; i < list->len; i++) {
        struct qcow2_snapshot *s = g_ptr_array_index(list, i);

        if (strcmp(s->id, name) == 0) {
            return s;
        }
        by_name = !by_name && strcmp(s->name, name) == 0 ? s : by_name;
    }
    return by_name;
}

uint64_t qcow2_snapshots_bytes(const struct qcow2_image *img)
{
    return img->snapshots->bytes;
}

static json_t *snapshot_info(const struct qcow2_snapshot *s)
{
    enum { NS = 1000000000 };
    g_autofree char *id = g_utf8_make_valid(s->id, -1);
    g_autofree char *name = g_utf8_make_valid(s->name, -1);
    json_t *o = json_object();

    /* In the peer's order. */
    if (s->icount != NO_ICOUNT) {
        json_object_set_new(o, "icount", json_integer((json_int_t) s->icount));
    }
    json_object_update_new(o, json_pack(
        "{s:I,s:s,s:I,s:I,s:I,s:s,s:I}",
        "vm-clock-nsec", (json_int_t) (s->vm_clock_nsec % NS), "name", name,
        "date-sec", (json_int_t) s->date_sec,
        "date-nsec", (json_int_t) s->date_nsec,
        "vm-clock-sec", (json_int_t) (s->vm_clock_nsec / NS), "id", id,
        "vm-state-size", (json_int_t) s->vm_state_size));
    return o;
}

void qcow2_snapshots_info(const struct qcow2_image *img, json_t *info)
{
    const GPtrArray *list = img->snapshots->list;
    json_t *out;

    if (list->len == 0) {
        return;
    }
    out = json_array();
    for (unsigned i = 0; i < list->len; i++) {
        json_array_append_new(out, snapshot_info(g_ptr_array_index(list, i)));
    }
    json_object_set_new(info, "snapshots", out);
}
