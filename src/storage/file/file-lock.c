/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image locks; see file-lock.h for the protocol.  The bytes are locked and
 * tested, never read or written: they lie inside the image's own data.
 */
#include "storage/file/file-lock.h"

#include "base/err.h"
#include "graph/node.h"
#include "loop/co.h"
#include "loop/io.h"

#define LOCK_PERM_BASE 100
#define LOCK_SHARED_BASE 200
#define LOCK_TRIES 10
#define LOCK_RETRY_NS 20000000u

static const char *const file_lock_perm_names[] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};
#define PERM_COUNT G_N_ELEMENTS(file_lock_perm_names)

void file_lock_init(struct file_lock *lk, enum file_locking mode)
{
    lk->mode = mode;
    lk->held = 0;
    lk->unshared = 0;
}

/* Does @errnum say that the file system has no locks at all? */
static bool lock_is_unsupported(int errnum)
{
    return errnum == ENOLCK || errnum == ENOTSUP || errnum == ENOSYS ||
           errnum == EINVAL;
}

/* Lock or unlock each byte at @base whose bit differs between @from and @to;
 * on failure the first of them are put back. */
static CO_FN int lock_co_move(struct io_file *f, unsigned base, unsigned from,
                              unsigned to, GError **err)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        unsigned bit = 1u << i;
        if ((from & bit) == (to & bit)) {
            continue;
        }
        enum io_lock how = (to & bit) ? IO_LOCK_SHARED : IO_LOCK_NONE;
        int ret = io_co_lock(f, base + i, 1, how);
        if (ret < 0) {
            unsigned done = bit - 1;
            lock_co_move(f, base, to & done, from & done, NULL);
            return err_set_errno(err, -ret, "Failed to %s byte %u",
                                 (to & bit) ? "lock" : "unlock", base + i);
        }
    }
    return 0;
}

/* Put both sets of bytes to @held and @unshared. */
static CO_FN int lock_co_apply(struct file_lock *lk, struct io_file *f,
                               unsigned held, unsigned unshared, GError **err)
{
    int ret = lock_co_move(f, LOCK_PERM_BASE, lk->held, held, err);
    if (ret < 0) {
        return ret;
    }
    lk->held = held;
    ret = lock_co_move(f, LOCK_SHARED_BASE, lk->unshared, unshared, err);
    if (ret < 0) {
        return ret;
    }
    lk->unshared = unshared;
    return 0;
}

/* Does anybody else hold a byte at @base of those in @bits? */
static CO_FN int lock_co_test(struct io_file *f, unsigned base, unsigned bits,
                              const char *what, GError **err)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        if (!(bits & (1u << i))) {
            continue;
        }
        int ret = io_co_lock_test(f, base + i, 1, IO_LOCK_EXCLUSIVE);
        if (ret == -EAGAIN || ret == -EACCES) {
            return err_set(err, EAGAIN, "Failed to get %s\"%s\" lock", what,
                           file_lock_perm_names[i]);
        }
        if (ret < 0) {
            return err_set_errno(err, -ret, "Failed to test byte %u", base + i);
        }
    }
    return 0;
}

static CO_FN int lock_co_widen(struct file_lock *lk, struct io_file *f,
                               const char *path, unsigned held,
                               unsigned unshared, GError **err)
{
    int ret = lock_co_apply(lk, f, lk->held | held, lk->unshared | unshared,
                            err);
    if (ret < 0) {
        return ret;
    }
    ret = lock_co_test(f, LOCK_SHARED_BASE, held, "", err);
    if (ret == 0) {
        ret = lock_co_test(f, LOCK_PERM_BASE, unshared, "shared ", err);
    }
    if (ret == -EAGAIN) {
        err_hint(err, "Is another process using the image [%s]?", path);
    }
    return ret;
}

/* As lock_co_widen(), with patience: the kernel lets go of a killed process's
 * ring, and so of its files and their locks, some milliseconds after the
 * process is gone (D3). Nothing is held between the tries. */
static CO_FN int lock_co_widen_patiently(struct file_lock *lk,
                                         struct io_file *f, const char *path,
                                         unsigned held, unsigned unshared,
                                         GError **err)
{
    unsigned old_held = lk->held, old_unshared = lk->unshared;

    for (unsigned tries = LOCK_TRIES;; tries--) {
        GError *why = NULL;
        int ret = lock_co_widen(lk, f, path, held, unshared, &why);

        if (ret == 0) {
            return 0;
        }
        lock_co_apply(lk, f, old_held, old_unshared, NULL);
        if (ret != -EAGAIN || tries == 1) {
            g_propagate_error(err, why);
            return ret;
        }
        g_clear_error(&why);
        co_sleep(LOCK_RETRY_NS);
    }
}

int file_lock_co_set(struct file_lock *lk, struct io_file *f, const char *path,
                     unsigned perm, unsigned shared, GError **err)
{
    if (lk->mode == FILE_LOCKING_OFF) {
        return 0;
    }
    unsigned held = perm & PERM_ALL, unshared = ~shared & PERM_ALL;

    if ((held & ~lk->held) || (unshared & ~lk->unshared)) {
        GError *why = NULL;
        int ret = lock_co_widen_patiently(lk, f, path, held, unshared, &why);
        if (ret < 0 && lk->mode == FILE_LOCKING_AUTO &&
            lock_is_unsupported(-ret)) {
            g_clear_error(&why);
            lk->mode = FILE_LOCKING_OFF;
            return 0;
        }
        if (ret < 0) {
            g_propagate_error(err, why);
            return ret;
        }
    }
    /* Letting go cannot fail in a way that matters: at worst a byte stays
     * locked and somebody else is refused. */
    lock_co_apply(lk, f, held, unshared, NULL);
    return 0;
}

int file_lock_co_copy(struct file_lock *lk, struct io_file *to, GError **err)
{
    if (lk->mode == FILE_LOCKING_OFF) {
        return 0;
    }
    int ret = lock_co_move(to, LOCK_PERM_BASE, 0, lk->held, err);
    if (ret == 0) {
        ret = lock_co_move(to, LOCK_SHARED_BASE, 0, lk->unshared, err);
    }
    return ret;
}

void file_lock_co_drop(const struct file_lock *lk, struct io_file *from)
{
    if (lk->mode != FILE_LOCKING_OFF) {
        (void)lock_co_move(from, LOCK_PERM_BASE, lk->held, 0, NULL);
        (void)lock_co_move(from, LOCK_SHARED_BASE, lk->unshared, 0, NULL);
    }
}
