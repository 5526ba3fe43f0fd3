/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Check and repair.
 *
 * Every reference from a table is counted, those of snapshots too; then the
 * refcounts of the file are compared.  One that is too low is a corruption: the
 * cluster might be handed out twice.  One that is too high is a leak.
 *
 * Repairs: of entries that lead nowhere what cannot be read becomes zeroes
 * (check/entry.c); lists of snapshots and bitmaps are written anew without what
 * is damaged (check/lists.c); refcounts become what was counted, in place, or,
 * when the blocks themselves cannot be used, in a new structure that the header
 * leads to by one write.  What was repaired is durable before the dirty and
 * corrupt bits go.
 *
 * A hostile image costs bounded memory (counts.c) and bounded reads (a budget
 * of table bytes).  Passes of the commit group are held off meanwhile.
 */
#include "format/qcow2/check/check.h"
#include <errno.h>
#include <inttypes.h>
#include "base/barrier.h"
#include "base/endian.h"
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/data/crypt.h"
#include "format/qcow2/meta/meta.h"
#include "format/qcow2/ops.h"
#include "format/qcow2/space/space.h"
#include "loop/io.h"

/* Tables of a disk of 128 TiB with clusters of 64 KiB. */
#define BUDGET_BYTES (UINT64_C(16) << 30)

/* --- everything but the mapping --- */

/* A structure that no repair can do without. */
static int count_fixed(struct qcow2_check *c, const char *what, uint64_t host,
                       uint64_t len)
{
    int ret = qcow2_check_count(c, host, len);

    if (ret == -ERANGE) {
        c->res->corruptions++;
        qcow2_check_report(c,
                           "ERROR %s at offset %" PRIu64 "+%" PRIu64
                           " exceeds the end of the file",
                           what, host, len);
        ret = 0;
    }
    return ret;
}

static CO_FN int fixed_co_count(struct qcow2_check *c)
{
    struct qcow2_image *img = c->img;
    uint64_t host, len;
    int ret = qcow2_counts_add(c->counts, 0, 1); /* the header */

    qcow2_crypt_range(img, &host, &len);
    if (ret == 0 && len) {
        ret = count_fixed(c, "encryption header", host, len);
    }
    return ret < 0 ? ret : qcow2_co_check_lists(c);
}

/* --- the refcount structure --- */

static int count_block(struct qcow2_check *c, uint32_t i, uint64_t host)
{
    uint64_t cluster = qcow2_cluster_size(c->img);
    const char *why = NULL;
    int ret = 0;

    if (host & (cluster - 1)) {
        why = "is not cluster aligned; refcount table entry corrupted";
    } else {
        ret = qcow2_check_count(c, host, cluster);
        if (ret == -ERANGE) {
            why = "is outside image";
            ret = 0;
        } else if (ret == 0 &&
                   qcow2_counts_get(c->counts, host >> c->img->cluster_bits) !=
                       1) {
            why = "lies where something else is";
        }
    }
    if (why) {
        qcow2_check_bad(c, "refcount block %" PRIu32 " %s", i, why);
        c->bad_blocks[i] = true;
        c->rebuild = true;
    }
    return ret;
}

/* Count the table and the blocks, last of all: then a block that lies on
 * something else shows. */
static CO_FN int structure_co_count(struct qcow2_check *c)
{
    struct qcow2_refcounts *r = c->img->refcounts;
    int ret = count_fixed(c, "refcount table", c->img->hdr.reftable_offset,
                          (uint64_t)c->img->hdr.reftable_clusters
                              << c->img->cluster_bits);

    c->bad_blocks = g_try_new0(bool, MAX(r->used, 1));
    if (!c->bad_blocks) {
        return -ENOMEM;
    }
    if (r->reserved_bits) {
        qcow2_check_bad(c, "the refcount table has reserved bits set");
        c->rebuild = true;
    }
    for (uint32_t i = 0; i < r->used && ret == 0; i++) {
        if (r->table[i]) {
            ret = count_block(c, i, r->table[i]);
        }
    }
    return ret;
}

/* --- the whole --- */

/* Is everything known and right by now? */
static bool all_is_well(const struct qcow2_check *c)
{
    return c->res->corruptions == 0 && c->res->check_errors == 0;
}

static CO_FN int bits_co_clear(struct qcow2_check *c)
{
    struct qcow2_header h = c->img->hdr;

    if (!(c->fix & CHECK_FIX_ERRORS) || !all_is_well(c) ||
        !(h.incompat & (QCOW2_I_DIRTY | QCOW2_I_CORRUPT))) {
        return 0;
    }
    h.incompat &= ~(QCOW2_I_DIRTY | QCOW2_I_CORRUPT);
    /* Bits that come back do no harm: no flush. */
    return qcow2_co_write_header(c->img, &h);
}

/* What was changed reaches the file; free space is looked up anew. */
static CO_FN int repairs_co_finish(struct qcow2_check *c, GError **err)
{
    struct qcow2_image *img = c->img;
    int ret = 0;

    if (!c->changed) {
        return 0;
    }
    if (!c->rebuild) {
        ret = qcow2_co_refcounts_write(img, 0);
    }
    if (ret == 0) {
        ret = BARRIER(QCOW2_REPAIR, node_co_sync(img->node, qcow2_file(img)));
    }
    if (ret == 0) {
        ret = qcow2_co_check_lists_switch(c);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not write the repairs");
    }
    ret = qcow2_co_space_reload(img, err);
    img->corrupt = ret < 0;
    return ret;
}

