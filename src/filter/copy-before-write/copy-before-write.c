/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filter "copy-before-write": what guests are about to overwrite goes to
 * "target" first.
 *
 * The work is done by graph/before.h; "snapshot-access" above this filter reads
 * what the disk was when the filter was opened.  Nobody may write to the disk
 * past a filter that is in use.
 */
#include <errno.h>
#include <string.h>
#include "base/dirty-map.h"
#include "base/err.h"
#include "filter/filter.h"
#include "graph/before.h"
#include "graph/bitmap.h"
#include "graph/driver.h"
#include "graph/io.h"

#define SECOND_NS UINT64_C(1000000000)

struct cbw_state {
    struct before *before;
};

static const char *const cbw_option_names[] = { "file",        "target",
                                                "bitmap",      "on-cbw-error",
                                                "cbw-timeout", NULL };

/* --- options --- */

static int cbw_take_policy(struct before *b, struct opts *o, GError **err)
{
    static const char *const names[] = { "break-guest-write", "break-snapshot",
                                         NULL };
    int64_t seconds = 0;
    int policy = 0;

    if (opts_take_enum(o, "on-cbw-error", names, &policy, err) < 0 ||
        opts_take_int(o, "cbw-timeout", &seconds, err) < 0) {
        return -EINVAL;
    }
    if (seconds < 0 || seconds > UINT32_MAX) {
        return err_set(err, EINVAL, "Parameter 'cbw-timeout' expects uint32_t");
    }
    before_set_break_snapshot(b, policy == 1);
    before_set_timeout(b, (uint64_t)seconds * SECOND_NS);
    return 0;
}

/* @o: {node, name}. */
static CO_FN int cbw_co_read_bitmap(struct node *n, const json_t *o,
                                    struct dirty_map **ret_bits, GError **err)
{
    const char *node = json_string_value(json_object_get(o, "node"));
    const char *name = json_string_value(json_object_get(o, "name"));
    struct node *of = node && name ? node_find_any(n->graph, node, NULL) : NULL;
    int ret;

    if (!node || !name) {
        return err_set(err, EINVAL,
                       "Parameter 'bitmap' expects a node and a name");
    }
    if (!of) {
        return err_set(err, ENOENT, "Node '%s' not found", node);
    }
    ret = bitmap_find(of, name, BITMAP_MAY_BE_READ_ONLY | BITMAP_MAY_BE_BUSY,
                      NULL, err);
    if (ret == 0 && of->size != n->size) {
        ret = err_set(err, EINVAL, "Bitmap '%s' is of a disk of another size",
                      name);
    }
    return ret < 0 ? ret : bitmap_co_read(of, name, ret_bits, err);
}

static CO_FN int cbw_co_take_bitmap(struct node *n, struct opts *o,
                                    GError **err)
{
    const struct cbw_state *s = n->state;
    json_t *option = opts_take_any(o, "bitmap");
    struct dirty_map *bits;
    int ret = option ? cbw_co_read_bitmap(n, option, &bits, err) : 0;

    if (option && ret == 0) {
        before_set_only(s->before, bits);
        dirty_map_free(bits);
    }
    json_decref(option);
    return ret;
}

/* The disk may be a backing file of the target, which this filter keeps as it
 * was: whoever reads it there does not mind that guests write to it. */
static CO_FN int cbw_co_share_backing(struct node *n, unsigned shared,
                                      GError **err)
{
    struct node *at = node_skip_filters(node_child(n, "target")->child);
    int ret = 0;

    if (!node_chain_contains(at, node_file(n))) {
        return 0;
    }
    while (at != node_file(n) && ret == 0) {
        struct edge *e = node_child(at, "backing");

        ret = edge_co_set_perms(e, e->own_perm, shared, err);
        at = node_skip_filters(e->child);
    }
    return ret;
}

