/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Walking chains: from an overlay through its backing files down to the base,
 * with filters anywhere in between.  Raw over an overlay is a view of it: nodes
 * that ask about the chain see the overlay, at an offset.
 */
#include <string.h>
#include "base/err.h"
#include "graph/model/model.h"

/* One step through what holds nothing of its own; *@off moves along. */
static struct node *transparent_step(const struct node *n, uint64_t *off)
{
    if (node_is_filter(n)) {
        return node_file(n);
    }
    if (!n->drv->view_offset) {
        return NULL;
    }
    *off += n->drv->view_offset(n);
    return node_file(n);
}

struct node *node_image(struct node *n, uint64_t *ret_offset)
{
    struct node *image = n;
    uint64_t off = 0;

    while (image && !image->drv->supports_backing) {
        image = transparent_step(image, &off);
    }
    if (ret_offset) {
        *ret_offset = image ? off : 0;
    }
    return image ? image : node_skip_filters(n);
}

struct node *view_step(struct node *n, uint64_t *off)
{
    if (node_is_filter(n) || !n->drv->view_offset ||
        !node_image(n, NULL)->drv->supports_backing) {
        return NULL;
    }
    return transparent_step(n, off);
}

static struct edge *chain_edge(struct node *n)
{
    uint64_t off = 0;

    return node_is_filter(n) || view_step(n, &off) ? n->priv->file
                                                   : n->priv->backing;
}

struct node *node_chain_next(struct node *n)
{
    struct edge *e = chain_edge(n);

    return e ? e->child : NULL;
}

bool node_chain_contains(struct node *top, struct node *n)
{
    while (top && top != n) {
        top = node_chain_next(top);
    }
    return top != NULL;
}

struct node *node_overlay_of(struct node *top, struct node *n)
{
    struct node *wanted = node_skip_filters(n);

    for (top = node_image(top, NULL); top;) {
        struct node *below = node_skip_filters(node_backing(top));

        if (below && below == wanted) {
            return top;
        }
        top = below;
    }
    return NULL;
}

/* @name as an absolute path without "." and "..", taken relative to the folder
 * of @image. */
static char *path_resolve(const char *image, const char *name)
{
    char *dir, *full;

    if (!image || g_path_is_absolute(name)) {
        return g_canonicalize_filename(name, NULL);
    }
    dir = g_path_get_dirname(image);
    full = g_build_filename(dir, name, NULL);
    g_free(dir);
    dir = g_canonicalize_filename(full, NULL);
    g_free(full);
    return dir;
}

static bool path_equal(const char *own, const char *image, const char *name)
{
    g_autofree char *a = path_resolve(NULL, own),
                    *b = path_resolve(image, name);

    return g_str_equal(a, b);
}

/* Is @header, the backing name in @overlay, the name of @n?  Options may have
 * put another image there than the header names: a commit into the image of
 * that name must not write to this one. */
static bool header_means(struct node *overlay, const char *header,
                         struct node *n)
{
    if ((n->flags & NODE_IMPLICIT) || !n->filename ||
        g_str_has_prefix(header, "json:")) {
        return true;
    }
    if (g_str_has_prefix(header, "file:")) {
        header += strlen("file:");
    } else if (header[strcspn(header, ":/")] == ':') {
        return g_str_equal(header, n->filename); /* an address */
    }
    return path_equal(n->filename, overlay->filename, header);
}

/* Do @overlay's header or @n's own name say @filename? */
static bool chain_name_matches(struct node *overlay, struct node *n,
                               const char *filename)
{
    const char *header = node_header_backing(overlay, NULL);

    if (header && g_str_equal(header, filename) &&
        header_means(overlay, header, n)) {
        return true;
    }
    return n->filename &&
           (g_str_equal(n->filename, filename) ||
            path_equal(n->filename, overlay->filename, filename) ||
            path_equal(n->filename, NULL, filename));
}

struct node *node_chain_find_file(struct node *top, const char *filename)
{
    struct node *overlay = node_image(top, NULL);

    while (overlay) {
        struct node *n = node_skip_filters(node_backing(overlay));

        if (n && chain_name_matches(overlay, n, filename)) {
            return n;
        }
        overlay = n;
    }
    return NULL;
}

const char *node_header_backing(const struct node *n, const char **ret_format)
{
    const char *fmt = NULL, *name = NULL;

    while (n && node_is_filter(n)) {
        n = node_file(n);
    }
    if (n && n->drv->header_backing) {
        name = n->drv->header_backing(n, &fmt);
    }
    if (ret_format) {
        *ret_format = fmt;
    }
    return name;
}

/* --- freezing --- */

static int freeze(struct node *top, struct node *bottom, bool shared,
                  const char *by, GError **err)
{
    for (struct node *n = top; n && n != bottom; n = node_chain_next(n)) {
        struct edge *e = chain_edge(n);

        if (e && (shared && n != top ? e->frozen > e->frozen_shared
                                     : e->frozen > 0)) {
            err_set(err, EPERM, "Cannot change '%s' link from '%s' to '%s'",
                    e->name, n->name, e->child->name);
            if (e->frozen_by) {
                err_hint(err, "The link is in use by %s.", e->frozen_by);
            }
            return -EPERM;
        }
    }
    for (struct node *n = top; n && n != bottom; n = node_chain_next(n)) {
        struct edge *e = chain_edge(n);

        if (e) {
            e->frozen++;
            e->frozen_shared += shared;
            g_free(e->frozen_by);
            e->frozen_by = g_strdup(by);
        }
    }
    return 0;
}

int chain_freeze(struct node *top, struct node *bottom, const char *by,
                 GError **err)
{
    return freeze(top, bottom, false, by, err);
}

int chain_freeze_shared(struct node *top, struct node *bottom, const char *by,
                        GError **err)
{
    return freeze(top, bottom, true, by, err);
}

void chain_unfreeze(struct node *top, struct node *bottom)
{
    for (struct node *n = top; n && n != bottom; n = node_chain_next(n)) {
        struct edge *e = chain_edge(n);

        if (!e) {
            continue;
        }
        g_assert(e->frozen > 0);
        e->frozen--;
        e->frozen_shared -= e->frozen_shared > 0;
        if (e->frozen == 0) {
            g_free(e->frozen_by);
            e->frozen_by = NULL;
        }
    }
}

bool node_is_remote(struct node *n)
{
    struct node *storage = node_storage(n);

    return storage && storage->drv->is_remote;
}
