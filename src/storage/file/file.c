/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The drivers "file" (regular files) and "host_device" (block devices): open,
 * close, reopen, permissions.  Their I/O stands in file-io.c.
 *
 * Only regular files and block devices are ever opened: a FIFO or a character
 * device named by an image header could block for ever or do things when
 * touched.  The type is looked at before the open, and once more on the open
 * description, which must still be the same file.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/barrier.h"
#include "base/err.h"
#include "graph/driver.h"
#include "loop/io.h"
#include "storage/file/file-int.h"
#include "storage/storage.h"
#include "storage/trace.h"

static const char *const locking_names[] = { "off", "on", "auto", NULL };
static const char *const aio_names[] = { "threads", "native", "io_uring",
                                         NULL };

static const char *const file_option_names[] = { "filename", "aio", "locking",
                                                 "x-check-cache-dropped",
                                                 NULL };

static const char *const file_fixed_options[] = { "filename", "locking", NULL };

static void file_options_clear(struct file_options *fo)
{
    g_free(fo->path);
    *fo = (struct file_options) {};
}

static int take_debug(struct opts *o, GError **err)
{
    bool check_dropped = false;
    int ret = opts_take_bool(o, "x-check-cache-dropped", &check_dropped, err);
    if (ret >= 0 && check_dropped) {
        ret = err_set(err, ENOTSUP,
                      "Parameter 'x-check-cache-dropped' is not supported");
    }
    return MIN(ret, 0);
}

/* The engine is the daemon's choice; "aio" and its values are accepted. */
static int file_options_take(struct opts *o, unsigned flags,
                             struct file_options *fo, GError **err)
{
    int aio, locking = FILE_LOCKING_AUTO;

    fo->direct = flags & NODE_CACHE_DIRECT;
    fo->no_flush = flags & NODE_NO_FLUSH;
    int ret = opts_take_str(o, "filename", &fo->path, err);
    if (ret == 0) {
        return opts_missing("filename", err);
    }
    if (ret > 0 && !*fo->path) {
        ret = err_set(err, EINVAL, "Parameter 'filename' must not be empty");
    }
    if (ret > 0) {
        ret = opts_take_enum(o, "aio", aio_names, &aio, err);
    }
    if (ret >= 0) {
        ret = opts_take_enum(o, "locking", locking_names, &locking, err);
    }
    if (ret >= 0) {
        ret = take_debug(o, err);
    }
    fo->locking = flags & NODE_FORCE_SHARE ? FILE_LOCKING_OFF
                                           : (enum file_locking)locking;
    return MIN(ret, 0);
}

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG: return "a regular file";
    case S_IFBLK: return "a block device";
    case S_IFCHR: return "a character device";
    case S_IFDIR: return "a directory";
    case S_IFIFO: return "a FIFO";
    case S_IFSOCK: return "a socket";
    default: return "a special file";
    }
}

static int check_type(const struct node *n, const char *path,
                      const struct stat *st, GError **err)
{
    bool want_block = n->drv == &host_device_driver;
    if (want_block ? S_ISBLK(st->st_mode) : S_ISREG(st->st_mode)) {
        return 0;
    }
    int ret = err_set(err, EINVAL,
                      "Could not open '%s': it is %s, and driver "
                      "'%s' takes only %s",
                      path, type_name(st->st_mode), n->drv->name,
                      want_block ? "block devices" : "regular files");
    if (S_ISBLK(st->st_mode)) {
        err_hint(err, "Use driver 'host_device' for block devices.");
    } else if (S_ISREG(st->st_mode)) {
        err_hint(err, "Use driver 'file' for regular files.");
    }
    return ret;
}

