/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an overlay: the data file first, durable under its first name, then
 * the sidecar without a header, then the header: a file that begins with the
 * magic is a whole image.  The caller flushes the header.
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "base/math.h"
#include "format/cow/overlay.h"
#include "loop/io.h"

const struct create_option cow_create_options[] = {
    { "size", "size", "Virtual disk size" },
    { "backing_file", "str", "File name of a base image" },
    { "backing_fmt", "str", "Image format of the base image" },
    { "data_file", "str", "Name of the data file, in the image's folder" },
    { "data_format", "str", "Image format of the data file", "raw" },
    { "cluster_size", "size", "Cluster size (in bytes)", "4096" },
    { NULL, NULL, NULL, NULL },
};

static int text_take(struct opts *o, const char *name, char *to, size_t max,
                     GError **err)
{
    g_autofree char *text = NULL;
    int ret = opts_take_str(o, name, &text, err);

    if (ret > 0 && strlen(text) > max) {
        return err_set(err, EINVAL,
                       "Parameter '%s' has %zu bytes; an overlay "
                       "takes at most %zu",
                       name, strlen(text), max);
    }
    if (ret > 0) {
        g_strlcpy(to, text, max + 1);
    }
    return ret;
}

/* "disk" of DIR/disk.cow, else the name and ".raw" (or what the format is). */
static int default_name(const struct node *file, struct cow_header *h,
                        GError **err)
{
    g_autofree char *base = g_path_get_basename(file->filename ? file->filename
                                                               : "");
    g_autofree char *name = g_str_has_suffix(base, ".cow") &&
                                    strlen(base) > strlen(".cow")
                                ? g_strndup(base, strlen(base) - strlen(".cow"))
                                : g_strconcat(base, ".", h->data_format, NULL);

    if (strlen(name) > COW_DATA_NAME_MAX) {
        return err_set(err, EINVAL,
                       "The name '%s' is too long for a data "
                       "file: name one with data_file",
                       name);
    }
    g_strlcpy(h->data_name, name, sizeof(h->data_name));
    return 0;
}

static int header_take(struct opts *o, const struct node *file,
                       struct cow_header *h, GError **err)
{
    uint64_t cluster = UINT64_C(1) << COW_CLUSTER_BITS_DEFAULT;
    int ret = opts_take_size(o, "size", &h->size, err);

    if (ret == 0) {
        return opts_missing("size", err);
    }
    if (ret < 0 ||
        (ret = opts_take_size(o, "cluster_size", &cluster, err)) < 0 ||
        (ret = text_take(o, "backing_file", h->backing, COW_BACKING_MAX, err)) <
            0 ||
        (ret = text_take(o, "backing_fmt", h->backing_format, COW_FORMAT_MAX,
                         err)) < 0 ||
        (ret = text_take(o, "data_format", h->data_format, COW_FORMAT_MAX,
                         err)) < 0) {
        return ret;
    }
    if (ret == 0) {
        g_strlcpy(h->data_format, "raw", sizeof(h->data_format));
    }
    if (h->size > (uint64_t)INT64_MAX) {
        return err_set(err, EFBIG, "Image size %" PRIu64 " is too large",
                       h->size);
    }
    h->size = (h->size + COW_SECTOR - 1) / COW_SECTOR * COW_SECTOR;
    ret = text_take(o, "data_file", h->data_name, COW_DATA_NAME_MAX, err);
    if (ret == 0) {
        ret = default_name(file, h, err);
    }
    if (ret >= 0) {
        ret = cow_data_name_validate(h->data_name, err);
    }
    if (ret == 0) {
        ret = cow_geometry_validate(cluster, h->size, err);
    }
    h->cluster_bits = (uint32_t)g_bit_storage(cluster) - 1;
    return ret;
}

static void uuid_make(uint8_t uuid[COW_UUID_BYTES])
{
    for (unsigned i = 0; i < COW_UUID_BYTES; i++) {
        uuid[i] = (uint8_t)g_random_int_range(0, 256);
    }
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40); /* random, RFC 4122 */
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

static CO_FN int sidecar_co_write(struct node *file, const struct cow_header *h)
{
    struct iovec v;
    uint8_t *buf;
    int ret = node_co_truncate(file, 0, NULL);

    if (ret == 0) {
        ret = node_co_truncate(file, cow_file_bytes(h), NULL);
    }
    if (ret == 0) {
        ret = BARRIER(OVERLAY_CREATE, node_co_flush(file));
    }
    if (ret < 0) {
        return ret;
    }
    buf = io_buf_get(COW_SLOT_BYTES);
    cow_header_encode(h, buf);
    ret = node_co_pwritev(file, 0, iov_one(&v, buf, COW_SLOT_BYTES), 0);
    io_buf_put(buf, COW_SLOT_BYTES);
    return ret;
}

int cow_co_create(struct node *file, struct opts *o, GError **err)
{
    struct cow_header h = { .generation = 1 };
    g_autofree char *path = NULL;
    int ret = header_take(o, file, &h, err);

    if (ret == 0) {
        ret = opts_finish(o, err);
    }
    if (ret == 0) {
        ret = cow_co_data_create(file, &h, &h.data_inode, &path, err);
    }
    if (ret < 0) {
        return ret;
    }
    h.known = COW_KNOWS_DATA;
    uuid_make(h.uuid);
    ret = sidecar_co_write(file, &h);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not write the overlay '%s'",
                      file->filename);
        io_co_unlink(path);
    }
    return ret;
}

int cow_measure(struct opts *o, struct image_measure *ret, GError **err)
{
    static const char *const no_matter[] = {
        "backing_file",
        "backing_fmt",
        "data_file",
        "data_format",
    };
    struct cow_header h = { .cluster_bits = COW_CLUSTER_BITS_DEFAULT };
    uint64_t cluster = UINT64_C(1) << COW_CLUSTER_BITS_DEFAULT;
    int r = opts_take_size(o, "size", &h.size, err);

    if (r >= 0) {
        r = opts_take_size(o, "cluster_size", &cluster, err);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(no_matter); i++) {
        json_decref(opts_take_any(o, no_matter[i]));
    }
    if (r >= 0) {
        h.size = (h.size + COW_SECTOR - 1) / COW_SECTOR * COW_SECTOR;
        r = cow_geometry_validate(cluster, h.size, err);
    }
    if (r < 0) {
        return r;
    }
    h.cluster_bits = (uint32_t)g_bit_storage(cluster) - 1;
    ret->size = h.size;
    ret->metadata = COW_SLOTS * COW_SLOT_BYTES +
                    cow_groups(&h) * COW_BLOCK_BYTES +
                    round_up(cow_groups(&h) / 4 + 1, COW_BLOCK_BYTES);
    ret->cluster_size = cluster;
    return 0;
}
