/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The inside of files.  Private to loop/. */
#pragma once
#include "loop/co.h"
#include "loop/engine.h"

struct io_file {
    int fd; /* of the system, or of the sim engine */
    bool direct;
    uint32_t alignment;
    /* One sync runs at a time; whoever comes meanwhile shares the next. */
    uint64_t syncs_started, syncs_done;
    bool sync_running;
    bool sync_full;   /* somebody who waits wants fsync */
    bool sync_failed; /* for ever: the pages may be gone */
    struct co_queue sync_waiters;
};
