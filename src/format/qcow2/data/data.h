/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest data on its way to and from the file. */
#pragma once
#include "format/qcow2/map/map.h"

/* --- io.c --- */

/* Bytes at @host, wherever data is, as they are: zeroes past the end of a data
 * file; nothing is written past that of the disk. */
CO_FN int qcow2_co_data_read(struct qcow2_image *img, uint64_t host,
                             struct iov iov, unsigned flags);
CO_FN int qcow2_co_data_write(struct qcow2_image *img, uint64_t host,
                              struct iov iov, unsigned flags);

/* --- read.c --- */

CO_FN int qcow2_co_decode(struct node *n, uint64_t off, struct iov iov,
                          const struct mapping *m, unsigned flags);
/* Guest bytes from their host offset, decrypted; @off is the guest offset. */
CO_FN int qcow2_co_read_data(struct qcow2_image *img, uint64_t off,
                             uint64_t host, struct iov iov, unsigned flags);
/* Whatever a run is. */
CO_FN int qcow2_co_read_run(struct qcow2_image *img,
                            const struct qcow2_run *run, uint64_t off,
                            struct iov iov, unsigned flags);

/* --- write.c, copyin.c, zero.c, empty.c --- */

CO_FN int qcow2_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                           unsigned flags);
CO_FN int qcow2_co_copy_in(struct node *n, uint64_t off, struct node *src,
                           uint64_t src_off, uint64_t len, unsigned flags);
bool qcow2_can_copy_in(struct node *n, struct node *src);
/* Guest bytes to their host offset, encrypted; @off is the guest offset. */
CO_FN int qcow2_co_write_data(struct qcow2_image *img, uint64_t off,
                              uint64_t host, struct iov iov, unsigned flags);
CO_FN int qcow2_co_zero(struct node *n, uint64_t off, uint64_t len,
                        unsigned flags);
CO_FN int qcow2_co_discard(struct node *n, uint64_t off, uint64_t len);
CO_FN int qcow2_co_make_empty(struct node *n, GError **err);

/* --- compress.c, decompress.c --- */

/* Read @iov at guest offset @off, inside one compressed cluster. */
CO_FN int qcow2_co_read_compressed(struct qcow2_image *img,
                                   const struct qcow2_run *run, uint64_t off,
                                   struct iov iov, unsigned flags);
/* Write whole clusters compressed (IO_COMPRESSED); those that do not shrink are
 * written as they are. */
CO_FN int qcow2_co_write_compressed(struct qcow2_image *img, uint64_t off,
                                    struct iov iov, unsigned flags);
void qcow2_codec_close(struct qcow2_image *img);

/* --- cluster-lock.c --- */

void qcow2_cluster_locks_open(struct qcow2_image *img);
void qcow2_cluster_locks_close(struct qcow2_image *img);

/* --- datafile.c --- */

/* Open and attach what option "data-file" says. -EINVAL when the image needs
 * one and only its header names it, or has none. */
CO_FN int qcow2_co_data_file_open(struct qcow2_image *img, struct opts *o,
                                  unsigned flags, GError **err);
/* The name in the header, fit to be shown; owned. NULL: none. */
char *qcow2_data_file_name(const struct qcow2_image *img);
/* Is the backing file that will be opened one too many? */
int qcow2_check_backing(const struct qcow2_image *img, GError **err);
/* The data file has at least @size bytes from now on. / It ends with a disk of
 * @size bytes, as far as it can. */
CO_FN int qcow2_co_data_file_reach(struct qcow2_image *img, uint64_t size,
                                   GError **err);
CO_FN int qcow2_co_data_file_cut(struct qcow2_image *img, uint64_t size);
/* Before [@off, @off+@len) is marked zero: the data file is told, one that is
 * raw has it. / Instead of marking it: in a raw one it is data. Begins with a
 * (sub)cluster. */
CO_FN int qcow2_co_data_zero(struct qcow2_image *img, uint64_t off,
                             uint64_t len, unsigned flags);
CO_FN int qcow2_co_data_map(struct qcow2_image *img, uint64_t off,
                            uint64_t end);
