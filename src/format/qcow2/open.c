/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Opening, closing, going between read-only and writable.
 *
 * Nothing in the file is used before it is checked; what the header says cannot
 * make us hold more than the L1 and refcount tables at their limits.  A
 * read-only open never writes, whatever state the image is in.
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "base/options.h"
#include "format/qcow2/space/refcount.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/data/data.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/space.h"
#include "format/trace.h"
#include "loop/io.h"

static void qcow2_image_release(struct qcow2_image *img)
{
    pending_drop(&img->pending, UINT64_MAX);
    metadata_cache_done(&img->slices);
    qcow2_bitmaps_close(img);
    qcow2_snapshots_close(img);
    qcow2_crypt_close(img);
    qcow2_codec_close(img);
    if (img->l1) {
        io_buf_put(img->l1, img->l1_bytes);
        img->l1 = NULL;
    }
    g_clear_pointer(&img->fresh, g_hash_table_destroy);
    g_clear_pointer(&img->exts, g_array_unref);
    g_clear_pointer(&img->backing_name, g_free);
    g_clear_pointer(&img->backing_format, g_free);
    img->data = NULL;
}

/* --- options --- */

/* An option that may not be there. */
struct cache_size {
    const char *name;
    bool given;
    uint64_t bytes;
};

static int take_cache_size(struct opts *o, struct cache_size *s, GError **err)
{
    int r = opts_take_size(o, s->name, &s->bytes, err);

    s->given = r > 0;
    return r;
}

/* "cache-size" is for both caches together; what one of them has of it the
 * other has not. The texts are those of QEMU. */
static int divide_cache_size(const struct cache_size *both,
                             struct cache_size *part, struct cache_size *rest,
                             GError **err)
{
    if (part->bytes > both->bytes) {
        return err_set(err, EINVAL, "%s may not exceed %s", part->name,
                       both->name);
    }
    rest->bytes = both->bytes - part->bytes;
    return 0;
}

/* Caches have the options of QEMU; "l2-cache-entry-size" is not needed. */
static int take_cache_options(const struct node *n, struct opts *o,
                              struct qcow2_options *ret, GError **err)
{
    struct cache_size both = { .name = "cache-size" };
    struct cache_size l2 = { .name = "l2-cache-size" };
    struct cache_size blocks = { .name = "refcount-cache-size" };
    int64_t idle_s = METADATA_CACHE_IDLE_S;
    uint64_t entry = 0;
    int r;

    /* A chain may be long. */
    l2.bytes = n->flags & NODE_IMPLICIT ? QCOW2_CACHE_BYTES / 4
                                        : QCOW2_CACHE_BYTES;
    blocks.bytes = QCOW2_BLOCK_CACHE_BYTES;
    if ((r = take_cache_size(o, &both, err)) < 0 ||
        (r = take_cache_size(o, &l2, err)) < 0 ||
        (r = take_cache_size(o, &blocks, err)) < 0 ||
        (r = opts_take_size(o, "l2-cache-entry-size", &entry, err)) < 0 ||
        (r = opts_take_int(o, "cache-clean-interval", &idle_s, err)) < 0) {
        return r;
    }
    if (both.given && l2.given && blocks.given) {
        return err_set(err, EINVAL,
                       "cache-size, l2-cache-size and refcount-cache-size may "
                       "not be set at the same time");
    }
    if (both.given) {
        if (!l2.given && !blocks.given) {
            blocks.bytes = min_u64(blocks.bytes, both.bytes / 4);
        }
        r = l2.given ? divide_cache_size(&both, &l2, &blocks, err)
                     : divide_cache_size(&both, &blocks, &l2, err);
    }
    if (idle_s < 0 || idle_s > UINT_MAX) {
        return err_set(err, EINVAL, "Cache clean interval too big");
    }
    ret->cache_bytes = l2.bytes;
    ret->block_cache_bytes = blocks.bytes;
    ret->cache_idle_s = (unsigned)idle_s;
    return MIN(r, 0);
}

static int qcow2_take_options(const struct qcow2_image *img, struct opts *o,
                              struct qcow2_options *to, GError **err)
{
    json_t *overlap;
    int r;

    to->lazy_refcounts = img->hdr.compat & QCOW2_C_LAZY_REFCOUNTS;
    to->pass_discard_request = to->pass_discard_snapshot = true;
    if ((r = take_cache_options(img->node, o, to, err)) < 0 ||
        (r = opts_take_bool(o, "lazy-refcounts", &to->lazy_refcounts, err)) <
            0 ||
        (r = opts_take_bool(o, "pass-discard-request",
                            &to->pass_discard_request, err)) < 0 ||
        (r = opts_take_bool(o, "pass-discard-snapshot",
                            &to->pass_discard_snapshot, err)) < 0 ||
        (r = opts_take_bool(o, "pass-discard-other", &to->pass_discard_other,
                            err)) < 0) {
        return r;
    }
    if (to->lazy_refcounts && img->hdr.version < 3) {
        return err_set(err, EINVAL,
                       "Lazy refcounts require a qcow2 image with "
                       "at least qemu 1.1 compatibility level");
    }
    /* All metadata is always looked at. */
    overlap = opts_take_any(o, "overlap-check");
    json_decref(overlap);
    return 0;
}

