/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The words by which an image's header should name its backing file.
 *
 * Names that were relative stay so: images that are moved together keep
 * working, and no name grows longer with each merge.  "a/../b" means something
 * else where a is a symbolic link, so a name that was worked out is only used
 * when the file it leads to is the file that is open.
 */
#include "job/backing-name.h"
#include <string.h>
#include "graph/driver.h"
#include "graph/node.h"
#include "loop/io.h"

/* Not "nbd://host" and the like: a colon before any slash. */
static bool is_path(const char *name)
{
    size_t n;

    if (!name || !*name) {
        return false;
    }
    n = strcspn(name, ":/");
    return name[n] != ':';
}

static char *folder_of(const char *filename)
{
    g_autofree char *full = g_canonicalize_filename(filename, NULL);

    return g_path_get_dirname(full);
}

static char *join(const char *dir, const char *name)
{
    return g_path_is_absolute(name) ? g_strdup(name)
                                    : g_build_filename(dir, name, NULL);
}

char *path_relative(const char *dir, const char *to)
{
    const char *d = dir, *t = to;
    size_t common = 0, i;
    GString *s;

    for (i = 0; d[i] && d[i] == t[i]; i++) {
        if (d[i] == '/') {
            common = i + 1;
        }
    }
    if (!d[i] && t[i] == '/') {
        common = i + 1;             /* all of @dir */
    }
    if (common <= 1) {
        return NULL;
    }
    s = g_string_new(NULL);
    if (strlen(dir) >= common) {
        g_string_append(s, "../");
        for (const char *p = dir + common; *p; p++) {
            if (*p == '/') {
                g_string_append(s, "../");
            }
        }
    }
    g_string_append(s, to + common);
    return g_string_free(s, FALSE);
}

static CO_FN bool same_co_file(const char *a, const char *b)
{
    struct stat st_a, st_b;

    return io_co_stat(a, &st_a) == 0 && io_co_stat(b, &st_b) == 0
        && st_a.st_dev == st_b.st_dev && st_a.st_ino == st_b.st_ino;
}

/* NULL: it was not relative, or no relative name can be trusted. */
static CO_FN char *relative_co_name(const struct node *top,
                                    const struct node *bottom,
                                    const struct node *base)
{
    const char *old = node_header_backing(bottom, NULL);
    g_autofree char *old_path = NULL, *new_path = NULL, *name = NULL;
    g_autofree char *from = NULL, *to = NULL, *flat = NULL;

    if (!is_path(old) || g_path_is_absolute(old) || !is_path(top->filename)
        || !is_path(bottom->filename) || !is_path(base->filename)) {
        return NULL;
    }
    from = folder_of(bottom->filename);
    to = folder_of(top->filename);
    old_path = join(from, old);
    if (!same_co_file(old_path, base->filename)) {
        return NULL;                /* the header named another file */
    }
    if (strcmp(from, to) == 0) {
        return g_strdup(old);
    }
    flat = g_canonicalize_filename(old_path, NULL);
    name = path_relative(to, flat);
    if (!name) {
        return NULL;
    }
    new_path = join(to, name);
    if (!same_co_file(new_path, base->filename)) {
        return NULL;
    }
    return g_steal_pointer(&name);
}

CO_FN char *backing_co_name(const struct node *top, const struct node *bottom,
                            struct node *base)
{
    char *name = relative_co_name(top, bottom, base);

    if (name) {
        return name;
    }
    /* A path relative to our working folder would be read as relative to the
     * folder of the image. */
    if (is_path(base->filename) && !g_path_is_absolute(base->filename)) {
        return g_canonicalize_filename(base->filename, NULL);
    }
    return g_strdup(base->filename ? base->filename : "");
}

const char *backing_format(const struct node *base)
{
    return base->drv->kind == NODE_PROTOCOL ? "raw" : base->drv->name;
}
