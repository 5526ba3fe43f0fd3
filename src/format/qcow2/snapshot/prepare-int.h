/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of a preparation share; how it works is in prepare.h. */
#pragma once
#include "format/qcow2/snapshot/prepare.h"

enum {
    QCOW2_PREPARE_BESIDE = 4, /* at once while the guest goes on */
    QCOW2_PREPARE_HELD = 16,  /* ... and while it waits */
};

/* A round of copying; @tx: that of the snapshot, while the guest waits. */
struct qcow2_prepare_round {
    struct qcow2_image *img;
    struct qcow2_prepared *p;
    struct qcow2_transaction *tx;
    GArray *numbers; /* uint64_t: what is copied */
};

/* --- prepare-round.c: no step runs while the image is drained --- */

/* Nobody drained the image, and the preparation is there still. */
bool qcow2_prepare_goes_on(const struct qcow2_prepare_round *r);
/* False: stop. / Every one that began ends. */
bool qcow2_prepare_step_begin(const struct qcow2_prepare_round *r);
void qcow2_prepare_step_end(const struct qcow2_prepare_round *r);
/* A new cluster for structure @what. */
CO_FN int qcow2_prepare_co_alloc(const struct qcow2_prepare_round *r,
                                 enum qcow2_meta what, uint64_t *ret_host);

/* --- prepare-counts.c: how often the copies refer to a cluster --- */

/* GDestroyNotify of the blocks. */
void qcow2_prepared_block_free(void *block);
/* Table @now takes the place of @old, if there was one. False: an entry makes no
 * sense, or memory is short; the preparation cannot be used then. */
bool qcow2_prepared_count_entries(struct qcow2_image *img, const void *old,
                                  const void *now);
/* The copy at host offset @was, if any, is at @at from now on. The same. */
bool qcow2_prepared_count_copy(struct qcow2_image *img, uint64_t was,
                               uint64_t at);
/* @buf, a block, with the references of the copies. 0; -EIO: a cluster that is
 * referred to is not counted; -EINVAL: too many for the width. */
int qcow2_prepared_block_fill(const struct qcow2_image *img,
                              const struct qcow2_prepared_block *b, void *buf);

/* --- prepare-tables.c --- */

/* Copy the tables that are stale. -EAGAIN: it was stopped. */
CO_FN int qcow2_prepare_co_tables(struct qcow2_prepare_round *r);
