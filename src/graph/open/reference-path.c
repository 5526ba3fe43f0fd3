/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * File names in headers that are relative to the folder of the image.
 *
 * Names that were relative stay so: images that are moved together keep
 * working, and no name grows longer with each merge.  "a/../b" means something
 * else where a is a symbolic link, so a name that was worked out is only used
 * when the file it leads to is the file that is open.
 */
#include "graph/reference.h"
#include <string.h>
#include "graph/open/open.h"

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
        common = i + 1; /* all of @dir */
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

static const char *file_name(struct node *n)
{
    const struct node *storage = node_storage(n);

    return storage ? storage->filename : NULL;
}

char *reference_co_relative(struct node *top, struct node *bottom,
                            struct node *base)
{
    const char *top_name = file_name(top), *bottom_name = file_name(bottom);
    const char *base_name = file_name(base);
    const char *old = node_header_backing(bottom, NULL);
    g_autofree char *old_path = NULL, *new_path = NULL, *name = NULL;
    g_autofree char *from = NULL, *to = NULL, *flat = NULL;

    if (!is_path(old) || g_path_is_absolute(old) || !is_path(top_name) ||
        !is_path(bottom_name) || !is_path(base_name)) {
        return NULL;
    }
    from = folder_of(bottom_name);
    to = folder_of(top_name);
    old_path = join(from, old);
    if (!backing_co_same_file(old_path, base_name)) {
        return NULL; /* the header named another file */
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
    if (!backing_co_same_file(new_path, base_name)) {
        return NULL;
    }
    return g_steal_pointer(&name);
}
