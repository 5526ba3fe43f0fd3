/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control plane on the simulated machine, where a QED overlay
 * /d/top.qed, its base /d/base.raw, a device "v" of them and a node "n" are. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct control;

/* Run @fn(control, @arg) as a coroutine; then stop everything. */
void control_rig_run(void (*fn)(struct control *c, void *arg), void *arg);
/* Start with @journal as the job journal; where that is accepted, a second
 * start has to accept what the first has left. */
void control_rig_restart(const void *journal, size_t len);
