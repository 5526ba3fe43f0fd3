/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image: what a user may ask for, with the option names of QEMU.
 * new.c writes it.
 */
#include <inttypes.h>
#include <string.h>
#include "base/err.h"
#include "base/math.h"
#include "format/qcow2/create/create.h"

/* In the order in which creation announces them. */
const struct create_option qcow2_create_options[] = {
    { "encryption", "bool (on/off)",
      "Of old; on is refused, for what it stood for is not safe" },
    { "encrypt.format", "str", "Encrypt the image: luks" },
    { "encrypt.key-secret", "str",
      "Id of the secret that holds the passphrase" },
    { "encrypt.cipher-alg", "str",
      "Cipher: aes-256 (default), aes-192, "
      "aes-128" },
    { "encrypt.cipher-mode", "str", "Mode of the cipher: xts (default), cbc" },
    { "encrypt.ivgen-alg", "str",
      "Initialisation vectors: plain64 (default), plain, essiv" },
    { "encrypt.ivgen-hash-alg", "str", "Hash of essiv: sha256" },
    { "encrypt.hash-alg", "str",
      "Hash of the passphrase: sha256 (default), "
      "sha1, sha224, sha384, sha512" },
    { "encrypt.iter-time", "num", "Time of an unlocking, in milliseconds" },
    { "cluster_size", "size", "qcow2 cluster size", "65536" },
    { "extended_l2", "bool (on/off)", "Extended L2 tables", "off" },
    { "preallocation", "str",
      "Preallocation mode (allowed values: off, metadata, falloc, full)" },
    { "compression_type", "str",
      "Compression method used for image cluster compression", "zlib" },
    QCOW2_OPTIONS_OF_AN_IMAGE("off", "16"),
    { NULL, NULL, NULL, NULL },
};

static const char *const preallocations[] = { "off", "metadata", "falloc",
                                              "full", NULL };
static const char *const compressions[] = { "zlib", "zstd", NULL };

#define NEEDS_V3 "compatibility level 1.1 and above (use version=v3 or greater)"

/* Index of @name's value in @names; the message calls it @shown. */
static int take_choice(struct opts *o, const char *name, const char *shown,
                       const char *const *names, int *ret, GError **err)
{
    g_autofree char *text = NULL;
    int r = opts_take_str(o, name, &text, err);

    for (int i = 0; r > 0 && names[i]; i++) {
        if (g_str_equal(names[i], text)) {
            *ret = i;
            return 1;
        }
    }
    return r <= 0 ? r
                  : err_set(err, EINVAL,
                            "Parameter '%s' does not accept "
                            "value '%s'",
                            shown, text);
}

static int take_new_version(struct opts *o, unsigned *ret, GError **err)
{
    static const char *const names[] = { "0.10", "v2", "1.1", "v3", NULL };
    int i, r = take_choice(o, "compat", "version", names, &i, err);

    if (r > 0) {
        *ret = i < 2 ? 2 : 3;
    }
    return r;
}

static int take_layout(struct opts *o, struct qcow2_create *c, GError **err)
{
    int64_t bits = 16;
    int r;

    if ((r = opts_take_size(o, "cluster_size", &c->cluster_size, err)) < 0 ||
        (r = opts_take_int(o, "refcount_bits", &bits, err)) < 0 ||
        (r = take_new_version(o, &c->version, err)) < 0 ||
        (r = opts_take_bool(o, "lazy_refcounts", &c->lazy_refcounts, err)) <
            0 ||
        (r = opts_take_bool(o, "extended_l2", &c->extended, err)) < 0 ||
        (r = take_choice(o, "compression_type", "compression-type",
                         compressions, &c->compression, err)) < 0 ||
        (r = take_choice(o, "preallocation", "preallocation", preallocations,
                         &c->preallocation, err)) < 0) {
        return r;
    }
    c->refcount_bits = bits > 0 ? (uint64_t)bits : 0;
    return 0;
}

static int take_all(struct opts *o, struct qcow2_create *c, GError **err)
{
    int r = opts_take_size(o, "size", &c->size, err);

    if (r == 0) {
        return opts_missing("size", err);
    }
    if (r < 0 || (r = take_layout(o, c, err)) < 0 ||
        (r = opts_take_str(o, "backing_file", &c->backing_file, err)) < 0 ||
        (r = opts_take_str(o, "backing_fmt", &c->backing_format, err)) < 0 ||
        (r = opts_take_str(o, "data_file", &c->data_file, err)) < 0 ||
        (r = opts_take_bool(o, "data_file_raw", &c->data_raw, err)) < 0) {
        return r;
    }
    if (c->backing_file && !c->backing_file[0]) {
        g_clear_pointer(&c->backing_file, g_free);
    }
    return qcow2_crypt_take_options(o, &c->crypt, err);
}

/* --- what does not go together --- */

