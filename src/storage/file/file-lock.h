/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Image locks: what this process does with an image file, told to others.
 *
 * The protocol is the one of QEMU's tools, byte for byte, so that each sees
 * the other.  Permission i (bit i of enum perm) has two bytes of the file:
 *
 *   100 + i   read-locked while the permission is used
 *   200 + i   read-locked while the permission is not shared with others
 *
 * Locks are of the open file description.  A change of permissions first adds
 * locks, then looks whether anybody holds the opposite byte, and only then
 * drops what is no longer needed: two processes that come at the same moment
 * may both be refused, but never both be let in.
 */
#pragma once
#include <glib.h>
#include <stdbool.h>
#include "base/annot.h"

struct io_file;

enum file_locking { FILE_LOCKING_OFF, FILE_LOCKING_ON, FILE_LOCKING_AUTO };

struct file_lock {
    enum file_locking mode;
    unsigned held;     /* bits of enum perm locked at 100 + i */
    unsigned unshared; /* bits of enum perm locked at 200 + i */
};

void file_lock_init(struct file_lock *lk, enum file_locking mode);

/* Lock @f for @perm and @shared (enum perm); @path is for messages. On failure
 * the locks are as they were. -EAGAIN: somebody else's use is in the way. With
 * FILE_LOCKING_AUTO a file system without locks is no error. */
CO_FN int file_lock_co_set(struct file_lock *lk, struct io_file *f,
                           const char *path, unsigned perm, unsigned shared,
                           GError **err);

/* Take on @to, a second description of the same file, what @lk holds. */
CO_FN int file_lock_co_copy(struct file_lock *lk, struct io_file *to,
                            GError **err);
/* Let go on @from, which is put aside, of what @lk holds on another one. */
CO_FN void file_lock_co_drop(const struct file_lock *lk, struct io_file *from);