/* Open @fo->path, checked to be of the right type. */
static CO_FN int file_co_open_checked(const struct node *n,
                                      const struct file_options *fo,
                                      bool writable, struct io_file **ret_io,
                                      struct stat *ret_st, GError **err)
{
    struct stat before;
    int ret = io_co_stat(fo->path, &before);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not open '%s'", fo->path);
    }
    ret = check_type(n, fo->path, &before, err);
    if (ret < 0) {
        return ret;
    }
    int how = (writable ? O_RDWR : O_RDONLY) | O_NOCTTY |
              (fo->direct ? O_DIRECT : 0);
    struct io_file *io;
    ret = io_co_open(fo->path, how, 0, &io);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not open '%s'", fo->path);
        if (ret == -EINVAL && fo->direct) {
            err_hint(err, "The file system may not support O_DIRECT; "
                          "try cache.direct=off.");
        }
        return ret;
    }
    ret = io_co_fstat(io, ret_st);
    if (ret < 0) {
        err_set_errno(err, -ret, "Could not open '%s'", fo->path);
    } else if (ret_st->st_dev != before.st_dev ||
               ret_st->st_ino != before.st_ino) {
        ret = err_set(err, EAGAIN,
                      "Could not open '%s': "
                      "it was replaced while it was opened",
                      fo->path);
    }
    if (ret < 0) {
        io_co_close(io);
        return ret;
    }
    *ret_io = io;
    return 0;
}

static const char *const file_reference_options[] = { "filename", NULL };

static void file_reference(const struct node *n, json_t *o)
{
    const struct file_state *s = n->state;

    json_object_set_new(o, "filename", json_string(s->opt.path));
}

static void file_describe(struct node *n)
{
    const struct file_state *s = n->state;
    node_set_path(n, s->opt.path);
}

/* @s->io was just opened: learn what depends on it. */
static CO_FN int file_co_adopt(struct node *n, const struct stat *st,
                               GError **err)
{
    struct file_state *s = n->state;
    uint64_t size;
    int ret = io_co_size(s->io, &size);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not get the size of '%s'",
                             s->opt.path);
    }
    s->is_block = S_ISBLK(st->st_mode);
    s->alignment = s->opt.direct ? MAX(io_alignment(s->io), 1) : 1;
    s->identity = *st;
    s->holes = (struct file_holes) { .generation = s->holes.generation + 1 };
    n->size = size;
    return 0;
}

/* What has ended as another file is opened as that. */
static CO_FN int file_co_follow(struct node *n, struct file_options *fo,
                                GError **err)
{
    char *successor = NULL;
    struct stat st;

    if (n->drv != &file_driver || io_co_stat(fo->path, &st) != -ENOENT) {
        return 0;
    }
    int ret = node_co_take_successor(n, fo->path, &successor, err);
    if (ret > 0) {
        g_free(fo->path);
        fo->path = successor;
    }
    return MIN(ret, 0);
}

static CO_FN int file_co_open(struct node *n, struct opts *o, unsigned flags,
                              GError **err)
{
    struct file_state *s = n->state;
    struct stat st;

    int ret = file_options_take(o, flags, &s->opt, err);
    if (ret == 0) {
        ret = file_co_follow(n, &s->opt, err);
    }
    if (ret < 0) {
        file_options_clear(&s->opt);
        return ret;
    }
    file_lock_init(&s->lock, s->opt.locking);
    s->writable = flags & NODE_RDWR;
    ret = file_co_open_checked(n, &s->opt, s->writable, &s->io, &st, err);
    if (ret == 0) {
        ret = file_co_adopt(n, &st, err);
    }
    if (ret < 0) {
        io_co_close(s->io);
        s->io = NULL;
        file_options_clear(&s->opt);
        return ret;
    }
    file_describe(n);
    trace_file_open(s->opt.path, s->writable, s->opt.direct, n->size);
    return 0;
}

static CO_FN void file_co_close(struct node *n)
{
    struct file_state *s = n->state;
    (void)BARRIER_COURTESY(file_io_co_flush(n));
    io_co_close(s->io);
    s->io = NULL;
    file_options_clear(&s->opt);
}

/* Open the same file again for @fo and @writable and put it in place of the
 * present description, its locks included. */
