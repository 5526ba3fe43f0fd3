/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of a header's names the graph's policy allows to open. */
#include <stdlib.h>
#include <string.h>
#include "base/err.h"
#include "graph/open/open.h"
#include "loop/io.h"

int policy_check_name(const struct node *n, const char *name, GError **err)
{
    const char *policy = n->graph->policy == BACKING_DENY ? "deny" : "explicit";

    if (n->graph->policy == BACKING_FOLLOW ||
        n->graph->policy == BACKING_BENEATH) {
        return 0;
    }
    err_set(err, EPERM,
            "Backing file '%s' of '%s' is not opened: backing "
            "policy is '%s'",
            name, n->filename ? n->filename : n->name, policy);
    err_hint(err, "Name the backing node (backing=NODE-NAME) or none "
                  "(backing=null), or start with --backing-policy follow.");
    return -EPERM;
}

struct resolve {
    const char *path;
    char *real;
};

static void resolve_in_pool(void *arg)
{
    struct resolve *r = arg;

    r->real = realpath(r->path, NULL);
}

/* @path without links; lexically where the engine's files are not the
 * kernel's. Owned. */
static CO_FN char *path_co_real(const char *path)
{
    struct resolve r = { .path = path };
    char *ret;

    co_in_pool(resolve_in_pool, &r);
    ret = r.real ? g_strdup(r.real) : g_canonicalize_filename(path, NULL);
    free(r.real);
    return ret;
}

/* Does @real (no links) lie in the folder of the policy? */
static CO_FN int beneath_co_check(const struct node *n, const char *what,
                                  const char *path, const char *real,
                                  GError **err)
{
    g_autofree char *root = path_co_real(n->graph->beneath);
    size_t len = strlen(root);

    if (strncmp(real, root, len) ||
        (root[len - 1] != '/' && real[len] != '/')) {
        err_set(err, EPERM,
                "%s '%s' of '%s' is not opened: it is no regular "
                "file beneath '%s'",
                what, path, node_title(n), n->graph->beneath);
        err_hint(err, "Name the node to use by an option, or change "
                      "--backing-policy.");
        return -EPERM;
    }
    return 0;
}

int policy_co_beneath(const struct node *n, const char *path,
                      const struct stat *st, GError **err)
{
    g_autofree char *real = NULL;

    if (n->graph->policy != BACKING_BENEATH) {
        return 0;
    }
    real = path_co_real(path);
    return beneath_co_check(n, "Backing file", path,
                            S_ISREG(st->st_mode) ? real : "", err);
}

int node_co_check_beside(const struct node *n, const char *path, GError **err)
{
    g_autofree char *real = NULL;
    enum backing_policy policy = n->graph->policy;

    if (policy == BACKING_EXPLICIT || policy == BACKING_DENY) {
        err_set(err, EPERM,
                "Data file '%s' of '%s' is not opened: backing "
                "policy is '%s'",
                path, n->filename ? n->filename : n->name,
                policy == BACKING_DENY ? "deny" : "explicit");
        err_hint(err, "Name its node (data-file=NODE-NAME), or start with "
                      "--backing-policy follow.");
        return -EPERM;
    }
    if (policy != BACKING_BENEATH) {
        return 0;
    }
    real = path_co_real(path);
    return beneath_co_check(n, "Data file", path, real, err);
}

int backing_co_check_opened(const struct node *n, struct node *b, GError **err)
{
    struct node *storage = node_storage(b);
    g_autofree char *real = NULL;
    int ret;

    if (n->graph->policy != BACKING_BENEATH || !storage ||
        !storage->drv->co_real_path) {
        return 0;
    }
    ret = storage->drv->co_real_path(storage, &real);
    if (ret == -ENOTSUP) {
        return 0;
    }
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not find out where '%s' is",
                             storage->filename);
    }
    return beneath_co_check(n, "Backing file", storage->filename, real, err);
}
