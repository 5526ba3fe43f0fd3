/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metadata in the file: the header, and what may be written where. */
#pragma once
#include "format/qcow2/qcow2.h"

/* --- header.c: sector 0 --- */

CO_FN int qcow2_co_header_read(struct qcow2_image *img, GError **err);
/* Write @h into sector 0; img->hdr follows on success. Not flushed. */
CO_FN int qcow2_co_write_header(struct qcow2_image *img,
                                const struct qcow2_header *h);
/* @exts for the extensions, names of features shortened when they stand in the
 * way; a backing name that stands in their way in sector 0
 * moves to the end of it by the same write. */
CO_FN int qcow2_co_write_exts_apart(struct qcow2_image *img,
                                    const struct qcow2_header *h, GArray *exts);
/* Would that find room? */
bool qcow2_exts_fit(const struct qcow2_image *img, const struct qcow2_header *h,
                    const GArray *exts);
/* ... as the whole list in sector 0, so that nothing of the old one stays? */
bool qcow2_exts_fit_whole(const struct qcow2_image *img, const GArray *exts);
/* A write of the header that fails may have reached the file: the old header is
 * written again and flushed, then the failure is reported. Where that fails
 * too, it is unknown which one the file has. Until it is settled nothing is
 * allocated, freed or published, so that both lead to what they led to. Settle
 * it, if need be; the group is locked, or its pass runs. */
CO_FN int qcow2_co_header_settle(struct qcow2_image *img);
/* What sector 0 becomes with @exts; false when there is no room in it. */
bool qcow2_exts_put(const struct qcow2_image *img, const struct qcow2_header *h,
                    const GArray *exts, uint8_t sector[QCOW2_SECTOR]);
/* The same with @exts for the extensions and, where it stands in sector 0, the
 * backing name. */
CO_FN int qcow2_co_write_exts(struct qcow2_image *img,
                              const struct qcow2_header *h, GArray *exts,
                              const char *name);

/* --- corrupt.c: may the image be written to? --- */

/* Report at file offset @at; a writable image gets its corrupt bit (version 3)
 * and takes no more writes. Returns -EIO. */
CO_FN int qcow2_co_corrupt(struct qcow2_image *img, uint64_t at,
                           const char *fmt, ...) PRINTF_LIKE(3, 4);
/* May the image be written to? Settles the header. The group is not locked. 0
 * or -errno. */
CO_FN int qcow2_co_ready(struct qcow2_image *img);
/* May what the image is be changed? -EPERM: it is read-only; -EIO: corrupt. */
int qcow2_check_writable(const struct qcow2_image *img, GError **err);

/* --- overlap.c: metadata is not overwritten --- */

enum qcow2_meta {
    QCOW2_META_HEADER,
    QCOW2_META_L1,
    QCOW2_META_L2,
    QCOW2_META_REFTABLE,
    QCOW2_META_REFBLOCK,
    QCOW2_META_SNAPSHOTS,
    QCOW2_META_SNAPSHOT_L1,
    QCOW2_META_BITMAPS,
    QCOW2_META_CRYPT,
    QCOW2_META_DATA,
};

/* Write @len bytes of structure @what; -EIO when they would hit another one
 * (the image is marked corrupt then). Not flushed. */
CO_FN int qcow2_co_write_meta(struct qcow2_image *img, enum qcow2_meta what,
                              uint64_t host, const void *buf, uint64_t len);
/* [@host, @host+@len) holds structure @what / no more. A cluster whose refcount
 * becomes 0 is removed by itself. No effect on a read-only node. */
void qcow2_meta_add(struct qcow2_image *img, enum qcow2_meta what,
                    uint64_t host, uint64_t len);
void qcow2_meta_remove(struct qcow2_image *img, uint64_t host, uint64_t len);
/* Is the cluster at @host known to hold metadata? */
bool qcow2_meta_is_at(const struct qcow2_image *img, uint64_t host);
/* Before guest data goes to [@host, @host+@len). */
CO_FN int qcow2_co_check_overlap(struct qcow2_image *img, enum qcow2_meta what,
                                 uint64_t host, uint64_t len);
/* [@host, @host+@len) has been allocated: the same for what held no structure a
 * moment ago, whatever its refcount said. */
CO_FN int qcow2_co_check_free(struct qcow2_image *img, uint64_t host,
                              uint64_t len);
void qcow2_overlap_open(struct qcow2_image *img, const uint64_t *reftable,
                        uint32_t n);
void qcow2_overlap_close(struct qcow2_image *img);

/* --- publish.c: a commit group reaches the file --- */

extern const struct group_ops qcow2_group_ops;
void qcow2_publish_open(struct qcow2_image *img);
void qcow2_publish_close(struct qcow2_image *img);