static CO_FN int cbw_co_open_target(struct node *n, struct opts *o,
                                    GError **err)
{
    int ret = node_co_open_child_as(n, o, "target", 0, PERM_ALL, err);

    if (ret == 0) {
        ret = cbw_co_share_backing(n, PERM_ALL, err);
    }
    return ret < 0 ? ret
                   : edge_co_set_perms(node_child(n, "target"), PERM_WRITE,
                                       PERM_ALL & ~PERM_RESIZE, err);
}

static CO_FN int cbw_co_open(struct node *n, struct opts *o, unsigned flags,
                             GError **err)
{
    struct cbw_state *s = n->state;
    struct node *target;
    int ret = node_co_open_file(n, o, err);

    if (ret == 0) {
        ret = cbw_co_open_target(n, o, err);
    }
    if (ret < 0) {
        return ret;
    }
    n->size = node_file(n)->size;
    target = node_child(n, "target")->child;
    if (target->size < n->size) {
        return err_set(err, EINVAL,
                       "Source and target image have different sizes");
    }
    if (!node_is_writable(target)) {
        return err_set(err, EACCES, "Block node is read-only");
    }
    s->before = before_new(node_file(n), target, 0, err);
    ret = s->before ? cbw_take_policy(s->before, o, err) : -EFBIG;
    if (ret == 0) {
        ret = cbw_co_take_bitmap(n, o, err);
    }
    if (ret < 0 && s->before) {
        before_co_unref(g_steal_pointer(&s->before));
    }
    return ret;
}

static CO_FN void cbw_co_close(struct node *n)
{
    struct cbw_state *s = n->state;

    /* Not where guests write to the disk meanwhile. */
    (void)cbw_co_share_backing(n, PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED,
                               NULL);
    before_co_unref(g_steal_pointer(&s->before));
}

static struct before *cbw_before(const struct node *n)
{
    const struct cbw_state *s = n->state;

    return s->before;
}

/* --- who else may write --- */

/* The permissions are passed on to the disk right after this. */
static CO_FN int cbw_co_set_perms(struct node *n, unsigned perm,
                                  unsigned shared, GError **err)
{
    struct edge *file = node_child(n, "file");
    bool in_use = n->parents != NULL;

    file->own_perm = in_use ? PERM_CONSISTENT_READ : 0;
    file->own_shared = in_use ? PERM_ALL & ~(PERM_WRITE | PERM_RESIZE)
                              : PERM_ALL;
    return 0;
}

/* --- requests --- */

static CO_FN int cbw_co_pwritev(struct node *n, uint64_t off, struct iov iov,
                                unsigned flags)
{
    int ret = before_co_change(cbw_before(n), off, iov.len);

    return ret < 0 ? ret : node_co_pwritev(node_file(n), off, iov, flags);
}

static CO_FN int cbw_co_zero(struct node *n, uint64_t off, uint64_t len,
                             unsigned flags)
{
    int ret = before_co_change(cbw_before(n), off, len);

    return ret < 0 ? ret : node_co_zero(node_file(n), off, len, flags);
}

static CO_FN int cbw_co_discard(struct node *n, uint64_t off, uint64_t len)
{
    int ret = before_co_change(cbw_before(n), off, len);

    return ret < 0 ? ret : node_co_discard(node_file(n), off, len);
}

static CO_FN int cbw_co_truncate(struct node *n, uint64_t size, GError **err)
{
    return err_set(err, ENOTSUP,
                   "Image format driver 'copy-before-write' does not support "
                   "resize");
}

const struct node_driver copy_before_write_driver = {
    .name = "copy-before-write",
    .kind = NODE_FILTER,
    .state_size = sizeof(struct cbw_state),
    .option_names = cbw_option_names,
    .handles_fua = true,
    .co_open = cbw_co_open,
    .co_close = cbw_co_close,
    .co_set_perms = cbw_co_set_perms,
    .co_pwritev = cbw_co_pwritev,
    .co_zero = cbw_co_zero,
    .co_discard = cbw_co_discard,
    .co_truncate = cbw_co_truncate,
    .before = cbw_before,
};