static int validate_version(const struct qcow2_create *c, GError **err)
{
    if (c->version >= 3) {
        return 0;
    }
    if (c->lazy_refcounts) {
        return err_set(err, EINVAL,
                       "Lazy refcounts only supported with " NEEDS_V3);
    }
    if (c->refcount_bits != 16) {
        return err_set(err, EINVAL,
                       "Different refcount widths than 16 bits "
                       "require compatibility level 1.1 or above (use "
                       "version=v3 or greater)");
    }
    if (c->data_file) {
        return err_set(err, EINVAL,
                       "External data files are only supported "
                       "with " NEEDS_V3);
    }
    if (c->compression != QCOW2_ZLIB) {
        return err_set(err, EINVAL,
                       "Non-zlib compression type is only "
                       "supported with " NEEDS_V3);
    }
    if (c->crypt && c->preallocation != QCOW2_PREALLOC_OFF) {
        return err_set(err, EINVAL,
                       "Preallocation of encrypted images is "
                       "only supported with " NEEDS_V3);
    }
    if (c->extended) {
        return err_set(err, EINVAL,
                       "Extended L2 entries are only supported "
                       "with " NEEDS_V3);
    }
    return 0;
}

static int validate_layout(const struct qcow2_create *c, GError **err)
{
    const uint64_t min = UINT64_C(1) << QCOW2_CLUSTER_BITS_MIN;
    const uint64_t max = UINT64_C(1) << QCOW2_CLUSTER_BITS_MAX;
    const uint64_t extended = UINT64_C(1) << QCOW2_EXTENDED_BITS_MIN;

    if (c->cluster_size < min || c->cluster_size > max ||
        !is_power_of_two(c->cluster_size)) {
        return err_set(err, EINVAL,
                       "Cluster size must be a power of two "
                       "between %" PRIu64 " and %" PRIu64 "k",
                       min, max / 1024);
    }
    if (c->refcount_bits > 64 || !is_power_of_two(c->refcount_bits)) {
        return err_set(err, EINVAL,
                       "Refcount width must be a power of two and "
                       "may not exceed 64 bits");
    }
    if (c->extended && c->cluster_size < extended) {
        return err_set(err, EINVAL,
                       "Extended L2 entries are only supported "
                       "with cluster sizes of at least %" PRIu64 " bytes",
                       extended);
    }
    return validate_version(c, err);
}

static int validate_names(const struct qcow2_create *c, struct graph *g,
                          GError **err)
{
    if (c->backing_format && !c->backing_file) {
        return err_set(err, EINVAL,
                       "Backing format cannot be used without "
                       "backing file");
    }
    if (c->backing_format && !graph_find_driver(g, c->backing_format)) {
        return err_set(err, EINVAL,
                       "Parameter 'backing-fmt' does not accept "
                       "value '%s'",
                       c->backing_format);
    }
    if (c->backing_file && strlen(c->backing_file) > QCOW2_NAME_MAX) {
        return err_set(err, EINVAL,
                       "Backing file name of %zu bytes: qcow2 "
                       "takes at most %d",
                       strlen(c->backing_file), QCOW2_NAME_MAX);
    }
    if (c->data_raw && !c->data_file) {
        return err_set(err, EINVAL, "data-file-raw requires data-file");
    }
    if (c->data_raw && c->crypt) {
        return err_set(err, EINVAL,
                       "Encryption and data-file-raw cannot be "
                       "used at the same time: others could not read the data "
                       "file");
    }
    if (c->data_raw && c->backing_file) {
        return err_set(err, EINVAL,
                       "Backing file and data-file-raw cannot be "
                       "used at the same time");
    }
    if (c->backing_file && c->preallocation != QCOW2_PREALLOC_OFF &&
        !c->extended) {
        return err_set(err, EINVAL,
                       "Backing file and preallocation can only "
                       "be used at the same time if extended_l2 is on");
    }
    return 0;
}

static int validate_size(struct qcow2_create *c, GError **err)
{
    unsigned bits = (unsigned)g_bit_storage(c->cluster_size) - 1;

    if (c->size > (uint64_t)INT64_MAX - QCOW2_SECTOR ||
        qcow2_l1_entries(c->size, bits, c->extended) > QCOW2_L1_BYTES_MAX / 8) {
        return err_set(err, EFBIG,
                       "The image size is too large for file "
                       "format 'qcow2' (try using a larger cluster size)");
    }
    c->size = round_up(c->size, QCOW2_SECTOR);
    return 0;
}

int qcow2_create_take(struct opts *o, struct qcow2_create *c, GError **err)
{
    int ret;

    *c = (struct qcow2_create) {
        .cluster_size = QCOW2_CLUSTER_DEFAULT,
        .version = 3,
    };
    ret = take_all(o, c, err);
    return ret < 0 ? ret : validate_layout(c, err);
}

void qcow2_create_clear(struct qcow2_create *c)
{
    g_free(c->backing_file);
    g_free(c->backing_format);
    g_free(c->data_file);
    qcow2_crypt_options_free(c->crypt);
}

int qcow2_co_create(struct node *file, struct opts *o, GError **err)
{
    struct qcow2_create c;
    int ret = qcow2_create_take(o, &c, err);

    if (ret == 0) {
        ret = validate_names(&c, file->graph, err);
    }
    if (ret == 0) {
        ret = validate_size(&c, err);
    }
    /* Before anything is written, as this may fail. */
    if (ret == 0) {
        ret = opts_finish(o, err);
    }
    if (ret == 0) {
        ret = qcow2_co_write_new(file, &c, err);
    }
    qcow2_create_clear(&c);
    return ret;
}
