/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Raw: the file is the disk, or a window of the file is ("offset", "size").
 *
 * Everything is passed on, shifted by the window's begin.  Raw has no magic:
 * any bytes are a raw image, so it is never chosen by looking at them; whoever
 * wants raw says so.
 */
#include <inttypes.h>
#include <string.h>

#include "base/err.h"
#include "format/format.h"
#include "graph/driver.h"
#include "loop/io.h"

struct raw_state {
    uint64_t offset;
    uint64_t fixed_size; /* when has_size */
    bool has_size;
};

static const char *const raw_option_names[] = { "file", "offset", "size",
                                                NULL };

static const char *const raw_reference_options[] = { "offset", "size", NULL };

static void raw_reference(const struct node *n, json_t *o)
{
    const struct raw_state *s = n->state;

    if (s->offset > 0) {
        json_object_set_new(o, "offset", json_integer((json_int_t)s->offset));
    }
    if (s->has_size) {
        json_object_set_new(o, "size", json_integer((json_int_t)s->fixed_size));
    }
}

/* Above nothing; see the head of this file. */
static int raw_probe(const uint8_t *buf, size_t len)
{
    return 1;
}

static uint64_t raw_view_offset(const struct node *n)
{
    const struct raw_state *s = n->state;

    return s->offset;
}

/* Set node->size from the file's and the window. */
static int raw_apply_window(struct node *n, GError **err)
{
    const struct raw_state *s = n->state;
    uint64_t real = node_file(n)->size;

    if (s->offset > real) {
        return err_set(err, EINVAL,
                       "Offset (%" PRIu64 ") cannot be greater "
                       "than size of the containing file (%" PRIu64 ")",
                       s->offset, real);
    }
    if (s->has_size && real - s->offset < s->fixed_size) {
        return err_set(err, EINVAL,
                       "The sum of offset (%" PRIu64 ") and size "
                       "(%" PRIu64 ") has to be smaller or equal to the actual "
                       "size of the containing file (%" PRIu64 ")",
                       s->offset, s->fixed_size, real);
    }
    n->size = s->has_size ? s->fixed_size : real - s->offset;
    return 0;
}

static int raw_take_window(struct opts *o, struct raw_state *s, GError **err)
{
    int ret = opts_take_size(o, "offset", &s->offset, err);
    if (ret < 0) {
        return ret;
    }
    ret = opts_take_size(o, "size", &s->fixed_size, err);
    s->has_size = ret > 0;
    return MIN(ret, 0);
}

static CO_FN int raw_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct raw_state *s = n->state;
    int ret = raw_take_window(o, s, err);
    if (ret == 0) {
        ret = node_co_open_file(n, o, err);
    }
    return ret < 0 ? ret : raw_apply_window(n, err);
}

static CO_FN int raw_co_reopen(struct node *n, struct opts *o, unsigned flags,
                               GError **err)
{
    struct raw_state *s = n->state, old = *s;

    if ((flags ^ n->flags) & NODE_RDWR) {
        return 0; /* only the flag changes; @o is empty */
    }
    *s = (struct raw_state) {};
    int ret = raw_take_window(o, s, err);
    if (ret == 0) {
        ret = raw_apply_window(n, err);
    }
    if (ret < 0) {
        *s = old;
    }
    return ret;
}

/* The disk's bytes are the file's, all of them. */
static CO_FN int raw_co_map(struct node *n, uint64_t off, uint64_t len,
                            unsigned flags, struct mapping *ret_map)
{
    const struct raw_state *s = n->state;

    ret_map->child = node_file(n);
    ret_map->host = s->offset + off;
    ret_map->in_place = ret_map->like_child = true;
    return 0;
}

static CO_FN int raw_co_zero(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags)
{
    const struct raw_state *s = n->state;

    return node_co_zero(node_file(n), s->offset + off, len, flags);
}

static CO_FN int raw_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    const struct raw_state *s = n->state;

    return node_co_discard(node_file(n), s->offset + off, len);
}

static CO_FN int raw_co_truncate(struct node *n, uint64_t size, GError **err)
{
    const struct raw_state *s = n->state;
    if (s->has_size) {
        return err_set(err, ENOTSUP, "Cannot resize fixed-size raw disks");
    }
    if (size > INT64_MAX || s->offset > INT64_MAX - size) {
        return err_set(err, EINVAL,
                       "Disk size too large for the chosen offset");
    }
    int ret = node_co_truncate(node_file(n), s->offset + size, err);
    if (ret == 0) {
        n->size = size;
    }
    return ret;
}

