/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the backing reference: the header always holds the old or the new
 * one, whole.
 *
 * The new name is written where the current one is not, and made durable; then
 * one write of the first sector flips offset, size and feature bits.  Names
 * stand outside that sector.  Passes of the commit group are held off for the
 * flip, so no publish straddles the change of its rules (M5 with a backing
 * file, M6 without).
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qed/qed.h"
#include "format/trace.h"

#define SLOT 1024

/* An offset for @len bytes that does not touch the current name; 0 = none. */
static uint64_t find_slot(const struct qed_image *img, uint64_t len)
{
    uint64_t cur = img->hdr.backing_name_offset;
    uint64_t cur_len = img->hdr.features & QED_F_BACKING_FILE
                           ? img->hdr.backing_name_size
                           : 0;

    for (uint64_t off = SLOT; range_inside(off, len, img->header_bytes);
         off += SLOT) {
        if (!ranges_overlap(off, len, cur, cur_len)) {
            return off;
        }
    }
    return 0;
}

static int change_validate(const struct qed_image *img, const char *name,
                           uint64_t *ret_slot, GError **err)
{
    size_t len = name ? strlen(name) : 0;

    *ret_slot = 0;
    if (!name) {
        return 0;
    }
    if (img->hdr.compat_features) {
        return err_set(err, ENOTSUP,
                       "Cannot set the backing file of a QED "
                       "image with unknown compatible features (0x%" PRIx64 ")",
                       img->hdr.compat_features);
    }
    if (len == 0 || len > QED_NAME_MAX) {
        return err_set(err, len ? ENOSPC : EINVAL,
                       "Backing file name of %zu "
                       "bytes: QED takes 1 to %d",
                       len, QED_NAME_MAX);
    }
    *ret_slot = find_slot(img, len);
    if (*ret_slot == 0) {
        return err_set(err, ENOSPC,
                       "The QED header has no room for a backing "
                       "file name of %zu bytes beside the current one",
                       len);
    }
    return 0;
}

static struct qed_header changed_header(const struct qed_image *img,
                                        const char *name, const char *fmt,
                                        uint64_t slot)
{
    struct qed_header h = img->hdr;

    h.features &= ~(QED_F_BACKING_FILE | QED_F_NO_PROBE);
    h.backing_name_offset = 0;
    h.backing_name_size = 0;
    if (name) {
        h.features |= QED_F_BACKING_FILE;
        if (fmt && strcmp(fmt, "raw") == 0) {
            h.features |= QED_F_NO_PROBE;
        }
        h.backing_name_offset = (uint32_t)slot;
        h.backing_name_size = (uint32_t)strlen(name);
    }
    return h;
}

/* With passes held off. */
static CO_FN int qed_reference_co_write(struct qed_image *img, const char *name,
                                        uint64_t slot, const char *fmt)
{
    struct node *file = qed_file(img);
    struct qed_header old = img->hdr, h;
    struct iovec v;
    int ret;

    if (name) {
        ret = node_co_pwritev(
            file, slot, iov_one(&v, (char *)(uintptr_t)name, strlen(name)), 0);
        if (ret == 0) {
            ret = BARRIER(PIVOT_NAME, node_co_sync(img->node, file));
        }
        if (ret < 0) {
            return ret;
        }
    }
    h = changed_header(img, name, fmt, slot);
    ret = qed_co_write_header(img, &h);
    if (ret < 0) {
        return ret;
    }
    ret = BARRIER(PIVOT_HEADER, node_co_sync(img->node, file));
    if (ret < 0) {
        /* It may hold either for good; prefer the old one, as memory does. */
        qed_co_write_header(img, &old);
        img->hdr = old;
    }
    return ret;
}

int qed_check_backing_name(struct node *n, const char *name, const char *fmt,
                           GError **err)
{
    uint64_t slot;

    return change_validate(qed_image(n), name, &slot, err);
}

int qed_co_change_backing(struct node *n, const char *name, const char *fmt,
                          GError **err)
{
    struct qed_image *img = qed_image(n);
    uint64_t slot;
    int ret;

    if (!img->group) {
        return err_set(err, EPERM, "Block node is read-only");
    }
    ret = change_validate(img, name, &slot, err);
    if (ret < 0) {
        return ret;
    }
    group_co_lock(img->group);
    ret = qed_reference_co_write(img, name, slot, fmt);
    group_unlock(img->group);
    trace_qed_change_backing(n->name, name, ret);
    if (ret < 0) {
        return err_set_errno(err, -ret,
                             "Could not change the backing file of "
                             "the QED image");
    }
    g_free(img->backing_name);
    img->backing_name = g_strdup(name);
    return 0;
}
