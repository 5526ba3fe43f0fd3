/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening and closing.
 *
 * Nothing in the file is used before it is checked; memory stays below two
 * tables of 16 MiB and the L2 cache, whatever the header says.  A writable open
 * leaves an image whose allocation end lies past everything that any table
 * refers to, as far as that can be told without a full scan; a dirty image, or
 * one whose length is odd, gets that scan (M7).
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/alloc/backing.h"
#include "format/qed/qed.h"
#include "format/trace.h"
#include "loop/io.h"

static void qed_image_release(struct qed_image *img)
{
    pending_drop(&img->pending, UINT64_MAX);
    metadata_cache_done(&img->l2);
    if (img->l1) {
        io_buf_put(img->l1, img->table_bytes);
        img->l1 = NULL;
    }
    g_clear_pointer(&img->items, g_array_unref);
    g_clear_pointer(&img->fresh, g_hash_table_destroy);
    g_clear_pointer(&img->backing_name, g_free);
}

static CO_FN int header_co_read(struct qed_image *img, GError **err)
{
    struct node *n = img->node;
    struct node *file = qed_file(img);
    GError *why = NULL;
    uint64_t where = 0;
    int ret = header_sector_co_read(&img->sector, n);

    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the QED header");
    }
    ret = qed_header_decode(img->sector.bytes, min_u64(file->size, QED_SECTOR),
                            &img->hdr, err);
    if (ret < 0) {
        return ret;
    }
    ret = qed_header_validate(&img->hdr, file->size, &where, &why);
    if (ret < 0) {
        if (ret == -EINVAL) {
            node_corrupt(n, err, where, "%s", why->message);
            g_error_free(why);
        } else {
            g_propagate_error(err, why);
        }
    }
    return ret;
}

static CO_FN int qed_name_co_read(struct qed_image *img, GError **err)
{
    const struct qed_header *h = &img->hdr;
    bool has_one = h->features & QED_F_BACKING_FILE;

    return format_co_read_backing_name(img->node, h->backing_name_offset,
                                       has_one ? h->backing_name_size : 0,
                                       &img->backing_name, err);
}

static void qed_set_geometry(struct qed_image *img)
{
    const struct qed_header *h = &img->hdr;
    uint64_t file_size = qed_file(img)->size;

    img->cluster_bits = (unsigned)g_bit_storage(h->cluster_size) - 1;
    img->table_bytes = qed_table_bytes(h->cluster_size, h->table_size);
    img->entry_bits = (unsigned)g_bit_storage(img->table_bytes / 8) - 1;
    img->header_bytes = (uint64_t)h->header_size * h->cluster_size;
    img->file_end = file_size;
    img->alloc_end = round_up(file_size, h->cluster_size);
}

static CO_FN int qed_l1_co_load(struct qed_image *img, GError **err)
{
    struct iovec v;
    int ret;

    img->l1 = io_buf_get(img->table_bytes);
    if (!img->l1) {
        return err_set(err, ENOMEM,
                       "Could not allocate %" PRIu64
                       " bytes for the QED L1 table",
                       img->table_bytes);
    }
    ret = node_co_preadv(qed_file(img), img->hdr.l1_table_offset,
                         iov_one(&v, img->l1, img->table_bytes), 0);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the QED L1 table");
    }
    return 0;
}

static CO_FN int qed_autoclear_co_apply(struct qed_image *img)
{
    struct qed_header h = img->hdr;
    int ret;

    if (h.autoclear_features == 0) { /* we know of none */
        return 0;
    }
    h.autoclear_features = 0;
    ret = qed_co_write_header(img, &h);
    return ret < 0 ? ret
                   : BARRIER(AUTOCLEAR, node_co_sync(img->node, qed_file(img)));
}

