/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Changing the backing reference: the header always names the old or the new
 * file, whole, with its format.
 *
 * The new name is written where the current one is not, and made durable; then
 * one write of sector 0 flips offset, length and the extension that names the
 * format.  A name that stands in sector 0 itself (clusters of 512 bytes) goes
 * with that write.  Passes of the commit group are held off for the flip: what
 * is absent means something else after it.
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/trace.h"

/* What the header shall say. */
struct reference {
    const char *name; /* NULL: none */
    size_t len;
    GArray *exts;
    struct qcow2_header hdr;
};

/* Where the extensions in the file end. Once we have written some they end in
 * sector 0. */
static uint64_t exts_end(const struct qcow2_image *img)
{
    size_t start = img->hdr.header_length;

    if (start < QCOW2_SECTOR &&
        qcow2_exts_closed(img->sector.bytes + start, QCOW2_SECTOR - start)) {
        return QCOW2_SECTOR;
    }
    return start + qcow2_exts_size(img->exts);
}

static bool fits(const struct qcow2_image *img, const struct reference *r,
                 uint64_t off)
{
    const struct qcow2_header *now = &img->hdr;

    return off >= exts_end(img) &&
           range_inside(off, r->len, qcow2_cluster_size(img)) &&
           !(now->backing_offset &&
             ranges_overlap(off, r->len, now->backing_offset,
                            now->backing_len));
}

/* Where to write the name: behind sector 0, clear of what is in use now; else
 * in sector 0 behind the extensions, where it is written with them. 0 =
 * none. */
static uint64_t qcow2_name_offset(const struct qcow2_image *img,
                                  const struct reference *r)
{
    uint8_t sector[QCOW2_SECTOR];
    size_t start = img->hdr.header_length, used;

    for (uint64_t off = QCOW2_SECTOR; off < qcow2_cluster_size(img);
         off += QCOW2_SECTOR) {
        if (fits(img, r, off)) {
            return off;
        }
    }
    if (start + r->len > QCOW2_SECTOR) {
        return 0;
    }
    used = qcow2_exts_encode(r->exts, sector, QCOW2_SECTOR - start - r->len);
    return used ? start + used : 0;
}

static int validate(const struct qcow2_image *img, const char *name,
                    const char *fmt, GError **err)
{
    size_t len = name ? strlen(name) : 0;

    if (!name) {
        return 0;
    }
    if (len == 0 || len > QCOW2_NAME_MAX) {
        return err_set(err, EINVAL,
                       "Backing file name of %zu bytes: qcow2 "
                       "takes 1 to %d",
                       len, QCOW2_NAME_MAX);
    }
    if (fmt && strlen(fmt) > QCOW2_FORMAT_MAX) {
        return err_set(err, EINVAL,
                       "Backing format name of %zu bytes: qcow2 "
                       "takes at most %d",
                       strlen(fmt), QCOW2_FORMAT_MAX);
    }
    if (img->hdr.autoclear & QCOW2_A_DATA_RAW) {
        return err_set(err, EINVAL,
                       "An image whose external data file is raw "
                       "cannot have a backing file");
    }
    return 0;
}

/* Fill in what the header shall be. -ENOSPC: the names do not fit. */
static int reference_prepare(const struct qcow2_image *img, const char *name,
                             const char *fmt, struct reference *r, GError **err)
{
    uint8_t sector[QCOW2_SECTOR];

    r->name = name;
    r->len = name ? strlen(name) : 0;
    r->hdr = img->hdr;
    r->exts = qcow2_exts_copy(img->exts);
    qcow2_exts_set(r->exts, QCOW2_EXT_FORMAT, name ? fmt : NULL,
                   name && fmt ? (uint32_t)strlen(fmt) : 0);
    r->hdr.backing_offset = name ? qcow2_name_offset(img, r) : 0;
    r->hdr.backing_len = (uint32_t)r->len;
    if ((name && r->hdr.backing_offset == 0) ||
        !qcow2_exts_put(img, &r->hdr, r->exts, sector)) {
        return err_set(err, ENOSPC,
                       "The qcow2 header has no room for a "
                       "backing file name of %zu bytes and its format beside "
                       "what is there",
                       r->len);
    }
    return 0;
}

/* With passes held off. */
static CO_FN int qcow2_reference_co_write(struct qcow2_image *img,
                                          const struct reference *r)
{
    struct node *file = qcow2_file(img);
    struct reference old = { NULL, 0, img->exts, img->hdr };
    bool apart = r->name && r->hdr.backing_offset >= QCOW2_SECTOR;
    struct iovec v;
    int ret = 0;

    if (apart) {
        ret = node_co_pwritev(file, r->hdr.backing_offset,
                              iov_one(&v, (char *)(uintptr_t)r->name, r->len),
                              0);
        if (ret == 0) {
            ret = BARRIER(PIVOT_NAME, node_co_sync(img->node, file));
        }
        if (ret < 0) {
            return ret;
        }
    }
    g_array_ref(old.exts);
    ret = qcow2_co_write_exts(img, &r->hdr, r->exts, apart ? NULL : r->name);
    if (ret == 0) {
        ret = BARRIER(PIVOT_HEADER, node_co_sync(img->node, file));
        if (ret < 0) {
            /* It may hold either for good; prefer the old one, as memory
             * does. */
            qcow2_co_write_exts(img, &old.hdr, old.exts,
                                old.hdr.backing_offset &&
                                        old.hdr.backing_offset < QCOW2_SECTOR
                                    ? img->backing_name
                                    : NULL);
            img->hdr = old.hdr;
        }
    }
    g_array_unref(old.exts);
    return ret;
}

int qcow2_check_backing_name(struct node *n, const char *name, const char *fmt,
                             GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct reference r = { 0 };
    int ret = validate(img, name, fmt, err);

    if (ret == 0) {
        ret = reference_prepare(img, name, fmt, &r, err);
        g_array_unref(r.exts);
    }
    return ret;
}

int qcow2_co_change_backing(struct node *n, const char *name, const char *fmt,
                            GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct reference r = { 0 };
    int ret = qcow2_check_writable(img, err);

    if (ret == 0) {
        ret = validate(img, name, fmt, err);
    }
    if (ret < 0) {
        return ret;
    }
    group_co_lock(img->group);
    /* The header may have changed before. */
    ret = reference_prepare(img, name, fmt, &r, err);
    if (ret == 0) {
        ret = qcow2_reference_co_write(img, &r);
    }
    group_unlock(img->group);
    g_array_unref(r.exts);
    trace_qcow2_change_backing(n->name, name, ret);
    if (ret < 0) {
        if (err && *err) {
            return ret;
        }
        return err_set_errno(err, -ret,
                             "Could not change the backing file of "
                             "the qcow2 image");
    }
    g_free(img->backing_name);
    g_free(img->backing_format);
    img->backing_name = g_strdup(name);
    img->backing_format = name ? g_strdup(fmt) : NULL;
    return 0;
}