static CO_FN int file_co_swap(struct node *n, const struct file_options *fo,
                              bool writable, GError **err)
{
    struct file_state *s = n->state;
    struct io_file *io;
    struct stat st;

    if (s->unlinked) { /* what is open can be all that is ever asked for */
        s->writable = writable;
        return 0;
    }
    int ret = file_co_open_checked(n, fo, writable, &io, &st, err);
    if (ret < 0) {
        return ret;
    }
    if (st.st_dev != s->identity.st_dev || st.st_ino != s->identity.st_ino) {
        ret = err_set(err, ESTALE,
                      "Could not reopen '%s': "
                      "another file has this name now",
                      fo->path);
    } else {
        ret = file_lock_co_copy(&s->lock, io, err);
    }
    /* What was written through the old description is flushed through it: a
     * failed write-back is told to the descriptions that saw it happen. */
    if (ret == 0 && s->writable &&
        BARRIER(REOPEN_FLUSH, file_io_co_flush(n)) < 0) {
        ret = err_set(err, EIO, "Could not flush '%s'", fo->path);
    }
    /* Our own writes are no reason to distrust it. */
    if (ret == 0 && s->writable && (ret = io_co_fstat(io, &st)) < 0) {
        err_set_errno(err, -ret, "Could not look at '%s'", fo->path);
    }
    if (ret < 0) {
        io_co_close(io);
        return ret;
    }
    if (s->writable) {
        s->identity = st;
    }
    struct io_file *old = s->io;
    s->io = io;
    s->writable = writable;
    s->alignment = fo->direct ? MAX(io_alignment(io), 1) : 1;
    if (s->before->io) {
        io_co_close(old);
    } else {
        file_lock_co_drop(&s->lock, old);
        s->before->io = old;
    }
    return 0;
}

/* The first change of a reopen. */
static void file_keep_before(struct file_state *s)
{
    if (s->before) {
        return;
    }
    s->before = g_new0(struct file_before, 1);
    s->before->opt = s->opt;
    s->before->opt.path = g_strdup(s->opt.path);
    s->before->writable = s->writable;
    s->before->alignment = s->alignment;
}

static CO_FN void file_co_put_back(struct file_state *s)
{
    struct file_before *b = s->before;
    struct file_options opt = s->opt;
    struct io_file *io = s->io;
    struct stat st;

    /* Our own writes are no reason to distrust it. */
    if (s->writable && io_co_fstat(io, &st) == 0) {
        s->identity = st;
    }
    s->opt = b->opt;
    b->opt = opt;
    s->writable = b->writable;
    s->alignment = b->alignment;
    if (b->io) {
        /* What the other description holds it can hold, too. */
        (void)file_lock_co_copy(&s->lock, b->io, NULL);
        s->io = b->io;
        b->io = io;
    }
}

static CO_FN void file_co_reopen_end(struct node *n, bool keep)
{
    struct file_state *s = n->state;

    if (!s->before) {
        return;
    }
    if (!keep) {
        file_co_put_back(s);
    }
    struct file_before *old = s->before;
    s->before = NULL;
    if (old->io) {
        io_co_close(old->io);
    }
    file_options_clear(&old->opt);
    g_free(old);
}

/* Does @path name what @n is open on?  The file may have got another name since
 * then, or an image that is gone have ended as it. */
static bool is_same_name(const struct node *n, const char *path)
{
    const struct file_state *s = n->state;
    const char *was = json_string_value(
        json_object_get(n->options, "filename"));

    return g_str_equal(path, s->opt.path) || g_strcmp0(path, was) == 0;
}

/* New options of @n, which is open with @now. */
static int file_options_change(const struct node *n, struct opts *o,
                               unsigned flags, const struct file_options *now,
                               struct file_options *fo, GError **err)
{
    g_autofree char *aio = NULL;
    const char *aio_now = json_string_value(json_object_get(n->options, "aio"));
    int ret = opts_take_str(o, "aio", &aio, err);
    if (ret > 0 && g_strcmp0(aio, aio_now) != 0) {
        ret = err_set(err, EINVAL, "Cannot change the option 'aio'");
    }
    if (ret >= 0) {
        ret = file_options_take(o, flags, fo, err);
    }
    if (ret == 0 && is_same_name(n, fo->path)) {
        g_free(fo->path);
        fo->path = g_strdup(now->path);
    } else if (ret == 0) {
        ret = err_set(err, EINVAL, "Cannot change the option 'filename'");
    }
    if (ret == 0 && fo->locking != now->locking) {
        ret = err_set(err, EINVAL, "Cannot change the option 'locking'");
    }
    return ret;
}

