/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Internal snapshots: made, applied, deleted.
 *
 * Each changes the image by one metadata transaction (meta/transaction.h). Once
 * that is committed the operation is done, whatever happens then:
 *
 *   create   what the active tables refer to is counted once more; two L1
 *            tables, the disk's and the snapshot's, and the new list
 *   apply    what the snapshot refers to is counted once more; an L1 table for
 *            the disk, and the size of the snapshot; then the old tables are
 *            given up
 *   delete   the new list; then what the snapshot alone refers to is given up,
 *            which needs no space; a second transaction takes the references to
 *            what the disk uses, too
 *
 * What fails behind that leaks clusters, which a check gives back; it is an
 * error that says so.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/bitmap/bitmap.h"
#include "format/qcow2/map/map.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/snapshot/prepare.h"
#include "format/qcow2/snapshot/snapshot.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"

/* An entry says their length in 16 bits; QEMU reads no more. */
#define NAME_MAX_BYTES 255

/* --- parts --- */

/* @l1 becomes the active table; the image takes it. */
static void l1_take(struct qcow2_image *img, uint64_t *l1, size_t bytes)
{
    io_buf_put(img->l1, img->l1_bytes);
    img->l1 = l1;
    img->l1_bytes = bytes;
    metadata_cache_clear(&img->slices);
}

static size_t l1_room(uint32_t n)
{
    return MAX(round_up((uint64_t)n * 8, QCOW2_SECTOR), QCOW2_SECTOR);
}

/* A new table of @n entries that are 0. */
static uint64_t *l1_new(uint32_t n)
{
    uint64_t *l1 = io_buf_get(l1_room(n));

    if (l1) {
        memset(l1, 0, l1_room(n));
    }
    return l1;
}

/* A list without what it holds. */
static GPtrArray *qcow2_snapshot_list_copy(const struct qcow2_image *img)
{
    GPtrArray *list = g_ptr_array_new();

    for (guint i = 0; i < img->snapshots->list->len; i++) {
        g_ptr_array_add(list, g_ptr_array_index(img->snapshots->list, i));
    }
    return list;
}

/* Write the table of @list to new clusters; @h leads to it. *@ret_bytes: of the
 * table. */
static CO_FN int qcow2_snapshot_list_co_store(struct qcow2_transaction *tx,
                                              const GPtrArray *list,
                                              struct qcow2_header *h,
                                              uint64_t *ret_bytes)
{
    struct qcow2_image *img = tx->img;
    uint8_t *buf = qcow2_snapshots_encode(list, ret_bytes);
    uint64_t host;
    int ret = buf ? 0 : -ENOMEM;

    if (ret == 0) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_SNAPSHOTS, buf,
                                         *ret_bytes, &host);
    }
    g_free(buf);
    if (ret == 0) {
        qcow2_transaction_drop(tx, img->hdr.snapshots_offset,
                               img->snapshots->bytes);
        h->snapshots_offset = host;
        h->n_snapshots = list->len;
    }
    return ret;
}

static void l1_drop(struct qcow2_transaction *tx)
{
    qcow2_transaction_drop(tx, tx->img->hdr.l1_offset,
                           (uint64_t)tx->img->hdr.l1_size * 8);
}

/* --- create --- */

static char *new_id(const struct qcow2_image *img)
{
    unsigned long max = 0;

    for (unsigned i = 0; i < qcow2_n_snapshots(img); i++) {
        max = MAX(max, strtoul(qcow2_snapshot_at(img, i)->id, NULL, 10));
    }
    return g_strdup_printf("%lu", max + 1);
}

static struct qcow2_snapshot *snapshot_new(const struct qcow2_image *img,
                                           const char *name)
{
    struct qcow2_snapshot *s = g_new0(struct qcow2_snapshot, 1);
    uint64_t now = loop_date_ns(img->loop);

    s->id = new_id(img);
    s->name = g_strdup(name);
    s->date_sec = (uint32_t)(now / 1000000000);
    s->date_nsec = (uint32_t)(now % 1000000000);
    s->disk_size = img->hdr.size;
    s->l1_size = img->hdr.l1_size;
    s->icount = QCOW2_NO_ICOUNT;
    return s;
}

/* What was prepared, or else all at once. -EAGAIN: it cannot be used. */
static CO_FN int create_co_share(struct qcow2_transaction *tx, uint32_t n,
                                 uint64_t *l1)
{
    if (!tx->img->prepared) {
        return qcow2_refs_co_share(tx, tx->img->l1, n, true, l1);
    }
    return qcow2_prepared_fits(tx->img) && qcow2_prepared_co_share(tx, l1) == 0
               ? 0
               : -EAGAIN;
}

