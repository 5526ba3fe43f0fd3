/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * External data files: guest clusters lie in a file of their own, each at its
 * guest offset; the image holds the tables.
 *
 * Invariants
 *   - The name in the header is for people.  It is never followed: what is
 *     opened is what an option names.
 *   - No data is written past the end of the disk, whatever the size of
 *     clusters: a raw data file stays as long as the disk.
 *   - A raw one holds at every instant what the guest sees.  So its clusters
 *     are data, never marked zero, and zeroes are written to them.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/create/create.h"
#include "format/qcow2/data/write.h"

/* --- opening --- */

char *qcow2_data_file_name(const struct qcow2_image *img)
{
    const struct qcow2_ext *e = qcow2_exts_find(img->exts, QCOW2_EXT_DATA_FILE);
    g_autofree char *name = e ? g_strndup((char *)e->data, e->len) : NULL;
    bool plain = name && g_utf8_validate(name, -1, NULL);

    for (const char *p = name; plain && *p; p = g_utf8_next_char(p)) {
        plain = !g_unichar_iscntrl(g_utf8_get_char(p));
    }
    return !name || plain ? g_steal_pointer(&name) : g_strescape(name, NULL);
}

static int refuse_unnamed(const struct qcow2_image *img, GError **err)
{
    g_autofree char *name = qcow2_data_file_name(img);

    err_set(err, EINVAL,
            "'data-file' is required for this image: its data is "
            "in another file%s%s%s",
            name ? " (its header says '" : "", name ? name : "",
            name ? "')" : "");
    err_hint(err,
             "The header's word is not followed. Name the file with the "
             "option data-file: data-file.filename=FILE, as in '--image-opts "
             "driver=qcow2,file.filename=IMAGE,data-file.filename=FILE'.");
    return -EINVAL;
}

int qcow2_check_backing(const struct qcow2_image *img, GError **err)
{
    if (!(img->hdr.autoclear & QCOW2_A_DATA_RAW) ||
        !node_wants_backing(img->node)) {
        return 0;
    }
    err_set(err, EINVAL,
            "An image whose external data file is raw cannot "
            "have a backing file");
    err_hint(err, "Open it without: backing=null (on a command line: "
                  "backing=).");
    return -EINVAL;
}

int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                            unsigned flags, GError **err)
{
    int ret;

    img->data_end = img->hdr.size;
    if (!img->shape.data_file) {
        if (opts_has(o, "data-file")) {
            return err_set(err, EINVAL,
                           "'data-file' can only be set for "
                           "images with an external data file");
        }
        return (img->hdr.autoclear & QCOW2_A_DATA_RAW) && !(flags & NODE_NO_IO)
                   ? err_set(err, EINVAL, "data-file-raw requires a data file")
                   : 0;
    }
    ret = node_co_open_child(img->node, o, "data-file", &img->data, err);
    /* To describe or check the tables no data is needed. */
    return ret == 0 && !img->data && !(flags & (NODE_NO_IO | NODE_CHECK))
               ? refuse_unnamed(img, err)
               : ret;
}

static CO_FN int data_co_reach(struct node *data, uint64_t size, GError **err)
{
    int ret = data->size < size ? node_co_truncate(data, size, err) : 0;

    if (ret < 0) {
        err_prefix(err,
                   "The data file has %" PRIu64 " bytes, the disk %" PRIu64,
                   data->size, size);
    }
    return ret;
}

int qcow2_co_data_file_reach(struct qcow2_image *img, uint64_t size,
                             GError **err)
{
    return img->data ? data_co_reach(img->data->child, size, err) : 0;
}

int qcow2_co_data_file_cut(struct qcow2_image *img, uint64_t size)
{
    struct node *data = img->data ? img->data->child : NULL;
    int ret = 0;

    img->data_end = size;
    if (data && data->size > size) {
        ret = node_co_truncate(data, size, NULL);
    }
    /* Devices and servers stay as long as they are. */
    return ret == -ENOTSUP ? 0 : ret;
}

