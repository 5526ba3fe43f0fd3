/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The bottom of every image command: one loop, one graph, one coroutine, gone
 * again when the command is done.
 */
#include "cli/image.h"

#include <string.h>

#include "base/err.h"
#include "cli/cli.h"
#include "control/drivers.h"
#include "graph/driver.h"
#include "loop/co.h"
#include "loop/loop.h"

#define PROBE_BYTES 2048

struct run {
    struct loop *loop;
    CO_FN_PTR int (*co_fn)(struct graph *g, void *arg);
    void *arg;
    int result;
};

static CO_FN void run_entry(void *arg)
{
    struct run *r = arg;
    struct graph *g = graph_new(r->loop, node_drivers);

    r->result = r->co_fn(g, r->arg);
    graph_co_free(g);
    loop_stop(r->loop);
}

int image_run(int (*co_fn)(struct graph *g, void *arg), void *arg)
{
    struct run r = { .arg = arg, .co_fn = co_fn };
    g_autoptr(GError) err = NULL;
    struct loop_options lo = { .engine = IO_ENGINE_AUTO };

    if (loop_new(&lo, &r.loop, &err) < 0) {
        cli_gerror(err);
        return 1;
    }
    co_start(r.loop, run_entry, &r);
    loop_run(r.loop);
    loop_free(r.loop);
    return r.result;
}

static CO_FN int image_co_read_head(struct graph *g, const json_t *file_options,
                                    unsigned flags, uint8_t *buf,
                                    size_t *ret_len, GError **err)
{
    struct node *file;
    struct iovec store;
    int r = node_co_open(g, file_options, flags & NODE_FORCE_SHARE, &file, err);

    if (r < 0) {
        return r;
    }
    *ret_len = (size_t)MIN(file->size, PROBE_BYTES);
    if (*ret_len > 0) {
        r = node_co_preadv(file, 0, iov_one(&store, buf, *ret_len), 0);
        if (r < 0) {
            err_set_errno(err, -r, "Could not read image for determining its "
                          "format");
        }
    }
    node_co_unref(file);
    return r;
}

/* The driver that is surest of these bytes; raw when none is. */
static const char *best_format(const uint8_t *buf, size_t len)
{
    const char *name = "raw";
    int best = 1;   /* raw's own confidence */

    for (unsigned i = 0; node_drivers[i]; i++) {
        const struct node_driver *drv = node_drivers[i];
        int score = drv->probe ? drv->probe(buf, len) : 0;
        if (score > best) {
            best = score;
            name = drv->name;
        }
    }
    return name;
}

static CO_FN int image_co_find_format(struct graph *g,
                                      const json_t *file_options,
                                      const char *filename, unsigned flags,
                                      const char **ret_format, GError **err)
{
    uint8_t buf[PROBE_BYTES];
    size_t len;

    if (flags & NODE_RDWR) {
        return err_set(err, EINVAL, "the format of '%s' is not said and an "
                       "image is never guessed at for writing: use -f",
                       filename);
    }
    int r = image_co_read_head(g, file_options, flags, buf, &len, err);
    if (r == 0) {
        *ret_format = best_format(buf, len);
    }
    return r;
}

CO_FN int image_co_open(struct graph *g, const char *filename,
                        const char *format, unsigned flags,
                        struct node **ret_node, GError **err)
{
    json_t *file = NULL, *options;
    int r = node_options_from_name(filename, &file, err);

    if (r == 0 && !format) {
        r = image_co_find_format(g, file, filename, flags, &format, err);
    } else if (r == 0 && !graph_find_driver(g, format)) {
        r = err_set(err, EINVAL, "Unknown driver '%s'", format);
    }
    if (r < 0) {
        json_decref(file);
        err_prefix(err, "Could not open '%s'", filename);
        return r;
    }
    options = json_pack("{s:s,s:o}", "driver", format, "file", file);
    r = node_co_open(g, options, flags, ret_node, err);
    json_decref(options);
    if (r < 0) {
        err_prefix(err, "Could not open '%s'", filename);
    }
    return r;
}
