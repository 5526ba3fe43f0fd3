/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "graph/io/join.h"

#include "graph/graph-int.h"
#include "graph/io.h"

/* Vectors that are copied at once. */
#define VECTORS 16

/* Who waits for a part of a read. */
struct joiner {
    uint64_t off;
    struct iov iov;
    bool is_done;
    int ret;
    struct co_queue sleeper;
    GList link;
};

/* A read under way; on the stack of who makes it. */
struct far_read {
    uint64_t off;
    struct iov iov;
    GQueue joiners;
    GList link;
};

static struct far_read *flight_find(struct node *n, uint64_t off)
{
    for (GList *l = n->priv->far_reads.head; l; l = l->next) {
        struct far_read *f = l->data;

        if (off >= f->off && off - f->off < f->iov.len) {
            return f;
        }
    }
    return NULL;
}

static void copy(struct iov dst, struct iov src)
{
    struct iovec v[VECTORS];
    size_t pos = 0;

    while (pos < src.len) {
        size_t len;
        unsigned n = iov_export(iov_slice(src, pos, src.len - pos), v, VECTORS,
                                &len);

        for (unsigned i = 0; i < n; i++) {
            iov_from_buf(dst, pos, v[i].iov_base, v[i].iov_len);
            pos += v[i].iov_len;
        }
    }
}

static CO_FN int read_co_join(struct far_read *f, uint64_t off, struct iov iov)
{
    struct joiner j = { .off = off, .iov = iov, .link.data = &j };

    g_queue_push_tail_link(&f->joiners, &j.link);
    while (!j.is_done) {
        co_queue_co_wait(&j.sleeper);
    }
    return j.ret;
}

/* The memory is this request's until here. */
static void far_read_end(struct far_read *f, int ret)
{
    GList *l;

    while ((l = g_queue_pop_head_link(&f->joiners))) {
        struct joiner *j = l->data;

        if (ret == 0) {
            copy(j->iov, iov_slice(f->iov, j->off - f->off, j->iov.len));
        }
        j->ret = ret;
        j->is_done = true;
        co_queue_wake_all(&j->sleeper);
    }
}

int join_co_read(struct node *n, uint64_t off, struct iov iov, unsigned flags,
                 const struct far_reader *reader)
{
    struct far_read *other, own = { .link.data = &own };
    int ret = 0;

    /* What others read of the beginning. */
    while (iov.len > 0 && (other = flight_find(n, off))) {
        size_t len = MIN(iov.len, other->iov.len - (off - other->off));

        ret = read_co_join(other, off, iov_slice(iov, 0, len));
        if (ret < 0) {
            break;
        }
        off += len;
        iov = iov_slice(iov, len, iov.len - len);
    }
    if (iov.len == 0 || has_given_up(ret)) {
        return ret;
    }
    own.off = off;
    own.iov = iov;
    g_queue_push_tail_link(&n->priv->far_reads, &own.link);
    ret = reader->co_read(n, off, iov, flags);
    g_queue_unlink(&n->priv->far_reads, &own.link);
    far_read_end(&own, ret);
    return ret;
}