/* All that refers to clusters, but for the refcount structure. */
static CO_FN int references_co_count(struct qcow2_check *c)
{
    int ret = fixed_co_count(c);

    return ret < 0 ? ret : qcow2_co_check_tables(c);
}

/* Count without a report or a repair. *@ret_sound: there is nothing to be
 * repaired, and all was counted; else the counts are those of the look, and
 * the check begins anew. */
static CO_FN int references_co_look_once(struct qcow2_check *c, bool *ret_sound,
                                         bool *ret_overlap)
{
    struct check_result was = *c->res;
    unsigned fix = c->fix;
    int ret, r;

    qcow2_check_look_begin(c);
    c->fix = 0;
    c->res->report = NULL;
    ret = references_co_count(c);
    r = qcow2_check_look_end(c, ret_overlap);
    ret = ret < 0 ? ret : r;
    c->res->report = was.report;
    c->fix = fix;
    *ret_sound = ret == 0 && !*ret_overlap &&
                 c->res->corruptions == was.corruptions &&
                 c->res->check_errors == was.check_errors;
    if (!*ret_sound) {
        *c->res = was;
        c->look.all = c->counts;
        c->counts = qcow2_counts_new();
        qcow2_check_lists_reset(c);
        c->budget = BUDGET_BYTES;
    }
    return ret;
}

/* Before anything is repaired: see look.c. */
static CO_FN int references_co_look(struct qcow2_check *c, bool *ret_sound)
{
    bool overlap;
    int ret = references_co_look_once(c, ret_sound, &overlap);

    if (ret == 0 && overlap) {
        ret = references_co_look_once(c, ret_sound, &overlap);
    }
    /* What was too much will be so again, and is reported then. */
    return ret == -EFBIG ? 0 : ret;
}

/* Refcounts, and new lists, which need some. */
static CO_FN int refcounts_co_steps(struct qcow2_check *c)
{
    int ret = qcow2_co_check_lists_store(c);

    if (ret == 0) {
        ret = structure_co_count(c);
    }
    if (ret == 0) {
        ret = qcow2_co_check_refcounts(c);
    }
    if (ret == 0 && c->rebuild && (c->fix & CHECK_FIX_ERRORS)) {
        ret = qcow2_co_rebuild_refcounts(c);
    }
    return ret < 0 ? ret : qcow2_co_check_copied(c);
}

static CO_FN int check_co_steps(struct qcow2_check *c)
{
    bool sound = false;
    int ret = c->fix ? references_co_look(c, &sound) : 0;

    if (ret == 0 && !sound) {
        ret = references_co_count(c);
    }
    if (ret == 0 && (c->res->check_errors || c->unknown)) {
        /* What a table refers to would look free, and be allocated again. */
        qcow2_check_report(c, "Refcounts are not looked at: not all that "
                              "refers to clusters could be read");
        qcow2_check_lists_give_up(c);
        return 0;
    }
    return ret < 0 ? ret : refcounts_co_steps(c);
}

static CO_FN int qcow2_check_co_run(struct qcow2_check *c, GError **err)
{
    struct qcow2_image *img = c->img;
    uint64_t cluster = qcow2_cluster_size(img);
    int ret;

    c->budget = BUDGET_BYTES;
    c->file_clusters = round_up(qcow2_file(img)->size, cluster) / cluster;
    c->found_clusters = c->file_clusters;
    c->res->total_clusters = round_up(img->hdr.size, cluster) / cluster;
    c->counts = qcow2_counts_new();
    c->table = io_buf_get(cluster);
    ret = c->table ? check_co_steps(c) : -ENOMEM;
    if (c->table) {
        io_buf_put(c->table, cluster);
    }
    qcow2_counts_free(c->counts);
    qcow2_check_look_free(c);
    g_free(c->bad_blocks);
    ret = ret < 0 ? err_set_errno(err, -ret, "Could not check the qcow2 image")
                  : repairs_co_finish(c, err);
    qcow2_check_lists_reset(c);
    if (ret == 0) {
        ret = bits_co_clear(c);
        if (ret < 0) {
            err_set_errno(err, -ret, "Could not update the qcow2 header");
        }
    }
    return ret;
}

int qcow2_co_check(struct node *n, unsigned fix, struct check_result *res,
                   GError **err)
{
    struct qcow2_image *img = qcow2_image(n);
    struct qcow2_check c = { .img = img, .fix = fix, .res = res };
    bool own = !img->refcounts;
    int ret = 0;

    if (fix && !img->group) {
        return err_set(err, EPERM, "Cannot repair a read-only image");
    }
    if (img->group) {
        if (fix) {
            qcow2_prepared_co_drop(img);
        }
        ret = qcow2_co_settle(img);
        if (ret < 0) {
            return err_set_errno(err, -ret, "Could not flush the qcow2 image");
        }
        group_co_lock(img->group);
        qcow2_co_reclaim(img);
    } else if (own) {
        ret = qcow2_co_refcounts_open(img, err);
    }
    if (ret == 0) {
        ret = qcow2_check_co_run(&c, err);
    }
    if (img->group) {
        group_unlock(img->group);
    } else if (own) {
        qcow2_refcounts_close(img);
    }
    return ret;
}
