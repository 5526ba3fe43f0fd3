/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Creation. */
#pragma once
#include "format/qcow2/qcow2.h"
#include "graph/image.h"

enum qcow2_preallocation {
    QCOW2_PREALLOC_OFF,
    QCOW2_PREALLOC_METADATA,
    QCOW2_PREALLOC_FALLOC,
    QCOW2_PREALLOC_FULL,
};

/* What a new image shall be. */
struct qcow2_create {
    uint64_t size, cluster_size, refcount_bits;
    unsigned version;
    bool lazy_refcounts, extended, data_raw;
    int compression;   /* enum qcow2_compression */
    int preallocation; /* enum qcow2_preallocation */
    char *backing_file, *backing_format, *data_file;
    struct qcow2_crypt_options *crypt; /* luks.c; NULL: none */
};

/* --- create.c --- */

CO_FN int qcow2_co_create(struct node *file, struct opts *o, GError **err);
extern const struct create_option qcow2_create_options[];
/* The entries of create_options that amending takes, too, in the order of
 * qemu-img. @lazy and @bits are the defaults of lazy_refcounts and
 * refcount_bits, or NULL. */
#define QCOW2_OPTIONS_OF_AN_IMAGE(lazy, bits) \
    { "size", "size", "Virtual disk size" }, \
        { "compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])" }, \
        { "backing_file", "str", "File name of a base image" }, \
        { "backing_fmt", "str", "Image format of the base image" }, \
        { "data_file", "str", "File name of an external data file" }, \
        { "data_file_raw", "bool (on/off)", \
          "The external data file must stay valid as a raw image" }, \
        { "lazy_refcounts", "bool (on/off)", "Postpone refcount updates", \
          lazy }, \
    { \
        "refcount_bits", "num", "Width of a reference count entry in bits", \
            bits \
    }
/* Take the options of creation, checked but for names and size. The caller
 * clears @c, after a failure too. */
int qcow2_create_take(struct opts *o, struct qcow2_create *c, GError **err);
void qcow2_create_clear(struct qcow2_create *c);

/* --- measure.c --- */

/* node_driver.measure */
int qcow2_measure(struct opts *o, struct image_measure *ret, GError **err);

/* --- new.c --- */

/* Write the image that @c, which is valid, describes into the empty @file.
 * Durable on success. */
CO_FN int qcow2_co_write_new(struct node *file, const struct qcow2_create *c,
                             GError **err);

/* --- data/datafile.c --- */

/* Make the data file that @c names, empty and of the size of the disk. After 0
 * close it. */
CO_FN int qcow2_co_data_file_create(const struct qcow2_create *c,
                                    struct node *file, struct new_storage *s,
                                    GError **err);

/* --- luks.c --- */

/* Creation: take "encrypt.*"; bytes of the header; write it at @host. */
int qcow2_crypt_take_options(struct opts *o,
                             struct qcow2_crypt_options **ret_options,
                             GError **err);
void qcow2_crypt_options_free(struct qcow2_crypt_options *c);
int qcow2_crypt_method(const struct qcow2_crypt_options *c);
uint64_t qcow2_crypt_header_bytes(const struct qcow2_crypt_options *c);
CO_FN int qcow2_co_crypt_create(const struct qcow2_crypt_options *c,
                                struct node *file, uint64_t host, GError **err);