/* Both L1 tables and the list. */
static CO_FN int create_co_store(struct qcow2_transaction *tx,
                                 struct qcow2_snapshot *s, uint64_t *l1,
                                 struct qcow2_header *h, uint64_t *ret_bytes)
{
    struct qcow2_image *img = tx->img;
    uint64_t bytes = (uint64_t)s->l1_size * 8;
    GPtrArray *list = qcow2_snapshot_list_copy(img);
    int ret = create_co_share(tx, s->l1_size, l1);

    if (ret == 0) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_SNAPSHOT_L1, l1, bytes,
                                         &s->l1_offset);
    }
    if (ret == 0 && bytes) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_L1, l1, bytes,
                                         &h->l1_offset);
    }
    if (ret == 0) {
        l1_drop(tx);
        g_ptr_array_add(list, s);
        ret = qcow2_snapshot_list_co_store(tx, list, h, ret_bytes);
    }
    g_ptr_array_unref(list);
    return ret;
}

static CO_FN int qcow2_create_co_run(struct qcow2_transaction *tx,
                                     const char *name)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_header h = img->hdr;
    struct qcow2_snapshot *s = snapshot_new(img, name);
    uint64_t *l1 = l1_new(s->l1_size), bytes = 0;
    size_t room = l1_room(s->l1_size);
    int ret = -ENOMEM;

    if (l1) {
        ret = create_co_store(tx, s, l1, &h, &bytes);
        if (ret < 0) {
            qcow2_transaction_co_undo(tx);
        } else {
            ret = qcow2_transaction_co_run(tx, &h);
        }
    }
    if (tx->done) {
        qcow2_prepared_end(img);
        l1_take(img, l1, room);
        g_ptr_array_add(img->snapshots->list, s);
        img->snapshots->bytes = bytes;
        return ret;
    }
    qcow2_prepared_co_drop(img);
    if (l1) {
        io_buf_put(l1, room);
    }
    qcow2_snapshot_free(s);
    return ret;
}

/* The tables would be looked at again and again. */
static int qcow2_l1_validate(struct qcow2_image *img, const uint64_t *l1,
                             uint32_t n, uint64_t at, GError **err)
{
    return qcow2_l1_has_duplicates(l1, n)
               ? node_corrupt(img->node, err, at,
                              "Two entries of an L1 table lead "
                              "to one L2 table (run a check)")
               : 0;
}

static CO_FN int snapshot_co_create(struct qcow2_transaction *tx,
                                    const char *name, GError **err)
{
    struct qcow2_image *img = tx->img;
    int ret;

    if (strlen(name) > NAME_MAX_BYTES) {
        return err_set(err, EINVAL,
                       "The name of a snapshot has at most %d "
                       "bytes",
                       NAME_MAX_BYTES);
    }
    if (qcow2_n_snapshots(img) >= QCOW2_SNAPSHOTS_MAX) {
        return err_set(err, EFBIG, "An image has at most %d snapshots",
                       QCOW2_SNAPSHOTS_MAX);
    }
    ret = qcow2_l1_validate(img, img->l1, img->hdr.l1_size, img->hdr.l1_offset,
                            err);
    if (ret < 0) {
        return ret;
    }
    ret = qcow2_create_co_run(tx, name);
    return ret < 0 && ret != -EAGAIN
               ? err_set(err, -ret, "%s", g_strerror(-ret))
               : ret;
}

/* --- delete --- */

/* Its references to what the disk uses, and its tables. */
static CO_FN int delete_co_unshare(struct qcow2_transaction *tx,
                                   const struct qcow2_snapshot *s,
                                   const uint64_t *l1)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_header h = img->hdr;
    uint64_t *active = l1_new(img->hdr.l1_size);
    size_t room = l1_room(img->hdr.l1_size);
    bool changed;
    int ret;

    if (!active) {
        return -ENOMEM;
    }
    ret = qcow2_refs_co_unshare(tx, l1, s->l1_size, active);
    changed = memcmp(active, img->l1, (size_t)h.l1_size * 8) != 0;
    if (ret == 0 && changed) {
        ret = qcow2_transaction_co_store(tx, QCOW2_META_L1, active,
                                         (uint64_t)h.l1_size * 8, &h.l1_offset);
        l1_drop(tx);
    }
    if (ret < 0) {
        qcow2_transaction_co_undo(tx);
    } else {
        qcow2_transaction_drop(tx, s->l1_offset, (uint64_t)s->l1_size * 8);
        ret = qcow2_transaction_co_run(tx, &h);
    }
    if (changed && tx->done) {
        l1_take(img, active, room);
    } else {
        io_buf_put(active, room);
    }
    return ret;
}

