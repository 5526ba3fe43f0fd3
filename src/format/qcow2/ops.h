/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files of this folder itself do. */
#pragma once
#include "format/qcow2/qcow2.h"

/* --- open.c --- */

CO_FN int qcow2_co_open(struct node *n, struct opts *o, unsigned flags,
                        GError **err);
CO_FN void qcow2_co_close(struct node *n);
CO_FN int qcow2_co_reopen(struct node *n, struct opts *o, unsigned flags,
                          GError **err);
/* What is wrong with snapshots or bitmaps so that nothing may be written to the
 * image before a repair; NULL: nothing. */
const char *qcow2_lists_damage(const struct qcow2_image *img);

/* --- writable.c: a loaded image becomes writable, and ends to be --- */

/* A loaded image becomes writable: refcounts (rebuilt when dirty), space,
 * group. / All to the file, then writes are over. The state of both is gone
 * after the second, also when it failed. */
CO_FN int qcow2_co_begin_writes(struct qcow2_image *img, unsigned flags,
                                GError **err);
CO_FN int qcow2_co_end_writes(struct qcow2_image *img);

/* --- state.c: what a writable image keeps in memory --- */

/* Refcounts, free space and what goes with them; after a failure nothing is
 * kept. */
CO_FN int qcow2_co_state_open(struct qcow2_image *img, unsigned flags,
                              GError **err);
void qcow2_state_close(struct qcow2_image *img);
/* Read everything about free space anew: it was rebuilt. */
CO_FN int qcow2_co_space_reload(struct qcow2_image *img, GError **err);

/* --- settle.c: everything to the file, and the drain --- */

/* All to the file, what was set free included. */
CO_FN int qcow2_co_settle(struct qcow2_image *img);
/* node_driver.co_flush */
CO_FN int qcow2_co_flush(struct node *n);
CO_FN void qcow2_co_quiesce(struct node *n);
void qcow2_resume(struct node *n);

/* --- info.c --- */

CO_FN int qcow2_co_info(struct node *n, json_t *info, GError **err);

/* --- resize.c --- */

CO_FN int qcow2_co_truncate(struct node *n, uint64_t size, GError **err);

/* --- shrink.c --- */

/* The disk had @old bytes and has @size: free tables that are not needed any
 * more. Others may use the image. */
CO_FN void qcow2_co_shrink_metadata(struct qcow2_image *img, uint64_t old,
                                    uint64_t size);

/* --- backing.c --- */

int qcow2_check_backing_name(struct node *n, const char *name, const char *fmt,
                             GError **err);
CO_FN int qcow2_co_change_backing(struct node *n, const char *name,
                                  const char *fmt, GError **err);

/* --- amend.c --- */

/* node_driver.co_amend */
CO_FN int qcow2_co_amend(struct node *n, struct opts *o, GError **err);
extern const struct create_option qcow2_amend_options[];