static CO_FN int raw_co_refresh_size(struct node *n)
{
    int ret = node_co_refresh_size(node_file(n));
    return ret < 0 ? ret : raw_apply_window(n, NULL);
}

static CO_FN int raw_co_cache(struct node *n, uint64_t off, uint64_t len)
{
    const struct raw_state *s = n->state;
    return node_co_cache(node_file(n), s->offset + off, len);
}

/* --- create --- */

static const char *const raw_preallocation_names[] = { "off", "falloc", "full",
                                                       NULL };
enum preallocation { PREALLOC_OFF, PREALLOC_FALLOC, PREALLOC_FULL };

#define FILL_CHUNK (1024u * 1024)

/* Write zeroes over the whole file, for real. */
static CO_FN int raw_co_fill(struct node *file, uint64_t size)
{
    void *buf = io_buf_get(FILL_CHUNK);
    memset(buf, 0, FILL_CHUNK);
    int ret = 0;
    for (uint64_t off = 0; off < size && ret == 0; off += FILL_CHUNK) {
        struct iovec v;
        size_t len = (size_t)MIN(size - off, FILL_CHUNK);
        ret = node_co_pwritev(file, off, iov_one(&v, buf, len), 0);
    }
    io_buf_put(buf, FILL_CHUNK);
    return ret;
}

static CO_FN int raw_co_preallocate(struct node *file, uint64_t size,
                                    enum preallocation how, GError **err)
{
    int ret = 0;
    if (how == PREALLOC_FALLOC && size > 0) {
        /* Without MAY_UNMAP: the space is taken. */
        ret = node_co_zero(file, 0, size, 0);
    } else if (how == PREALLOC_FULL) {
        ret = raw_co_fill(file, size);
    }
    if (ret < 0) {
        return err_set_errno(err, -ret,
                             "Could not preallocate %" PRIu64 " bytes of '%s'",
                             size, file->filename);
    }
    return 0;
}

static CO_FN int raw_co_create(struct node *file, struct opts *o, GError **err)
{
    uint64_t size = 0;
    int how = PREALLOC_OFF;

    int ret = opts_take_size(o, "size", &size, err);
    if (ret == 0) {
        return opts_missing("size", err);
    }
    if (ret < 0 ||
        (ret = opts_take_enum(o, "preallocation", raw_preallocation_names, &how,
                              err)) < 0) {
        return ret;
    }
    if (opts_has(o, "backing_file")) {
        return err_set(err, ENOTSUP,
                       "Backing file not supported for file "
                       "format 'raw'");
    }
    if (size > INT64_MAX) {
        return err_set(err, EFBIG, "Image size must be less than 8 EiB");
    }
    /* Storage of a fixed size is good when it is large enough. */
    ret = !file->drv->co_truncate && size <= file->size
              ? 0
              : node_co_truncate(file, size, err);
    if (ret == 0) {
        ret = raw_co_preallocate(file, size, (enum preallocation)how, err);
    }
    return ret;
}

static int raw_measure(struct opts *o, struct image_measure *ret, GError **err)
{
    int how, r = opts_take_size(o, "size", &ret->size, err);

    if (r >= 0) {
        r = opts_take_enum(o, "preallocation", raw_preallocation_names, &how,
                           err);
    }
    ret->size = (ret->size + 511) / 512 * 512;
    ret->all = true;
    return MIN(r, 0);
}

static const struct create_option raw_create_options[] = {
    { "size", "size", "Virtual disk size" },
    { "preallocation", "str",
      "Preallocation mode (allowed values: off, falloc, full)" },
    {}
};

const struct node_driver raw_driver = {
    .name = "raw",
    .kind = NODE_FORMAT,
    .state_size = sizeof(struct raw_state),
    .handles_fua = true,
    .option_names = raw_option_names,
    .reference_options = raw_reference_options,
    .reference = raw_reference,
    .probe = raw_probe,
    .view_offset = raw_view_offset,
    .co_open = raw_co_open,
    .co_reopen = raw_co_reopen,
    .can_copy_in = node_file_can_copy_in,
    .co_zero = raw_co_zero,
    .co_discard = raw_co_discard,
    .co_map = raw_co_map,
    .co_truncate = raw_co_truncate,
    .co_refresh_size = raw_co_refresh_size,
    .co_cache = raw_co_cache,
    .co_create = raw_co_create,
    .create_options = raw_create_options,
    .measure = raw_measure,
};
