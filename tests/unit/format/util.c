/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stdarg.h>
#include <string.h>
#include <sys/wait.h>
#include "format/format.h"
#include "hold-driver.h"
#include "loop/io.h"
#include "run.h"
#include "sim/sim.h"
#include "storage/storage.h"

static const struct node_driver *drivers[] = {
    &file_driver, &raw_driver,  &qed_driver, &qcow2_driver,
    &cow_driver,  &hold_driver, NULL,        /* a test's own */ NULL,
};

void run_graph_add(const struct node_driver *drv)
{
    drivers[G_N_ELEMENTS(drivers) - 2] = drv;
}

static CO_FN void graph_entry(void *arg)
{
    void (*const *fn)(struct graph * g) = arg;
    struct graph *g = graph_new(loop_current(), drivers);

    (*fn)(g);
    graph_co_free(g);
}

void run_graph(void (*fn)(struct graph *g))
{
    struct loop_options opts = { .engine = IO_ENGINE_AUTO };

    run_with(&opts, graph_entry, &fn);
}

void run_graph_on_sim(uint64_t seed, void (*fn)(struct graph *g))
{
    struct loop_options opts = SIM_OPTIONS(seed);

    run_with(&opts, graph_entry, &fn);
}

static CO_FN int make(struct graph *g, const struct node_driver *drv,
                      const char *path, json_t *options, GError **err)
{
    json_t *fo = json_pack("{s:s,s:s}", "driver", "file", "filename", path);
    struct opts *o = opts_new(options);
    struct io_file *f;
    struct node *file;
    int ret;

    g_assert_cmpint(io_co_open(path, O_RDWR | O_CREAT | O_TRUNC, 0600, &f), ==,
                    0);
    io_co_close(f);
    ret = node_co_open(g, fo, NODE_RDWR, &file, err);
    g_assert_cmpint(ret, ==, 0);
    ret = drv ? drv->co_create(file, o, err) : 0;
    if (ret == 0) {
        g_assert_cmpint(opts_finish(o, err), ==, 0);
    }
    node_co_unref(file);
    opts_free(o);
    json_decref(fo);
    json_decref(options);
    return ret;
}

void make_as(struct graph *g, const struct node_driver *drv, const char *path,
             json_t *options)
{
    g_autoptr(GError) err = NULL;

    make(g, drv, path, options, &err);
    g_assert_no_error(err);
}

int try_make_image(struct graph *g, const char *path, json_t *options,
                   GError **err)
{
    return make(g, &qed_driver, path, options, err);
}

void make_qcow2(struct graph *g, const char *path, json_t *options)
{
    make_as(g, &qcow2_driver, path, options);
}

void make_image(struct graph *g, const char *path, json_t *options)
{
    g_autoptr(GError) err = NULL;

    try_make_image(g, path, options, &err);
    g_assert_no_error(err);
}

static CO_FN int open_as(struct graph *g, const char *drv, const char *path,
                         unsigned flags, struct node **ret_node, GError **err)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:s}}", "driver", drv, "file", "driver",
                          "file", "filename", path);
    int ret = node_co_open(g, o, flags, ret_node, err);

    json_decref(o);
    return ret;
}

int try_open_image(struct graph *g, const char *path, unsigned flags,
                   struct node **ret_node, GError **err)
{
    return open_as(g, "qed", path, flags, ret_node, err);
}

struct node *open_qcow2(struct graph *g, const char *path, unsigned flags)
{
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    open_as(g, "qcow2", path, flags, &n, &err);
    g_assert_no_error(err);
    return n;
}

struct node *open_qcow2_held(struct graph *g, const char *path, unsigned flags)
{
    json_t *o = json_pack("{s:s,s:{s:s,s:{s:s,s:s}}}", "driver", "qcow2",
                          "file", "driver", "hold", "file", "driver", "file",
                          "filename", path);
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    node_co_open(g, o, flags, &n, &err);
    g_assert_no_error(err);
    json_decref(o);
    return n;
}

struct node *open_image(struct graph *g, const char *path, unsigned flags)
{
    g_autoptr(GError) err = NULL;
    struct node *n = NULL;

    try_open_image(g, path, flags, &n, &err);
    g_assert_no_error(err);
    return n;
}

int do_write(struct node *n, uint64_t off, const void *buf, size_t len,
             unsigned flags)
{
    struct iovec v;

    return node_co_pwritev(n, off, iov_one(&v, (char *)(uintptr_t)buf, len),
                           flags);
}

int do_read(struct node *n, uint64_t off, void *buf, size_t len)
{
    struct iovec v;

    return node_co_preadv(n, off, iov_one(&v, buf, len), 0);
}

bool have_tool(const char *name)
{
    g_autofree char *path = g_find_program_in_path(name);

    return path != NULL;
}

static int PRINTF_LIKE(2, 0) run_va(char **ret_out, const char *fmt, va_list ap)
{
    g_autofree char *line = g_strdup_vprintf(fmt, ap);
    g_autofree char *out = NULL, *errs = NULL;
    const char *argv[] = { "/bin/sh", "-c", line, NULL };
    int status;

    g_assert_true(g_spawn_sync(NULL, (char **)(uintptr_t)argv, NULL,
                               G_SPAWN_DEFAULT, NULL, NULL, &out, &errs,
                               &status, NULL));
    if (status != 0) {
        g_test_message("%s: status %d\n%s%s", line, status, out, errs);
    }
    if (ret_out) {
        *ret_out = g_steal_pointer(&out);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int run_cmd(char **ret_out, const char *fmt, ...)
{
    va_list ap;
    int ret;

    va_start(ap, fmt);
    ret = run_va(ret_out, fmt, ap);
    va_end(ap);
    return ret;
}

char *must_run(const char *fmt, ...)
{
    char *out = NULL;
    va_list ap;
    int ret;

    va_start(ap, fmt);
    ret = run_va(&out, fmt, ap);
    va_end(ap);
    g_assert_cmpint(ret, ==, 0);
    return out;
}