static CO_FN int file_co_reopen(struct node *n, struct opts *o, unsigned flags,
                                GError **err)
{
    struct file_state *s = n->state;
    struct file_options fo = {};
    bool writable = flags & NODE_RDWR;
    int ret = 0;

    if (writable != s->writable) {
        /* Only the flag changes; @o is empty. */
        fo = s->opt;
        fo.path = g_strdup(s->opt.path);
    } else {
        ret = file_options_change(n, o, flags, &s->opt, &fo, err);
    }
    if (ret == 0) {
        file_keep_before(s);
    }
    if (ret == 0 && (writable != s->writable || fo.direct != s->opt.direct)) {
        ret = file_co_swap(n, &fo, writable, err);
    }
    if (ret < 0) {
        file_options_clear(&fo);
        return ret;
    }
    file_options_clear(&s->opt);
    s->opt = fo;
    return 0;
}

static CO_FN int file_co_set_perms(struct node *n, unsigned perm,
                                   unsigned shared, GError **err)
{
    struct file_state *s = n->state;
    return file_lock_co_set(&s->lock, s->io, s->opt.path, perm, shared, err);
}

static void file_limits(struct node *n, struct node_limits *l)
{
    const struct file_state *s = n->state;
    l->request_alignment = s->alignment;
    l->mem_alignment = s->alignment;
    l->fast_zero = s->is_block ? !s->no_punch : !s->no_zero_range;
}

static CO_FN int file_co_info(struct node *n, json_t *info, GError **err)
{
    struct file_state *s = n->state;
    struct stat st;
    int ret = io_co_fstat(s->io, &st);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not look at '%s'", s->opt.path);
    }
    uint64_t bytes = (uint64_t)st.st_blocks * 512;
    json_object_set_new(info, "actual-size", json_integer((json_int_t)bytes));
    return 0;
}

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

static CO_FN int file_co_check_identity(struct node *n, GError **err)
{
    struct file_state *s = n->state;
    const struct stat *was = &s->identity;
    struct stat st;
    int ret = io_co_fstat(s->io, &st);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not look at '%s'", s->opt.path);
    }
    if (s->writable || s->is_block) { /* time stamps of a device tell nothing */
        return 0;
    }
    /* Not the change time: links and permissions of a base may well change
     * while it is in use (chmod a-w is good practice). */
    const char *what = st.st_size != was->st_size             ? "size"
                       : !same_time(st.st_mtim, was->st_mtim) ? "content"
                                                              : NULL;
    if (!what) {
        return 0;
    }
    trace_file_identity_changed(s->opt.path);
    return err_set(err, ESTALE, "The %s of '%s' changed while it was in use",
                   what, s->opt.path);
}

static CO_FN int file_co_real_path(struct node *n, char **ret_path)
{
    struct file_state *s = n->state;
    return io_co_real_path(s->io, ret_path);
}

static CO_FN int file_co_stat(struct node *n, struct stat *ret_st)
{
    struct file_state *s = n->state;
    return io_co_fstat(s->io, ret_st);
}

static CO_FN int file_co_set_attributes(struct node *n, bool nocow,
                                        uint32_t extent_size)
{
    struct file_state *s = n->state;
    return io_co_set_attributes(s->io, nocow, extent_size);
}

/* The file as it was when it was opened; of a device nothing tells that. */
static char *file_version(struct node *n)
{
    const struct file_state *s = n->state;
    const struct stat *st = &s->identity;

    return S_ISREG(st->st_mode)
               ? g_strdup_printf(
                     "file %" PRIu64 ":%" PRIu64 " size %" PRId64
                     " changed %" PRId64 ".%09ld %" PRId64 ".%09ld",
                     (uint64_t)st->st_dev, (uint64_t)st->st_ino,
                     (int64_t)st->st_size, (int64_t)st->st_mtim.tv_sec,
                     st->st_mtim.tv_nsec, (int64_t)st->st_ctim.tv_sec,
                     st->st_ctim.tv_nsec)
               : NULL;
}

