/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What another program says of a state: qemu-img check finds no corruption, and
 * qemu-img compare sees the bytes that we do.
 */
#include "crash.h"
#include <fcntl.h>
#include <glib/gstdio.h>
#include <unistd.h>

static const char *const names[] = { "top", "mid", "base", "data", "expected" };

/* Holes stay holes: some disks are larger than the memory. */
static void file_export(const struct sim_image *img, const char *name,
                        const char *dir)
{
    uint64_t id = sim_image_find(img, name);
    g_autofree char *path = g_build_filename(dir, name, NULL);
    uint64_t size = id ? sim_image_size(img, id) : 0, at = 0, end;
    bool data;
    int fd;

    if (!id) {
        return;
    }
    fd = g_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)size), ==, 0);
    while (at < size && sim_image_extent(img, id, at, &data, &end) == 0) {
        end = MIN(end, size);
        if (data) {
            g_autofree uint8_t *buf = g_malloc(end - at);

            sim_image_read(img, id, at, buf, end - at);
            g_assert_cmpint(pwrite(fd, buf, end - at, (off_t)at), ==,
                            (ssize_t)(end - at));
        }
        at = end;
    }
    close(fd);
}

/* The disk that @ids describe, as a raw file. */
static void expected_export(const struct crash_config *c, const uint64_t *ids,
                            uint64_t grains, const char *dir)
{
    g_autofree char *path = g_build_filename(dir, "expected", NULL);
    int fd = g_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    struct window w[N_WINDOWS];
    uint8_t buf[GRAIN];

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(ftruncate(fd, (off_t)(grains * GRAIN)), ==, 0);
    for (unsigned i = 0; i < windows_get(c, w); i++) {
        for (uint64_t s = w[i].first; s < MIN(w[i].first + w[i].n, grains);
             s++) {
            stamp_put(buf, ids[slot_of(c, s)], ids[slot_of(c, s)] ? s : 0);
            g_assert_cmpint(pwrite(fd, buf, GRAIN, (off_t)(s * GRAIN)), ==,
                            GRAIN);
        }
    }
    close(fd);
}

static char *dir_new(const struct state *st)
{
    char *dir = g_dir_make_tmp("sluice-crash-XXXXXX", NULL);

    file_export(st->img, "/top", dir);
    file_export(st->img, "/mid", dir);
    file_export(st->img, "/base", dir);
    file_export(st->img, "/data", dir);
    return dir;
}

static void dir_free(char *dir)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autofree char *path = g_build_filename(dir, names[i], NULL);

        g_unlink(path);
    }
    g_rmdir(dir);
    g_free(dir);
}

/* -1: could not be run; else the exit status, and *@ret_out. */
static int qemu_img(const char *line, char **ret_out)
{
    g_autofree char *command = g_strdup_printf("exec qemu-img %s 2>&1", line);
    const char *argv[] = { "/bin/sh", "-c", command, NULL };
    int status = 0;

    if (!g_spawn_sync(NULL, (char **)(uintptr_t)argv, NULL, G_SPAWN_DEFAULT,
                      NULL, NULL, ret_out, NULL, &status, NULL)) {
        return -1;
    }
    return status >> 8;
}

/* The member that says where the data is; owned. */
static char *data_option(const struct crash_config *c, const char *dir)
{
    return c->data_file ? g_strdup_printf(",\"data-file\":{\"driver\":\"file\","
                                          "\"filename\":\"%s/data\"}",
                                          dir)
                        : g_strdup("");
}

/* Corruptions by QEMU's count: exit code 2. */
char *outside_check(const struct state *st)
{
    char *dir = dir_new(st), *bad = NULL;
    g_autofree char *out = NULL;
    g_autofree char *data = data_option(st->o->config, dir);
    g_autofree char *line = g_strdup_printf(
        "check 'json:{\"driver\":\"%s\",\"backing\":null,\"file\":"
        "{\"driver\":\"file\",\"filename\":\"%s/top\"}%s}'",
        st->o->config->format->name, dir, data);
    int status = qemu_img(line, &out);

    tally.outside++;
    /* 0: clean, 3: leaks; else corruptions or no image. */
    if (status > 0 && status != 3) {
        bad = g_strdup_printf("qemu-img check: %s", out);
    }
    dir_free(dir);
    return bad;
}

/* The chain as the header of @st's image names it, as options. */
static char *chain_options(const struct state *st, const char *dir)
{
    const struct crash_config *c = st->o->config;
    bool base = sim_image_find(st->img, "/base") != 0;
    g_autofree char *data = data_option(c, dir);
    g_autofree char *below =
        c->backing && base
            ? g_strdup_printf(
                  ",\"backing\":{\"driver\":\"%s\",\"file\":{\"driver\":\"file\","
                  "\"filename\":\"%s/base\"}}",
                  c->base_format ? c->base_format : "raw", dir)
            : g_strdup("");

    return g_strdup_printf("json:{\"driver\":\"%s\",\"file\":{\"driver\":"
                           "\"file\",\"filename\":\"%s/top\"}%s%s}",
                           c->format->name, dir, data, below);
}

char *outside_compare(const struct state *st, const uint64_t *ids,
                      uint64_t grains)
{
    char *dir, *bad = NULL;
    g_autofree char *chain = NULL, *line = NULL, *out = NULL;
    int status;

    /* What the header says stands there by names that are not of this disk. */
    if (st->o->config->mid || st->o->gone || st->o->config->format->is_raw) {
        return NULL;
    }
    dir = dir_new(st);
    expected_export(st->o->config, ids, grains, dir);
    chain = chain_options(st, dir);
    line = g_strdup_printf("compare -F raw '%s' '%s/expected'", chain, dir);
    status = qemu_img(line, &out);
    tally.compared++;
    if (status > 0) {
        bad = g_strdup_printf("qemu-img compare: %s", out);
    }
    dir_free(dir);
    return bad;
}
