/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The first cluster: header, extensions, backing name.
 *
 * Whatever changes while the image is in use changes by one write of sector 0,
 * which holds the header and, once we have written there, all extensions: a
 * crash leaves the old state or the new one.  Names of features are the only
 * thing that is given up for that; what we do not know is kept.
 */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "format/alloc/backing.h"
#include "format/qcow2/meta/meta.h"
#include "format/trace.h"
#include "loop/io.h"

/* Parse the extensions in [header_length, @end) of the file. */
static CO_FN int exts_co_read(struct qcow2_image *img, uint64_t end,
                              uint64_t *ret_where, GError **err)
{
    uint32_t start = img->hdr.header_length;
    size_t len = end - start;
    struct iovec v;
    uint8_t *buf;
    int ret;

    if (len == 0) {
        return 0;
    }
    buf = io_buf_get(len);
    if (!buf) {
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the "
                       "qcow2 header",
                       len);
    }
    ret = node_co_preadv(qcow2_file(img), start, iov_one(&v, buf, len), 0);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not read the qcow2 header extensions");
    } else {
        ret = qcow2_exts_decode(img->exts, buf, len, start, ret_where, err);
    }
    io_buf_put(buf, len);
    return ret;
}

/* The image has features that we do not know: say which, by the names that it
 * brings along if these can be read. */
static CO_FN int unknown_co_refuse(struct qcow2_image *img, GError **err)
{
    struct qcow2_header *h = &img->hdr;
    g_autofree char *names = NULL;
    uint64_t end = UINT64_C(1)
                   << CLAMP(h->cluster_bits, QCOW2_CLUSTER_BITS_MIN, 16);
    uint64_t where;

    if (h->backing_offset && h->backing_offset < end) {
        end = h->backing_offset;
    }
    if (h->header_length >= QCOW2_HEADER_V3 && h->header_length < end) {
        exts_co_read(img, end, &where, NULL);
    }
    names = qcow2_feature_names(img->exts, QCOW2_INCOMPATIBLE,
                                h->incompat & ~QCOW2_I_KNOWN);
    return err_set(err, ENOTSUP, "Unsupported qcow2 feature(s): %s", names);
}

/* The backing format, where the extension names one. */
static int take_format(struct qcow2_image *img, uint64_t *ret_where,
                       GError **err)
{
    const struct qcow2_ext *e = qcow2_exts_find(img->exts, QCOW2_EXT_FORMAT);

    if (!e || e->len == 0) {
        return 0;
    }
    *ret_where = img->hdr.header_length;
    if (e->len > QCOW2_FORMAT_MAX || memchr(e->data, 0, e->len)) {
        return err_set(err, EINVAL,
                       "the name of the backing format has %" PRIu32
                       " bytes: it must have 1 to %d, none of them 0",
                       e->len, QCOW2_FORMAT_MAX);
    }
    img->backing_format = g_strndup((char *)e->data, e->len);
    return 0;
}

static CO_FN int header_co_parse(struct qcow2_image *img, uint64_t *ret_where,
                                 GError **err)
{
    struct qcow2_header *h = &img->hdr;
    uint64_t size = qcow2_file(img)->size;
    int ret = qcow2_header_validate(h, size, ret_where, err);

    if (ret == 0) {
        ret = exts_co_read(img,
                           h->backing_offset ? h->backing_offset
                                             : UINT64_C(1) << h->cluster_bits,
                           ret_where, err);
    }
    return ret < 0 ? ret : take_format(img, ret_where, err);
}

int qcow2_co_header_read(struct qcow2_image *img, GError **err)
{
    struct node *file = qcow2_file(img);
    GError *why = NULL;
    uint64_t where = 0;
    int ret = header_sector_co_read(&img->sector, img->node);

    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the qcow2 header");
    }
    ret = qcow2_header_decode(
        img->sector.bytes, min_u64(file->size, QCOW2_SECTOR), &img->hdr, err);
    if (ret < 0) {
        return ret;
    }
    if (img->hdr.incompat & ~QCOW2_I_KNOWN) {
        return unknown_co_refuse(img, err);
    }
    ret = header_co_parse(img, &where, &why);
    if (ret == -EINVAL) {
        node_corrupt(img->node, err, where, "%s", why->message);
        g_error_free(why);
        return ret;
    }
    if (ret < 0) {
        g_propagate_error(err, why);
        return ret;
    }
    return format_co_read_backing_name(
        img->node, img->hdr.backing_offset,
        img->hdr.backing_offset ? img->hdr.backing_len : 0, &img->backing_name,
        err);
}

/* --- changing it --- */

/* @h becomes the header of @sector. One that was found to be corrupt stays so,
 * however old @h is. */
static void sector_set_header(const struct qcow2_image *img,
                              struct qcow2_header *h,
                              uint8_t sector[QCOW2_SECTOR])
{
    if (img->corrupt && h->version > 2) {
        h->incompat |= QCOW2_I_CORRUPT;
    }
    qcow2_header_encode(h, sector);
}

int qcow2_co_header_settle(struct qcow2_image *img)
{
    if (!img->sector.unknown) {
        return 0;
    }
    sector_set_header(img, &img->hdr, img->sector.bytes);
    return header_sector_co_settle(&img->sector, img->node);
}

