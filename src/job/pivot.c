/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "job/pivot.h"
#include "graph/image.h"
#include "graph/io.h"
#include "graph/reference.h"
#include "job/trace.h"

struct node *pivot_base(const struct pivot *p)
{
    return node_backing(p->bottom);
}

/* What the header shall say of the image below: @backing_file, if that was
 * said. */
static CO_FN int pivot_co_find_name(const struct pivot *p, struct node *base,
                                    const char *backing_file, char **ret_name,
                                    const char **ret_fmt, GError **err)
{
    int ret;

    if (!backing_file) {
        return reference_co_make(p->overlay, p->bottom, base, ret_name, ret_fmt,
                                 err);
    }
    *ret_fmt = reference_format(base);
    ret = reference_co_check(p->overlay, backing_file, *ret_fmt, base, err);
    *ret_name = ret == 0 ? g_strdup(backing_file) : NULL;
    return ret;
}

int pivot_co_check_name(const struct pivot *p, const char *backing_file,
                        GError **err)
{
    struct node *base = node_skip_filters(pivot_base(p));
    g_autofree char *name = NULL;
    const char *fmt;

    return base ? pivot_co_find_name(p, base, backing_file, &name, &fmt, err)
                : 0;
}

int pivot_co_change_header(const struct pivot *p, struct backend *u,
                           const char *backing_file, GError **err)
{
    struct node *base = node_skip_filters(pivot_base(p));
    g_autofree char *name = NULL;
    const char *fmt = NULL;
    int ret = 0;

    if (base) {
        ret = pivot_co_find_name(p, base, backing_file, &name, &fmt, err);
    }
    if (ret < 0) {
        return ret;
    }
    backend_co_enter(u);
    ret = node_co_change_backing(p->overlay, name, fmt, err);
    backend_leave(u);
    trace_pivot_header(node_name(p->overlay), name, fmt, ret);
    return ret;
}

int pivot_co_switch(const struct pivot *p, struct node **ret_old, GError **err)
{
    struct edge *e = node_child(p->overlay, "backing");
    struct node *base = pivot_base(p);
    int ret = 0;

    *ret_old = e ? node_ref(edge_child(e)) : NULL;
    if (e && base) {
        ret = edge_co_replace(e, base, err);
    } else if (e) {
        edge_co_detach(e);
    }
    trace_pivot_switched(node_name(p->overlay), base ? node_name(base) : NULL,
                         ret);
    return ret;
}
