/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What keeps a job from being faster. */
#pragma once

enum job_bottleneck {
    JOB_HELD_BY_SOURCE, /* what it reads */
    JOB_HELD_BY_TARGET, /* what it writes */
    JOB_HELD_BY_GUEST,  /* the latency of guests' requests */
    JOB_HELD_BY_LIMIT,  /* `speed` */
    JOB_BOTTLENECKS
};