/* Every change of the header comes by here: @sector with @h. */
static CO_FN int sector_co_write(struct qcow2_image *img,
                                 const struct qcow2_header *h,
                                 const uint8_t sector[QCOW2_SECTOR])
{
    struct qcow2_header now = *h;
    uint8_t next[QCOW2_SECTOR];
    int ret;

    memcpy(next, sector, QCOW2_SECTOR);
    sector_set_header(img, &now, next);
    /* What the file shall have again if this fails. */
    sector_set_header(img, &img->hdr, img->sector.bytes);
    ret = header_sector_co_write(&img->sector, img->node, next);
    if (ret == 0) {
        img->hdr = now;
    }
    trace_qcow2_header(img->node->name, now.incompat, now.size, ret);
    return ret;
}

int qcow2_co_write_header(struct qcow2_image *img, const struct qcow2_header *h)
{
    return sector_co_write(img, h, img->sector.bytes);
}

/* Where the extensions must end in sector 0: the backing name may stand
 * there. */
static size_t exts_room(const struct qcow2_header *h)
{
    size_t end = QCOW2_SECTOR;

    if (h->backing_offset && h->backing_offset < end) {
        end = h->backing_offset;
    }
    return end > h->header_length ? end - h->header_length : 0;
}

static bool has_ext(const GArray *exts, const struct qcow2_ext *e)
{
    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *x = &g_array_index(exts, struct qcow2_ext, i);

        if (x->type == e->type && x->len == e->len &&
            (e->len == 0 || memcmp(x->data, e->data, e->len) == 0)) {
            return true;
        }
    }
    return false;
}

/* Large unknown extensions keep the area from fitting: then the new ones must
 * replace the old ones, in sector 0. An extension that has no data any more
 * stays: the name of a backing format has no meaning without a backing file. */
static bool exts_patch(const struct qcow2_image *img, const GArray *exts,
                       uint8_t *sector)
{
    const size_t start = img->hdr.header_length;

    if (start >= QCOW2_SECTOR) {
        return false;
    }
    for (guint i = 0; i < exts->len; i++) {
        const struct qcow2_ext *e = &g_array_index(exts, struct qcow2_ext, i);

        if (!has_ext(img->exts, e) &&
            !qcow2_exts_patch(sector + start, QCOW2_SECTOR - start, e)) {
            return false;
        }
    }
    return true;
}

bool qcow2_exts_put(const struct qcow2_image *img, const struct qcow2_header *h,
                    const GArray *exts, uint8_t sector[QCOW2_SECTOR])
{
    memcpy(sector, img->sector.bytes, QCOW2_SECTOR);
    return qcow2_exts_encode(exts, sector + h->header_length, exts_room(h)) ||
           exts_patch(img, exts, sector);
}

int qcow2_co_write_exts(struct qcow2_image *img, const struct qcow2_header *h,
                        GArray *exts, const char *name)
{
    uint8_t sector[QCOW2_SECTOR];
    int ret;

    if (!qcow2_exts_put(img, h, exts, sector)) {
        return -ENOSPC;
    }
    if (name) {
        memcpy(sector + h->backing_offset, name, h->backing_len);
    }
    ret = sector_co_write(img, h, sector);
    if (ret == 0 && exts != img->exts) {
        GArray *old = img->exts;

        img->exts = g_array_ref(exts);
        g_array_unref(old);
    }
    return ret;
}

/* The backing name may stand in the way: let *@h put it at the end of sector 0,
 * if that is where it is. */
static bool name_move(const struct qcow2_image *img, struct qcow2_header *h)
{
    if (!h->backing_offset || strlen(img->backing_name) != h->backing_len ||
        !range_inside(h->backing_offset, h->backing_len, QCOW2_SECTOR)) {
        return false;
    }
    h->backing_offset = QCOW2_SECTOR - h->backing_len;
    return true;
}

bool qcow2_exts_fit(const struct qcow2_image *img, const struct qcow2_header *h,
                    const GArray *exts)
{
    struct qcow2_header to = *h;
    uint8_t sector[QCOW2_SECTOR];

    return qcow2_exts_put(img, h, exts, sector) ||
           (name_move(img, &to) && qcow2_exts_put(img, &to, exts, sector));
}

bool qcow2_exts_fit_whole(const struct qcow2_image *img, const GArray *exts)
{
    struct qcow2_header to = img->hdr;
    uint8_t buf[QCOW2_SECTOR];

    return qcow2_exts_encode(exts, buf, exts_room(&img->hdr)) ||
           (name_move(img, &to) &&
            qcow2_exts_encode(exts, buf, exts_room(&to)));
}

int qcow2_co_write_exts_apart(struct qcow2_image *img,
                              const struct qcow2_header *h, GArray *exts)
{
    struct qcow2_header to = *h;
    int ret = qcow2_co_write_exts(img, h, exts, NULL);

    return ret == -ENOSPC && name_move(img, &to)
               ? qcow2_co_write_exts(img, &to, exts, img->backing_name)
               : ret;
}
