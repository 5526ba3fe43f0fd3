/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands that stop and start the guest. */
#pragma once
#include <stdbool.h>

struct migration;

/* --stop-command, on this host; nothing without one. Once: a second call does
 * nothing. False: it failed, told. */
bool hook_run_stop(struct migration *m);
/* Tell the address @uri on stdout, then --start-command, which has it in
 * SLUICE_URI. */
bool hook_run_start(struct migration *m, const char *uri);
