/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What requests do to the files of the simulated machine, as the kernel would:
 * a table by operation, run when the request completes.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include "sim/sim-priv.h"

struct sim_handle *sim_handle(struct sim *s, int fd)
{
    return g_hash_table_lookup(s->handles, GINT_TO_POINTER(fd));
}

static bool writable(const struct sim_handle *h)
{
    return h && (h->flags & O_ACCMODE) != O_RDONLY;
}

/* A file that nothing refers to any more is gone. */
static void file_collect(struct sim *s, uint64_t file)
{
    GHashTableIter it;
    void *h;

    if (!file || sim_image_has_name(s->live, file)) {
        return;
    }
    g_hash_table_iter_init(&it, s->handles);
    while (g_hash_table_iter_next(&it, NULL, &h)) {
        if (((struct sim_handle *)h)->file == file) {
            return;
        }
    }
    sim_image_remove(s->live, file);
}

static bool direct_misaligned(const struct sim *s, const struct sim_handle *h,
                              const struct io_req *r)
{
    uint64_t bits = r->off;

    for (unsigned i = 0; i < r->n_iov; i++) {
        bits |= (uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len;
    }
    return (h->flags & O_DIRECT) && bits % s->block;
}

void sim_set_block(struct sim *s, uint32_t bytes)
{
    s->block = bytes;
}

static int64_t apply_read(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    struct sim_handle *h = sim_handle(s, r->fd);
    uint64_t size, left, off = r->off;

    if (!h || (h->flags & O_ACCMODE) == O_WRONLY) {
        return -EBADF;
    }
    if (direct_misaligned(s, h, r)) {
        return -EINVAL;
    }
    size = sim_image_size(s->live, h->file);
    left = off < size ? MIN(r->len, size - off) : 0;
    left = p->short_len ? MIN(left, p->short_len) : left;
    for (unsigned i = 0; i < r->n_iov && left; i++) {
        size_t n = (size_t)MIN(left, r->iov[i].iov_len);

        sim_image_read(s->live, h->file, off, r->iov[i].iov_base, n);
        off += n;
        left -= n;
    }
    return (int64_t)(off - r->off);
}

static int64_t apply_write(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    struct sim_handle *h = sim_handle(s, r->fd);
    size_t n = p->rec->len;

    if (!writable(h)) {
        return -EBADF;
    }
    if (direct_misaligned(s, h, r)) {
        return -EINVAL;
    }
    n = p->short_len ? MIN(n, p->short_len) : n;
    sim_image_write(s->live, h->file, p->rec->off, p->rec->data, n);
    return (int64_t)n;
}

/* The data was read from the source when the request came. */
static int64_t apply_copy(struct sim *s, struct sim_pending *p)
{
    struct sim_handle *h = sim_handle(s, p->req->fd2);
    size_t n = p->rec->len;

    if (!writable(h) || !sim_handle(s, p->req->fd)) {
        return -EBADF;
    }
    n = p->short_len ? MIN(n, p->short_len) : n;
    sim_image_write(s->live, h->file, p->rec->off, p->rec->data, n);
    return (int64_t)n;
}

static int64_t apply_clone(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;

    if (!s->shares) {
        return -ENOTSUP;
    }
    if ((r->off | r->off2) % 4096 || p->rec->len != r->len) {
        return -EINVAL;
    }
    p->short_len = 0; /* all or nothing */
    return MIN(apply_copy(s, p), 0);
}

static int64_t apply_sync(struct sim *s, struct sim_pending *p)
{
    return sim_handle(s, p->req->fd) ? 0 : -EBADF;
}

static int64_t apply_fallocate(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    struct sim_handle *h = sim_handle(s, r->fd);

    if (!writable(h)) {
        return -EBADF;
    }
    if (!r->len) {
        return -EINVAL;
    }
    return sim_image_fallocate(s->live, h->file, r->flags, r->off, r->len);
}

static int64_t apply_open(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    uint64_t file = sim_image_find(s->live, r->path);
    struct sim_handle *h;

    if (!file && !(r->flags & O_CREAT)) {
        return -ENOENT;
    }
    if (file && (r->flags & O_CREAT) && (r->flags & O_EXCL)) {
        return -EEXIST;
    }
    if (r->flags & O_DIRECTORY) {
        return -ENOTDIR;
    }
    p->rec->op = file ? SIM_OPEN : SIM_CREATE;
    if (!file) {
        file = ++s->last_file;
        sim_image_create(s->live, file);
        sim_image_link(s->live, r->path, file);
    } else if (r->flags & O_TRUNC) {
        p->rec->op = SIM_TRUNCATE;
        sim_image_truncate(s->live, file, 0);
    }
    p->rec->file = file;
    h = g_new(struct sim_handle, 1);
    *h = (struct sim_handle) {
        .file = file,
        .flags = r->flags,
        .path = g_strdup(p->rec->path),
    };
    g_hash_table_insert(s->handles, GINT_TO_POINTER(++s->last_fd), h);
    return s->last_fd;
}

static int64_t apply_close(struct sim *s, struct sim_pending *p)
{
    int fd = p->req->fd;
    struct sim_handle *h = sim_handle(s, fd);
    uint64_t file;

    if (!h) {
        return -EBADF;
    }
    file = h->file;
    for (unsigned i = s->locks->len; i-- > 0;) {
        if (g_array_index(s->locks, struct sim_lock, i).fd == fd) {
            g_array_remove_index(s->locks, i);
        }
    }
    g_hash_table_remove(s->handles, GINT_TO_POINTER(fd));
    file_collect(s, file);
    return 0;
}

static int64_t apply_truncate(struct sim *s, struct sim_pending *p)
{
    struct sim_handle *h = sim_handle(s, p->req->fd);

    if (!writable(h)) {
        return -EINVAL;
    }
    sim_image_truncate(s->live, h->file, p->req->off);
    return 0;
}

static int64_t stat_file(struct sim *s, uint64_t file, struct stat *st)
{
    uint64_t changes = sim_image_changes(s->live, file);

    *st = (struct stat) {
        .st_ino = file,
        .st_dev = 1,
        .st_mode = S_IFREG | 0600,
        .st_nlink = 1,
        .st_size = (off_t)sim_image_size(s->live, file),
        .st_blksize = 4096,
        .st_blocks = (blkcnt_t)(sim_image_size(s->live, file) / 512),
        .st_mtim = { (time_t)(changes / 1000000000), changes % 1000000000 },
    };
    return 0;
}

static int64_t apply_fstat(struct sim *s, struct sim_pending *p)
{
    struct sim_handle *h = sim_handle(s, p->req->fd);

    return h ? stat_file(s, h->file, p->req->ret_stat) : -EBADF;
}

static int64_t apply_stat(struct sim *s, struct sim_pending *p)
{
    uint64_t file = sim_image_find(s->live, p->req->path);

    return file ? stat_file(s, file, p->req->ret_stat) : -ENOENT;
}

static int64_t apply_size(struct sim *s, struct sim_pending *p)
{
    struct sim_handle *h = sim_handle(s, p->req->fd);

    if (!h) {
        return -EBADF;
    }
    p->req->ret_off = sim_image_size(s->live, h->file);
    return 0;
}

static int64_t apply_extent(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    struct sim_handle *h = sim_handle(s, r->fd);

    return h ? sim_image_extent(s->live, h->file, r->off, &r->ret_data,
                                &r->ret_off)
             : -EBADF;
}

static bool lock_conflicts(const struct sim_lock *a, const struct sim_lock *b)
{
    return a->file == b->file && a->fd != b->fd && a->start < b->end &&
           b->start < a->end && b->type != F_UNLCK &&
           (a->type == F_WRLCK || b->type == F_WRLCK);
}

static struct sim_lock lock_wanted(struct sim *s, const struct io_req *r)
{
    struct sim_handle *h = sim_handle(s, r->fd);

    return (struct sim_lock) {
        .fd = r->fd,
        .file = h ? h->file : 0,
        .start = r->off,
        .end = r->off + r->len,
        .type = r->flags,
    };
}

static int64_t apply_lock_test(struct sim *s, struct sim_pending *p)
{
    struct sim_lock want = lock_wanted(s, p->req);

    if (!want.file) {
        return -EBADF;
    }
    for (unsigned i = 0; i < s->locks->len; i++) {
        if (lock_conflicts(&g_array_index(s->locks, struct sim_lock, i),
                           &want)) {
            return -EAGAIN;
        }
    }
    return 0;
}

/* Take what @fd holds of [start, end) out of the table. */
static void lock_cut(struct sim *s, const struct sim_lock *cut)
{
    for (unsigned i = s->locks->len; i-- > 0;) {
        struct sim_lock old = g_array_index(s->locks, struct sim_lock, i);
        struct sim_lock left = old, right = old;

        if (old.fd != cut->fd || old.start >= cut->end ||
            cut->start >= old.end) {
            continue;
        }
        g_array_remove_index(s->locks, i);
        left.end = cut->start;
        right.start = cut->end;
        if (old.start < cut->start) {
            g_array_append_val(s->locks, left);
        }
        if (cut->end < old.end) {
            g_array_append_val(s->locks, right);
        }
    }
}

static int64_t apply_lock(struct sim *s, struct sim_pending *p)
{
    struct sim_lock want = lock_wanted(s, p->req);
    int64_t r = apply_lock_test(s, p);

    if (r == 0) {
        lock_cut(s, &want);
        if (want.type != F_UNLCK) {
            g_array_append_val(s->locks, want);
        }
    }
    return r;
}

static int64_t apply_alignment(struct sim *s, struct sim_pending *p)
{
    return s->block;
}

static int64_t apply_rename(struct sim *s, struct sim_pending *p)
{
    struct io_req *r = p->req;
    uint64_t file = sim_image_find(s->live, r->path);
    uint64_t old = sim_image_find(s->live, r->path2);

    if (!file) {
        return -ENOENT;
    }
    if (r->flags && old) {
        return -EEXIST;
    }
    p->rec->file = file;
    p->rec->file2 = old;
    if (file != old) {
        sim_image_link(s->live, r->path2, file);
        sim_image_link(s->live, r->path, 0);
        file_collect(s, old);
    }
    return 0;
}

static int64_t apply_unlink(struct sim *s, struct sim_pending *p)
{
    uint64_t file = sim_image_find(s->live, p->req->path);

    if (!file) {
        return -ENOENT;
    }
    p->rec->file = file;
    sim_image_link(s->live, p->req->path, 0);
    file_collect(s, file);
    return 0;
}

static int64_t apply_fsync_dir(struct sim *s, struct sim_pending *p)
{
    return 0;
}

/* Simulated threads work on the loop's thread, at a time of the seed. */
static int64_t apply_call(struct sim *s, struct sim_pending *p)
{
    p->req->fn(p->req->arg);
    return 0;
}

static int64_t apply_none(struct sim *s, struct sim_pending *p)
{
    return -ENOTSUP;
}

static int64_t (*const sim_files_table[])(struct sim *s,
                                          struct sim_pending *p) = {
    [IO_OP_READ] = apply_read,           [IO_OP_WRITE] = apply_write,
    [IO_OP_FDATASYNC] = apply_sync,      [IO_OP_FSYNC] = apply_sync,
    [IO_OP_FALLOCATE] = apply_fallocate, [IO_OP_POLL] = apply_none,
    [IO_OP_RECV] = apply_none,           [IO_OP_SEND] = apply_none,
    [IO_OP_OPEN] = apply_open,           [IO_OP_CLOSE] = apply_close,
    [IO_OP_TRUNCATE] = apply_truncate,   [IO_OP_FSTAT] = apply_fstat,
    [IO_OP_SIZE] = apply_size,           [IO_OP_EXTENT] = apply_extent,
    [IO_OP_LOCK] = apply_lock,           [IO_OP_LOCK_TEST] = apply_lock_test,
    [IO_OP_COPY] = apply_copy,           [IO_OP_CLONE] = apply_clone,
    [IO_OP_DISCARD] = apply_none,        [IO_OP_ZEROOUT] = apply_none,
    [IO_OP_ALIGNMENT] = apply_alignment, [IO_OP_STAT] = apply_stat,
    [IO_OP_RENAME] = apply_rename,       [IO_OP_UNLINK] = apply_unlink,
    [IO_OP_FSYNC_DIR] = apply_fsync_dir, [IO_OP_CALL] = apply_call,
};
G_STATIC_ASSERT(G_N_ELEMENTS(sim_files_table) == IO_OP_COUNT);

int64_t sim_apply(struct sim *s, struct sim_pending *p)
{
    return sim_files_table[p->req->op](s, p);
}
