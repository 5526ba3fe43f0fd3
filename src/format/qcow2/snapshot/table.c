/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The table of internal snapshots: entries of 40 bytes, extra data, id and
 * name, padded to 8.  Big-endian.
 *
 *   0 l1_offset u64      8 l1_size u32        12 id length u16
 *  14 name length u16   16 date s, ns u32     24 VM clock ns u64
 *  32 VM state u32      36 extra length u32
 *  extra: 0 VM state u64   8 disk size u64   16 instruction count u64
 *
 * Reading one is in snapshot/read.c.
 */
#include <inttypes.h>
#include <string.h>
#include "base/endian.h"
#include "base/math.h"
#include "format/qcow2/snapshot/snapshot.h"

void qcow2_snapshot_free(struct qcow2_snapshot *s)
{
    if (s) {
        g_free(s->id);
        g_free(s->name);
        g_free(s->extra);
        g_free(s);
    }
}

void qcow2_snapshots_close(struct qcow2_image *img)
{
    if (img->snapshots) {
        g_ptr_array_unref(img->snapshots->list);
        g_free(img->snapshots->damage);
        g_clear_pointer(&img->snapshots, g_free);
    }
}

/* --- encoding --- */

static uint64_t encoded_bytes(const struct qcow2_snapshot *s)
{
    return round_up(QCOW2_SNAPSHOT_BYTES + QCOW2_SNAPSHOT_EXTRA +
                        (uint64_t)s->extra_len + strlen(s->id) +
                        strlen(s->name),
                    8);
}

static void entry_encode(const struct qcow2_snapshot *s, uint8_t *p)
{
    uint8_t *x = p + QCOW2_SNAPSHOT_BYTES,
            *text = x + QCOW2_SNAPSHOT_EXTRA + s->extra_len;
    size_t id = strlen(s->id), name = strlen(s->name);

    put_be64(p, s->l1_offset);
    put_be32(p + 8, s->l1_size);
    put_be16(p + 12, (uint16_t)id);
    put_be16(p + 14, (uint16_t)name);
    put_be32(p + 16, s->date_sec);
    put_be32(p + 20, s->date_nsec);
    put_be64(p + 24, s->vm_clock_nsec);
    put_be32(p + 32, (uint32_t)min_u64(s->vm_state_size, UINT32_MAX));
    put_be32(p + 36, QCOW2_SNAPSHOT_EXTRA + s->extra_len);
    put_be64(x, s->vm_state_size);
    put_be64(x + 8, s->disk_size);
    put_be64(x + 16, s->icount);
    if (s->extra_len) {
        memcpy(x + QCOW2_SNAPSHOT_EXTRA, s->extra, s->extra_len);
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

    /* In the order of QEMU. */
    if (s->icount != QCOW2_NO_ICOUNT) {
        json_object_set_new(o, "icount", json_integer((json_int_t)s->icount));
    }
    json_object_update_new(
        o, json_pack("{s:I,s:s,s:I,s:I,s:I,s:s,s:I}", "vm-clock-nsec",
                     (json_int_t)(s->vm_clock_nsec % NS), "name", name,
                     "date-sec", (json_int_t)s->date_sec, "date-nsec",
                     (json_int_t)s->date_nsec, "vm-clock-sec",
                     (json_int_t)(s->vm_clock_nsec / NS), "id", id,
                     "vm-state-size", (json_int_t)s->vm_state_size));
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