/* --- loading --- */

static void qcow2_set_geometry(struct qcow2_image *img)
{
    const struct qcow2_header *h = &img->hdr;
    bool extended = h->incompat & QCOW2_I_EXTENDED_L2;
    unsigned entry_bits = extended ? 4 : 3;

    img->shape = (struct qcow2_shape) {
        .version = (uint8_t)h->version,
        .cluster_bits = (uint8_t)h->cluster_bits,
        .extended = extended,
        .data_file = h->incompat & QCOW2_I_DATA_FILE,
    };
    img->cluster_bits = h->cluster_bits;
    img->sub_bits = h->cluster_bits - (extended ? 5 : 0);
    img->l2_bits = h->cluster_bits - entry_bits;
    img->slice_bits = (unsigned)min_u64(
        img->l2_bits,
        (uint64_t)g_bit_storage(QCOW2_SLICE_MAX) - 1 - entry_bits);
}

static CO_FN int qcow2_l1_co_load(struct qcow2_image *img, GError **err)
{
    struct iovec v;
    int ret;

    img->l1_bytes = max_u64(
        round_up((uint64_t)img->hdr.l1_size * 8, QCOW2_SECTOR), QCOW2_SECTOR);
    img->l1 = io_buf_get(img->l1_bytes);
    if (!img->l1) {
        return err_set(err, ENOMEM,
                       "Could not allocate %zu bytes for the "
                       "qcow2 L1 table",
                       img->l1_bytes);
    }
    memset((uint8_t *)img->l1 + img->l1_bytes - QCOW2_SECTOR, 0, QCOW2_SECTOR);
    if (img->hdr.l1_size == 0) {
        return 0;
    }
    ret = node_co_preadv(qcow2_file(img), img->hdr.l1_offset,
                         iov_one(&v, img->l1, (size_t)img->hdr.l1_size * 8), 0);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not read the qcow2 L1 table");
    }
    return 0;
}

static CO_FN int parts_co_open(struct qcow2_image *img, struct opts *o,
                               unsigned flags, GError **err)
{
    int ret = qcow2_take_options(img, o, &img->opts, err);

    if (ret == 0) {
        ret = qcow2_co_data_file_open(img, o, flags, err);
    }
    if (ret == 0) {
        ret = qcow2_co_crypt_open(img, o, flags, err);
    }
    if (ret == 0) {
        ret = qcow2_l1_co_load(img, err);
    }
    if (ret == 0) {
        ret = qcow2_co_snapshots_open(img, err);
    }
    return ret < 0 ? ret : qcow2_co_bitmaps_open(img, err);
}

/* --- writable --- */

/* Bits that we do not know say what a writer who ignores them would spoil. */
static CO_FN int qcow2_autoclear_co_apply(struct qcow2_image *img)
{
    struct qcow2_header h = img->hdr;
    int ret;

    if (!(h.autoclear & ~QCOW2_A_KNOWN)) {
        return 0;
    }
    h.autoclear &= QCOW2_A_KNOWN;
    ret = qcow2_co_write_header(img, &h);
    return ret < 0
               ? ret
               : BARRIER(AUTOCLEAR, node_co_sync(img->node, qcow2_file(img)));
}

const char *qcow2_lists_damage(const struct qcow2_image *img)
{
    const char *damage = img->snapshots->damage ? img->snapshots->damage
                                                : img->bitmaps->damage;

    return damage || !qcow2_exts_doubled(img->exts)
               ? damage
               : "a header extension is there twice";
}

/* What is damaged beside the disk would be lost or made worse by a writer. */
static int lists_validate(const struct qcow2_image *img, GError **err)
{
    const char *damage = qcow2_lists_damage(img);

    if (!damage) {
        return 0;
    }
    return err_set(err, EACCES,
                   "qcow2: Image cannot be opened read/write: %s "
                   "(repair a copy of it with 'check -r all')",
                   damage);
}

/* Who reads on is told once what is not shown. */
static void lists_tell(struct qcow2_image *img, unsigned flags)
{
    const char *damage = qcow2_lists_damage(img);

    if (damage && !(flags & NODE_CHECK)) {
        node_notice(img->node, "%s (repair a copy of it with 'check -r all')",
                    damage);
    }
}

