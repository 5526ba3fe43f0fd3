/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Finding out what format an image has, where nobody says it.
 *
 * The first bytes tell the formats that have drivers.  What shows none may be
 * raw; but not what says that it is an image of a format without a driver here:
 * that is refused, for its bytes are not a guest's disk.  A guest can write
 * such bytes to a raw disk, so the error names the way to say that it is one.
 */
#include <inttypes.h>
#include "base/err.h"
#include "graph/foreign.h"
#include "graph/image.h"
#include "graph/open/open.h"
#include "loop/io.h"

#define PROBE_SIZE 4096

/* The bytes that are looked at; both are of PROBE_SIZE. */
struct probe {
    uint8_t *head, *tail;
    size_t head_len, tail_len;
};

static CO_FN int probe_co_read(struct node *file, struct probe *p, GError **err)
{
    struct iovec v;
    int ret;

    p->head_len = MIN(file->size, PROBE_SIZE);
    p->tail_len = MIN(file->size, FOREIGN_TAIL);
    ret = node_co_preadv(file, 0, iov_one(&v, p->head, p->head_len), 0);
    if (ret == 0) {
        ret = node_co_preadv(file, file->size - p->tail_len,
                             iov_one(&v, p->tail, p->tail_len), 0);
    }
    return ret == 0 ? 0
                    : err_set_errno(err, -ret,
                                    "Could not read image for determining its "
                                    "format");
}

static const struct node_driver *driver_find(struct graph *g,
                                             const struct probe *p)
{
    const struct node_driver *found = NULL;
    int best = 0;

    for (unsigned i = 0; g->drivers[i]; i++) {
        const struct node_driver *drv = g->drivers[i];
        int score = drv->probe ? drv->probe(p->head, p->head_len) : 0;

        /* A score that anything gets (raw's) is a guess, not a magic. */
        if (score > MAX(best, 1)) {
            best = score;
            found = drv;
        }
    }
    return found;
}

static int refuse_foreign(const struct node *file, const struct foreign *f,
                          const char *say_raw, GError **err)
{
    err_set(err, ENOTSUP,
            "The format of '%s' seems to be %s, which is not "
            "supported",
            file->filename ? file->filename : file->name, f->title);
    if (f->disk_size > 0) {
        err_hint(err,
                 "Its first %" PRIu64 " bytes are the disk: driver raw "
                 "with size=%" PRIu64 " shows it. If all of it is the disk, "
                 "say so: %s.",
                 f->disk_size, f->disk_size, say_raw);
    } else if (g_str_equal(f->driver, "luks")) {
        err_hint(err,
                 "If it is a raw disk that its guest has encrypted, say "
                 "so: %s.",
                 say_raw);
    } else {
        err_hint(err,
                 "Convert it with 'qemu-img convert -f %s'. If it is a "
                 "raw disk whose guest wrote what looks like that, say so: "
                 "%s.",
                 f->driver, say_raw);
    }
    return -ENOTSUP;
}

int node_co_probe(struct node *file, const char *say_raw,
                  const struct node_driver **ret_drv, GError **err)
{
    struct probe p = {
        .head = io_buf_get(PROBE_SIZE),
        .tail = io_buf_get(PROBE_SIZE),
    };
    const struct node_driver *drv = NULL;
    struct foreign foreign;
    int ret = probe_co_read(file, &p, err);

    if (ret == 0) {
        drv = driver_find(file->graph, &p);
    }
    if (ret == 0 && !drv &&
        foreign_find(p.head, p.head_len, p.tail, p.tail_len, file->size,
                     &foreign)) {
        ret = refuse_foreign(file, &foreign, say_raw, err);
    }
    io_buf_put(p.head, PROBE_SIZE);
    io_buf_put(p.tail, PROBE_SIZE);
    if (ret == 0) {
        *ret_drv = drv;
    }
    return ret;
}

int storage_co_probe(struct graph *g, const json_t *storage, unsigned flags,
                     const char *say_raw, const struct node_driver **ret_drv,
                     GError **err)
{
    struct node *file = NULL;
    int ret = node_co_open(g, storage, flags, &file, err);

    if (ret < 0) {
        return ret;
    }
    if (node_ended(file)) {
        *ret_drv = node_ended(file);
    } else {
        ret = node_co_probe(file, say_raw, ret_drv, err);
    }
    node_co_unref(file);
    return ret;
}

int image_co_probe(struct graph *g, const json_t *options, unsigned flags,
                   const char *say_raw, const struct node_driver **ret_drv,
                   GError **err)
{
    json_t *file = json_object_get(options, "file");
    json_t *name = json_object_get(options, "filename");
    int ret;

    if (json_is_string(file) || (!file && !name)) {
        return err_set(err, EINVAL, "Parameter 'driver' is missing");
    }
    file = file ? json_incref(file) : json_pack("{s:O}", "filename", name);
    ret = storage_co_probe(g, file,
                           flags & (NODE_FORCE_SHARE | NODE_CACHE_DIRECT),
                           say_raw, ret_drv, err);
    json_decref(file);
    return ret;
}

int backing_co_probe(struct node *n, const char *name, const json_t *storage,
                     const char **ret_format, GError **err)
{
    const struct node_driver *drv = NULL;
    int ret = storage_co_probe(
        n->graph, storage, n->flags & (NODE_FORCE_SHARE | NODE_CACHE_DIRECT),
        "backing.driver=raw here, or -F raw when the "
        "overlay is created",
        &drv, err);

    if (ret < 0) {
        return ret;
    }
    if (!drv) {
        err_set(err, EINVAL,
                "The format of backing file '%s' is not recorded "
                "in '%s', and its content shows none",
                name, n->filename ? n->filename : n->name);
        err_hint(err,
                 "If it is raw, say so: backing.driver=raw here, or -F raw "
                 "when the overlay is created.");
        return -EINVAL;
    }
    *ret_format = drv->name;
    return 0;
}
