/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Descriptors that were handed to the process, in numbered sets: io_co_open() and
 * io_co_stat() take "/dev/fdset/N" for a file of set N.  One table for the
 * process, under a lock of its own; any thread.
 *
 * What is opened is the file anew, with a description of its own, where the
 * process may do that; else a copy of the descriptor, whose locks and flags all
 * copies share.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#define FDSET_PREFIX "/dev/fdset/"

/* Put @fd, which is taken over, into set @id, or, negative, into a new one.
 * @opaque (or NULL) is copied. Returns the id of the set. */
int64_t fdset_add(int64_t id, int fd, const char *opaque);
/* Close @fd of set @id, or, negative, all of its. -ENOENT. What was opened from it
 * stays open. */
int fdset_remove(int64_t id, int fd);
/* By set, in order of their ids. @fn must not call back. */
void fdset_foreach(void (*fn)(int64_t id, int fd, const char *opaque,
                              void *arg),
                   void *arg);
/* Does @path begin like the name of a set? */
bool fdset_is_name(const char *path);
/* A descriptor for @path, open(2) @flags: -ENOENT when there is no such set,
 * -EACCES when none of its descriptors is open in that way. */
int fdset_open(const char *path, int flags);
int fdset_stat(const char *path, struct stat *ret_st);