/* Look at every table, and repair if the image was not closed properly. */
static CO_FN int image_co_examine(struct qed_image *img, unsigned flags,
                                  GError **err)
{
    bool dirty = img->hdr.features & QED_F_NEED_CHECK;
    uint64_t size = qed_file(img)->size;
    struct check_result res = { 0 };
    int ret;

    if ((flags & NODE_CHECK) || (!dirty && size % qed_cluster_size(img) == 0)) {
        return 0;
    }
    ret = qed_co_check(img->node, dirty ? CHECK_FIX_ERRORS : 0, &res, err);
    if (ret < 0) {
        err_prefix(err, "Could not check the QED image");
        return ret;
    }
    if (dirty && (res.corruptions || res.check_errors)) {
        return err_set(err, EIO,
                       "QED image was not closed properly and could "
                       "not be repaired: run a check with repair");
    }
    return 0;
}

/* Make a loaded image ready for writes. */
static CO_FN int qed_image_co_set_writable(struct qed_image *img,
                                           unsigned flags, GError **err)
{
    int ret = qed_autoclear_co_apply(img);

    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not update the QED header");
    }
    for (uint32_t i = 0; i < qed_entries(img); i++) {
        qed_note_offset(img, get_le64(&img->l1[i]), img->table_bytes);
    }
    /* Tables seen so far did not count for alloc_end. */
    metadata_cache_clear(&img->l2);
    qed_init_clear(img);
    img->group = group_new(img->loop, img->node, NULL, &qed_group_ops, img, 0,
                           0);
    ret = image_co_examine(img, flags, err);
    if (ret < 0) {
        group_co_free(img->group);
        img->group = NULL;
    } else if (img->quiesced) { /* reopened while drained */
        group_co_quiesce(img->group);
    }
    return ret;
}

int qed_co_open(struct node *n, struct opts *o, unsigned flags, GError **err)
{
    struct qed_image *img = qed_image(n);
    int ret;

    img->node = n;
    img->loop = graph_loop(n->graph);
    ret = node_co_open_file(n, o, err);
    if (ret < 0) {
        return ret;
    }
    ret = header_co_read(img, err);
    if (ret < 0) {
        return ret;
    }
    qed_set_geometry(img);
    qed_l2_init(img);
    img->items = g_array_new(FALSE, FALSE, sizeof(struct qed_item));
    img->fresh = g_hash_table_new(g_direct_hash, g_direct_equal);
    n->size = img->hdr.image_size;
    trace_qed_open(n->name, n->size, img->hdr.features);
    ret = qed_name_co_read(img, err);
    if (ret == 0) {
        ret = qed_l1_co_load(img, err);
    }
    if (ret == 0 && (n->flags & NODE_RDWR)) {
        ret = qed_image_co_set_writable(img, flags, err);
    }
    if (ret == 0) {
        ret = node_co_open_backing(
            n, o, img->backing_name,
            img->hdr.features & QED_F_NO_PROBE ? "raw" : NULL, err);
    }
    if (ret < 0) {
        group_co_free(img->group);
        img->group = NULL;
        qed_image_release(img);
    }
    return ret;
}

/* Everything to the file; then writes are over. */
static CO_FN int qed_image_co_end_writes(struct qed_image *img)
{
    int ret;

    if (!img->group) {
        return 0;
    }
    loop_timer_cancel(&img->clear_timer);
    co_latch_co_wait(&img->background);
    ret = BARRIER(QED_CLOSE, group_co_flush(img->group));
    if (ret == 0) {
        ret = qed_co_mark_clean(img);
    }
    loop_timer_cancel(&img->clear_timer); /* that flush may have armed it */
    return ret;
}

void qed_co_close(struct node *n)
{
    struct qed_image *img = qed_image(n);
    int ret = qed_image_co_end_writes(img);

    if (pending_count(&img->pending)) {
        trace_qed_lost(n->name, pending_count(&img->pending), ret);
    }
    group_co_free(img->group);
    img->group = NULL;
    qed_image_release(img);
}

int qed_co_reopen(struct node *n, struct opts *o, unsigned flags, GError **err)
{
    struct qed_image *img = qed_image(n);
    bool writable = flags & NODE_RDWR;
    int ret;

    if (writable == (img->group != NULL)) {
        return 0;
    }
    if (writable) {
        return qed_image_co_set_writable(img, flags, err);
    }
    ret = qed_image_co_end_writes(img);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush the QED image");
    }
    group_co_free(img->group);
    img->group = NULL;
    return 0;
}