/* A file system and the block device that it lies on have the same number. */
static uint64_t file_device_id(const struct node *n)
{
    const struct file_state *s = n->state;
    const struct stat *st = &s->identity;

    return S_ISBLK(st->st_mode) ? st->st_rdev : st->st_dev;
}

/* Make the file itself; @file is NULL. */
static CO_FN int file_co_create(struct node *file, struct opts *o, GError **err)
{
    g_autofree char *path = NULL;
    uint64_t size = 0;
    struct io_file *io;

    int ret = opts_take_str(o, "filename", &path, err);
    if (ret == 0) {
        return opts_missing("filename", err);
    }
    if (ret < 0 || (ret = opts_take_size(o, "size", &size, err)) < 0 ||
        (ret = opts_finish(o, err)) < 0) {
        return ret;
    }
    struct stat st;
    if (io_co_stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
        return err_set(err, EINVAL, "Could not create '%s': it is %s", path,
                       type_name(st.st_mode));
    }
    ret = io_co_open(path, O_RDWR | O_CREAT | O_NOCTTY, 0644, &io);
    if (ret < 0) {
        return err_set_errno(err, -ret, "Could not create '%s'", path);
    }
    struct file_lock lk;
    file_lock_init(&lk, FILE_LOCKING_AUTO);
    /* Nobody may be using what is about to be emptied. */
    ret = file_lock_co_set(&lk, io, path, PERM_WRITE | PERM_RESIZE,
                           PERM_ALL & ~(unsigned)(PERM_WRITE | PERM_RESIZE),
                           err);
    if (ret == 0 &&
        ((ret = io_co_truncate(io, 0)) < 0 ||
         (ret = io_co_truncate(io, size)) < 0 ||
         (ret = BARRIER(FILE_SIZE, io_co_fsync(io))) < 0 ||
         (ret = BARRIER(FILE_NAME, io_co_fsync_parent(path))) < 0)) {
        err_set_errno(err, -ret, "Could not create '%s'", path);
    }
    io_co_close(io);
    return ret;
}

static const struct create_option file_create_options[] = {
    { "size", "size", "Virtual disk size" }, {}
};

static const struct stat *file_opened_as(const struct node *n)
{
    const struct file_state *s = n->state;

    return s->is_block ? NULL : &s->identity;
}

#define FILE_OPERATIONS \
    .kind = NODE_PROTOCOL, .device_id = file_device_id, \
    .state_size = sizeof(struct file_state), .handles_fua = true, \
    .option_names = file_option_names, \
    .reference_options = file_reference_options, .reference = file_reference, \
    .co_open = file_co_open, .co_close = file_co_close, \
    .co_reopen = file_co_reopen, .co_reopen_end = file_co_reopen_end, \
    .fixed_options = file_fixed_options, .co_set_perms = file_co_set_perms, \
    .co_check_identity = file_co_check_identity, \
    .co_real_path = file_co_real_path, .co_stat = file_co_stat, \
    .co_set_attributes = file_co_set_attributes, .opened_as = file_opened_as, \
    .describe = file_describe, .version = file_version, .limits = file_limits, \
    .co_info = file_co_info, .co_preadv = file_io_co_preadv, \
    .co_pwritev = file_io_co_pwritev, .co_copy_in = file_io_co_copy_in, \
    .can_copy_in = file_io_can_copy_in, .co_zero = file_io_co_zero, \
    .co_discard = file_io_co_discard, .co_flush = file_io_co_flush, \
    .co_map = file_io_co_map, .co_truncate = file_io_co_truncate, \
    .co_refresh_size = file_io_co_refresh_size

const struct node_driver file_driver = {
    .name = "file",
    FILE_OPERATIONS,
    .co_rename = file_name_co_rename,
    .co_unlink = file_name_co_unlink,
    .co_create = file_co_create,
    .create_options = file_create_options,
};

const struct node_driver host_device_driver = {
    .name = "host_device",
    FILE_OPERATIONS,
};
