/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which iothreads there are. */
#include "base/err.h"
#include "control/control-int.h"
#include "control/iothread-int.h"
#include "control/iothread.h"
#include "loop/thread.h"

struct iothread *iothread_lookup(struct control *c, const char *id)
{
    for (guint i = 0; i < c->main->iothreads->len; i++) {
        struct iothread *t = g_ptr_array_index(c->main->iothreads, i);

        if (g_str_equal(t->id, id)) {
            return t;
        }
    }
    return NULL;
}

int iothread_find(struct control *c, const char *id, struct control **ret,
                  GError **err)
{
    struct iothread *t = iothread_lookup(c, id);

    if (!t) {
        return err_set(err, ENOENT, "Cannot find iothread %s", id);
    }
    *ret = t->c;
    return 0;
}

GPtrArray *iothreads_hold_all(struct control *c)
{
    GPtrArray *all = g_ptr_array_new();

    g_ptr_array_add(all, control_hold(c->main));
    for (guint i = 0; i < c->main->iothreads->len; i++) {
        struct iothread *t = g_ptr_array_index(c->main->iothreads, i);

        if (t->thread) {
            g_ptr_array_add(all, control_hold(t->c));
        }
    }
    return all;
}

void iothreads_let_go(GPtrArray *all)
{
    for (guint i = 0; i < all->len; i++) {
        control_let_go(g_ptr_array_index(all, i));
    }
    g_ptr_array_free(all, TRUE);
}

json_t *iothreads_describe(struct control *c)
{
    json_t *list = json_array();

    for (guint i = 0; i < c->main->iothreads->len; i++) {
        const struct iothread *t = g_ptr_array_index(c->main->iothreads, i);

        json_array_append_new(
            list,
            json_pack("{s:s,s:i,s:I,s:I,s:I,s:i}", "id", t->id, "thread-id",
                      t->thread ? loop_thread_id(t->thread) : 0, "poll-max-ns",
                      (json_int_t)t->polling.max_ns, "poll-grow",
                      (json_int_t)t->polling.grow, "poll-shrink",
                      (json_int_t)t->polling.shrink, "aio-max-batch", 0));
    }
    return list;
}