static CO_FN int qcow2_image_co_set_writable(struct qcow2_image *img,
                                             unsigned flags, GError **err)
{
    int ret = flags & NODE_CHECK ? 0 : lists_validate(img, err);

    if (ret < 0) {
        return ret;
    }
    if ((img->hdr.incompat & QCOW2_I_CORRUPT) && !(flags & NODE_CHECK)) {
        err_set(err, EACCES,
                "qcow2: Image is corrupt; cannot be opened "
                "read/write");
        err_hint(err, "Repair a copy of it with 'check -r all'.");
        return -EACCES;
    }
    ret = flags & NODE_CHECK
              ? 0
              : qcow2_co_data_file_reach(img, img->hdr.size, err);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_autoclear_co_apply(img);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not update the qcow2 header");
    }
    ret = qcow2_co_begin_writes(img, flags, err);
    for (unsigned i = 0; ret == 0 && i < img->quiesced; i++) {
        group_co_quiesce(img->group); /* reopened while drained */
    }
    return ret;
}

int qcow2_co_open(struct node *n, struct opts *o, unsigned flags, GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret;

    img->node = n;
    img->loop = graph_loop(n->graph);
    ret = node_co_open_file(n, o, err);
    if (ret < 0) {
        return ret;
    }
    img->exts = qcow2_exts_new();
    ret = qcow2_co_header_read(img, err);
    if (ret == 0) {
        qcow2_set_geometry(img);
        n->size = img->hdr.size;
        trace_qcow2_open(n->name, n->size, img->hdr.incompat,
                         img->cluster_bits);
        img->fresh = g_hash_table_new(g_direct_hash, g_direct_equal);
        ret = parts_co_open(img, o, flags, err);
    }
    if (ret == 0) {
        qcow2_slices_init(img);
        if (n->flags & NODE_RDWR) {
            ret = qcow2_image_co_set_writable(img, flags, err);
        } else {
            lists_tell(img, flags);
        }
    }
    if (ret == 0) {
        ret = node_co_open_backing(n, o, img->backing_name, img->backing_format,
                                   err);
    }
    if (ret == 0) {
        ret = qcow2_check_backing(img, err);
    }
    if (ret < 0) {
        if (img->group) {
            qcow2_co_end_writes(img);
        }
        qcow2_image_release(img);
    }
    return ret;
}

/* Everything to the file; then writes are over. */
static CO_FN int qcow2_image_co_end_writes(struct qcow2_image *img)
{
    int ret;

    if (!img->group) {
        return 0;
    }
    co_latch_co_wait(&img->preparing);
    qcow2_prepared_co_drop(img);
    qcow2_co_bitmaps_end_writes(img);
    ret = qcow2_co_end_writes(img);
    g_assert(!img->group);
    return ret;
}

static void leaks_tell(struct qcow2_image *img)
{
    if (img->leaked) {
        node_notice(img->node,
                    "%" PRIu64 " clusters are in use no more, but "
                    "could not be freed: %s (run 'check -r leaks')",
                    img->leaked, g_strerror(-img->leak_error));
    }
    img->leaked = 0;
}

void qcow2_co_close(struct node *n)
{
    struct qcow2_image *img = qcow2_image(n);
    int ret = qcow2_image_co_end_writes(img);

    if (pending_count(&img->pending)) {
        trace_qcow2_lost(n->name, pending_count(&img->pending), ret);
    }
    if (ret < 0) {
        node_notice(n, "Could not write its metadata when it was closed: %s",
                    g_strerror(-ret));
    }
    leaks_tell(img);
    qcow2_image_release(img);
}

/* The caches keep what they hold until its place is needed. */
static int qcow2_change_options(struct qcow2_image *img, struct opts *o,
                                GError **err)
{
    struct qcow2_options to = {};
    int ret = qcow2_take_options(img, o, &to, err);

    if (ret == 0) {
        img->opts = to;
        metadata_cache_set_max(&img->slices, to.cache_bytes);
    }
    return ret;
}

int qcow2_co_reopen(struct node *n, struct opts *o, unsigned flags,
                    GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    bool writable = flags & NODE_RDWR;
    int ret;

    if (!((flags ^ n->flags) & NODE_RDWR)) {
        return qcow2_change_options(img, o, err);
    }
    if (writable == (img->group != NULL)) {
        return 0;
    }
    if (writable) {
        return qcow2_image_co_set_writable(img, flags, err);
    }
    /* What cannot be written (no space) waits: the image stays writable. */
    ret = qcow2_co_settle(img);
    if (ret == 0) {
        ret = qcow2_image_co_end_writes(img);
        img->corrupt = img->corrupt || ret < 0; /* it can take no write now */
        leaks_tell(img);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush the qcow2 image");
    }
    return 0;
}