/* --- zeroes --- */

/* Clusters of a raw data file that are not data by the tables: they become
 * that, with the bytes that are there. */
static CO_FN int qcow2_raw_co_map(struct qcow2_image *img, uint64_t off,
                                  uint64_t end)
{
    const uint64_t cluster = qcow2_cluster_size(img);
    int ret = 0;

    while (off < end && ret == 0) {
        uint64_t at = round_down(off, cluster), n, gen;
        struct qcow2_delta d = { .entry = at | QCOW2_COPIED, .whole = true };
        struct qcow2_run run;

        ret = qcow2_co_lookup_to_change(img, off, end - off, &run);
        if (ret != 0) {
            break;
        }
        if (run.kind == QCOW2_DATA && run.in_place) {
            off += run.len;
            continue;
        }
        n = 1;
        if (!img->shape.extended) {
            n = min_u64((off + run.len - at + cluster - 1) >> img->cluster_bits,
                        QCOW2_MARKERS_AT_ONCE);
        } else if (off == at && run.len >= cluster) {
            d.data = UINT32_MAX;
        } else {
            run.len = min_u64(run.len, at + cluster - off);
            d.whole = false;
            d.data = qcow2_sub_mask(img, off, run.len);
        }
        gen = group_join(img->group, n * QCOW2_MARKER_COST);
        qcow2_pending_add_run(img, gen, at >> img->cluster_bits, n, &d);
        group_data_done(img->group, gen);
        off = d.whole ? at + (n << img->cluster_bits) : off + run.len;
        co_relax();
    }
    return ret;
}

int qcow2_co_data_map(struct qcow2_image *img, uint64_t off, uint64_t end)
{
    return qcow2_data_is_raw(img) ? qcow2_raw_co_map(img, off, end) : 0;
}

int qcow2_co_data_zero(struct qcow2_image *img, uint64_t off, uint64_t len,
                       unsigned flags)
{
    struct node *data = qcow2_data(img);
    bool raw = qcow2_data_is_raw(img);
    int ret;

    if (!img->shape.data_file ||
        (!raw && !((flags & IO_MAY_UNMAP) && img->opts.pass_discard_request))) {
        return 0;
    }
    if (!data) {
        return -EIO;
    }
    if (!raw) { /* the tables say it; the space may go if that is cheap */
        flags |= IO_FAST;
    }
    len = off < data->size ? min_u64(len, data->size - off) : 0;
    ret = node_co_zero(data, off, len, flags & (IO_MAY_UNMAP | IO_FAST));
    return ret == -ENOTSUP && !raw ? 0 : ret;
}

/* --- creating --- */

/* The image and its base stand in other files. */
static CO_FN int other_co_check(const struct qcow2_create *c, struct node *file,
                                struct node *data, GError **err)
{
    g_autofree char *image = node_co_identity(file);
    g_autofree char *base = c->backing_file
                                ? node_co_name_identity(file, c->backing_file)
                                : NULL;
    g_autofree char *name = node_co_identity(data);
    const char *what = !name                     ? NULL
                       : !g_strcmp0(name, image) ? "the image"
                       : !g_strcmp0(name, base)  ? "its backing file"
                                                 : NULL;

    return what ? err_set(err, EINVAL, "The data file '%s' is %s", c->data_file,
                          what)
                : 0;
}

int qcow2_co_data_file_create(const struct qcow2_create *c, struct node *file,
                              struct new_storage *s, GError **err)
{
    int ret = new_storage_co_open(file->graph, c->data_file, s, err);

    if (ret < 0) {
        return ret;
    }
    ret = other_co_check(c, file, s->node, err);
    if (ret == 0) {
        ret = new_storage_co_empty(s, err);
    }
    if (ret == 0) {
        ret = data_co_reach(s->node, c->size, err);
    }
    if (ret < 0) {
        new_storage_co_close(s, false);
    }
    return ret;
}
