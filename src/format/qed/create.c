/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Making an image: an empty L1 table and the name first, durable, and then the
 * header: a file that begins with the magic is a whole image.  The caller
 * flushes the header.
 */
#include <inttypes.h>
#include <string.h>
#include "base/barrier.h"
#include "base/err.h"
#include "format/qed/qed.h"
#include "loop/io.h"

const struct create_option qed_create_options[] = {
    { "size", "size", "Virtual disk size" },
    { "backing_file", "str", "File name of a base image" },
    { "backing_fmt", "str", "Image format of the base image" },
    { "cluster_size", "size", "Cluster size (in bytes)", "65536" },
    { "table_size", "size", "L1/L2 table size (in clusters)" },
    { NULL, NULL, NULL, NULL },
};

#define NAME_AT 1024

struct create {
    uint64_t size, cluster_size, table_size;
    char *backing_file, *backing_fmt;
};

static int create_take(struct opts *o, struct create *c, GError **err)
{
    int ret = opts_take_size(o, "size", &c->size, err);

    if (ret == 0) {
        return opts_missing("size", err);
    }
    if (ret < 0 ||
        (ret = opts_take_size(o, "cluster_size", &c->cluster_size, err)) < 0 ||
        (ret = opts_take_size(o, "table_size", &c->table_size, err)) < 0 ||
        (ret = opts_take_str(o, "backing_file", &c->backing_file, err)) < 0 ||
        (ret = opts_take_str(o, "backing_fmt", &c->backing_fmt, err)) < 0) {
        return ret;
    }
    if (c->size > (uint64_t)INT64_MAX) {
        return err_set(err, EFBIG, "Image size %" PRIu64 " is too large",
                       c->size);
    }
    c->size = (c->size + QED_SECTOR - 1) / QED_SECTOR * QED_SECTOR;
    ret = qed_geometry_validate(c->cluster_size, c->table_size, c->size, err);
    if (ret == 0 && c->backing_file && strlen(c->backing_file) > QED_NAME_MAX) {
        ret = err_set(err, EINVAL,
                      "Backing file name of %zu bytes: QED takes "
                      "at most %d",
                      strlen(c->backing_file), QED_NAME_MAX);
    }
    return ret;
}

static CO_FN int qed_image_co_write(struct node *file, const struct create *c)
{
    uint64_t table = c->cluster_size * c->table_size;
    struct qed_header h = {
        .cluster_size = (uint32_t)c->cluster_size,
        .table_size = (uint32_t)c->table_size,
        .header_size = 1,
        .l1_table_offset = c->cluster_size,
        .image_size = c->size,
    };
    struct iovec v;
    uint8_t *buf;
    int ret;

    ret = node_co_truncate(file, c->cluster_size + table, NULL);
    if (ret == 0 && c->backing_file && c->backing_file[0]) {
        h.features |= QED_F_BACKING_FILE;
        if (c->backing_fmt && strcmp(c->backing_fmt, "raw") == 0) {
            h.features |= QED_F_NO_PROBE;
        }
        h.backing_name_offset = NAME_AT;
        h.backing_name_size = (uint32_t)strlen(c->backing_file);
        ret = node_co_pwritev(file, NAME_AT,
                              iov_one(&v, c->backing_file, h.backing_name_size),
                              0);
    }
    if (ret == 0) {
        ret = BARRIER(CREATE_TABLES, node_co_flush(file));
    }
    if (ret < 0) {
        return ret;
    }
    buf = io_buf_get(QED_SECTOR);
    memset(buf, 0, QED_SECTOR);
    qed_header_encode(&h, buf);
    ret = node_co_pwritev(file, 0, iov_one(&v, buf, QED_SECTOR), 0);
    io_buf_put(buf, QED_SECTOR);
    return ret;
}

int qed_co_create(struct node *file, struct opts *o, GError **err)
{
    struct create c = {
        .cluster_size = QED_CLUSTER_DEFAULT,
        .table_size = QED_TABLE_DEFAULT,
    };
    int ret = create_take(o, &c, err);

    if (ret == 0) {
        ret = qed_image_co_write(file, &c);
        if (ret < 0) {
            err_set_errno(err, -ret, "Could not write the QED image");
        }
    }
    g_free(c.backing_file);
    g_free(c.backing_fmt);
    return ret;
}