/* @s is not in the list any more, durably: give its clusters back. */
static CO_FN void delete_co_free(struct qcow2_image *img,
                                 const struct qcow2_snapshot *s,
                                 const uint64_t *l1)
{
    struct qcow2_transaction tx;
    int ret = qcow2_transaction_begin(&tx, img);

    if (ret == 0) {
        qcow2_co_reclaim(img);
        qcow2_refs_co_free(&tx, l1, s->l1_size, false);
        ret = delete_co_unshare(&tx, s, l1);
    }
    if (ret < 0) {
        qcow2_leak(img, s->l1_offset >> img->cluster_bits, 1, ret);
    }
    qcow2_transaction_end(&tx);
}

static CO_FN int delete_co_run(struct qcow2_transaction *tx,
                               struct qcow2_snapshot *s, const uint64_t *l1)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_header h = img->hdr;
    GPtrArray *list = qcow2_snapshot_list_copy(img);
    uint64_t bytes;
    guint at = 0;
    int ret;

    g_ptr_array_remove(list, s);
    ret = qcow2_snapshot_list_co_store(tx, list, &h, &bytes);
    g_ptr_array_unref(list);
    if (ret < 0) {
        qcow2_transaction_co_undo(tx);
    } else {
        ret = qcow2_transaction_co_run(tx, &h);
    }
    if (!tx->done) {
        return ret;
    }
    g_ptr_array_find(img->snapshots->list, s, &at);
    g_ptr_array_steal_index(img->snapshots->list, at);
    img->snapshots->bytes = bytes;
    if (ret == 0) {
        delete_co_free(img, s, l1);
    }
    qcow2_snapshot_free(s);
    return ret;
}

static CO_FN int qcow2_snapshot_co_delete(struct qcow2_transaction *tx,
                                          struct qcow2_snapshot *s,
                                          GError **err)
{
    uint64_t *l1;
    size_t room;
    int ret = qcow2_co_snapshot_l1(tx->img, s, 0, &l1, &room, err);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_l1_validate(tx->img, l1, s->l1_size, s->l1_offset, err);
    if (ret < 0) {
        io_buf_put(l1, room);
        return ret;
    }
    ret = delete_co_run(tx, s, l1);
    io_buf_put(l1, room);
    return ret < 0 ? err_set_errno(err, -ret,
                                   "Failed to remove the snapshot "
                                   "from the snapshot list")
                   : 0;
}

/* --- apply --- */

/* The disk's old tables, which nothing leads to any more. */
static CO_FN void apply_co_free(struct qcow2_image *img, const uint64_t *l1,
                                uint32_t n)
{
    struct qcow2_transaction tx;

    int ret = qcow2_transaction_begin(&tx, img);

    if (ret == 0) {
        qcow2_co_reclaim(img);
        qcow2_refs_co_free(&tx, l1, n, true);
    } else {
        qcow2_leak(img, img->hdr.l1_offset >> img->cluster_bits, 1, ret);
    }
    qcow2_transaction_end(&tx);
}

static CO_FN int apply_co_transaction(struct qcow2_transaction *tx,
                                      const uint64_t *l1, uint64_t *active,
                                      struct qcow2_header *h)
{
    int ret = qcow2_refs_co_share(tx, l1, h->l1_size, false, active);

    if (ret == 0) {
        ret = qcow2_transaction_co_store(
            tx, QCOW2_META_L1, active, (uint64_t)h->l1_size * 8, &h->l1_offset);
    }
    if (ret < 0) {
        qcow2_transaction_co_undo(tx);
        return ret;
    }
    l1_drop(tx);
    return qcow2_transaction_co_run(tx, h);
}

/* @l1, of @n entries, is for a disk of @size bytes, and more. */
static CO_FN int apply_co_run(struct qcow2_transaction *tx, const uint64_t *l1,
                              uint32_t n, uint64_t size)
{
    struct qcow2_image *img = tx->img;
    struct qcow2_header h = img->hdr;
    uint32_t old_n = h.l1_size;
    uint64_t *active, *old = l1_new(old_n);
    int ret = -ENOMEM;

    /* The state of a machine lies behind the disk: whoever starts the machine
     * from the snapshot reads it there. */
    h.size = size;
    h.l1_size = n;
    active = l1_new(h.l1_size);
    if (active && old) {
        memcpy(old, img->l1, (size_t)old_n * 8);
        ret = apply_co_transaction(tx, l1, active, &h);
    }
    if (tx->done) {
        l1_take(img, active, l1_room(h.l1_size));
        img->node->size = size;
        qcow2_bitmaps_changed(img, size, 0, size);
        active = NULL;
        if (ret == 0) {
            apply_co_free(img, old, old_n);
        }
    }
    if (active) {
        io_buf_put(active, l1_room(h.l1_size));
    }
    if (old) {
        io_buf_put(old, l1_room(old_n));
    }
    return ret;
}

