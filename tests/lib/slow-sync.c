/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A disk whose fdatasync takes SLOW_SYNC_MS milliseconds, for LD_PRELOAD.
 *
 * It reaches what goes through libc: the threads engine, not io_uring.
 */
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sys/syscall.h>

static void wait_for_disk(void)
{
    const char *text = getenv("SLOW_SYNC_MS");
    long ms = text ? atol(text) : 0;
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

    nanosleep(&ts, NULL);
}

int fdatasync(int fd)
{
    wait_for_disk();
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    wait_for_disk();
    return (int)syscall(SYS_fsync, fd);
}
