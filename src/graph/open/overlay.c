/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/overlay.h"
#include "base/err.h"
#include "graph/graph-int.h"

int overlay_check(const struct overlay_step *s, GError **err)
{
    int ret = node_check_op(s->disk, BLOCK_OP_SNAPSHOT, err);

    if (ret < 0) {
        return ret;
    }
    if (s->overlay->parents) {
        return err_set(err, EBUSY, "The overlay is already in use");
    }
    if (!node_can(s->overlay, NODE_CAN_HAVE_BACKING)) {
        return err_set(err, EINVAL,
                       "The overlay does not support backing images");
    }
    if (node_backing(s->overlay)) {
        return err_set(err, EINVAL, "The overlay already has a backing image");
    }
    return node_check_op(s->overlay, BLOCK_OP_CHANGE, err);
}

/* Guests flush the overlay alone from now on. */
static CO_FN int disk_co_flush(struct node *disk, GError **err)
{
    int ret = node_is_writable(disk) ? node_co_flush(disk) : 0;

    return ret == 0 ? 0
                    : err_set_errno(err, -ret, "Could not flush node '%s'",
                                    disk->name);
}

static CO_FN void overlay_co_take_off(const struct overlay_step *s)
{
    edge_co_detach(node_child(s->overlay, "backing"));
    (void)node_co_replace(s->overlay, s->disk, NULL, NULL);
}

/* The guests go first: a base is not written to. */
static CO_FN int overlay_co_put(const struct overlay_step *s, GError **err)
{
    int ret = node_co_replace(s->disk, s->overlay, NULL, err);

    if (ret < 0) {
        return ret;
    }
    ret = edge_co_attach(s->overlay, s->disk, "backing", PERM_CONSISTENT_READ,
                         PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED, err);
    if (ret < 0) {
        (void)node_co_replace(s->overlay, s->disk, NULL, NULL);
    }
    return ret;
}

static CO_FN int overlays_co_switch(const struct overlay_step *steps,
                                    unsigned n, GError **err)
{
    unsigned done = 0;
    int ret = 0;

    for (unsigned i = 0; i < n && ret == 0; i++) {
        ret = disk_co_flush(steps[i].disk, err);
    }
    while (done < n && ret == 0) {
        ret = overlay_co_put(&steps[done], err);
        done += ret == 0;
    }
    while (ret < 0 && done > 0) {
        overlay_co_take_off(&steps[--done]);
    }
    return ret;
}

CO_FN void overlays_co_prepare(const struct overlay_step *steps, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (node_is_writable(steps[i].disk)) {
            (void)node_co_flush(steps[i].disk);
        }
    }
}

CO_FN int overlays_co_put(const struct overlay_step *steps, unsigned n,
                          GError **err)
{
    int ret = 0;

    for (unsigned i = 0; i < n && ret == 0; i++) {
        ret = overlay_check(&steps[i], err);
    }
    if (ret < 0) {
        return ret;
    }
    for (unsigned i = 0; i < n; i++) {
        node_co_drain_requests_begin(steps[i].disk);
    }
    ret = overlays_co_switch(steps, n, err);
    for (unsigned i = n; i-- > 0;) {
        node_drain_end(steps[i].disk);
    }
    return ret;
}

CO_FN void overlays_co_finish(const struct overlay_step *steps, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        /* One that stays writable is written to by nobody all the same. */
        (void)node_co_set_read_only(steps[i].disk, true, NULL);
    }
}