static CO_FN int snapshot_co_apply(struct qcow2_transaction *tx,
                                   const struct qcow2_snapshot *s, GError **err)
{
    struct qcow2_image *img = tx->img;
    uint64_t size = s->disk_size ? s->disk_size : img->hdr.size, *l1;
    size_t room;
    int ret = qcow2_co_snapshot_l1(img, s, size, &l1, &room, err);

    if (ret < 0) {
        return ret;
    }
    ret = qcow2_l1_validate(img, l1, s->l1_size, s->l1_offset, err);
    if (ret < 0) {
        io_buf_put(l1, room);
        return ret;
    }
    ret = apply_co_run(tx, l1, s->l1_size, size);
    io_buf_put(l1, room);
    return ret < 0 ? err_set(err, -ret, "Failed to load snapshot: %s",
                             g_strerror(-ret))
                   : 0;
}

/* --- all --- */

static CO_FN int qcow2_snapshot_co_act(struct qcow2_image *img,
                                       enum snapshot_op op, const char *name,
                                       GError **err)
{
    struct qcow2_snapshot *s = qcow2_snapshot_find(img, name);
    struct qcow2_transaction tx;
    int ret = qcow2_transaction_begin(&tx, img);

    if (ret < 0) {
        err_set_errno(err, -ret, "Could not change the snapshots");
    } else if (op == SNAPSHOT_CREATE) {
        ret = snapshot_co_create(&tx, name, err);
    } else if (!s) {
        ret = err_set(err, ENOENT, "Can't find the snapshot");
    } else if (op == SNAPSHOT_APPLY) {
        ret = snapshot_co_apply(&tx, s, err);
    } else {
        ret = qcow2_snapshot_co_delete(&tx, s, err);
    }
    qcow2_transaction_end(&tx);
    return ret;
}

/* In the file there is all that is in memory: the transaction is undone by
 * forgetting. */
static CO_FN int all_co_write(struct qcow2_image *img, enum snapshot_op op)
{
    int ret = qcow2_co_ready(img);

    if (ret < 0 || (op == SNAPSHOT_CREATE && !group_pending(img->group) &&
                    !qcow2_refcounts_pending(img))) {
        return ret; /* the guest waits for no flush that is not needed */
    }
    return qcow2_co_settle(img);
}

/* What a new one leaves behind is freed when the guest goes on. */
static CO_FN int qcow2_snapshot_co_try(struct qcow2_image *img,
                                       enum snapshot_op op, const char *name,
                                       GError **err)
{
    int ret;

    if (op != SNAPSHOT_CREATE) {
        qcow2_prepared_co_drop(img);
    }
    ret = all_co_write(img, op);
    if (ret == 0 && op == SNAPSHOT_APPLY) {
        ret = qcow2_co_bitmaps_hold(img);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not flush the qcow2 image");
    }
    group_co_lock(img->group);
    qcow2_co_reclaim(img);
    ret = qcow2_snapshot_co_act(img, op, name, err);
    if (op != SNAPSHOT_CREATE) {
        qcow2_co_reclaim(img);
    }
    group_unlock(img->group);
    return ret;
}

/* It was done, and the rest leaks: whoever asked for it is told. */
static int freed_validate(struct qcow2_image *img, enum snapshot_op op,
                          uint64_t leaked, int ret, GError **err)
{
    if (img->leaked == leaked && ret == 0) {
        return 0;
    }
    ret = ret < 0 ? ret : img->leak_error;
    img->leaked = leaked;
    return err_set(err, -ret,
                   "Failed to free the cluster and L1 table: %s; "
                   "the snapshot is %s (run 'check -r leaks')",
                   g_strerror(-ret),
                   op == SNAPSHOT_DELETE ? "deleted" : "applied");
}

int qcow2_co_snapshot(struct node *n, enum snapshot_op op, const char *name,
                      GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    uint64_t leaked = img->leaked;
    int ret;

    if (op == SNAPSHOT_LOAD) {
        return qcow2_co_snapshot_load(n, name, err);
    }
    ret = qcow2_check_writable(img, err);
    if (ret < 0) {
        return ret;
    }
    if (img->shape.data_file) {
        return err_set(err, ENOTSUP,
                       "An image with an external data file "
                       "cannot have internal snapshots");
    }
    ret = qcow2_snapshot_co_try(img, op, name, err);
    if (ret == -EAGAIN) { /* without what was prepared */
        ret = qcow2_snapshot_co_try(img, op, name, err);
    }
    if (op == SNAPSHOT_CREATE) {
        return ret;
    }
    if (ret == 0) { /* what was given back; it leaks if that is lost */
        ret = freed_validate(img, op, leaked, qcow2_co_settle(img), err);
    }
    return ret;
}
