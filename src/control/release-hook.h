/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command that is run when a disk has let go of its base. */
#pragma once
#include <jansson.h>

/* Run @command by the shell, with what event BLOCK_BASE_RELEASED says in its
 * environment: SLUICE_DEVICE, SLUICE_NODE, SLUICE_BASE. Waits for nothing; what
 * fails is told on stderr. */
void release_hook_run(const char *command, const json_t *data);
