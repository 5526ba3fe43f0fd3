/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Locks of guest clusters: see format/qcow2/data/write.h. */
#include "format/qcow2/data/write.h"

struct qcow2_writes {
    GHashTable *cluster_locks; /* guest cluster -> struct qcow2_cluster_lock */
};

void qcow2_cluster_locks_open(struct qcow2_image *img)
{
    img->writes = g_new0(struct qcow2_writes, 1);
    img->writes->cluster_locks = g_hash_table_new(g_direct_hash,
                                                  g_direct_equal);
}

void qcow2_cluster_locks_close(struct qcow2_image *img)
{
    if (img->writes) {
        g_assert(g_hash_table_size(img->writes->cluster_locks) == 0);
        g_hash_table_destroy(img->writes->cluster_locks);
        g_clear_pointer(&img->writes, g_free);
    }
}

struct qcow2_cluster_lock *qcow2_cluster_lock_find(struct qcow2_image *img,
                                                   uint64_t idx)
{
    return g_hash_table_lookup(img->writes->cluster_locks,
                               GSIZE_TO_POINTER(idx));
}

struct qcow2_cluster_lock *
qcow2_cluster_lock_co_get(struct qcow2_image *img, uint64_t idx, bool exclusive)
{
    struct qcow2_cluster_lock *c = qcow2_cluster_lock_find(img, idx);

    if (!c) {
        c = g_new0(struct qcow2_cluster_lock, 1);
        c->idx = idx;
        g_hash_table_insert(img->writes->cluster_locks, GSIZE_TO_POINTER(idx),
                            c);
    }
    c->users++;
    while (c->exclusive || (exclusive && c->shared > 0)) {
        co_queue_co_wait(&c->waiters);
    }
    c->exclusive = exclusive;
    c->shared += !exclusive;
    return c;
}

void qcow2_cluster_lock_put(struct qcow2_image *img,
                            struct qcow2_cluster_lock *c)
{
    if (c->exclusive) {
        c->exclusive = false;
    } else {
        g_assert(c->shared > 0);
        c->shared--;
    }
    if (c->shared == 0) {
        c->host = 0; /* the next ones look it up */
        c->linked = false;
    }
    if (--c->users == 0) {
        g_hash_table_remove(img->writes->cluster_locks,
                            GSIZE_TO_POINTER(c->idx));
        g_free(c);
    } else {
        co_queue_wake_all(&c->waiters);
    }
}
