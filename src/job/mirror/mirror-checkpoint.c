/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a mirror keeps for the time after a crash.  A unit need not be copied
 * again when it was copied, no guest changes it, and both sides are flushed.
 */
#include "base/err.h"
#include "graph/io.h"
#include "job/mirror/mirror-int.h"

static bool mirror_is_same(void *arg, uint64_t off, uint64_t len)
{
    struct mirror *m = arg;
    uint64_t clean;

    if ((m->first && off + len > m->first_bytes) ||
        ranges_any(&m->ranges, off, len) || ranges_any(&m->changes, off, len)) {
        return false;
    }
    return !dirty_map_run(m->dirty, off, len, &clean) && clean == len;
}

static CO_FN int mirror_co_make_durable(void *arg)
{
    struct mirror *m = arg;
    int ret = backend_co_flush(m->source_backend);

    return ret < 0 ? ret : backend_co_flush(m->target_backend);
}

/* The images that the copy depends on: the disk's chain, and the target. */
static GPtrArray *mirror_images(const struct mirror *m)
{
    GPtrArray *images = g_ptr_array_new();

    for (struct node *n = m->source; n;
         n = node_skip_filters(node_backing(n))) {
        g_ptr_array_add(images, n);
    }
    g_ptr_array_add(images, m->target);
    return images;
}

CO_FN int mirror_co_open_checkpoint(struct mirror *m,
                                    const struct job_params *p, GError **err)
{
    g_autoptr(GPtrArray) images = mirror_images(m);
    struct checkpoint_keeper *k = &m->keeper;
    int ret;

    m->target_is_zero &= !p->resumed;
    if (!p->checkpoint || m->only_new) {
        return 0;
    }
    k->choice = (struct checkpoint_choice) { mirror_is_same, m };
    k->co_flush = mirror_co_make_durable;
    ret = checkpoint_co_open(p->checkpoint, node_size(m->source),
                             (struct node *const *)images->pdata, images->len,
                             p->resumed, &k->cp, err);
    if (ret < 0) {
        k->cp = NULL;
    } else if (!checkpoint_can_resume(k->cp)) {
        g_clear_pointer(&k->cp, checkpoint_co_close);
    }
    return ret;
}

CO_FN int mirror_co_begin_checkpoint(struct mirror *m, GError **err)
{
    struct checkpoint_keeper *k = &m->keeper;
    int ret = 0;

    /* Some changes may have passed before the filter was there. */
    if (k->cp && node_was_written(m->source) && checkpoint_has_any(k->cp)) {
        ret = checkpoint_co_forget(k->cp);
    }
    return ret < 0 ? err_set_errno(err, -ret, "Could not write the checkpoint")
                   : 0;
}
